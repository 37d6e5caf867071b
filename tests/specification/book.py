"""Traces of a run, written by hand."""

from collections.abc import Sequence
from typing import Any

from vsync.testing.history import History
from vsync.testing.properties import Findings, check
from vsync.trace import Session

Line = dict[str, Any]


class Book:
    """Writes the traces of a run by hand, node by node, in one list."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.now: dict[int, Line] = {}
        self.lives: dict[int, int] = {}
        self.sent: dict[str, Line] = {}
        self.tables: dict[int, dict[str, set[Session]]] = {}

    def write(self, node: int, event: str, **fields: Any) -> Line:
        life = f"life{self.lives.setdefault(node, 1)}"
        line = {"t": len(self.lines), "node": node, "life": life, "event": event, **fields}
        self.lines.append(line)
        return line

    def regular(self, id: str, *members: int) -> None:
        """All members deliver a regular configuration."""
        for node in members:
            before = set(self.now[node]["members"]) if node in self.now else set()
            self.configure(
                node, id=id, kind="regular", members=members, joined=sorted({*members} - before)
            )

    def transitional(self, old: str, new: str, *members: int) -> None:
        """All members go from *old* towards *new* together."""
        for node in members:
            left = sorted({*self.now[node]["members"]} - {*members})
            self.configure(
                node,
                id=f"{old}>{new}",
                kind="transitional",
                members=members,
                left=left,
                next=new,
            )

    def configure(self, node: int, **fields: Any) -> None:
        fields = {"joined": [], "left": [], **fields, "members": list(fields["members"])}
        self.now[node] = self.write(node, "configuration", **fields)

    def view(
        self,
        *nodes: int,
        group: str = "aa",
        joined: Sequence[Session] = (),
        left: Sequence[Session] = (),
        causes: str = "",
        closed: bool = False,
    ) -> None:
        """Each of *nodes* tells of a change of a group; *causes* with a bar between them."""
        for node in nodes:
            table = self.tables.setdefault(node, {})
            members = (table.get(group, set()) | {*joined}) - {*left}
            table[group] = members
            self.write(
                node,
                "group",
                group=group,
                members=sorted(members),
                joined=list(joined),
                left=list(left),
                causes=causes.split("|"),
                closed=closed,
                configuration=self.now[node]["id"],
            )

    def send(
        self, node: int, message: str, guarantee: str = "agreed", priority: str = "medium"
    ) -> None:
        contents = {"groups": ["aa"], "guarantee": guarantee, "size": 3, "digest": "0" * 16}
        self.write(node, "send", message=message, priority=priority, **contents)
        self.sent[message] = {"sender": node, **contents}

    def deliver(self, messages: str, *nodes: int) -> None:
        """Each of *nodes* delivers each message of a list in words."""
        for node in nodes:
            for message in messages.split():
                where = self.now[node]["id"]
                fields = self.sent[message]
                self.write(node, "deliver", message=message, configuration=where, **fields)

    def findings(self, *, quiet: bool = False) -> Findings:
        return check(History.from_lines(self.lines), quiet=quiet)

    def where(self, node: int, event: str, **fields: Any) -> int:
        """Place in ``lines`` of the one such event."""
        (place,) = (
            place
            for place, line in enumerate(self.lines)
            if line["node"] == node
            and line["event"] == event
            and all(line[name] == value for name, value in fields.items())
        )
        return place

    def delivery(self, node: int, message: str) -> int:
        return self.where(node, "deliver", message=message)

    def move(self, source: int, target: int) -> None:
        """Let the line at *source* happen where that at *target* does now."""
        line = self.lines.pop(source)
        self.lines.insert(target, line)
        self.number()

    def number(self) -> None:
        for t, line in enumerate(self.lines):
            line["t"] = t


def numbers(findings: Findings) -> set[str]:
    """The numbers of the properties that were broken."""
    return {violation.property for violation in findings.violations}

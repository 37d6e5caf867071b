"""Reading a trace while a node writes it: what one life of a node delivered, as far as shown."""

import json
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from vsync_cli.render import describe_configuration

CONFIGURATIONS_KEPT: Final = 50
MESSAGES_KEPT: Final = 200
IN_TOTAL_ORDER: Final = ("agreed", "safe")


class Shown(NamedTuple):
    """One delivered message. *number* counts agreed and safe ones within a configuration.

    A configuration among the messages, at its place, has its id as *message* and no *sender*.
    """

    number: int | None
    message: str
    sender: int | None
    guarantee: str


@dataclass(slots=True)
class Follower:
    """What the trace of one life says, up to where it was read."""

    path: Path
    configuration: dict[str, Any] | None = None
    """The last ``configuration`` line."""

    configurations: deque[dict[str, Any]] = field(
        default_factory=lambda: deque(maxlen=CONFIGURATIONS_KEPT)
    )
    messages: deque[Shown] = field(default_factory=lambda: deque(maxlen=MESSAGES_KEPT))
    delivered: int = 0
    sent: int = 0
    _numbered: int = 0
    _offset: int = 0
    _rest: bytes = b""

    def read(self) -> list[dict[str, Any]]:
        """Read what is new and give its lines. A line that is not whole yet waits."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines = [json.loads(line) for line in whole if line]
        for line in lines:
            self._take(line)
        return lines

    def _take(self, line: dict[str, Any]) -> None:
        match line["event"]:
            case "configuration":
                self.configuration = line
                self.configurations.append(line)
                self.messages.append(Shown(None, line["id"], None, line["kind"]))
                if line["kind"] == "regular":
                    self._numbered = 0
            case "deliver":
                number = None
                if line["guarantee"] in IN_TOTAL_ORDER:
                    self._numbered += 1
                    number = self._numbered
                self.delivered += 1
                self.messages.append(
                    Shown(number, line["message"], line["sender"], line["guarantee"])
                )
            case "send":
                self.sent += 1

    @property
    def regular_members(self) -> tuple[int, ...]:
        """The members of the configuration, if it is a regular one; else nobody."""
        if self.configuration is None or self.configuration["kind"] != "regular":
            return ()
        return tuple(self.configuration["members"])


def configuration_text(line: dict[str, Any]) -> str:
    """A ``configuration`` line of a trace, for people."""
    return describe_configuration(
        line["id"], line["kind"], line["members"], line["joined"], line["left"]
    )

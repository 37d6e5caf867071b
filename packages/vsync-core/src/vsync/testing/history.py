"""What every process went through: the lines of one run's traces, sorted and indexed once.

The words are those of the model behind the properties: a *process* is one life of one node. It
delivers configurations; what it does between two of them is a *span*. Its *stay* in a regular
configuration c is the span of c and that of the transitional configuration after it, where what is
left of c is delivered (the paper's com_p(c)). The *home* of a message is the regular configuration
in whose stay it is delivered.
"""

import os
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Self

from vsync.trace import (
    GUARANTEES,
    Configured,
    Delivered,
    GroupChanged,
    Sent,
    Stopped,
    TraceLine,
    parse_line,
    read_trace,
)

RANKS: Final = {word: rank for rank, word in enumerate(GUARANTEES)}
UNORDERED, FIFO, AGREED, SAFE = range(4)

OTHER, SEND, DELIVER, CONFIGURE = range(4)
"""What an event is to the checks: everything else is ``OTHER``."""


class Message:
    """One message id: who sent it, and where it was delivered."""

    __slots__ = ("deliveries", "home", "id", "index", "priority", "rank", "sender", "sends", "turn")

    def __init__(self, index: int, id: str) -> None:
        self.index = index
        self.id = id
        self.sends: list[tuple[Process, int]] = []
        """Process and event; a correct run has one, if the sender's trace is there."""
        self.deliveries: list[tuple[Process, int, Stay | None]] = []
        """Process, event, and the stay in which it lies."""
        self.home: str | None = None
        """Id of the regular configuration in which it was delivered, where it was first seen."""
        self.rank = UNORDERED
        self.priority = ""
        self.sender = 0
        self.turn = -1
        """Its place among everything its sender sent; -1 if nobody was seen sending it."""

    def __str__(self) -> str:
        return self.id


class Span:
    """What one process did between delivering one configuration and the next."""

    __slots__ = ("configuration", "event", "events", "messages", "ordinal", "stay", "views")

    def __init__(
        self, configuration: Configured, event: int, ordinal: int, stay: "Stay | None"
    ) -> None:
        self.configuration = configuration
        self.event = event
        """Which event of its process began it."""
        self.ordinal = ordinal
        self.stay = stay
        """``None`` only if a life began with a transitional configuration, which is wrong."""
        self.messages: list[int] = []
        """Indexes of the messages delivered in it, in order."""
        self.events: list[int] = []
        """For each of them, which event of the process it was."""
        self.views: list[int] = []
        """Which events of the process were group views in it, in order."""

    @property
    def regular(self) -> bool:
        return self.configuration.kind == "regular"


class Stay:
    """One process in one regular configuration and in the transitional one after it."""

    __slots__ = ("delivered", "following", "process", "span", "transitional")

    def __init__(self, process: "Process") -> None:
        self.process = process
        self.span: Span
        self.transitional: Span | None = None
        self.following: Span | None = None
        """The next regular configuration; ``None``: the trace ends in this stay."""
        self.delivered: set[int] = set()

    @property
    def id(self) -> str:
        return self.span.configuration.id

    def messages(self) -> list[int]:
        """Everything delivered in the stay, in order."""
        if self.transitional is None or not self.transitional.messages:
            return self.span.messages
        return self.span.messages + self.transitional.messages


class Process:
    """One life of one node: its events in order."""

    __slots__ = (
        "delivered",
        "index",
        "kinds",
        "life",
        "lines",
        "node",
        "places",
        "references",
        "sends",
        "spans",
        "stays",
        "stopped",
    )

    def __init__(self, index: int, node: int, life: str) -> None:
        self.index = index
        self.node = node
        self.life = life
        self.lines: list[TraceLine] = []
        self.places: list[int] = []
        """For each event, the number of its line in the whole history, from 0."""
        self.kinds = bytearray()
        """For each event: OTHER, SEND, DELIVER or CONFIGURE."""
        self.references: list[int] = []
        """For each event: the index of its message, or the ordinal of its span."""
        self.sends: list[tuple[int, int]] = []
        """Event and message of everything accepted here."""
        self.delivered: dict[int, int] = {}
        """Message to the event in which it was first delivered here."""
        self.spans: list[Span] = []
        self.stays: list[Stay] = []
        self.stopped = False

    def __str__(self) -> str:
        return f"node {self.node} (life {self.life})"


class History:
    """All that is known of a run. Build it with ``from_lines`` or ``from_files``.

    *running*: the lives, as (node, life), that were alive when the run ended. It matters only to
    the properties that need a quiet end. A trace cannot tell a life that was killed from one that
    went on: without *running*, a life counts as running if it wrote no ``stop``, has no later life
    of its node, and none of those who were in its last configuration went on without it.
    So a life that was killed while it was alone, and never restarted, is taken to run: whoever
    kills nodes should say which are left.
    """

    def __init__(self, *, running: Collection[tuple[int, str]] | None = None) -> None:
        self.processes: list[Process] = []
        self.messages: list[Message] = []
        self.stays: dict[str, list[Stay]] = {}
        """Regular configuration id to the stays in it."""
        self.configurations: dict[str, Configured] = {}
        """Id to the first line that told of it."""
        self.lines = 0
        self.deliveries = 0
        self._running = running
        self._by_key: dict[tuple[int, str], Process] = {}
        self._by_id: dict[str, Message] = {}
        self._by_node: dict[int, list[Process]] = {}
        self._files: list[tuple[int, str]] = []

    @classmethod
    def from_lines(
        cls,
        lines: Iterable[TraceLine | Mapping[str, object]],
        *,
        running: Collection[tuple[int, str]] | None = None,
    ) -> Self:
        """Take lines as they are read or made; each life's in its own order, lives in any.

        A line may be a mapping with the fields of its JSON object; ``TraceFailed`` if it is wrong.
        """
        history = cls(running=running)
        history._add(lines)
        return history

    @classmethod
    def from_files(
        cls,
        paths: Iterable[str | os.PathLike[str]],
        *,
        running: Collection[tuple[int, str]] | None = None,
    ) -> Self:
        """Read traces: of one node or several, of one life or several each. ``TraceFailed``."""
        history = cls(running=running)
        for path in paths:
            history._files.append((history.lines, os.fspath(path)))
            history._add(read_trace(path))
        return history

    def place(self, line: int) -> str:
        """Where line number *line* of the history stands: its file and line, if it has one."""
        file = bisect_right(self._files, line, key=lambda entry: entry[0]) - 1
        if file < 0:
            return f"line {line + 1}"
        first, path = self._files[file]
        return f"{path}:{line - first + 1}"

    def lives(self, node: int) -> list[Process]:
        """The lives of *node*, in the order of their lines; none if its trace is not here."""
        return self._by_node.get(node, [])

    def stay_of(self, node: int, configuration: str) -> Stay | None:
        """The stay of *node* in a regular configuration, or ``None`` if it never delivered it."""
        for stay in self.stays.get(configuration, ()):
            if stay.process.node == node:
                return stay
        return None

    def running(self) -> list[Process]:
        """The processes that were alive when the run ended; see the class."""
        if self._running is not None:
            return [p for p in self.processes if (p.node, p.life) in self._running]
        latest = [max(lives, key=lambda p: p.lines[0].t) for lives in self._by_node.values()]
        last = {p.node: p.spans[-1].configuration for p in latest if p.spans}

        def left_behind(process: Process) -> bool:
            return any(
                other in last and process.node not in last[other].members
                for other in last[process.node].members
            )

        return [p for p in latest if not p.stopped and p.spans and not left_behind(p)]

    def _add(self, lines: Iterable[TraceLine | Mapping[str, object]]) -> None:
        by_key = self._by_key
        by_id = self._by_id
        messages = self.messages
        number = self.lines
        for number, entry in enumerate(lines, start=self.lines):
            line: TraceLine = parse_line(entry) if isinstance(entry, Mapping) else entry
            key = (line.node, line.life)
            process = by_key.get(key)
            if process is None:
                process = by_key[key] = Process(len(self.processes), line.node, line.life)
                self.processes.append(process)
                self._by_node.setdefault(line.node, []).append(process)
            event = len(process.lines)
            process.lines.append(line)
            process.places.append(number)
            if isinstance(line, Delivered | Sent):
                message = by_id.get(line.message)
                if message is None:
                    message = by_id[line.message] = Message(len(messages), line.message)
                    messages.append(message)
                index = message.index
                process.references.append(index)
                if isinstance(line, Delivered):
                    process.kinds.append(DELIVER)
                    self._deliver(process, event, message, line)
                else:
                    process.kinds.append(SEND)
                    if not message.sends:
                        message.rank = RANKS[line.guarantee]
                        message.priority = line.priority
                        message.sender = line.node
                        message.turn = len(process.sends)
                    message.sends.append((process, event))
                    process.sends.append((event, index))
            elif isinstance(line, Configured):
                process.kinds.append(CONFIGURE)
                process.references.append(len(process.spans))
                self._configure(process, event, line)
            else:
                process.kinds.append(OTHER)
                process.references.append(0)
                process.stopped = process.stopped or isinstance(line, Stopped)
                if isinstance(line, GroupChanged) and process.spans:
                    process.spans[-1].views.append(event)
            self.lines = number + 1

    def _deliver(self, process: Process, event: int, message: Message, line: Delivered) -> None:
        self.deliveries += 1
        stay = process.spans[-1].stay if process.spans else None
        message.deliveries.append((process, event, stay))
        if not message.sends:  # until the send line comes, or for good if it never does
            message.rank = RANKS[line.guarantee]
            message.sender = line.sender
        process.delivered.setdefault(message.index, event)
        if process.spans:
            span = process.spans[-1]
            span.messages.append(message.index)
            span.events.append(event)
            if stay is not None:
                stay.delivered.add(message.index)
                if message.home is None:
                    message.home = stay.id

    def _configure(self, process: Process, event: int, line: Configured) -> None:
        self.configurations.setdefault(line.id, line)
        stay = process.stays[-1] if process.stays else None
        if line.kind == "regular":
            after = stay
            stay = Stay(process)
            process.stays.append(stay)
            self.stays.setdefault(line.id, []).append(stay)
            span = Span(line, event, len(process.spans), stay)
            stay.span = span
            if after is not None:
                after.following = span
        else:
            span = Span(line, event, len(process.spans), stay)
            if stay is not None and stay.transitional is None:
                stay.transitional = span
        process.spans.append(span)

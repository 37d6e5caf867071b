"""Reading a trace while a node writes it: the configurations in full, the rest as counts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = dict[str, Any]

CHUNK_BYTES = 1 << 20


@dataclass(slots=True)
class Following:
    """What a trace says so far; ``read`` takes in what is new. Times are those of the trace."""

    path: Path
    started_ns: int = 0
    """When the latest life began."""

    life: str = ""
    configurations: list[Line] = field(default_factory=list)
    """All of all lives, in order."""

    sent: int = 0
    delivered: int = 0
    stopped: bool = False
    """Whether the latest life ended on purpose."""

    _offset: int = 0

    def read(self) -> None:
        """Take in the whole lines that were added; one that is being written waits."""
        for raw in self._new_lines():
            # Deliveries are nearly all of a trace, and their number is all we want.
            if b'"event":"deliver"' in raw:
                self.delivered += 1
            elif b'"event":"send"' in raw:
                self.sent += 1
            else:
                self._take(json.loads(raw))

    def _new_lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                rest = b""
                while chunk := file.read(CHUNK_BYTES):
                    *whole, rest = (rest + chunk).split(b"\n")
                    for line in whole:
                        # Only past whole lines: a restarted node cuts off what is none.
                        self._offset += len(line) + 1
                        yield line
        except FileNotFoundError:
            return

    def _take(self, line: Line) -> None:
        match line["event"]:
            case "start":
                self.started_ns, self.life, self.stopped = line["t"], line["life"], False
            case "configuration":
                self.configurations.append(line)
            case "stop":
                self.stopped = True

    @property
    def members(self) -> list[int]:
        """Of the last configuration, if that is a regular one of the latest life; else empty."""
        last = self.last
        return list(last["members"]) if last is not None and last["kind"] == "regular" else []

    @property
    def last(self) -> Line | None:
        """The last configuration of the latest life."""
        if not self.configurations or self.configurations[-1]["life"] != self.life:
            return None
        return self.configurations[-1]

"""Runs: messages on their way to the application, as many at a time as are alike."""

from collections.abc import Sequence
from typing import Any, Final

from vsync.copying import Content
from vsync.engine.alike import numbered, read_alike
from vsync.events import Delivery, Envelope

KEPT_BYTES: Final = 200
"""A frame is kept for its messages only if that takes no more than so much for each of them,
besides the payloads."""


class Run:
    """Messages that stand one behind another in the order and have one envelope.

    Most often all of a frame: who takes them need not look at each. They stay as they came until
    somebody asks for deliveries: in the *frame*, one behind the other from *start* on, each with
    a head of *head_bytes* and so of one of the *lengths*; or as *payloads*, which have no heads.
    Nothing of a run changes.
    """

    __slots__ = (
        "counter",
        "envelope",
        "frame",
        "head_bytes",
        "lengths",
        "payload_bytes",
        "payloads",
        "start",
    )

    def __init__(self, envelope: Envelope, counter: int, payloads: Sequence[bytes]) -> None:
        self.envelope = envelope
        self.counter = counter
        """Of the first; the others' follow."""
        self.payloads: Sequence[bytes] | None = payloads
        self.lengths: Sequence[int] = list(map(len, payloads))
        self.payload_bytes = sum(self.lengths)
        self.head_bytes = 0
        self.frame: Content = b""
        self.start = 0

    @classmethod
    def in_frame(
        cls,
        envelope: Envelope,
        counter: int,
        frame: Content,
        start: int,
        head_bytes: int,
        lengths: Sequence[int],
    ) -> "Run":
        """Messages that all have a head of *head_bytes*, and end within *frame*.

        Where most of the frame is something else, it is not kept for them.
        """
        messages = len(lengths)
        payload_bytes = sum(lengths) - head_bytes * messages
        run = cls(envelope, counter, ())
        run.payload_bytes = payload_bytes
        run.payloads = None
        run.frame = frame
        run.start = start
        run.head_bytes = head_bytes
        run.lengths = lengths
        if len(frame) > payload_bytes + KEPT_BYTES * messages:
            return cls(envelope, counter, [payload for _, _, payload in run.deliveries])
        return run

    def __reduce__(self) -> tuple[Any, ...]:
        kind = type(self)
        if self.payloads is not None:
            return kind, (self.envelope, self.counter, self.payloads)
        # A content that stands in its packets is put together: only bytes can be pickled.
        place = (bytes(self.frame), self.start, self.head_bytes, self.lengths)
        return kind.in_frame, (self.envelope, self.counter, *place)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def deliveries(self) -> list[Delivery]:
        """Its messages one by one, made anew each time."""
        if self.payloads is not None:
            return numbered(self.envelope, self.counter, self.payloads)
        return read_alike(
            self.envelope, self.counter, self.frame, self.start, self.head_bytes, self.lengths
        )

    @property
    def content(self) -> bytes | memoryview:
        """Its messages one behind the other, each of its length and with its head, if any."""
        if self.payloads is not None:
            return b"".join(self.payloads)
        size = self.payload_bytes + self.head_bytes * len(self.lengths)
        return memoryview(self.frame)[self.start : self.start + size]

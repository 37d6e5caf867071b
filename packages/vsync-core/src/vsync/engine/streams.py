"""Streams: out of one sender's frames of one lane (a priority, or control), its messages.

A stream puts cut messages together again, and knows which ones may be delivered early: an
unordered message as soon as all its frames are here, a FIFO one once all earlier frames of its
stream are done. Agreed and safe frames wait for the ring's order; see ``log``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from vsync.errors import MalformedPacket
from vsync.events import Delivery
from vsync.vocabulary import (
    Configuration,
    GroupKey,
    Guarantee,
    MessageId,
    NodeId,
)
from vsync.wire.data import (
    GUARANTEES,
    PRIORITIES,
    Data,
    head_bytes,
    parse_message_head,
)
from vsync.wire.group import CONTROL_BYTES_MAX, ControlMessage, parse_control

GROUPS_KNOWN_MAX = 4096
"""Group lists remembered so that each is parsed once; forgotten all at once beyond this."""


class Control(NamedTuple):
    """A control message, at its place in the order."""

    sender: NodeId
    message: ControlMessage


Ordered: TypeAlias = Delivery | Control


class Reader:
    """Turns message bytes into deliveries, and counts what cannot be one."""

    def __init__(self, message_bytes_max: int) -> None:
        self.bytes_max = message_bytes_max
        self.malformed = 0
        self._heads: dict[bytes, tuple[int, tuple[GroupKey, ...], int]] = {}

    def delivery(
        self, frame: Data, counter: int, message: bytes | memoryview, configuration: Configuration
    ) -> Ordered | None:
        """The delivery of *message*; None if its bytes make no sense (alike at every node)."""
        head = head_bytes(message)
        known = self._heads.get(head)
        if known is None:
            try:
                known = parse_message_head(message)
            except MalformedPacket:
                self.malformed += 1
                return None
            if len(self._heads) >= GROUPS_KNOWN_MAX:
                self._heads.clear()
            self._heads[head] = known
        session, groups, payload_from = known
        return Delivery(
            MessageId(frame.sender, frame.life, PRIORITIES[frame.lane], counter),
            groups,
            bytes(message[payload_from:]),
            GUARANTEES[frame.guarantee],
            configuration,
            session,
        )


class ControlReader(Reader):
    """The same for control messages. *news*: some were read and not yet looked at."""

    def __init__(self) -> None:
        super().__init__(CONTROL_BYTES_MAX)
        self.news = False

    def delivery(
        self, frame: Data, counter: int, message: bytes | memoryview, configuration: Configuration
    ) -> Ordered | None:
        """The control message; None if its bytes make no sense (alike at every node)."""
        try:
            control = parse_control(message)
        except MalformedPacket:
            self.malformed += 1
            return None
        self.news = True
        return Control(frame.sender, control)


def pieces_of(frame: Data) -> Iterator[tuple[int, memoryview]]:
    """The pieces of *frame*, each with the counter of its message."""
    view = memoryview(frame.packet)
    start = frame.first_byte
    counter = frame.counter
    for length in frame.lengths:
        yield counter, view[start : start + length]
        start += length
        counter += 1


@dataclass(slots=True)
class Fragments:
    """The frames of one cut unordered message, as far as they are here."""

    first: int | None = None
    last: int | None = None
    frames: dict[int, memoryview] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Every frame from the first to the last is here."""
        return (
            self.first is not None
            and self.last is not None
            and len(self.frames) == self.last - self.first + 1
        )


@dataclass(slots=True)
class Stream:
    """What is known of one sender's frames of one lane on one ring."""

    reader: Reader
    next_index: int = 0  #: the first frame that is not done
    waiting: dict[int, Data] = field(default_factory=dict)  #: unordered and FIFO, not done
    begun: list[memoryview] = field(default_factory=list)  #: of a cut message of FIFO or above
    begun_bytes: int = 0
    begun_counter: int = -1
    cut: dict[int, Fragments] = field(default_factory=dict)  #: unordered ones, by counter

    def arrived(self, frame: Data, configuration: Configuration, out: list[Ordered]) -> None:
        """Take in a frame that may be delivered early; put what is ripe on *out*."""
        if frame.index >= self.next_index:
            self.waiting[frame.index] = frame
        if frame.guarantee == Guarantee.UNORDERED:
            self._unordered(frame, configuration, out)
        self.advance(configuration, out)

    def advance(self, configuration: Configuration, out: list[Ordered]) -> None:
        """Deliver the FIFO messages that now have nothing of their stream before them."""
        while (frame := self.waiting.pop(self.next_index, None)) is not None:
            self.next_index += 1
            if frame.guarantee != Guarantee.UNORDERED:
                self._in_order(frame, configuration, out)

    def ordered(self, frame: Data, configuration: Configuration, out: list[Ordered]) -> None:
        """The ring's order has come to this agreed or safe frame."""
        self._in_order(frame, configuration, out)
        self.next_index = frame.index + 1
        if self.waiting:
            self.advance(configuration, out)

    def _in_order(self, frame: Data, configuration: Configuration, out: list[Ordered]) -> None:
        reader = self.reader
        pieces = len(frame.lengths)
        for position, (counter, piece) in enumerate(pieces_of(frame)):
            first = position == 0 and frame.continues
            last = position == pieces - 1 and frame.unfinished
            if not first and not last:
                message: bytes | memoryview = piece
            else:
                if not first:
                    self._begin(counter)
                elif self.begun_counter != counter:
                    continue  # its beginning is lost, and so is it, for all alike
                self.begun_bytes += len(piece)
                if self.begun_bytes <= reader.bytes_max:
                    self.begun.append(piece)
                if last:
                    continue
                message = b"".join(self.begun)
                too_large = self.begun_bytes > reader.bytes_max
                self._begin(-1)
                if too_large:
                    reader.malformed += 1
                    continue
            delivery = reader.delivery(frame, counter, message, configuration)
            if delivery is not None:
                out.append(delivery)

    def _begin(self, counter: int) -> None:
        self.begun = []
        self.begun_bytes = 0
        self.begun_counter = counter

    def _unordered(self, frame: Data, configuration: Configuration, out: list[Ordered]) -> None:
        pieces = len(frame.lengths)
        for position, (counter, piece) in enumerate(pieces_of(frame)):
            first = position == 0 and frame.continues
            last = position == pieces - 1 and frame.unfinished
            message: bytes | memoryview | None = piece
            if first or last:
                message = self._fragment(frame, counter, piece, first=first, last=last)
            if message is not None:
                delivery = self.reader.delivery(frame, counter, message, configuration)
                if delivery is not None:
                    out.append(delivery)

    def _fragment(
        self, frame: Data, counter: int, piece: memoryview, *, first: bool, last: bool
    ) -> bytes | None:
        """Keep a piece of a cut message; the whole message if it is the last one missing."""
        fragments = self.cut.setdefault(counter, Fragments())
        fragments.frames[frame.index] = piece
        if not first:
            fragments.first = frame.index
        if not last:
            fragments.last = frame.index
        if not fragments.complete:
            return None
        del self.cut[counter]
        message = b"".join(fragments.frames[index] for index in sorted(fragments.frames))
        if len(message) > self.reader.bytes_max:
            self.reader.malformed += 1
            return None
        return message


def stream_key(sender: int, lane: int) -> int:
    """One number for a sender and a lane: a priority, or ``CONTROL_LANE``."""
    return sender << 3 | lane

"""Streams: out of one sender's frames of one lane (a priority, or control), its messages.

A stream puts cut messages together again, and knows which ones may be delivered early: an
unordered message as soon as all its frames are here, a FIFO one once all earlier frames of its
stream are done. Agreed and safe frames wait for the ring's order; see ``log``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count
from typing import Final, NamedTuple, TypeAlias

from vsync.copying import Content, joined, view_of
from vsync.engine.alike import begin_alike
from vsync.engine.runs import Run
from vsync.errors import MalformedPacket
from vsync.events import Envelope
from vsync.vocabulary import (
    GROUP_KEY_BYTES,
    Configuration,
    GroupKey,
    Guarantee,
    NodeId,
)
from vsync.wire.data import (
    GUARANTEES,
    HEAD_BYTES_MIN,
    PRIORITIES,
    Data,
    Own,
    parse_message_head,
)
from vsync.wire.group import CONTROL_BYTES_MAX, ControlMessage, parse_control

GROUPS_KNOWN_MAX = 4096
"""Group lists remembered so that each is parsed once; forgotten all at once beyond this."""

ENVELOPES_MAX = 4096
"""Envelopes remembered, likewise."""

PIECE_BYTES: Final = 4096
"""A shorter piece of a cut message is copied: what it stands in may take many times as much."""


class Control(NamedTuple):
    """A control message, at its place in the order."""

    sender: NodeId
    message: ControlMessage


Ordered: TypeAlias = Run | Control


class Reader:
    """Turns message bytes into runs of messages, and counts what cannot be one."""

    def __init__(self, message_bytes_max: int) -> None:
        self.bytes_max = message_bytes_max
        self.malformed = 0
        self._heads: dict[bytes, tuple[int, tuple[GroupKey, ...]]] = {}
        self._envelopes: dict[tuple[bytes, int, int, int, int], Envelope] = {}
        self._configuration: Configuration | None = None
        """The one that all those envelopes belong to."""

    def read(
        self, frame: Data, counter: int, message: bytes | memoryview, configuration: Configuration
    ) -> Ordered | None:
        """The run of *message* alone; None if its bytes make no sense (alike at every node)."""
        out: list[Ordered] = []
        self.read_whole(frame, counter, message, 0, (len(message),), configuration, out)
        return out[0] if out else None

    def read_own(self, frame: Data, own: Own, configuration: Configuration) -> list[Ordered]:
        """What a frame that this node made brings: the messages that end in it."""
        out: list[Ordered] = []
        counter = frame.counter
        for head, payloads in own:
            envelope = self._envelope(frame, head, configuration)
            assert envelope is not None  # it was made here
            out.append(Run(envelope, counter, payloads))
            counter += len(payloads)
        return out

    def read_pieces(
        self,
        frame: Data,
        counter: int,
        pieces: Sequence[Content],
        configuration: Configuration,
    ) -> Ordered | None:
        """As ``read``, for a message in pieces; its payload is copied once."""
        first = pieces[0]
        begin = HEAD_BYTES_MIN + first[0] * GROUP_KEY_BYTES
        if begin > len(first):
            return self.read(frame, counter, joined(pieces), configuration)
        envelope = self._envelope(frame, bytes(first[:begin]), configuration)
        if envelope is None:
            self.malformed += 1
            return None
        payload = joined([first[begin:], *pieces[1:]])
        return Run(envelope, counter, [payload])

    def read_whole(
        self,
        frame: Data,
        counter: int,
        content: Content,
        start: int,
        lengths: Sequence[int],
        configuration: Configuration,
        out: list[Ordered],
    ) -> None:
        """Put on *out* the runs of whole messages that stand one after another in *content*.

        Done for all messages of a frame at a time, since this is where most of a node's work is.
        """
        if isinstance(content, memoryview):  # of a short frame
            content = bytes(content)
        head = bytes(content[start : start + HEAD_BYTES_MIN + content[start] * GROUP_KEY_BYTES])
        # Most often all messages of a frame have one head.
        envelope = self._envelope(frame, head, configuration)
        if envelope is not None and begin_alike(content, start, head, lengths):
            out.append(Run.in_frame(envelope, counter, content, start, len(head), lengths))
            return
        starts = list(accumulate(lengths[:-1], initial=start))
        self._read_each(frame, counter, bytes(content), starts, lengths, configuration, out)

    def _read_each(
        self,
        frame: Data,
        counter: int,
        packet: bytes,
        starts: Sequence[int],
        lengths: Sequence[int],
        configuration: Configuration,
        out: list[Ordered],
    ) -> None:
        """As ``read_whole``, for messages that differ in their heads, or make no sense."""
        before: Envelope | None = None
        alike: list[bytes] = []
        first = counter
        for number, start, length in zip(count(counter), starts, lengths, strict=False):
            begin = start + HEAD_BYTES_MIN + packet[start] * GROUP_KEY_BYTES
            end = start + length
            envelope = None
            if begin <= end:
                envelope = self._envelope(frame, packet[start:begin], configuration)
            if envelope is None:
                self.malformed += 1
            if envelope is not before:
                if before is not None:
                    out.append(Run(before, first, alike))
                before, alike, first = envelope, [], number
            if envelope is not None:
                alike.append(packet[begin:end])
        if before is not None:
            out.append(Run(before, first, alike))

    def _envelope(self, frame: Data, head: bytes, configuration: Configuration) -> Envelope | None:
        """The envelope of messages of *frame* with that *head*; None if the head makes no sense.

        The same one for all that are alike, so that who looks at them need look only once.
        """
        if configuration is not self._configuration:
            self._configuration = configuration
            self._envelopes.clear()
        key = (head, frame.sender, frame.life, frame.lane, frame.guarantee)
        envelope = self._envelopes.get(key)
        if envelope is None:
            known = self._heads.get(head) or self._read_head(head)
            if known is None:
                return None
            if len(self._envelopes) >= ENVELOPES_MAX:
                self._envelopes.clear()
            session, groups = known
            envelope = self._envelopes[key] = Envelope(
                frame.sender,
                session,
                frame.life,
                PRIORITIES[frame.lane],
                GUARANTEES[frame.guarantee],
                groups,
                configuration,
            )
        return envelope

    def _read_head(self, head: bytes) -> tuple[int, tuple[GroupKey, ...]] | None:
        """The session and the groups that *head* names, remembered; None if it makes no sense."""
        try:
            session, groups, _ = parse_message_head(head)
        except MalformedPacket:
            return None
        if len(self._heads) >= GROUPS_KNOWN_MAX:
            self._heads.clear()
        known = self._heads[head] = session, groups
        return known


class ControlReader(Reader):
    """The same for control messages. *news*: some were read and not yet looked at."""

    def __init__(self) -> None:
        super().__init__(CONTROL_BYTES_MAX)
        self.news = False

    def read_own(self, frame: Data, own: Own, configuration: Configuration) -> list[Ordered]:
        """The control messages that end in a frame that this node made."""
        out: list[Ordered] = []
        for _, messages in own:
            for message in messages:
                self.read_whole(frame, 0, message, 0, (len(message),), configuration, out)
        return out

    def read_pieces(
        self,
        frame: Data,
        counter: int,
        pieces: Sequence[Content],
        configuration: Configuration,
    ) -> Ordered | None:
        """As ``read``, for a message in pieces."""
        return self.read(frame, counter, joined(pieces), configuration)

    def read_whole(
        self,
        frame: Data,
        counter: int,
        content: Content,
        start: int,
        lengths: Sequence[int],
        configuration: Configuration,
        out: list[Ordered],
    ) -> None:
        """Put on *out* the control messages that stand one after another in *content*."""
        for length in lengths:
            try:
                message = parse_control(bytes(content[start : start + length]))
            except MalformedPacket:
                self.malformed += 1
            else:
                self.news = True
                out.append(Control(frame.sender, message))
            start += length


def pieces_of(frame: Data) -> Iterator[tuple[int, memoryview]]:
    """The pieces of *frame*, each with the counter of its message."""
    view = memoryview(frame.buffer)
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
    begun: list[Content] = field(default_factory=list)  #: of a cut message of FIFO or above
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
        if frame.own is not None:
            out += self.reader.read_own(frame, frame.own, configuration)
            return
        lengths, content, start, counter = (
            frame.lengths,
            frame.buffer,
            frame.first_byte,
            frame.counter,
        )
        if not (frame.continues or frame.unfinished):
            self.reader.read_whole(frame, counter, content, start, lengths, configuration, out)
            return
        first, last = 0, len(lengths)
        view = view_of(content)
        if frame.continues:
            if frame.unfinished and last == 1:  # from the middle of a large message
                if self.begun_counter == counter:
                    self._keep(view[start:])
                return
            first = 1
            ends = last > 1 or not frame.unfinished
            self._go_on(frame, view[start : start + lengths[0]], ends, configuration, out)
            start += lengths[0]
            counter += 1
        if frame.unfinished and last > first:
            last -= 1
        if last > first:
            whole = lengths[first:last]
            self.reader.read_whole(frame, counter, content, start, whole, configuration, out)
        if last >= first and last < len(lengths):
            self._begin(counter + last - first)
            self._keep(view[len(content) - lengths[last] :])

    def _go_on(
        self,
        frame: Data,
        piece: Content,
        ends: bool,
        configuration: Configuration,
        out: list[Ordered],
    ) -> None:
        """The next piece of the message that was begun; with the last one it is delivered."""
        if self.begun_counter != frame.counter:
            return  # its beginning is lost, and so is it, for all alike
        self._keep(piece)
        if not ends:
            return
        begun, size = self.begun, self.begun_bytes
        self._begin(-1)
        if size > self.reader.bytes_max:
            self.reader.malformed += 1
            return
        delivery = self.reader.read_pieces(frame, frame.counter, begun, configuration)
        if delivery is not None:
            out.append(delivery)

    def _keep(self, piece: Content) -> None:
        self.begun_bytes += len(piece)
        if self.begun_bytes > self.reader.bytes_max:
            return
        if len(piece) >= PIECE_BYTES:
            self.begun.append(piece)
        elif self.begun and isinstance(last := self.begun[-1], bytearray):
            last += piece
        else:
            self.begun.append(bytearray(piece))

    def _begin(self, counter: int) -> None:
        self.begun = []
        self.begun_bytes = 0
        self.begun_counter = counter

    def _unordered(self, frame: Data, configuration: Configuration, out: list[Ordered]) -> None:
        if frame.own is not None:
            out += self.reader.read_own(frame, frame.own, configuration)
            return
        pieces = len(frame.lengths)
        for position, (counter, piece) in enumerate(pieces_of(frame)):
            first = position == 0 and frame.continues
            last = position == pieces - 1 and frame.unfinished
            message: bytes | memoryview | None = piece
            if first or last:
                message = self._fragment(frame, counter, piece, first=first, last=last)
            if message is not None:
                delivery = self.reader.read(frame, counter, message, configuration)
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

"""Packing: the messages that wait to be sent, and the frames that they are put into.

One lane for the ring's own control messages and one for each priority, served strictly in that
order. A frame takes messages of one lane and one guarantee, and the more wait, the longer it is, up
to what the network takes at once; a message that does not fit is cut and goes on in this sender's
next frame of that lane. A configuration change never leaves half a message behind: what was begun
on the old ring and not finished there starts again, whole, on the new one.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

from vsync.vocabulary import GroupKey, Guarantee, Priority
from vsync.wire.data import (
    CONTROL_LANE,
    DATA_HEAD_BYTES,
    EMPTY,
    PIECES_MAX,
    RECOVERED_HEAD_BYTES,
    flags_of,
    message_head,
)

PIECE_BYTES_MIN: Final = 64
"""A smaller first piece is not worth its place: the message starts in the next frame."""

_LENGTH_BYTES: Final = 2

_LANES: Final = (CONTROL_LANE, *Priority)
"""In the order in which they are served."""

LANES_ALL: Final = len(_LANES)
LANES_SYNCHRONIZING: Final = 1 + Priority.MEDIUM
"""Control, RECOVERY and HIGH: what passes the recovery plug."""
LANES_BLOCKED_SYNCHRONIZING: Final = 1 + Priority.HIGH
"""Control and RECOVERY: a slow reader does not stop others from transferring state."""
LANES_BLOCKED: Final = 1
"""Control alone."""


class Batch:
    """Messages that were accepted together and wait, alike in all but their bytes."""

    __slots__ = ("costs", "counter", "guarantee", "head", "lengths", "payloads", "place")

    def __init__(
        self,
        counter: int,
        head: bytes,
        payloads: Sequence[bytes],
        lengths: list[int],
        costs: list[int],
        guarantee: Guarantee,
    ) -> None:
        self.counter = counter  #: of the first that waits
        self.head = head  #: of each of them on the wire, before its payload
        self.payloads = payloads
        self.lengths = lengths  #: of each message, with its head
        self.costs = costs  #: what each and those before it take of a frame, with their lengths
        self.guarantee = guarantee
        self.place = 0  #: of the first that waits


@dataclass(slots=True)
class Lane:
    """The messages of one priority, or the ring's own."""

    number: int
    waiting: deque[Batch]
    pending_bytes: int = 0  #: accepted and not yet put into frames
    offset: int = 0  #: bytes of the first message that were already put into frames
    counter: int = 0  #: of the next message accepted
    index: int = 0  #: of the next frame on this ring


class PackedFrame(NamedTuple):
    """What a data frame is made of, but for its place in the order."""

    frame_index: int
    counter: int
    flags: int
    pieces: list[bytes | memoryview]  #: what it carries; a message's head may be one of its own
    lengths: tuple[int, ...]  #: of the messages, and parts of messages, that the pieces make up
    own: list[tuple[bytes, Sequence[bytes]]]  #: the messages that end in it, by their heads
    messages_finished: int


class Packer:
    """A node's queues. Frames are made of up to *parts_max* parts of *part_bytes*."""

    def __init__(self, part_bytes: int, parts_max: int) -> None:
        self._part_bytes = part_bytes
        # The rooms that frames of so many parts have for pieces and their lengths. The longest
        # frames leave some for the wrapper of recovery.
        self._rooms = [parts * part_bytes - DATA_HEAD_BYTES for parts in range(1, parts_max + 1)]
        self._rooms[-1] -= RECOVERED_HEAD_BYTES
        self._lanes = tuple(Lane(number, deque()) for number in _LANES)
        self.lanes_open = LANES_ALL
        """How many of the lanes may send; the others are held."""
        self.pending_bytes = 0
        """Bytes accepted and not yet put into frames, in all lanes."""
        self.pending_messages = 0

    def submit(
        self,
        session: int,
        groups: Sequence[GroupKey],
        payloads: Sequence[bytes],
        guarantee: Guarantee,
        priority: Priority,
    ) -> int:
        """Queue messages that are alike but for their payloads; the counter of the first one."""
        head = message_head(session, tuple(groups))
        return self._queue(self._lanes[1 + priority], head, payloads, guarantee)

    def submit_control(self, message: bytes) -> None:
        """Queue a control message."""
        self._queue(self._lanes[0], b"", [message], Guarantee.AGREED)

    def _queue(
        self, lane: Lane, head: bytes, payloads: Sequence[bytes], guarantee: Guarantee
    ) -> int:
        first = lane.counter
        if payloads:
            head_bytes = len(head)
            lengths = [head_bytes + len(payload) for payload in payloads]
            costs = list(accumulate([length + _LENGTH_BYTES for length in lengths]))
            lane.waiting.append(Batch(first, head, payloads, lengths, costs, guarantee))
            lane.counter += len(payloads)
            size = costs[-1] - _LENGTH_BYTES * len(payloads)
            lane.pending_bytes += size
            self.pending_bytes += size
            self.pending_messages += len(payloads)
        return first

    @property
    def may_send(self) -> bool:
        """Something waits in an open lane."""
        if self.pending_messages:
            for lane in self._lanes[: self.lanes_open]:
                if lane.waiting:
                    return True
        return False

    def pending_bytes_of(self, priority: Priority) -> int:
        """Bytes accepted at that *priority* and not yet put into frames."""
        return self._lanes[1 + priority].pending_bytes

    @property
    def pending_control(self) -> int:
        """Control messages that wait."""
        return sum(len(batch.payloads) - batch.place for batch in self._lanes[0].waiting)

    @property
    def backlog_packets(self) -> int:
        """About how many packets wait in the open lanes; at least 1 while a message does."""
        if not self.may_send:
            return 0
        waiting = sum(lane.pending_bytes for lane in self._lanes[: self.lanes_open])
        return 1 + waiting // self._part_bytes

    def fits(self, parts: int) -> bool:
        """All that waits is no more than about so many parts, or it waits for other lanes."""
        return self.pending_bytes <= parts * self._part_bytes

    def take(self, parts_max: int) -> PackedFrame | None:
        """The next frame's content, the first open lane first; None when nothing waits there.

        It fits into *parts_max* parts.
        """
        for lane in self._lanes[: self.lanes_open]:
            if lane.waiting:
                return self._take_from(lane, self._rooms[min(parts_max, len(self._rooms)) - 1])
        return None

    def nothing(self) -> PackedFrame:
        """An empty frame, in the control lane. Only while nothing waits there."""
        lane = self._lanes[0]
        lane.index += 1
        return PackedFrame(lane.index - 1, lane.counter, EMPTY, [], (), [], 0)

    def _take_from(self, lane: Lane, room: int) -> PackedFrame:
        waiting = lane.waiting
        counter, guarantee = waiting[0].counter, waiting[0].guarantee
        continues = lane.offset > 0
        unfinished = False
        pieces: list[bytes | memoryview] = []
        lengths: list[int] = []
        own: list[tuple[bytes, Sequence[bytes]]] = []
        finished = taken = 0
        while waiting and waiting[0].guarantee is guarantee and len(lengths) < PIECES_MAX:
            batch = waiting[0]
            if lane.offset:  # of the first message only the rest
                left = batch.lengths[batch.place] - lane.offset
                if left + _LENGTH_BYTES <= room:
                    payload = batch.payloads[batch.place]
                    pieces += _part_of(batch.head, payload, lane.offset, lane.offset + left)
                    lengths.append(left)
                    own.append((batch.head, [payload]))
                    room -= left + _LENGTH_BYTES
                    taken += left
                    lane.offset = 0
                    finished += self._finish(lane, batch, 1)
                    continue
            else:  # as many whole messages as fit
                place, costs = batch.place, batch.costs
                before = costs[place - 1] if place else 0
                end = bisect_right(costs, before + room, place, len(costs))
                end = min(end, place + PIECES_MAX - len(lengths))
                if end > place:
                    cost = costs[end - 1] - before
                    payloads = batch.payloads[place:end]
                    pieces += _with_head(batch.head, payloads)
                    lengths += batch.lengths[place:end]
                    own.append((batch.head, payloads))
                    room -= cost
                    taken += cost - _LENGTH_BYTES * (end - place)
                    finished += self._finish(lane, batch, end - place)
                    continue
            room -= _LENGTH_BYTES
            if room >= PIECE_BYTES_MIN or not lengths:
                payload = batch.payloads[batch.place]
                pieces += _part_of(batch.head, payload, lane.offset, lane.offset + room)
                lengths.append(room)
                lane.offset += room
                taken += room
                unfinished = True
            break
        lane.pending_bytes -= taken
        self.pending_bytes -= taken
        self.pending_messages -= finished
        index = lane.index
        lane.index += 1
        flags = flags_of(guarantee, lane.number, continues=continues, unfinished=unfinished)
        return PackedFrame(index, counter, flags, pieces, tuple(lengths), own, finished)

    @staticmethod
    def _finish(lane: Lane, batch: Batch, count: int) -> int:
        """The first messages of *batch* wait no more: so many of them."""
        batch.place += count
        batch.counter += count
        if batch.place == len(batch.payloads):
            lane.waiting.popleft()
        return count

    def restart(self) -> None:
        """A new ring begins: frames count from 0, and half-sent messages are whole again."""
        for lane in self._lanes:
            lane.index = 0
            lane.pending_bytes += lane.offset
            self.pending_bytes += lane.offset
            lane.offset = 0


def _with_head(head: bytes, payloads: Sequence[bytes]) -> Sequence[bytes]:
    """What whole messages are on the wire, in pieces."""
    if not head:
        return payloads
    pieces = [head] * (2 * len(payloads))
    pieces[1::2] = payloads
    return pieces


def _part_of(head: bytes, payload: bytes, start: int, end: int) -> list[bytes | memoryview]:
    """The bytes of a message from *start* up to *end*, in pieces; the payload's are not copied."""
    begin = len(head)
    pieces: list[bytes | memoryview] = []
    if start < begin:
        pieces.append(head[start:end])
    if end > begin:
        pieces.append(memoryview(payload)[max(0, start - begin) : end - begin])
    return pieces

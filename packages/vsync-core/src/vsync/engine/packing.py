"""Packing: the messages that wait to be sent, and the frames that they are put into.

One lane for the ring's own control messages and one for each priority, served strictly in that
order. A frame takes messages of one lane and one guarantee, and the more wait, the longer it is, up
to what the network takes at once; a message that does not fit is cut and goes on in this sender's
next frame of that lane. A configuration change never leaves half a message behind: what was begun
on the old ring and not finished there starts again, whole, on the new one.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from vsync.vocabulary import GroupKey, Guarantee, Priority
from vsync.wire.data import (
    CONTROL_LANE,
    DATA_HEAD_BYTES,
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


class Waiting(NamedTuple):
    """One accepted message: its counter, its bytes on the wire, its guarantee."""

    counter: int
    message: bytes
    guarantee: Guarantee


@dataclass(slots=True)
class Lane:
    """The messages of one priority, or the ring's own."""

    number: int
    waiting: deque[Waiting]
    pending_bytes: int = 0  #: accepted and not yet put into frames
    offset: int = 0  #: bytes of the first message that were already put into frames
    counter: int = 0  #: of the next message accepted
    index: int = 0  #: of the next frame on this ring


class PackedFrame(NamedTuple):
    """What a data frame is made of, but for its place in the order."""

    frame_index: int
    counter: int
    flags: int
    pieces: list[bytes | memoryview]
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
        return self._queue(
            self._lanes[1 + priority], [head + payload for payload in payloads], guarantee
        )

    def submit_control(self, message: bytes) -> None:
        """Queue a control message."""
        self._queue(self._lanes[0], [message], Guarantee.AGREED)

    def _queue(self, lane: Lane, messages: Sequence[bytes], guarantee: Guarantee) -> int:
        first = lane.counter
        lane.counter += len(messages)
        lane.waiting += [
            Waiting(counter, message, guarantee) for counter, message in enumerate(messages, first)
        ]
        size = sum(map(len, messages))
        lane.pending_bytes += size
        self.pending_bytes += size
        self.pending_messages += len(messages)
        return first

    @property
    def may_send(self) -> bool:
        """Something waits in an open lane."""
        return self.pending_messages > 0 and any(
            lane.waiting for lane in self._lanes[: self.lanes_open]
        )

    def pending_bytes_of(self, priority: Priority) -> int:
        """Bytes accepted at that *priority* and not yet put into frames."""
        return self._lanes[1 + priority].pending_bytes

    @property
    def pending_control(self) -> int:
        """Control messages that wait."""
        return len(self._lanes[0].waiting)

    @property
    def backlog_packets(self) -> int:
        """About how many packets wait in the open lanes; at least 1 while a message does."""
        if not self.may_send:
            return 0
        waiting = sum(lane.pending_bytes for lane in self._lanes[: self.lanes_open])
        return 1 + waiting // self._part_bytes

    def take(self, parts_max: int) -> PackedFrame | None:
        """The next frame's content, the first open lane first; None when nothing waits there.

        It fits into *parts_max* parts.
        """
        for lane in self._lanes[: self.lanes_open]:
            if lane.waiting:
                return self._take_from(lane, self._rooms[min(parts_max, len(self._rooms)) - 1])
        return None

    def _take_from(self, lane: Lane, room: int) -> PackedFrame:
        waiting = lane.waiting
        counter, _, guarantee = waiting[0]
        continues = lane.offset > 0
        unfinished = False
        pieces: list[bytes | memoryview] = []
        finished = taken = 0
        while waiting and waiting[0].guarantee is guarantee and len(pieces) < PIECES_MAX:
            message = waiting[0].message
            left = len(message) - lane.offset
            room -= _LENGTH_BYTES
            if left <= room:
                pieces.append(memoryview(message)[lane.offset :] if lane.offset else message)
                room -= left
                lane.offset = 0
                waiting.popleft()
                finished += 1
                taken += left
                continue
            if room >= PIECE_BYTES_MIN or not pieces:
                pieces.append(memoryview(message)[lane.offset : lane.offset + room])
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
        return PackedFrame(index, counter, flags, pieces, finished)

    def restart(self) -> None:
        """A new ring begins: frames count from 0, and half-sent messages are whole again."""
        for lane in self._lanes:
            lane.index = 0
            lane.pending_bytes += lane.offset
            self.pending_bytes += lane.offset
            lane.offset = 0

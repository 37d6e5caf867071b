"""Packing: the messages that wait to be sent, and the frames that they are put into.

One queue a priority, served strictly in order. A frame takes messages of one priority and one
guarantee; a message that does not fit is cut and goes on in this sender's next frame of that
priority. A configuration change never leaves half a message behind: what was begun on the old
ring and not finished there starts again, whole, on the new one.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from vsync.vocabulary import GroupKey, Guarantee, Priority
from vsync.wire.data import PIECES_MAX, flags_of, message_head

PIECE_BYTES_MIN: Final = 64
"""A smaller first piece is not worth its place: the message starts in the next frame."""

_LENGTH_BYTES: Final = 2


class Waiting(NamedTuple):
    """One accepted message: its counter, its bytes on the wire, its guarantee."""

    counter: int
    message: bytes
    guarantee: Guarantee


@dataclass(slots=True)
class Lane:
    """The messages of one priority."""

    waiting: deque[Waiting]
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
    """A node's queues. *frame_bytes* is the room that a frame has for pieces and their lengths."""

    def __init__(self, frame_bytes: int) -> None:
        self._frame_bytes = frame_bytes
        self._lanes = tuple(Lane(deque()) for _ in Priority)
        self.pending_bytes = 0
        """Bytes accepted and not yet put into frames."""
        self.pending_messages = 0

    def submit(
        self,
        groups: Sequence[GroupKey],
        payload: bytes,
        guarantee: Guarantee,
        priority: Priority,
    ) -> int:
        """Queue a message; its counter."""
        lane = self._lanes[priority]
        counter = lane.counter
        message = message_head(tuple(groups)) + payload
        lane.counter += 1
        lane.waiting.append(Waiting(counter, message, guarantee))
        self.pending_bytes += len(message)
        self.pending_messages += 1
        return counter

    @property
    def backlog_frames(self) -> int:
        """About how many frames wait; at least 1 while a message does."""
        if not self.pending_messages:
            return 0
        return 1 + self.pending_bytes // self._frame_bytes

    def take(self) -> PackedFrame | None:
        """The next frame's content, the highest priority first; None when nothing waits."""
        for priority in Priority:
            if self._lanes[priority].waiting:
                return self._take_from(self._lanes[priority], priority)
        return None

    def _take_from(self, lane: Lane, priority: Priority) -> PackedFrame:
        waiting = lane.waiting
        counter, _, guarantee = waiting[0]
        continues = lane.offset > 0
        unfinished = False
        room = self._frame_bytes
        pieces: list[bytes | memoryview] = []
        finished = 0
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
                self.pending_bytes -= left
                continue
            if room >= PIECE_BYTES_MIN or not pieces:
                pieces.append(memoryview(message)[lane.offset : lane.offset + room])
                lane.offset += room
                self.pending_bytes -= room
                unfinished = True
            break
        self.pending_messages -= finished
        index = lane.index
        lane.index += 1
        flags = flags_of(guarantee, priority, continues=continues, unfinished=unfinished)
        return PackedFrame(index, counter, flags, pieces, finished)

    def restart(self) -> None:
        """A new ring begins: frames count from 0, and half-sent messages are whole again."""
        for lane in self._lanes:
            lane.index = 0
            self.pending_bytes += lane.offset
            lane.offset = 0

"""Alike: messages that have one envelope, many at a time.

This is most of what a small message costs. ``vsync-speedups`` has the same in C.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate, count, repeat
from struct import Struct
from typing import Final

from vsync.copying import Content
from vsync.events import Delivery, Envelope

COLUMNS_KNOWN_MAX: Final = 32
"""So many shapes of frames are remembered; making one anew costs a tenth of what it saves."""

COLUMNS_MAX: Final = 1024
"""Messages of such a shape, at most: no frame of the ring has more."""

# What the class's own constructor does, without a call in Python for each.
_new_delivery: Final[Callable[[type[Delivery], tuple[Envelope, int, bytes]], Delivery]] = (
    tuple.__new__
)


def numbered(envelope: Envelope, counter: int, payloads: Sequence[bytes]) -> list[Delivery]:
    """The deliveries of *payloads*, the first of which has that *counter*."""
    rows = zip(repeat(envelope), count(counter), payloads, strict=False)
    return list(map(_new_delivery, repeat(Delivery), rows))


def begin_alike(frame: Content, start: int, head: bytes, lengths: Sequence[int]) -> bool:
    """Whether all the messages of those *lengths* in *frame*, one behind the other, begin so.

    They must end within the frame.
    """
    messages, payload_bytes = len(lengths), lengths[0] - len(head)
    if payload_bytes >= 0 and _in_columns(lengths):
        # All have one length. It takes less than half the time, since no step is in Python.
        heads = _heads(len(head), payload_bytes, messages).unpack_from(frame, start)
        return heads.count(head) == messages
    starts = accumulate(lengths[:-1], initial=start)
    begins = bytes(frame).startswith  # no copy where it is that already
    return min(lengths) >= len(head) and all(map(begins, repeat(head), starts))


def payloads_in(frame: Content, start: int, head_bytes: int, lengths: Sequence[int]) -> list[bytes]:
    """What the messages of those *lengths* in *frame*, one behind the other, have behind a head.

    They must end within the frame, and none may be shorter than its head.
    """
    if _in_columns(lengths):
        columns = _payloads(head_bytes, lengths[0] - head_bytes, len(lengths))
        return list(columns.unpack_from(frame, start))
    frame = bytes(frame)  # no copy where it is that already; its parts would cost more otherwise
    starts = accumulate(lengths[:-1], initial=start)
    return [
        frame[place + head_bytes : place + length]
        for place, length in zip(starts, lengths, strict=True)
    ]


def read_alike(
    envelope: Envelope,
    counter: int,
    frame: Content,
    start: int,
    head_bytes: int,
    lengths: Sequence[int],
) -> list[Delivery]:
    """The deliveries of the messages that ``payloads_in`` finds."""
    return numbered(envelope, counter, payloads_in(frame, start, head_bytes, lengths))


def _in_columns(lengths: Sequence[int]) -> bool:
    messages = len(lengths)
    return 1 < messages <= COLUMNS_MAX and lengths.count(lengths[0]) == messages


@lru_cache(COLUMNS_KNOWN_MAX)
def _heads(head_bytes: int, payload_bytes: int, messages: int) -> Struct:
    """Reads the heads of messages that are all of that size."""
    return Struct(f"{head_bytes}s{payload_bytes}x" * messages)


@lru_cache(COLUMNS_KNOWN_MAX)
def _payloads(head_bytes: int, payload_bytes: int, messages: int) -> Struct:
    """Reads their payloads."""
    return Struct(f"{head_bytes}x{payload_bytes}s" * messages)

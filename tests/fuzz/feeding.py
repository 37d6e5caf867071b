"""What a target is, and how the bytes that it is fed become several packets."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from tests.core.wire.frames import ME
from vsync.vocabulary import GroupKey, RingId

RING: Final = RingId(3, ME)
GROUP: Final = GroupKey(bytes(32))
PLACES: Final = (("10.0.0.2", 5405), ("10.0.0.3", 5405), ("10.0.0.9", 1))


class Target(NamedTuple):
    """What to feed, and what sensible bytes look like there."""

    feed: Callable[[bytes], None]
    seeds: Sequence[bytes]


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut *data* into packets: a length in two bytes stands before each."""
    place = 0
    while place + 2 <= len(data):
        end = place + 2 + int.from_bytes(data[place : place + 2])
        yield data[place + 2 : end]
        place = end


def joined(*packets: bytes) -> bytes:
    """What ``pieces`` cuts into *packets*."""
    return b"".join(len(packet).to_bytes(2) + packet for packet in packets)

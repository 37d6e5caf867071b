"""Copying: a frame's content into packets and out of them again, a whole burst at a time.

``vsync-speedups`` has the same in C. There a content is read where it stands, in the packets: of
what came, only payloads are copied.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final, Protocol, overload

SHAPES_KNOWN_MAX: Final = 256
"""So many ways in which bytes are cut are remembered."""


class Content(Protocol):
    """What a frame carries, or a part of it. Bytes and views of them are one.

    Compiled, it may be one more: a view of bytes that stand in packets, which puts them together
    only for who wants them as a buffer.
    """

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, place: int, /) -> int: ...
    @overload
    def __getitem__(self, place: slice, /) -> "Content": ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


view_of: Final[Callable[[Content], Content]] = memoryview
"""A content, as something whose parts are not copied out of it."""

joined: Final[Callable[[Iterable[Content]], bytes]] = b"".join
"""Pieces of contents, all in one."""


def packets_of(
    head: bytes,
    numbers: Sequence[bytes],
    begin: bytes,
    rest: bytes | memoryview,
    size: int,
) -> bytes:
    """Packets one behind the other: in each *head*, its one of *numbers*, and *size* bytes.

    These are of *begin* and then of *rest*; the last packet has what is left, a byte at least.
    """
    heads = [head + number for number in numbers]
    pieces: list[bytes | memoryview] = [b""] * (2 * len(heads))
    pieces[::2] = heads
    chunks = _chunks(begin, 0, size)
    pieces[1 : 2 * len(chunks) : 2] = chunks
    if rest:
        mixed = len(begin) // size  # the packet that has the end of the one and takes up the other
        pieces[2 * mixed] = heads[mixed] + begin[mixed * size :]
        first = size - len(begin) % size
        pieces[2 * mixed + 1] = memoryview(rest)[:first]
        pieces[2 * mixed + 3 :: 2] = _chunks(rest, first, size)
    return b"".join(pieces)


def content_of(packets: bytes | memoryview, packet_bytes: int, head_bytes: int) -> Content:
    """What stands in *packets* of that size, one behind the other, after the head of each.

    The last one may be shorter, but not without anything behind its head.
    """
    count = len(packets) // packet_bytes
    shape = _shape(head_bytes, packet_bytes - head_bytes, count)
    last = memoryview(packets)[count * packet_bytes + head_bytes :]
    return b"".join((*shape.unpack_from(packets), last))


@lru_cache(SHAPES_KNOWN_MAX)
def _shape(gap: int, size: int, count: int) -> struct.Struct:
    """Reads so many times *size* bytes, each behind a *gap*."""
    return struct.Struct(f"{gap}x{size}s" * count)


def _chunks(data: bytes | memoryview, start: int, size: int) -> list[bytes | memoryview]:
    """The bytes from *start* on in pieces of *size*, the last maybe shorter."""
    if start >= len(data):
        return []
    count = (len(data) - start) // size
    chunks: list[bytes | memoryview] = list(_shape(0, size, count).unpack_from(data, start))
    end = start + count * size
    if end < len(data):
        chunks.append(memoryview(data)[end:])
    return chunks

"""Segmentation offload: many packets of one size in one system call, either way.

``UDP_SEGMENT`` (GSO) and ``UDP_GRO``, see udp(7). The kernel cuts what is sent into packets of one
size, the last one shorter or equal; what arrives so is handed over in one piece, with the size.
"""

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias, TypeVar

Piece = TypeVar("Piece", bytes, bytes | memoryview)

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103  # linux/udp.h
UDP_GRO: Final = 104

SEGMENTS_MAX: Final = 128
"""More in one call is EINVAL (UDP_MAX_SEGMENTS, linux/udp.h, 64 in kernels before 6.9)."""

SEGMENTS_SAFE: Final = 64
"""What every kernel with GSO takes."""

GSO_BYTES_MAX: Final = {4: 65_493, 6: 65_473}
"""By IP version. A larger payload still arrives, but the kernel then cuts it in software."""

RECEIVE_BYTES: Final = 65_535
"""Room for whatever one receive call can return, GRO or not."""

DATAGRAMS_AT_ONCE: Final = 16
"""So many are asked for at a time, each of them maybe joined of many packets."""

Received: TypeAlias = tuple[bytes, int, bool, Any]
"""What was received at a time: the bytes, those of each packet that was joined (0: it came alone),
whether it was too long and is not whole, and where it is from."""

ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4)

_SEGMENT_BYTES: Final = struct.Struct("=H")
_GRO_BYTES: Final = struct.Struct("=i")


def gso_present(sender: socket.socket) -> bool:
    """Whether this kernel knows ``UDP_SEGMENT``. A device may still refuse it when sending."""
    try:
        sender.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def enable_gro(receiver: socket.socket) -> bool:
    """Ask for joined packets on *receiver*; whether the kernel agreed."""
    try:
        receiver.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


def segment_ancillary(segment_bytes: int) -> list[tuple[int, int, bytes]]:
    """The control message for ``sendmsg`` that makes packets of *segment_bytes*."""
    return [(SOL_UDP, UDP_SEGMENT, _SEGMENT_BYTES.pack(segment_bytes))]


def segment_bytes_of(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """The packet size in the control messages of ``recvmsg``; 0 if it is a single packet."""
    for level, kind, data in ancillary:
        if level == SOL_UDP and kind == UDP_GRO and len(data) >= _GRO_BYTES.size:
            return int(_GRO_BYTES.unpack_from(data)[0])
    return 0


def joined(
    packets: Sequence[Piece], *, bytes_max: int, segments_max: int
) -> Iterator[Sequence[Piece]]:
    """Cut *packets*, in order, into runs that one GSO call can carry.

    In a run all packets but the last have the size of the first, and the last is not larger and
    not empty. A run is at most *bytes_max* bytes and *segments_max* packets, unless it is one
    packet alone.
    """
    count = len(packets)
    start = 0
    while start < count:
        size = len(packets[start])
        end = start + 1
        limit = min(count, start + segments_max, start + bytes_max // size) if size else end
        while end < limit and len(packets[end]) == size:
            end += 1
        if end < limit and 0 < len(packets[end]) < size:
            end += 1
        yield packets[start:end]
        start = end

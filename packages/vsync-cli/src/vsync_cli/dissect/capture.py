"""Captures: pcap and pcapng files, packet by packet. They may be anything: all is checked.

See draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng; only what holds packets is read.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from vsync.errors import VsyncError

PACKET_BYTES_MAX: Final = 262_144  # what tcpdump takes at most (MAXIMUM_SNAPLEN)
BLOCK_BYTES_MAX: Final = 16 * 2**20
INTERFACES_MAX: Final = 1024

_PCAP: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
}
"""By the first bytes: byte order, and the unit of the fractions of seconds."""

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_SIMPLE: Final = 3
_ENHANCED: Final = 6
_RESOLUTION: Final = 9  # the option if_tsresol
_ORDERS: Final = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}


class CaptureFailed(VsyncError):
    """The file is no capture, or is broken; the text says where and what to do."""


class Captured(NamedTuple):
    """One packet."""

    at_s: float
    """When: seconds since 1970."""
    link: int
    """What it begins with (LINKTYPE)."""
    data: bytes
    whole_bytes: int
    """How long it was; more than ``data`` has if the capture cut it."""


def read_capture(path: Path) -> Iterator[Captured]:
    """The packets of the file, in order. Raises CaptureFailed, maybe after some."""
    try:
        with path.open("rb") as file:
            first = file.read(4)
            if first in _PCAP:
                yield from _pcap(file, *_PCAP[first])
            elif first == _SECTION.to_bytes(4):
                yield from _pcapng(file)
            else:
                raise CaptureFailed(
                    f"{path} is neither pcap nor pcapng; `tcpdump -w FILE` writes such files"
                )
    except OSError as error:
        raise CaptureFailed(f"{path} cannot be read: {error.strerror or error}") from error
    except CaptureFailed as error:
        said = str(error)
        raise CaptureFailed(said if str(path) in said else f"{path}: {said}") from None


def _take(file: BinaryIO, count: int, what: str) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise CaptureFailed(f"the file ends within {what}; it was cut, or is still being written")
    return data


def _pcap(file: BinaryIO, order: str, unit_s: float) -> Iterator[Captured]:
    header = struct.unpack(f"{order}HHiIII", _take(file, 20, "its header"))
    link = header[-1] & 0xFFFF
    record = struct.Struct(f"{order}IIII")
    while start := file.read(record.size):
        if len(start) < record.size:
            raise CaptureFailed("the file ends within a packet; it was cut, or is being written")
        seconds, fraction, kept, whole = record.unpack(start)
        if kept > PACKET_BYTES_MAX:
            raise CaptureFailed(f"a packet claims to have {kept} bytes; the file is broken")
        yield Captured(seconds + fraction * unit_s, link, _take(file, kept, "a packet"), whole)


def _pcapng(file: BinaryIO) -> Iterator[Captured]:
    order = "<"
    interfaces: list[tuple[int, float]] = []
    kind_bytes = _SECTION.to_bytes(4)
    while kind_bytes:
        if len(kind_bytes) < 4:
            raise CaptureFailed("the file ends within a block; it was cut, or is being written")
        length_bytes = _take(file, 4, "a block")
        body = b""
        if kind_bytes == _SECTION.to_bytes(4):
            body = _take(file, 4, "a block")
            if body not in _ORDERS:
                raise CaptureFailed("a section has no byte order; the file is broken")
            order = _ORDERS[body]
            interfaces = []
        (kind,) = struct.unpack(f"{order}I", kind_bytes)
        (length,) = struct.unpack(f"{order}I", length_bytes)
        if length % 4 or not 12 + len(body) <= length <= BLOCK_BYTES_MAX:
            raise CaptureFailed(f"a block claims to have {length} bytes; the file is broken")
        body += _take(file, length - 12 - len(body), "a block")
        _take(file, 4, "a block")
        if kind == _INTERFACE and len(interfaces) < INTERFACES_MAX and len(body) >= 8:
            interfaces.append((struct.unpack_from(f"{order}H", body)[0], _unit_s(order, body[8:])))
        elif kind == _ENHANCED and len(body) >= 20:
            number, high, low, kept, whole = struct.unpack_from(f"{order}IIIII", body)
            if number >= len(interfaces) or kept > len(body) - 20:
                raise CaptureFailed("a packet is longer than its block; the file is broken")
            link, unit_s = interfaces[number]
            yield Captured((high << 32 | low) * unit_s, link, body[20 : 20 + kept], whole)
        elif kind == _SIMPLE and len(body) >= 4 and interfaces:
            (whole,) = struct.unpack_from(f"{order}I", body)
            yield Captured(0.0, interfaces[0][0], body[4 : 4 + whole], whole)
        kind_bytes = file.read(4)


def _unit_s(order: str, options: bytes) -> float:
    """The unit of an interface's time stamps."""
    at = 0
    while at + 4 <= len(options):
        code, length = struct.unpack_from(f"{order}HH", options, at)
        if code == _RESOLUTION and length == 1 and at + 4 < len(options):
            exponent = options[at + 4]
            power = exponent & 0x7F
            return float(2.0**-power if exponent & 0x80 else 10.0**-power)
        if code == 0:
            break
        at += 4 + (length + 3 & ~3)
    return 1e-6

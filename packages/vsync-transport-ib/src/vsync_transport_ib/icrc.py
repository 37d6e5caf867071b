"""The invariant checksum of RoCE v2 over IPv4, from where a UDP socket sends and receives.

It is CRC-32 over the packet from the IP header on, with 8 bytes 0xff before it and with what
routers change set to ones: type of service, TTL and checksum of IP, the checksum of UDP, and the
fifth byte of BTH (InfiniBand 1.4, annex A17.3.3). It is sent little-endian.

A UDP socket sees all of that but the *identification* and the flags of the IP header. A sender
knows them: Linux sends ``IP_PMTUDISC_DO`` datagrams with DF and identification 0, and those that
GSO cuts with 0, 1, 2, … A receiver solves for the identification, which CRC, being linear, allows:
so half of the check's strength is lost to it, and whoever needs it whole has a checksum or a seal
of his own in the packet, as every packet of vsync has.

Speed: what addresses decide (``Flow``), and what the length decides (``Length``), is computed once.
"""

import struct
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Final

from vsync.checksum import crc32

ICRC_BYTES: Final = 4
LENGTHS_MAX: Final = 256
"""Lengths that are remembered; those of a flow are all forgotten when there are more."""

TABLES_AFTER: Final = 64
"""Packets of one length whose identification had to be solved for: it is faster from then on."""

ROCE_PORT: Final = 4791
"""The UDP port of RoCE v2 (IANA)."""

_IPV4: Final = struct.Struct(">8sBBHHHBBH4s4s")
_UDP: Final = struct.Struct(">HHHH")
_IPV4_BYTES: Final = 20
_UDP_BYTES: Final = 8
_VERSION_AND_LENGTH: Final = 0x45
_DONT_FRAGMENT: Final = 0x4000
_PROTOCOL_UDP: Final = 17

_POLYNOMIAL: Final = 0xEDB88320  # of CRC-32, bits reversed; the first bit is that of x^0
_ORDER: Final = 2**32 - 1  # of x: the polynomial is primitive
_ONE: Final = 1 << 31
_BEFORE_DATAGRAM: Final = 24
"""Bytes from the identification on, up to what a UDP socket sends: the rest of both headers."""


class Length:
    """What follows from the number of bytes between the UDP header and the ICRC.

    The ICRC is ``crc32(datagram, flow.seed(n)) ^ masked ^ low[i & 0xFF] ^ high[i >> 8]``, where *i*
    is the identification, if the fifth byte of the datagram is 0.
    """

    __slots__ = ("_back", "_solved", "_tables", "high", "low", "masked")

    def __init__(self, datagram_bytes: int) -> None:
        ones = b"\0\0\0\0\xff"
        self.masked: Final = crc32(ones.ljust(datagram_bytes, b"\0")) ^ crc32(bytes(datagram_bytes))
        """What it changes that the fifth byte counts as 0xff, and is 0."""
        after = datagram_bytes + _BEFORE_DATAGRAM
        forth = _power(8 * after)
        # The identification is sent high byte first, and the first byte is the low one of the CRC.
        self.low: Final = _images(forth, 8)
        """What the low byte of the identification adds, by its value."""
        self.high: Final = _images(forth, 0)
        self._back = _power(_ORDER - 8 * after % _ORDER)
        self._tables: list[list[int]] = []
        self._solved = 0

    def solve(self, difference: int) -> int | None:
        """The identification that explains *difference* in the ICRC; None if none does.

        It may be that of a packet whose DF is not set.
        """
        if self._tables:
            first, second, third, fourth = self._tables
            state = (
                first[difference & 0xFF]
                ^ second[difference >> 8 & 0xFF]
                ^ third[difference >> 16 & 0xFF]
                ^ fourth[difference >> 24]
            )
        else:
            state = _multiplied(difference, self._back)
            self._solved += 1
            if self._solved == TABLES_AFTER:
                self._tables = [_images(self._back, 8 * byte) for byte in range(4)]
        if state >> 16 in (0, _DONT_FRAGMENT >> 8):
            return (state & 0xFF) << 8 | (state >> 8 & 0xFF)
        return None


@lru_cache(LENGTHS_MAX)
def length_of(datagram_bytes: int) -> Length:
    """The one of that many bytes."""
    return Length(datagram_bytes)


class Flow:
    """What follows from the addresses of a packet: the CRC of all before the datagram."""

    __slots__ = ("_destination", "_seeds", "_source")

    def __init__(self, source: tuple[str, int], destination: tuple[str, int]) -> None:
        self._source = (IPv4Address(source[0]).packed, source[1])
        self._destination = (IPv4Address(destination[0]).packed, destination[1])
        self._seeds: dict[int, int] = {}

    def seed(self, datagram_bytes: int) -> int:
        """What ``crc32`` of a datagram begins with, its ICRC not counted; identification 0."""
        seed = self._seeds.get(datagram_bytes)
        if seed is None:
            seed = crc32(self._before(datagram_bytes))
            if len(self._seeds) >= LENGTHS_MAX:
                self._seeds.clear()
            self._seeds[datagram_bytes] = seed
        return seed

    def _before(self, datagram_bytes: int) -> bytes:
        udp_bytes = _UDP_BYTES + datagram_bytes + ICRC_BYTES
        return _IPV4.pack(
            b"\xff" * 8,
            _VERSION_AND_LENGTH,
            0xFF,
            _IPV4_BYTES + udp_bytes,
            0,
            _DONT_FRAGMENT,
            0xFF,
            _PROTOCOL_UDP,
            0xFFFF,
            self._source[0],
            self._destination[0],
        ) + _UDP.pack(self._source[1], self._destination[1], udp_bytes, 0xFFFF)


def checksum(before: bytes, datagram: bytes | memoryview) -> bytes:
    """The ICRC of a datagram, from BTH on, as it is sent. *before*: see ``covered``."""
    masked = bytearray(datagram)
    masked[4] = 0xFF
    return crc32(masked, crc32(before)).to_bytes(ICRC_BYTES, "little")


def covered(*, lrh: bytes = b"", ip: bytes = b"", udp: bytes = b"") -> bytes:
    """What the ICRC covers before BTH, for packets of every kind, given their headers as captured.

    *lrh* with InfiniBand; *ip* is the header of IPv4 or IPv6, without options, or the GRH, which is
    laid out as that of IPv6; *udp* with RoCE v2.
    """
    parts = bytearray(lrh or b"\xff" * 8)
    if lrh:
        parts[0] |= 0xF0  # the virtual lane
    network = bytearray(ip)
    if network and network[0] >> 4 == 4:
        network[1] = network[8] = network[10] = network[11] = 0xFF
    elif network:
        network[0] |= 0x0F
        network[1] = network[2] = network[3] = network[7] = 0xFF
    transport = bytearray(udp)
    if transport:
        transport[6] = transport[7] = 0xFF
    return bytes(parts + network + transport)


def _multiplied(left: int, right: int) -> int:
    """The product of two polynomials, modulo that of CRC-32."""
    product = 0
    while left:
        if left & _ONE:
            product ^= right
        left = left << 1 & 0xFFFFFFFF
        right = right >> 1 ^ (_POLYNOMIAL if right & 1 else 0)
    return product


@lru_cache(32)
def _squared(times: int) -> int:
    """x, squared so many times."""
    if times == 0:
        return _ONE >> 1
    before = _squared(times - 1)
    return _multiplied(before, before)


def _power(exponent: int) -> int:
    """x to that power."""
    power = _ONE
    for bit in range(exponent.bit_length()):
        if exponent >> bit & 1:
            power = _multiplied(power, _squared(bit))
    return power


def _images(factor: int, first_bit: int) -> list[int]:
    """The products of *factor* with each byte, which stands *first_bit* bits from the low end."""
    bits = [_multiplied(1 << first_bit + bit, factor) for bit in range(8)]
    images = [0]
    for image in bits:
        images += [image ^ other for other in images]
    return images

"""Hello: the one frame that ``udpu`` itself says, apart from the ring's packets.

It proves that its sender receives at the address it sends from, by the challenge that it sends
back, and tells other nodes' addresses. Layout, big-endian: 34 bytes, then 18 for each address.

Anybody may send hellos by the thousand, so they are read with ``struct``, and the addresses only
if somebody wants to see them; a test holds that to the declaration.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final, Self

from construct import Bytes, Const, Int8ub, Int16ub, PrefixedArray, Struct, Terminated

from vsync.errors import MalformedPacket

MARK: Final = b"\xd7vsudpu"
"""What a hello begins with. No packet of a ring does: theirs begin with ``VS``."""

VERSION: Final = 1
"""Raised when a node of the old version could no longer follow."""

WORD_BYTES: Final = 8
"""Of an instance and of a challenge: too many to guess."""

ADDRESSES_MAX: Final = 32
"""In one hello, which so is small enough for every path (1280 bytes, RFC 8200, section 5)."""

NO_RESPONSE: Final = bytes(WORD_BYTES)
"""In place of a challenge sent back: none has come yet."""

_WANTS_ANSWER: Final = 1

ADDRESS = Struct(
    "host" / Bytes(16),  # IPv4 as ::ffff:a.b.c.d (RFC 4291, section 2.5.5.2)
    "port" / Int16ub,
)

HELLO = Struct(
    "mark" / Const(MARK),
    "version" / Const(VERSION, Int8ub),
    "flags" / Int8ub,  # 1: an answer is wanted; the others must be 0
    "instance" / Bytes(WORD_BYTES),  # of the sender, drawn when it opened: tells nodes apart
    "challenge" / Bytes(WORD_BYTES),  # to be sent back; hard to guess without receiving it
    "response" / Bytes(WORD_BYTES),  # the receiver's challenge sent back, or zeros
    "addresses" / PrefixedArray(Int8ub, ADDRESS),  # of nodes that answered the sender lately
    Terminated,
)

_FAST: Final = struct.Struct(">7sBB8s8s8sB")
_ADDRESS_FAST: Final = struct.Struct(">16sH")

HELLO_BYTES_MIN: Final = _FAST.size
HELLO_BYTES_MAX: Final = HELLO_BYTES_MIN + ADDRESSES_MAX * _ADDRESS_FAST.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """One hello, decoded."""

    instance: bytes
    challenge: bytes
    response: bytes = NO_RESPONSE
    wants_answer: bool = False
    told: bytes = b""
    """Addresses as they travel; see ``tell``."""

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host (in numbers) and port of each address told."""
        return [(_unpacked(host), port) for host, port in _ADDRESS_FAST.iter_unpack(self.told)]

    def encode(self) -> bytes:
        """As it is sent."""
        head = _FAST.pack(
            MARK,
            VERSION,
            _WANTS_ANSWER if self.wants_answer else 0,
            self.instance,
            self.challenge,
            self.response,
            len(self.told) // _ADDRESS_FAST.size,
        )
        return head + self.told

    @classmethod
    def decode(cls, packet: bytes) -> Self:
        """Read what came from the network. Raises MalformedPacket."""
        if not HELLO_BYTES_MIN <= len(packet) <= HELLO_BYTES_MAX:
            raise MalformedPacket(f"hello: {len(packet)} bytes")
        mark, version, flags, instance, challenge, response, count = _FAST.unpack_from(packet)
        if mark != MARK:
            raise MalformedPacket("hello: without its mark")
        if version != VERSION:
            raise MalformedPacket(f"hello: version {version}")
        if flags & ~_WANTS_ANSWER:
            raise MalformedPacket(f"hello: flags {flags}")
        if len(packet) != HELLO_BYTES_MIN + count * _ADDRESS_FAST.size:
            raise MalformedPacket(f"hello: {len(packet)} bytes with {count} addresses")
        return cls(
            instance=instance,
            challenge=challenge,
            response=response,
            wants_answer=bool(flags & _WANTS_ANSWER),
            told=packet[HELLO_BYTES_MIN:],
        )


def tell(addresses: Iterable[tuple[str, int]]) -> bytes:
    """Pack addresses for ``Hello.told``, as many as it holds."""
    packed = [_ADDRESS_FAST.pack(_packed(host), port) for host, port in addresses]
    return b"".join(packed[:ADDRESSES_MAX])


def _packed(host: str) -> bytes:
    address = ip_address(host)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def _unpacked(packed: bytes) -> str:
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)

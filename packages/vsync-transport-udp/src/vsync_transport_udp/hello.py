"""Hello: the one frame that ``udpu`` itself says, apart from the ring's packets.

It proves that its sender receives at the address it sends from, by the challenge that it sends
back, and tells other nodes' addresses. Layout, big-endian: 34 bytes, then 18 for each address.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, Self

from construct import (
    Bytes,
    Const,
    ConstructError,
    Int8ub,
    Int16ub,
    PrefixedArray,
    Struct,
    Terminated,
)

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

HELLO_BYTES_MIN: Final = 34
HELLO_BYTES_MAX: Final = HELLO_BYTES_MIN + ADDRESSES_MAX * 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """One hello, decoded."""

    instance: bytes
    challenge: bytes
    response: bytes = NO_RESPONSE
    wants_answer: bool = False
    addresses: tuple[tuple[str, int], ...] = ()
    """Host (in numbers) and port of each."""

    def encode(self) -> bytes:
        """As it is sent."""
        packet: bytes = HELLO.build(
            {
                "flags": _WANTS_ANSWER if self.wants_answer else 0,
                "instance": self.instance,
                "challenge": self.challenge,
                "response": self.response,
                "addresses": [
                    {"host": _packed(host), "port": port}
                    for host, port in self.addresses[:ADDRESSES_MAX]
                ],
            }
        )
        return packet

    @classmethod
    def decode(cls, packet: bytes) -> Self:
        """Read what came from the network. Raises MalformedPacket."""
        if not HELLO_BYTES_MIN <= len(packet) <= HELLO_BYTES_MAX:
            raise MalformedPacket(f"hello: {len(packet)} bytes")
        try:
            raw: Any = HELLO.parse(packet)
        except ConstructError as error:
            raise MalformedPacket(f"hello: {error}") from error
        if raw.flags & ~_WANTS_ANSWER:
            raise MalformedPacket(f"hello: flags {raw.flags}")
        return cls(
            instance=raw.instance,
            challenge=raw.challenge,
            response=raw.response,
            wants_answer=bool(raw.flags & _WANTS_ANSWER),
            addresses=tuple((_unpacked(each.host), each.port) for each in raw.addresses),
        )


def _packed(host: str) -> bytes:
    address = ip_address(host)
    return address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed


def _unpacked(packed: bytes) -> str:
    address = IPv6Address(packed)
    return str(address.ipv4_mapped or address)

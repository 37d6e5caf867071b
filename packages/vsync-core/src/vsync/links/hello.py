"""Hello: what nodes say on each link, now and then, to know how it is.

A hello goes to everyone on one link. It says whom its sender hears on which links, so that each
node knows of both directions, and returns the time stamps of the others' hellos, so that they can
measure round trips. It tells of all links: what one link does not carry, another does.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from construct import Const, GreedyBytes, Int8ub, Int32ub, Int64ub, PrefixedArray, Struct

from vsync.checksum import crc32
from vsync.errors import MalformedPacket
from vsync.vocabulary import NodeId

MAGIC: Final = b"VL"
VERSION: Final = 1
LINKS_MAX: Final = 8
HEARD_MAX: Final = 24
"""Nodes that one hello tells of; of more, in turn. It fits into any packet."""

HELLO = Struct(
    "magic" / Const(MAGIC),
    "version" / Const(VERSION, Int8ub),
    "link" / Int8ub,  # the number of the link that it is sent on
    "checksum" / Int32ub,  # CRC-32 of what follows
    "network" / Int32ub,  # hash of the ring's name
    "node" / Int32ub,
    "life" / Int64ub,
    "counter" / Int64ub,  # of this node's hellos on this link: gaps are losses
    "sent_us" / Int64ub,  # by the sender's own clock; comes back as an echo
    "heard"
    / PrefixedArray(
        Int8ub,
        Struct(
            "node" / Int32ub,
            "links" / Int8ub,  # bit mask of the links that it is heard well on
            "echo_us" / Int64ub,  # the time stamp of its last hello on this link; 0: none
            "held_us" / Int32ub,  # how long ago that came
        ),
    ),
    "padding" / GreedyBytes,  # of zeros: now and then a hello is as long as a packet may be
)
"""The declaration; ``_HEAD`` and ``_HEARD`` are its twin."""

_START: Final = struct.Struct(">2sBBI")
_HEAD: Final = struct.Struct(">2sBBIIIQQQB")
_HEARD: Final = struct.Struct(">IBQI")
_HELD_MAX_US: Final = 2**32 - 1
HELLO_BYTES_MAX: Final = _HEAD.size + HEARD_MAX * _HEARD.size


class Heard(NamedTuple):
    """What a hello says of another node."""

    links: int
    echo_us: int
    held_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """One hello; *link* is where it was sent, masks have bit 0 for link 1."""

    link: int
    network: int
    node: NodeId
    life: int
    counter: int
    sent_us: int
    heard: Mapping[NodeId, Heard] = field(default_factory=dict)


def is_hello(packet: bytes | memoryview) -> bool:
    """Whether *packet* is one of ours and none of the ring's."""
    return len(packet) >= 2 and bytes(packet[:2]) == MAGIC


def build_hello(hello: Hello, size: int = 0) -> bytes:
    """The packet of *hello*, of at least *size* bytes."""
    heard = sorted(hello.heard.items())[:HEARD_MAX]
    head = _HEAD.pack(
        MAGIC,
        VERSION,
        hello.link,
        0,
        hello.network,
        hello.node,
        hello.life,
        hello.counter,
        hello.sent_us,
        len(heard),
    )
    body = head[_START.size :] + b"".join(
        _HEARD.pack(node, links, echo_us, min(held_us, _HELD_MAX_US))
        for node, (links, echo_us, held_us) in heard
    )
    body += bytes(max(0, size - _START.size - len(body)))
    return _START.pack(MAGIC, VERSION, hello.link, crc32(body)) + body


def parse_hello(packet: bytes | memoryview) -> Hello:
    """Read a hello. Raises MalformedPacket, whatever the bytes are, and nothing else."""
    if len(packet) < _HEAD.size:
        raise MalformedPacket("truncated", f"{len(packet)} bytes are no hello")
    magic, version, link, checksum, network, node, life, counter, sent_us, count = (
        _HEAD.unpack_from(packet)
    )
    if magic != MAGIC:
        raise MalformedPacket("garbage", "a hello begins with another magic number")
    if version != VERSION:
        raise MalformedPacket("version", f"hello version {version}, not {VERSION}")
    if crc32(memoryview(packet)[_START.size :]) != checksum:
        raise MalformedPacket("checksum", "the hello was damaged on its way")
    end = _HEAD.size + count * _HEARD.size
    if count > HEARD_MAX or len(packet) < end:
        raise MalformedPacket("malformed", f"a hello claims {count} nodes in {len(packet)} bytes")
    if node == 0 or not 1 <= link <= LINKS_MAX:
        raise MalformedPacket("malformed", f"a hello of node {node} on link {link}")
    heard = {
        NodeId(other): Heard(links, echo_us, held_us)
        for other, links, echo_us, held_us in _HEARD.iter_unpack(
            memoryview(packet)[_HEAD.size : end]
        )
    }
    return Hello(
        link=link,
        network=network,
        node=NodeId(node),
        life=life,
        counter=counter,
        sent_us=sent_us,
        heard=heard,
    )

"""Envelope: what stands before a sealed packet, in the clear; its seal covers it, too.

Behind it comes the packet, encrypted, and at the end the 16 bytes of AES-GCM's tag. A stream is all
that one stamp seals: one opening of one transport, in one life of one node.
"""

import struct
from typing import Final, NamedTuple

from construct import Bytes, Const, GreedyBytes, Int8ub, Int32ub, Int64ub, Struct

from vsync.wire.header import SEALED_MAGIC

MAGIC: Final = SEALED_MAGIC
VERSION: Final = 1
KEY_ID_BYTES: Final = 4

ENVELOPE = Struct(
    "magic" / Const(MAGIC),
    "version" / Const(VERSION, Int8ub),
    "reserved" / Const(0, Int8ub),
    "key_id" / Bytes(KEY_ID_BYTES),
    "node" / Int32ub,  # who sealed it
    "instance" / Int32ub,  # of that node's state on disk: a node that lost it is another instance
    "life" / Int64ub,  # grows from one life of an instance to the next
    "opening" / Int32ub,  # grows with each transport that is opened in a life
    "counter" / Int64ub,  # grows with each packet; with what stands before it, it never repeats
    "sealed" / GreedyBytes,  # the packet, encrypted, and the tag
)
"""The declaration; ``_PREFIX`` and ``_COUNTER`` are its twin."""

_PREFIX: Final = struct.Struct(">2sBB4sIIQI")
_COUNTER: Final = struct.Struct(">Q")
PREFIX_BYTES: Final = _PREFIX.size
"""What all packets of a stream under one key begin with."""
ENVELOPE_BYTES: Final = PREFIX_BYTES + _COUNTER.size
TAG_BYTES: Final = 16
COUNTER_MAX: Final = 2**48
"""A stream ends before: far below what AES-GCM allows under one key."""


class Stamp(NamedTuple):
    """Which stream a packet belongs to."""

    node: int
    instance: int
    life: int
    opening: int


class Envelope(NamedTuple):
    """What is read of a prefix."""

    key_id: bytes
    stamp: Stamp


def is_sealed(packet: bytes | memoryview) -> bool:
    """Whether *packet* claims to be sealed."""
    return len(packet) >= 2 and bytes(packet[:2]) == MAGIC


def build_prefix(key_id: bytes, stamp: Stamp) -> bytes:
    """What all packets of a stream under one key begin with."""
    return _PREFIX.pack(MAGIC, VERSION, 0, key_id, *stamp)


def read_prefix(prefix: bytes) -> Envelope | None:
    """The prefix of a packet that claims to be sealed; None if it is of another version."""
    _, version, reserved, key_id, node, instance, life, opening = _PREFIX.unpack(prefix)
    if version != VERSION or reserved or node == 0:
        return None
    return Envelope(key_id, Stamp(node, instance, life, opening))


def stream_info(network: int, link: int, stamp: Stamp) -> bytes:
    """What the key of a stream is derived from, besides the ring's: no two streams share it."""
    return b"vsync stream" + struct.pack(">II", network, link) + struct.pack(">IIQI", *stamp)

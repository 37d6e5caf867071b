"""What every packet begins with: 24 bytes, big-endian.

The checksum is over all that follows it; but that of a frame in several packets (see ``data``) is
over the frame, once it is put together.
"""

import hashlib
import struct
from enum import IntEnum
from typing import Final, NamedTuple

from construct import Const, Int8ub, Int32ub, Int64ub, Struct

from vsync.checksum import crc32
from vsync.errors import MalformedPacket
from vsync.vocabulary import NodeId

MAGIC: Final = b"VS"
SEALED_MAGIC: Final = b"VE"
"""What a sealed packet begins with; see ``vsync.seal``."""
PROTOCOL_VERSION: Final = 1
"""Raised when a node of the old version could no longer follow."""


class FrameType(IntEnum):
    """The fourth byte of a packet."""

    TOKEN = 0  #: the right to send, passed from node to node
    DATA = 1  #: messages, whole or in pieces; a frame, or a part of one
    BEACON = 2  #: a representative says that its ring exists
    JOIN = 3  #: who I think is here (or: I am leaving)
    COMMIT = 4  #: the proposed ring, on its two rounds
    WAKE = 5  #: someone has something to send: release the held token
    RECOVERED = 6  #: a data frame of an old ring, exchanged while recovering
    TERMS = 7  #: the settings that all nodes of my ring share, since yours differ


IN_PARTS: Final = frozenset((int(FrameType.DATA), int(FrameType.RECOVERED)))
"""Types of frames that may travel in several packets."""

HEADER = Struct(
    "magic" / Const(MAGIC),
    "version" / Const(PROTOCOL_VERSION, Int8ub),
    "type" / Int8ub,
    "checksum" / Int32ub,  # CRC-32 of what follows; tells damage, not forgery
    "network" / Int32ub,  # hash of the ring's name: rings that share a network stay apart
    "sender" / Int32ub,  # node id of the frame's author; a repeated data packet keeps it
    "life" / Int64ub,  # tells one life of that node from another
)
"""The declaration; ``HEADER_FAST`` is its twin."""

HEADER_FAST: Final = struct.Struct(">2sBBIIIQ")
HEADER_START: Final = struct.Struct(">2sBBI")
"""Up to where the checksum begins to count."""
HEADER_BYTES: Final = HEADER_FAST.size
CHECKED_FROM: Final = 8
"""Offset of the first byte that the checksum covers."""

RING = Struct("seq" / Int64ub, "representative" / Int32ub)
RING_BYTES: Final = 12


_CHECKED: Final = struct.Struct(">IIQ")


class Header(NamedTuple):
    """The part of a header that its readers need."""

    type: int
    checksum: int
    sender: NodeId
    life: int


def network_of(ring_name: str) -> int:
    """The 32-bit number that stands for a ring's name on the wire."""
    return int.from_bytes(hashlib.blake2b(ring_name.encode(), digest_size=4).digest())


class Sealer:
    """Puts headers before the bodies of one sender's packets."""

    def __init__(self, network: int, sender: int, life: int) -> None:
        self._fields = (network, sender, life)
        self.checked = _CHECKED.pack(network, sender, life)
        """What the checksums of all packets of this sender begin with."""
        self._checksum = crc32(self.checked)

    def seal(self, frame_type: int, body: bytes) -> bytes:
        """The packet of *body*."""
        checksum = crc32(body, self._checksum)
        return HEADER_FAST.pack(MAGIC, PROTOCOL_VERSION, frame_type, checksum, *self._fields) + body


def seal(frame_type: int, network: int, sender: int, life: int, body: bytes) -> bytes:
    """Put the header before *body*, for a sender that sends once."""
    return Sealer(network, sender, life).seal(frame_type, body)


def unseal(packet: bytes | memoryview, network: int) -> Header:
    """Check the header of *packet*, and the checksum unless that is of a frame in parts.

    Raises MalformedPacket, its reason fit for a counter.
    """
    if len(packet) < HEADER_BYTES:
        raise MalformedPacket("truncated", f"{len(packet)} bytes are no packet")
    magic, version, frame_type, checksum, its_network, sender, life = HEADER_FAST.unpack_from(
        packet
    )
    if magic == SEALED_MAGIC:
        raise MalformedPacket("sealed", "the packet is sealed, and this node has no key")
    if magic != MAGIC:
        raise MalformedPacket("garbage", "the packet does not begin with the magic number")
    if version != PROTOCOL_VERSION:
        raise MalformedPacket("version", f"protocol version {version}, not {PROTOCOL_VERSION}")
    if frame_type not in IN_PARTS and crc32(memoryview(packet)[CHECKED_FROM:]) != checksum:
        raise MalformedPacket("checksum", "the packet was damaged on its way")
    if its_network != network:
        raise MalformedPacket("other_ring", "the packet belongs to a ring of another name")
    if sender == 0:
        raise MalformedPacket("malformed", "the sender's node id is 0")
    return Header(frame_type, checksum, NodeId(sender), life)

"""Data frames: messages on their way, packed several to a frame or cut over several frames.

All messages of one frame have the same guarantee and priority, so the frame is what is ordered.
A message's bytes on the wire are a byte that counts its groups, their keys, and the payload.
"""

import struct
from typing import Final, NamedTuple

from construct import (
    Array,
    Bytes,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int64ub,
    Struct,
    Terminated,
    this,
)

from vsync.errors import MalformedPacket
from vsync.vocabulary import GROUP_KEY_BYTES, GroupKey, Guarantee, NodeId, Priority, RingId
from vsync.wire.header import HEADER_BYTES, RING, RING_BYTES, Header

CONTINUES: Final = 0x10  #: the first piece goes on with the message that the frame before left open
UNFINISHED: Final = 0x20  #: the last piece goes on in this sender's next frame of this priority
_FLAGS_KNOWN: Final = 0x3F

DATA = Struct(
    "ring" / RING,
    "seq" / Int64ub,  # place in the ring's total order
    "index" / Int64ub,  # the sender's own count of its frames of this priority on this ring
    "counter" / Int64ub,  # number of the first message (or piece) within sender, life and priority
    "flags" / Int8ub,  # bits 0-1 guarantee, 2-3 priority, 4 continues, 5 unfinished
    "lengths_count" / Int16ub,
    "lengths" / Array(this.lengths_count, Int16ub),
    "pieces" / Bytes(lambda context: sum(context.lengths)),
    Terminated,
)
"""The declaration of the body of a data packet; ``DATA_FAST`` is its twin."""

DATA_FAST: Final = struct.Struct(">QIQQQBH")
DATA_OVERHEAD_BYTES: Final = HEADER_BYTES + DATA_FAST.size
"""Bytes of a data packet before its table of lengths (two bytes a piece)."""

RECOVERED = Struct(
    "ring" / RING,  # the ring being formed
    "seq" / Int64ub,  # place in that ring's order
    "packet" / GreedyBytes,  # the old ring's data packet, as it was
)
RECOVERED_FAST: Final = struct.Struct(">QIQ")
RECOVERED_OVERHEAD_BYTES: Final = HEADER_BYTES + RING_BYTES + 8
"""What the wrapper of recovery adds; data packets leave room for it."""

PIECES_MAX: Final = 1024
_TABLES: Final = [struct.Struct(f">{count}H") for count in range(PIECES_MAX + 1)]


class Data:
    """One data frame, and the packet that it came in or goes out as.

    Not a frozen dataclass: it is made once a frame in the hot path. Nobody changes it.
    """

    __slots__ = (
        "continues",
        "counter",
        "first_byte",
        "guarantee",
        "index",
        "lengths",
        "life",
        "packet",
        "priority",
        "ring",
        "sender",
        "seq",
        "unfinished",
    )

    def __init__(
        self,
        sender: NodeId,
        life: int,
        ring: RingId,
        seq: int,
        index: int,
        counter: int,
        flags: int,
        lengths: tuple[int, ...],
        packet: bytes | memoryview,
    ) -> None:
        self.sender = sender
        self.life = life
        self.ring = ring
        self.seq = seq
        self.index = index
        self.counter = counter
        self.guarantee = flags & 3
        self.priority = (flags >> 2) & 3
        self.continues = bool(flags & CONTINUES)
        self.unfinished = bool(flags & UNFINISHED)
        self.lengths = lengths
        self.first_byte = DATA_OVERHEAD_BYTES + 2 * len(lengths)
        self.packet = packet

    def __repr__(self) -> str:
        return f"Data(ring={self.ring}, seq={self.seq}, sender={self.sender}, index={self.index})"


class Recovered(NamedTuple):
    """A data frame of an old ring, wrapped into the order of the ring being formed."""

    sender: NodeId
    life: int
    ring: RingId
    seq: int
    inner: bytes | memoryview
    packet: bytes | memoryview


class MessageHead(NamedTuple):
    """What stands before the payload in a message's bytes."""

    groups: tuple[GroupKey, ...]
    payload_from: int


def flags_of(guarantee: int, priority: int, *, continues: bool, unfinished: bool) -> int:
    """Pack what a data frame says of its messages into its flags byte."""
    return (
        guarantee
        | priority << 2
        | (CONTINUES if continues else 0)
        | (UNFINISHED if unfinished else 0)
    )


def build_data(
    ring: RingId, seq: int, index: int, counter: int, flags: int, pieces: list[bytes | memoryview]
) -> tuple[bytes, tuple[int, ...]]:
    """The body of a data packet, and its table of lengths."""
    lengths = tuple(map(len, pieces))
    head = DATA_FAST.pack(ring[0], ring[1], seq, index, counter, flags, len(lengths))
    return b"".join((head, _TABLES[len(lengths)].pack(*lengths), *pieces)), lengths


def parse_data(header: Header, packet: bytes | memoryview) -> Data:
    """Read a data packet whose header was checked. Raises MalformedPacket."""
    size = len(packet)
    if size < DATA_OVERHEAD_BYTES:
        raise MalformedPacket("truncated", "a data packet ends within its fixed part")
    ring_seq, representative, seq, index, counter, flags, count = DATA_FAST.unpack_from(
        packet, HEADER_BYTES
    )
    if not 0 < count <= PIECES_MAX or flags & ~_FLAGS_KNOWN or seq == 0:
        raise MalformedPacket("malformed", "a data packet has impossible fields")
    if size < DATA_OVERHEAD_BYTES + 2 * count:
        raise MalformedPacket("truncated", "a data packet ends within its table of lengths")
    lengths = _TABLES[count].unpack_from(packet, DATA_OVERHEAD_BYTES)
    if sum(lengths) != size - DATA_OVERHEAD_BYTES - 2 * count or 0 in lengths:
        raise MalformedPacket("malformed", "a data packet's lengths do not add up")
    return Data(
        header.sender,
        header.life,
        RingId(ring_seq, NodeId(representative)),
        seq,
        index,
        counter,
        flags,
        lengths,
        packet,
    )


def build_recovered(ring: RingId, seq: int, inner: bytes | memoryview) -> bytes:
    """The body of a recovered packet."""
    return RECOVERED_FAST.pack(ring[0], ring[1], seq) + inner


def parse_recovered(header: Header, packet: bytes | memoryview) -> Recovered:
    """Read a recovered packet whose header was checked. Raises MalformedPacket."""
    if len(packet) < RECOVERED_OVERHEAD_BYTES:
        raise MalformedPacket("truncated", "a recovered packet ends within its fixed part")
    ring_seq, representative, seq = RECOVERED_FAST.unpack_from(packet, HEADER_BYTES)
    if seq == 0:
        raise MalformedPacket("malformed", "a recovered packet has sequence number 0")
    return Recovered(
        header.sender,
        header.life,
        RingId(ring_seq, NodeId(representative)),
        seq,
        memoryview(packet)[RECOVERED_OVERHEAD_BYTES:],
        packet,
    )


def message_head(groups: tuple[GroupKey, ...]) -> bytes:
    """What stands before the payload in a message's bytes."""
    return bytes((len(groups),)) + b"".join(group.key for group in groups)


def parse_message_head(message: bytes | memoryview) -> MessageHead:
    """Read what stands before the payload. Raises MalformedPacket."""
    end = 1 + message[0] * GROUP_KEY_BYTES
    if end > len(message) or message[0] == 0:
        raise MalformedPacket("malformed", "a message ends within its groups")
    return MessageHead(
        tuple(
            GroupKey(bytes(message[start : start + GROUP_KEY_BYTES]))
            for start in range(1, end, GROUP_KEY_BYTES)
        ),
        end,
    )


GUARANTEES: Final = tuple(Guarantee)
PRIORITIES: Final = tuple(Priority)

"""Data frames: messages on their way, packed several to a frame or cut over several frames.

All messages of one frame have the same guarantee and priority, so the frame is what is ordered.
A message's bytes on the wire are its head (a byte that counts its groups, the number of the session
that sent it, the groups' keys) and the payload. The ring's own messages, which are about groups
(see ``group``), stand in the same order, in frames marked *control*, and have no head.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple
from zlib import crc32

from construct import (
    Array,
    Bytes,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    Struct,
    Terminated,
    this,
)

from vsync.errors import MalformedPacket
from vsync.vocabulary import (
    GROUP_KEY_BYTES,
    GROUPS_PER_MESSAGE_MAX,
    GroupKey,
    Guarantee,
    NodeId,
    Priority,
    RingId,
)
from vsync.wire.header import (
    CHECKED_FROM,
    HEADER_BYTES,
    HEADER_FAST,
    MAGIC,
    PROTOCOL_VERSION,
    RING,
    RING_BYTES,
    FrameType,
    Header,
)

CONTINUES: Final = 0x10  #: the first piece goes on with the message that the frame before left open
UNFINISHED: Final = 0x20  #: the last piece goes on in this sender's next frame of this priority
CONTROL: Final = 0x40  #: messages of the ring's own; agreed, ahead of all priorities
_FLAGS_KNOWN: Final = 0x7F

CONTROL_LANE: Final = len(Priority)
"""Where control frames queue and count, apart from the messages of all priorities."""

DATA = Struct(
    "ring" / RING,
    "seq" / Int64ub,  # place in the ring's total order
    "index" / Int64ub,  # the sender's own count of its frames of this lane on this ring
    "counter" / Int64ub,  # number of the first message (or piece) within sender, life and lane
    "flags" / Int8ub,  # bits 0-1 guarantee, 2-3 priority, 4 continues, 5 unfinished, 6 control
    "lengths_count" / Int16ub,
    "lengths" / Array(this.lengths_count, Int16ub),
    "pieces" / Bytes(lambda context: sum(context.lengths)),
    Terminated,
)
"""The declaration of the body of a data packet; ``DATA_FAST`` is its twin."""

DATA_FAST: Final = struct.Struct(">QIQQQBH")
_PACKET_FAST: Final = struct.Struct(HEADER_FAST.format + DATA_FAST.format.removeprefix(">"))
_DATA_TYPE: Final = int(FrameType.DATA)
_AGREED: Final = int(Guarantee.AGREED)
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

MESSAGE_HEAD = Struct(
    "groups_count" / Int8ub,
    "session" / Int32ub,  # of the sender, on its node: with the frame's sender, who sent it
    "groups" / Array(this.groups_count, Bytes(GROUP_KEY_BYTES)),
)
"""The declaration of a message's head; ``message_head`` builds it faster."""

_HEAD: Final = struct.Struct(">BI")
HEAD_BYTES_MIN: Final = _HEAD.size
HEAD_BYTES_MAX: Final = HEAD_BYTES_MIN + GROUPS_PER_MESSAGE_MAX * GROUP_KEY_BYTES

PIECES_MAX: Final = 1024
_TABLES: Final = [struct.Struct(f">{count}H") for count in range(PIECES_MAX + 1)]


def _read_flags(flags: int) -> tuple[int, int, bool, bool]:
    """Guarantee, lane (the priority, or ``CONTROL_LANE``), continues, unfinished."""
    lane = flags >> 2 & 3 if not flags & CONTROL else CONTROL_LANE
    return flags & 3, lane, bool(flags & CONTINUES), bool(flags & UNFINISHED)


_FLAGS: Final = tuple(map(_read_flags, range(256)))


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
        "lane",
        "lengths",
        "life",
        "packet",
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
        self.guarantee, self.lane, self.continues, self.unfinished = _FLAGS[flags]
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

    session: int
    groups: tuple[GroupKey, ...]
    payload_from: int


def flags_of(guarantee: int, lane: int, *, continues: bool, unfinished: bool) -> int:
    """Pack what a data frame says of its messages into its flags byte."""
    return (
        guarantee
        | (CONTROL if lane == CONTROL_LANE else lane << 2)
        | (CONTINUES if continues else 0)
        | (UNFINISHED if unfinished else 0)
    )


def build_data(
    ring: RingId,
    seq: int,
    index: int,
    counter: int,
    flags: int,
    pieces: Sequence[bytes | memoryview],
) -> tuple[bytes, tuple[int, ...]]:
    """The body of a data packet, and its table of lengths."""
    lengths = tuple(map(len, pieces))
    head = DATA_FAST.pack(ring[0], ring[1], seq, index, counter, flags, len(lengths))
    return b"".join((head, _TABLES[len(lengths)].pack(*lengths), *pieces)), lengths


def read_data(packet: bytes | memoryview, network: int, known: RingId) -> Data | None:
    """Read a good data packet of *network*, header and all, at once; None if it is anything else.

    *known* is a ring that it is likely to be of, so that not every frame has a copy of that. What
    is no good, ``unseal`` and ``parse_data`` can say why.
    """
    size = len(packet)
    if size < DATA_OVERHEAD_BYTES:
        return None
    (
        magic,
        version,
        frame_type,
        checksum,
        its_network,
        sender,
        life,
        ring_seq,
        representative,
        seq,
        index,
        counter,
        flags,
        count,
    ) = _PACKET_FAST.unpack_from(packet)
    if (
        magic != MAGIC
        or version != PROTOCOL_VERSION
        or frame_type != _DATA_TYPE
        or crc32(memoryview(packet)[CHECKED_FROM:]) != checksum
        or its_network != network
        or sender == 0
        or not 0 < count <= PIECES_MAX
        or flags & ~_FLAGS_KNOWN
        or (flags & CONTROL and flags & 0x0F != _AGREED)
        or seq == 0
        or size < DATA_OVERHEAD_BYTES + 2 * count
    ):
        return None
    lengths = _TABLES[count].unpack_from(packet, DATA_OVERHEAD_BYTES)
    if sum(lengths) != size - DATA_OVERHEAD_BYTES - 2 * count or 0 in lengths:
        return None
    if known[0] == ring_seq and known[1] == representative:
        ring = known
    else:
        ring = RingId(ring_seq, representative)
    return Data(sender, life, ring, seq, index, counter, flags, lengths, packet)


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
    if flags & CONTROL and flags & 0x0F != Guarantee.AGREED:
        raise MalformedPacket("malformed", "a control frame is agreed and has no priority")
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


def message_head(session: int, groups: tuple[GroupKey, ...]) -> bytes:
    """What stands before the payload in a message's bytes."""
    return _HEAD.pack(len(groups), session) + b"".join(group.key for group in groups)


def parse_message_head(message: bytes | memoryview) -> MessageHead:
    """Read what stands before the payload. Raises MalformedPacket."""
    end = HEAD_BYTES_MIN + message[0] * GROUP_KEY_BYTES
    if end > len(message) or message[0] == 0:
        raise MalformedPacket("malformed", "a message ends within its groups")
    return MessageHead(
        _HEAD.unpack_from(message)[1],
        tuple(
            GroupKey(bytes(message[start : start + GROUP_KEY_BYTES]))
            for start in range(HEAD_BYTES_MIN, end, GROUP_KEY_BYTES)
        ),
        end,
    )


GUARANTEES: Final = tuple(Guarantee)
PRIORITIES: Final = tuple(Priority)

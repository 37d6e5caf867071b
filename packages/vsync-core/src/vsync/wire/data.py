"""Data frames: messages on their way, packed several to a frame or cut over several frames.

The ring orders frames; the network carries packets. A frame travels in 1 to 64 packets, its
*parts*: what a packet costs hardly depends on its size, and what a frame costs does not either, so
where much waits a frame is as long as a whole burst of packets. What is lost is asked for, and
repeated, part by part. The checksum in the header of all parts is the frame's.

All messages of one frame have the same guarantee and priority, so the frame is what is ordered.
A message's bytes on the wire are its head (a byte that counts its groups, the number of the session
that sent it, the groups' keys) and the payload. The ring's own messages, which are about groups
(see ``group``), stand in the same order, in frames marked *control*, and have no head.
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

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

from vsync.checksum import crc32
from vsync.copying import Content, content_of, packets_of
from vsync.errors import MalformedPacket
from vsync.train import LateTrain, Train
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
    HEADER_START,
    MAGIC,
    PROTOCOL_VERSION,
    RING,
    FrameType,
    Header,
    Sealer,
)

CONTINUES: Final = 0x10  #: the first piece goes on with the message that the frame before left open
UNFINISHED: Final = 0x20  #: the last piece goes on in this sender's next frame of this priority
CONTROL: Final = 0x40  #: messages of the ring's own; agreed, ahead of all priorities
_FLAGS_KNOWN: Final = 0x7F
EMPTY: Final = CONTROL | int(Guarantee.AGREED)
"""The flags of a frame that may be without pieces: it only fills its number."""

CONTROL_LANE: Final = len(Priority)
"""Where control frames queue and count, apart from the messages of all priorities."""

PARTS_MAX: Final = 64
"""Parts of a frame, at most: a bitmap of them is one number in the token."""

FRAME_BYTES_MAX: Final = 65_000
"""About what kernels take and give in one call; with headers, seals and all, a frame is not longer.
"""

SEAL_BYTES: Final = 52
"""What a seal adds to each packet on its way; see ``vsync.seal``."""

CONTENT_BYTES_MAX: Final = 2**16
"""No frame of anybody carries more, whatever the length of his packets."""

PART = Struct(
    "ring" / RING,
    "seq" / Int64ub,  # the frame's place in the ring's total order
    "part" / Int8ub,  # which part of the frame this is, from 0
    "parts" / Int8ub,  # how many there are, from 1 to 64
    "content" / GreedyBytes,  # of the frame; put together, what DATA or RECOVERED declares
)
"""The declaration of the body of a packet of a data frame, or of a recovered one."""

DATA = Struct(
    "index" / Int64ub,  # the sender's own count of its frames of this lane on this ring
    "counter" / Int64ub,  # number of the first message (or piece) within sender, life and lane
    "flags" / Int8ub,  # bits 0-1 guarantee, 2-3 priority, 4 continues, 5 unfinished, 6 control
    "lengths_count" / Int16ub,
    "lengths" / Array(this.lengths_count, Int16ub),
    "pieces" / Bytes(lambda context: sum(context.lengths)),
    Terminated,
)
"""The declaration of a data frame's content; ``DATA_FAST`` is its twin."""

PART_FAST: Final = struct.Struct(">QIQBB")
DATA_FAST: Final = struct.Struct(">QQBH")
_PACKET_FAST: Final = struct.Struct(HEADER_FAST.format + PART_FAST.format.removeprefix(">"))
_DATA_TYPE: Final = int(FrameType.DATA)
_RECOVERED_TYPE: Final = int(FrameType.RECOVERED)
_AGREED: Final = int(Guarantee.AGREED)
_PLACE: Final = struct.Struct(">QIQ")
_NUMBER_AT: Final = HEADER_BYTES + _PLACE.size
_NUMBERS: Final = [[bytes((part, count)) for part in range(count)] for count in range(256)]
"""By the number of parts: which part of how many, for each of them."""
PART_OVERHEAD_BYTES: Final = HEADER_BYTES + PART_FAST.size
"""Bytes of a packet before its part of the content."""
DATA_HEAD_BYTES: Final = DATA_FAST.size
"""Bytes of a data frame's content before its table of lengths (two bytes a piece)."""

RECOVERED = Struct(
    "sender" / Int32ub,  # the old frame's author
    "life" / Int64ub,
    "ring" / RING,  # the old ring
    "seq" / Int64ub,  # place in the old ring's order
    "content" / GreedyBytes,  # the old frame's
)
"""The declaration of a recovered frame's content; ``RECOVERED_FAST`` is its twin."""

RECOVERED_FAST: Final = struct.Struct(">IQQIQ")
RECOVERED_HEAD_BYTES: Final = RECOVERED_FAST.size
"""What the wrapper of recovery adds; the longest data frames leave room for it."""

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

COUNTER_MAX: Final = 2**64 - 1 - PIECES_MAX
"""Of a frame's first message, at most: so the others' counters have no more than 64 bits either."""

_TABLES: Final = [struct.Struct(f">{count}H") for count in range(PIECES_MAX + 1)]


def _read_flags(flags: int) -> tuple[int, int, bool, bool]:
    """Guarantee, lane (the priority, or ``CONTROL_LANE``), continues, unfinished."""
    lane = flags >> 2 & 3 if not flags & CONTROL else CONTROL_LANE
    return flags & 3, lane, bool(flags & CONTINUES), bool(flags & UNFINISHED)


_FLAGS: Final = tuple(map(_read_flags, range(256)))


Packets: TypeAlias = Sequence[bytes | memoryview]

Own: TypeAlias = Sequence[tuple[bytes, Sequence[bytes]]]
"""Of a frame that this node made: the messages that end in it, in their order, by the head that
they have in common. They need not be read out of the frame again, nor copied for that."""


class Part(NamedTuple):
    """One of several parts of a frame, or all of them."""

    type: int
    checksum: int  #: of the frame
    sender: NodeId
    life: int
    ring: RingId
    seq: int
    part: int  #: which one; of all, the first
    parts: int  #: how many the frame has
    packets: Packets

    @property
    def content(self) -> bytes:
        """Its part of the frame's content."""
        return b"".join([packet[PART_OVERHEAD_BYTES:] for packet in self.packets])


class Data:
    """One data frame, and the packets that it came in or goes out as.

    Not a frozen dataclass: it is made once a frame in the hot path. Nobody changes it.
    """

    __slots__ = (
        "buffer",
        "continues",
        "counter",
        "first_byte",
        "guarantee",
        "index",
        "lane",
        "lengths",
        "life",
        "own",
        "packets",
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
        buffer: Content,
        first_byte: int,
        packets: Packets,
        own: Own | None = None,
    ) -> None:
        self.sender = sender
        self.life = life
        self.ring = ring
        self.seq = seq
        self.index = index
        self.counter = counter
        self.guarantee, self.lane, self.continues, self.unfinished = _FLAGS[flags]
        self.lengths = lengths
        self.buffer = buffer
        self.first_byte = first_byte
        self.packets = packets
        self.own = own

    @property
    def content(self) -> bytes:
        """What the packets carry together."""
        if self.own is not None:
            return bytes(_content(self.packets))
        flags = flags_of(
            self.guarantee, self.lane, continues=self.continues, unfinished=self.unfinished
        )
        head = data_head(self.index, self.counter, flags, self.lengths)
        return b"".join((head, memoryview(self.buffer)[self.first_byte :]))

    def __repr__(self) -> str:
        return f"Data(ring={self.ring}, seq={self.seq}, sender={self.sender}, index={self.index})"


class Recovered:
    """A data frame of an old ring, wrapped into the order of the ring being formed."""

    __slots__ = ("inner", "packets", "ring", "seq")

    def __init__(self, ring: RingId, seq: int, inner: Data, packets: Packets) -> None:
        self.ring = ring
        self.seq = seq
        self.inner = inner
        self.packets = packets


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


def data_head(index: int, counter: int, flags: int, lengths: Sequence[int]) -> bytes:
    """What stands before the pieces in the content of a data frame."""
    count = len(lengths)
    return DATA_FAST.pack(index, counter, flags, count) + _TABLES[count].pack(*lengths)


def build_recovered(frame: Data) -> bytes:
    """The content of a recovered frame."""
    head = RECOVERED_FAST.pack(frame.sender, frame.life, *frame.ring, frame.seq)
    return b"".join((head, frame.content))


def cut(
    sealer: Sealer,
    kind: FrameType,
    ring: RingId,
    seq: int,
    begin: bytes,
    rest: bytes | memoryview,
    packet_bytes_max: int,
) -> Packets:
    """The packets that carry a frame's content, each of up to *packet_bytes_max*.

    The content is *begin* and *rest*; *rest* is not copied but into the packets.
    """
    size = packet_bytes_max - PART_OVERHEAD_BYTES
    checked = sealer.checked + _PLACE.pack(ring[0], ring[1], seq)
    checksum = crc32(rest, crc32(begin, crc32(checked)))
    head = HEADER_START.pack(MAGIC, PROTOCOL_VERSION, kind, checksum) + checked
    length = len(begin) + len(rest)
    if length <= size:
        return [b"".join((head, b"\0\1", begin, rest))]
    numbers = _NUMBERS[-(-length // size)]
    return Train(packets_of(head, numbers, begin, rest, size), packet_bytes_max)


def read_part(packet: bytes | memoryview, network: int, known: RingId) -> Part | None:
    """Read a good packet of a data or recovered frame of *network*, header and all, at once.

    None if it is anything else; ``unseal`` and ``parse_part`` can say why. *known* is a ring that
    it is likely to be of, so that not every packet has a copy of that.
    """
    if len(packet) <= PART_OVERHEAD_BYTES:
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
        part,
        parts,
    ) = _PACKET_FAST.unpack_from(packet)
    if (
        magic != MAGIC
        or version != PROTOCOL_VERSION
        or (frame_type != _DATA_TYPE and frame_type != _RECOVERED_TYPE)
        or its_network != network
        or sender == 0
        or seq == 0
        or part >= parts
        or parts > PARTS_MAX
        or (len(packet) - PART_OVERHEAD_BYTES) * (parts - 1) > CONTENT_BYTES_MAX
    ):
        return None
    if known[0] == ring_seq and known[1] == representative:
        ring = known
    else:
        ring = RingId(ring_seq, representative)
    return tuple.__new__(
        Part, (frame_type, checksum, sender, life, ring, seq, part, parts, (packet,))
    )


def read_train(train: Train, network: int, known: RingId) -> Part | None:
    """Read a train of all parts of one frame; None if it does not look like that.

    A train may be of repeated parts of several frames. Whether all are what the first one and the
    last one say, the frame's checksum will tell.
    """
    view, size = train.view, train.packet_bytes
    first = read_part(view[:size], network, known)
    if first is None or first.part != 0 or first.parts != len(train):
        return None
    last = (first.parts - 1) * size
    if (
        view[last : last + _NUMBER_AT] != view[:_NUMBER_AT]
        or view[last + _NUMBER_AT : last + PART_OVERHEAD_BYTES] != _NUMBERS[first.parts][-1]
    ):
        return None
    return tuple.__new__(Part, (*first[:-1], train))


def parse_part(header: Header, packet: bytes | memoryview) -> Part:
    """Read a packet of a data or recovered frame; its header is checked. Raises MalformedPacket."""
    if len(packet) <= PART_OVERHEAD_BYTES:
        raise MalformedPacket("truncated", "a part of a frame ends before its content")
    ring_seq, representative, seq, part, parts = PART_FAST.unpack_from(packet, HEADER_BYTES)
    if (
        seq == 0
        or part >= parts
        or parts > PARTS_MAX
        or (len(packet) - PART_OVERHEAD_BYTES) * (parts - 1) > CONTENT_BYTES_MAX
    ):
        raise MalformedPacket("malformed", "a part of a frame has impossible fields")
    ring = RingId(ring_seq, NodeId(representative))
    return Part(
        header.type, header.checksum, header.sender, header.life, ring, seq, part, parts, (packet,)
    )


def parse_frame(part: Part, packets: Packets) -> Data | Recovered:
    """The frame that came in *packets*, of which *part* is one. Raises MalformedPacket."""
    packet = packets[0]
    buffer: Content = packet
    start = PART_OVERHEAD_BYTES
    checksum = crc32(packet[CHECKED_FROM:_NUMBER_AT])
    if part.parts == 1:
        checksum = crc32(memoryview(packet)[start:], checksum)
    else:
        buffer, start = _content(packets), 0
        if len(buffer) > CONTENT_BYTES_MAX:
            raise MalformedPacket("malformed", f"a frame of {len(buffer)} bytes is too long")
        checksum = crc32(buffer, checksum)
    if checksum != part.checksum:
        raise MalformedPacket("checksum", "a frame was damaged on its way")
    if part.type == _DATA_TYPE:
        return parse_data(part.sender, part.life, part.ring, part.seq, buffer, start, packets)
    if len(buffer) - start < RECOVERED_HEAD_BYTES:
        raise MalformedPacket("truncated", "a recovered frame ends within its head")
    head = buffer[start : start + RECOVERED_HEAD_BYTES]
    sender, life, ring_seq, representative, seq = RECOVERED_FAST.unpack(head)
    if sender == 0 or seq == 0:
        raise MalformedPacket("malformed", "a recovered frame has impossible fields")
    ring = RingId(ring_seq, NodeId(representative))
    start += RECOVERED_HEAD_BYTES
    inner = parse_data(NodeId(sender), life, ring, seq, buffer, start, ())
    return Recovered(part.ring, part.seq, inner, packets)


def _content(packets: Packets) -> Content:
    if type(packets) is LateTrain:
        packets = packets.train
    if type(packets) is Train:
        return content_of(packets.buffer, packets.packet_bytes, PART_OVERHEAD_BYTES)
    return b"".join([packet[PART_OVERHEAD_BYTES:] for packet in packets])


def parse_data(
    sender: NodeId,
    life: int,
    ring: RingId,
    seq: int,
    buffer: Content,
    start: int,
    packets: Packets,
) -> Data:
    """The data frame whose content stands in *buffer* from *start* on. Raises MalformedPacket."""
    size = len(buffer)
    if size < start + DATA_HEAD_BYTES:
        raise MalformedPacket("truncated", "a data frame ends within its head")
    head = buffer[start : start + DATA_HEAD_BYTES]
    index, counter, flags, count = DATA_FAST.unpack(head)
    if (
        count > PIECES_MAX
        or counter > COUNTER_MAX
        or flags & ~_FLAGS_KNOWN
        or not (count or flags == EMPTY)
    ):
        raise MalformedPacket("malformed", "a data frame has impossible fields")
    if flags & CONTROL and flags & 0x0F != _AGREED:
        raise MalformedPacket("malformed", "a control frame is agreed and has no priority")
    start += DATA_HEAD_BYTES
    first_byte = start + 2 * count
    if size < first_byte:
        raise MalformedPacket("truncated", "a data frame ends within its table of lengths")
    lengths = _TABLES[count].unpack(buffer[start:first_byte])
    if sum(lengths) != size - first_byte or 0 in lengths:
        raise MalformedPacket("malformed", "a data frame's lengths do not add up")
    return Data(
        sender, life, ring, seq, index, counter, flags, lengths, buffer, first_byte, packets
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

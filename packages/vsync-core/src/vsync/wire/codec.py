"""Codec: frames to packets and back, for one node of one ring."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from vsync.errors import MalformedPacket
from vsync.train import LateTrain, Train
from vsync.vocabulary import NodeId, RingId
from vsync.wire import control, data, token
from vsync.wire.control import Beacon, Commit, Join, Wake
from vsync.wire.data import (
    FRAME_BYTES_MAX,
    PART_OVERHEAD_BYTES,
    PARTS_MAX,
    SEAL_BYTES,
    Data,
    Own,
    Packets,
    Part,
    Recovered,
)
from vsync.wire.header import IN_PARTS, FrameType, Header, Sealer, unseal
from vsync.wire.terms import Terms
from vsync.wire.token import Token

LARGE_PIECE_BYTES: Final = 4096
"""A last piece of so many bytes goes into the packets without being copied before."""

Frame: TypeAlias = Token | Data | Beacon | Join | Commit | Wake | Recovered | Terms

_PARSERS: Final[dict[int, Callable[[Header, Any], Any]]] = {
    FrameType.TOKEN: token.parse_token,
    FrameType.BEACON: control.parse_beacon,
    FrameType.JOIN: control.parse_join,
    FrameType.COMMIT: control.parse_commit,
    FrameType.WAKE: control.parse_wake,
    FrameType.TERMS: control.parse_terms,
}


class Codec:
    """Speaks for one life of one node on the network of one ring name.

    *packet_bytes_max* is how long its packets may be.
    """

    def __init__(
        self, network: int, node: NodeId, life: int, packet_bytes_max: int = FRAME_BYTES_MAX
    ) -> None:
        self._network = network
        self._node = node
        self._life = life
        self._packet_bytes_max = packet_bytes_max
        self._sealer = Sealer(network, node, life)
        self._seal = self._sealer.seal
        self._ring = RingId(0, NodeId(0))
        carried = FRAME_BYTES_MAX // (packet_bytes_max + SEAL_BYTES)
        self.parts_max = max(1, min(PARTS_MAX, carried))
        """Parts of this node's frames."""
        self.part_bytes = packet_bytes_max - PART_OVERHEAD_BYTES
        """What each part carries."""

    def decode(self, packet: bytes | memoryview) -> tuple[Header, Frame | Part]:
        """Read a packet: a frame, or a part of one that needs others.

        Raises MalformedPacket, whatever the bytes are, and nothing else.
        """
        header = unseal(packet, self._network)
        if header.type in IN_PARTS:
            part = data.parse_part(header, packet)
            return header, part if part.parts > 1 else self.assemble(part, part.packets)
        parse = _PARSERS.get(header.type)
        if parse is None:
            raise MalformedPacket("malformed", f"frame type {header.type} is unknown")
        return header, parse(header, packet)

    def decode_part(self, packet: bytes | memoryview) -> Part:
        """As ``decode``, for a packet that says that it is of a data or recovered frame.

        Such packets come by the ten thousand a second, so this makes nothing that they do not need.
        """
        part = data.read_part(packet, self._network, self._ring)
        if part is None:
            return data.parse_part(unseal(packet, self._network), packet)
        self._ring = part.ring
        return part

    def decode_train(self, train: Train) -> Part | None:
        """As ``decode_part`` for several at once; None if they must be looked at one by one."""
        return data.read_train(train, self._network, self._ring)

    def assemble(self, part: Part, packets: Packets) -> Data | Recovered:
        """The frame of which *part* is one and *packets* are all. Raises MalformedPacket."""
        return data.parse_frame(part, packets)

    def data(
        self,
        ring: RingId,
        seq: int,
        index: int,
        counter: int,
        flags: int,
        pieces: Sequence[bytes | memoryview],
        lengths: tuple[int, ...] | None = None,
        own: Own | None = None,
    ) -> Data:
        """A data frame of this node, with its packets, which are made when they are wanted.

        *lengths* are those of the messages and pieces of messages in it; without them, each of
        *pieces* is one. With *own*, the messages that end in it are not read out of it.
        """
        if lengths is None:
            lengths = tuple(map(len, pieces))
        head = data.data_head(index, counter, flags, lengths)
        buffer = b""
        first_byte = 0
        parts = -(-(len(head) + sum(lengths)) // self.part_bytes)
        packets: Packets
        if own is None:
            buffer, first_byte = b"".join((head, *pieces)), len(head)
            packets = self._cut(FrameType.DATA, ring, seq, buffer, b"")
        elif parts == 1:
            packets = self._cut_pieces(ring, seq, head, pieces)
        else:
            packets = LateTrain(parts, partial(self._cut_pieces, ring, seq, head, pieces))
        return Data(
            self._node,
            self._life,
            ring,
            seq,
            index,
            counter,
            flags,
            lengths,
            buffer,
            first_byte,
            packets,
            own,
        )

    def _cut_pieces(
        self, ring: RingId, seq: int, head: bytes, pieces: Sequence[bytes | memoryview]
    ) -> Packets:
        """The packets of a data frame of those *pieces*."""
        rest: bytes | memoryview = b""
        if pieces and len(pieces[-1]) >= LARGE_PIECE_BYTES:
            *pieces, rest = pieces
        return self._cut(FrameType.DATA, ring, seq, b"".join((head, *pieces)), rest)

    def recovered(self, ring: RingId, seq: int, inner: Data) -> Recovered:
        """A wrapped old frame, with its packets."""
        content = data.build_recovered(inner)
        return Recovered(ring, seq, inner, self._cut(FrameType.RECOVERED, ring, seq, b"", content))

    def _cut(
        self, kind: FrameType, ring: RingId, seq: int, begin: bytes, rest: bytes | memoryview
    ) -> Packets:
        return data.cut(self._sealer, kind, ring, seq, begin, rest, self._packet_bytes_max)

    def token(self, frame: Token) -> bytes:
        """A token's packet."""
        return self._seal(FrameType.TOKEN, token.build_token(frame))

    def join(self, frame: Join) -> bytes:
        """A join's packet."""
        return self._seal(FrameType.JOIN, control.build_join(frame))

    def commit(self, frame: Commit) -> bytes:
        """A commit token's packet."""
        return self._seal(FrameType.COMMIT, control.build_commit(frame))

    def beacon(self, frame: Beacon) -> bytes:
        """A beacon's packet."""
        return self._seal(FrameType.BEACON, control.build_beacon(frame))

    def wake(self, frame: Wake) -> bytes:
        """A wake's packet."""
        return self._seal(FrameType.WAKE, control.build_wake(frame))

    def terms(self, frame: Terms) -> bytes:
        """A terms packet."""
        return self._seal(FrameType.TERMS, control.build_terms(frame))

"""Codec: frames to packets and back, for one node of one ring."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from vsync.errors import MalformedPacket
from vsync.vocabulary import NodeId, RingId
from vsync.wire import control, data, token
from vsync.wire.control import Beacon, Commit, Join, Wake
from vsync.wire.data import Data, Recovered, read_data
from vsync.wire.header import FrameType, Header, Sealer, unseal
from vsync.wire.token import Token

Frame: TypeAlias = Token | Data | Beacon | Join | Commit | Wake | Recovered

_PARSERS: Final[dict[int, Callable[[Header, Any], Frame]]] = {
    FrameType.TOKEN: token.parse_token,
    FrameType.DATA: data.parse_data,
    FrameType.BEACON: control.parse_beacon,
    FrameType.JOIN: control.parse_join,
    FrameType.COMMIT: control.parse_commit,
    FrameType.WAKE: control.parse_wake,
    FrameType.RECOVERED: data.parse_recovered,
}


class Codec:
    """Speaks for one life of one node on the network of one ring name."""

    def __init__(self, network: int, node: NodeId, life: int) -> None:
        self._network = network
        self._node = node
        self._life = life
        self._seal = Sealer(network, node, life).seal
        self._ring = RingId(0, NodeId(0))

    def decode(self, packet: bytes | memoryview) -> tuple[Header, Frame]:
        """Read a packet. Raises MalformedPacket, whatever the bytes are, and nothing else."""
        header = unseal(packet, self._network)
        parse = _PARSERS.get(header.type)
        if parse is None:
            raise MalformedPacket("malformed", f"frame type {header.type} is unknown")
        return header, parse(header, packet)

    def decode_data(self, packet: bytes | memoryview) -> Data:
        """As ``decode``, for a packet that says that it is a data packet: the frame alone.

        Such packets come by the ten thousand a second, so this makes nothing that they do not need.
        """
        frame = read_data(packet, self._network, self._ring)
        if frame is None:
            header = unseal(packet, self._network)
            return data.parse_data(header, packet)
        self._ring = frame.ring
        return frame

    def data(
        self,
        ring: RingId,
        seq: int,
        index: int,
        counter: int,
        flags: int,
        pieces: Sequence[bytes | memoryview],
    ) -> Data:
        """A data frame of this node, with its packet."""
        body, lengths = data.build_data(ring, seq, index, counter, flags, pieces)
        packet = self._seal(FrameType.DATA, body)
        return Data(self._node, self._life, ring, seq, index, counter, flags, lengths, packet)

    def recovered(self, ring: RingId, seq: int, inner: bytes | memoryview) -> Recovered:
        """A wrapped old frame, with its packet."""
        packet = self._seal(FrameType.RECOVERED, data.build_recovered(ring, seq, inner))
        return Recovered(self._node, self._life, ring, seq, inner, packet)

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

"""Clusters whose every frame is read on its way, for tests of what goes over the wire."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import pytest

from vsync.settings import RingSettings
from vsync.testing.cluster import Cluster
from vsync.transport import Burst
from vsync.vocabulary import NodeId
from vsync.wire import IN_PARTS, Codec, Frame, FrameType, Part, network_of
from vsync.wire.header import HEADER_FAST

F = TypeVar("F", bound=Frame)


class Seen(NamedTuple):
    """One packet as it left a host: when, from where, to whom (``None``: everyone), and what.

    Packets of data frames and recovered ones are parts, though it may be of one.
    """

    t: float
    sender: int
    receiver: int | None
    frame: Frame | Part
    packet: bytes


class Wiretap:
    """Everything that was sent since the tap was put on, in order; lost or not."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def of(self, kind: type[F]) -> list[tuple[Seen, F]]:
        """The frames of one kind."""
        return [(seen, seen.frame) for seen in self.seen if isinstance(seen.frame, kind)]

    def parts(self, kind: FrameType = FrameType.DATA) -> list[tuple[Seen, Part]]:
        """The packets of data frames, or of recovered ones."""
        parts = ((seen, seen.frame) for seen in self.seen if isinstance(seen.frame, Part))
        return [(seen, part) for seen, part in parts if part.type == kind]


@contextmanager
def wiretap(cluster: Cluster) -> Iterator[Wiretap]:
    """Read what *cluster*'s network carries."""
    tap = Wiretap()
    codec = Codec(network_of(RingSettings().name), NodeId(999), 1)
    send = cluster.network.send

    def send_and_tell(sender: int, burst: Burst, now: float) -> None:
        receiver = burst.destination
        assert receiver is None or isinstance(receiver, int)
        for data in burst.packets:
            packet = bytes(data)
            part = HEADER_FAST.unpack_from(packet)[2] in IN_PARTS
            frame = codec.decode_part(packet) if part else codec.decode(packet)[1]
            tap.seen.append(Seen(now, sender, receiver, frame, packet))
        send(sender, burst, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster.network, "send", send_and_tell)
        yield tap


def ring_of(count: int, settings: RingSettings | None = None, seed: int = 3) -> Cluster:
    """*count* nodes on one ring."""
    cluster = Cluster(count, seed=seed, settings=settings)
    cluster.start()
    assert cluster.settle()
    return cluster

"""Frames of a ring with a key: they fit through the network as those without one do."""

import pytest

from vsync.ip.offload import GSO_BYTES_MAX
from vsync.keys import Key, KeyRing
from vsync.seal import OVERHEAD_BYTES, Guard, Stamp
from vsync.train import Train
from vsync.transport import EVERYONE, Burst
from vsync.vocabulary import NodeId, RingId
from vsync.wire import Codec
from vsync.wire.data import SEAL_BYTES

KEY = Key(bytes(range(32)))


def test_what_a_seal_adds_is_what_frames_leave_room_for() -> None:
    assert SEAL_BYTES == OVERHEAD_BYTES


@pytest.mark.parametrize("carried", [576, 1232, 1472, 1452, 4052, 8972, 9000])
def test_the_longest_frame_leaves_in_one_call_sealed_or_not(carried: int) -> None:
    """Else the last packet of each comes alone, and the receiver must take it part by part."""
    for size in (carried, carried - OVERHEAD_BYTES):
        codec = Codec(1, NodeId(1), 1, size)
        content = bytes(codec.part_bytes * codec.parts_max - 100)
        frame = codec.data(RingId(1, NodeId(1)), 1, 0, 0, 2, [content])
        assert len(frame.packets) == codec.parts_max
        guard = Guard(KeyRing(KEY), Stamp(1, 1, 1, 1))
        sealed = guard.seal_burst(Burst(EVERYONE, frame.packets)).packets
        assert isinstance(frame.packets, Train)
        assert isinstance(sealed, Train)
        assert len(frame.packets.buffer) <= min(GSO_BYTES_MAX.values())
        if size < carried:
            assert len(sealed.buffer) <= min(GSO_BYTES_MAX.values())
            # And no shorter than need be.
            assert len(sealed.buffer) + 2 * carried > 65_000 or codec.parts_max == 64

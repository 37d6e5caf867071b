"""Joining packets to runs for GSO, and splitting what GRO joined."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from vsync.ip.offload import joined, segment_bytes_of
from vsync.transport import Train

packet_lists = st.lists(st.sampled_from([0, 1, 3, 3, 3, 7, 7, 20]), max_size=60).map(
    lambda sizes: [bytes([number % 256]) * size for number, size in enumerate(sizes)]
)


def as_the_kernel_cuts(run: Sequence[bytes]) -> list[bytes]:
    return [bytes(packet) for packet in Train(b"".join(run), len(run[0]) or 1)] or [b""]


@given(packet_lists, st.integers(1, 100), st.integers(1, 12))
def test_runs_come_out_as_the_packets_that_went_in(
    packets: list[bytes], bytes_max: int, segments_max: int
) -> None:
    runs = list(joined(packets, bytes_max=bytes_max, segments_max=segments_max))
    assert [packet for run in runs for packet in as_the_kernel_cuts(run)] == packets
    for run in runs:
        assert len(run) <= segments_max
        assert len(run) == 1 or sum(map(len, run)) <= bytes_max


@given(st.integers(1, 2000), st.integers(0, 300))
def test_equal_packets_need_as_few_runs_as_can_be(size: int, count: int) -> None:
    runs = list(joined([bytes(size)] * count, bytes_max=65_493, segments_max=128))
    full = min(128, 65_493 // size)
    assert len(runs) == -(-count // full)


@given(st.lists(st.tuples(st.integers(), st.integers(), st.binary(max_size=8)), max_size=4))
def test_control_messages_of_others_are_no_segment_size(
    ancillary: list[tuple[int, int, bytes]],
) -> None:
    strangers = [each for each in ancillary if each[:2] != (17, 104)]
    assert segment_bytes_of(strangers) == 0
    assert segment_bytes_of([*strangers, (17, 104, b"\xc0\x05\0\0")]) == 0x5C0

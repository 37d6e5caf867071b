"""How messages are put into frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync.engine.packing import PackedFrame, Packer
from vsync.vocabulary import GroupKey, Guarantee, Priority
from vsync.wire.data import CONTINUES, DATA_HEAD_BYTES, RECOVERED_HEAD_BYTES, UNFINISHED

GROUP = (GroupKey.from_name("g"),)
FRAME = 300
OVERHEAD = DATA_HEAD_BYTES + RECOVERED_HEAD_BYTES


def taken(packer: Packer) -> list[PackedFrame]:
    frames = []
    while (frame := packer.take(1)) is not None:
        frames.append(frame)
    return frames


def submit(packer: Packer, size: int, guarantee: Guarantee = Guarantee.AGREED) -> int:
    return packer.submit(1, GROUP, [bytes(size)], guarantee, Priority.MEDIUM)


def test_small_messages_share_a_frame() -> None:
    packer = Packer(FRAME + OVERHEAD, 1)
    for _ in range(4):
        submit(packer, 10)
    (frame,) = taken(packer)
    assert len(frame.lengths) == 4
    assert frame.messages_finished == 4


def test_messages_of_different_guarantees_do_not() -> None:
    packer = Packer(FRAME + OVERHEAD, 1)
    for guarantee in Guarantee:
        submit(packer, 1, guarantee)
    assert [frame.flags & 3 for frame in taken(packer)] == list(Guarantee)


def test_the_highest_priority_goes_first() -> None:
    packer = Packer(FRAME + OVERHEAD, 1)
    for priority in reversed(Priority):
        packer.submit(1, GROUP, [b"x"], Guarantee.AGREED, priority)
    assert [frame.flags >> 2 & 3 for frame in taken(packer)] == list(Priority)


@given(
    st.lists(st.tuples(st.integers(0, 1500), st.sampled_from(Guarantee)), max_size=30),
    st.integers(0, 60),
)
def test_nothing_is_lost_and_no_frame_is_too_large(
    messages: list[tuple[int, Guarantee]], taken_before_restart: int
) -> None:
    packer = Packer(FRAME + OVERHEAD, 1)
    for size, guarantee in messages:
        submit(packer, size, guarantee)
    before = []
    for _ in range(taken_before_restart):
        frame = packer.take(1)
        if frame is not None:
            before.append(frame)
        assert packer.pending_bytes >= 0
    packer.restart()
    after = taken(packer)
    assert packer.pending_bytes == packer.pending_messages == packer.backlog_packets == 0
    for frames in (before, after):
        assert [frame.frame_index for frame in frames] == list(range(len(frames)))
        for frame in frames:
            assert sum(length + 2 for length in frame.lengths) <= FRAME
            assert sum(map(len, frame.pieces)) == sum(frame.lengths)
    finished = sum(frame.messages_finished for frame in before)
    sizes = [37 + size for size, _ in messages]
    assert sum(len(piece) for frame in after for piece in frame.pieces) == sum(sizes[finished:])
    if after:
        assert not after[0].flags & CONTINUES
        assert not after[-1].flags & UNFINISHED


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_frame_names_its_first_message(count: int) -> None:
    packer = Packer(FRAME + OVERHEAD, 1)
    counters = [submit(packer, 250) for _ in range(count)]
    frames = taken(packer)
    assert counters == list(range(count))
    starts = [frame.counter for frame in frames if not frame.flags & CONTINUES]
    assert starts[0] == 0
    assert starts == sorted(set(starts))


@given(
    st.lists(st.integers(0, 3000), max_size=40),
    st.integers(1, 64),
    st.integers(200, 1500),
    st.data(),
)
def test_a_frame_takes_as_many_parts_as_it_may_and_the_longest_leave_room_for_a_wrapper(
    sizes: list[int], parts_max: int, part_bytes: int, data: st.DataObject
) -> None:
    packer = Packer(part_bytes, parts_max)
    for size in sizes:
        submit(packer, size)
    while packer.may_send:
        allowed = data.draw(st.integers(1, 80))
        frame = packer.take(allowed)
        assert frame is not None
        size = DATA_HEAD_BYTES + sum(2 + length for length in frame.lengths)
        parts = -(-size // part_bytes)
        assert parts <= min(allowed, parts_max)
        assert size + RECOVERED_HEAD_BYTES <= parts_max * part_bytes or parts < parts_max
        if packer.may_send:  # it is full but for what a first piece is not worth its place for
            assert parts >= min(allowed, parts_max) - 1

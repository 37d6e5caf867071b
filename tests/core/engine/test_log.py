"""What a ring's log delivers, and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.engine.logs import (
    REGULAR,
    TRANSITIONAL,
    Sender,
    delivered,
    new_log,
    payloads,
)
from tests.core.wire.frames import NETWORK
from vsync.engine.log import AHEAD_MAX, ALL_PARTS, PARTIALS_MAX, Log
from vsync.vocabulary import Guarantee, NodeId
from vsync.wire import Codec, Data, FrameType, Part
from vsync.wire.data import PART_OVERHEAD_BYTES, flags_of

UNORDERED, FIFO, AGREED, SAFE = Guarantee


def test_agreed_messages_wait_for_every_gap() -> None:
    log, one, two = new_log(), Sender(1), Sender(2)
    first, second = one.frame(1, AGREED, b"1"), two.frame(2, AGREED, b"2")
    log.add(second)
    assert delivered(log) == []
    log.add(first)
    assert delivered(log) == [b"1", b"2"]


def test_a_safe_message_waits_until_all_have_it_and_holds_back_agreed_ones() -> None:
    log, one = new_log(), Sender(1)
    for frame in (one.frame(1, SAFE, b"safe"), one.frame(2, AGREED, b"agreed")):
        log.add(frame)
    assert delivered(log) == []
    log.settle(1)
    assert delivered(log) == [b"safe", b"agreed"]


def test_unordered_messages_overtake_everything() -> None:
    log, one, two = new_log(), Sender(1), Sender(2)
    one.frame(1, AGREED, b"missing")
    log.add(two.frame(2, SAFE, b"waits"))
    log.add(two.frame(3, UNORDERED, b"at once"))
    assert delivered(log) == [b"at once"]


def test_fifo_messages_wait_for_their_own_sender_only() -> None:
    log, one, two = new_log(), Sender(1), Sender(2)
    early = one.frame(1, FIFO, b"1a")
    log.add(two.frame(2, FIFO, b"2a"))
    log.add(one.frame(3, FIFO, b"1b"))
    assert delivered(log) == [b"2a"]
    log.add(early)
    assert delivered(log) == [b"1a", b"1b"]


def test_a_fifo_message_does_not_overtake_an_agreed_one_of_its_sender() -> None:
    log, one, two = new_log(), Sender(1), Sender(2)
    missing = two.frame(1, AGREED, b"2")
    log.add(one.frame(2, AGREED, b"agreed"))
    log.add(one.frame(3, FIFO, b"fifo"))
    assert delivered(log) == []
    log.add(missing)
    assert delivered(log) == [b"2", b"agreed", b"fifo"]


@given(st.permutations(range(6)), st.sampled_from(Guarantee))
def test_frames_may_come_in_any_order(order: list[int], guarantee: Guarantee) -> None:
    log, one = new_log(), Sender(1)
    frames = [
        one.frame(1, guarantee, b"a", b"b"),
        *one.cut([2, 3, 4], guarantee, b"a long message" * 20),
        one.frame(5, guarantee, b"c"),
        one.frame(6, guarantee, b"d"),
    ]
    got: list[bytes] = []
    for place in order:
        assert log.add(frames[place])
        assert not log.add(frames[place])
        got += delivered(log)
    log.settle(6)
    got += delivered(log)
    expected = [b"a", b"b", b"a long message" * 20, b"c", b"d"]
    assert sorted(got) == sorted(expected)
    if guarantee != UNORDERED:
        assert got == expected


@given(st.lists(st.sampled_from(Guarantee), min_size=1, max_size=12), st.data())
def test_one_senders_ordered_messages_keep_their_order(
    guarantees: list[Guarantee], data: st.DataObject
) -> None:
    log, one = new_log(), Sender(1)
    frames = [one.frame(seq, guarantee, b"%d" % seq) for seq, guarantee in enumerate(guarantees, 1)]
    got: list[int] = []
    for place in data.draw(st.permutations(range(len(frames)))):
        log.add(frames[place])
        log.settle(data.draw(st.integers(0, log.aru)))
        got += map(int, delivered(log))
    log.settle(len(frames))
    got += map(int, delivered(log))
    ordered = [seq for seq in got if guarantees[seq - 1] != UNORDERED]
    assert ordered == sorted(ordered)
    assert sorted(got) == list(range(1, len(frames) + 1))


def test_what_all_have_and_was_delivered_is_forgotten_and_not_taken_again() -> None:
    log, one = new_log(), Sender(1)
    frames = [one.frame(seq, AGREED, b"x") for seq in (1, 2, 3)]
    for frame in frames:
        log.add(frame)
    delivered(log)
    log.settle(2)
    log.release()
    assert [bool(log.packets(seq)) for seq in (1, 2, 3)] == [False, False, True]
    assert log.held_packets == 1
    assert not log.add(frames[0])


def test_a_number_beyond_belief_is_not_taken() -> None:
    log, one = new_log(), Sender(1)
    assert not log.add(one.frame(AHEAD_MAX + 1, AGREED, b"x"))
    assert log.high == 0


def test_the_lowest_missing_numbers_are_asked_for() -> None:
    log, one = new_log(), Sender(1)
    for seq in (2, 5, 9):
        log.add(one.frame(seq, AGREED, b"x"))
    assert list(log.missing(9, 3)) == [1, 3, 4]
    assert log.missing(3, 10) == {1: ALL_PARTS, 3: ALL_PARTS}


def parts_of(frame: Data, size: int) -> list[Part]:
    """A frame's packets, were packets as small as to carry *size* bytes of it."""
    codec = Codec(NETWORK, frame.sender, frame.life, PART_OVERHEAD_BYTES + size)
    flags = flags_of(frame.guarantee, frame.lane, continues=False, unfinished=False)
    piece = memoryview(frame.buffer)[frame.first_byte :]
    made = codec.data(frame.ring, frame.seq, frame.index, frame.counter, flags, [piece])
    return [codec.decode_part(packet) for packet in made.packets]


def test_a_frame_is_here_with_its_last_part_and_its_missing_ones_are_asked_for() -> None:
    log = new_log()
    parts = parts_of(Sender(1).frame(1, AGREED, bytes(100)), 40)
    assert len(parts) == 4
    assert log.add_part(parts[2]) is log.add_part(parts[0]) is log.add_part(parts[2]) is None
    assert log.missing(1, 9) == {1: 0b1010}
    assert log.add_part(parts[3]) is None
    assert log.add_part(parts[1]) == [part.packets[0] for part in parts]
    assert log.missing(1, 9) == {1: ALL_PARTS}  # until the frame that they are is added


def test_parts_that_are_at_odds_are_not_mixed_and_the_newer_ones_are_kept() -> None:
    log = new_log()
    parts = parts_of(Sender(1).frame(1, AGREED, bytes(100)), 40)
    for wrong in (
        parts[1]._replace(parts=5),
        parts[1]._replace(sender=NodeId(2)),
        parts[1]._replace(life=7),
        parts[1]._replace(type=FrameType.RECOVERED),
        parts[1]._replace(checksum=1),
    ):
        log.add_part(wrong)
        assert log.add_part(parts[0]) is None
        assert log.missing(1, 9) == {1: 0b1110}


def test_parts_of_no_more_frames_than_a_bound_are_kept() -> None:
    log = new_log()
    for seq in range(2, PARTIALS_MAX + 10):
        parts = parts_of(Sender(1).frame(seq, AGREED, bytes(100)), 40)
        log.add_part(parts[0])
    assert sum(parts != ALL_PARTS for parts in log.missing(9999, 9999).values()) == PARTIALS_MAX
    # The lowest is what all others wait for, so it has its place whatever came before it.
    lowest = parts_of(Sender(2).frame(1, AGREED, bytes(100)), 40)
    log.add_part(lowest[0])
    assert log.missing(1, 1) == {1: 0b1110}
    assert sum(parts != ALL_PARTS for parts in log.missing(9999, 9999).values()) == PARTIALS_MAX
    assert log.add_part(parts[0]._replace(seq=AHEAD_MAX + 1)) is None


def test_frames_that_the_token_has_not_counted_keep_nobody_waiting() -> None:
    log = new_log()
    for seq in (1, 2, 50, 60):
        log.add(Sender(1).frame(seq, AGREED, b"x"))
    assert log.held_packets == 4
    assert [log.held_packets_to(seq) for seq in (2, 50, 59, 60, 99)] == [2, 3, 3, 4, 4]


def test_a_frame_that_came_whole_meanwhile_needs_no_more_parts() -> None:
    log, frame = new_log(), Sender(1).frame(1, AGREED, bytes(100))
    parts = parts_of(frame, 40)
    log.add_part(parts[0])
    assert log.add(frame)
    assert log.add_part(parts[1]) is None
    assert not log._partials


def log_after_a_loss() -> Log:
    """1 agreed of node 3, 2 safe of 3, 3 lost (of 3), 4 agreed of 3, 5 agreed of 2."""
    log, two, three = new_log(), Sender(2), Sender(3)
    log.add(three.frame(1, AGREED, b"before"))
    log.add(three.frame(2, SAFE, b"safe"))
    three.frame(3, AGREED, b"lost")
    log.add(three.frame(4, AGREED, b"may depend on the lost one"))
    log.add(two.frame(5, AGREED, b"of one who comes along"))
    return log


def rest(log: Log, delivered_by_any: int, owed: set[int]) -> tuple[list[bytes], list[bytes]]:
    old = log.deliver_rest(REGULAR, delivered_by_any)
    new = log.deliver_transitional(TRANSITIONAL, {NodeId(node) for node in owed})
    return payloads(old), payloads(new)


def test_beyond_the_first_gap_only_those_who_come_along_are_delivered() -> None:
    old, new = rest(log_after_a_loss(), 0, {1, 2})
    assert old == [b"before"]
    assert new == [b"safe", b"of one who comes along"]


def test_a_safe_message_that_anyone_delivered_belongs_to_the_old_configuration() -> None:
    old, new = rest(log_after_a_loss(), 2, {1, 2})
    assert old == [b"before", b"safe"]
    assert new == [b"of one who comes along"]


def test_what_is_owed_is_delivered_beyond_a_gap() -> None:
    _, new = rest(log_after_a_loss(), 2, {1, 2, 3})
    assert new == [b"may depend on the lost one", b"of one who comes along"]


def test_half_a_message_is_never_delivered() -> None:
    log, three = new_log(), Sender(3)
    frames = three.cut([1, 2, 3], AGREED, b"x" * 300)
    log.add(frames[0])
    log.add(frames[1])
    assert rest(log, 0, {1, 2, 3}) == ([], [])


@pytest.mark.parametrize("base", [2**31, 2**32, 2**63])
def test_large_sequence_numbers_are_numbers_like_others(base: int) -> None:
    log, one = new_log(), Sender(1)
    log.aru = log.high = log.delivered = log.stable = log.released = base - 3
    for seq in range(base - 2, base + 3):
        assert log.add(one.frame(seq, AGREED, b"%d" % seq))
    assert delivered(log) == [b"%d" % seq for seq in range(base - 2, base + 3)]
    assert list(log.missing(base + 4, 9)) == [base + 3, base + 4]

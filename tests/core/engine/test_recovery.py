"""What the members of an old ring owe each other, as all read it from the same commit token."""

from collections import deque

import pytest

from tests.core.engine.logs import RING, Sender, new_log
from vsync.engine.recovery import Attempt, Plan
from vsync.vocabulary import Configuration, Guarantee, Kind, NodeId, RingId
from vsync.wire import Commit, Entry

OLD, OTHER, NEW = RingId(4, NodeId(1)), RingId(5, NodeId(3)), RingId(9, NodeId(1))


def entry(node: int, ring: RingId = OLD, aru: int = 10, high: int = 10, **more: object) -> Entry:
    return Entry(NodeId(node), True, ring, aru, high, **more)  # type: ignore[arg-type]


def plan(me: int, *entries: Entry) -> Plan:
    return Plan.read(Commit(NEW, 5, entries), NodeId(me))


def test_those_of_one_old_ring_come_along_together() -> None:
    entries = (entry(1), entry(2), entry(3, OTHER))
    assert plan(1, *entries).together == (1, 2)
    assert plan(3, *entries).together == (3,)


def test_nothing_is_exchanged_where_all_have_the_same() -> None:
    assert plan(1, entry(1), entry(2)).exchange_above is None


@pytest.mark.parametrize("other", [entry(2, aru=7), entry(2, high=12), entry(2, aru=12, high=12)])
def test_what_somebody_may_miss_is_exchanged(other: Entry) -> None:
    assert plan(1, entry(1), other).exchange_above == min(10, other.aru)


def test_the_highest_delivery_of_any_counts() -> None:
    assert plan(1, entry(1, delivered=3), entry(2, delivered=8)).delivered_by_any == 8


def test_what_any_of_them_owes_all_of_them_owe() -> None:
    entries = (entry(1), entry(2, owes=frozenset({NodeId(7)})), entry(3, OTHER))
    assert plan(1, *entries).owed == plan(2, *entries).owed == {1, 2, 7}
    assert plan(3, *entries).owed == {3}


def test_who_was_a_moment_short_of_installing_comes_from_that_ring() -> None:
    late = Entry(NodeId(2), True, RingId(2, NodeId(1)), 5, 5, 5, OLD, 3, 4)
    entries = (entry(1, aru=6, high=6, delivered=2), late)
    for me in (1, 2):
        read = plan(me, *entries)
        assert read.old_ring == OLD
        assert read.together == (1, 2)
        assert read.exchange_above == 3
        assert read.delivered_by_any == 2


def test_an_attempt_that_nobody_here_installed_is_forgotten() -> None:
    late = Entry(NodeId(2), True, OTHER, 5, 5, 5, OLD, 3, 4)
    assert plan(2, entry(1, NEW), late).old_ring == OTHER


def test_the_configurations_say_who_left_and_who_joined() -> None:
    read = plan(1, entry(1), entry(2), entry(3, OTHER))
    old = Configuration(id="4.1", kind=Kind.REGULAR, members=(NodeId(1), NodeId(2), NodeId(8)))
    transitional, regular = read.transitional(old), read.regular()
    assert (transitional.id, transitional.members, transitional.left) == ("4.1>9.1", (1, 2), (8,))
    assert transitional.next == regular.id == "9.1"
    assert (regular.members, regular.joined) == ((1, 2, 3), (3,))


def attempt(held: int = 0) -> Attempt:
    sender = Sender(1)
    frames = [sender.frame(seq, Guarantee.AGREED, b"x") for seq in range(1, held + 1)]
    return Attempt(plan(1, entry(1), entry(2)), new_log(), deque(frames))


def test_with_nothing_to_exchange_all_is_done_at_the_fourth_visit() -> None:
    mine = attempt()
    assert [mine.visit(False, 0, 0)[1] for _ in range(4)] == [False, False, False, True]


def test_who_set_the_flag_alone_clears_it() -> None:
    mine, other = attempt(held=1), attempt()
    flag, _ = mine.visit(False, 0, 0)
    assert flag
    assert other.visit(flag, 0, 0) == (True, False)
    mine.queue.clear()
    assert mine.visit(True, 1, 1) == (False, False)


def test_nobody_is_done_before_everyone_has_everything() -> None:
    mine = attempt()
    done = [mine.visit(False, 5, aru)[1] for aru in (0, 0, 4, 5, 4, 5)]
    assert not any(done)
    assert not mine.received_all


def test_what_another_has_sent_is_not_sent_again() -> None:
    mine = attempt(held=3)
    mine.seen = {1, 2}
    frame = mine.next_frame()
    assert frame is not None
    assert (frame.ring, frame.seq) == (RING, 3)
    assert mine.next_frame() is None

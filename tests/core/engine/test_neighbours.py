"""Who was met, in which life, and who is left alone."""

from vsync.engine.neighbours import (
    AVOID_FIRST_S,
    AVOID_MAX_S,
    DUPLICATE_FRAMES,
    HEARD_BEACONS,
    MET_MAX,
    Meeting,
    Neighbours,
)
from vsync.vocabulary import NodeId

JOIN_S, BEACON_S = 0.025, 0.2
ONE, TWO, THREE = map(NodeId, (1, 2, 3))


def neighbours() -> Neighbours:
    return Neighbours(ONE, 50, 0.0, JOIN_S, BEACON_S)


def test_a_late_frame_of_a_former_life_does_not_move_the_node() -> None:
    met = neighbours()
    assert met.meet(TWO, 7, "a", 0.0) is Meeting.SAME_LIFE
    assert met.meet(TWO, 8, "b", 0.0) is Meeting.NEW_LIFE
    assert met.meet(TWO, 7, "a", 0.0) is Meeting.FORMER_LIFE
    assert met.meet(TWO, 8, "c", 0.0) is Meeting.SAME_LIFE
    assert met.address(TWO) == "c"
    assert met.lives([ONE, TWO, THREE]) == {ONE: 50, TWO: 8}
    assert met.address(THREE) is None


def test_an_older_join_is_out_of_date_until_a_new_life_counts_anew() -> None:
    met = neighbours()
    met.meet(TWO, 7, "a", 0.0)
    assert [met.is_latest(TWO, number) for number in (5, 5, 4, 6)] == [True, False, False, True]
    met.meet(TWO, 8, "a", 0.0)
    assert met.is_latest(TWO, 1)


def test_the_younger_of_two_with_one_id_stops_after_it_was_sure() -> None:
    met = neighbours()
    step = 2 * JOIN_S
    told = [met.duplicate(49, 1.0 + step * frame) for frame in range(DUPLICATE_FRAMES)]
    assert told == [False] * (DUPLICATE_FRAMES - 1) + [True]


def test_a_few_late_frames_of_our_own_former_life_stop_nobody() -> None:
    met = neighbours()
    assert not any(met.duplicate(49, 1.0) for _ in range(DUPLICATE_FRAMES + 5))


def test_the_older_of_two_with_one_id_goes_on() -> None:
    met = neighbours()
    assert not any(met.duplicate(life, 1.0 + n) for n in range(20) for life in (50, 51))


def test_who_could_not_be_agreed_with_is_avoided_longer_each_time_but_not_for_ever() -> None:
    met, now = neighbours(), 0.0
    spans = []
    for _ in range(8):
        met.installed([ONE], given_up=frozenset({TWO}), now=now)
        span = AVOID_FIRST_S
        while met.avoided(TWO, now + span * 0.99):
            span *= 2
        spans.append(span / 2)
        now += 10
    assert spans[:3] == [AVOID_FIRST_S, 2 * AVOID_FIRST_S, 4 * AVOID_FIRST_S]
    assert not met.avoided(TWO, now - 10 + AVOID_MAX_S)
    assert spans == sorted(spans)


def test_who_became_a_member_or_was_restarted_is_avoided_no_more() -> None:
    for reconcile in ("member", "new life"):
        met = neighbours()
        met.meet(TWO, 7, "a", 0.0)
        met.installed([ONE, TWO], given_up=frozenset({THREE, TWO}), now=0.0)
        assert met.avoided(TWO, 0.1)
        if reconcile == "member":
            met.installed([ONE, TWO], given_up=frozenset(), now=0.1)
        else:
            met.meet(TWO, 8, "a", 0.0)
        assert not met.avoided(TWO, 0.11)
        assert met.avoided(THREE, 0.11)


def test_a_representative_counts_as_heard_for_a_few_beacons() -> None:
    met = neighbours()
    met.hear_representative(THREE, 1.0)
    met.hear_representative(TWO, 1.0 + BEACON_S)
    end = 1.0 + HEARD_BEACONS * BEACON_S
    assert met.representatives_heard(end - 0.001) == [TWO, THREE]
    assert met.representatives_heard(end + 0.001) == [TWO]
    met.installed([ONE, TWO], given_up=frozenset(), now=end)
    assert met.representatives_heard(end + 0.002) == []


def test_beacons_are_answered_at_once_but_not_in_a_storm() -> None:
    met = neighbours()
    assert met.may_answer(0.0)
    met.beacon_sent(0.0)
    assert not met.may_answer(BEACON_S / 16)
    assert met.may_answer(BEACON_S / 8)


def test_strangers_are_forgotten_when_a_ring_is_formed_and_beyond_a_limit() -> None:
    met = neighbours()
    for number in range(2, 2 + MET_MAX):
        met.meet(NodeId(number), 1, number, 0.0)
    assert len(met.lives(map(NodeId, range(2, 2 + MET_MAX)))) == MET_MAX
    met.meet(NodeId(10**6), 1, "x", 0.0)
    assert met.lives([TWO, NodeId(10**6)]) == {NodeId(10**6): 1}
    met.meet(TWO, 1, "a", 0.0)
    met.installed([ONE, TWO], given_up=frozenset(), now=0.0)
    assert met.lives([TWO, NodeId(10**6)]) == {TWO: 1}
    assert met.address(NodeId(10**6)) is None


def test_an_older_life_that_goes_on_speaking_is_believed_once_the_younger_has_left() -> None:
    met = neighbours()
    met.meet(TWO, 8, "b", 0.0)
    met.left(TWO, 8)
    late = [met.meet(TWO, 7, "a", 0.001 * frame) for frame in range(5)]
    assert late == [Meeting.FORMER_LIFE] * 5  # a few late frames of a former life look like that
    assert met.meet(TWO, 7, "a", 1.0) is Meeting.SAME_LIFE


def test_an_older_life_is_not_believed_while_the_younger_is_there() -> None:
    met = neighbours()
    met.meet(TWO, 8, "b", 0.0)
    assert {met.meet(TWO, 7, "a", float(frame)) for frame in range(9)} == {Meeting.FORMER_LIFE}

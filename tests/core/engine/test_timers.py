"""Deadlines: the earliest is the only one that the outside must know."""

from hypothesis import given
from hypothesis import strategies as st

from vsync.engine.timers import Timer, Timers

deadlines = st.dictionaries(st.sampled_from(Timer), st.integers(0, 20).map(float))


def armed(deadlines: dict[Timer, float]) -> Timers:
    timers = Timers()
    for timer, deadline in deadlines.items():
        timers.start(timer, deadline)
    return timers


@given(deadlines, st.integers(0, 20).map(float))
def test_what_is_due_comes_once_and_the_most_overdue_first(
    deadlines: dict[Timer, float], now: float
) -> None:
    timers = armed(deadlines)
    due: list[Timer] = []
    while (timer := timers.due(now)) is not None:
        due.append(timer)
    expected = sorted(
        (timer for timer, deadline in deadlines.items() if deadline <= now),
        key=lambda timer: (deadlines[timer], timer.value),
    )
    assert due == expected
    later = [deadline for deadline in deadlines.values() if deadline > now]
    assert timers.next() == min(later, default=None)


def test_a_timer_that_is_started_again_is_moved() -> None:
    timers = armed({Timer.JOIN: 1.0})
    timers.start(Timer.JOIN, 5.0)
    assert timers.due(4.0) is None
    assert timers.due(5.0) is Timer.JOIN
    assert timers.next() is None


def test_a_stopped_timer_is_never_due_and_stopping_it_again_is_no_harm() -> None:
    timers = armed({Timer.JOIN: 1.0, Timer.HOLD: 2.0})
    timers.stop(Timer.JOIN, Timer.BEACON)
    timers.stop(Timer.JOIN)
    assert Timer.JOIN not in timers
    assert timers.due(9.0) is Timer.HOLD
    assert timers.due(9.0) is None


def test_after_stopping_all_there_is_nothing_to_wait_for() -> None:
    timers = armed(dict.fromkeys(Timer, 1.0))
    timers.stop_all()
    assert timers.next() is None


@given(deadlines, st.integers(0, 20).map(float))
def test_only_accusations_are_postponed_and_none_is_brought_forward(
    deadlines: dict[Timer, float], earliest: float
) -> None:
    timers = armed(deadlines)
    timers.postpone(earliest)
    accusing = {Timer.TOKEN_LOST, Timer.CONSENSUS}
    expected = {
        timer: max(deadline, earliest) if timer in accusing else deadline
        for timer, deadline in deadlines.items()
    }
    assert timers.next() == min(expected.values(), default=None)
    for timer in Timer:
        assert (timer in timers) == (timer in deadlines)

"""Health: who is late itself waits longer before it suspects others, and only for a while."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync.engine.health import HALVING, LATE_FACTOR, PATIENCE_MAX, Health

TOKEN_LOST_S = 0.3
CONSENSUS_S = 0.1

latenesses = st.floats(0, 10)
times = st.floats(0, 100)


def late(by_s: float, now: float = 0.0) -> Health:
    health = Health(TOKEN_LOST_S)
    health.late(by_s, now)
    return health


def test_who_is_in_time_waits_as_usual() -> None:
    assert Health(TOKEN_LOST_S).patience_s(CONSENSUS_S, 5.0) == CONSENSUS_S


def test_who_is_late_waits_longer_by_what_it_is_late() -> None:
    assert late(0.02).patience_s(CONSENSUS_S, 0.0) == pytest.approx(0.1 + LATE_FACTOR * 0.02)


@given(latenesses, times, st.floats(0.001, 10))
def test_nobody_waits_less_than_usual_nor_much_longer(
    by_s: float, now: float, usual_s: float
) -> None:
    assert usual_s <= late(by_s).patience_s(usual_s, now) <= PATIENCE_MAX * usual_s


def test_lateness_fades_and_is_forgotten() -> None:
    health = late(0.2)
    halving_s = HALVING * TOKEN_LOST_S
    assert health.lateness_s(halving_s) == pytest.approx(0.1)
    assert health.lateness_s(2 * halving_s) == pytest.approx(0.05)
    assert health.lateness_s(20 * halving_s) == 0.0
    assert health.patience_s(CONSENSUS_S, 21 * halving_s) == CONSENSUS_S


@given(latenesses, latenesses)
def test_it_worsens_at_once_and_a_smaller_lateness_heals_nothing(one: float, two: float) -> None:
    health = late(one)
    health.late(two, 0.0)
    assert health.lateness_s(0.0) == late(max(one, two)).lateness_s(0.0)


def test_a_long_stop_counts_as_a_short_one() -> None:
    assert late(3600.0).lateness_s(0.0) == TOKEN_LOST_S

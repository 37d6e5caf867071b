"""The table of states is complete."""

import pytest

from vsync.engine import TRANSITIONS, State, Trigger


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("trigger", Trigger)
def test_every_state_says_what_it_does_with_every_trigger(state: State, trigger: Trigger) -> None:
    assert trigger in TRANSITIONS[state]


def test_every_state_can_be_reached_and_left_is_the_end() -> None:
    reached = {state for row in TRANSITIONS.values() for state in row.values() if state}
    assert reached == set(State)
    assert set(TRANSITIONS[State.LEFT].values()) == {None}

"""Who runs the engine: one thread at a time, and never nobody for good."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import pytest

from vsync.runtime.turn import Turn


class Interrupted(BaseException):
    """What a signal's handler raises."""


@pytest.fixture
def turn() -> Turn:
    """A turn that the ring's thread has given, as it does while it waits."""
    turn = Turn()
    turn.give()
    return turn


def test_the_rings_thread_has_the_turn_until_it_gives_it() -> None:
    turn = Turn()
    assert not turn.take(lambda: None)
    turn.give()
    assert turn.take(lambda: None)
    turn.resume()
    assert not turn.take(lambda: None)


def test_no_turn_begins_within_another(turn: Turn) -> None:
    within: list[bool] = []
    assert turn.take(lambda: within.append(turn.take(lambda: None)))
    assert within == [False]


def test_the_rings_thread_has_the_next_turn_if_it_wants_one(turn: Turn) -> None:
    resuming = threading.Thread(target=turn.resume)
    within: list[bool] = []

    def work() -> None:
        resuming.start()
        while not turn._wanted:
            pass
        within.append(turn.take(lambda: None))

    assert turn.take(work)
    resuming.join()
    assert within == [False]
    assert not turn.take(lambda: None)


def test_what_goes_wrong_in_a_turn_is_raised_in_the_rings_thread(turn: Turn) -> None:
    assert not turn.take(lambda: 1 // 0)  # type: ignore[arg-type]
    assert not turn.take(lambda: None)  # the engine is to do nothing more
    with pytest.raises(ZeroDivisionError):
        turn.resume()


def test_who_is_interrupted_in_a_turn_hears_of_it_and_so_does_the_rings_thread(turn: Turn) -> None:
    def interrupted() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        turn.take(interrupted)
    with pytest.raises(Interrupted):
        turn.resume()


@pytest.fixture
def interruptions() -> Iterator[list[None]]:
    """Let a signal's handler raise here again and again; how often it has, is how long this is."""
    raised: list[None] = []

    def handler(number: int, frame: object) -> None:
        raised.append(None)
        raise Interrupted

    old = signal.signal(signal.SIGALRM, handler)
    yield raised
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


def test_a_signals_handler_that_raises_never_loses_the_turn(interruptions: list[None]) -> None:
    class Unharmed(Turn):
        _fault = property(lambda self: None, lambda self, fault: None)

    turn = Unharmed()
    turn.give()
    while len(interruptions) < 3000:
        with contextlib.suppress(Interrupted):
            signal.setitimer(signal.ITIMER_REAL, 5e-6)
            while True:
                turn.take(list)  # type: ignore[arg-type]
        assert not turn._lock.locked()

"""Seats: what becomes of joins and leaves when a session ends."""

from concurrent.futures import Future

import pytest

from vsync import Evicted, NodeClosed, NodeId, SlowPolicy
from vsync.runtime.mailbox import Mailbox
from vsync.runtime.seat import Route, Seat
from vsync.vocabulary import GroupKey

GROUP = GroupKey.from_name("a")


def seat_of(slow: SlowPolicy, *, evicted: bool) -> Seat:
    mailbox = Mailbox("printer", 100, slow=slow)
    if evicted:
        mailbox.evicted = Evicted("session printer was evicted")
    return Seat(1, mailbox)


@pytest.mark.parametrize(
    ("evicted", "error"), [(False, NodeClosed), (True, Evicted)], ids=["closed", "evicted"]
)
def test_a_join_says_how_the_session_ended(evicted: bool, error: type[Exception]) -> None:
    route, seat = Route(NodeId(1)), seat_of(SlowPolicy.EVICT, evicted=evicted)
    under_way: Future[None] = Future()
    too_late: Future[None] = Future()
    route.add(seat)
    assert route.join(seat, [GROUP], under_way)
    assert not under_way.done()
    assert route.remove(seat)
    assert not route.remove(seat)
    assert not route.join(seat, [GROUP], too_late)
    for answer in (under_way, too_late):
        assert isinstance(answer.exception(0), error)

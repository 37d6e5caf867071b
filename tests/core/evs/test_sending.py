"""The queue to the ring: bounded, in order, never waiting."""

import select
import time
from concurrent.futures import Future

import anyio
import pytest

import vsync
from tests.core.evs.daemons import (
    AGREED,
    KEY1,
    KEY2,
    LOW,
    PATIENCE_S,
    Daemon,
    Log,
    dispatch_until,
    messages,
    numbered,
    send_all,
)
from vsync import evs
from vsync.evs import Handle
from vsync.evs.errors import translated
from vsync.evs.outbox import RUN_BYTES, Head, Outbox, Question, Run

SAFE = evs.Guarantee.SAFE
HEAD = Head((KEY1,), AGREED, LOW)


def test_a_full_queue_says_try_again_and_then_there_is_progress(daemon: Daemon, log: Log) -> None:
    payloads = numbered(3000, 100)
    with evs.initialize(log.callbacks, path=daemon.path, queue_bytes=2000) as handle:
        evs.join(handle, KEY1)
        assert send_all(handle, payloads) > 0
        assert messages(log, handle, 3000) == payloads


def test_try_again_does_not_wait_and_sends_nothing(daemon: Daemon, log: Log) -> None:
    with evs.initialize(log.callbacks, path=daemon.path, queue_bytes=1000) as handle:
        evs.join(handle, KEY1)
        accepted = refused = 0
        began = time.monotonic()
        while refused < 10 and time.monotonic() - began < PATIENCE_S:
            try:
                evs.mcast_joined(handle, AGREED, LOW, b"%d" % accepted)
                accepted += 1
            except evs.TryAgain as error:
                assert "1000 may" in str(error)
                refused += 1
        assert refused == 10
        assert messages(log, handle, accepted) == [b"%d" % number for number in range(accepted)]
        evs.dispatch(handle)
        assert len(log.messages) == accepted


def test_a_message_larger_than_the_queue_goes_alone(daemon: Daemon, log: Log) -> None:
    with evs.initialize(log.callbacks, path=daemon.path, queue_bytes=1) as handle:
        evs.join(handle, KEY1)
        send_all(handle, [bytes(100_000), b"", b"x"])
        assert messages(log, handle, 3) == [bytes(100_000), b"", b"x"]


def test_order_is_kept_across_groups_and_guarantees(handle: Handle, log: Log) -> None:
    evs.join(handle, [KEY1, KEY2])
    for number in range(300):
        groups = KEY1 if number % 3 else KEY2
        guarantee = AGREED if number % 7 else SAFE
        evs.mcast_groups(handle, guarantee, LOW, groups, b"%d" % number)
    assert messages(log, handle, 300) == [b"%d" % number for number in range(300)]


def test_what_was_sent_before_leave_is_sent_before_it(
    handle: Handle, daemon: Daemon, log: Log
) -> None:
    evs.join(handle, KEY1)
    mine_log = Log()
    with evs.initialize(mine_log.callbacks, path=daemon.path) as mine:
        evs.join(mine, [KEY1, KEY2])
        for _ in range(100):
            evs.mcast_groups(mine, AGREED, LOW, KEY1, b"x")
        evs.leave(mine, KEY1)
        evs.mcast_groups(mine, AGREED, LOW, KEY1, b"too late for the sender")
        evs.mcast_groups(mine, AGREED, LOW, KEY2, b"end")
        dispatch_until(mine, lambda: b"end" in mine_log.messages)
    assert set(mine_log.messages) <= {b"x", b"end"}
    assert messages(log, handle, 101) == [b"x"] * 100 + [b"too late for the sender"]


def test_a_poll_loop_sends_and_receives(handle: Handle, log: Log) -> None:
    """As a program of the seed's days would: one thread, one poll, no waiting elsewhere."""
    evs.join(handle, KEY1)
    payloads = numbered(2000, 1000)
    waiting = list(reversed(payloads))
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    deadline = time.monotonic() + PATIENCE_S
    while len(log.messages) < len(payloads):
        assert time.monotonic() < deadline
        try:
            while waiting:
                evs.mcast_joined(handle, AGREED, LOW, waiting[-1])
                waiting.pop()
        except evs.TryAgain:
            pass
        if poll.poll(100):
            evs.dispatch(handle)
    assert log.messages == payloads


@pytest.mark.parametrize(("count", "size"), [(100_000, 8), (20_000, 1300)])
def test_a_stream_of_messages_comes_in_order(
    handle: Handle, log: Log, count: int, size: int
) -> None:
    evs.join(handle, KEY1)
    payloads = numbered(count, size)
    send_all(handle, payloads)
    assert messages(log, handle, count) == payloads


# --- the queue itself -----------------------------------------------------------------------------


def test_equal_messages_are_handed_over_together() -> None:
    other = HEAD._replace(guarantee=SAFE)
    outbox = Outbox(2**20)
    for head, payload in [(HEAD, b"1"), (HEAD, b"2"), (other, b"3"), (HEAD, b"4")]:
        outbox.put(head, payload)
    runs = []
    while (run := outbox.take()) is not None:
        assert isinstance(run, Run)
        runs.append((run.head, run.payloads))
    assert runs == [(HEAD, [b"1", b"2"]), (other, [b"3"]), (HEAD, [b"4"])]
    outbox.release()


def test_a_run_has_an_end_and_a_question_keeps_its_place() -> None:
    outbox = Outbox(2**20)
    for _ in range(3):
        outbox.put(HEAD, bytes(RUN_BYTES // 2))

    async def nothing(_session: vsync.Session) -> None:
        await anyio.lowlevel.checkpoint()

    answer = outbox.ask(nothing)
    outbox.put(HEAD, b"after")
    first, second, question, last = (outbox.take() for _ in range(4))
    assert isinstance(first, Run)
    assert len(first.payloads) == 2
    assert isinstance(second, Run)
    assert len(second.payloads) == 1
    assert isinstance(question, Question)
    assert question.answer is answer
    assert isinstance(last, Run)
    assert last.payloads == [b"after"]
    outbox.release()


def test_room_is_free_when_the_session_has_the_messages() -> None:
    outbox = Outbox(1000)
    outbox.put(HEAD, bytes(800))
    with pytest.raises(evs.TryAgain):
        outbox.put(HEAD, bytes(800))
    run = outbox.take()
    assert isinstance(run, Run)
    with pytest.raises(evs.TryAgain):  # on its way
        outbox.put(HEAD, bytes(800))
    outbox.sent(run)
    outbox.put(HEAD, bytes(800))
    outbox.release()


def test_empty_messages_are_bounded_too() -> None:
    outbox = Outbox(1000)
    with pytest.raises(evs.TryAgain):
        for _ in range(1000):
            outbox.put(HEAD, b"")
    outbox.release()


def test_whoever_waits_learns_of_the_end() -> None:
    async def nothing(_session: vsync.Session) -> None:
        await anyio.lowlevel.checkpoint()

    ended, released = Outbox(1), Outbox(1)
    first: Future[None] = ended.ask(nothing)
    second: Future[None] = released.ask(nothing)
    ended.end(vsync.DaemonLost("gone"))
    released.release()
    assert isinstance(first.exception(0), evs.LibraryError)
    assert isinstance(second.exception(0), evs.BadHandle)
    ended.release()


def test_an_error_of_the_seed_stays_what_it_is() -> None:
    assert isinstance(translated(evs.NotExist("x")), evs.NotExist)

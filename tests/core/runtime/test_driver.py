"""The ring's thread: what wakes it, what ends it, what it owes when it ends."""

import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.core.api.rings import QUICK_BUT_PATIENT, fresh_network
from vsync import (
    Burst,
    Configuration,
    ConfigurationChanged,
    Evicted,
    GroupKey,
    Guarantee,
    Kind,
    NodeClosed,
    NodeId,
    Priority,
    RingSettings,
    TransportFailed,
    Undelivered,
)
from vsync.engine import Engine, MemoryStore
from vsync.runtime.driver import MESSAGES_PER_TURN, Driver, Submission
from vsync.runtime.mailbox import Item, Mailbox
from vsync.runtime.seat import Seat
from vsync.trace import TraceWriter
from vsync.transports.memory import MemorySettings, TransportMemory

GROUP = GroupKey.from_name("a")
PATIENCE_S = 10.0


class Lossy(TransportMemory):
    """A transport that can be cut, or broken."""

    cut = False
    broken = False

    def send(self, burst: Burst) -> None:
        if self.broken:
            raise TransportFailed("the cable was eaten")
        if not self.cut:
            super().send(burst)


Make = Callable[..., Driver]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make drivers, started; ended when the test ends."""
    drivers = []

    def made(node: int = 1, network: str | None = None, **more: Any) -> Driver:
        transport = Lossy(MemorySettings(network=network or fresh_network()), node=NodeId(node))
        transport.open()
        engine = Engine(
            NodeId(node),
            time.time_ns(),
            RingSettings(transport="memory", **QUICK_BUT_PATIENT),
            now=time.monotonic(),
            packet_bytes_max=transport.packet_bytes_max,
            receive_buffer_bytes=transport.receive_buffer_bytes,
            store=MemoryStore(),
        )
        driver = Driver(engine, transport, **{"notify": lambda: None, **more})
        drivers.append(driver)
        driver.start()
        until(lambda: driver.ready or driver.ended)
        return driver

    yield made
    for driver in drivers:
        driver.close()
        assert driver.join(PATIENCE_S)


@pytest.fixture
def still() -> Iterator[Driver]:
    """A driver whose turns the test takes, with a ring of one that it has not seen yet."""
    transport = Lossy(MemorySettings(network=fresh_network()), node=NodeId(1))
    transport.open()
    engine = Engine(
        NodeId(1),
        time.time_ns(),
        RingSettings(transport="memory", preset="loopback"),
        now=0.0,
        packet_bytes_max=transport.packet_bytes_max,
        receive_buffer_bytes=transport.receive_buffer_bytes,
        store=MemoryStore(),
    )
    driver = Driver(engine, transport, notify=lambda: None, clock=lambda: 0.0)
    engine.start(0.0)
    yield driver
    driver._end()


def form_ring(driver: Driver) -> None:
    """Let the engine have a configuration that it has handed to nobody."""
    while driver.engine.configuration is None:
        go_on(driver)


def go_on(driver: Driver) -> None:
    deadline = driver.engine.poll_timeout()
    assert deadline is not None
    driver.engine.handle_timeout(deadline)


def until(holds: Callable[[], bool]) -> None:
    """Wait until *holds*."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def until_quiet(driver: Driver) -> None:
    """Wait until nothing is on its way, and a new ring has said all that it has to say of itself.

    The ring's thread is asked, between two of its steps: within one there may be nothing for a
    moment.
    """
    engine = driver.engine
    until(
        lambda: driver.call(lambda now: engine.unstable == 0 and not engine.synchronizing).result(
            PATIENCE_S
        )
    )


def transport_of(driver: Driver) -> Lossy:
    transport = driver._transport
    assert isinstance(transport, Lossy)
    return transport


def seated(driver: Driver, mailbox: Mailbox) -> None:
    """Give *mailbox* a seat in the group that messages go to."""
    seat = Seat(1, mailbox)
    driver.attach(seat).result(PATIENCE_S)
    driver.join_groups(seat, [GROUP], closed=False).result(PATIENCE_S)


def message(payload: bytes = b"x", guarantee: Guarantee = Guarantee.AGREED) -> Submission:
    return Submission(1, (GROUP,), [payload], guarantee, Priority.MEDIUM)


def test_a_wake_up_that_comes_late_costs_one_turn_and_no_more(make: Make) -> None:
    driver = make()
    driver.call(lambda now: None).result(PATIENCE_S)
    driver._wake_sender.send(b"\0")  # as from a thread that was stopped between mark and byte

    def taken() -> bool:
        return select.select([driver._wake_receiver], [], [], 0)[0] == []

    until(taken)  # else the thread would never sleep again


def test_a_mailbox_emptied_while_it_is_marked_holds_up_nobody(make: Make) -> None:
    class Emptied(Mailbox):
        """Its reader takes everything just after the ring's thread has found it full."""

        @property
        def full(self) -> bool:
            found = super().full
            self.take()
            return found

    driver = make()
    mailbox = Emptied("quick", 10)
    seated(driver, mailbox)
    driver.submit(message(bytes(1000)))
    until(lambda: driver.engine.unstable == 0)
    status = driver.call(driver.status).result(PATIENCE_S)
    assert mailbox.full_since is None
    assert status["warnings"] == []


def test_what_a_command_raises_is_its_callers_and_the_ring_goes_on(make: Make) -> None:
    driver = make()

    def wrong(now: float) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        driver.call(wrong).result(PATIENCE_S)
    assert driver.call(driver.status).result(PATIENCE_S)["state"] == "operational"


def blocked(driver: Driver) -> threading.Event:
    """Hold up the ring's thread until the event is set."""
    go_on = threading.Event()
    begun = threading.Event()

    def hold(now: float) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)

    driver.call(hold)
    assert begun.wait(PATIENCE_S)
    return go_on


def test_a_session_that_begins_sees_nothing_of_what_came_before(make: Make) -> None:
    """A change of configuration may wait to be handed over when a session is attached."""
    driver = make()
    current = driver.engine.configuration
    assert current is not None
    before, here, mailbox = Mailbox("before", 2**20), threading.Event(), Mailbox("new", 2**20)
    driver.attach(Seat(1, before)).result(PATIENCE_S)
    gone = Configuration(
        id=f"1.1>{current.id}", kind=Kind.TRANSITIONAL, members=current.members, next=current.id
    )
    driver.call(lambda now: here.wait(PATIENCE_S))  # so that the next two come in one turn
    driver.call(lambda now: driver.engine._events.append(ConfigurationChanged(gone)))
    attached = driver.attach(Seat(2, mailbox))
    here.set()
    attached.result(PATIENCE_S)
    driver.call(lambda now: None).result(PATIENCE_S)
    assert before.take() == [ConfigurationChanged(current), ConfigurationChanged(gone)]
    assert mailbox.take() == [ConfigurationChanged(current)]


def test_a_call_does_not_wait_for_the_messages_before_it(make: Make) -> None:
    driver = make()
    go_on = blocked(driver)
    for _ in range(MESSAGES_PER_TURN + 100):
        driver.submit(message())
    accepted = driver.call(lambda now: driver.engine.undelivered)
    go_on.set()
    assert accepted.result(PATIENCE_S) <= MESSAGES_PER_TURN
    until(lambda: driver.engine.unstable == 0)


@pytest.mark.pure
def test_packets_go_out_between_many_messages(make: Make) -> None:
    driver = make()
    go_on = blocked(driver)
    counts = [0]
    accept, transmit = driver._accept, driver._transmit

    def count(submission: Submission, now: float) -> None:
        counts[-1] += len(submission.payloads)
        accept(submission, now)

    def turn() -> None:
        counts.append(0)
        transmit()

    driver._accept, driver._transmit = count, turn  # type: ignore[method-assign]
    for _ in range(100):
        driver.submit(Submission(1, (GROUP,), [b""] * 100, Guarantee.AGREED, Priority.MEDIUM))
    go_on.set()
    until(lambda: sum(counts) == 10_000)
    assert max(counts) < MESSAGES_PER_TURN + 100


def accepting_thread(driver: Driver) -> str:
    """In which thread the engine is given a message that is submitted now."""
    threads: list[str] = []
    accept = driver._accept

    def noted(submission: Submission, now: float) -> None:
        threads.append(threading.current_thread().name)
        accept(submission, now)

    driver._accept = noted  # type: ignore[method-assign]
    driver.submit(message())
    until(lambda: bool(threads))
    driver._accept = accept  # type: ignore[method-assign]
    return threads[0]


@pytest.mark.pure
def test_a_message_is_taken_in_by_its_own_thread_while_the_rings_waits(make: Make) -> None:
    driver = make()
    until_quiet(driver)
    until(lambda: accepting_thread(driver) == threading.current_thread().name)


def test_a_message_does_not_wait_for_a_turn_of_the_rings_thread(make: Make) -> None:
    driver = make()
    until_quiet(driver)
    go_on = blocked(driver)
    driver.submit(message())  # else the test would hang here
    assert driver.engine.unstable == 0
    go_on.set()
    until(lambda: driver._unaccepted() == 0)


def test_deadlines_that_a_message_brings_are_kept_by_the_rings_thread(make: Make) -> None:
    driver = make()
    until_quiet(driver)
    for _ in range(20):
        driver.submit(message(guarantee=Guarantee.SAFE))
        # The token has gone round since, and no submitter waits for that.
        until(lambda: driver.engine.unstable == 0)


@pytest.mark.pure
def test_who_submits_is_not_struck_by_what_ends_the_node(make: Make) -> None:
    driver = make()
    until_quiet(driver)
    take = driver.engine.take_runs

    def fail_once_there_is_a_message() -> Sequence[Any]:
        assert driver.engine.unstable == 0
        return take()

    driver.engine.take_runs = fail_once_there_is_a_message  # type: ignore[method-assign,assignment]
    driver.submit(message())
    until(lambda: driver.ended)
    assert isinstance(driver.failure, AssertionError)


def test_a_copy_of_the_process_sends_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make()
    until_quiet(driver)
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: 1)
        with pytest.raises(NodeClosed, match="of which this one is a copy"):
            driver.submit(message())
        with pytest.raises(NodeClosed, match="of which this one is a copy"):
            driver.call(lambda now: None)
    driver.submit(message())


def test_empty_messages_take_room_too(make: Make) -> None:
    driver = make()
    go_on = blocked(driver)
    driver.submit(Submission(1, (GROUP,), [b""] * 1000, Guarantee.AGREED, Priority.MEDIUM))
    assert driver.unsent_bytes(Priority.MEDIUM) > 10_000
    assert driver.unsent_bytes(Priority.HIGH) == 0
    go_on.set()
    until(lambda: driver.unsent_bytes(Priority.MEDIUM) == 0)


def test_many_callers_at_once_are_all_answered(make: Make) -> None:
    driver = make()
    futures: list[Future[int]] = []
    for number in range(2000):
        futures.append(driver.call(lambda now, number=number: number))  # type: ignore[misc]
    assert [future.result(PATIENCE_S) for future in futures] == list(range(2000))


def test_a_transport_that_fails_ends_the_thread_and_says_why(make: Make) -> None:
    driver = make()
    go_on = blocked(driver)  # else it may fail before there is a message
    transport_of(driver).broken = True
    driver.submit(message())
    go_on.set()
    until(lambda: driver.ended)
    with pytest.raises(TransportFailed, match="cable"):
        driver.submit(message())
    with pytest.raises(TransportFailed, match="cable"):
        driver.call(lambda now: None).result(PATIENCE_S)


@pytest.mark.pure
def test_a_fault_of_our_own_ends_the_thread_and_is_shown(make: Make) -> None:
    driver = make()
    driver.engine.take_runs = lambda: 1 // 0  # type: ignore[method-assign,assignment,return-value]
    driver.call(lambda now: None)
    until(lambda: driver.ended)
    assert isinstance(driver.failure, ZeroDivisionError)


def test_the_last_notification_comes_after_the_end(make: Make) -> None:
    seen: list[bool] = []
    drivers: list[Driver] = []

    def notify() -> None:
        for driver in drivers:
            seen.append(driver.ended)
            driver.seen()

    drivers.append(make(notify=notify))
    drivers[0].close()
    assert drivers[0].join(PATIENCE_S)
    assert seen[-1]


def test_closing_waits_for_what_was_accepted(make: Make, tmp_path: Path) -> None:
    network, path = fresh_network(), tmp_path / "trace"
    one = make(1, network, trace=TraceWriter(path, node=1, life="1"))
    two = make(2, network)
    until(lambda: one.engine.members == two.engine.members == (1, 2))
    mailbox = Mailbox("", 10**9)
    seated(two, mailbox)
    for _ in range(500):
        one.submit(message(bytes(2000), Guarantee.SAFE))
    one.close()
    with pytest.raises(NodeClosed):
        one.submit(message())
    assert one.join(PATIENCE_S)
    assert one.failure is None
    until(lambda: mailbox.waiting_bytes >= 500 * 2000)
    assert '"event":"stop"' in path.read_text().splitlines()[-1]


def test_what_could_not_be_delivered_is_an_error_and_no_clean_stop(
    make: Make, tmp_path: Path
) -> None:
    network, path = fresh_network(), tmp_path / "trace"
    one = make(1, network, trace=TraceWriter(path, node=1, life="1"), drain_s=0.05)
    two = make(2, network)
    until(lambda: one.engine.members == two.engine.members == (1, 2))
    transport_of(one).cut = True
    for _ in range(3):
        one.submit(message())
    one.close()
    assert one.join(PATIENCE_S)
    assert isinstance(one.failure, Undelivered)
    assert one.failure.messages == 3
    assert "stop" not in path.read_text()


def test_with_nothing_owed_closing_needs_no_time_at_all(make: Make) -> None:
    driver = make(drain_s=0)
    calls = [driver.call(driver.status) for _ in range(50)]
    driver.close()
    calls += [driver.call(driver.status) for _ in range(50)]
    assert driver.join(PATIENCE_S)
    assert driver.failure is None
    assert all(call.done() for call in calls)


def test_send_lines_reach_the_file_before_the_packets_go(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    driver = make(trace=TraceWriter(path, node=1, life="1"))
    other = Lossy(MemorySettings(network=transport_of(driver)._settings.network), node=NodeId(9))
    missing: list[bytes] = []
    sent = transport_of(driver).send

    def send(burst: Burst) -> None:
        for packet in burst.packets:
            for number in range(100):
                text = b"payload-%02d." % number
                if text in bytes(packet) and f'"size":{1000 + number}' not in path.read_text():
                    missing.append(text)
        sent(burst)

    transport_of(driver).send = send  # type: ignore[method-assign]
    for number in range(100):
        driver.submit(message((b"payload-%02d." % number).ljust(1000 + number, b".")))
    until(lambda: driver.engine.unstable == 0)
    assert missing == []
    other.close()


def test_messages_before_the_first_configuration_wait_for_it(still: Driver) -> None:
    still.submit(message())
    still._take_commands(0.0)
    assert not still.to_do  # the thread may sleep
    form_ring(still)
    assert still.to_do
    still._take_commands(0.0)
    assert still.engine.undelivered == 1


def test_what_ended_the_node_is_not_hidden_by_a_message_that_waits(still: Driver) -> None:
    form_ring(still)
    still.submit(message())
    still.engine._fail(TransportFailed("the cable was eaten"), 0.0)
    still._take_commands(0.0)
    assert still._finished()
    assert isinstance(still.engine.failure, TransportFailed)


def test_a_join_is_answered_when_its_view_is_in_the_mailbox(still: Driver) -> None:
    class Watched(Mailbox):
        def put(self, events: Sequence[Item], size: int | None = None) -> None:
            answered.append(joining.done())
            super().put(events, size)

    answered: list[bool] = []
    seat = Seat(1, Watched("watched", 1000))
    form_ring(still)
    still._let_out()
    still.attach(seat)
    joining = still.join_groups(seat, [GROUP], closed=False)
    still._take_commands(0.0)
    while not joining.done():
        go_on(still)
        still._let_out()
    assert answered
    assert not any(answered)


def test_a_join_of_a_session_that_is_evicted_meanwhile_is_told_at_once(still: Driver) -> None:
    told = []
    seat = Seat(1, Mailbox("unreadable", 1000))
    still.attach(seat)
    joining = still.join_groups(seat, [GROUP], closed=False)
    still._take_commands(0.0)
    still.seen()
    still._notify = lambda: told.append(joining.done())
    seat.mailbox.evicted = Evicted("its events cannot be read back")
    still._watch_mailboxes(0.0)
    assert told == [True]


def test_who_says_late_whether_a_configuration_was_primary_changes_nothing(still: Driver) -> None:
    form_ring(still)
    still._let_out()
    now = still.engine.configuration
    assert now is not None
    before = Configuration(id="0.1", kind=Kind.REGULAR, members=(NodeId(1),))
    still.set_primary(now, True, "all are here")
    still.set_primary(before, False, "not yet")
    still._take_commands(0.0)
    assert still.primary_of(now) == (True, "all are here")


def test_nothing_is_sent_after_the_farewell(still: Driver) -> None:
    form_ring(still)
    while still.engine._held is None:
        go_on(still)
        still._let_out()
    still.engine.leave(0.0)
    still._let_out()
    still.engine.set_blocked(True, 0.0)
    assert still.engine.poll_transmit() is None
    assert still.engine.poll_timeout() is None

"""Events on their way from the ring's thread to a session: in order, once, and within bounds."""

import errno
import itertools
import os
import pickle
import stat
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync import (
    Configuration,
    ConfigurationChanged,
    Delivery,
    Envelope,
    Kind,
    MessageId,
    NodeId,
    Priority,
    SlowPolicy,
)
from vsync.copying import content_of
from vsync.engine import runs
from vsync.events import GroupChanged, Move
from vsync.runtime import spill as spill_module
from vsync.runtime.mailbox import (
    CHANGED_BEFORE,
    EVENT_BYTES,
    EVICTED_BEFORE,
    PIECE_BYTES,
    TRANSITIONAL,
    UNWRITTEN_BYTES_MIN,
    Item,
    Mailbox,
    bytes_of,
)
from vsync.runtime.spill import Spill, Worker, decode, encode
from vsync.vocabulary import Cause, GroupKey, Guarantee, Member

BLOCK, EVICT, SPILL = SlowPolicy.BLOCK, SlowPolicy.EVICT, SlowPolicy.SPILL


def configuration(number: int, kind: Kind = Kind.REGULAR) -> Configuration:
    return Configuration(id=f"{number}.1", kind=kind, members=(NodeId(1),))


CONFIGURATION = configuration(4)


def delivery(counter: int, size: int = 100) -> Delivery:
    groups = (GroupKey.from_name("a"),)
    envelope = Envelope(NodeId(1), 7, 1, Priority.MEDIUM, Guarantee.AGREED, groups, CONFIGURATION)
    return Delivery(envelope, counter, bytes(size))


def counters(events: Sequence[Item]) -> list[int]:
    return [event.message.counter for event in events if isinstance(event, Delivery)]


def written(mailbox: Mailbox) -> None:
    """Wait until all that was to go to disk has."""
    ending = time.monotonic() + 30
    while mailbox._handled_bytes != mailbox._sent_bytes:
        assert time.monotonic() < ending
        time.sleep(0.001)


def take_all(mailbox: Mailbox) -> list[Item]:
    taken: list[Item] = []
    while batch := mailbox.take():
        taken += batch
    return taken


@pytest.fixture
def spilling() -> Iterator[Mailbox]:
    """A mailbox with 2 MB in memory, 64 MiB on disk."""
    mailbox = Mailbox("printer", 2_000_000, slow=SPILL, spill_bytes_max=2**26)
    yield mailbox
    mailbox.close()


# --- any policy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", SlowPolicy)
def test_what_was_put_is_taken_in_order_and_once(slow: SlowPolicy) -> None:
    mailbox = Mailbox("", 1000, slow=slow)
    first: list[Item] = [ConfigurationChanged(CONFIGURATION), delivery(0)]
    mailbox.put(first)
    mailbox.put([delivery(1)])
    assert take_all(mailbox) == [ConfigurationChanged(CONFIGURATION), delivery(0), delivery(1)]
    assert mailbox.take() == []
    assert mailbox.waiting_bytes == mailbox.memory_bytes == 0
    mailbox.close()


@pytest.mark.parametrize("slow", SlowPolicy)
def test_nothing_comes_out_of_a_closed_one(slow: SlowPolicy) -> None:
    mailbox = Mailbox("", 100, slow=slow)
    mailbox.put([delivery(0), delivery(1)])
    mailbox.close()
    mailbox.put([delivery(2)])
    assert mailbox.take() == []
    assert mailbox.evicted is None
    mailbox.close()


# --- block --------------------------------------------------------------------------------------


def test_it_is_full_beyond_its_bound_and_roomy_at_half() -> None:
    mailbox = Mailbox("", 10 * (EVENT_BYTES + 100))
    for counter in range(10):
        mailbox.put([delivery(counter)])
        assert not mailbox.full
    mailbox.put([delivery(10)])
    assert mailbox.full
    assert not mailbox.roomy
    mailbox.take()
    assert mailbox.roomy
    assert mailbox.waiting_bytes == 0


def test_empty_messages_are_bounded_too() -> None:
    mailbox = Mailbox("", 1000)
    mailbox.put([delivery(counter, 0) for counter in range(100)])
    assert mailbox.full


@pytest.mark.parametrize("slow", [EVICT, SPILL])
def test_with_another_policy_the_ring_never_waits(slow: SlowPolicy) -> None:
    mailbox = Mailbox("", 1000, slow=slow)
    for counter in range(100):
        mailbox.put([delivery(counter)])
        assert not mailbox.full
        assert mailbox.roomy
    mailbox.close()


# --- evict --------------------------------------------------------------------------------------


def test_a_put_that_finds_it_full_evicts() -> None:
    mailbox = Mailbox("printer", 1000, slow=EVICT)
    for counter in range(4):
        mailbox.put([delivery(counter)])
        assert mailbox.evicted is None
    mailbox.put([delivery(4)])
    evicted = mailbox.evicted
    assert evicted is not None
    assert "session printer was evicted: it did not take its events in time: 1200 bytes" in str(
        evicted
    )
    mailbox.put([delivery(5)])
    assert counters(mailbox.take()) == [0, 1, 2, 3]
    mailbox.put([delivery(6)])
    assert mailbox.take() == []
    assert mailbox.evicted is evicted


def test_one_large_batch_does_not_evict_a_prompt_reader() -> None:
    mailbox = Mailbox("", 1000, slow=EVICT)
    for _ in range(3):
        mailbox.put([delivery(counter) for counter in range(50)])
        assert mailbox.evicted is None
        assert len(mailbox.take()) == 50


# --- spill --------------------------------------------------------------------------------------


def test_events_come_back_from_disk_as_they_were() -> None:
    events: list[Item] = [
        ConfigurationChanged(CONFIGURATION, True, "three of five votes"),
        delivery(3, 1000),
        GroupChanged(
            GroupKey.from_name("a"),
            (Member(NodeId(1), 2), Member(NodeId(1), 7)),
            (Move(Member(NodeId(1), 7), Cause.JOINED),),
            (Move(Member(NodeId(1), 3), Cause.EVICTED),),
            True,
            CONFIGURATION,
        ),
    ]
    again = decode(encode(events))
    assert again == events
    assert [type(event) for event in again] == [type(event) for event in events]
    assert isinstance(again[1], Delivery)
    assert type(again[1].message) is MessageId
    assert again[1].sender == Member(NodeId(1), 7)


def test_what_does_not_fit_in_memory_goes_to_disk_and_comes_back(spilling: Mailbox) -> None:
    for counter in range(10_000):
        spilling.put([delivery(counter, 1000)])
        assert spilling.memory_bytes <= 2_000_000 + PIECE_BYTES + UNWRITTEN_BYTES_MIN
    written(spilling)
    assert spilling.memory_bytes <= 2_000_000 + PIECE_BYTES
    assert spilling.disk_bytes > 8_000_000
    taken: list[int] = []
    while batch := spilling.take():
        assert len(batch) * 1200 <= 2_000_000 + PIECE_BYTES
        taken += counters(batch)
    assert taken == list(range(10_000))
    assert spilling.evicted is None
    assert spilling.waiting_bytes == spilling.memory_bytes == 0


def test_a_batch_larger_than_memory_is_taken_in_pieces(spilling: Mailbox) -> None:
    spilling.put([delivery(counter, 1000) for counter in range(10_000)])
    written(spilling)
    assert spilling.memory_bytes <= 2_000_000 + PIECE_BYTES
    batches = [counters(batch) for batch in iter(spilling.take, [])]
    assert len(batches) > 5
    assert list(itertools.chain(*batches)) == list(range(10_000))


def test_small_events_share_a_piece(monkeypatch: pytest.MonkeyPatch, spilling: Mailbox) -> None:
    sizes: list[int] = []

    def counted(events: Sequence[Item]) -> bytes:
        sizes.append(len(events))
        return encode(events)

    monkeypatch.setattr(spill_module, "encode", counted)
    for counter in range(50_000):
        spilling.put([delivery(counter, 1)])
    written(spilling)
    assert 5 <= len(sizes) <= 10
    assert counters(take_all(spilling)) == list(range(50_000))


def test_disk_is_given_back_once_it_was_read(spilling: Mailbox) -> None:
    for _ in range(3):
        for counter in range(20_000):
            spilling.put([delivery(counter, 1000)])
            if counter % 1000 == 0:
                written(spilling)
        written(spilling)
        assert spilling.disk_bytes > 15_000_000
        assert counters(take_all(spilling)) == list(range(20_000))
        assert spilling.disk_bytes == 0


def test_a_reader_that_lags_for_ever_needs_no_more_and_more_disk(
    monkeypatch: pytest.MonkeyPatch, spilling: Mailbox
) -> None:
    """The disk is never all read here: something always waits on it."""
    monkeypatch.setattr(spill_module, "FILE_BYTES", 2**22)
    put = taken = 0
    for _ in range(30):
        for _ in range(6000):
            spilling.put([delivery(put, 1000)])
            put += 1
        written(spilling)
        while put - taken > 10_000:
            for counter in counters(spilling.take()):
                assert counter == taken
                taken += 1
        assert spilling.disk_bytes < 2**24 + 2 * 2**22
        assert len(files_of(spilling._spill)) < 7
        assert put < 10_000 or spilling.disk_bytes > 0
    assert counters(take_all(spilling)) == list(range(taken, put))


def test_beyond_its_limit_it_is_evicted() -> None:
    mailbox = Mailbox("printer", 10_000, slow=SPILL, spill_bytes_max=100_000)
    puts = 0
    while mailbox.evicted is None:
        mailbox.put([delivery(puts, 1000)])
        puts += 1
        assert puts < 200
    assert str(mailbox.evicted) == (
        "session printer was evicted: it did not take its events in time: 110400 bytes waited, and "
        "its queue_bytes is 10000, its spill_bytes 100000; take them sooner, or let more go to disk"
    )
    mailbox.put([delivery(puts, 1000)])
    assert counters(take_all(mailbox)) == list(range(puts - 1))
    assert mailbox.waiting_bytes == mailbox.memory_bytes == 0
    mailbox.close()


def test_a_full_disk_evicts_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox = Mailbox("printer", 10_000, slow=SPILL)
    for counter in range(20):
        mailbox.put([delivery(counter, 1000)])
    written(mailbox)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    count = 20
    while mailbox.evicted is None:
        mailbox.put([delivery(count, 1000)])
        written(mailbox)
        count += 1
        assert count < 40
    assert "session printer was evicted: its events cannot go to disk" in str(mailbox.evicted)
    assert "No space left on device" in str(mailbox.evicted)
    assert "TMPDIR" in str(mailbox.evicted)
    assert counters(take_all(mailbox)) == list(range(count - 1))
    mailbox.close()


def test_without_a_directory_it_evicts_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    mailbox = Mailbox("printer", 1000, slow=SPILL)
    for counter in range(10):
        mailbox.put([delivery(counter)])
        written(mailbox)
    assert "No such file or directory" in str(mailbox.evicted)
    mailbox.close()


def test_without_threads_it_evicts_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    mailbox = Mailbox("printer", 1000, slow=SPILL)
    for counter in range(10):
        mailbox.put([delivery(counter)])
    assert "nothing can write its events to disk (can't start new thread)" in str(mailbox.evicted)
    mailbox.close()


def test_a_disk_that_hangs_holds_up_neither_side(monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, begun, go_on = os.pwrite, threading.Event(), threading.Event()

    def hang(*arguments: Any) -> int:
        begun.set()
        go_on.wait(30)
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", hang)
    mailbox = Mailbox("printer", 100_000, slow=SPILL)
    count = 0
    while mailbox.evicted is None:
        mailbox.put([delivery(count, 100_000)])
        count += 1
        assert count < 1000
        assert mailbox.memory_bytes < 2 * UNWRITTEN_BYTES_MIN
    assert "the disk is too slow" in str(mailbox.evicted)
    assert begun.wait(30)
    assert counters(take_all(mailbox)) == list(range(count - 1))
    mailbox.close()
    assert len(files_of(mailbox._spill)) == 1
    go_on.set()
    ending = time.monotonic() + 30
    while files_of(mailbox._spill):
        assert time.monotonic() < ending
        time.sleep(0.001)


def test_what_is_taken_while_it_is_written_leaves_no_trace_on_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pwrite, begun, go_on = os.pwrite, threading.Event(), threading.Event()

    def hang(*arguments: Any) -> int:
        begun.set()
        go_on.wait(30)
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", hang)
    mailbox = Mailbox("printer", 1000, slow=SPILL)
    for counter in range(10):
        mailbox.put([delivery(counter)])
    assert begun.wait(30)
    assert counters(mailbox.take()) == list(range(10))
    go_on.set()
    written(mailbox)
    assert mailbox.disk_bytes == mailbox.memory_bytes == 0
    mailbox.close()


def test_a_disk_that_cannot_be_read_gives_a_clean_prefix(
    monkeypatch: pytest.MonkeyPatch, spilling: Mailbox
) -> None:
    for counter in range(10_000):
        spilling.put([delivery(counter, 1000)])
    written(spilling)
    taken = counters(spilling.take())
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    assert spilling.take() == []
    assert "cannot be read back from disk" in str(spilling.evicted)
    spilling.put([delivery(10_000)])
    assert spilling.take() == []
    assert taken == list(range(len(taken)))


def test_its_thread_is_there_only_while_it_is_needed() -> None:
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if "spill tailor" in thread.name]

    mailbox = Mailbox("tailor", 1000, slow=SPILL)
    for counter in range(3):
        mailbox.put([delivery(counter)])
    assert threads() == []
    for counter in range(3, 20):
        mailbox.put([delivery(counter)])
    (thread,) = threads()
    mailbox.close()
    thread.join(30)
    assert not thread.is_alive()


def test_a_closed_worker_takes_nothing() -> None:
    worker: Worker[int] = Worker("idle", print)
    worker.close()
    worker.submit(1)
    assert not [thread for thread in threading.enumerate() if thread.name == "idle"]


def files_of(spill: Spill) -> list[int]:
    return [file.descriptor for file in spill._files]


def test_its_file_is_nobody_elses_and_made_only_when_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mailbox = Mailbox("", 1000, slow=SPILL)
    for counter in range(3):
        mailbox.put([delivery(counter)])
    assert files_of(mailbox._spill) == []
    for counter in range(3, 20):
        mailbox.put([delivery(counter)])
    written(mailbox)
    (descriptor,) = files_of(mailbox._spill)
    status = os.fstat(descriptor)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_nlink == 0
    assert status.st_dev == tmp_path.stat().st_dev
    assert list(tmp_path.iterdir()) == []
    assert not os.get_inheritable(descriptor)
    mailbox.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_files_are_closed_when_they_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_module, "FILE_BYTES", 2**20)
    spill = Spill()
    pieces = [spill.write([delivery(counter, 2**19)]) for counter in range(10)]
    assert len(files_of(spill)) == 5
    assert spill.disk_bytes > 10 * 2**19
    for counter, piece in enumerate(pieces[:-1]):
        assert counters(spill.read(piece)) == [counter]
    spill.forget(pieces[-1])
    assert len(files_of(spill)) == 1
    assert spill.disk_bytes == 0
    spill.close()
    assert files_of(spill) == []
    spill.forget(pieces[-1])


def test_closing_while_a_piece_is_written_closes_right_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spill = Spill()
    pwrite = os.pwrite

    def slowly(*arguments: Any) -> int:
        spill.close()
        assert len(files_of(spill)) == 1
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", slowly)
    spill.write([delivery(0)])
    assert files_of(spill) == []


# --- primary ------------------------------------------------------------------------------------


def test_a_configuration_and_all_behind_it_waits_to_be_settled() -> None:
    mailbox = Mailbox("", 10_000, wants_primary=True)
    mailbox.put([delivery(0), ConfigurationChanged(configuration(5)), delivery(1)])
    mailbox.put([delivery(2)])
    assert mailbox.take() == [delivery(0)]
    assert mailbox.take() == []
    assert mailbox.waiting_bytes == 2 * (EVENT_BYTES + 100) + EVENT_BYTES
    mailbox.settle_primary("4.1", True, "another one")
    assert mailbox.take() == []
    mailbox.settle_primary("5.1", True, "all votes")
    mailbox.settle_primary("5.1", False, "said twice")
    assert mailbox.take() == [
        ConfigurationChanged(configuration(5), True, "all votes"),
        delivery(1),
        delivery(2),
    ]
    assert mailbox.waiting_bytes == 0


def test_the_next_configuration_settles_the_one_before() -> None:
    mailbox = Mailbox("", 10_000, wants_primary=True)
    transitional = configuration(5, Kind.TRANSITIONAL)
    mailbox.put([ConfigurationChanged(CONFIGURATION), delivery(0)])
    mailbox.put([ConfigurationChanged(transitional), delivery(1)])
    mailbox.put([ConfigurationChanged(configuration(6)), delivery(2)])
    assert mailbox.take() == [
        ConfigurationChanged(CONFIGURATION, False, CHANGED_BEFORE),
        delivery(0),
        ConfigurationChanged(transitional, False, TRANSITIONAL),
        delivery(1),
    ]
    mailbox.settle_primary("4.1", True, "too late")
    assert mailbox.take() == []
    mailbox.settle_primary("6.1", False, "one vote of three")
    assert mailbox.take() == [
        ConfigurationChanged(configuration(6), False, "one vote of three"),
        delivery(2),
    ]


def test_who_did_not_ask_is_not_held_up() -> None:
    mailbox = Mailbox("", 10_000)
    mailbox.put([ConfigurationChanged(CONFIGURATION), delivery(0)])
    assert mailbox.take() == [ConfigurationChanged(CONFIGURATION), delivery(0)]
    mailbox.settle_primary("4.1", True, "nobody asked")
    assert mailbox.take() == []


@pytest.mark.parametrize("slow", [EVICT, SPILL])
def test_what_is_held_counts(slow: SlowPolicy) -> None:
    mailbox = Mailbox("", 5_000, slow=slow, spill_bytes_max=50_000, wants_primary=True)
    mailbox.put([delivery(0), ConfigurationChanged(CONFIGURATION)])
    for counter in range(1, 500):
        mailbox.put([delivery(counter)])
        written(mailbox)
        assert mailbox.memory_bytes <= 11_000
    assert mailbox.evicted is not None
    taken = take_all(mailbox)
    assert taken[1] == ConfigurationChanged(CONFIGURATION, False, EVICTED_BEFORE)
    assert counters(taken) == list(range(len(taken) - 1))
    mailbox.close()


def test_what_is_held_on_disk_comes_when_it_is_settled() -> None:
    mailbox = Mailbox("", 5_000, slow=SPILL, wants_primary=True)
    for counter in range(100):
        mailbox.put([delivery(counter)])
    mailbox.put([ConfigurationChanged(CONFIGURATION)])
    for counter in range(100, 333):
        mailbox.put([delivery(counter)])
    assert counters(take_all(mailbox)) == list(range(100))
    mailbox.settle_primary("4.1", True, "all votes")
    taken = take_all(mailbox)
    assert taken[0] == ConfigurationChanged(CONFIGURATION, True, "all votes")
    assert counters(taken) == list(range(100, 333))
    mailbox.close()


# --- any order of events ------------------------------------------------------------------------


class Steps:
    """A worker that does a job when it is told to."""

    def __init__(self, work: Callable[[Any], None]) -> None:
        self._work = work
        self._jobs: deque[Any] = deque()

    def submit(self, job: Any) -> None:
        self._jobs.append(job)

    def close(self) -> None:
        self._jobs.clear()

    def step(self) -> None:
        if self._jobs:
            self._work(self._jobs.popleft())


class Run:
    """A mailbox, and what is to come out of it."""

    def __init__(self, mailbox: Mailbox, wants_primary: bool) -> None:
        self.mailbox = mailbox
        self.worker = Steps(mailbox._write)
        self.mailbox._writer = self.worker  # type: ignore[assignment]
        self.wants_primary = wants_primary
        self.expected: list[Item] = []
        self.unsettled: int | None = None
        self.surely = 0
        """So many of the expected ones were put before a put that evicted."""
        self.taken: list[Item] = []
        self.numbers = itertools.count()

    def put(self, shape: Sequence[int]) -> None:
        """Put deliveries with payloads of these sizes; -1 and -2 are configurations."""
        before = len(self.expected)
        events: list[Item] = []
        for size in shape:
            if size >= 0:
                event: Item = delivery(next(self.numbers), size)
                events.append(event)
                self.expected.append(event)
                continue
            kind = Kind.REGULAR if size == -1 else Kind.TRANSITIONAL
            changed = ConfigurationChanged(configuration(next(self.numbers), kind))
            events.append(changed)
            self.settle(False, CHANGED_BEFORE)
            if self.wants_primary and kind is Kind.REGULAR:
                self.unsettled = len(self.expected)
            elif self.wants_primary:
                changed = ConfigurationChanged(changed.configuration, False, TRANSITIONAL)
            self.expected.append(changed)
        evicted = self.mailbox.evicted is not None
        self.mailbox.put(events)
        if self.mailbox.evicted is None:
            self.surely = len(self.expected)
        elif not evicted:
            self.surely = before

    def settle(self, primary: bool, reason: str) -> None:
        """The unsettled configuration will come out as this."""
        if self.unsettled is not None:
            event = self.expected[self.unsettled]
            assert isinstance(event, ConfigurationChanged)
            self.expected[self.unsettled] = ConfigurationChanged(
                event.configuration, primary, reason
            )
            self.unsettled = None

    def settle_now(self, primary: bool) -> None:
        if self.unsettled is None:
            self.mailbox.settle_primary("0.9", primary, "none such")
            return
        event = self.expected[self.unsettled]
        assert isinstance(event, ConfigurationChanged)
        if self.mailbox.evicted is None:
            self.settle(primary, "as told")
        self.mailbox.settle_primary(event.configuration.id, primary, "as told")

    def take(self) -> None:
        in_memory = self.mailbox.memory_bytes
        batch = self.mailbox.take()
        self.taken += batch
        sizes = [EVENT_BYTES + len(e.payload) if isinstance(e, Delivery) else 200 for e in batch]
        # What was in memory, and a piece from disk: the pieces are not larger than this.
        piece = self.mailbox.bytes_max + 2200
        assert sum(sizes) <= in_memory + self.mailbox.bytes_max + piece

    def check(self) -> None:
        """All that was taken up to now was to come, in that order."""
        for position, event in enumerate(self.taken):
            expected = self.expected[position]
            if event != expected:
                assert self.mailbox.evicted is not None
                assert isinstance(event, ConfigurationChanged)
                assert isinstance(expected, ConfigurationChanged)
                assert event.configuration == expected.configuration
                assert (event.primary, event.reason) == (False, EVICTED_BEFORE)

    def finish(self) -> None:
        while batch := self.mailbox.take():
            self.taken += batch
        self.check()
        if self.mailbox.evicted is not None:
            assert len(self.taken) >= self.surely
            assert self.mailbox.waiting_bytes == 0
        elif self.unsettled is not None:
            assert len(self.taken) == self.unsettled
        else:
            assert len(self.taken) == len(self.expected)
            assert self.mailbox.waiting_bytes == self.mailbox.memory_bytes == 0
            assert self.mailbox.disk_bytes == 0
        self.mailbox.close()


PUT = st.lists(st.one_of(st.integers(-2, 400), st.just(2000)), max_size=12)
STEP: st.SearchStrategy[Any] = st.one_of(PUT, PUT, st.just("take"), st.just("write"), st.booleans())


@given(
    slow=st.sampled_from(SlowPolicy),
    bytes_max=st.sampled_from([300, 1500, 6000]),
    spill_bytes_max=st.sampled_from([3000, 10_000, 10**7]),
    wants_primary=st.booleans(),
    steps=st.lists(STEP, max_size=40),
    meanwhile=st.lists(st.one_of(st.just("take"), PUT), max_size=20),
)
def test_whatever_happens_what_comes_out_is_what_went_in(
    slow: SlowPolicy,
    bytes_max: int,
    spill_bytes_max: int,
    wants_primary: bool,
    steps: Sequence[Any],
    meanwhile: Sequence[Any],
) -> None:
    """*meanwhile*: what is done while a piece goes to disk."""
    mailbox = Mailbox(
        "",
        bytes_max,
        slow=slow,
        spill_bytes_max=spill_bytes_max,
        wants_primary=wants_primary,
    )
    run = Run(mailbox, wants_primary)
    todo = iter(meanwhile)
    write = mailbox._spill.write

    def write_meanwhile(events: Sequence[Item]) -> Any:
        place = write(events)
        for step in itertools.islice(todo, 2):
            if step == "take":
                run.take()
            else:
                run.put(step)
        return place

    mailbox._spill.write = write_meanwhile  # type: ignore[method-assign]
    for step in steps:
        if step == "take":
            run.take()
        elif step == "write":
            run.worker.step()
        elif isinstance(step, bool):
            run.settle_now(step)
        else:
            run.put(step)
        run.check()
        assert 0 <= mailbox.memory_bytes <= mailbox.waiting_bytes
    run.finish()


# --- runs ---------------------------------------------------------------------------------------


def in_frame(counter: int, payloads: list[bytes]) -> runs.Run:
    """The messages of a frame of the ring."""
    frame = b"".join(b"head" + payload for payload in payloads)
    lengths = [4 + len(payload) for payload in payloads]
    return runs.Run.in_frame(delivery(0).envelope, counter, frame, 0, 4, lengths)


def test_a_run_counts_what_its_messages_count() -> None:
    payloads = [bytes(size) for size in (10, 20, 30)]
    events: list[Item] = [ConfigurationChanged(CONFIGURATION)]
    each, together = Mailbox("", 1000), Mailbox("", 1000)
    each.put([*events, *in_frame(7, payloads).deliveries])
    together.put([*events, in_frame(7, payloads)])
    assert together.waiting_bytes == each.waiting_bytes == 4 * EVENT_BYTES + 60
    assert len(together.take()) == 2
    assert together.waiting_bytes == 0


@pytest.mark.parametrize("alone", [True, False], ids=["payloads", "in a frame"])
def test_a_run_comes_back_from_disk_as_it_was(alone: bool) -> None:
    payloads = [bytes(size) for size in (10, 10, 3000)]
    run = runs.Run(delivery(0).envelope, 5, payloads) if alone else in_frame(5, payloads)
    (again,) = decode(encode([run]))
    assert isinstance(again, runs.Run)
    assert again.deliveries == run.deliveries
    assert bytes_of(again) == bytes_of(run)
    assert bytes(again.content) == bytes(run.content)


def test_a_run_that_stands_in_packets_comes_back_from_disk_as_it_was() -> None:
    packets = b"".join(b"<>" + piece for piece in (b"head12", b"34head", b"5678"))
    content = content_of(packets, 8, 2)
    run = runs.Run.in_frame(delivery(0).envelope, 5, content, 0, 4, [8, 8])
    (again,) = decode(encode([run]))
    assert isinstance(again, runs.Run)
    assert [each.payload for each in again.deliveries] == [b"1234", b"5678"]
    assert again.deliveries == run.deliveries


def test_a_frame_is_not_kept_for_a_small_part_of_it() -> None:
    frame = bytes(60_000) + b"head" + b"payload" + bytes(1000)
    run = runs.Run.in_frame(delivery(0).envelope, 5, frame, 60_000, 4, [11])
    assert [each.payload for each in run.deliveries] == [b"payload"]
    assert len(pickle.dumps(run)) < 10_000


# --- threads ------------------------------------------------------------------------------------


def put_and_take(mailbox: Mailbox, count: int, pause: Callable[[int], None]) -> list[int]:
    """Put *count* messages in a thread and take them here."""

    def put() -> None:
        counter = 0
        for size in itertools.cycle((1, 7, 300, 40)):
            if counter >= count:
                return
            end = min(counter + size, count)
            mailbox.put([delivery(number, number % 5000) for number in range(counter, end)])
            counter = end
            while mailbox._sent_bytes - mailbox._handled_bytes > UNWRITTEN_BYTES_MIN // 2:
                time.sleep(0.0001)  # no ring is as fast as this thread

    thread = threading.Thread(target=put)
    thread.start()
    taken: list[int] = []
    ending = time.monotonic() + 60
    for turn in itertools.count():
        running = thread.is_alive()
        evicted = mailbox.evicted is not None
        batch = counters(mailbox.take())
        taken += batch
        if not batch and (evicted or not running):
            break
        assert time.monotonic() < ending
        pause(turn)
    thread.join()
    return taken


@pytest.mark.parametrize("lag_s", [0, 0.0001, 0.002])
@pytest.mark.parametrize("slow", [BLOCK, SPILL])
def test_two_threads_lose_and_repeat_nothing(slow: SlowPolicy, lag_s: float) -> None:
    mailbox = Mailbox("", 50_000 if slow is SPILL else 10**9, slow=slow)
    taken = put_and_take(mailbox, 20_000, lambda turn: time.sleep(lag_s * (turn % 2)))
    assert taken == list(range(20_000))
    assert mailbox.evicted is None
    written(mailbox)
    assert mailbox.waiting_bytes == mailbox.memory_bytes == mailbox.disk_bytes == 0
    mailbox.close()


@pytest.mark.parametrize(
    ("slow", "spill_bytes_max"), [(EVICT, 0), (SPILL, 2_000_000)], ids=["evict", "spill"]
)
def test_two_threads_see_a_clean_prefix_and_then_the_eviction(
    slow: SlowPolicy, spill_bytes_max: int
) -> None:
    mailbox = Mailbox("", 50_000, slow=slow, spill_bytes_max=spill_bytes_max)

    def read_on_too_late(turn: int) -> None:
        ending = time.monotonic() + 30
        while turn > 2 and mailbox.evicted is None:
            assert time.monotonic() < ending
            time.sleep(0.001)

    taken = put_and_take(mailbox, 20_000, read_on_too_late)
    assert mailbox.evicted is not None
    assert 0 < len(taken) < 20_000
    assert taken == list(range(len(taken)))
    mailbox.close()

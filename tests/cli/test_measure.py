"""The messages that check themselves, what is found by them, and the figures."""

import random

import pytest

from vsync.events import Delivery, Envelope
from vsync.vocabulary import (
    Configuration,
    GroupKey,
    Guarantee,
    Kind,
    Member,
    NodeId,
    Priority,
)
from vsync_cli.measure.figures import Rate, Times, duration, histogram_lines
from vsync_cli.measure.inspection import Inspection, fault_sentence
from vsync_cli.measure.payloads import HEAD_BYTES, Sort, Writer, answer, asked_by, end, read

HERE = Member(NodeId(1), 4)
THERE = Member(NodeId(2), 7)
CLEAN = {"damaged": 0, "lost": 0, "repeated": 0, "reordered": 0}


def configuration(*members: int, kind: Kind = Kind.REGULAR) -> Configuration:
    return Configuration(
        id="8.1",
        kind=kind,
        members=tuple(map(NodeId, members)),
        joined=(),
        left=(),
        next=None if kind is Kind.REGULAR else "12.1",
    )


def delivery(
    payload: bytes,
    member: Member = THERE,
    *,
    guarantee: Guarantee = Guarantee.AGREED,
    within: Configuration | None = None,
) -> Delivery:
    groups = (GroupKey.from_name("g"),)
    where = within or configuration(1, 2)
    envelope = Envelope(member.node, member.session, 1, Priority.MEDIUM, guarantee, groups, where)
    return Delivery(envelope, 1, payload)


def inspected(
    *counters: int, total: int | None = None, guarantee: Guarantee = Guarantee.AGREED
) -> dict[str, int]:
    """What is found wrong when these come, and, if given, the sender's word of how many it sent."""
    writer = Writer(THERE, 64)
    inspection = Inspection()
    for counter in counters:
        inspection.take(delivery(writer.data(counter), guarantee=guarantee), 0.0)
    if total is not None:
        inspection.take(delivery(end(THERE, total)), 0.0)
    return inspection.faults


@pytest.mark.parametrize("size", [HEAD_BYTES, HEAD_BYTES + 1, 64, 100_000])
def test_a_message_has_its_size_and_says_who_sent_it_and_which_it_is(size: int) -> None:
    payload = Writer(THERE, size).data(12345)
    assert len(payload) == size
    assert read(delivery(payload)) == (Sort.DATA, THERE, 12345)


def test_any_wrong_byte_is_found() -> None:
    payload = Writer(THERE, 64).data(3)
    for place in range(len(payload)):
        wrong = bytearray(payload)
        wrong[place] ^= 1 << random.randrange(8)
        assert read(delivery(bytes(wrong))) is None, place
    assert read(delivery(payload[:-1])) is None
    assert read(delivery(b"")) is None


def test_a_message_that_comes_as_another_sessions_is_damaged() -> None:
    assert read(delivery(Writer(THERE, 64).data(3), HERE)) is None


@pytest.mark.parametrize("size", [HEAD_BYTES, 64])
def test_an_answer_says_whom_and_what_it_answers(size: int) -> None:
    asked = read(delivery(Writer(HERE, size).data(9), HERE))
    assert asked is not None
    payload = answer(THERE, asked, size)
    assert read(delivery(payload)) == (Sort.ANSWER, THERE, 9)
    assert asked_by(payload) == HERE
    assert asked_by(payload[:30]) is None


def test_messages_in_turn_are_as_they_should_be() -> None:
    assert inspected(0, 1, 2, total=3) == CLEAN


def test_what_never_came_is_lost() -> None:
    assert inspected(0, 3, total=4) == {**CLEAN, "lost": 2}
    assert inspected(0, 1, total=4) == {**CLEAN, "lost": 2}
    assert inspected(1, 2, total=3) == {**CLEAN, "lost": 1}
    assert inspected(total=2) == {**CLEAN, "lost": 2}


def test_what_came_twice_is_repeated() -> None:
    assert inspected(0, 1, 1, 2, 0, total=3) == {**CLEAN, "repeated": 2}


def test_what_came_late_is_reordered_but_not_lost() -> None:
    assert inspected(0, 2, 1, 3, total=4) == {**CLEAN, "reordered": 1}


def test_unordered_messages_may_come_in_any_order_but_only_once_and_all() -> None:
    assert inspected(3, 1, 0, 2, total=4, guarantee=Guarantee.UNORDERED) == CLEAN
    assert inspected(1, 0, 1, total=3, guarantee=Guarantee.UNORDERED) == {
        **CLEAN,
        "lost": 1,
        "repeated": 1,
    }


def test_what_is_none_of_the_run_is_damage() -> None:
    inspection = Inspection()
    assert inspection.take(delivery(b"hello"), 0.0) is None
    assert inspection.faults == {**CLEAN, "damaged": 1}


def test_what_a_sender_sent_while_it_was_elsewhere_is_not_lost() -> None:
    writer = Writer(THERE, 64)
    inspection = Inspection()
    inspection.take(delivery(writer.data(0)), 0.0)
    inspection.configuration(configuration(1, kind=Kind.TRANSITIONAL))
    inspection.configuration(configuration(1))
    inspection.configuration(configuration(1, 2))
    inspection.take(delivery(writer.data(50)), 0.0)
    assert inspection.faults == CLEAN
    assert inspection.tracks[THERE].not_ours == 49
    inspection.take(delivery(writer.data(52)), 0.0)
    assert inspection.faults == {**CLEAN, "lost": 1}


def test_who_comes_late_misses_nothing_before_its_first_message() -> None:
    writer = Writer(THERE, 64)
    inspection = Inspection()
    inspection.expect_late([THERE])
    for counter in (7, 8, 10):
        inspection.take(delivery(writer.data(counter)), 0.0)
    inspection.take(delivery(end(THERE, 11)), 0.0)
    assert inspection.faults == {**CLEAN, "lost": 1}


def test_another_order_gives_another_checksum() -> None:
    one, other, same = Inspection(), Inspection(), Inspection()
    here, there = Writer(HERE, 64).data(0), Writer(THERE, 64).data(0)
    for inspection, first_here in ((one, True), (same, True), (other, False)):
        pair = [delivery(here, HERE), delivery(there)]
        for event in pair if first_here else reversed(pair):
            inspection.take(event, 0.0)
    assert one.order == same.order != other.order


def test_what_was_wrong_is_a_sentence() -> None:
    assert fault_sentence(CLEAN) == ""
    assert fault_sentence({**CLEAN, "lost": 1200, "damaged": 1}) == (
        "messages were not delivered as they were sent: 1 damaged, 1,200 lost"
    )


def test_a_rate_of_nothing_is_none() -> None:
    assert Rate(messages=0, bytes=0, seconds=0.0).messages_per_s == 0
    rate = Rate(messages=300, bytes=3_000_000, seconds=1.5)
    assert rate.cells() == ["300", "1.50", "200", "2.00"]


def test_quantiles_are_times_that_were_there() -> None:
    times = Times.of([place / 1000 for place in random.sample(range(1, 1001), 1000)])
    assert times.record() == {
        "messages": 1000,
        "min_s": 0.001,
        "mean_s": 0.5005,
        "p50_s": 0.5,
        "p90_s": 0.9,
        "p99_s": 0.99,
        "p99.9_s": 0.999,
        "max_s": 1.0,
    }
    assert set(Times.of([0.25]).record().values()) == {1, 0.25}
    assert Times.of([]).record() == {"messages": 0}
    assert len(Times.of([]).cells()) == len(times.cells())


def test_a_histogram_has_every_time_once() -> None:
    times = Times.of([0.0009, 0.001, 0.0011, 0.004, 0.03])
    assert times.histogram() == [
        (0.001, 2),
        (0.002, 1),
        (0.005, 1),
        (0.01, 0),
        (0.02, 0),
        (0.05, 1),
    ]
    assert Times.of([]).histogram() == []
    assert Times.of([0.0]).histogram() == [(1e-6, 1)]
    lines = histogram_lines(times)
    assert lines[0] == " ≤ 1 ms  2  " + "█" * 40
    assert lines[3] == "≤ 10 ms  0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0000834, "83.4 µs"),
        (0.00123, "1.23 ms"),
        (0.0999999, "100 ms"),
        (0.9999, "1.00 s"),
        (75, "75.0 s"),
        (1234, "1,234 s"),
    ],
)
def test_a_time_has_three_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text

"""What the transport ``fault`` does to packets, and how it is told from outside."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.transport_udp.ports import unused_port
from vsync.testing.contracts import SILENCE_S, address_of, data_of, receive_within
from vsync.transport import EVERYONE, Burst
from vsync.transports.fault import CONTROL_INTERVAL_S, FaultSettings, TransportFault
from vsync.vocabulary import NodeId

Make = Callable[..., TransportFault]

SENT = [number.to_bytes(2) for number in range(1000)]


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


numbers = itertools.count(1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Iterator[Make]:
    """Make open transports on one network in memory; time stands still unless *real* is given."""
    network = f"fault {next(numbers)}"
    with ExitStack() as stack:

        def opened(*, real: bool = False, **faults: Any) -> TransportFault:
            settings = FaultSettings(
                inner="memory", settings={"network": network}, seed=7, **faults
            )
            made = TransportFault(settings, node=NodeId(1), clock=time.monotonic if real else clock)
            stack.enter_context(closing(made))
            made.open()
            return made

        yield opened


def test_about_as_many_packets_are_lost_as_asked(make: Make) -> None:
    sender, receiver = make(), make(loss=0.1)
    sender.send(Burst(EVERYONE, SENT))
    received = data_of(receiver.receive())
    assert 850 < len(received) < 950
    assert received == [packet for packet in SENT if packet in set(received)]
    assert receiver.status["counters"]["packets_lost_by_fault"] == 1000 - len(received)


def test_a_seed_gives_the_same_losses_again(make: Make) -> None:
    sender, one, two = make(), make(loss=0.5), make(loss=0.5)
    sender.send(Burst(EVERYONE, SENT))
    assert data_of(one.receive()) == data_of(two.receive())


def test_duplicates_come_twice_and_nothing_is_lost(make: Make) -> None:
    sender, receiver = make(), make(duplicate=0.2)
    sender.send(Burst(EVERYONE, SENT))
    counts = Counter(data_of(receiver.receive()))
    assert set(counts) == set(SENT)
    assert 150 < sum(count == 2 for count in counts.values()) < 250


def test_delayed_packets_come_when_they_are_due(make: Make, clock: Clock) -> None:
    sender, receiver = make(), make(delay_s=0.5)
    sender.send(Burst(EVERYONE, [b"early"]))
    assert list(receiver.receive()) == []
    clock.now += 0.49
    assert list(receiver.receive()) == []
    clock.now += 0.02
    assert data_of(receiver.receive()) == [b"early"]


def test_jitter_reorders_and_loses_nothing(make: Make, clock: Clock) -> None:
    sender, receiver = make(), make(jitter_s=0.1)
    sender.send(Burst(EVERYONE, SENT))
    receiver.receive()
    clock.now += 0.11
    received = data_of(receiver.receive())
    assert received != SENT
    assert sorted(received) == SENT


def test_a_reordered_packet_is_overtaken(make: Make, clock: Clock) -> None:
    sender, receiver = make(), make(reorder=0.1, reorder_s=0.01)
    sender.send(Burst(EVERYONE, SENT))
    first = data_of(receiver.receive())
    clock.now += 0.011
    second = data_of(receiver.receive())
    assert 50 < len(second) < 150
    assert sorted(first + second) == SENT


def test_the_descriptors_wake_the_receiver_when_a_delay_ends(make: Make) -> None:
    sender, receiver = make(real=True), make(real=True, delay_s=0.05)
    before = time.monotonic()
    sender.send(Burst(EVERYONE, [b"late"]))
    assert data_of(receive_within(receiver, 1)) == [b"late"]
    assert time.monotonic() - before >= 0.05


def test_cut_is_both_ways(make: Make) -> None:
    alone, other = make(cut=True), make()
    alone.send(Burst(EVERYONE, [b"out"]))
    other.send(Burst(EVERYONE, [b"in"]))
    assert list(other.receive()) == []
    assert list(alone.receive()) == []
    assert alone.status["counters"]["packets_cut"] == 2


def test_one_way_cuts_leave_the_other_way(make: Make) -> None:
    deaf, dumb, other = make(cut_receive=True), make(cut_send=True), make()
    deaf.send(Burst(EVERYONE, [b"from deaf"]))
    dumb.send(Burst(EVERYONE, [b"from dumb"]))
    other.send(Burst(EVERYONE, [b"from other"]))
    assert data_of(other.receive()) == [b"from deaf"]
    assert data_of(dumb.receive()) == [b"from deaf", b"from other"]
    assert list(deaf.receive()) == []


def test_one_address_alone_can_be_cut(make: Make, tmp_path: Path, clock: Clock) -> None:
    control = tmp_path / "fault.toml"
    receiver, far, near = make(control=control), make(), make()
    control.write_text(f'cut_from = ["{address_of(far, seen_by=receiver)}"]\n')
    clock.now += 2 * CONTROL_INTERVAL_S
    far.send(Burst(EVERYONE, [b"far"]))
    near.send(Burst(EVERYONE, [b"near"]))
    assert data_of(receiver.receive()) == [b"near"]


def test_the_control_file_changes_faults_and_its_removal_ends_them(
    make: Make, tmp_path: Path, clock: Clock
) -> None:
    control = tmp_path / "fault.toml"
    sender, receiver = make(), make(control=control)

    def passes() -> bool:
        clock.now += 2 * CONTROL_INTERVAL_S
        sender.send(Burst(EVERYONE, [b"x"]))
        return bool(receiver.receive())

    assert passes()
    control.write_text("cut = true\n")
    assert not passes()
    control.write_text("cut = false\n")
    assert passes()
    control.write_text("loss = 1.0\n")
    assert not passes()
    control.unlink()
    assert passes()


def test_a_script_changes_faults_at_its_times_and_the_control_file_stands_above_it(
    make: Make, tmp_path: Path, clock: Clock
) -> None:
    control = tmp_path / "fault.toml"
    script = [{"at_s": 2, "cut": True}, {"at_s": 5, "delay_s": 60}, {"at_s": 6}, {"at_s": 7}]
    sender, receiver = make(), make(script=script, control=control)
    began = clock.now

    def passes(at_s: float) -> bool:
        clock.now = began + at_s
        sender.send(Burst(EVERYONE, [b"x"]))
        return bool(receiver.receive())

    assert passes(1.9)
    assert not passes(2.0)
    control.write_text("cut = false\n")
    assert passes(3.0)
    control.unlink()
    assert not passes(4.0), "the script is in force again"
    assert not passes(5.0), "it is not cut any more, but late"
    assert receiver.status["faults"]["cut"] is False
    control.write_text("loss = 1.0\n")
    assert not passes(6.0)
    assert receiver.status["counters"]["packets_lost_by_fault"] == 1
    assert not passes(7.5), "a step does not end what the control file says"
    control.unlink()
    assert passes(8.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cut = maybe", "is not understood"),
        ("cuts = true", 'the key "cuts" is unknown; did you mean "cut"?'),
        ("loss = 2.0", "loss: Input should be less than or equal to 1"),
    ],
)
def test_a_control_file_with_a_mistake_changes_nothing_and_is_told(
    make: Make, tmp_path: Path, clock: Clock, text: str, said: str
) -> None:
    control = tmp_path / "fault.toml"
    control.write_text("cut = true\n")
    sender, receiver = make(), make(control=control)
    assert list(receiver.receive()) == []
    control.write_text(text)
    clock.now += 2 * CONTROL_INTERVAL_S
    sender.send(Burst(EVERYONE, [b"x"]))
    assert list(receiver.receive()) == []
    assert any(said in warning for warning in receiver.status["warnings"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"inner": "fault"}, 'another transport than "fault" itself'),
        ({"inner": "memry"}, 'did you mean "memory"?'),
        (
            {"inner": "memory", "settings": {"netwrk": "x"}},
            'settings of the inner transport memory: the key "netwrk" is unknown; '
            'did you mean "network"?',
        ),
        ({"inner": "memory", "script": [{"cut": True}]}, "at_s"),
        (
            {"inner": "memory", "script": [{"at_s": 2}, {"at_s": 1}]},
            "steps must be in the order of time, and at_s are [2.0, 1.0]",
        ),
        ({"inner": "udp", "settings": {"port": 0}}, "udp: port: Input should be greater"),
    ],
)
def test_settings_that_cannot_work_say_why(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FaultSettings.model_validate(settings)
    assert said in str(caught.value)


@pytest.mark.parametrize("whole", [True, False])
def test_an_internet_address_is_cut_by_host_or_by_host_and_port(whole: bool) -> None:
    port = unused_port()
    with ExitStack() as stack:

        def opened(**faults: Any) -> TransportFault:
            settings = FaultSettings(settings={"port": port, "bind": "127.0.0.1"}, **faults)
            made = stack.enter_context(closing(TransportFault(settings, node=NodeId(1))))
            made.open()
            return made

        far, near = opened(), opened()
        host, far_port = far.status["inner"]["address"]
        cut = f"{host}:{far_port}" if whole else host
        receiver = opened(cut_from=(cut,))
        far.send(Burst(EVERYONE, [b"far"]))
        near.send(Burst(EVERYONE, [b"near"]))
        if whole:
            assert data_of(receive_within(receiver, 1)) == [b"near"]
        assert receive_within(receiver, 1, SILENCE_S) == []

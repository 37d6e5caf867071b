"""What happens to a device is told to the ring; nothing falls back that was not told to."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.transport_ib.fake import OTHER, FakeProvider, device, port
from vsync.errors import TransportFailed
from vsync.transport import EVERYONE, Burst, Station
from vsync.vocabulary import NodeId
from vsync_transport_ib.link import FLUSHED
from vsync_transport_ib.settings import SettingsIB
from vsync_transport_ib.transport import REOPEN_S, TransportIB
from vsync_transport_ib.verbs import Event, EventKind, PortState

Make = Callable[..., TransportIB]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Iterator[Make]:
    with ExitStack() as stack:

        def made(provider: FakeProvider, *, link: int = 0, **settings: Any) -> TransportIB:
            transport = TransportIB(
                SettingsIB(**settings), node=NodeId(1), clock=clock, load=lambda _: provider
            )
            transport.serve(Station(NodeId(1), life=1, network=1, link=link))
            stack.callback(transport.close)
            return transport

        yield made


def opened(make: Make, provider: FakeProvider, **settings: Any) -> TransportIB:
    transport = make(provider, **settings)
    transport.open()
    return transport


def warnings(transport: TransportIB) -> str:
    return "; ".join(transport.status["warnings"])


def test_what_is_sent_and_received_goes_through_the_queue_pair(make: Make) -> None:
    provider = FakeProvider()
    transport = opened(make, provider)
    transport.send(Burst(EVERYONE, [b"all"]))
    transport.send(Burst(OTHER, [b"one"]))
    assert provider.verbs.sent == [(None, b"all"), (OTHER, b"one")]
    provider.verbs.arrive(b"answer")
    ((data, source),) = transport.receive()
    assert (data, source) == (b"answer", OTHER)
    assert transport.status["counters"]["packets_received"] == 1
    assert transport.status["counters"]["dropped_qkey"] == 3


def test_sizes_are_those_of_the_queue_pair(make: Make) -> None:
    transport = opened(make, FakeProvider())
    assert transport.packet_bytes_max == 1024
    assert transport.receive_buffer_bytes == 8 * 1024


def test_a_port_that_goes_down_is_waited_for_if_the_ring_has_nothing_else(make: Make) -> None:
    provider = FakeProvider()
    transport = opened(make, provider)
    provider.verbs.happening = [Event(EventKind.PORT_DOWN, "port 1 of rxe0 went down")]
    transport.receive()
    assert "port 1 of rxe0 went down: nothing is carried" in warnings(transport)
    transport.send(Burst(EVERYONE, [b"still tried"]))
    provider.verbs.happening = [Event(EventKind.PORT_ACTIVE, "port 1 of rxe0 is up")]
    transport.receive()
    assert warnings(transport) == ""
    assert provider.verbs.joins == 2, "the network may have forgotten the group"
    assert len(provider.opened) == 1


def test_a_link_of_redundant_fails_at_once_when_its_port_goes_down(make: Make) -> None:
    provider = FakeProvider()
    transport = opened(make, provider, link=1)
    provider.verbs.happening = [Event(EventKind.PORT_DOWN, "port 1 of rxe0 went down")]
    with pytest.raises(TransportFailed, match="port 1 of rxe0 went down"):
        transport.receive()
    assert provider.verbs.closed
    provider.found = [device("rxe0", port(state=PortState.DOWN))]
    again = make(provider, link=1)
    with pytest.raises(TransportFailed, match="is DOWN"):
        again.open()
    provider.found = [device()]
    again.open()
    again.send(Burst(EVERYONE, [b"back"]))
    assert provider.verbs.sent == [(None, b"back")]


def test_a_lost_membership_is_renewed(make: Make) -> None:
    provider = FakeProvider()
    transport = opened(make, provider)
    provider.verbs.happening = [Event(EventKind.MEMBERSHIP_LOST, "the subnet manager is new")]
    transport.receive()
    assert provider.verbs.joins == 2


@pytest.mark.parametrize("way", ["event", "flushed", "send"])
def test_a_queue_pair_that_is_of_no_use_is_made_anew(make: Make, clock: Clock, way: str) -> None:
    provider = FakeProvider()
    transport = opened(make, provider)
    descriptors = transport.descriptors()
    first = provider.verbs
    provider.fails = "no device yet; wait"
    if way == "event":
        first.happening = [Event(EventKind.FATAL, "the GID of rxe0 is gone")]
    elif way == "flushed":
        first.arrive(b"", status=FLUSHED)
    else:
        first.broken = "the device is gone"
        transport.send(Burst(EVERYONE, [b"lost"]))
    transport.receive()
    transport.receive()
    assert first.closed
    transport.send(Burst(EVERYONE, [b"lost too"]))
    assert "no device yet" in warnings(transport)
    provider.fails = ""
    transport.receive()
    assert len(provider.opened) == 1, "it is not time yet"
    clock.now += REOPEN_S
    transport.send(Burst(EVERYONE, [b"found"]))
    assert provider.verbs is not first
    assert provider.verbs.sent == [(None, b"found")]
    assert transport.descriptors() == descriptors, "the ring's thread waits on these"
    assert warnings(transport) == ""
    assert transport.status["counters"]["reopened"] == 1


def test_as_a_link_it_is_not_made_anew_but_fails(make: Make) -> None:
    provider = FakeProvider()
    transport = opened(make, provider, link=2)
    provider.verbs.broken = "the device is gone"
    with pytest.raises(TransportFailed, match="the device is gone"):
        transport.send(Burst(EVERYONE, [b"x"]))


def test_nothing_falls_back_unless_the_settings_say_so(make: Make) -> None:
    with pytest.raises(TransportFailed, match="too little locked memory"):
        make(FakeProvider(fails="too little locked memory")).open()


def test_it_falls_back_where_the_settings_say_so_and_tells(clock: Clock) -> None:
    providers = {"verbs": FakeProvider(fails="no rights; ask root"), "soft": FakeProvider()}
    settings = SettingsIB(fallback="soft", device="10.0.0.1")
    transport = TransportIB(settings, node=NodeId(1), clock=clock, load=providers.__getitem__)
    transport.open()
    assert transport.status["provider"] == "soft"
    assert "no rights; ask root" in warnings(transport)
    transport.close()


def test_where_neither_works_both_are_told(clock: Clock) -> None:
    providers = {"verbs": FakeProvider(fails="no rights"), "soft": FakeProvider(fails="port taken")}
    settings = SettingsIB(fallback="soft", device="10.0.0.1")
    transport = TransportIB(settings, node=NodeId(1), clock=clock, load=providers.__getitem__)
    with pytest.raises(TransportFailed, match=r"no rights.*port taken"):
        transport.open()
    assert transport.descriptors() == []


def test_listing_the_plugins_imports_nothing_of_infiniband() -> None:
    program = (
        "import sys; from vsync.plugins import load_transport; load_transport('ib');"
        "modules = ('pyverbs', 'vsync_transport_ib.rdma', 'vsync_transport_ib.soft');"
        "print([name for name in modules if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

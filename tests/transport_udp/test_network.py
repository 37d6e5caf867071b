"""``udp`` between hosts that are network namespaces on a bridge: needs root."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.transport_udp.hosts import Ethernet, Host
from vsync.errors import TransportFailed
from vsync.testing.contracts import (
    SILENCE_S,
    WITHIN_S,
    MakeTransport,
    TransportContract,
    data_of,
    receive_within,
)
from vsync.transport import EVERYONE, Burst, Packet
from vsync.vocabulary import NodeId
from vsync_transport_udp.settings import SettingsUDP
from vsync_transport_udp.transport import TransportUDP

pytestmark = pytest.mark.network

Make = Callable[..., TransportUDP]

FAMILIES = pytest.mark.parametrize("network", ["10.77.0.0/24", "fd77::/64"])


@pytest.fixture
def ethernet() -> Iterator[Ethernet]:
    with Ethernet() as made:
        yield made


@pytest.fixture
def make() -> Iterator[Make]:
    """Make a transport open in a host."""
    with ExitStack() as stack:

        def opened(host: Host, **settings: Any) -> TransportUDP:
            made = TransportUDP(SettingsUDP(**settings), node=NodeId(host.number))
            stack.callback(made.close)
            host.run(made.open)
            return made

        yield opened


def send(host: Host, transport: TransportUDP, packets: list[bytes]) -> None:
    """Send in the host: mending looks at the interfaces of the thread's namespace."""
    host.run(lambda: transport.send(Burst(EVERYONE, packets)))


def hears(host: Host, sender: TransportUDP, receiver: TransportUDP) -> bool:
    """Send again and again until it is heard, or patience ends."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        send(host, sender, [b"hello"])
        if receive_within(receiver, 1, SILENCE_S):
            return True
    return False


def hears_nothing(host: Host, sender: TransportUDP, receiver: TransportUDP) -> bool:
    while receiver.receive():
        pass
    send(host, sender, [b"hello"])
    return receive_within(receiver, 1, SILENCE_S) == []


def when_ready(make: Make, host: Host) -> TransportUDP:
    """Open with a link-local address, which the kernel takes a second or two to accept."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            return make(host, bind="eth0", group="ff12::77:1")
        except TransportFailed as failed:
            assert "duplicate address detection" in str(failed) or "no IPv6" in str(failed)
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class HousedContract(TransportContract):
    """The contract, with every transport in a host of its own."""

    BIND = ""

    @pytest.fixture
    def make_transport(self, ethernet: Ethernet) -> MakeTransport:
        def made(node: NodeId) -> TransportUDP:
            host = ethernet.add_host()
            settings = SettingsUDP(bind=self.BIND, multicast_loop=False)
            transport = TransportUDP(settings, node=node)
            unhoused = transport.open
            transport.open = lambda: host.run(unhoused)  # type: ignore[method-assign]
            return transport

        return made


class TestContractIPv4(HousedContract):
    BIND = "10.77.0.0/24"


class TestContractIPv6(HousedContract):
    BIND = "fd77::/64"


@FAMILIES
def test_a_burst_crosses_in_one_piece(ethernet: Ethernet, make: Make, network: str) -> None:
    one, two, three = (ethernet.add_host() for _ in range(3))
    sender, *receivers = (make(host, bind=network) for host in (one, two, three))
    size = sender.packet_bytes_max
    assert size == (1472 if "." in network else 1452)
    packets = [bytes([number]) * size for number in range(88)]
    send(one, sender, packets)
    for receiver in receivers:
        assert sorted(data_of(receive_within(receiver, 88))) == packets
        assert receiver.status["counters"]["receive_calls"] == 2
    assert sender.status["counters"]["send_calls"] == 2


@FAMILIES
def test_a_receiver_without_gro_gets_the_packets_too(
    ethernet: Ethernet, make: Make, network: str
) -> None:
    one, two = ethernet.add_host(), ethernet.add_host()
    sender, receiver = make(one, bind=network), make(two, bind=network, gro="off")
    packets = [bytes([number]) * sender.packet_bytes_max for number in range(88)]
    send(one, sender, packets)
    assert sorted(data_of(receive_within(receiver, 88))) == packets


def test_ttl_and_dscp_are_set_with_ipv6_too(ethernet: Ethernet, make: Make) -> None:
    made = make(ethernet.add_host(), bind="fd77::/64", ttl=3, dscp=46)
    with socket.socket(fileno=os.dup(made.descriptors()[0])) as sender:
        assert sender.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS) == 3
        assert sender.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 46 << 2


def test_link_local_addresses_serve_where_there_are_no_others(
    ethernet: Ethernet, make: Make
) -> None:
    one, two = ethernet.add_host(), ethernet.add_host()
    for host in (one, two):
        host.remove_addresses()
    one_transport, two_transport = (when_ready(make, host) for host in (one, two))
    assert hears(one, one_transport, two_transport)
    send(two, two_transport, [b"x"])
    (packet,) = receive_within(one_transport, 1)
    assert str(packet.source[0]).startswith("fe80:")  # type: ignore[index]
    while two_transport.receive():
        pass
    one.run(lambda: one_transport.send(Burst(packet.source, [b"answer"])))
    assert data_of(receive_within(two_transport, 1)) == [b"answer"]
    assert one_transport.status["counters"]["packets_own"] >= 1


@FAMILIES
def test_an_interface_that_goes_down_and_up_is_used_again(
    ethernet: Ethernet, make: Make, network: str
) -> None:
    one, two = ethernet.add_host(), ethernet.add_host()
    left, right = make(one, bind=network), make(two, bind=network)
    assert hears(one, left, right)
    one.ip("link", "set", "eth0", "down")
    assert hears_nothing(one, left, right)
    assert hears_nothing(two, right, left)
    assert left.status["counters"]["packets_lost_sending"] > 0
    one.ip("link", "set", "eth0", "up")
    if ":" in network:  # the kernel drops IPv6 addresses of an interface that goes down
        one.ip("addr", "add", "fd77::1/64", "dev", "eth0", "nodad")
    assert hears(one, left, right)
    assert hears(two, right, left)


@FAMILIES
def test_a_carrier_that_is_lost_and_found_is_used_again(
    ethernet: Ethernet, make: Make, network: str
) -> None:
    one, two = ethernet.add_host(), ethernet.add_host()
    left, right = make(one, bind=network), make(two, bind=network)
    assert hears(one, left, right)
    ethernet.ip("link", "set", one.port, "down")
    assert hears_nothing(one, left, right)
    assert hears_nothing(two, right, left)
    ethernet.ip("link", "set", one.port, "up")
    assert hears(one, left, right)
    assert hears(two, right, left)


def test_a_host_that_is_cut_off_and_healed_is_heard_again(ethernet: Ethernet, make: Make) -> None:
    one, two = ethernet.add_host(), ethernet.add_host()
    left, right = make(one, bind="eth0"), make(two, bind="eth0")
    ethernet.cut(one)
    assert hears_nothing(one, left, right)
    assert hears_nothing(two, right, left)
    ethernet.heal(one)
    assert hears(one, left, right)
    assert hears(two, right, left)


@FAMILIES
def test_an_address_that_is_lost_and_returns_is_used_again(
    ethernet: Ethernet, make: Make, network: str
) -> None:
    one, two = ethernet.add_host(), ethernet.add_host()
    left, right = make(one, bind=network), make(two, bind=network)
    assert hears(one, left, right)
    one.remove_addresses()
    for _ in range(3):
        send(one, left, [bytes(1000)] * 5)
    if "." in network:  # with IPv6 Linux goes on sending from the address that is gone
        assert left.status["counters"]["packets_lost_sending"] == 15
    while right.receive():
        pass
    one.add_addresses()
    assert hears(one, left, right)
    assert hears(two, right, left)
    assert left.status["gso"] is True


@FAMILIES
def test_an_interface_that_is_removed_and_made_anew_is_joined_again(
    ethernet: Ethernet, make: Make, network: str
) -> None:
    one, two = ethernet.add_host(), ethernet.add_host()
    left, right = make(one, bind=network), make(two, bind=network)
    assert hears(one, left, right)
    one.unplug()
    send(one, left, [b"lost"])
    one.plug_in()
    assert hears(one, left, right)
    assert hears(two, right, left)
    assert left.status["counters"]["repairs"] == 1


def test_only_the_bound_interface_is_heard(ethernet: Ethernet, make: Make) -> None:
    with Ethernet() as other_ethernet:
        one, two = ethernet.add_host(), ethernet.add_host()
        stranger = other_ethernet.add_host()
        peer = ("peer", "name", "port9", "netns", other_ethernet.name)
        two.ip("link", "add", "eth1", "type", "veth", *peer)
        two.ip("link", "set", "eth1", "up")
        two.ip("addr", "add", "10.78.0.2/24", "dev", "eth1")
        other_ethernet.ip("link", "set", "port9", "master", "br0", "up")
        both = make(two, bind="10.77.0.0/24"), make(two, bind="10.78.0.0/24")
        near, far = make(one, bind="eth0"), make(stranger, bind="eth0")
        assert both[1].status["interface"] == "eth1"
        assert hears(one, near, both[0])
        assert hears(stranger, far, both[1])
        for each in both:
            while each.receive():
                pass
        send(one, near, [b"near"])
        send(stranger, far, [b"far"])
        for each, heard in zip(both, (b"near", b"far"), strict=True):
            assert data_of(receive_within(each, 1)) == [heard]
            assert receive_within(each, 1, SILENCE_S) == []


@pytest.mark.parametrize("mtu_bytes", [1300, 9000])
def test_packets_are_as_large_as_the_interface_carries(
    ethernet: Ethernet, make: Make, mtu_bytes: int
) -> None:
    one, two = (ethernet.add_host(mtu_bytes=mtu_bytes) for _ in range(2))
    left, right = make(one, bind="10.77.0.0/24"), make(two, bind="10.77.0.0/24")
    assert left.packet_bytes_max == mtu_bytes - 28
    packets = [bytes([number]) * left.packet_bytes_max for number in range(50)]
    send(one, left, packets)
    assert sorted(data_of(receive_within(right, 50))) == packets


def test_a_node_may_start_before_its_link_is_up(ethernet: Ethernet, make: Make) -> None:
    one, two = ethernet.add_host(), ethernet.add_host()
    one.ip("link", "set", "eth0", "down")
    left, right = make(one, bind="10.77.0.0/24"), make(two, bind="10.77.0.0/24")
    assert any("nothing could be sent" in warning for warning in left.status["warnings"])
    one.ip("link", "set", "eth0", "up")
    assert hears(one, left, right)
    assert hears(two, right, left)


def test_ipv6_on_loopback_works_with_the_route_that_the_error_names(
    ethernet: Ethernet, make: Make
) -> None:
    host = ethernet.add_host()
    with pytest.raises(TransportFailed) as caught:
        make(host, bind="::1")
    host.ip(*str(caught.value).rpartition(": ip ")[2].split())
    left, right = make(host, bind="::1"), make(host, bind="::1")
    packets = [bytes([number]) * left.packet_bytes_max for number in range(50)]
    send(host, left, packets)
    received: list[Packet] = receive_within(right, 50)
    assert sorted(data_of(received)) == packets
    assert list(left.receive()) == []

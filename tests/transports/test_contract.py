"""Every transport of ours keeps the contract, and ``fault`` keeps it while it has no faults."""

import itertools
from typing import Any

import pytest

from tests.transport_ib.fake import FakeNetwork
from tests.transport_ib.places import loopback_addresses, unused_group
from tests.transport_udp.ports import unused_port, unused_ports
from vsync.ip.interfaces import interface_addresses
from vsync.testing.contracts import MakeTransport, TransportContract
from vsync.transports.fault import FaultSettings, TransportFault
from vsync.transports.memory import MemorySettings, TransportMemory
from vsync.vocabulary import NodeId
from vsync_transport_ib.settings import SettingsIB
from vsync_transport_ib.transport import TransportIB
from vsync_transport_udp.fanout import TransportUDPU
from vsync_transport_udp.settings import SettingsUDP, SettingsUDPU
from vsync_transport_udp.transport import TransportUDP

numbers = itertools.count(1)


class TestMemory(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        settings = MemorySettings(network=f"contract {next(numbers)}")
        return lambda node: TransportMemory(settings, node=node)


class TestUDP(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        settings = SettingsUDP(bind="127.0.0.1", port=unused_port())
        return lambda node: TransportUDP(settings, node=node)


class TestUDPWithoutOffload(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        settings = SettingsUDP(bind="127.0.0.1", port=unused_port(), gso="off", gro="off")
        return lambda node: TransportUDP(settings, node=node)


class TestUDPWithOneReceiverWithoutGRO(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        port = unused_port()

        def make(node: int) -> TransportUDP:
            settings = SettingsUDP(bind="lo", port=port, gro="off" if node == 2 else "auto")
            return TransportUDP(settings, node=NodeId(node))

        return make


def listed(**settings: Any) -> MakeTransport:
    """Make ``udpu`` transports on loopback, of which each has all in its list, itself too."""
    ports = unused_ports(3)
    peers = tuple(f"127.0.0.1:{port}" for port in ports)

    def make(node: NodeId) -> TransportUDPU:
        made = SettingsUDPU(bind="127.0.0.1", port=ports[node - 1], peers=peers, **settings)
        return TransportUDPU(made, node=node)

    return make


class TestUDPU(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        return listed()


class TestUDPUWithoutOffload(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        return listed(gso="off", gro="off")


class TestUDPUOverIPv6(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        if not any(str(each.address) == "::1" for each in interface_addresses()):
            pytest.skip("this machine has no ::1, so IPv6 on loopback cannot be tried")
        ports = unused_ports(3)
        peers = tuple(f"[::1]:{port}" for port in ports)

        def make(node: NodeId) -> TransportUDPU:
            settings = SettingsUDPU(bind="::1", port=ports[node - 1], peers=peers)
            return TransportUDPU(settings, node=node)

        return make


class TestIBInUserSpace(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        addresses, group = loopback_addresses(), unused_group()

        def make(node: NodeId) -> TransportIB:
            settings = SettingsIB(provider="soft", device=addresses[node], group=group)
            return TransportIB(settings, node=node)

        return make


class TestIBOverVerbs(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        network = FakeNetwork()
        return lambda node: TransportIB(SettingsIB(), node=node, load=lambda _: network)


class TestFaultAroundMemory(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        network = f"contract {next(numbers)}"
        settings = FaultSettings(inner="memory", settings={"network": network})
        return lambda node: TransportFault(settings, node=node)


class TestFaultAroundUDP(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        settings = FaultSettings(settings={"bind": "127.0.0.1", "port": unused_port()})
        return lambda node: TransportFault(settings, node=node)

"""Every transport of ours keeps the contract, and ``fault`` keeps it while it has no faults."""

import itertools

import pytest

from tests.transport_udp.ports import unused_port
from vsync.testing.contracts import MakeTransport, TransportContract
from vsync.transports.fault import FaultSettings, TransportFault
from vsync.transports.memory import MemorySettings, TransportMemory
from vsync.vocabulary import NodeId
from vsync_transport_udp.settings import SettingsUDP
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

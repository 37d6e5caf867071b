"""A transport with a seal keeps the contract, and lets nobody in who has no key."""

import itertools
import logging
from contextlib import closing
from typing import Any

import pytest

from tests.transport_udp.ports import unused_port
from vsync.keys import Key, KeyRing
from vsync.seal import OVERHEAD_BYTES
from vsync.testing.contracts import MakeTransport, TransportContract, data_of, receive_within
from vsync.transport import EVERYONE, Burst, Station, Transport
from vsync.transports.fault import FaultSettings, TransportFault
from vsync.transports.memory import MemorySettings, TransportMemory
from vsync.transports.redundant import RedundantSettings, TransportRedundant
from vsync.transports.sealed import TransportSealed, serving
from vsync.vocabulary import NodeId
from vsync_transport_udp.settings import SettingsUDP
from vsync_transport_udp.transport import TransportUDP

KEY, OTHER = Key(bytes(range(32))), Key(bytes(32))

numbers = itertools.count(1)


def station(node: int, key: Key | None = KEY) -> Station:
    """Of that node, in a life of its own."""
    keys = None if key is None else KeyRing(key)
    return Station(NodeId(node), next(numbers), 7, instance=node, keys=keys)


def on_memory(network: str, node: int, key: Key | None = KEY) -> Transport:
    made = TransportMemory(MemorySettings(network=network), node=NodeId(node))
    return serving(made, station(node, key))


class SealedContract(TransportContract):
    """As every transport, but that it cannot be chosen by name."""

    def test_its_name_loads_it(self, make_transport: MakeTransport) -> None:
        made = make_transport(NodeId(1))
        assert isinstance(made, TransportSealed)
        assert made.status["scheme"] in ("memory", "udp")


class TestSealedMemory(SealedContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        network = f"sealed {next(numbers)}"
        return lambda node: on_memory(network, node)


class TestSealedUDP(SealedContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        settings = SettingsUDP(bind="127.0.0.1", port=unused_port())
        return lambda node: serving(TransportUDP(settings, node=node), station(node))


class TestRedundantWithKey(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        number = next(numbers)
        links = [
            {"transport": "memory", "settings": {"network": f"sealed {name} {number}"}}
            for name in "ab"
        ]
        settings = RedundantSettings.model_validate({"links": links, "hello_s": 10})
        return lambda node: serving(TransportRedundant(settings, node=node), station(node))


def pair(first: Key | None, second: Key | None) -> tuple[Transport, Transport]:
    network = f"sealed {next(numbers)}"
    one, two = on_memory(network, 1, first), on_memory(network, 2, second)
    for each in (one, two):
        each.open()
    return one, two


def test_a_seal_takes_room_in_each_packet() -> None:
    one, plain = pair(KEY, None)
    assert one.packet_bytes_max == plain.packet_bytes_max - OVERHEAD_BYTES


def test_another_key_is_told_in_words_on_both_sides(caplog: pytest.LogCaptureFixture) -> None:
    one, two = pair(KEY, OTHER)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            one.send(Burst(EVERYONE, [b"a"]))
            two.send(Burst(EVERYONE, [b"b"]))
            assert list(one.receive()) == list(two.receive()) == []
    for transport, node, theirs, ours in ((one, 2, OTHER, KEY), (two, 1, KEY, OTHER)):
        (warning,) = transport.status["warnings"]
        assert warning.startswith(f"node {node} at ")
        assert f"key {theirs}, which this node does not have (it uses {ours})" in warning
        assert transport.status["counters"]["dropped_key"] == 3
    assert len(caplog.records) == 2, "each is told once"


def test_a_node_without_a_key_is_told_of() -> None:
    one, two = pair(KEY, None)
    two.send(Burst(EVERYONE, [b"VS, in the clear"]))
    assert list(one.receive()) == []
    (warning,) = one.status["warnings"]
    assert warning.startswith("packets without a seal come from ")


def test_status_names_keys_and_never_shows_them() -> None:
    one, _ = pair(KEY, None)
    assert one.status["keys"] == [str(KEY)]
    assert KEY.secret.hex() not in str(one.status)


def test_faults_hit_sealed_packets() -> None:
    number = next(numbers)

    def made(node: int, **faults: Any) -> Transport:
        settings = FaultSettings(inner="memory", settings={"network": f"sealed {number}"}, **faults)
        return serving(TransportFault(settings, node=NodeId(node)), station(node))

    with closing(made(1)) as one, closing(made(2, duplicate=1.0)) as two:
        one.open()
        two.open()
        assert isinstance(two, TransportSealed)
        one.send(Burst(EVERYONE, [b"a", b"b"]))
        assert sorted(data_of(receive_within(two, 2))) == [b"a", b"b"]
        assert two.status["counters"]["dropped_replay"] == 2


def test_faults_around_several_links_are_within_no_seal_but_theirs() -> None:
    links = [
        {"transport": "memory", "settings": {"network": f"sealed {next(numbers)}"}} for _ in "ab"
    ]
    settings = FaultSettings(inner="redundant", settings={"links": links})
    made = serving(TransportFault(settings, node=NodeId(1)), station(1))
    assert isinstance(made, TransportFault)
    with closing(made):
        made.open()
        links_found = made.status["inner"]["links"]
        assert [link["facts"]["keys"] for link in links_found.values()] == [[str(KEY)]] * 2


def test_a_transport_that_is_opened_again_is_heard_by_who_knew_the_first() -> None:
    network = f"sealed {next(numbers)}"
    with closing(on_memory(network, 2)) as listener:
        listener.open()
        whom = station(1)
        for word in (b"first", b"second"):
            made = TransportMemory(MemorySettings(network=network), node=NodeId(1))
            with closing(serving(made, whom)) as speaker:
                speaker.open()
                speaker.send(Burst(EVERYONE, [word]))
                assert data_of(receive_within(listener, 1)) == [word]

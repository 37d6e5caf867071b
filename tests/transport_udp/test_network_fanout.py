"""``udpu`` between hosts on a network that carries no multicast: needs root."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.network.nodes import Ring, eventually, filter_packets
from tests.transport_udp.hosts import Ethernet, Host
from vsync.testing.contracts import (
    SILENCE_S,
    MakeTransport,
    TransportContract,
    receive_within,
)
from vsync.transport import EVERYONE, Burst
from vsync.vocabulary import NodeId
from vsync_transport_udp.fanout import TransportUDPU
from vsync_transport_udp.settings import SettingsUDP, SettingsUDPU
from vsync_transport_udp.transport import TransportUDP

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

MakeRing = Callable[..., Ring]


def block_multicast(ethernet: Ethernet, host: Host) -> None:
    """Drop every multicast packet of a host at the bridge, as the networks of clouds do."""
    filter_packets(
        ethernet.name,
        f"table netdev block_{host.port} {{\nchain in {{\n"
        f"type filter hook ingress device {host.port} priority 0\n"
        "meta pkttype multicast drop\n}\n}\n",
    )


class HousedContract(TransportContract):
    """The contract, with every transport in a host of its own."""

    HOST = ""
    MULTICAST = False

    @pytest.fixture
    def make_transport(self) -> Iterator[MakeTransport]:
        with Ethernet() as ethernet:

            def made(node: NodeId) -> TransportUDPU:
                host = ethernet.add_host()
                if not self.MULTICAST:
                    block_multicast(ethernet, host)
                # The fourth host is for the one who replaces another.
                peers = tuple(self.HOST.format(number) for number in (1, 2, 3, 4))
                bind = peers[host.number - 1].strip("[]")
                transport = TransportUDPU(SettingsUDPU(bind=bind, peers=peers), node=node)
                unhoused = transport.open
                transport.open = lambda: host.run(unhoused)  # type: ignore[method-assign]
                return transport

            yield made


class TestContractIPv4(HousedContract):
    HOST = "10.77.0.{}"


class TestContractIPv6(HousedContract):
    HOST = "[fd77::{}]"
    MULTICAST = True  # without it IPv6 finds no neighbour


@pytest.fixture
def make_ring(tmp_path: Path) -> Iterator[MakeRing]:
    """Make a ring of three nodes that know the hosts of these numbers, without multicast."""
    with ExitStack() as stack:

        def made(key: str, *numbers: int) -> Ring:
            def section(number: int) -> str:
                known = [f"10.77.0.{each}:5405" for each in numbers]
                return f'bind = "10.77.0.0/24"\n{key} = {known}\n'

            ring = stack.enter_context(
                Ring(tmp_path, 3, housed=True, transport="udpu", section=section)
            )
            assert ring.ethernet is not None
            for host in ring.ethernet.hosts:
                block_multicast(ring.ethernet, host)
            return ring

        yield made


def test_multicast_is_really_blocked(make_ring: MakeRing) -> None:
    """Or else the tests below would say nothing."""
    ring = make_ring("peers", 1, 2, 3)
    assert ring.ethernet is not None
    two = [
        TransportUDP(SettingsUDP(bind="10.77.0.0/24"), node=NodeId(host.number))
        for host in ring.ethernet.hosts[:2]
    ]
    with closing(two[0]), closing(two[1]):
        for transport, host in zip(two, ring.ethernet.hosts, strict=False):
            host.run(transport.open)
        two[0].send(Burst(EVERYONE, [b"x"]))
        assert receive_within(two[1], 1, SILENCE_S) == []


def test_three_nodes_of_a_list_agree_though_one_is_killed_and_one_cut_off(
    make_ring: MakeRing,
) -> None:
    ring = make_ring("peers", 1, 2, 3)
    ring.start()
    ring.wait_for()
    load = ring.load()
    ring.wait_for_messages(500)
    ring[1].kill()
    ring.wait_for(2, 3)
    ring.start(1)
    ring.wait_for()
    ring.cut(3)
    ring.wait_for(1, 2)
    ring.heal(3)
    ring.wait_for()
    ring.wait_for_messages(500)
    ring.finish(load, messages=1000)
    ring.leave()


def test_nodes_with_a_seed_agree_and_go_on_without_it_and_with_a_later_one(
    make_ring: MakeRing,
) -> None:
    ring = make_ring("seeds", 1, 2)
    ring.start()
    ring.wait_for()
    load = ring.load()
    ring.wait_for_messages(500)
    ring[1].kill()
    ring.wait_for(2, 3)
    ring.add(4)
    ring.start(4)
    ring.wait_for(2, 3, 4)
    ring.start(1)
    ring.wait_for()
    ring.wait_for_messages(500)
    ring.finish(load, messages=1000)
    for node in ring.nodes:

        def known(number: int = node.number) -> bool:
            facts = ring[number].status()["transport"]["peers"]
            return len([f for f in facts if f["state"] == "up" and f["served"]]) == 3

        eventually(known, f"node {node.number} knows the three others")
    ring.leave()


def test_two_sides_that_learnt_of_each_other_come_together_again_after_a_long_parting(
    make_ring: MakeRing,
) -> None:
    """So long that each gave the other up for silent."""
    ring = make_ring("seeds", 1)
    ring.start()
    ring.wait_for()
    ring.cut(1)
    ring.wait_for(2, 3)

    def silent() -> bool:
        facts = ring[2].status()["transport"]["peers"]
        served: list[bool] = [f["served"] for f in facts if f["address"] == "10.77.0.1:5405"]
        return served == [False]

    eventually(silent, "the seed is silent")
    ring.heal(1)
    ring.wait_for()
    ring.leave()

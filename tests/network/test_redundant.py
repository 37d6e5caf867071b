"""Real processes on two networks: what happens to one of them, only `vsync links` notices.

Under load from all nodes. Every test ends as those of ``test_truth`` do.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.command import vsync
from tests.network.nodes import PATIENT, eventually
from tests.network.twofold import TwofoldRing
from vsync.links import Mode

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

MakeRing = Callable[[str], TwofoldRing]


@pytest.fixture
def make_ring(tmp_path: Path) -> Iterator[MakeRing]:
    """Make a ring of three nodes on two networks, used in that mode; in one configuration."""
    with ExitStack() as stack:

        def made(mode: str) -> TwofoldRing:
            ring = stack.enter_context(TwofoldRing(tmp_path, 3, mode, ring=PATIENT))
            ring.start()
            ring.wait_for()
            wait_for_states(ring, ["good", "good"])
            return ring

        yield made


def wait_for_states(ring: TwofoldRing, states: list[str]) -> None:
    """Wait until all nodes find their links to be like this."""
    eventually(
        lambda: all(ring.states(link) == [state] * 3 for link, state in enumerate(states, 1)),
        lambda: f"{states}: {[ring.states(link) for link in (1, 2)]}{ring.complaints()}",
    )


def configurations(ring: TwofoldRing) -> list[str]:
    """The last configuration of each node, and how many it had."""
    for node in ring.nodes:
        node.following.read()
    return [
        f"{node.following.configurations[-1]['id']} after {len(node.following.configurations)}"
        for node in ring.nodes
    ]


@pytest.mark.parametrize("mode", list(Mode))
def test_one_network_may_fail_in_any_way_and_nothing_changes(
    make_ring: MakeRing, mode: str
) -> None:
    ring = make_ring(mode)
    load = ring.load()
    ring.wait_for_messages(300)
    before = configurations(ring)
    for link, states in ((1, ["faulty", "good"]), (2, ["good", "faulty"])):
        ring.cut_link(link)
        wait_for_states(ring, states)
        ring.wait_for_messages(300)
        ring.heal_link(link)
        wait_for_states(ring, ["good", "good"])
    # One direction only: nothing reaches node 2 on the first network.
    ring.lose_on(1, 100, 2)
    wait_for_states(ring, ["faulty", "good"])
    ring.wait_for_messages(300)
    ring.lose_on(1, 0, 2)
    # Much is lost on the second.
    wait_for_states(ring, ["good", "good"])
    ring.lose_on(2, 30)
    wait_for_states(ring, ["good", "faulty"])
    ring.wait_for_messages(300)
    ring.lose_on(2, 0)
    ring.wait_for_messages(300)
    assert configurations(ring) == before, ring.complaints()
    ring.finish(load, messages=1000)
    assert configurations(ring) == before
    assert "link 1 is faulty: nodes" in ring[1].said() or "link 1 is faulty: node" in ring[1].said()
    ring.leave()


@pytest.mark.parametrize("mode", [Mode.PASSIVE, Mode.ACTIVE])
def test_when_both_networks_are_cut_the_ring_parts_and_merges_again(
    make_ring: MakeRing, mode: str
) -> None:
    ring = make_ring(mode)
    load = ring.load()
    ring.wait_for_messages(300)
    for link in (1, 2):
        ring.cut_link(link)
    for number in (1, 2, 3):
        ring.wait_for(number)
    for link in (1, 2):
        ring.heal_link(link)
    ring.wait_for()
    ring.wait_for_messages(300)
    ring.finish(load, messages=500)


def test_a_node_that_dies_or_comes_is_no_fault_of_a_network(make_ring: MakeRing) -> None:
    ring = make_ring("passive")
    load = ring.load()
    ring.wait_for_messages(300)
    ring[3].kill()
    ring.wait_for(1, 2)
    ring.wait_for_messages(300)
    ring.start(3)
    ring.wait_for()
    ring[2].pause()
    ring.wait_for_all_of([ring[1], ring[3]])
    ring[2].resume()
    ring.wait_for()
    ring.wait_for_messages(300)
    wait_for_states(ring, ["good", "good"])
    assert "faulty" not in ring[1].said() + ring[3].said()
    ring.finish(load, messages=500)


def test_vsync_links_shows_each_link(make_ring: MakeRing) -> None:
    ring = make_ring("fastest")
    ring.cut_link(2)
    wait_for_states(ring, ["good", "faulty"])
    eventually(
        lambda: "nodes 2, 3 are" in str(ring[1].status()["warnings"]),
        lambda: str(ring[1].status()["warnings"]),
    )
    socket = ring[1].socket
    done = vsync("links", "--socket", socket)
    assert done.returncode == 0, done.stderr
    mode, headings, first, second, why = done.stdout.splitlines()
    assert mode == "mode fastest"
    assert headings.split()[:3] == ["link", "transport", "state"]
    assert first.split()[:3] == ["1", "udp", "good"]
    assert first.split()[-2:] == ["2", "3"]
    assert second.split()[:3] == ["2", "udp", "faulty"]
    assert why.startswith("link 2: nodes 2, 3 are not ")
    found = json.loads(vsync("links", "--socket", socket, "--json").stdout)
    assert found["1"]["state"] == "good"
    assert 0 < found["1"]["round_trip_us"] < 1_000_000
    assert found["2"]["faults"] == 1
    warnings = ring[1].status()["warnings"]
    assert any(warning.startswith("link 2 is faulty: nodes 2, 3") for warning in warnings)


def test_an_interface_that_is_not_there_yet_is_tried_again(tmp_path: Path) -> None:
    with TwofoldRing(tmp_path, 3, "passive") as ring:
        for node in ring.nodes:
            assert node.host is not None
            node.host.ip("addr", "flush", "dev", "eth1")
        ring.start()
        ring.wait_for()
        (warning,) = [each for each in ring[1].status()["warnings"] if "not open" in each]
        assert "link 2 is not open" in warning
        assert "10.78.0.1" in warning
        for node in ring.nodes:
            assert node.host is not None
            node.host.ip("addr", "add", f"10.78.0.{node.host.number}/24", "dev", "eth1")
        wait_for_states(ring, ["good", "good"])
        load = ring.load()
        ring.cut_link(1)
        ring.wait_for_messages(300)
        ring.finish(load, messages=300)
        ring.leave()

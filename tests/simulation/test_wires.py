"""Simulated clusters whose nodes are connected several times, and seal what they say."""

from random import Random

import pytest

from vsync.links import LinkState, Mode
from vsync.testing.cluster import Cluster
from vsync.testing.faults import random_wires
from vsync.testing.simulate import simulate
from vsync.testing.wiring import Wires, Wiring


def wirings(cluster: Cluster) -> list[Wiring]:
    found = [host.wiring for host in cluster.running()]
    return [wiring for wiring in found if wiring is not None]


def configurations(cluster: Cluster) -> int:
    return sum(line["event"] == "configuration" for line in cluster.lines)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("mode", list(Mode))
def test_one_of_two_links_may_fail_and_nothing_changes(mode: Mode, sealed: bool) -> None:
    cluster = Cluster(nodes=3, seed=7, wires=Wires(links=2, mode=mode, sealed=sealed))
    cluster.start()
    assert cluster.settle()
    before = configurations(cluster)
    for link in (1, 2):
        for share in (1.0, 0.3):
            cluster.network.lossy[link] = share
            for number in range(300):
                cluster.submit(1 + number % 3, 1000)
                cluster.run(0.002)
            states = {
                wiring._links.links[link].state  # type: ignore[union-attr]
                for wiring in wirings(cluster)
            }
            assert states == {LinkState.FAULTY}
            cluster.network.lossy[link] = 0.0
            cluster.run(3.0)
    assert cluster.settle()
    assert configurations(cluster) == before
    assert cluster.check(quiet=True).holds


def test_whoever_records_and_forges_changes_nothing_but_counters() -> None:
    cluster = Cluster(nodes=3, seed=7, wires=Wires(sealed=True))
    cluster.start()
    assert cluster.settle()
    before = configurations(cluster)
    for number in range(1000):
        cluster.submit(1 + number % 3, 3000)
        cluster.run(0.002)
    assert cluster.settle()
    assert configurations(cluster) == before
    assert cluster.check(quiet=True).holds
    for wiring in wirings(cluster):
        (guard,) = wiring._guards.values()
        assert {"dropped_replay", "dropped_seal", "dropped_truncated"} <= set(guard.counters)


def test_seeds_have_all_kinds_of_wires_and_the_same_ones_again() -> None:
    drawn = [random_wires(Random(f"wires {seed} 3")) for seed in range(120)]
    assert {(wires.links > 1, wires.sealed) for wires in drawn} == {
        (several, sealed) for several in (False, True) for sealed in (False, True)
    }
    assert {wires.mode for wires in drawn if wires.links > 1} == set(Mode)
    seed = next(
        seed
        for seed in range(100)
        if (wires := random_wires(Random(f"wires {seed} 3"))).sealed and wires.links > 1
    )
    first, second = simulate(seed, 3), simulate(seed, 3)
    assert first.holds
    assert first.lines == second.lines
    assert any(step.words[0] == "link" for step in first.steps)

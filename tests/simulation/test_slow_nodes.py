"""Nodes that get little of their processors, or none for a while.

They accuse nobody, hold nobody up, and come back.
"""

from random import Random

import pytest

from vsync.testing.cluster import Cluster

NODES = 5
SLOW = (2, 3)
DEAD = 5
LOAD = (1, 4)
"""Who sends."""


def one_ring(seed: int) -> Cluster:
    """A cluster on one ring."""
    cluster = Cluster(NODES, seed=seed)
    cluster.start()
    assert cluster.settle()
    return cluster


def starve(cluster: Cluster, seconds: float, dice: Random) -> None:
    """For a while the slow ones stop again and again, up to the length of ``consensus_s``."""
    end = cluster.now + seconds
    while cluster.now < end:
        cluster.pause(*SLOW)
        for number in LOAD:
            cluster.submit(number, 500)
        cluster.run(dice.uniform(0.03, 0.12))
        cluster.resume(*SLOW)
        cluster.run(0.005)


def accusations(cluster: Cluster, *numbers: int) -> int:
    return sum(cluster.engine(number).counters["nodes_accused"] for number in numbers)


def test_the_slow_accuse_nobody_and_leave_the_dead_to_the_others() -> None:
    """Without an eye on their own lateness they accuse others with three of these seeds."""
    for seed in range(6):
        cluster, dice = one_ring(seed), Random(seed)
        starve(cluster, 2.0, dice)
        before = accusations(cluster, *SLOW)
        cluster.crash(DEAD)
        starve(cluster, 2.0, dice)
        assert accusations(cluster, *SLOW) == before, f"seed {seed}"
        assert cluster.settle()
        assert cluster.check(quiet=True).holds


def test_the_slow_do_not_keep_the_others_from_finding_a_dead_node() -> None:
    cluster, dice = one_ring(7), Random(7)
    starve(cluster, 2.0, dice)
    cluster.crash(DEAD)
    found = cluster.now
    while DEAD in cluster.engine(1).members:
        starve(cluster, 0.1, dice)
    assert cluster.now - found < 1.0


@pytest.mark.parametrize("seed", range(3))
def test_a_slow_node_slows_the_ring_but_does_not_stop_it(seed: int) -> None:
    cluster, dice = one_ring(seed), Random(seed)
    for _ in range(8):
        before = sum(line["event"] == "deliver" for line in cluster.lines if line["node"] == 1)
        starve(cluster, 0.5, dice)
        after = sum(line["event"] == "deliver" for line in cluster.lines if line["node"] == 1)
        assert after > before
    configurations = [line for line in cluster.lines if line["event"] == "configuration"]
    assert len(configurations) == NODES, "nobody was thrown out"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("seconds", [0.1, 0.25, 2.0])
def test_a_node_whose_machine_was_frozen_comes_back_though_its_clock_shows_nothing(
    seed: int, seconds: float
) -> None:
    cluster = one_ring(seed)
    frozen, others = 2, (1, 3, 4, 5)
    for number in range(200):
        cluster.submit(1 + number % NODES, 2000)
        cluster.run(0.0005)
    cluster.freeze(frozen)
    for number in range(100):
        cluster.submit(others[number % 4], 2000)
        cluster.run(seconds / 100)
    assert cluster.engine(1).members == ((1, 2, 3, 4, 5) if seconds < 0.3 else others)
    cluster.resume(frozen)
    assert cluster.engine(frozen).counters["pauses_noticed"] == 0
    assert cluster.settle()
    assert cluster.engine(frozen).members == (1, 2, 3, 4, 5)
    assert cluster.check(quiet=True).holds

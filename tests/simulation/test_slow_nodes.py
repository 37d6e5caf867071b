"""Nodes that get little of their processors: they accuse nobody, and hold nobody up."""

from random import Random

import pytest

from vsync.testing.cluster import Cluster

NODES = 5
SLOW = (2, 3)
DEAD = 5
LOAD = (1, 4)
"""Who sends."""


def starving(seed: int) -> Cluster:
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
        cluster, dice = starving(seed), Random(seed)
        starve(cluster, 2.0, dice)
        before = accusations(cluster, *SLOW)
        cluster.crash(DEAD)
        starve(cluster, 2.0, dice)
        assert accusations(cluster, *SLOW) == before, f"seed {seed}"
        assert cluster.settle()
        assert cluster.check(quiet=True).holds


def test_the_slow_do_not_keep_the_others_from_finding_a_dead_node() -> None:
    cluster, dice = starving(7), Random(7)
    starve(cluster, 2.0, dice)
    cluster.crash(DEAD)
    found = cluster.now
    while DEAD in cluster.engine(1).members:
        starve(cluster, 0.1, dice)
    assert cluster.now - found < 1.0


@pytest.mark.parametrize("seed", range(3))
def test_a_slow_node_slows_the_ring_but_does_not_stop_it(seed: int) -> None:
    cluster, dice = starving(seed), Random(seed)
    for _ in range(8):
        before = sum(line["event"] == "deliver" for line in cluster.lines if line["node"] == 1)
        starve(cluster, 0.5, dice)
        after = sum(line["event"] == "deliver" for line in cluster.lines if line["node"] == 1)
        assert after > before
    configurations = [line for line in cluster.lines if line["event"] == "configuration"]
    assert len(configurations) == NODES, "nobody was thrown out"

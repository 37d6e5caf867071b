"""Real processes that die while they synchronize, again and again: no ghost, and nobody waits."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import environment, vsync
from tests.network.nodes import ROOT, Ring, eventually

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

SERVICES = 'preset = "lan"\n[service.quorum]\nexpected_votes = 3\n[service.kv]\ntimeout_s = 30'
SYNCHRONIZE_S = 600
"""So long would a node that never synchronizes hold up the others: no answer would come in time."""
DEATHS = 15
PATIENCE_S = 30.0

JOINER = """
import sys, anyio, vsync

async def main() -> None:
    async with vsync.connect(sys.argv[1], name="joiner") as session:
        await session.join("crowd")
        await session.send(b"here")
        async for _ in session:
            pass  # until the daemon is lost

while True:
    try:
        anyio.run(main)
    except vsync.DaemonError:
        pass
"""


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    """Three nodes with quorum and map, each on a host of its own; 1 and 2 have a member each."""
    with Ring(tmp_path, 3, housed=True, ring=SERVICES) as ring:
        for node in ring.nodes:
            text = node.settings.read_text()
            patient = text.replace("[node]\n", f"[node]\nsynchronize_s = {SYNCHRONIZE_S}\n")
            node.settings.write_text(patient)
        ring.start()
        ring.wait_for()
        joiners = [
            subprocess.Popen(
                [sys.executable, "-c", JOINER, str(node.socket)], cwd=ROOT, env=environment()
            )
            for node in ring.nodes
        ]
        yield ring
        for joiner in joiners:
            joiner.kill()
            joiner.wait()


def put(ring: Ring, node: int, value: str) -> None:
    """Change the map: an ordinary message, which waits for the whole ring's synchronization."""
    done = vsync("kv", "set", "--socket", ring[node].socket, "key", value)
    assert done.returncode == 0, done.stderr


def nodes_in(ring: Ring, at: int, group: str) -> list[int]:
    """The nodes that have members of *group*, as node *at* sees it."""
    members: list[list[int]] = ring[at].status()["groups"].get(group, [])
    return sorted(node for node, _ in members)


def ghosts(ring: Ring) -> list[str]:
    """Groups that have other members than those of nodes 1 and 2, as each of these sees them."""
    return [
        f"{group} at node {node}: {nodes_in(ring, node, group)}"
        for node in (1, 2)
        for group in ("crowd", "vsync.service.kv", "vsync.service.quorum")
        if nodes_in(ring, node, group) != [1, 2]
    ]


def test_a_node_that_dies_while_it_synchronizes_again_and_again_leaves_no_ghost(
    ring: Ring,
) -> None:
    dice = random.Random(11)
    for death in range(DEATHS):
        ring[3].kill()
        put(ring, 1 + death % 2, str(death))  # the others are not held up
        ring[3].start()
        # From before it has spoken to well after it has joined.
        time.sleep(dice.uniform(0.4, 1.4))
    ring[3].kill()
    eventually(lambda: ghosts(ring) == [], lambda: f"ghosts: {ghosts(ring)}", PATIENCE_S)
    eventually(
        lambda: not any(ring[node].status()["synchronizing"] for node in (1, 2)),
        "nobody is waited for",
        PATIENCE_S,
    )
    put(ring, 1, "last")
    ring[3].start()
    ring.wait_for()

    def back() -> bool:
        done = vsync("kv", "get", "--socket", ring[3].socket, "key")
        return done.returncode == 0 and done.stdout.strip() == "last"

    eventually(back, lambda: "the map at node 3", PATIENCE_S)
    eventually(
        lambda: all(nodes_in(ring, node, "crowd") == [1, 2, 3] for node in (1, 2, 3)),
        lambda: json.dumps([nodes_in(ring, node, "crowd") for node in (1, 2, 3)]),
        PATIENCE_S,
    )
    ring.leave()
    report = ring.check(quiet=False)
    assert report.holds, report

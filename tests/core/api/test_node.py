"""A node's life: opening, closing, being cancelled, failing."""

import os
import threading
from pathlib import Path

import anyio
import pytest

import vsync
from tests.core.api.rings import (
    PATIENCE_S,
    configuration,
    fresh_network,
    ring_of,
    settings_of,
    until_together,
)
from vsync import DuplicateNode, NodeClosed, StateFailed

pytestmark = pytest.mark.anyio


def ring_threads() -> int:
    """How many ring threads run."""
    return sum(thread.name == "vsync ring" for thread in threading.enumerate())


def open_files() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


async def test_a_lone_node_forms_a_ring_of_its_own(tmp_path: Path) -> None:
    async with ring_of(tmp_path, 1) as (node,), node.session() as session:
        assert (await configuration(session)).members == (1,)


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async with ring_of(tmp_path / "first", 1):
        pass
    before = (ring_threads(), open_files())
    async with ring_of(tmp_path, 3) as nodes, nodes[0].session():
        assert ring_threads() == before[0] + 3
    assert (ring_threads(), open_files()) == before


async def test_a_node_that_closes_leaves_its_ring_at_once(tmp_path: Path) -> None:
    network = fresh_network()
    first, second = (
        settings_of(tmp_path, number, network, token_lost_s=10 * PATIENCE_S) for number in (1, 2)
    )
    async with vsync.open_node(first) as one:
        async with vsync.open_node(second) as two:
            await until_together([one, two])
        await until_together([one])  # a lost token would tell much later


async def test_cancelling_stops_cleanly_and_leaves_the_ring(tmp_path: Path) -> None:
    network = fresh_network()
    before = ring_threads()
    async with vsync.open_node(settings_of(tmp_path, 1, network)) as one:
        with anyio.CancelScope() as scope:
            trace = tmp_path / "2.jsonl"
            async with vsync.open_node(settings_of(tmp_path, 2, network), trace=trace) as two:
                await until_together([one, two])
                async with two.session() as session:
                    await session.send(b"last words", "a")
                    scope.cancel()
                    await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert ring_threads() == before + 1
        lines = trace.read_text().splitlines()
        assert '"event":"stop"' in lines[-1]
        assert sum('"event":"deliver"' in line for line in lines) == 1
        await until_together([one])


async def test_an_error_in_the_block_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with vsync.open_node(settings_of(tmp_path, 1, fresh_network())):
            raise KeyError("mine")


async def test_a_session_of_a_closed_node_says_so(tmp_path: Path) -> None:
    async with ring_of(tmp_path, 1) as (node,), node.session() as session:
        pass
    with pytest.raises(NodeClosed):
        await session.send(b"x", "a")
    with pytest.raises(NodeClosed):
        while True:
            await session.receive()


async def test_two_processes_cannot_run_the_same_node_here(tmp_path: Path) -> None:
    network = fresh_network()
    async with vsync.open_node(settings_of(tmp_path, 1, network)):
        with pytest.raises(StateFailed, match=f"already running here: process {os.getpid()}"):
            async with vsync.open_node(settings_of(tmp_path, 1, network)):
                pass


async def test_the_younger_of_two_nodes_with_one_id_stops(tmp_path: Path) -> None:
    network = fresh_network()
    first, second = settings_of(tmp_path / "a", 1, network), settings_of(tmp_path / "b", 1, network)
    async with vsync.open_node(first) as older:
        with pytest.raises(DuplicateNode, match="also has id 1"):
            async with vsync.open_node(second) as younger, younger.session() as session:
                with anyio.fail_after(10):
                    while True:
                        await session.receive()
        await until_together([older])


async def test_a_restarted_node_comes_back_with_a_newer_life(tmp_path: Path) -> None:
    network = fresh_network()
    async with vsync.open_node(settings_of(tmp_path, 1, network)) as one:
        lives = []
        for _ in range(3):
            async with vsync.open_node(settings_of(tmp_path, 2, network)) as two:
                await until_together([one, two])
                lives.append(two.life)
        assert lives == sorted(set(lives))

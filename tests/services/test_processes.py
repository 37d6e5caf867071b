"""Real nodes with both services, killed, stopped and cut off under load: still linearizable."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cli.command import environment, vsync
from tests.network.nodes import ROOT, Ring, eventually
from tests.services.crowd import as_call
from vsync_services.testing import Call, check_linearizable

pytestmark = pytest.mark.timeout(300)

SERVICES = "[service.quorum]\nexpected_votes = 3\n[service.kv]\ntimeout_s = 3.0"
PATIENCE_S = 30.0

MakeRing = Callable[[bool], Ring]


@pytest.fixture
def make_ring(tmp_path: Path) -> Iterator[MakeRing]:
    """Make a ring of three nodes, in one configuration; with hosts of their own, or without."""
    with ExitStack() as stack:

        def made(housed: bool) -> Ring:
            settings = f'preset = "{"lan" if housed else "loopback"}"\n{SERVICES}'
            ring = stack.enter_context(Ring(tmp_path, 3, housed=housed, ring=settings))
            ring.start()
            ring.wait_for()
            return ring

        yield made


class Crowd:
    """A process of clients at all nodes."""

    def __init__(self, ring: Ring, directory: Path) -> None:
        self._report = directory / "crowd.json"
        sockets = [str(node.socket) for node in ring.nodes]
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.services.crowd"),
                *("--report", str(self._report), *sockets),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            env=environment(),
        )

    def stop(self) -> list[Call]:
        """End it; what its clients saw."""
        assert self.process.poll() is None, "the clients ended by themselves; they say why above"
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(PATIENCE_S) == 0
        return [as_call(record) for record in json.loads(self._report.read_text())]


@contextmanager
def crowd(ring: Ring, directory: Path) -> Iterator[Crowd]:
    made = Crowd(ring, directory)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.kill()
        made.process.wait()
        if made.process.stdin is not None:
            made.process.stdin.close()


def serving(ring: Ring) -> None:
    """Wait until every node serves the map again."""
    ring.wait_for()
    for node in ring.nodes:

        def served(socket: Path = node.socket) -> bool:
            done = vsync("kv", "status", "--socket", socket, "--json")
            return done.returncode == 0 and json.loads(done.stdout)["serves"] == "linearizable"

        eventually(served, lambda: "the map served at every node", PATIENCE_S)


def judge(calls: list[Call], ring: Ring) -> None:
    lost = [line for node in ring.nodes for line in node.said().splitlines() if "is lost" in line]
    assert not lost, lost
    violations = check_linearizable(calls)
    assert not violations, "\n".join(map(str, violations))
    assert sum(1 for call in calls if call.end != float("inf")) > 300


def test_the_map_is_linearizable_while_processes_are_killed_and_stopped(
    make_ring: MakeRing, tmp_path: Path
) -> None:
    ring = make_ring(False)
    with crowd(ring, tmp_path) as clients:
        for number in (1, 2, 3):
            time.sleep(0.5)
            ring[number].kill()
            time.sleep(0.7)
            ring[number].start()
            serving(ring)
            stopped = number % 3 + 1
            ring[stopped].pause()
            time.sleep(0.8)
            ring[stopped].resume()
            serving(ring)
        calls = clients.stop()
    judge(calls, ring)


@pytest.mark.network
def test_the_map_is_linearizable_while_hosts_are_cut_off_killed_and_stopped(
    make_ring: MakeRing, tmp_path: Path
) -> None:
    ring = make_ring(True)
    with crowd(ring, tmp_path) as clients:
        for number in (1, 2, 3):
            other = number % 3 + 1
            ring.cut(number)
            time.sleep(1.2)
            ring[number].kill()  # nobody sees it die: it was gone before
            ring.heal(number)
            ring[number].start()
            serving(ring)
            ring.part(other)
            time.sleep(1.0)
            ring[other].signal(signal.SIGSTOP)
            ring.merge(other)
            time.sleep(0.6)
            ring[other].signal(signal.SIGCONT)
            serving(ring)
        ring.part(1)  # a minority that remembers, a majority of which one forgets
        time.sleep(1.0)
        ring[2].kill()
        ring[2].start()
        time.sleep(1.0)
        ring.merge(1)
        serving(ring)
        calls = clients.stop()
    judge(calls, ring)


@pytest.mark.network
def test_a_majority_that_forgot_waits_for_the_node_that_remembers(make_ring: MakeRing) -> None:
    ring = make_ring(True)
    ring.part(3)
    ring.wait_for(1, 2)
    done = vsync("kv", "set", "k", "acknowledged", "--socket", ring[1].socket)
    assert done.returncode == 0, done.stderr
    ring[1].kill()
    ring.cut(2)
    ring.merge(3)
    ring[1].start()
    ring.wait_for(1, 3)
    done = vsync("kv", "get", "k", "--socket", ring[3].socket)
    assert done.returncode == 1
    assert "waiting for node 2" in done.stderr
    done = vsync("quorum", "--socket", ring[3].socket)
    assert "is primary: 2 of 3 votes: nodes 1 and 3" in done.stdout
    ring.heal(2)
    serving(ring)
    done = vsync("kv", "get", "k", "--socket", ring[1].socket)
    assert (done.returncode, done.stdout) == (0, "acknowledged")

"""The two programs of the seed run against nodes of their own."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import environment
from tests.cli.nodes import Ring, eventually, ring

EXAMPLES = Path(__file__).parents[3] / "examples" / "evs"


@pytest.fixture
def nodes() -> Iterator[Ring]:
    with ring() as made:
        yield made


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )


def test_testevs_prints_who_is_here_and_what_is_said(nodes: Ring) -> None:
    (node,) = nodes.start(1)
    done = run("testevs.py", "--socket", node.socket, "--count", "20")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["members now: 1", "this node: 1"]
    change = lines.index("CONFIGURATION CHANGE")
    assert lines[change + 2 : change + 5] == ["members: 1", "left:", "joined: 1"]
    said = [line for line in lines if " says: " in line]
    assert said == [
        f"node 1 says: {kind}: this is message {number}"
        for kind in ("mcast_joined", "mcast_groups")
        for number in range(20)
    ]


def test_testevs_stays_to_see_nodes_go(nodes: Ring, tmp_path: Path) -> None:
    one, two = nodes.start(1, 2)
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, str(EXAMPLES / "testevs.py")),
                *("--socket", str(one.socket), "--count", "1", "--stay"),
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(),
        )
    try:
        eventually(lambda: "members: 1 2" in output.read_text(), "the first configuration")
        two.end(signal.SIGKILL)
        eventually(lambda: "members: 1\nleft: 2\n" in output.read_text(), "the end of node 2")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in output.read_text()


def test_evsbench_prints_a_line_a_round(nodes: Ring) -> None:
    (node,) = nodes.start(1)
    done = run(
        *("evsbench.py", "--socket", node.socket),
        *("--rounds", "3", "--count", "1000", "--size", "1300"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = re.findall(
        r"^ *(\d+) writes +(\d+) bytes per write +[\d.]+ seconds +([\d.]+) TP/s +([\d.]+) MB/s$",
        done.stdout,
        flags=re.MULTILINE,
    )
    assert [(int(count), int(size)) for count, size, _, _ in found] == [
        (1000, 1300),
        (800, 1400),
        (640, 1500),
    ]
    assert all(float(rate) > 0 for _, _, *rates in found for rate in rates)


@pytest.mark.parametrize("program", ["testevs.py", "evsbench.py"])
def test_without_a_node_they_say_so_in_a_sentence(program: str, tmp_path: Path) -> None:
    done = run(program, "--socket", tmp_path / "nothing")
    assert done.returncode == 1
    name = program.removesuffix(".py")
    assert done.stderr.startswith(f"{name}: no daemon answers at ")
    assert done.stderr.endswith("(LIBRARY)\n")
    assert done.stderr.count("\n") == 1


def test_the_bench_wants_something_to_send() -> None:
    done = run("evsbench.py", "--count", "0")
    assert done.returncode == 2
    assert "at least one round" in done.stderr

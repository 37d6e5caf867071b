"""``vsync latency`` on real nodes."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import complaint, invoke, vsync
from tests.cli.measuring import LONG_S, end, in_a_terminal, start, wait_for_frames
from tests.cli.nodes import Ring, eventually, ring

CLEAN = {"damaged": 0, "lost": 0, "repeated": 0, "reordered": 0}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Ring]:
    with ring() as made:
        made.start(1, 2)
        yield made


def latency(nodes: Ring, *arguments: str) -> dict[str, Any]:
    """The result of a measurement in which nothing went wrong."""
    done = vsync(
        "latency", "--socket", nodes.nodes[0].socket, "--json", *arguments, timeout_s=LONG_S
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("guarantee", ["unordered", "agreed", "safe"])
def test_every_message_is_timed(nodes: Ring, guarantee: str) -> None:
    found = latency(
        nodes, "--rate", "200", "--seconds", "0.5", "--size", "1K", "--guarantee", guarantee
    )
    own = found["own"]
    assert found["sent"] == own["messages"] == 100
    assert 0 < own["min_s"] <= own["p50_s"] <= own["p90_s"] <= own["p99_s"] <= own["p99.9_s"]
    assert own["p99.9_s"] <= own["max_s"]
    assert own["min_s"] <= own["mean_s"] <= own["max_s"]
    assert sum(bar["messages"] for bar in found["histogram"]) == 100
    assert (found["answers"], found["faults"], found["notes"]) == ({}, CLEAN, [])
    assert (found["guarantee"], found["size"], found["rate"]) == (guarantee, 1024, 200)


def test_a_stall_is_in_the_times_of_all_that_were_due_meanwhile(nodes: Ring) -> None:
    stall_s = 0.5
    node = nodes.nodes[0].process
    assert node is not None
    before = nodes.nodes[0].status()["sessions"]
    run = start(
        *("latency", "--socket", nodes.nodes[0].socket, "--rate", "100", "--seconds", "5"),
        "--json",
    )
    eventually(lambda: nodes.nodes[0].status()["sessions"] > before, "the run")
    wait_for_frames(nodes, 50)
    node.send_signal(signal.SIGSTOP)
    time.sleep(stall_s)
    node.send_signal(signal.SIGCONT)
    code, output = end(run)
    assert code == 0
    found = json.loads(output)
    assert found["own"]["max_s"] > 0.9 * stall_s
    # Of the 50 that were due, half waited for half of the stall at least; a closed loop had one.
    waited = sum(bar["messages"] for bar in found["histogram"] if bar["up_to_s"] > stall_s / 2)
    assert waited >= 20


def test_others_answer(nodes: Ring) -> None:
    answering = [
        start("latency", "--socket", node.socket, "--answer", "--group", "echo")
        for node in nodes.nodes
    ]
    for process in answering:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Answering as ")
    found = latency(nodes, "--rate", "100", "--seconds", "0.5", "--group", "echo")
    assert sorted(member.split("/")[0] for member in found["answers"]) == ["1", "2"]
    for times in found["answers"].values():
        assert times["messages"] == 50
        assert times["p50_s"] > found["own"]["min_s"]
    for process in answering:
        assert end(process, signal.SIGINT) == (0, "50 answered\n")


def test_ctrl_c_tells_what_was_measured_so_far(nodes: Ring) -> None:
    before = nodes.nodes[0].status()["sessions"]
    run = start("latency", "--socket", nodes.nodes[0].socket, "--seconds", "600", "--json")
    eventually(lambda: nodes.nodes[0].status()["sessions"] > before, "the run")
    wait_for_frames(nodes, 50)
    code, output = end(run, signal.SIGINT)
    assert code == 130
    found = json.loads(output)
    assert found["interrupted"] is True
    assert 0 < found["own"]["messages"] <= found["sent"] < 60_000
    assert found["correct"] is True


def test_people_get_a_table_and_a_histogram(nodes: Ring) -> None:
    done = vsync("latency", "--socket", nodes.nodes[0].socket, "--seconds", "0.3")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "node 1 of ring test: members 1 2",
        "agreed messages of 64 bytes, priority medium, 100 a second",
    ]
    assert lines[3].split() == ["MESSAGES", "LEAST", "P50", "P90", "P99", "P99.9", "MAX"]
    assert lines[4].startswith("delivered here        30  ")
    assert lines[6] == "delivered here:"
    assert all("≤ " in line for line in lines[7:])
    assert "█" in done.stdout


def test_a_terminal_has_a_bar_while_it_runs(nodes: Ring) -> None:
    shown = in_a_terminal("latency", "--socket", nodes.nodes[0].socket, "--seconds", "1.2")
    assert " messages " in shown
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in shown
    assert "P99.9" in shown


def test_a_message_too_large_and_nobody_there_are_sentences(nodes: Ring, tmp_path: Path) -> None:
    assert "1048576" in complaint("latency", "--socket", nodes.nodes[0].socket, "--size", "2M")
    assert "none.sock" in complaint("latency", "--socket", tmp_path / "none.sock")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--answer",), "--answer needs --group"),
        (("--answer", "--group", "g", "--rate", "5"), "for those who ask"),
        (("--rate", "0"), "--rate"),
        (("--rate", "nan"), "--rate"),
        (("--seconds", "0"), "--seconds"),
        (("--size", "1"), "28 bytes"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: tuple[str, ...], reason: str) -> None:
    done = invoke("latency", *arguments)
    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.replace("│", " ").split())

"""``vsync bench`` on real nodes."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import complaint, invoke, vsync
from tests.cli.measuring import LONG_S, end, in_a_terminal, start, wait_for_frames
from tests.cli.nodes import Ring, eventually, ring
from vsync.vocabulary import GroupKey

CLEAN = {"damaged": 0, "lost": 0, "repeated": 0, "reordered": 0}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Ring]:
    with ring() as made:
        made.start(1, 2, 3)
        yield made


def bench(nodes: Ring, *arguments: str, node: int = 1) -> dict[str, Any]:
    """The result of a run in which nothing went wrong."""
    done = vsync(
        "bench",
        *("--socket", nodes.nodes[node - 1].socket, "--json"),
        *arguments,
        timeout_s=LONG_S,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sessions(nodes: Ring, node: int) -> int:
    """How many programs are connected to a node, the one that asks among them."""
    return int(nodes.nodes[node - 1].status()["sessions"])


def members(nodes: Ring, group: str) -> int:
    """How many programs are in that group."""
    groups = nodes.nodes[0].status()["groups"]
    return len(groups.get(str(GroupKey.from_name(group)), ()))


@pytest.mark.parametrize("guarantee", ["unordered", "fifo", "agreed", "safe"])
def test_all_messages_of_all_senders_come_to_all_receivers(nodes: Ring, guarantee: str) -> None:
    found = bench(
        nodes,
        *("--messages", "300", "--senders", "3", "--receivers", "2", "--size", "2K"),
        *("--guarantee", guarantee, "--batch", "7"),
    )
    assert (found["node"], found["ring"], found["members"]) == (1, "test", [1, 2, 3])
    assert (found["guarantee"], found["size"], found["batch"]) == (guarantee, 2048, 7)
    assert found["sent"]["messages"] == found["delivered"]["messages"] == 900
    assert found["sent"]["bytes"] == 900 * 2048
    assert [sender["messages"] for sender in found["senders"]] == [300] * 3
    for receiver in found["receivers"]:
        assert list(receiver["from"].values()) == [300] * 3
        assert receiver["messages_per_s"] == pytest.approx(900 / receiver["seconds"], rel=0.01)
    assert set(found["receivers"][0]["from"]) == {sender["member"] for sender in found["senders"]}
    assert 0 < found["evenness"] <= 1
    assert found["processor_share"] > 0
    assert found["faults"] == CLEAN
    assert found["correct"] is True
    ordered = guarantee in ("agreed", "safe")
    assert found["same_order"] is (True if ordered else None)
    assert all((receiver["order"] is not None) is ordered for receiver in found["receivers"])


def test_it_sends_for_as_long_as_it_is_told(nodes: Ring) -> None:
    found = bench(nodes, "--seconds", "0.7")
    assert found["sent"]["seconds"] >= 0.7
    assert found["sent"]["messages"] == found["delivered"]["messages"] > 0
    assert found["evenness"] is None
    assert found["interrupted"] is False


def test_two_runs_at_a_time_do_not_mix(nodes: Ring) -> None:
    arguments = ("--messages", "2000", "--size", "100", "--json")
    runs = [start("bench", "--socket", node.socket, *arguments) for node in nodes.nodes]
    for run in runs:
        code, output = end(run)
        assert code == 0, output
        assert json.loads(output)["delivered"]["messages"] == 2000


def test_programs_on_several_nodes_take_part_in_one_run(nodes: Ring) -> None:
    arguments = ("--group", "together", "--json")
    receiving = [
        start("bench", "--socket", nodes.nodes[node - 1].socket, "--role", "receive", *arguments)
        for node in (2, 3)
    ]
    eventually(lambda: members(nodes, "together") == 2, "a receiver at both nodes")
    # One process: of two, the first might have come to its end before the second began.
    sent = bench(
        nodes, *("--role", "send", "--senders", "2", "--messages", "3000", "--group", "together")
    )
    assert sent["delivered"] is None
    assert sent["receivers"] == []
    orders = set()
    for process in receiving:
        code, output = end(process)
        assert code == 0, output
        found = json.loads(output)
        assert found["sent"] is None
        assert found["delivered"]["messages"] == 6000
        assert list(found["receivers"][0]["from"].values()) == [3000, 3000]
        assert "guarantee" not in found
        orders.add(found["receivers"][0]["order"])
    assert len(orders) == 1


def test_a_message_that_is_none_of_the_run_is_an_error(nodes: Ring) -> None:
    run = start(
        *("bench", "--socket", nodes.nodes[0].socket, "--group", "mine", "--seconds", "6"),
        *("--batch", "1", "--json"),
    )
    eventually(lambda: members(nodes, "mine") == 1, "the run")
    wait_for_frames(nodes, 20)
    assert invoke("send", "--socket", nodes.nodes[1].socket, "mine", "hello").exit_code == 0
    output, errors = run.communicate(timeout=LONG_S)
    assert run.returncode == 1
    assert errors == "Error: messages were not delivered as they were sent: 1 damaged.\n"
    assert json.loads(output)["faults"] == {**CLEAN, "damaged": 1}
    assert json.loads(output)["correct"] is False


def test_ctrl_c_tells_what_was_measured_so_far(nodes: Ring) -> None:
    before = sessions(nodes, 1)
    run = start("bench", "--socket", nodes.nodes[0].socket, "--seconds", "600", "--json")
    eventually(lambda: sessions(nodes, 1) >= before + 2, "the run")
    wait_for_frames(nodes, 50)
    code, output = end(run, signal.SIGINT)
    assert code == 130
    found = json.loads(output)
    assert found["interrupted"] is True
    assert found["delivered"]["messages"] > 0
    assert found["faults"] == CLEAN


def test_ctrl_c_before_anything_came_is_told_too(nodes: Ring) -> None:
    run = start(
        "bench", "--socket", nodes.nodes[0].socket, "--role", "receive", "--group", "nobody"
    )
    eventually(lambda: members(nodes, "nobody") == 1, "the receiver")
    code, output = end(run, signal.SIGINT)
    assert code == 130
    assert "No message came." in output


def test_a_sender_that_dies_does_not_keep_receivers_waiting(nodes: Ring) -> None:
    before = sessions(nodes, 1)
    arguments = ("--socket", nodes.nodes[0].socket, "--group", "dying")
    receiving = start("bench", *arguments, "--role", "receive", "--json")
    eventually(lambda: members(nodes, "dying") == 1, "the receiver")
    sending = start("bench", *arguments, "--role", "send", "--seconds", "600")
    eventually(lambda: sessions(nodes, 1) > before + 1, "the sender")
    wait_for_frames(nodes, 50)
    sending.kill()
    sending.communicate()
    code, output = end(receiving)
    assert code == 0
    (note,) = json.loads(output)["notes"]
    assert "went without saying how many messages it had sent" in note


def test_people_get_a_table_and_no_bar_where_there_is_no_terminal(nodes: Ring) -> None:
    done = vsync(
        *("bench", "--socket", nodes.nodes[0].socket, "--messages", "1000"),
        *("--senders", "2", "--receivers", "2"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "node 1 of ring test: members 1 2 3"
    assert lines[1] == "agreed messages of 1,024 bytes, priority medium, 200 at a time"
    assert lines[3].split() == [
        *("MESSAGES", "SECONDS", "MESSAGES/S", "MB/S", "LONGEST", "PAUSE", "ORDER")
    ]
    assert [line.split()[0] for line in lines[4:10]] == [
        *("sender", "sender", "all", "receiver", "receiver", "slowest")
    ]
    assert lines[-1] == (
        "Every message came whole, once and in its turn; all receivers got them in one order."
    )


def test_a_terminal_has_a_bar_while_it_runs(nodes: Ring) -> None:
    shown = in_a_terminal("bench", "--socket", nodes.nodes[0].socket, "--seconds", "1")
    assert " messages " in shown
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in shown
    assert "Every message came whole" in shown


def test_a_change_of_the_configuration_is_a_note_and_no_error() -> None:
    with ring() as made:
        first, second = made.start(1, 2)
        run = start("bench", "--socket", first.socket, "--seconds", "8", "--size", "100", "--json")
        eventually(lambda: sessions(made, 1) >= 3, "the run")
        wait_for_frames(made, 50)
        second.end(signal.SIGKILL)
        code, output = end(run)
        assert code == 0, output
        found = json.loads(output)
        assert found["faults"] == CLEAN
        (note,) = found["notes"]
        assert note.startswith("The configuration changed during the run: regular configuration ")
        assert ": members 1" in note


def test_a_message_too_large_names_the_limit(nodes: Ring) -> None:
    said = complaint("bench", "--socket", nodes.nodes[0].socket, "--size", "2M")
    assert "2097152" in said
    assert "1048576" in said


def test_nobody_there_is_a_sentence(tmp_path: Path) -> None:
    assert "none.sock" in complaint("bench", "--socket", tmp_path / "none.sock")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--messages", "5", "--seconds", "5"), "not both"),
        (("--role", "send"), "needs --group"),
        (("--role", "receive"), "needs --group"),
        (("--role", "receive", "--group", "g", "--size", "1K"), "for those who send"),
        (("--role", "receive", "--group", "g", "--senders", "1"), "for those who send"),
        (("--role", "send", "--group", "g", "--receivers", "1"), "for those who receive"),
        (("--messages", "0"), "--messages"),
        (("--seconds", "0"), "--seconds"),
        (("--seconds", "nan"), "--seconds"),
        (("--size", "27"), "28 bytes"),
        (("--size", "1G"), "64K or 1M"),
        (("--senders", "0"), "--senders"),
        (("--batch", "0"), "--batch"),
        (("--group", ""), "--group"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: tuple[str, ...], reason: str) -> None:
    done = invoke("bench", *arguments)
    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.replace("│", " ").split())

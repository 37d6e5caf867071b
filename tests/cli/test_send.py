"""``vsync send`` to real nodes, and what it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import complaint, invoke, vsync
from tests.cli.nodes import PATIENCE_S, Ring, eventually, ring
from vsync.vocabulary import GroupKey


@pytest.fixture(scope="module")
def nodes() -> Iterator[Ring]:
    with ring() as made:
        made.start(1, 2, 3)
        yield made


def delivered(nodes: Ring, node: int) -> list[dict[str, object]]:
    """The deliveries in a node's trace, a line that is being written excepted."""
    text = nodes.nodes[node - 1].trace.read_text()
    lines = map(json.loads, text[: text.rfind("\n") + 1].splitlines())
    return [line for line in lines if line["event"] == "deliver"]


@pytest.mark.parametrize("guarantee", ["unordered", "fifo", "agreed", "safe"])
@pytest.mark.parametrize("priority", ["recovery", "high", "medium", "low"])
def test_a_message_is_delivered_everywhere_as_it_was_sent(
    nodes: Ring, guarantee: str, priority: str
) -> None:
    name = f"{guarantee} {priority}"
    group = GroupKey.from_name(name).hex()
    done = vsync(
        *("send", "--socket", nodes.nodes[0].socket, name, "hello"),
        *("--guarantee", guarantee, "--priority", priority, "--json"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"accepted": 1, "group": group}
    for node in (1, 2, 3):
        eventually(
            lambda node=node: any(  # type: ignore[misc]
                line["groups"] == [group] and line["guarantee"] == guarantee and line["size"] == 5
                for line in delivered(nodes, node)
            ),
            f"a message to {name} at node {node}",
        )


def test_many_messages_are_fast_and_all_are_delivered(nodes: Ring) -> None:
    count = 20_000
    before = len(delivered(nodes, 2))
    done = vsync(
        *("send", "--socket", nodes.nodes[0].socket, "many", "--count", str(count)),
        *("--size", "64"),
        timeout_s=3 * PATIENCE_S,  # one answer for each before the next would take minutes
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{count} accepted\n"
    eventually(lambda: len(delivered(nodes, 2)) >= before + count, "all at node 2", 3 * PATIENCE_S)


def test_standard_input_is_the_message(nodes: Ring) -> None:
    for arguments in (("in",), ("in", "-")):
        done = vsync(
            "send", "--socket", nodes.nodes[1].socket, *arguments, input=b"\xff\x00 not text"
        )
        assert done.stdout == "1 accepted\n", done.stderr
    group = GroupKey.from_name("in").hex()
    eventually(
        lambda: (
            [line["size"] for line in delivered(nodes, 3) if line["groups"] == [group]] == [11, 11]
        ),
        "both messages at node 3",
    )


def test_a_group_may_be_given_by_its_key(nodes: Ring) -> None:
    key = "0123456789abcdef" * 4
    assert vsync("send", "--socket", nodes.nodes[0].socket, f"hex:{key}", "x").returncode == 0
    eventually(
        lambda: any(line["groups"] == [key] for line in delivered(nodes, 2)), "a message by key"
    )


def test_a_message_too_large_names_the_limit(nodes: Ring) -> None:
    done = vsync(
        "send", "--socket", nodes.nodes[0].socket, "large", "--size", str(2**20 + 1), "--count", "3"
    )
    assert done.returncode == 1
    assert "1048576" in done.stderr
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_nobody_there_is_a_sentence(tmp_path: Path) -> None:
    assert "none.sock" in complaint("send", "--socket", tmp_path / "none.sock", "g", "m")


def test_both_a_message_and_a_size_is_a_usage_error() -> None:
    assert invoke("send", "g", "m", "--size", "3").exit_code == 2


@pytest.mark.parametrize(
    "option",
    [("--guarantee", "certain"), ("--priority", "urgent"), ("--count", "0"), ("--size", "x")],
)
def test_what_is_no_value_of_an_option_is_a_usage_error(option: tuple[str, str]) -> None:
    assert invoke("send", "g", *option).exit_code == 2

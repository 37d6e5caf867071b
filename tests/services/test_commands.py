"""``vsync kv`` and ``vsync quorum`` at a node of a real ring."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import complaint, environment, invoke, vsync
from tests.network.nodes import Ring, eventually

SERVICES = "[service.quorum]\nexpected_votes = 1\n[service.kv]\nvalue_bytes_max = 1000"


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a node that is a ring by itself."""
    directory = tmp_path_factory.mktemp("n")
    settings = f'preset = "loopback"\n{SERVICES}'
    with Ring(directory, 1, housed=False, ring=settings) as ring:
        ring.start()
        ring.wait_for()
        found = ring[1].socket
        eventually(
            lambda: shown("kv", "status", "--socket", found)["serves"] == "linearizable",
            "the map served, and so the quorum decided",
        )
        yield found


def shown(*arguments: str | Path) -> Any:
    """What a command prints as JSON."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_quorum_shows_votes_and_the_reason(socket: Path) -> None:
    said = invoke("quorum", "--socket", socket).stdout.splitlines()
    assert said[0].endswith("is primary: 1 of 1 vote: node 1")
    assert said[1] == "1 of 1 votes needed"
    assert [line.split() for line in said[2:]] == [["node", "votes", "state"], ["1", "1", "here"]]
    found = shown("quorum", "--socket", socket)
    assert (found["primary"], found["votes"], found["expected_votes"]) == (True, 1, 1)
    assert found["members"] == [{"node": 1, "votes": 1, "waiting": False}]


def test_what_is_set_is_there_until_it_is_deleted(socket: Path) -> None:
    assert invoke("kv", "set", "colour", "green", "--socket", socket).stdout.startswith("revision ")
    assert invoke("kv", "get", "colour", "--socket", socket).stdout == "green"
    found = shown("kv", "get", "colour", "--socket", socket)
    assert (found["value"], found["text"]) == ("Z3JlZW4=", "green")
    assert invoke("kv", "delete", "colour", "--socket", socket).stdout == "deleted\n"
    assert invoke("kv", "delete", "colour", "--socket", socket).stdout == "it was not there\n"
    gone = invoke("kv", "get", "colour", "--socket", socket)
    assert (gone.exit_code, gone.stdout) == (1, "")
    assert gone.stderr == "There is no key 'colour'.\n"


def test_a_value_may_come_from_standard_input_and_be_any_bytes(socket: Path) -> None:
    value = bytes(range(256))
    set_it = invoke("kv", "set", "bytes", "--socket", socket, input=value)
    assert set_it.exit_code == 0
    got = subprocess.run(
        [sys.executable, "-m", "vsync_cli", "kv", "get", "bytes", "--socket", str(socket)],
        capture_output=True,
        env=environment(),
        timeout=60,
        check=True,
    )
    assert got.stdout == value
    assert "text" not in shown("kv", "get", "bytes", "--socket", socket)


def test_compare_and_set_needs_the_revision_that_is_there(socket: Path) -> None:
    first = shown("kv", "cas", "turn", "0", "mine", "--socket", socket)
    assert first["swapped"] is True
    again = invoke("kv", "cas", "turn", "0", "yours", "--socket", socket)
    assert again.exit_code == 1
    assert again.stderr == (
        f"Nothing changed: the key 'turn' is of revision {first['revision']}.\n"
    )
    revision = str(first["revision"])
    assert invoke("kv", "cas", "turn", revision, "--delete", "--socket", socket).exit_code == 0
    absent = invoke("kv", "cas", "turn", revision, "yours", "--socket", socket)
    assert absent.stderr == "Nothing changed: the key 'turn' is not there.\n"
    both = invoke("kv", "cas", "turn", "1", "x", "--delete", "--socket", socket)
    assert both.exit_code == 2


def test_a_list_is_of_one_prefix_in_the_order_of_keys(socket: Path) -> None:
    for key in ("list/b", "list/a", "other"):
        invoke("kv", "set", key, f"value of {key}", "--socket", socket)
    found = shown("kv", "list", "list/", "--socket", socket)
    assert [entry["key"] for entry in found["entries"]] == ["list/a", "list/b"]
    lines = invoke("kv", "list", "list/", "--socket", socket).stdout.splitlines()
    assert lines[0].split() == ["key", "revision", "value"]
    assert lines[1].startswith("list/a") and lines[1].endswith("value of list/a")
    assert len(shown("kv", "list", "list/", "--limit", "1", "--socket", socket)["entries"]) == 1


def test_a_watch_tells_what_changed_since_a_listing(socket: Path) -> None:
    point = shown("kv", "list", "watched/", "--socket", socket)["point"]
    invoke("kv", "set", "watched/a", "1", "--socket", socket)
    invoke("kv", "delete", "watched/a", "--socket", socket)
    begin = ("kv", "watch", "watched/", "--point", point, "--count", "2")
    lines = invoke(*begin, "--socket", socket).stdout.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["watched/a: 1", "watched/a: deleted"]
    records = [
        json.loads(line)
        for line in invoke(*begin, "--json", "--socket", socket).stdout.splitlines()
    ]
    assert [(record["key"], record["value"]) for record in records] == [
        ("watched/a", "MQ=="),
        ("watched/a", None),
    ]


def test_the_status_says_how_requests_are_served(socket: Path) -> None:
    found = shown("kv", "status", "--socket", socket)
    assert (found["serves"], found["nodes"]) == ("linearizable", [1])
    services = shown("status", "--socket", socket)["services"]
    assert services["kv"]["serves"] == "linearizable"
    assert services["quorum"]["primary"] is True


def test_what_cannot_be_is_a_sentence(socket: Path) -> None:
    said = complaint("kv", "set", "k", "x" * 1001, "--socket", socket)
    assert "a value of 1001 bytes is over the limit of 1000 bytes" in said
    assert "at least one character" in complaint("kv", "get", "", "--socket", socket)
    point = ("--point", "here")
    assert "is text such as" in complaint("kv", "watch", *point, "--socket", socket)
    point = ("--point", "9999.1:1")
    assert "which is older than" not in complaint(
        "kv", "watch", "--point", "1.9:1", "--socket", socket
    )


def test_a_node_without_the_services_says_so(tmp_path: Path) -> None:
    with Ring(tmp_path, 1, housed=False, ring='preset = "loopback"') as ring:
        ring.start()
        ring.wait_for()
        for command in (("kv", "get", "k"), ("quorum",)):
            done = vsync(*command, "--socket", ring[1].socket)
            assert done.returncode == 1
            assert f"no service '{command[0]}' runs in node 1" in done.stderr


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("[service.quorum]", "expected_votes is missing"),
        ("[service.quorum]\nexpcted_votes = 3", 'did you mean "expected_votes"?'),
        ('[service.quorum]\nexpected_votes = 3\nauto_tie_breaker = "highest"', "must be"),
        ("[service.quorum]\nexpected_votes = 3\nauto_tie_breaker = [1, 1]", "different node ids"),
        ("[service.quorum]\nexpected_votes = 3\ntwo_node = true", "two_node is for two nodes"),
        ("[service.quorum]\nexpected_votes = 3\nvotes = 4", "cannot be more than expected_votes"),
        ('[service.kv]\nreads = "fast"', "reads"),
        ("[service.kv]\ntimeout_s = 0", "timeout_s"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path: Path, section: str, sentence: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f"[node]\nid = 1\n{section}\n")
    result = invoke("check", file)
    assert result.exit_code == 1
    assert sentence in result.stderr

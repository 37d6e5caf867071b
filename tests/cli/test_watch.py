"""``vsync watch`` on real nodes."""

import base64
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import complaint, environment, invoke, vsync
from tests.cli.nodes import PATIENCE_S, Ring, eventually, ring


@pytest.fixture
def nodes() -> Iterator[Ring]:
    with ring() as made:
        made.start(1, 2)
        yield made


class Watching:
    """A ``vsync watch`` that runs."""

    def __init__(self, nodes: Ring, *arguments: str) -> None:
        self._output = nodes.directory / f"watch-{time.monotonic_ns()}"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "vsync_cli", "watch"),
                    *("--socket", str(nodes.nodes[0].socket), *arguments),
                ],
                stdout=output,
                stderr=subprocess.PIPE,
                env=environment(),
            )
        # The first line is the present configuration: from then on nothing is missed.
        eventually(lambda: bool(self.lines()), "the first line of watch")

    def lines(self) -> list[str]:
        return self._output.read_text().splitlines()

    def wait(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, errors.decode()


def send(nodes: Ring, node: int, *arguments: str, input: bytes = b"") -> None:
    done = vsync("send", "--socket", nodes.nodes[node - 1].socket, *arguments, input=input)
    assert done.returncode == 0, done.stderr


def test_json_has_a_line_for_every_event_of_the_groups(nodes: Ring) -> None:
    watching = Watching(nodes, "here", "there", "--json", "--count", "3")
    send(nodes, 2, "here", "one", "--guarantee", "safe")
    send(nodes, 1, "elsewhere", "not this")
    send(nodes, 1, "there", "zwei ü")
    send(nodes, 1, "here", input=b"\xff")
    assert watching.wait() == (0, "")
    first, *events = map(json.loads, watching.lines())
    assert first["event"] == "configuration"
    assert (first["kind"], first["members"], first["next"]) == ("regular", [1, 2], None)
    views = [event for event in events if event["event"] == "group"]
    assert [(view["joined"], view["causes"], view["closed"]) for view in views] == 2 * [
        (views[0]["members"], ["joined"], False)
    ]
    messages = [event for event in events if event["event"] != "group"]
    assert [message["event"] for message in messages] == ["deliver"] * 3
    assert [message["sender"] for message in messages] == [2, 1, 1]
    assert [message.get("text") for message in messages] == ["one", "zwei ü", None]
    assert base64.b64decode(messages[2]["payload"]) == b"\xff"
    assert messages[0]["guarantee"] == "safe"
    assert {message["configuration"] for message in messages} == {first["id"]}


def test_configurations_come_in_their_place(nodes: Ring) -> None:
    watching = Watching(nodes, "g", "--json")
    nodes.nodes[1].end(signal.SIGKILL)
    eventually(lambda: len(watching.lines()) >= 4, "two configurations after the death")
    _, view, transitional, regular = map(json.loads, watching.lines())
    assert (view["event"], view["group"]) == ("group", b"g".hex().ljust(64, "0"))
    assert (transitional["kind"], transitional["left"]) == ("transitional", [2])
    assert (regular["kind"], regular["members"]) == ("regular", [1])
    assert transitional["next"] == regular["id"]
    watching.process.send_signal(signal.SIGINT)
    assert watching.wait() == (0, "")


def test_people_get_lines(nodes: Ring) -> None:
    watching = Watching(nodes, "orders", "--count", "1")
    send(nodes, 1, "orders", "two\nlines")
    assert watching.wait() == (0, "")
    assert "regular configuration" in watching.lines()[0]
    assert re.fullmatch(r"orders: from 1/\d+ \(agreed\): two\\nlines", watching.lines()[-1])


def test_when_its_node_ends_that_is_an_error(nodes: Ring) -> None:
    watching = Watching(nodes, "g")
    nodes.nodes[0].end(signal.SIGKILL)
    code, errors = watching.wait()
    assert code == 1
    assert errors.startswith("Error: ")
    assert "Traceback" not in errors


def test_a_node_that_leaves_tells_so(nodes: Ring) -> None:
    watching = Watching(nodes, "g")
    assert nodes.nodes[0].end() == 0
    code, errors = watching.wait()
    assert code == 1
    assert errors.startswith("Error: ")
    assert "Traceback" not in errors


def test_nobody_there_and_nothing_to_watch_are_errors(tmp_path: Path) -> None:
    assert "none.sock" in complaint("watch", "--socket", tmp_path / "none.sock", "g")
    assert invoke("watch").exit_code == 2
    assert invoke("watch", "g", "--count", "0").exit_code == 2


def test_a_node_that_comes_back_is_watched_again(nodes: Ring) -> None:
    watching = Watching(nodes, "here", "--reconnect", "--slow", "evict", "--count", "2")
    send(nodes, 1, "here", "one")
    eventually(lambda: any(line.endswith(": one") for line in watching.lines()), "one")
    first = nodes.nodes[0]
    assert first.end() == 0
    eventually(lambda: "disconnected: " in watching.lines()[-1], "the daemon's end")
    first.start()
    eventually(lambda: watching.lines()[-1].startswith("group here: members 1/"), "a view again")
    eventually(lambda: first.members() == [1, 2], "node 1 with node 2 again")
    send(nodes, 2, "here", "two")
    assert watching.wait() == (0, "")
    assert watching.lines()[-1].endswith(": two")


def test_without_reconnecting_the_end_of_the_node_is_a_sentence(nodes: Ring) -> None:
    watching = Watching(nodes, "here")
    assert nodes.nodes[0].end() == 0
    code, said = watching.wait()
    assert code == 1
    assert said.startswith("Error: the daemon at ")
    assert "has closed the connection: the daemon was stopped" in said

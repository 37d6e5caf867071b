"""The picture of the demo, without processes: nodes whose traces are written by hand."""

from pathlib import Path

import pytest
from rich.console import Console

from tests.cli.test_trace import write
from vsync_cli.demo.cluster import Cluster
from vsync_cli.demo.follower import Follower
from vsync_cli.demo.processes import Condition, make_nodes
from vsync_cli.demo.screen import Screen


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    nodes = make_nodes(tmp_path)
    for node in nodes[:2]:
        trace = tmp_path / f"{node.node}.jsonl"
        write(trace, node.node, ["1-1a-2-1", "1-1a-2-2"])
        node.follower = Follower(trace)
        node.condition = Condition.RUNNING
    cluster = Cluster(nodes, rate=1)
    cluster.look()
    cluster.texts["1-1a-2-2"] = "hello there"
    return cluster


def drawn(screen: Screen, console: Console) -> str:
    with console.capture() as capture:
        console.print(screen._picture())
    return capture.get()


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("height", [6, 24, 60])
def test_it_fits_any_terminal(cluster: Cluster, width: int, height: int) -> None:
    console = Console(width=width, height=height)
    picture = drawn(Screen(cluster, console), console)
    assert all(len(line) <= width for line in picture.splitlines())
    assert len(picture.splitlines()) <= height


def test_it_shows_members_configurations_and_numbered_messages(cluster: Cluster) -> None:
    console = Console(width=150, height=24)
    picture = drawn(Screen(cluster, console), console)
    assert picture.count("R 4.1: 1 2 +1 +2") == 2
    assert picture.count("2 1: hello there (agreed)") == 2
    assert picture.count("1 1: 1-1a-2-1 (agreed)") == 2
    assert picture.count("──── regular 4.1 ────") == 2
    assert "ended (not started)" in picture


def test_keys_choose_a_node_and_the_bottom_says_what_they_did(cluster: Cluster) -> None:
    console = Console(width=150, height=24)
    screen = Screen(cluster, console)
    screen._press("2")
    screen._press("c")
    assert cluster.node(2).cut
    assert "Node 2 is cut off" in drawn(screen, console)
    screen._press("h")
    assert not cluster.node(2).cut
    screen._press("r")
    assert "Node 2 runs" in drawn(screen, console)
    for strange in ("x", "\x1b", "", "é"):
        screen._press(strange)


def test_numbers_begin_anew_in_a_regular_configuration_only(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    deliver = '{"event":"deliver","message":"%d","sender":1,"guarantee":"%s"}\n'
    configured = '{"event":"configuration","id":"1.1","kind":"%s","members":[1]}\n'
    path.write_text(
        configured % "regular"
        + deliver % (1, "agreed")
        + deliver % (2, "fifo")
        + configured % "transitional"
        + deliver % (3, "safe")
        + configured % "regular"
        + deliver % (4, "safe")
        + '{"event":"del'
    )
    follower = Follower(path)
    assert len(follower.read()) == 7
    messages = [shown for shown in follower.messages if shown.sender is not None]
    assert [shown.number for shown in messages] == [1, None, 2, 1]
    with path.open("a") as file:
        file.write('iver","message":"5","sender":1,"guarantee":"agreed"}\n')
    assert len(follower.read()) == 1
    assert follower.messages[-1].number == 2

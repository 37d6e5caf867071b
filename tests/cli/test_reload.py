"""``vsync reload``, SIGHUP and ``vsync key rotate``, with real nodes."""

import json
import signal
from collections.abc import Iterator

import pytest

from tests.cli.command import vsync
from tests.cli.nodes import RunningNode, eventually, ring
from vsync.key_file import make_key, read_key, write_key


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RunningNode]]:
    with ring() as made:
        key = make_key()
        plain = made.settings

        def settings(node: int, name: str) -> str:
            path = made.directory / f"ring{node}.key"
            write_key(path, key)
            return plain(node, name) + f'[security]\nkey_file = "{path}"\n'

        made.settings = settings  # type: ignore[method-assign]
        yield made.start(1, 2)


def rewrite(node: RunningNode, old: str, new: str) -> None:
    text = node.settings.read_text()
    assert old in text
    node.settings.write_text(text.replace(old, new, 1))


def window(node: RunningNode) -> int:
    found: int = node.status()["window_packets"]
    return found


def test_it_shows_the_difference_and_changes_it_if_told_so(nodes: list[RunningNode]) -> None:
    one, other = nodes
    before = window(other)
    told = vsync("reload", "--socket", one.socket)
    assert told.returncode == 0
    assert "nothing to change" in told.stdout
    rewrite(one, 'name = "test"\n', 'name = "test"\nwindow_packets = 77\n')
    rewrite(one, "[daemon]\n", "[daemon]\nclients_max = 50\n")
    shown = (
        "ring.window_packets: 2048 -> 77, on the whole ring\n"
        "daemon.clients_max: 1000 -> 50, on this node\n"
    )
    told = vsync("reload", "--socket", one.socket, "--dry-run")
    assert (told.returncode, told.stdout) == (0, shown)
    told = vsync("reload", "--socket", one.socket)
    assert told.returncode == 2
    assert "say --yes" in told.stderr
    assert window(other) == before
    told = vsync("reload", "--socket", one.socket, "--yes")
    assert (told.returncode, told.stdout) == (0, shown + "changed\n")
    eventually(lambda: window(one) == window(other) == 77, "both have it")
    assert "settings were changed by node 1: window_packets from 2048 to 77" in other.errors()
    assert any("window_packets = 77" in each for each in other.status()["warnings"])


def test_what_cannot_change_is_said_and_nothing_is_changed(nodes: list[RunningNode]) -> None:
    one = nodes[0]
    rewrite(one, "port = ", "multicast_loop = true\nttl = 7\nport = ")
    rewrite(one, "window_packets = 77", "window_packets = 78")
    told = vsync("reload", "--socket", one.socket, "--yes", "--json")
    found = json.loads(told.stdout)
    assert told.returncode == 1
    assert found["changed"] is False
    assert {each["key"]: each["where"] for each in found["differences"]} == {
        "ring.window_packets": "ring",
        "transport.udp.ttl": "restart",
    }
    told = vsync("reload", "--socket", one.socket, "--yes")
    assert told.returncode == 1
    assert "not possible: this cannot change while the node runs; restart it" in told.stdout
    assert told.stdout.endswith("nothing is changed\n")
    assert window(one) == 77
    rewrite(one, "ttl = 7\n", "")


def test_a_mistake_in_the_file_is_a_sentence_with_its_line(nodes: list[RunningNode]) -> None:
    one = nodes[0]
    rewrite(one, "window_packets = 78", "windowpackets = 78")
    told = vsync("reload", "--socket", one.socket, "--yes")
    assert told.returncode == 1
    assert f'{one.settings}:6: there is no key windowpackets in [ring]; did you mean "w' in (
        " ".join(told.stderr.split())
    )
    rewrite(one, "windowpackets = 78", "window_packets = 78")


def test_sighup_is_a_reload_and_a_mistake_leaves_the_node_as_it_is(
    nodes: list[RunningNode],
) -> None:
    one, other = nodes
    assert one.process is not None
    assert other.process is not None
    one.process.send_signal(signal.SIGHUP)
    eventually(lambda: window(other) == 78, "the ring has changed")
    assert "reload: ring.window_packets: 77 -> 78, on the whole ring" in one.errors()
    rewrite(other, 'name = "test"', 'name = "test"\nhold_s = "long"')
    other.process.send_signal(signal.SIGHUP)
    eventually(lambda: "the settings were not reloaded: " in other.errors(), "it says so")
    assert other.members() == [1, 2]


def test_the_key_is_changed_and_told_by_its_id_alone(nodes: list[RunningNode]) -> None:
    one, other = nodes
    paths = [node.settings.parent / f"ring{node.node}.key" for node in nodes]
    old = read_key(paths[0])
    told = vsync("key", "rotate", "--socket", one.socket)
    assert told.returncode == 0, told.stderr
    new = read_key(paths[0])
    assert told.stdout.startswith(f"the key was changed from {old} to {new} on nodes 1 2 in ")
    assert read_key(paths[1]) == new != old
    told = vsync("key", "rotate", "--socket", other.socket, "--json")
    found = json.loads(told.stdout)
    assert (found["complete"], found["old"], found["members"]) == (True, str(new), [1, 2])
    assert other.status()["transport"]["keys"] == [found["new"]]
    said = "".join(
        [one.errors(), other.errors(), *one.lines(), *other.lines(), one.trace.read_text()]
    )
    for key in (old, new, read_key(paths[0])):
        assert key.secret.hex() not in said
        assert str(key.secret) not in said


def test_a_node_that_is_away_must_be_named_before_it_is_locked_out(
    nodes: list[RunningNode],
) -> None:
    one, other = nodes
    assert other.process is not None
    other.process.kill()
    other.wait()
    eventually(lambda: one.members() == [1], "node 2 is gone")
    told = vsync("key", "rotate", "--socket", one.socket)
    assert told.returncode == 1
    assert "node 2 was on this ring and is away" in " ".join(told.stderr.split())
    told = vsync("key", "rotate", "--socket", one.socket, "--without", "2")
    assert told.returncode == 0
    other.settings.write_text(other.settings.read_text().replace('hold_s = "long"\n', ""))
    other.start()
    eventually(lambda: other.members() == [2], "node 2 has the old key")
    eventually(
        lambda: any(
            "was this ring's before it was changed" in each for each in one.status()["warnings"]
        ),
        "node 1 says so",
    )
    assert other.process is not None
    other.process.kill()
    other.wait()
    new = read_key(one.settings.parent / "ring1.key")
    write_key(other.settings.parent / "ring2.key", new, replace=True)
    other.start()
    eventually(lambda: one.members() == other.members() == [1, 2], "they are together again")


def test_bad_arguments_are_sentences(nodes: list[RunningNode]) -> None:
    one = nodes[0]
    told = vsync("key", "rotate", "--socket", one.socket, "--without", "1")
    assert told.returncode == 1
    assert "node 1 is on the ring" in told.stderr
    told = vsync("key", "rotate", "--socket", one.socket, "--without", "0")
    assert told.returncode == 2
    told = vsync("reload", "--socket", one.settings.parent / "none.sock")
    assert told.returncode == 1
    assert "no daemon answers" in told.stderr

"""A ring changes its key, its settings and its networks under load, and nobody notices."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import vsync
from tests.network.nodes import Node, Ring, eventually
from tests.network.test_strangers import configurations
from tests.network.twofold import TwofoldRing
from vsync.key_file import make_key, read_key, write_key

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

ROTATIONS = 10


class KeyedRing(Ring):
    """Three nodes with a key, each in a file on its own host."""

    def __init__(self, directory: Path) -> None:
        key = make_key()
        self.key_files = {number: directory / f"ring{number}.key" for number in (1, 2, 3)}
        for path in self.key_files.values():
            write_key(path, key)
        super().__init__(directory, 3, housed=True, section=self.settings)

    def settings(self, number: int) -> str:
        return (
            f'bind = "10.77.0.{number}"\ngroup = "{self.group}"\nport = {self.port}\n'
            f'[security]\nkey_file = "{self.key_files[number]}"\n'
        )


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[KeyedRing]:
    with KeyedRing(tmp_path) as made:
        made.start()
        made.wait_for()
        yield made


def do(node: Node, *arguments: str) -> str:
    """Have ``vsync`` do something with that node."""
    done = vsync(*arguments, "--socket", node.socket)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ten_keys_one_after_the_other_under_load_and_nothing_is_lost(keyed: KeyedRing) -> None:
    load = keyed.load()
    keyed.wait_for_messages(100)
    before = configurations(keyed)
    used = {read_key(path) for path in keyed.key_files.values()}
    for number in range(ROTATIONS):
        do(keyed[1 + number % 3], "key", "rotate")
        (key,) = {read_key(path) for path in keyed.key_files.values()}
        assert key not in used
        used.add(key)
        keyed.wait_for_messages(100 * (number + 1))
    keyed.finish(load, messages=1000)
    assert configurations(keyed) == before, keyed.complaints()
    for node in keyed.nodes:
        status = node.status()
        assert status["transport"]["keys"] == [str(key)]
        assert "dropped_key" not in status["transport"]["counters"]
    keyed.leave()


def test_a_node_that_is_killed_meanwhile_comes_back_with_a_right_key(keyed: KeyedRing) -> None:
    load = keyed.load(nodes=[keyed[1], keyed[2]])
    keyed.wait_for_messages(100)
    keyed[3].pause()  # so that it cannot take part, and the change waits for it
    done = vsync("key", "rotate", "--socket", keyed[1].socket, "--wait", "1")
    assert done.returncode == 1
    assert "waiting for nodes 3 to accept the new key" in done.stdout
    keyed[3].kill()
    keyed.start(3)
    keyed.wait_for()
    eventually(
        lambda: (
            len({read_key(path) for path in keyed.key_files.values()}) == 1
            and all(len(node.status()["transport"]["keys"]) == 1 for node in keyed.nodes)
        ),
        lambda: f"{[node.status()['key_change'] for node in keyed.nodes]}",
    )
    keyed.finish(load, messages=200)


def test_settings_and_links_change_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    with TwofoldRing(tmp_path, 3, "passive") as ring:
        ring.start()
        ring.wait_for()
        load = ring.load()
        ring.wait_for_messages(100)
        before = configurations(ring)
        whole = {node.number: node.settings.read_text() for node in ring.nodes}

        def reload(change: "tuple[str, str]") -> None:
            for node in ring.nodes:
                text = whole[node.number].replace(*change)
                assert text != whole[node.number]
                node.settings.write_text(text)
                do(node, "reload", "--yes")
            ring.wait_for_messages(len(load_points) * 100 + 200)
            load_points.append(change)

        load_points: list[object] = []
        # Another group on the second network, then that network no more, then back again.
        reload(("239.192.7.2", "239.192.7.22"))
        eventually(lambda: ring.states(2) == ["good"] * 3, lambda: f"{ring.states(2)}")
        for node in ring.nodes:
            first, _, third = whole[node.number].partition("[[transport.redundant.links]]")
            one, _, two = third.partition("[[transport.redundant.links]]")
            spare = two.replace("239.192.7.2", "239.192.7.33")
            node.settings.write_text(
                f"{first}[[transport.redundant.links]]{one}"
                f"[[transport.redundant.links]]\nnumber = 3{spare}"
            )
            told = do(node, "reload", "--yes")
            assert "transport.redundant.links.2: udp" in told
            assert "transport.redundant.links.3: (none) -> udp" in told
        eventually(lambda: ring.states(3) == ["good"] * 3, lambda: f"{ring.states(3)}")
        ring.wait_for_messages(400)
        reload(('preset = "lan"', 'preset = "lan"\ntoken_lost_s = 0.5'))
        eventually(lambda: ring.states(2) == ["good"] * 3, lambda: f"{ring.states(2)}")
        ring.finish(load, messages=500)
        assert configurations(ring) == before, ring.complaints()

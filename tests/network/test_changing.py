"""A ring changes its key, its settings and its networks under load, and nobody notices."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.network.nodes import PATIENT, Node, Ring, eventually
from tests.network.test_strangers import configurations
from tests.network.twofold import TwofoldRing
from vsync.errors import VsyncError
from vsync.key_file import make_key, read_key, write_key
from vsync_cli.commands import key
from vsync_cli.commands.reload import ask as ask_to_reload
from vsync_cli.commands.status import ask

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

ROTATIONS = 10


class KeyedRing(Ring):
    """Three nodes with a key, each in a file on its own host."""

    def __init__(self, directory: Path) -> None:
        first = make_key()
        self.key_files = {number: directory / f"ring{number}.key" for number in (1, 2, 3)}
        for path in self.key_files.values():
            write_key(path, first)
        super().__init__(directory, 3, housed=True, ring=PATIENT, section=self.settings)

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


def rotate(node: Node, wait_s: float = 60) -> dict[str, Any]:
    """What ``vsync key rotate`` does, without a process for each time."""
    return anyio.run(key.change, node.socket, {}, wait_s)


def reload(node: Node) -> list[str]:
    """What ``vsync reload --yes`` does; the keys of what has changed."""
    found = anyio.run(ask_to_reload, node.socket, {})
    assert found["changed"], found
    return [each["key"] for each in found["differences"]]


def status(node: Node) -> dict[str, Any]:
    return anyio.run(ask, node.socket)


def test_ten_keys_one_after_the_other_under_load_and_nothing_is_lost(keyed: KeyedRing) -> None:
    load = keyed.load("--rate", "60")
    keyed.wait_for_messages(100)
    before = configurations(keyed)
    used = {read_key(path) for path in keyed.key_files.values()}
    for number in range(ROTATIONS):
        assert rotate(keyed[1 + number % 3])["complete"]
        (new,) = {read_key(path) for path in keyed.key_files.values()}
        assert new not in used
        used.add(new)
        keyed.wait_for_messages(100 * (number + 1))
    keyed.finish(load, messages=1000)
    assert configurations(keyed) == before, keyed.complaints()
    for node in keyed.nodes:
        transport = status(node)["transport"]
        assert transport["keys"] == [str(new)]
        assert "dropped_key" not in transport["counters"]
    keyed.leave()


def test_a_node_that_is_killed_meanwhile_comes_back_with_a_right_key(keyed: KeyedRing) -> None:
    load = keyed.load(nodes=[keyed[1], keyed[2]])
    keyed.wait_for_messages(100)
    keyed[3].pause()  # so that it cannot take part, and the change waits for it
    found = rotate(keyed[1], wait_s=0.1)
    assert not found["complete"]
    keyed[3].kill()
    keyed.start(3)
    keyed.wait_for()

    def one_key() -> bool:
        try:
            accepted = [node.status()["transport"]["keys"] for node in keyed.nodes]
        except VsyncError:
            return False  # the socket of a node that has just started is not there yet
        files = {str(read_key(path)) for path in keyed.key_files.values()}
        return len(files) == 1 and all(set(keys) == files for keys in accepted)

    eventually(one_key, lambda: keyed.complaints())
    keyed.finish(load, messages=200)


def test_settings_and_links_change_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    with TwofoldRing(tmp_path, 3, "passive", ring=PATIENT) as ring:
        ring.start()
        ring.wait_for()
        load = ring.load("--rate", "60")
        ring.wait_for_messages(100)
        before = configurations(ring)
        whole = {node.number: node.settings.read_text() for node in ring.nodes}

        def have(link: int, change: Callable[[str], str]) -> set[str]:
            """Change every node's file, have it read, and wait until that link is good."""
            told = set()
            for node in ring.nodes:
                text = change(whole[node.number])
                assert text != node.settings.read_text()
                node.settings.write_text(text)
                told |= set(reload(node))
            eventually(lambda: ring.states(link) == ["good"] * 3, lambda: f"{ring.states(link)}")
            return told

        def moved(text: str) -> str:
            return text.replace("239.192.7.2", "239.192.7.22")

        def another(text: str) -> str:
            first, _, second = text.rpartition("[[transport.redundant.links]]\n")
            return f"{first}[[transport.redundant.links]]\nnumber = 3\n{second}"

        links = "transport.redundant.links"
        assert have(2, moved) == {f"{links}.2"}
        assert have(3, another) == {f"{links}.2", f"{links}.3"}
        assert have(2, lambda text: text) == {f"{links}.2", f"{links}.3"}
        sent = 200
        ring.wait_for_messages(sent)
        text = whole[1].replace("token_lost_s = 1.5", "token_lost_s = 1.6")
        ring[1].settings.write_text(text)
        assert reload(ring[1]) == ["ring.token_lost_s"]
        eventually(
            lambda: any("token_lost_s = 1.6" in each for each in status(ring[3])["warnings"]),
            "node 3 has it, and says that its file has not",
        )
        ring.finish(load, messages=sent)
        assert configurations(ring) == before, ring.complaints()

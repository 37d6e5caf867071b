"""A node reads its settings file again: what can change does, and what cannot is said why."""

import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import vsync
from tests.core.api.rings import PATIENCE_S, fresh_network, until_together
from tests.transport_udp.ports import unused_port
from vsync import Node
from vsync.api.reload import Difference, differences
from vsync.engine.groups import SettingsChanged
from vsync.errors import ChangeFailed, MisuseError, SettingsError, TransportFailed
from vsync.key_file import make_key, next_file, read_key, write_key
from vsync.settings import NodeSettings, RingSettings
from vsync.vocabulary import NodeId

pytestmark = pytest.mark.anyio


class Place:
    """Settings files of a ring's nodes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network = fresh_network()

    def file(self, node: int) -> Path:
        return self.directory / f"{node}.toml"

    def write(self, node: int, ring: str = "", rest: str = "", id: int | None = None) -> None:
        self.file(node).write_text(
            f'[node]\nid = {id or node}\nstate_dir = "{self.directory}/state{node}"\n'
            f'[ring]\nname = "{self.network}"\ntransport = "memory"\npreset = "loopback"\n'
            f"token_lost_s = 1.0\n{ring}\n"
            f'[transport.memory]\nnetwork = "{self.network}"\n{rest}'
        )

    @asynccontextmanager
    async def ring(self, count: int, rest: str = "") -> AsyncIterator[list[Node]]:
        async with AsyncExitStack() as stack:
            nodes = []
            for number in range(1, count + 1):
                self.write(number, rest=rest.format(number=number, directory=self.directory))
                nodes.append(await stack.enter_async_context(vsync.open_node(self.file(number))))
            await until_together(nodes)
            yield nodes


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def eventually(holds: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not holds():
            await anyio.sleep(0.01)


async def warnings(node: Node) -> str:
    return "\n".join((await node.status())["warnings"])


async def told(node: Node, sentence: str) -> None:
    """Wait until *node* warns so."""
    with anyio.fail_after(PATIENCE_S):
        while sentence not in await warnings(node):
            await anyio.sleep(0.02)


async def test_what_all_nodes_share_changes_on_the_whole_ring(place: Place) -> None:
    async with place.ring(3) as nodes:
        place.write(2, "window_packets = 99")
        found = await nodes[1].reload()
        assert found == [Difference("ring.window_packets", 2048, 99, "ring")]
        await eventually(lambda: all(node.settings.ring.window_packets == 99 for node in nodes))
        assert [(await node.status())["window_packets"] for node in nodes] == [99, 99, 99]
        assert "write into [ring]: window_packets = 99" in await warnings(nodes[0])
        assert "write into" not in await warnings(nodes[1])
        place.write(1, "window_packets = 99")
        assert await nodes[0].reload() == []
        assert "write into" not in await warnings(nodes[0])


async def test_what_is_the_nodes_own_changes_there(place: Place) -> None:
    async with place.ring(2) as (one, other):
        place.write(1, rest="[daemon]\nclients_max = 3\nslow = 'evict'\n")
        found = await one.reload()
        assert {each.key: each.where for each in found} == {
            "daemon.clients_max": "node",
            "daemon.slow": "node",
        }
        assert (one.settings.daemon.clients_max, other.settings.daemon.clients_max) == (3, 1000)


async def test_what_cannot_change_keeps_all_from_changing(place: Place) -> None:
    async with place.ring(1) as (node,):
        before = node.settings
        place.write(1, "message_bytes_max = 100\nhold_s = 0.05", id=7)
        found = {each.key: each for each in await node.reload()}
        assert {key: each.where for key, each in found.items()} == {
            "node.id": "restart",
            "ring.message_bytes_max": "restart",
            "ring.hold_s": "ring",
        }
        assert "stop all nodes, change all their files" in found["ring.message_bytes_max"].reason
        assert node.settings == before


async def test_it_may_be_looked_at_first_and_then_only_that_is_done(place: Place) -> None:
    async with place.ring(1) as (node,):
        place.write(1, "hold_s = 0.05")
        shown = await node.reload(dry_run=True)
        assert node.settings.ring.hold_s == 0.06
        place.write(1, "hold_s = 0.04")
        with pytest.raises(SettingsError, match="changed since the difference was shown"):
            await node.reload(expected=shown)
        assert node.settings.ring.hold_s == 0.06
        await node.reload(expected=await node.reload(dry_run=True))
        assert node.settings.ring.hold_s == 0.04


async def test_a_file_that_cannot_be_used_changes_nothing(place: Place) -> None:
    async with place.ring(1) as (node,):
        before = node.settings
        deep = "x = " + "[" * 5000 + "]" * 5000
        for text in ("hold_s = 9", "hold = 0.1", "hold_s = true", "][", deep):
            place.write(1, text)
            with pytest.raises(SettingsError, match=r"1\.toml"):
                await node.reload()
        place.file(1).unlink()
        with pytest.raises(SettingsError, match="there is no settings file"):
            await node.reload()
        assert node.settings == before


async def test_a_node_without_a_file_says_so(tmp_path: Path) -> None:
    settings = NodeSettings.model_validate(
        {
            "node": {"id": 1, "state_dir": str(tmp_path)},
            "ring": {"name": fresh_network(), "transport": "memory", "preset": "loopback"},
        }
    )
    async with vsync.open_node(settings) as node:
        with pytest.raises(MisuseError, match="not opened with a settings file"):
            await node.reload()


async def test_two_reloads_at_once_do_not_mix(place: Place) -> None:
    async with place.ring(2) as (node, _):
        place.write(1, "hold_s = 0.05")
        outcomes: list[Any] = []

        async def reload() -> None:
            try:
                outcomes.append(await node.reload())
            except MisuseError as error:
                outcomes.append(str(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reload)
            tasks.start_soon(reload)
        assert sorted(type(each).__name__ for each in outcomes) == ["list", "str"]


async def test_if_the_transport_refuses_nothing_is_changed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.ring(1) as (node,):
        before = node.settings
        place.write(1, "hold_s = 0.05")

        def refuse(settings: object) -> None:
            raise TransportFailed("no such link")

        monkeypatch.setattr(node._driver._transport, "reload", refuse)
        changed = await node.reload(dry_run=True)
        new = vsync.read_settings(place.file(1))
        with pytest.raises(TransportFailed, match="no such link"):
            await node._have(new, [*changed, Difference("transport.memory.x", 1, 2, "node")])
        assert node.settings == before


async def test_names_are_looked_up_while_the_ring_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str) -> None:
        place.file(1).write_text(
            f'[node]\nid = 1\nstate_dir = "{place.directory}/state"\n'
            f'[ring]\nname = "{place.network}"\ntransport = "redundant"\npreset = "loopback"\n'
            '[[transport.redundant.links]]\ntransport = "memory"\n'
            f'settings = {{network = "{place.network}"}}\n'
            '[[transport.redundant.links]]\ntransport = "udpu"\nsettings = '
            f'{{bind = "127.0.0.1", port = {port}, peers = ["{name}:35995"]}}\n'
        )

    asked: list[tuple[str, threading.Thread]] = []

    def look_up(host: str, *_: object) -> list[Any]:
        asked.append((host, threading.current_thread()))
        if host == "nowhere.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", ("127.0.0.1", 35995))]

    port = unused_port()
    write("127.0.0.1")
    async with vsync.open_node(place.file(1)) as node:
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        ring = await node._result(node._driver.call(lambda now: threading.current_thread()))
        write("there.example")
        assert [each.key for each in await node.reload()] == ["transport.redundant.links.2"]
        write("nowhere.example")
        with pytest.raises(TransportFailed, match=r"nowhere\.example.*: Name or service not known"):
            await node.reload()
        names = [host for host, _ in asked if host.endswith("example")]
        assert names == ["there.example", "nowhere.example", "there.example"]
        assert all(thread is not ring for host, thread in asked if host.endswith("example"))


async def test_if_the_ring_refuses_the_links_are_as_they_were_and_that_is_said(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with place.ring(1) as (node,):
        before = node.settings
        place.write(1, "hold_s = 0.05")
        there: list[object] = []
        back: list[object] = []

        def restore(settings: object) -> None:
            back.append(settings)
            raise TransportFailed("the other network has gone")

        monkeypatch.setattr(node._driver._transport, "reload", there.append)
        monkeypatch.setattr(node._driver._transport, "restore", restore)

        async def refuse(settings: NodeSettings) -> None:
            raise ChangeFailed("another was first")

        monkeypatch.setattr(node, "_change_ring", refuse)
        changed = await node.reload(dry_run=True)
        new = vsync.read_settings(place.file(1))
        with pytest.raises(ChangeFailed, match="another was first"):
            await node._have(new, [*changed, Difference("transport.memory.x", 1, 2, "node")])
        assert (len(there), len(back)) == (1, 1)
        assert node.settings == before
        assert "the other network has gone" in caplog.text


async def test_what_the_ring_changes_while_a_reload_ends_is_not_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.ring(1) as (node,):
        ring = node.settings.ring
        changed = ring.model_copy(update={"window_packets": 55})
        meanwhile = threading.Thread(
            target=node._changed, args=(SettingsChanged(NodeId(1), ring, changed),)
        )
        with_shared = RingSettings.with_shared

        def slowly(self: RingSettings, values: Iterable[tuple[str, float]]) -> RingSettings:
            found = with_shared(self, values)
            if threading.current_thread() is threading.main_thread():
                meanwhile.start()
                meanwhile.join(0.1)
            return found

        monkeypatch.setattr(RingSettings, "with_shared", slowly)
        place.write(1, rest="[daemon]\nclients_max = 3\n")
        await node.reload()
        meanwhile.join()
        assert node.settings.ring.window_packets == 55
        assert node.settings.daemon.clients_max == 3


async def test_a_newcomer_with_other_settings_is_refused_in_words_until_it_reloads(
    place: Place,
) -> None:
    async with place.ring(2) as nodes:
        before = nodes[0].configuration
        place.write(3, "receive_failed_s = 9.0")
        async with vsync.open_node(place.file(3)) as late:
            await told(late, "receive_failed_s is 3 there and 9 here; make the settings file right")
            await told(
                nodes[0],
                "node 3 and this one form no ring, since their settings in [ring] differ: "
                "receive_failed_s is 9 there and 3 here",
            )
            assert nodes[0].configuration == before
            place.write(3)
            await late.reload()
            await until_together([*nodes, late])


# --- keys -----------------------------------------------------------------------------------------

SECURITY = '[security]\nkey_file = "{directory}/ring{number}.key"\n'


async def test_the_key_of_a_ring_is_changed_in_all_files(place: Place) -> None:
    key = make_key()
    paths = [place.directory / f"ring{number}.key" for number in (1, 2, 3)]
    for path in paths:
        write_key(path, key)
    async with place.ring(3, SECURITY) as nodes:
        before = nodes[0].configuration
        found = await nodes[1].rotate_key()
        assert (found["old"], found["members"]) == (str(key), [1, 2, 3])
        new = {read_key(path) for path in paths}
        assert {str(each) for each in new} == {found["new"]}
        for node in nodes:  # one that is asked may not have heard yet that the others are done
            while (await node.status())["key_change"] is not None:
                await anyio.sleep(0.01)
        assert all(len(node._keys.keys) == 1 for node in nodes if node._keys)
        assert sorted(path.name for path in place.directory.glob("*key*")) == [
            path.name for path in paths
        ]
        assert nodes[0].configuration == before


async def test_a_key_that_was_copied_is_used_and_whoever_lacks_it_ends_the_change(
    place: Place,
) -> None:
    key, new = make_key(), make_key()
    for number in (1, 2):
        write_key(place.directory / f"ring{number}.key", key)
    async with place.ring(2, SECURITY) as nodes:
        with pytest.raises(SettingsError, match=r"there is no .*ring1\.key\.next: make it with"):
            await nodes[0].rotate_key(copied=True)
        write_key(next_file(place.directory / "ring1.key"), new)
        with pytest.raises(ChangeFailed, match=r"node 2: the new key .* no key is there; copy it"):
            await nodes[0].rotate_key(copied=True)
        assert read_key(place.directory / "ring1.key") == key
        write_key(next_file(place.directory / "ring2.key"), new)
        assert (await nodes[0].rotate_key(copied=True))["new"] == str(new)
        assert read_key(place.directory / "ring2.key") == new


async def test_keys_are_not_changed_where_there_are_none_or_somebody_is_at_it(
    place: Place,
) -> None:
    async with place.ring(1) as (node,):
        with pytest.raises(MisuseError, match="this ring has no key"):
            await node.rotate_key()
    key = make_key()
    write_key(place.directory / "ring1.key", key)
    write_key(place.directory / "other.key", make_key())
    async with place.ring(1, SECURITY) as (node,):
        section = SECURITY.format(directory=place.directory, number=1)
        place.write(1, rest=f'{section}accepted_key_files = ["{place.directory}/other.key"]\n')
        assert [each.where for each in await node.reload()] == ["node"]
        assert node._keys is not None
        assert len(node._keys.keys) == 2
        with pytest.raises(ChangeFailed, match="node 1 has accepted_key_files"):
            await node.rotate_key()
        place.write(1, rest=section)
        await node.reload()
        assert len(node._keys.keys) == 1
        write_key(place.directory / "ring1.key", make_key(), replace=True)
        with pytest.raises(SettingsError, match="somebody has replaced the file"):
            await node.rotate_key()


# --- what differs ---------------------------------------------------------------------------------


def settings(**sections: Any) -> NodeSettings:
    return NodeSettings.model_validate({"node": {"id": 1}, **sections})


def links(*groups: str) -> dict[str, Any]:
    return {
        "ring": {"transport": "redundant"},
        "transport": {
            "redundant": {
                "links": [{"transport": "udp", "settings": {"group": each}} for each in groups]
            }
        },
    }


def test_links_differ_one_by_one() -> None:
    one = settings(**links("239.192.0.1", "239.192.0.2"))
    other = settings(**links("239.192.0.1", "239.192.0.3", "239.192.0.4"))
    found = differences(one, other)
    assert [(each.key, each.where) for each in found] == [
        ("transport.redundant.links.2", "node"),
        ("transport.redundant.links.3", "node"),
    ]
    assert found[0].old == {"transport": "udp", "settings": {"group": "239.192.0.2"}}
    assert found[1].old is None


def test_what_is_not_in_use_does_not_differ() -> None:
    assert not differences(settings(), settings(transport={"udpu": {"port": 7000}}))


def test_each_thing_that_cannot_change_says_why_and_what_to_do() -> None:
    one = settings()
    other = NodeSettings.model_validate(
        {
            "node": {"id": 2, "state_dir": "/x"},
            "ring": {"name": "n", "message_bytes_max": 1},
            "daemon": {"socket": "/s"},
            "security": {"key_file": "/k"},
            "transport": {"udp": {"port": 6000}},
            "service": {"quorum": {}},
        }
    )
    found = differences(one, other)
    assert len(found) == 8
    assert all(each.where == "restart" for each in found)
    assert all("restart" in each.reason or "stop all nodes" in each.reason for each in found)

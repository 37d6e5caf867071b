"""A daemon that goes and comes back, and what its clients see of it."""

import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

import vsync
from tests.core.api.rings import PATIENCE_S, deliveries, fresh_network, settings_of
from tests.core.daemon.test_client import WELCOME
from tests.core.daemon.test_daemon import served
from vsync import (
    Cause,
    Configuration,
    ConfigurationChanged,
    DaemonError,
    DaemonLost,
    Disconnected,
    Event,
    GroupChanged,
    GroupKey,
    Kind,
    MisuseError,
    Move,
    Node,
    NodeId,
    Session,
)
from vsync.daemon import frames
from vsync.daemon.protocol import DAEMON_PROTOCOL

pytestmark = pytest.mark.anyio


class Restarting:
    """A daemon that a test stops and starts."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "s"
        self._directory = directory
        self._network = fresh_network()
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self.tasks: anyio.abc.TaskGroup | None = None
        self.node: Node | None = None

    async def start(self) -> None:
        assert self.tasks is not None
        self._scope, self._ended = anyio.CancelScope(), anyio.Event()
        await self.tasks.start(self._run)

    async def stop(self) -> None:
        self._scope.cancel()
        await self._ended.wait()

    async def _run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            with self._scope:
                settings = settings_of(self._directory, 1, self._network)
                async with vsync.open_node(settings) as node, served(node, self.path):
                    self.node = node
                    task_status.started()
                    await anyio.sleep_forever()
        finally:
            self._ended.set()


@asynccontextmanager
async def restarting(directory: Path) -> AsyncIterator[Restarting]:
    daemon = Restarting(directory)
    async with anyio.create_task_group() as tasks:
        daemon.tasks = tasks
        await daemon.start()
        yield daemon
        await daemon.stop()


async def until(session: Session, kind: type[Event]) -> list[Event]:
    found: list[Event] = []
    with anyio.fail_after(PATIENCE_S):
        while not (found and isinstance(found[-1], kind)):
            found.append(await session.receive())
    return found


async def test_the_daemons_end_is_an_event_and_the_stream_goes_on_when_it_is_back(
    tmp_path: Path,
) -> None:
    async with (
        restarting(tmp_path) as daemon,
        vsync.connect(daemon.path, reconnect=True) as session,
    ):
        await session.join("a", "b")
        await session.join("board", closed=True)
        before, life = session.member, daemon.node and daemon.node.life
        await session.send(b"before", "a")
        assert [d.payload for d in await deliveries(session, 1)] == [b"before"]
        await daemon.stop()
        (gone,) = await until(session, Disconnected)
        assert isinstance(gone, Disconnected)
        assert "the daemon was stopped" in gone.reason
        with pytest.raises(DaemonLost, match="is not there at the moment"):
            await session.send(b"lost", "a")
        with pytest.raises(DaemonLost):
            session.send_nowait(b"lost", "a")
        with pytest.raises(DaemonLost):
            await session.join("c")
        await daemon.start()
        (configuration,) = await until(session, ConfigurationChanged)
        assert isinstance(configuration, ConfigurationChanged)
        assert daemon.node is not None
        assert configuration.configuration == daemon.node.configuration
        await session.send(b"after", "a")
        views: dict[GroupKey, GroupChanged] = {}
        for _ in range(3):
            view = (await until(session, GroupChanged))[-1]
            assert isinstance(view, GroupChanged)
            assert view.joined == (Move(session.member, Cause.JOINED),)
            views[view.group] = view
        assert [views[key].closed for key in session.joined] == [False, False, True]
        (after,) = await deliveries(session, 1)
        assert (after.payload, after.sender) == (b"after", session.member)
        assert (before.node, life) == (1, life)
        assert after.message.life == daemon.node.life != life


async def test_a_daemon_may_go_again_and_again(tmp_path: Path) -> None:
    async with (
        restarting(tmp_path) as daemon,
        vsync.connect(daemon.path, reconnect=True) as session,
    ):
        await session.join("a")
        for number in range(4):
            await daemon.stop()
            await until(session, Disconnected)
            await daemon.start()
            await until(session, ConfigurationChanged)
            await session.send(b"%d" % number)
            assert [d.payload for d in await deliveries(session, 1)] == [b"%d" % number]


async def test_what_was_asked_when_the_daemon_went_raises(tmp_path: Path) -> None:
    async with (
        restarting(tmp_path) as daemon,
        vsync.connect(daemon.path, reconnect=True) as session,
    ):
        assert daemon.node is not None
        async with daemon.node.session(queue_bytes=1000) as slow:
            await slow.join("a")
            daemon.node.send_queue_bytes = 10_000
            async with anyio.create_task_group() as tasks:

                async def send() -> None:
                    with pytest.raises(DaemonLost, match="may have been done or not"):
                        while True:
                            await session.send_batch([bytes(10_000)] * 50, "a")

                tasks.start_soon(send)
                with anyio.fail_after(PATIENCE_S):
                    while not any(
                        "waits for it" in w for w in (await daemon.node.status())["warnings"]
                    ):
                        await anyio.sleep(0.01)
                with anyio.fail_after(PATIENCE_S):
                    await daemon.stop()
        await daemon.start()


async def test_without_reconnecting_everything_raises_after_what_had_come(tmp_path: Path) -> None:
    async with restarting(tmp_path) as daemon, vsync.connect(daemon.path) as session:
        await session.join("a")
        await session.send(b"x")
        with anyio.fail_after(PATIENCE_S):
            while len(session._events) < 3:  # the configuration, the view and the message are here
                await anyio.sleep(0.01)
        await daemon.stop()
        assert [d.payload for d in await deliveries(session, 1)] == [b"x"]
        for call in (session.receive, session.status, lambda: session.send(b"x", "a")):
            with pytest.raises(DaemonLost, match="the daemon was stopped"):
                await call()


async def test_a_group_that_is_open_by_now_ends_the_session_with_a_sentence(
    tmp_path: Path,
) -> None:
    async with (
        restarting(tmp_path) as daemon,
        vsync.connect(daemon.path, reconnect=True) as session,
    ):
        await session.join("board", closed=True)
        await daemon.stop()
        await until(session, Disconnected)
        real, session._place = session._place, str(tmp_path / "elsewhere")  # until the other is in
        await daemon.start()
        async with vsync.connect(daemon.path) as other:
            await other.join("board")
            session._place = real
            with anyio.fail_after(PATIENCE_S), pytest.raises(MisuseError, match="as closed"):
                while True:
                    await session.receive()
            with pytest.raises(MisuseError, match="as closed"):
                await session.send(b"x", "board")


async def test_a_session_may_end_while_its_daemon_is_away(tmp_path: Path) -> None:
    async with restarting(tmp_path) as daemon:
        with anyio.fail_after(PATIENCE_S):
            async with vsync.connect(daemon.path, reconnect=True) as session:
                await daemon.stop()
                await until(session, Disconnected)
        with pytest.raises(vsync.NodeClosed):
            await session.receive()
        await daemon.start()


async def test_a_daemon_that_does_not_let_one_in_again_ends_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        restarting(tmp_path) as daemon,
        vsync.connect(daemon.path, reconnect=True) as session,
    ):
        await daemon.stop()
        monkeypatch.setattr("vsync.daemon.server.DAEMON_PROTOCOL", DAEMON_PROTOCOL + 1)
        await daemon.start()
        await until(session, Disconnected)
        refused = pytest.raises(DaemonError, match=f"speaks protocol {DAEMON_PROTOCOL}")
        with anyio.fail_after(PATIENCE_S), refused:
            await session.receive()


async def test_what_comes_with_the_welcome_of_another_daemon_is_reported_as_taken(
    tmp_path: Path,
) -> None:
    first = ConfigurationChanged(Configuration(id="1.1", kind=Kind.REGULAR, members=(NodeId(1),)))
    (event,) = frames.parts_of(first)
    heard = bytearray()

    def run(listener: socket.socket) -> None:
        with listener:
            with listener.accept()[0] as client:
                client.recv(1000)
                client.sendall(WELCOME)
            with listener.accept()[0] as client:
                client.settimeout(PATIENCE_S)
                client.recv(1000)
                client.sendall(WELCOME + event)
                while piece := client.recv(1000):
                    heard.extend(piece)
                    if len(heard) >= len(frames.taken_frame(0)):
                        break

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    thread = threading.Thread(target=run, args=[listener])
    thread.start()
    # With so small a window the daemon sends nothing more until it hears of it.
    async with vsync.connect(tmp_path / "s", reconnect=True, queue_bytes=1) as session:
        assert (await until(session, ConfigurationChanged))[-1] == first
        await anyio.to_thread.run_sync(thread.join)
    assert heard == frames.taken_frame(len(event))

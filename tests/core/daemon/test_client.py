"""A session through a daemon: many requests at once, slow readers, false daemons."""

import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import vsync
from tests.core.api.rings import (
    PATIENCE_S,
    deliveries,
    fresh_network,
    ring_of,
    settings_of,
    until_together,
)
from tests.core.daemon.test_daemon import GREETING, served
from vsync import DaemonError, Delivery
from vsync.daemon import protocol, server
from vsync.daemon.protocol import DAEMON_PROTOCOL, Type, build, frame

pytestmark = pytest.mark.anyio

WELCOME = build(
    Type.WELCOME,
    protocol=DAEMON_PROTOCOL,
    node=1,
    session=1,
    life=1,
    message_bytes_max=2**20,
    window_bytes=2**20,
    requests_max=10,
)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_many_tasks_send_at_once_and_each_learns_its_id(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path), vsync.connect(path) as session:
        await session.join("a")
        ids = {}

        async def send(number: int) -> None:
            ids[number] = await session.send(b"%d" % number)

        async with anyio.create_task_group() as tasks:
            for number in range(500):
                tasks.start_soon(send, number)
        got = await deliveries(session, 500)
        assert {int(d.payload): d.message for d in got} == ids
        assert [d.message.counter for d in got] == list(range(500))


async def test_several_sessions_share_a_daemon(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with (
        ring_of(tmp_path, 1) as (node,),
        served(node, path),
        vsync.connect(path) as one,
        vsync.connect(path) as two,
    ):
        await one.join("a")
        await two.join("a", "b")
        await one.send_batch([b"1", b"2"], "a")
        await one.send(b"3", "b")
        await one.send(b"4", "a")
        assert [d.payload for d in await deliveries(one, 3)] == [b"1", b"2", b"4"]
        assert [d.payload for d in await deliveries(two, 4)] == [b"1", b"2", b"3", b"4"]
        assert (await two.status())["sessions"] == 2


async def test_the_configurations_stand_between_the_messages(tmp_path: Path) -> None:
    path, network = tmp_path / "s", fresh_network()
    async with (
        vsync.open_node(settings_of(tmp_path, 1, network)) as one,
        served(one, path),
        vsync.connect(path) as session,
    ):
        await session.join("a")
        await session.send(b"alone")
        async with vsync.open_node(settings_of(tmp_path, 2, network)) as two:
            await until_together([one, two])
            await session.send(b"together")
            alone, together = await deliveries(session, 2)
    assert alone.configuration.members == (1,)
    assert together.configuration.members == (1, 2)


async def test_a_reader_that_never_reads_is_cut_off_and_the_ring_goes_on(tmp_path: Path) -> None:
    path, network = tmp_path / "s", fresh_network()
    settings = settings_of(tmp_path, 1, network)
    daemon = settings.daemon.model_copy(update={"client_stuck_s": 0.4})
    settings = settings.model_copy(update={"daemon": daemon})
    count, size = 500, 200_000  # well beyond the session's queue and the sockets' buffers
    async with (
        vsync.open_node(settings) as node,
        served(node, path),
        node.session() as sender,
    ):
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.connect(str(path))
            key = vsync.GroupKey.from_name("a").key
            stuck.sendall(GREETING + build(Type.JOIN, number=1, closed=False, groups=[key]))
            with anyio.fail_after(PATIENCE_S):
                while (await node.status())["sessions"] < 2:
                    await anyio.sleep(0.01)
            with anyio.fail_after(2 * PATIENCE_S):
                for _ in range(count):
                    await sender.send(bytes(size), "a")
                while (await node.status())["sessions"] > 1:
                    await anyio.sleep(0.01)


async def test_a_request_that_waits_for_the_ring_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with (
        ring_of(tmp_path, 1) as (node,),
        served(node, path),
        node.session(queue_bytes=1000) as slow,
    ):
        await slow.join("a")
        node.send_queue_bytes = 10_000
        async with vsync.connect(path) as session:
            async with anyio.create_task_group() as tasks:

                async def send() -> None:
                    while True:
                        await session.send_batch([bytes(10_000)] * 300, "a")

                tasks.start_soon(send)
                with anyio.fail_after(PATIENCE_S):
                    while not any("waits for it" in w for w in (await node.status())["warnings"]):
                        await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
            assert (await session.status())["node"] == 1


async def test_who_gives_up_waiting_for_answers_again_and_again_keeps_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = anyio.Event()

    async def slow(self: vsync.Node) -> dict[str, Any]:
        await answered.wait()
        return {"node": self.id}

    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path), vsync.connect(path) as session:
        await session.join("a")
        monkeypatch.setattr(vsync.Node, "status", slow)
        for _ in range(server.REQUESTS_MAX + 5):
            with anyio.move_on_after(0.002):
                await session.status()
        await session.send(b"x")
        assert [d.payload for d in await deliveries(session, 1)] == [b"x"]
        answered.set()
        with anyio.fail_after(PATIENCE_S):
            for _ in range(2 * server.REQUESTS_MAX):
                assert await session.status() == {"node": 1}


async def test_who_waits_to_ask_is_told_that_the_daemon_is_gone(tmp_path: Path) -> None:
    told = 0

    async def ask(session: vsync.Session) -> None:
        nonlocal told
        with pytest.raises(vsync.DaemonLost, match="has closed the connection"):
            await session.status()
        told += 1

    async with false_daemon(tmp_path / "s", WELCOME, b""), vsync.connect(tmp_path / "s") as session:
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                for _ in range(25):  # ten at a time
                    tasks.start_soon(ask, session)
    assert told == 25


async def test_ending_a_session_ends_its_place_in_the_daemon_and_its_files(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path):
        async with vsync.connect(path):
            pass
        before = open_files()
        for _ in range(5):
            async with vsync.connect(path) as session:
                await session.join("a")
                await session.send_batch([bytes(1000)] * 100)
        with anyio.fail_after(PATIENCE_S):
            while (await node.status())["sessions"] or open_files() > before:
                await anyio.sleep(0.01)


@asynccontextmanager
async def false_daemon(path: Path, *says: bytes) -> AsyncIterator[None]:
    """Something that takes one client, says *says*, and waits for its end."""

    def run(listener: socket.socket) -> None:
        with listener, listener.accept()[0] as client:
            client.settimeout(PATIENCE_S)
            for piece in says:
                client.recv(100)
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
            while client.recv(10_000):
                pass

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    thread = threading.Thread(target=run, args=[listener])
    thread.start()
    yield
    await anyio.to_thread.run_sync(thread.join)


FALSE = {
    "noise": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "announces a frame of"),
    "another version": (
        build(
            Type.END,
            failure=protocol.failure_fields(
                DaemonError("the client speaks protocol 1, this daemon 2")
            ),
        ),
        "ends this session: the client speaks protocol 1, this daemon 2",
    ),
    "silence": (b"", "has closed the connection"),
    "a delivery first": (frame(Type.DELIVERIES, bytes(100)), "nobody asked for"),
    "a cut welcome": (frame(Type.WELCOME, b"\0\1"), "makes no sense"),
}


@pytest.mark.parametrize(("says", "sentence"), FALSE.values(), ids=FALSE)
async def test_a_false_daemon_is_a_sentence(tmp_path: Path, says: bytes, sentence: str) -> None:
    async with false_daemon(tmp_path / "s", says):
        with pytest.raises(DaemonError, match=sentence):
            async with vsync.connect(tmp_path / "s"):
                pass


LATER: dict[str, Callable[[], bytes]] = {
    "an answer to nothing": lambda: build(Type.DONE, number=77),
    "a refusal of nothing": lambda: frame(Type.REFUSED, b"\0\0\0\5\3\0no"),
    "a view before any configuration": lambda: frame(Type.VIEW, bytes(45)),
    "a second welcome": lambda: WELCOME,
    "an impossible length": lambda: struct.pack(">I", 2**32 - 1),
    "a configuration of nothing": lambda: frame(Type.CONFIGURATION, b"{}"),
}


@pytest.mark.parametrize("says", LATER.values(), ids=LATER)
async def test_nonsense_after_the_welcome_ends_the_session(
    tmp_path: Path, says: Callable[[], bytes]
) -> None:
    async with (
        false_daemon(tmp_path / "s", WELCOME, says()),
        vsync.connect(tmp_path / "s") as session,
    ):
        with anyio.fail_after(PATIENCE_S):
            with pytest.raises(DaemonError):
                await session.status()
            with pytest.raises(DaemonError):
                while True:
                    await session.receive()
            with pytest.raises(DaemonError):
                await session.send(b"x", "a")


async def test_a_large_stream_comes_whole_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with (
        ring_of(tmp_path, 2) as (one, two),
        served(one, path),
        vsync.connect(path) as session,
        two.session() as sender,
    ):
        await session.join("a")
        sizes = [0, 1, 70, 1400, 5000, 300_000] * 40
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                for number, size in enumerate(sizes):
                    await sender.send(b"%05d" % number + bytes(size), "a")

            tasks.start_soon(send)
            seen = 0
            with anyio.fail_after(2 * PATIENCE_S):
                while seen < len(sizes):
                    event = await session.receive()
                    if isinstance(event, Delivery):
                        assert event.payload == b"%05d" % seen + bytes(sizes[seen])
                        seen += 1


async def test_a_daemon_that_takes_nobody_in_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsync.daemon.client.CONNECT_S", 0.3)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        try:
            for caller in waiting:
                caller.setblocking(False)
                caller.connect(str(tmp_path / "s"))
            with pytest.raises(BlockingIOError), socket.socket(socket.AF_UNIX) as one_more:
                one_more.setblocking(False)
                one_more.connect(str(tmp_path / "s"))
            with anyio.fail_after(PATIENCE_S), pytest.raises(DaemonError, match=r"in 0\.3 s"):
                async with vsync.connect(tmp_path / "s"):
                    pass
        finally:
            for caller in waiting:
                caller.close()


async def test_a_daemon_that_says_nothing_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsync.daemon.client.CONNECT_S", 0.3)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with anyio.fail_after(PATIENCE_S), pytest.raises(DaemonError, match="does not answer as"):
            async with vsync.connect(tmp_path / "s"):
                pass


async def test_a_session_that_nobody_reads_still_has_its_answers(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with (
        ring_of(tmp_path, 1) as (node,),
        served(node, path),
        vsync.connect(path, slow=vsync.SlowPolicy.SPILL) as session,
    ):
        await session.join("a")
        with anyio.fail_after(2 * PATIENCE_S):
            for number in range(100):  # ten times what may wait on its way
                await session.send_batch([b"%03d" % number + bytes(20_000)] * 5, "a")
            assert (await session.status())["node"] == 1
        got = await deliveries(session, 500)
        assert [int(d.payload[:3]) for d in got] == [n for n in range(100) for _ in range(5)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "x" * 256}, "at most 255 bytes"),
        ({"queue_bytes": -1}, "queue_bytes is a number of bytes"),
        ({"spill_bytes": 2**64}, "spill_bytes is a number of bytes"),
    ],
)
async def test_options_that_cannot_be_are_mistakes(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(vsync.MisuseError, match=sentence):
        async with vsync.connect(tmp_path / "s", **options):
            pass


async def test_a_request_that_cannot_be_is_refused_here(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with (
        ring_of(tmp_path, 1, message_bytes_max=1000) as (node,),
        served(node, path),
        vsync.connect(path) as session,
    ):
        with pytest.raises(vsync.ServiceFailed, match="no service has a name of 300 characters"):
            await session.request("x" * 300, b"")
        with pytest.raises(vsync.MessageTooLarge):
            await session.request("kv", bytes(1001))
        with pytest.raises(vsync.ServiceFailed, match="no service 'kv' runs in node 1"):
            await session.request("kv", bytes(1000))

"""The daemon's socket: who may be there, and what nonsense does."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

import vsync
from tests.core.api.rings import deliveries, fresh_network, ring_of, settings_of
from vsync import DaemonError, Node
from vsync.daemon import server
from vsync.daemon.client import _hello as hello
from vsync.daemon.protocol import Type, build, frame
from vsync.daemon.stream import connect_stream

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(node: Node, path: Path) -> AsyncIterator[None]:
    """Serve *node* at *path*."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(vsync.serve, node, path)
        yield
        tasks.cancel_scope.cancel()


GREETING = hello("", None, None, None, False, 2**20)

NONSENSE = {
    "noise": b"\x8f\x01GET / HTTP/1.1\r\n\r\n" * 10,
    "a huge length": struct.pack(">IB", 2**32 - 1, Type.HELLO),
    "a length of nothing": struct.pack(">I", 0),
    "another protocol": frame(Type.HELLO, b"vsync\3\xe7" + bytes(20)),
    "the first protocol": frame(Type.HELLO, b"vsync\0\1"),
    "a policy that does not exist": frame(Type.HELLO, GREETING[5:12] + b"\x09" + GREETING[13:]),
    "no greeting": build(Type.STATUS, number=1),
    "an unknown type": GREETING + frame(Type.DELIVERIES, b"x"),
    "a cut body": GREETING + frame(Type.SEND, b"\2"),
    "lengths that lie": GREETING
    + frame(Type.SEND, b"\0\0\0\1\2\2\1" + bytes(32) + b"\0\0\0\1\0\0\0\t"),
    "a guarantee that does not exist": GREETING
    + frame(Type.SEND, b"\0\0\0\1\t\2\1" + bytes(32) + b"\0\0\0\1\0\0\0\1x"),
    "a huge length after the greeting": GREETING + struct.pack(">IB", 2**31, Type.SEND),
}


async def test_a_daemon_without_clients_is_not_woken_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TICK_S", None)  # to wait for that is an error
    async with ring_of(tmp_path, 1) as (node,), served(node, tmp_path / "s"):
        await anyio.sleep(0.05)


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_ends_its_own_client_only(tmp_path: Path, nonsense: bytes) -> None:
    path = tmp_path / "s"
    async with (
        ring_of(tmp_path, 1) as (node,),
        served(node, path),
        vsync.connect(path) as good,
    ):
        await good.join("a")
        bad = await connect_stream(str(path))
        async with bad:
            await bad.send(nonsense)
            with anyio.fail_after(10), pytest.raises(anyio.EndOfStream):
                while True:
                    await bad.receive(1000)
        await good.send(b"still here")
        assert [d.payload for d in await deliveries(good, 1)] == [b"still here"]


async def test_half_a_frame_hurts_nobody(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with (
        ring_of(tmp_path, 1) as (node,),
        served(node, path),
        await connect_stream(str(path)) as half,
    ):
        await half.send(GREETING + struct.pack(">IB", 100, Type.SEND) + b"x")
        async with vsync.connect(path) as good:
            assert (await good.status())["node"] == 1


async def test_the_socket_is_for_its_owner_alone_and_goes_with_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,):
        async with served(node, path):
            assert path.stat().st_mode & 0o777 == 0o600
        assert not path.exists()


async def test_a_socket_that_nobody_serves_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    async with ring_of(tmp_path, 1) as (node,), served(node, path), vsync.connect(path) as session:
        assert session.node == 1


async def test_a_socket_that_another_daemon_serves_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with ring_of(tmp_path, 2) as (one, two), served(one, path):
        with pytest.raises(DaemonError, match="another daemon serves"):
            await vsync.serve(two, path)
        async with vsync.connect(path) as session:
            assert session.node == 1


async def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("mine")
    async with ring_of(tmp_path, 1) as (node,):
        with pytest.raises(DaemonError, match="is no socket"):
            await vsync.serve(node, path)
    assert path.read_text() == "mine"


async def test_nobody_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match=r"no daemon answers at .*; is `vsync run` running"):
        async with vsync.connect(tmp_path / "nothing"):
            pass


async def test_the_daemons_end_is_an_error_of_the_session(tmp_path: Path) -> None:
    path = tmp_path / "s"
    settings = settings_of(tmp_path, 1, fresh_network())
    async with anyio.create_task_group() as tasks:
        stop = anyio.Event()

        async def run(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            async with vsync.open_node(settings) as node, served(node, path):
                task_status.started()
                await stop.wait()

        await tasks.start(run)
        async with vsync.connect(path) as session:
            await session.receive()
            stop.set()
            with anyio.fail_after(10), pytest.raises(DaemonError):
                while True:
                    await session.receive()


def test_it_serves_in_a_loop_that_anyio_knows_nothing_of(tmp_path: Path) -> None:
    """As with ``asyncio.run``, or in a web server: there, anyio finds its way by the task."""

    async def main() -> None:
        path = tmp_path / "s"
        async with (
            ring_of(tmp_path, 1) as (node,),
            served(node, path),
            vsync.connect(path) as session,
        ):
            await session.join("a")
            assert (await session.status())["node"] == 1
            with pytest.raises(vsync.ServiceFailed):
                await session.request("none", b"")
            await session.send(b"x")
            assert [d.payload for d in await deliveries(session, 1)] == [b"x"]
            await session.leave("a")

    asyncio.run(main())

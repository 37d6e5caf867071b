"""Clients that die, lie, flood or never read: they hurt themselves alone."""

import random
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import vsync
from tests.core.api.rings import PATIENCE_S, deliveries, fresh_network, ring_of, settings_of
from tests.core.daemon.test_daemon import GREETING, served
from vsync import Cause, GroupChanged, GroupKey, Member, Move, Node, Session
from vsync.daemon import frames, protocol, server
from vsync.daemon.client import _hello as hello
from vsync.daemon.protocol import Type, build
from vsync.daemon.stream import Stream, connect_stream
from vsync.vocabulary import Guarantee, Priority, SlowPolicy

pytestmark = pytest.mark.anyio

KEY = GroupKey.from_name("a")
JOIN = build(Type.JOIN, number=1, closed=False, groups=[KEY.key])

CLIENT = """
import anyio, sys, vsync

async def main():
    async with vsync.connect(sys.argv[1]) as session:
        await session.join("a", "b")
        print(session.member.session, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@asynccontextmanager
async def raw(path: Path, *says: bytes) -> AsyncIterator[Stream]:
    """A client that is not ours."""
    stream = await connect_stream(str(path))
    async with stream:
        for piece in says:
            await stream.send(piece)
        yield stream


async def farewell(stream: Stream) -> list[tuple[int, memoryview]]:
    """All frames up to the end of the connection."""
    reader = protocol.FrameReader(2**26)
    found: list[tuple[int, memoryview]] = []
    with anyio.fail_after(PATIENCE_S):
        try:
            while True:
                found += list(reader.feed(await stream.receive(2**16)))
        except anyio.EndOfStream:
            return found


async def why(stream: Stream) -> str:
    """The sentence with which the daemon ends the connection."""
    kind, body = (await farewell(stream))[-1]
    assert kind == Type.END
    return str(protocol.failure(protocol.parse(Type.END, body).failure))


async def works(session: Session) -> None:
    """See that an honest client is served."""
    with anyio.fail_after(PATIENCE_S):
        await session.send(b"still here", "a")
        while True:
            event = await session.receive()
            if isinstance(event, vsync.Delivery) and event.payload == b"still here":
                return


async def until_member(session: Session, member: Member) -> None:
    """Wait for the view with *member*."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            event = await session.receive()
            if isinstance(event, GroupChanged) and member in event.members:
                return


async def left(session: Session, member: Member) -> list[Cause]:
    """Why *member* went from its groups."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            event = await session.receive()
            if isinstance(event, GroupChanged) and event.left:
                assert event.left[0].member == member
                return [move.cause for move in event.left]


def impatient(directory: Path, **ring: Any) -> vsync.NodeSettings:
    plain = settings_of(directory, 1, fresh_network(), **ring).model_dump(mode="python")
    return vsync.NodeSettings.model_validate({**plain, "daemon": {"client_stuck_s": 0.4}})


async def until_sessions(node: Node, count: int) -> None:
    with anyio.fail_after(PATIENCE_S):
        while (await node.status())["sessions"] != count:
            await anyio.sleep(0.01)


async def test_a_killed_process_leaves_its_groups_as_one_that_died(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with (
        ring_of(tmp_path, 2) as (node, other),
        served(node, path),
        other.session() as watcher,
    ):
        await watcher.join("a", "b")
        command = [sys.executable, "-c", CLIENT, str(path)]
        async with await anyio.open_process(command) as process:
            assert process.stdout is not None
            number = int(await process.stdout.receive())
            process.kill()
        member = Member(node.id, number)
        assert await left(watcher, member) == [Cause.DIED]
        assert await left(watcher, member) == [Cause.DIED]


async def test_an_orderly_end_is_a_leave_and_a_lost_connection_a_death(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path), node.session() as watcher:
        await watcher.join("a")
        with pytest.raises(ValueError, match="of ours"):
            async with vsync.connect(path) as session:
                await session.join("a")
                member = session.member
                raise ValueError("of ours")
        assert await left(watcher, member) == [Cause.LEFT]
        async with raw(path, GREETING, JOIN):
            await until_sessions(node, 2)
        assert await left(watcher, Member(node.id, member.session + 1)) == [Cause.DIED]
        async with raw(path, GREETING, JOIN) as stream:
            await until_member(watcher, Member(node.id, member.session + 2))
            await stream.send(struct.pack(">IB", 1, 99))
            assert "unknown type 99" in await why(stream)
        assert await left(watcher, Member(node.id, member.session + 2)) == [Cause.DIED]


async def test_a_client_that_is_stopped_with_its_daemon_has_left(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), node.session() as watcher:
        await watcher.join("a")
        async with served(node, path), raw(path, GREETING, JOIN):
            await until_sessions(node, 2)
            with anyio.fail_after(PATIENCE_S):
                while len(node.group_members()[KEY]) < 2:
                    await anyio.sleep(0.01)
        (move,) = (await left_moves(watcher)).left
        assert move.cause is Cause.LEFT


async def left_moves(session: Session) -> GroupChanged:
    with anyio.fail_after(PATIENCE_S):
        while True:
            event = await session.receive()
            if isinstance(event, GroupChanged) and event.left:
                return event


async def test_who_holds_up_the_ring_is_evicted_and_told_so(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with (
        vsync.open_node(impatient(tmp_path)) as node,
        served(node, path),
        node.session() as watcher,
        vsync.connect(path, slow=SlowPolicy.BLOCK, queue_bytes=10_000) as slow,
    ):
        await watcher.join("a")
        await slow.join("a")
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                while True:
                    await watcher.send(bytes(5000), "a")

            tasks.start_soon(send)
            assert (await left_moves(watcher)).left == (Move(slow.member, Cause.EVICTED),)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE_S), pytest.raises(vsync.Evicted, match=r"more than 0\.4 s"):
            while True:
                await slow.receive()


@pytest.mark.parametrize("slow", [SlowPolicy.EVICT, SlowPolicy.SPILL, SlowPolicy.BLOCK])
async def test_a_client_that_never_reads_is_not_waited_for(
    tmp_path: Path, slow: SlowPolicy
) -> None:
    path = tmp_path / "s"
    greeting = hello("", slow, 100_000, 100_000, False, 2**32 - 1)
    async with (
        vsync.open_node(impatient(tmp_path)) as node,
        served(node, path),
        vsync.connect(path) as honest,
        raw(path, greeting, JOIN),
    ):
        await until_sessions(node, 2)
        await honest.join("a")
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                async for _ in honest.batches():
                    pass

            tasks.start_soon(read)
            with anyio.fail_after(2 * PATIENCE_S):
                for _ in range(400):
                    await honest.send(bytes(20_000), "a")
                await until_sessions(node, 1)
            tasks.cancel_scope.cancel()


def send_of(payload: bytes, number: int = 1) -> bytes:
    return frames.send_frame(number, [KEY], [payload], Guarantee.AGREED, Priority.MEDIUM)


async def test_who_sends_more_than_its_window_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with (
        ring_of(tmp_path, 1, message_bytes_max=2**18) as (node,),
        served(node, path),
        vsync.connect(path) as honest,
        node.session(queue_bytes=1000) as slow,
    ):
        await honest.join("a")
        await slow.join("a")
        async with raw(path, GREETING) as flooding:
            ended = anyio.Event()

            async def flood() -> None:
                try:
                    while True:
                        await flooding.send(send_of(bytes(200_000)))
                except anyio.EndOfStream:
                    ended.set()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(flood)
                assert "more than the 2097152 bytes that it may" in await why(flooding)
                with anyio.fail_after(PATIENCE_S):
                    await ended.wait()
        await until_sessions(node, 2)
        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                async for _ in slow.batches():
                    pass

            tasks.start_soon(read)
            await works(honest)
            tasks.cancel_scope.cancel()


async def test_who_asks_more_than_it_may_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: Node) -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path), vsync.connect(path) as honest:
        await honest.join("a")
        with monkeypatch.context() as patched:
            patched.setattr(Node, "status", never)
            asks = [build(Type.STATUS, number=n) for n in range(server.REQUESTS_MAX + 1)]
            async with raw(path, GREETING, *asks) as flooding:
                assert "asks more than the 64 things" in await why(flooding)
        await works(honest)


async def test_who_asks_and_never_reads_the_answers_is_not_answered_for_ever(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path), vsync.connect(path) as honest:
        await honest.join("a")
        async with raw(path, GREETING) as flooding:
            with anyio.move_on_after(PATIENCE_S):
                try:
                    for number in range(100_000):
                        await flooding.send(build(Type.STATUS, number=number))
                except anyio.EndOfStream:
                    pass
            await works(honest)
        await until_sessions(node, 1)


async def test_messages_whose_ids_nobody_reads_stop_being_accepted(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path), vsync.connect(path) as honest:
        await honest.join("b")
        async with raw(path, GREETING) as flooding:
            many = b"".join(send_of(b"", number) for number in range(1000))
            with anyio.move_on_after(5):
                try:
                    while True:
                        await flooding.send(many)
                except anyio.EndOfStream:
                    pass
            await honest.send(b"x", "b")
            assert [d.payload for d in await deliveries(honest, 1)] == [b"x"]
        await until_sessions(node, 1)


async def test_too_many_groups_are_refused_and_the_session_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path), vsync.connect(path) as session:
        names = [f"group {number}" for number in range(protocol.GROUPS_MAX)]
        await session.join(*names)
        with pytest.raises(vsync.MisuseError, match="at most 4096 groups"):
            await session.join("one more")
        await session.leave(*names)
        await session.join("a")
        await works(session)


async def test_connections_that_say_nothing_hurt_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path), vsync.connect(path) as honest:
        await honest.join("a")
        monkeypatch.setattr(server, "HELLO_S", 0.3)
        async with raw(path) as silent:
            await works(honest)
            assert "said nothing for 0.3 s" in await why(silent)
        await works(honest)


async def test_noise_of_all_kinds_ends_its_client_only(tmp_path: Path) -> None:
    dice = random.Random(7)
    whole = [
        GREETING,
        JOIN,
        build(Type.LEAVE, number=2, groups=[KEY.key]),
        build(Type.STATUS, number=3),
        build(Type.REQUEST, number=4, service="kv", body=b"x"),
        frames.send_frame(5, [KEY], [b"x", b"y"], Guarantee.SAFE, Priority.LOW),
        frames.taken_frame(5),
        build(Type.BYE),
    ]
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path), vsync.connect(path) as honest:
        await honest.join("b")
        for _ in range(150):
            said = bytearray(b"".join(dice.choices(whole, k=dice.randint(1, 8))))
            if dice.random() < 0.7:
                said[: len(GREETING)] = GREETING
            for _ in range(dice.randint(0, 3)):
                said[dice.randrange(len(said))] = dice.randrange(256)
            cut = dice.randint(0, len(said))
            with anyio.fail_after(PATIENCE_S):
                try:
                    async with raw(path, bytes(said[:cut])) as stream:
                        stream.socket.shutdown(socket.SHUT_WR)
                        await farewell(stream)
                except (anyio.EndOfStream, OSError):
                    pass
        await honest.send(b"x", "b")
        assert [d.payload for d in await deliveries(honest, 1)] == [b"x"]
        await until_sessions(node, 1)


async def test_a_frame_that_comes_byte_by_byte_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path), node.session() as listener:
        await listener.join("a")
        async with raw(path) as slow:
            for byte in GREETING + send_of(b"slowly"):
                await slow.send(struct.pack("B", byte))
            assert [d.payload for d in await deliveries(listener, 1)] == [b"slowly"]

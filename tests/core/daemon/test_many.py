"""Many clients, and many messages: nothing lost, repeated or reordered."""

from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

import vsync
from tests.core.api.rings import PATIENCE_S, ring_of
from tests.core.daemon.test_daemon import served
from vsync import Delivery, Event, GroupChanged, Session
from vsync.daemon import frames
from vsync.engine.runs import Run

pytestmark = pytest.mark.anyio

CONNECTED = 300
JOINED = 50


async def payloads(session: Session, count: int) -> list[bytes]:
    """The payloads of the next *count* messages."""
    found: list[bytes] = []
    async for batch in session.batches():
        found += [event.payload for event in batch if type(event) is Delivery]
        if len(found) >= count:
            break
    return found


async def test_hundreds_of_clients_are_served_and_few_cost_what_few_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    make = frames.parts_of

    def counting(event: Event | Run) -> list[bytes | memoryview]:
        nonlocal made
        made += len(event) if isinstance(event, Run) else 1
        return make(event)

    monkeypatch.setattr(frames, "parts_of", counting)
    path = tmp_path / "s"
    count = 500
    with anyio.fail_after(3 * PATIENCE_S):
        async with (
            ring_of(tmp_path, 2) as (node, other),
            served(node, path),
            other.session() as sender,
            AsyncExitStack() as stack,
        ):
            sessions: list[Session] = []

            async def connect() -> None:
                sessions.append(await stack.enter_async_context(vsync.connect(path)))

            for _ in range(CONNECTED):
                await connect()
            joined = sessions[:JOINED]
            async with anyio.create_task_group() as tasks:
                for session in joined:
                    tasks.start_soon(session.join, "a")
            assert (await sessions[-1].status())["sessions"] == CONNECTED
            last = 0
            for session in joined:  # each sees all who came after it
                while True:
                    event = await session.receive()
                    if isinstance(event, GroupChanged):
                        last = max(last, len(event.members))
                        if len(event.members) == JOINED:
                            break
            assert last == JOINED
            before = made
            await sender.send_batch([b"%d" % number for number in range(count)], "a")
            for session in joined:
                assert await payloads(session, count) == [b"%d" % n for n in range(count)]
            assert made - before < 2 * count  # once for all of them, as good as


async def test_ten_clients_send_and_all_have_the_same_stream(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    clients, each = 10, 10_000 if anyio_backend_name == "asyncio" else 1000
    path = tmp_path / "s"
    async with ring_of(tmp_path, 1) as (node,), served(node, path), AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(vsync.connect(path, name=str(number)))
            for number in range(clients)
        ]
        for session in sessions:
            await session.join("a")
        seen: dict[int, list[bytes]] = {}

        async def send(number: int) -> None:
            for first in range(0, each, 500):
                await sessions[number].send_batch(
                    [b"%d %d" % (number, n) for n in range(first, first + 500)]
                )

        async def read(number: int) -> None:
            seen[number] = await payloads(sessions[number], clients * each)

        with anyio.fail_after(5 * PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                for number in range(clients):
                    tasks.start_soon(send, number)
                    tasks.start_soon(read, number)
    for number in range(clients):
        assert seen[number] == seen[0]
        mine = [p for p in seen[0] if p.startswith(b"%d " % number)]
        assert mine == [b"%d %d" % (number, n) for n in range(each)]

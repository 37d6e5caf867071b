"""What is written to a client, and who waits for room in it."""

import socket

import anyio
import pytest

from vsync.daemon.stream import OUTGOING_BYTES_MAX, Outgoing, Stream

pytestmark = pytest.mark.anyio


async def test_all_who_wait_for_room_are_told_of_it() -> None:
    """The one who tells events and the one who sends wait beside each other."""
    here, there = socket.socketpair()
    async with Stream(here) as writing, Stream(there) as reading:
        outgoing = Outgoing(writing)
        outgoing.put(bytes(4 * OUTGOING_BYTES_MAX))
        with anyio.fail_after(10):
            async with anyio.create_task_group() as waiting:
                for _ in range(3):
                    waiting.start_soon(outgoing.room)
                await anyio.wait_all_tasks_blocked()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(outgoing.flush)
                    left = 4 * OUTGOING_BYTES_MAX
                    while left:
                        left -= len(await reading.receive(2**16))

"""What is read from a client, what is written to it, and who waits for room in that."""

import socket
from collections.abc import AsyncIterator

import anyio
import pytest

from vsync.daemon.stream import OUTGOING_BYTES_MAX, Outgoing, Stream

pytestmark = pytest.mark.anyio


@pytest.fixture
async def streams() -> AsyncIterator[tuple[Stream, Stream]]:
    """Two ends of one connection."""
    here, there = socket.socketpair()
    async with Stream(here) as one, Stream(there) as other:
        yield one, other


async def test_who_reads_is_called_for_all_that_comes_until_it_has_enough(
    streams: tuple[Stream, Stream],
) -> None:
    reading, writing = streams
    space, found = bytearray(4), bytearray()

    def take() -> bool:
        found.extend(space[: reading.read_into(space)])
        return len(found) < 9

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reading.read, take)
            for piece in (b"ab", b"cdefg", b"hi"):
                await anyio.wait_all_tasks_blocked()
                await writing.send(piece)
    assert found == b"abcdefghi"
    await writing.send(b"later")
    assert await reading.receive(10) == b"later"


async def test_what_goes_wrong_in_reading_is_raised_to_who_waits_for_it(
    streams: tuple[Stream, Stream],
) -> None:
    reading, writing = streams
    space = bytearray(4)
    writing.close()
    with anyio.fail_after(10), pytest.raises(anyio.EndOfStream):
        await reading.read(lambda: reading.read_into(space) >= 0)


async def test_who_reads_from_a_stream_that_is_closed_is_told(
    streams: tuple[Stream, Stream],
) -> None:
    reading, _ = streams
    space = bytearray(4)
    with anyio.fail_after(10), pytest.RaisesGroup(anyio.ClosedResourceError):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reading.read, lambda: reading.read_into(space) >= 0)
            await anyio.wait_all_tasks_blocked()
            reading.close()


async def test_who_was_cancelled_while_it_read_leaves_what_comes_for_the_next(
    streams: tuple[Stream, Stream],
) -> None:
    reading, writing = streams
    space = bytearray(4)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reading.read, lambda: reading.read_into(space) >= 0)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
            await writing.send(b"next")
        assert await reading.receive(10) == b"next"


async def test_what_is_written_at_once_stands_behind_what_was_put_before(
    streams: tuple[Stream, Stream],
) -> None:
    reading, writing = streams
    outgoing = Outgoing(writing)
    outgoing.put(b"first ")
    outgoing.write(b"second ", b"third")
    assert outgoing.bytes == 0
    assert await reading.receive(100) == b"first second third"


async def test_what_the_stream_does_not_take_at_once_follows_in_order(
    streams: tuple[Stream, Stream],
) -> None:
    reading, writing = streams
    outgoing = Outgoing(writing)
    pieces = [bytes([number]) * 100_000 for number in range(100)]
    found = bytearray()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outgoing.run)
            for piece in pieces[:50]:
                outgoing.write(piece)
            await anyio.wait_all_tasks_blocked()
            assert outgoing.bytes > 0
            for piece in pieces[50:]:  # while the other task waits for the stream
                outgoing.write(piece)
            while len(found) < 10_000_000:
                found += await reading.receive(2**20)
            tasks.cancel_scope.cancel()
    assert found == b"".join(pieces)


async def test_that_the_other_side_is_gone_is_told_where_all_is_written_from(
    streams: tuple[Stream, Stream],
) -> None:
    reading, writing = streams
    outgoing = Outgoing(writing)
    reading.close()
    outgoing.write(b"nobody reads this")
    with anyio.fail_after(10), pytest.raises(anyio.EndOfStream):
        await outgoing.run()


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

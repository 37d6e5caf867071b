"""A function is called in the event loop's thread, whoever asks for it."""

import os
import threading
from collections.abc import Callable

import anyio
import anyio.to_thread
import pytest

from vsync.runtime.caller import Caller


class Noted:
    """Notes in which thread it was called."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.event = anyio.Event()

    def __call__(self) -> None:
        self.threads.append(threading.get_ident())
        self.event.set()


@pytest.mark.anyio
async def test_a_call_from_another_thread_is_made_in_the_loops() -> None:
    noted = Noted()
    caller = Caller(noted)
    await anyio.to_thread.run_sync(caller.call)
    await noted.event.wait()
    assert noted.threads == [threading.get_ident()]
    caller.close()


@pytest.mark.anyio
async def test_a_call_from_the_loops_own_thread_is_made_too() -> None:
    noted = Noted()
    caller = Caller(noted)
    caller.call()
    await noted.event.wait()
    assert set(noted.threads) == {threading.get_ident()}
    caller.close()


@pytest.mark.anyio
async def test_many_calls_at_once_are_made_once_at_least_and_then_the_next_one_is_too() -> None:
    noted = Noted()
    caller = Caller(noted)

    def call_often() -> None:
        for _ in range(100):
            caller.call()

    for _ in range(3):
        noted.event = anyio.Event()
        await anyio.to_thread.run_sync(call_often)
        await noted.event.wait()
    assert 3 <= len(noted.threads) <= 300
    caller.close()


@pytest.mark.anyio
async def test_nothing_is_called_after_the_end() -> None:
    noted = Noted()
    caller = Caller(noted)
    await anyio.to_thread.run_sync(caller.call)
    await noted.event.wait()
    caller.close()
    caller.close()
    if caller._call_soon is None:  # asyncio: where its descriptor was, there may be another's now
        reader, writer = os.pipe()
        await anyio.to_thread.run_sync(caller.call)
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            os.read(reader, 8)
        os.close(reader)
        os.close(writer)
        await anyio.wait_all_tasks_blocked()
        assert len(noted.threads) == 1


def test_a_call_after_the_loop_ended_does_nothing() -> None:
    noted: list[None] = []

    async def made() -> Callable[[], None]:
        return Caller(lambda: noted.append(None)).call

    for backend in ("asyncio", "trio"):
        call = anyio.run(made, backend=backend)
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert noted == []

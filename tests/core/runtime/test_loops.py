"""Whose task runs: asyncio's, or trio's, also where trio is a guest in an asyncio loop."""

import asyncio
from collections.abc import Callable

import anyio
import pytest
import trio
from outcome import Outcome

from vsync.api.news import News
from vsync.runtime.caller import Caller
from vsync.runtime.loops import asyncio_loop


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_of_asyncio_has_its_loop_and_one_of_trio_has_none(backend: str) -> None:
    async def look() -> bool:
        return asyncio_loop() is not None

    assert anyio.run(look, backend=backend) == (backend == "asyncio")


def test_outside_of_any_task_there_is_no_loop() -> None:
    assert asyncio_loop() is None


def test_a_task_of_a_guest_in_asyncio_is_woken_from_another_thread() -> None:
    async def wait() -> str:
        assert asyncio_loop() is None
        news = News()
        caller = Caller(news.tell)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(trio.to_thread.run_sync, caller.call)
                await news.wait()
        finally:
            caller.close()
        return "woken"

    async def be_host() -> Outcome[str]:
        done: asyncio.Future[Outcome[str]] = asyncio.get_running_loop().create_future()

        def soon(function: Callable[[], object]) -> None:
            loop.call_soon_threadsafe(function)

        loop = asyncio.get_running_loop()
        trio.lowlevel.start_guest_run(
            wait, run_sync_soon_threadsafe=soon, done_callback=done.set_result
        )
        async with asyncio.timeout(10):
            return await done

    assert asyncio.run(be_host()).unwrap() == "woken"

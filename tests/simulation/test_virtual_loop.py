"""An event loop in virtual time: no waiting, one order, and sentences for what cannot be."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from vsync.errors import MisuseError
from vsync.testing import SimulationFailed
from vsync.testing.virtual_loop import NEVER, ROUNDS_AT_ONCE_MAX, Process, VirtualLoop

pytestmark = pytest.mark.timeout(30)


class Clock:
    """A world in which nothing happens but that time passes."""

    now = 0.0

    def pass_time(self, until: float, interrupted: Callable[[], bool]) -> None:
        if until < NEVER:
            self.now = until


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop(Clock())
    yield made
    made.close()


def test_sleeping_takes_virtual_time_only(loop: VirtualLoop) -> None:
    async def sleep() -> tuple[float, float]:
        await anyio.sleep(3600)
        with anyio.move_on_after(60):
            await anyio.sleep_forever()
        async with asyncio.timeout(5):
            await asyncio.gather(asyncio.sleep(1), asyncio.sleep(2))
        return anyio.current_time(), asyncio.get_running_loop().time()

    began = time.monotonic()
    assert loop.complete(sleep(), 10_000, "sleep()") == (3662, 3662)
    assert time.monotonic() - began < 60


def test_callbacks_run_in_the_order_of_asyncio(loop: VirtualLoop) -> None:
    said: list[int] = []

    async def speak() -> None:
        loop.call_later(1, said.append, 5)
        loop.call_later(1, said.append, 6)
        loop.call_later(0.5, said.append, 3)
        loop.call_soon(said.append, 1)
        loop.call_later(0, said.append, 2)
        loop.call_later(0.7, said.append, 4).cancel()
        await asyncio.sleep(1)

    loop.complete(speak(), 2, "speak()")
    assert said == [1, 2, 3, 5, 6]


def test_cancelled_tasks_run_in_the_order_in_which_they_began(loop: VirtualLoop) -> None:
    """Whatever the order of a set of scopes in memory is."""
    order: list[int] = []

    async def wait(number: int) -> None:
        with anyio.CancelScope():  # so that the group has a set of scopes, not of tasks
            try:
                await anyio.sleep_forever()
            finally:
                order.append(number)

    async def main() -> None:
        clutter = []
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                clutter.append(bytearray(17 * number % 400))  # so that memory has no order
                tasks.start_soon(wait, number)
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()

    loop.complete(main(), 2, "main()")
    assert order == list(range(50))


def test_sets_of_tasks_and_futures_have_one_order(loop: VirtualLoop) -> None:
    async def main() -> list[int]:
        tasks = [asyncio.create_task(asyncio.sleep(1, number)) for number in range(20)]
        done, _ = await asyncio.wait(tasks)
        return [task.result() for task in done]

    first = loop.complete(main(), 2, "main()")
    assert sorted(first) == list(range(20))
    other = VirtualLoop(Clock())
    assert other.complete(main(), 2, "main()") == first
    other.close()


def test_a_thousand_timers_that_were_cancelled_are_cleared_away(loop: VirtualLoop) -> None:
    async def main() -> None:
        for _ in range(2000):
            with anyio.move_on_after(1_000_000):
                await anyio.sleep(0.001)

    loop.complete(main(), 10, "main()")
    assert len(loop._timers) < 1000


def test_what_never_comes_ends_with_a_sentence(loop: VirtualLoop) -> None:
    async def wait_for_nobody() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(SimulationFailed, match=r"within 5 s of virtual time") as caught:
        loop.complete(wait_for_nobody(), 5, "the wait")
    assert "wait_for_nobody (test_virtual_loop.py:" in str(caught.value)

    with pytest.raises(SimulationFailed, match="nothing will ever happen any more; tasks wait"):
        loop.run_until_complete(wait_for_nobody())
    loop.cancel_tasks()
    loop.run_ready()


def test_turning_in_circles_is_noticed(loop: VirtualLoop) -> None:
    async def turn() -> None:
        while True:
            await anyio.lowlevel.checkpoint()

    with pytest.raises(SimulationFailed, match=r"turns in circles, and no time passes.*") as caught:
        loop.complete(turn(), 5, "turn()")
    assert "turn (test_virtual_loop.py:" in str(caught.value)
    assert ROUNDS_AT_ONCE_MAX > 10_000  # as many rounds at once are no circle


async def connect() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def serve() -> None:
    await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)


async def in_a_thread() -> None:
    await asyncio.to_thread(time.sleep, 0)


async def in_a_subprocess() -> None:
    await anyio.run_process(["true"])


@pytest.mark.parametrize("ask", [connect, serve, in_a_thread, in_a_subprocess])
def test_the_world_outside_is_refused(
    loop: VirtualLoop, ask: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    with pytest.raises(MisuseError, match="no sockets, threads, processes or signals"):
        loop.complete(ask(), 5, "it")


def test_a_thread_that_calls_is_refused_in_the_loops_own_thread(loop: VirtualLoop) -> None:
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(print,))
    thread.start()
    thread.join()
    with pytest.raises(MisuseError, match="a thread called into the simulation"):
        loop.complete(asyncio.sleep(1), 5, "it")
    loop.complete(asyncio.sleep(1), 5, "it")


def test_waiting_for_a_thread_ends_with_a_sentence(loop: VirtualLoop) -> None:
    async def wait() -> None:
        await anyio.to_thread.run_sync(released.wait)

    released = threading.Event()
    with pytest.raises(SimulationFailed, match="what a thread, a socket or another process") as why:
        loop.complete(wait(), 5, "it")
    assert "wait (test_virtual_loop.py:" in str(why.value)
    released.set()


def test_it_does_not_run_inside_itself(loop: VirtualLoop) -> None:
    async def nested() -> None:
        loop.complete(asyncio.sleep(1), 5, "it")

    with pytest.raises(MisuseError, match="the simulation runs already"):
        loop.complete(nested(), 5, "it")


def test_an_exception_in_a_callback_is_raised(loop: VirtualLoop) -> None:
    def fail() -> None:
        raise ValueError("broken on purpose")

    loop.call_later(1, fail)
    with pytest.raises(ValueError, match="broken on purpose"):
        loop.complete(asyncio.sleep(5), 10, "it")


# --- processes ----------------------------------------------------------------------------------


def test_a_process_stops_and_goes_on_with_all_its_tasks(loop: VirtualLoop) -> None:
    said: list[float] = []

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await anyio.sleep_forever()

    async def tick() -> None:
        while True:
            await anyio.sleep(1)
            said.append(loop.time())

    process = Process(loop, "one")
    process.spawn(main(), "main")
    loop.complete(asyncio.sleep(2.5), 10, "it")
    process.stop()
    loop.complete(asyncio.sleep(3), 10, "it")
    assert said == [1, 2]
    process.go_on()
    loop.complete(asyncio.sleep(1.5), 10, "it")
    assert said == [1, 2, 5.5, 6.5]
    process.cancel()
    loop.run_ready()
    assert loop.tasks(process) == []


def test_a_process_dies_with_tasks_that_nobody_knows_of(loop: VirtualLoop) -> None:
    ended: list[str] = []

    async def forgotten() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("forgotten")

    async def main() -> None:
        asyncio.get_running_loop().call_later(1, lambda: kept.append(loop.create_task(forgotten())))
        await anyio.sleep_forever()

    kept: list[object] = []
    process = Process(loop, "one")
    process.spawn(main(), "main")
    loop.complete(asyncio.sleep(2), 10, "it")
    assert len(loop.tasks(process)) == 2
    process.stop()  # who is stopped can be killed
    process.cancel()
    loop.run_ready()
    assert ended == ["forgotten"]
    assert loop.tasks() == []

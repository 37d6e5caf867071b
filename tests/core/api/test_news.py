"""Tasks that wait for news, again and again."""

import anyio
import pytest

from vsync.api.news import News

pytestmark = pytest.mark.anyio


async def test_all_who_wait_are_woken_by_one_telling() -> None:
    news = News()
    woken: list[int] = []

    async def wait(number: int) -> None:
        await news.wait()
        woken.append(number)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            news.tell()
    assert sorted(woken) == [0, 1, 2]


async def test_what_nobody_waits_for_is_forgotten() -> None:
    news = News()
    news.tell()
    with anyio.move_on_after(0.01) as waiting:
        await news.wait()
    assert waiting.cancelled_caught


async def test_one_who_is_cancelled_takes_the_news_from_nobody() -> None:
    news = News()
    woken: list[str] = []

    async def wait(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            await news.wait()
            woken.append(name)

    stays, goes = anyio.CancelScope(), anyio.CancelScope()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, "goes", goes)
            tasks.start_soon(wait, "stays", stays)
            await anyio.wait_all_tasks_blocked()
            goes.cancel()
            news.tell()
    assert "stays" in woken


async def test_who_gave_up_waiting_may_wait_again() -> None:
    news = News()
    for _ in range(3):
        with anyio.move_on_after(0.001):
            await news.wait()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(news.wait)
            await anyio.wait_all_tasks_blocked()
            news.tell()

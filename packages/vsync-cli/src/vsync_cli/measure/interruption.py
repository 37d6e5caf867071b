"""Ctrl-C while something is measured: the work ends in good order, and what it found is told."""

import signal
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.abc

INTERRUPTED: Final = 130
"""The exit code after Ctrl-C: 128 and the number of SIGINT, as shells have it."""


async def until_interrupted(work: Callable[[], Awaitable[None]]) -> bool:
    """Do *work*; whether Ctrl-C ended it. One that comes while sessions leave changes nothing."""
    interrupted = False

    async def listen(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        nonlocal interrupted
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                interrupted = True
                scope.cancel()

    scope = anyio.CancelScope()
    async with anyio.create_task_group() as listening:
        await listening.start(listen)
        with scope:
            await work()
        listening.cancel_scope.cancel()
    return interrupted

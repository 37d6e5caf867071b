"""Loops: whether a task is asyncio's, where what asyncio itself has is quicker than anyio's."""

import asyncio


def asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """The loop of the task that runs, if it is one of asyncio's; None: it is trio's.

    Not any loop that runs: trio may be a guest in one.
    """
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no loop of asyncio's runs in this thread
        return None
    return None if task is None else task.get_loop()

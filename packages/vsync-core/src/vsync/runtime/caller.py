"""Caller: calls into an event loop from other threads, asyncio's or trio's."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any


class Caller:
    """Calls functions in the event loop in which it was made. Use it from any thread.

    anyio has only ``wait_readable`` for that, which for each news registers a descriptor, takes it
    back and switches to a task: as much work as taking the news.
    """

    def __init__(self) -> None:
        self._call: Callable[[Callable[[], object]], object]
        self._thread: int | None = None
        """Where functions may be called at once."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # then it is trio, or nothing that anyio knows
            trio: Any = import_module("trio")
            self._call = trio.lowlevel.current_trio_token().run_sync_soon
        else:
            self._call = loop.call_soon_threadsafe
            self._thread = threading.get_ident()

    def call(self, function: Callable[[], object]) -> None:
        """Have the loop call *function* soon, or at once if this is its thread; not, if it ended.

        *function* wakes tasks, and minds nothing else that may be under way in that thread.
        """
        if threading.get_ident() == self._thread:
            function()  # a turn of the loop would be dearer
            return
        # asyncio raises RuntimeError, trio an error derived from it.
        with contextlib.suppress(RuntimeError):
            self._call(function)

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
        self._call_here: Callable[[Callable[[], object]], object]
        self._thread = threading.get_ident()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # then it is trio, or nothing that anyio knows
            trio: Any = import_module("trio")
            self._call = self._call_here = trio.lowlevel.current_trio_token().run_sync_soon
        else:
            self._call, self._call_here = loop.call_soon_threadsafe, loop.call_soon

    def call(self, function: Callable[[], object]) -> None:
        """Have the loop call *function* soon; not, if it has ended."""
        # The loop's own thread need not wake it.
        call = self._call_here if threading.get_ident() == self._thread else self._call
        # asyncio raises RuntimeError, trio an error derived from it.
        with contextlib.suppress(RuntimeError):
            call(function)

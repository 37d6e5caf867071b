"""Caller: calls a function in an event loop from other threads, asyncio's or trio's."""

import contextlib
import os
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from vsync.runtime.loops import asyncio_loop


class Caller:
    """Calls *function* in the event loop in which it was made. Use it from any thread.

    anyio has only ``wait_readable`` for that, which for each news registers a descriptor, takes it
    back and switches to a task: as much work as taking the news. asyncio's own
    ``call_soon_threadsafe`` is for many functions; for one, a counter in the kernel is cheaper.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._thread: int | None = None
        """Where the function may be called at once."""
        self._lock = threading.Lock()
        """Held while ``_counter`` is used: it may be closed, and mean something else then."""
        self._counter = -1
        self._loop = asyncio_loop()
        self._call_soon: Callable[[Callable[[], object]], object] | None = None
        if self._loop is None:
            trio: Any = import_module("trio")
            self._call_soon = trio.lowlevel.current_trio_token().run_sync_soon
        else:
            self._thread = threading.get_ident()
            self._counter = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._loop.add_reader(self._counter, self._called)

    def call(self) -> None:
        """Have the loop call the function soon, or at once if this is its thread.

        Many calls may become one. Nothing happens once the loop has ended, or after ``close``.
        The function wakes tasks, and minds nothing else that may be under way in that thread.
        """
        if threading.get_ident() == self._thread:
            self._function()  # a turn of the loop would be dearer
        elif self._call_soon is not None:
            with contextlib.suppress(RuntimeError):  # trio raises an error derived from it
                self._call_soon(self._function)
        else:
            with self._lock:
                if self._counter >= 0:
                    os.eventfd_write(self._counter, 1)

    def _called(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._counter)
        self._function()

    def close(self) -> None:
        """Call nothing any more. To be used in the loop's thread; may be called twice."""
        with self._lock:
            counter, self._counter = self._counter, -1
        if counter >= 0 and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                self._loop.remove_reader(counter)
            os.close(counter)

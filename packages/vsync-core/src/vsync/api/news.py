"""News: what tasks wait for, again and again."""

import asyncio

import anyio

from vsync.runtime.loops import asyncio_loop


class News:
    """Wakes all who wait for it. To be used in one event loop.

    Who waits looks first whether there is something, with no ``await`` between: news that nobody
    waits for is forgotten, and costs nothing.
    """

    __slots__ = ("_event", "_waiting")

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        """Who waits, under asyncio: an event of anyio's takes twice as long."""
        self._event: anyio.Event | None = None
        """For those who wait under trio."""

    async def wait(self) -> None:
        """Wait until ``tell`` is called."""
        loop = asyncio_loop()
        if loop is None:
            event = self._event
            if event is None:
                event = self._event = anyio.Event()
            await event.wait()
            return
        told = loop.create_future()
        self._waiting.append(told)
        try:
            await told
        except BaseException:
            if told in self._waiting:
                self._waiting.remove(told)
            raise

    def tell(self) -> None:
        """Wake all who wait now."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for told in waiting:
                if not told.done():  # else it was cancelled in this turn of the loop
                    told.set_result(None)
        elif self._event is not None:
            event, self._event = self._event, None
            event.set()

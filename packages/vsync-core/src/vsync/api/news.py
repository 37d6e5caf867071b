"""News: what tasks wait for, again and again."""

import anyio


class News:
    """Wakes all who wait for it. To be used in one event loop.

    Who waits looks first whether there is something, with no ``await`` between: news that nobody
    waits for is forgotten, and costs nothing.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    async def wait(self) -> None:
        """Wait until ``tell`` is called."""
        event = self._event
        if event is None:
            event = self._event = anyio.Event()
        await event.wait()

    def tell(self) -> None:
        """Wake all who wait now."""
        event = self._event
        if event is not None:
            self._event = None
            event.set()

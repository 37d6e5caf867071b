"""Room: senders of one priority take turns for the bytes that may wait for a place in the order.

Each priority has its own, so what a plug or a slow reader holds never stands before the messages
that are to end just that: a service's state transfer above all.
"""

from collections import deque
from typing import TYPE_CHECKING

import anyio

from vsync.errors import WouldBlock
from vsync.vocabulary import Priority

if TYPE_CHECKING:
    from vsync.api.node import Node


class Room:
    """The room of one priority at a node."""

    def __init__(self, node: "Node", priority: Priority) -> None:
        self._node = node
        self._priority = priority
        self._waiting: deque[anyio.Event] = deque()
        self._full_since: float | None = None

    async def wait(self, size: int) -> None:
        """Wait, in turn, until *size* more bytes may be submitted."""
        if not self._waiting and self._has(size):
            return
        node = self._node
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            if self._waiting[0] is not turn:
                await turn.wait()
            while not self._has(size):
                node._driver.want_room(self._priority, max(0, node.send_queue_bytes - size))
                await node._news.wait()
        finally:
            first = self._waiting[0] is turn
            self._waiting.remove(turn)
            if first and self._waiting:
                self._waiting[0].set()

    def check(self, size: int) -> None:
        """Raise WouldBlock if *size* more bytes may not be submitted at once."""
        if self._waiting or not self._has(size):
            engine = self._node._driver.engine
            blocked_by = engine.blocked_by
            if blocked_by is not None:
                raise WouldBlock(blocked_by, engine.blocked_since)
            since = self._full_since
            raise WouldBlock(None, self._node._now() if since is None else since)

    def _has(self, size: int) -> bool:
        node = self._node
        if node._driver.ended:
            raise node._driver.end_error()
        unsent = node._driver.unsent_bytes(self._priority)
        if unsent == 0 or unsent + size <= node.send_queue_bytes:
            self._full_since = None
            return True
        if self._full_since is None:
            self._full_since = node._now()
        return False

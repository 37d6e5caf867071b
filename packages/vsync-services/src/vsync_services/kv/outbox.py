"""What the kv service sends and saves, beside being told things: a delivery never waits for room.

Three tasks, so that none holds up another: what is sent at RECOVERY priority and saved, in its
order; commands; and the map, to those who lack it.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, Generic, TypeVar

import anyio

from vsync.errors import MessageTooLarge
from vsync.service import ServiceContext
from vsync.vocabulary import Guarantee, Priority
from vsync_services.kv.replica import Save, Send

CHUNK_OVERHEAD_BYTES: Final = 256
"""More than what a chunk has beside the part of the map."""

Messages = Callable[[int], Iterator[bytes]]

Work = TypeVar("Work")


class Outbox:
    """Work for the three tasks of ``run``.

    *saved* is called with the configuration of a ``Save`` once it is on disk; *too_large* with the
    number of a command that the ring does not take, and why.
    """

    def __init__(
        self,
        context: ServiceContext,
        chunk_bytes: int,
        saved: Callable[[str], None],
        too_large: Callable[[int, MessageTooLarge], None],
    ) -> None:
        self._context = context
        self._chunk_bytes = chunk_bytes
        self._saved = saved
        self._too_large = too_large
        self._recovery: _Queue[Send | Save] = _Queue()
        self._commands: _Queue[Send] = _Queue()
        self._maps: _Queue[Messages] = _Queue()
        self._transfer: anyio.CancelScope | None = None

    async def run(self) -> None:
        """Do the work."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._recovery.work, self._recover)
            tasks.start_soon(self._commands.work, self._send_command)
            tasks.start_soon(self._maps.work, self._send_map)

    def put(self, work: Send | Save) -> None:
        """Send or save this, in its turn."""
        if isinstance(work, Send) and work.number is not None:
            self._commands.put(work)
        else:
            assert isinstance(work, Save) or work.priority is Priority.RECOVERY
            self._recovery.put(work)

    def transfer(self, messages: Messages) -> None:
        """Send a map."""
        self._maps.put(messages)

    def stop_transfer(self) -> None:
        """The configuration has changed: nobody waits for that map any more."""
        self._maps.clear()
        if self._transfer is not None:
            self._transfer.cancel()

    async def _recover(self, work: Send | Save) -> None:
        if isinstance(work, Save):
            await self._context.save(work.data)
            self._saved(work.configuration)
        else:
            await self._context.send(work.payload, guarantee=work.guarantee, priority=work.priority)

    async def _send_command(self, command: Send) -> None:
        assert command.number is not None
        try:
            await self._context.send(
                command.payload, guarantee=command.guarantee, priority=command.priority
            )
        except MessageTooLarge as error:
            self._too_large(command.number, error)

    async def _send_map(self, messages: Messages) -> None:
        with anyio.CancelScope() as self._transfer:
            try:
                await self._send_all(messages(self._chunk_bytes))
            except MessageTooLarge as error:
                # Then it was the first one. The ring's limit is not known before.
                smaller = error.limit_bytes - CHUNK_OVERHEAD_BYTES
                if smaller < 1:
                    raise
                await self._send_all(messages(smaller))
        self._transfer = None

    async def _send_all(self, messages: Iterator[bytes]) -> None:
        for message in messages:
            await self._context.send(
                message, guarantee=Guarantee.AGREED, priority=Priority.RECOVERY
            )


class _Queue(Generic[Work]):
    """Work that is done in its order, one after another."""

    def __init__(self) -> None:
        self._waiting: deque[Work] = deque()
        self._some = anyio.Event()

    def put(self, work: Work) -> None:
        self._waiting.append(work)
        self._some.set()

    def clear(self) -> None:
        self._waiting.clear()

    async def work(self, do: Callable[[Work], Awaitable[None]]) -> None:
        while True:
            while self._waiting:
                await do(self._waiting.popleft())
            self._some = anyio.Event()
            await self._some.wait()

"""Readiness: a flag that ``select``, ``poll`` and an event loop can wait for."""

import contextlib
import socket

import anyio


class Readiness:
    """Its descriptor is readable exactly while the flag is set.

    One lock, the owner's, is held by whoever calls ``set``, ``clear`` or ``close``.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._is_set = False
        self._closed = False

    def set(self) -> None:
        """Make the descriptor readable. Costs a system call only if it was not."""
        if not (self._is_set or self._closed):
            self._is_set = True
            self._writer.send(b"\0")

    def clear(self) -> None:
        """Make it not readable."""
        if self._is_set and not self._closed:
            self._is_set = False
            self._reader.recv(1)

    def fileno(self) -> int:
        """The descriptor; only to wait for, nobody else reads it."""
        return self._reader.fileno()

    async def wait(self) -> None:
        """Wait until it is set; for one task of one event loop."""
        with contextlib.suppress(anyio.ClosedResourceError):
            await anyio.wait_readable(self._reader)

    def close(self) -> None:
        """Give the descriptors back. Who still polls them sees a hang-up."""
        self._closed = True
        self._writer.close()
        self._reader.close()

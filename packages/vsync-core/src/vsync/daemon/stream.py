"""Unix stream sockets under any event loop, on ``anyio.wait_readable`` and ``wait_writable``.

anyio's own stream for Unix sockets lets asyncio report an InvalidStateError when a receive is
cancelled in the very turn of the loop in which data comes (seen with 4.16); ending a session does
just that.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Self

import anyio
import anyio.lowlevel

BACKLOG = 128


class Stream:
    """One connection. Raises EndOfStream when the other side is gone, ClosedResourceError when
    this side is."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected

    async def receive(self, bytes_max: int) -> bytes:
        """What has come, at least a byte."""
        while True:
            try:
                data = self._socket.recv(bytes_max)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except OSError as error:
                raise self._ended() from error
            else:
                await anyio.lowlevel.checkpoint()
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, data: bytes) -> None:
        """Hand all of *data* over."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise self._ended() from error
        await anyio.lowlevel.checkpoint()

    def _ended(self) -> Exception:
        return anyio.ClosedResourceError() if self._socket.fileno() < 0 else anyio.EndOfStream()

    def close(self) -> None:
        """Close this side; whoever waits is told."""
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


async def connect_stream(place: str) -> Stream:
    """Connect to the Unix socket *place*. Raises OSError."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        while True:
            try:
                connecting.connect(place)
                break
            except BlockingIOError:  # its backlog is full
                await anyio.sleep(0.01)
    except BaseException:
        connecting.close()
        raise
    return Stream(connecting)


def listen(place: str) -> socket.socket:
    """A listening Unix socket at *place*, for this user alone. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        mask = os.umask(0o177)
        try:
            listener.bind(place)
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


async def accept(
    listener: socket.socket, handle: Callable[[Stream], Coroutine[Any, Any, None]]
) -> None:
    """Handle each connection in a task of its own, until cancelled."""
    async with anyio.create_task_group() as tasks:
        while True:
            try:
                connected, _ = listener.accept()
            except BlockingIOError:
                await anyio.wait_readable(listener)
            except OSError:  # too many files are open, or the client has gone already
                await anyio.sleep(0.05)
            else:
                with contextlib.ExitStack() as unless_handled:
                    unless_handled.callback(connected.close)
                    tasks.start_soon(handle, Stream(connected))
                    unless_handled.pop_all()
                await anyio.lowlevel.checkpoint()

"""Unix stream sockets under any event loop, on ``anyio.wait_readable`` and ``wait_writable``.

anyio's own stream for Unix sockets lets asyncio report an InvalidStateError when a receive is
cancelled in the very turn of the loop in which data comes (seen with 4.16); ending a session does
just that.
"""

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice
from typing import Any, Final, Self

import anyio
import anyio.lowlevel

from vsync.api.news import News

BACKLOG: Final = 1024
"""Callers that may wait to be let in; the system's ``somaxconn`` bounds it, too."""

WRITE_BYTES: Final = 2**18
"""About how much is handed to the kernel at once."""

WRITE_PARTS: Final = 256
"""In as many pieces at most; Linux takes 1024."""

SEND_BUFFER_BYTES: Final = 2**21
"""What the kernel may keep of what was written: with little, the two sides take turns for each of
a few large messages."""

OUTGOING_BYTES_MAX: Final = 2**19
"""As much may wait to be written before ``Outgoing.room`` waits."""


class Stream:
    """One connection. Raises EndOfStream when the other side is gone, ClosedResourceError when
    this side is."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        # As far as the system lets us (net.core.wmem_max).
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.socket = connected

    async def receive(self, bytes_max: int) -> bytes:
        """What has come, at least a byte."""
        while True:
            try:
                data = self.socket.recv(bytes_max)
            except BlockingIOError:
                await anyio.wait_readable(self.socket)
            except OSError as error:
                raise self._ended() from error
            else:
                await anyio.lowlevel.checkpoint()
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send_some(self, data: bytes | memoryview) -> int:
        """Hand some of *data* over; how many bytes. Who is cancelled has handed none over."""
        while True:
            try:
                return self.socket.send(data)
            except BlockingIOError:
                await anyio.wait_writable(self.socket)
            except OSError as error:
                raise self._ended() from error

    async def send_parts(self, parts: Sequence[bytes | memoryview]) -> int:
        """As ``send_some``, for what stands in several pieces."""
        while True:
            try:
                return self.socket.sendmsg(parts)
            except BlockingIOError:
                await anyio.wait_writable(self.socket)
            except OSError as error:
                raise self._ended() from error

    async def send(self, data: bytes) -> None:
        """Hand all of *data* over."""
        view = memoryview(data)
        while view:
            view = view[await self.send_some(view) :]
        await anyio.lowlevel.checkpoint()

    def _ended(self) -> Exception:
        return anyio.ClosedResourceError() if self.socket.fileno() < 0 else anyio.EndOfStream()

    def close(self) -> None:
        """Close this side; whoever waits is told."""
        if self.socket.fileno() >= 0:
            anyio.notify_closing(self.socket)
            self.socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


class Outgoing:
    """What is to be written to a stream, in order.

    Who is cancelled while it writes leaves no frame cut: the next who writes goes on in it.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._parts: deque[bytes | memoryview] = deque()
        self._news = News()
        self._room = anyio.Event()
        self.bytes = 0
        """How much waits."""

    def put(self, *parts: bytes | memoryview) -> None:
        """Have *parts* written in their turn. Does not wait: see ``room``."""
        self._parts.extend(parts)
        self.bytes += sum(map(len, parts))
        self._news.tell()

    async def room(self) -> None:
        """Wait until not too much waits."""
        while self.bytes > OUTGOING_BYTES_MAX:
            if self._room.is_set():  # else others wait for it already
                self._room = anyio.Event()
            await self._room.wait()

    async def flush(self) -> None:
        """Write all that waits. One task at a time."""
        while self.bytes:
            self._forget(await self._stream.send_parts(self._next()))
            if self.bytes <= OUTGOING_BYTES_MAX:
                self._room.set()

    def _next(self) -> list[bytes | memoryview]:
        """The next parts, as many as go well together; they still wait."""
        parts: list[bytes | memoryview] = []
        size = 0
        for part in islice(self._parts, WRITE_PARTS):
            parts.append(part)
            size += len(part)
            if size >= WRITE_BYTES:
                break
        return parts

    def _forget(self, sent: int) -> None:
        """So many bytes of what waited were handed over."""
        self.bytes -= sent
        parts = self._parts
        while sent and sent >= len(parts[0]):
            sent -= len(parts.popleft())
        if sent:
            parts[0] = memoryview(parts[0])[sent:]

    async def run(self) -> None:
        """Write whatever comes, until cancelled."""
        while True:
            await self.flush()
            if not self.bytes:
                await self._news.wait()


async def connect_stream(place: str) -> Stream:
    """Connect to the Unix socket *place*, as soon as it takes another caller. Raises OSError."""
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


def listen(place: str, mode: int) -> socket.socket:
    """A listening Unix socket at *place*, whose file has *mode*. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        mask = os.umask(0o777 & ~mode)
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

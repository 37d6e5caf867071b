"""Unix stream sockets under any event loop, on ``anyio.wait_readable`` and ``wait_writable``.

anyio's own stream for Unix sockets lets asyncio report an InvalidStateError when a receive is
cancelled in the very turn of the loop in which data comes (seen with 4.16); ending a session does
just that.
"""

import asyncio
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
from vsync.runtime.loops import asyncio_loop

BACKLOG: Final = 1024
"""Callers that may wait to be let in; the system's ``somaxconn`` bounds it, too."""

READ_BYTES: Final = 2**18
"""As much is read at once, at most."""

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
        self._reading: asyncio.Future[None] | None = None
        """Of the one who waits in ``read``, under asyncio."""

    async def receive(self, bytes_max: int) -> bytes:
        """What has come, at least a byte."""
        space = bytearray(bytes_max)
        while not (size := self.read_into(space)):
            await anyio.wait_readable(self.socket)
        await anyio.lowlevel.checkpoint()
        return bytes(space[:size])

    def read_into(self, space: bytearray) -> int:
        """Put what has come to the beginning of *space*; how many bytes, 0 if there are none."""
        try:
            size = self.socket.recv_into(space)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._ended() from error
        if not size:
            raise anyio.EndOfStream
        return size

    async def read(self, take: Callable[[], bool]) -> None:
        """Call *take* whenever something may have come, until it gives False; raises what it does.

        It must not close the stream. asyncio calls it with no task in between, and the socket is
        registered once: half of what a small read costs otherwise.
        """
        loop = asyncio_loop()
        if loop is None:
            while take():
                await anyio.wait_readable(self.socket)
            return
        ended = self._reading = loop.create_future()

        def called() -> None:
            if ended.done():  # it was cancelled in this turn of the loop
                return
            try:
                if take():
                    return
            except BaseException as error:
                ended.set_exception(error)
            else:
                ended.set_result(None)
            self._stop_reading()

        loop.add_reader(self.socket, called)
        try:
            await ended
        finally:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reading is not None and self.socket.fileno() >= 0:
            self._reading.get_loop().remove_reader(self.socket)
        self._reading = None

    def write(self, parts: Sequence[bytes | memoryview]) -> int:
        """Hand some of *parts* over; how many bytes, 0 if there is no room."""
        try:
            return self.socket.sendmsg(parts)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._ended() from error

    async def wait_writable(self) -> None:
        """Wait until there may be room."""
        await anyio.wait_writable(self.socket)

    async def send(self, data: bytes) -> None:
        """Hand all of *data* over."""
        view = memoryview(data)
        while view:
            sent = self.write([view])
            if not sent:
                await self.wait_writable()
            view = view[sent:]
        await anyio.lowlevel.checkpoint()

    def _ended(self) -> Exception:
        return anyio.ClosedResourceError() if self.socket.fileno() < 0 else anyio.EndOfStream()

    def close(self) -> None:
        """Close this side; whoever waits is told."""
        if self.socket.fileno() >= 0:
            anyio.notify_closing(self.socket)
            reading = self._reading
            self._stop_reading()
            self.socket.close()
            if reading is not None and not reading.done():
                reading.set_exception(anyio.ClosedResourceError())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


class Outgoing:
    """What is to be written to a stream, in order."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._parts: deque[bytes | memoryview] = deque()
        self._news = News()
        self._room = anyio.Event()
        self._waits = False
        """``run`` or ``flush`` waits until the stream has room."""
        self._error: Exception | None = None
        self.bytes = 0
        """How much waits."""

    def put(self, *parts: bytes | memoryview) -> None:
        """Have *parts* written in their turn, with what else is put before ``run`` gets to it.

        Does not wait: see ``room``.
        """
        self._parts.extend(parts)
        self.bytes += sum(map(len, parts))
        self._news.tell()

    def write(self, *parts: bytes | memoryview) -> None:
        """As ``put``, but at once, as far as the stream takes it; ``run`` writes the rest."""
        self._parts.extend(parts)
        self.bytes += sum(map(len, parts))
        if not self._waits:
            self._write()
            if self.bytes:
                self._news.tell()

    async def room(self) -> None:
        """Wait until not too much waits."""
        while self.bytes > OUTGOING_BYTES_MAX:
            if self._room.is_set():  # else others wait for it already
                self._room = anyio.Event()
            await self._room.wait()

    async def flush(self) -> None:
        """Write all that waits. One task at a time. Raises what the stream does."""
        while self.bytes:
            self._write()
            if self._error is not None:
                raise self._error
            if self.bytes:
                self._waits = True
                try:
                    await self._stream.wait_writable()
                finally:
                    self._waits = False

    def _write(self) -> None:
        """Write what the stream takes now; what it raises, ``flush`` does."""
        try:
            while self.bytes and (sent := self._stream.write(self._next())):
                self._forget(sent)
        except (anyio.ClosedResourceError, anyio.EndOfStream) as error:
            self._error = error
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

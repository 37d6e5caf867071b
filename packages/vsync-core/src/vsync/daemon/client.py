"""Client: a session on a node that runs in another process of this machine."""

import json
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import anyio.lowlevel

from vsync.api.session import Session
from vsync.daemon import protocol
from vsync.daemon.protocol import DAEMON_PROTOCOL, FrameReader, Type
from vsync.daemon.stream import Stream, connect_stream
from vsync.errors import DaemonError, MessageTooLarge, ServiceFailed, WouldBlock
from vsync.events import ConfigurationChanged, Delivery, Event
from vsync.settings import MESSAGE_BYTES_LIMIT
from vsync.vocabulary import (
    Configuration,
    GroupKey,
    Guarantee,
    Member,
    MessageId,
    NodeId,
    Priority,
)

RECEIVE_BYTES: Final = 2**18
WELCOME_S: Final = 10.0
"""How long the daemon may take to answer HELLO."""

EVENTS_BYTES_MAX: Final = 32 * 2**20
"""Bytes of events that wait here before reading stops, and the daemon has to wait."""

REQUESTS_BYTES_MAX: Final = 2**20
"""Bytes of requests that wait here to be sent before the next one has to wait."""


class DaemonSession(Session):
    """A session through a daemon. Made by ``connect``."""

    def __init__(self, stream: Stream, place: str) -> None:
        super().__init__()
        self._stream = stream
        self._place = place
        self._reader = FrameReader(MESSAGE_BYTES_LIMIT + protocol.FRAME_EXTRA_BYTES)
        self._asking = anyio.Lock()
        self._answers: deque[_Answer] = deque()
        self._requests: list[bytes] = []
        self._requests_bytes = 0
        self._requests_wait = anyio.Event()
        self._requests_room = anyio.Event()
        self._events: list[Event] = []
        self._events_bytes = 0
        self._news = anyio.Event()
        self._room = anyio.Event()
        self._configuration: Configuration | None = None
        self._end: Exception | None = None
        self._node = NodeId(0)
        self._life = 0
        self._message_bytes_max = 0

    @property
    def node(self) -> NodeId:
        """The id of the node behind the daemon."""
        return self._node

    async def _take(self) -> Sequence[Event]:
        await anyio.lowlevel.checkpoint()  # before taking: who is cancelled must have taken nothing
        while True:
            if self._events:
                batch, self._events = self._events, []
                self._events_bytes = 0
                self._room.set()
                return batch
            if self._end is not None:
                raise self._end
            self._news = anyio.Event()
            await self._news.wait()

    async def status(self) -> Mapping[str, Any]:
        body = await self._ask(protocol.frame(Type.STATUS), Type.STATUS_IS)
        status: dict[str, Any] = json.loads(body)
        return status

    @property
    def member(self) -> Member:
        return Member(self._node, 0)

    async def request(self, service: str, body: bytes) -> bytes:
        raise ServiceFailed("this daemon passes no requests on")

    def _send_nowait(
        self,
        groups: tuple[GroupKey, ...],
        payload: bytes,
        guarantee: Guarantee,
        priority: Priority,
    ) -> None:
        raise WouldBlock(None, 0.0)

    async def _join(self, groups: Sequence[GroupKey], closed: bool) -> None:
        await self._set_groups({*self._joined, *groups})

    async def _leave(self, groups: Sequence[GroupKey]) -> None:
        await self._set_groups(set(self._joined).difference(groups))

    async def _set_groups(self, groups: set[GroupKey]) -> None:
        keys = sorted(group.key for group in groups)
        await self._ask(protocol.build(Type.GROUPS, protocol.GROUPS, groups=keys), Type.DONE)

    async def _send(
        self,
        groups: tuple[GroupKey, ...],
        payloads: list[bytes],
        guarantee: Guarantee,
        priority: Priority,
    ) -> list[MessageId]:
        for payload in payloads:
            if len(payload) > self._message_bytes_max:
                raise MessageTooLarge(len(payload), self._message_bytes_max)
        sent: list[MessageId] = []
        for part in _parts(payloads):
            request = protocol.send_frame(groups, part, guarantee, priority)
            answer = await self._ask(request, Type.ACCEPTED)
            first, count = protocol.parse_accepted(answer)
            sent += [
                MessageId(self._node, self._life, priority, counter)
                for counter in range(first, first + count)
            ]
        return sent

    async def _ask(self, request: bytes, answer_type: Type) -> bytes:
        """Have *request* sent; the body of its answer.

        Who is cancelled while the answer is on its way has asked all the same.
        """
        answer = _Answer(answer_type)
        async with self._asking:  # it is fair, so those who wait go in their order
            while self._requests_bytes > REQUESTS_BYTES_MAX and self._end is None:
                self._requests_room = anyio.Event()
                await self._requests_room.wait()
            if self._end is not None:
                raise self._end
            self._answers.append(answer)
            self._requests.append(request)
            self._requests_bytes += len(request)
            self._requests_wait.set()
        await answer.came.wait()
        if answer.body is None:
            raise self._end or self._lost()
        return answer.body

    def _lost(self) -> DaemonError:
        return DaemonError(f"the daemon at {self._place} has closed the connection")

    async def _greet(self) -> None:
        hello = protocol.build(Type.HELLO, protocol.HELLO, protocol=DAEMON_PROTOCOL)
        welcome = _Answer(Type.WELCOME)
        self._answers.append(welcome)
        try:
            with anyio.move_on_after(WELCOME_S):
                await self._stream.send(hello)
                while welcome.body is None and self._end is None:
                    await self._take_some()
        except (anyio.ClosedResourceError, anyio.EndOfStream):
            self._end = self._end or self._lost()
        if self._end is not None:
            raise self._end
        if welcome.body is None:
            raise DaemonError(f"{self._place} does not answer as a vsync daemon would")
        fields = protocol.parse(protocol.WELCOME, welcome.body)
        self._node, self._life = NodeId(fields.node), fields.life
        self._message_bytes_max = fields.message_bytes_max

    async def _write(self) -> None:
        """Send requests, all that wait at once.

        It is the only one that does, so nobody who is cancelled leaves half a frame behind.
        """
        try:
            while True:
                while not self._requests:
                    self._requests_wait = anyio.Event()
                    await self._requests_wait.wait()
                requests, self._requests = self._requests, []
                self._requests_bytes = 0
                self._requests_room.set()
                await self._stream.send(requests[0] if len(requests) == 1 else b"".join(requests))
        except (anyio.ClosedResourceError, anyio.EndOfStream):
            return  # the reader learns why

    async def _read(self) -> None:
        """Take in what the daemon says, until it ends."""
        try:
            while self._end is None:
                await self._take_some()
                while self._events_bytes > EVENTS_BYTES_MAX:
                    self._room = anyio.Event()
                    await self._room.wait()
        except (anyio.ClosedResourceError, anyio.EndOfStream):
            self._end = self._end or self._lost()
        except DaemonError as error:
            self._end = error
        finally:
            self._finish()

    def _finish(self) -> None:
        """Nothing more will come: let nobody wait for it."""
        self._end = self._end or DaemonError(f"the session at {self._place} is closed")
        self._news.set()
        self._requests_room.set()
        for answer in self._answers:
            answer.came.set()
        self._answers.clear()

    async def _take_some(self) -> None:
        for kind, body in self._reader.feed(await self._stream.receive(RECEIVE_BYTES)):
            self._take_frame(kind, body)
        self._news.set()

    def _take_frame(self, kind: int, body: bytes) -> None:
        match kind:
            case Type.DELIVERY if self._configuration is not None:
                delivery: Delivery = protocol.parse_delivery(body, self._configuration)
                self._events.append(delivery)
                self._events_bytes += len(body)
            case Type.CONFIGURATION:
                self._configuration = protocol.parse_configuration(body)
                self._events.append(ConfigurationChanged(self._configuration))
                self._events_bytes += len(body)
            case Type.ERROR:
                text = protocol.parse(protocol.ERROR, body).text
                self._end = DaemonError(f"the daemon at {self._place} ends this session: {text}")
            case _ if self._answers and kind == self._answers[0].type:
                answer = self._answers.popleft()
                answer.body = body
                answer.came.set()
            case _:
                raise DaemonError(f"the daemon sent a frame of type {kind} that nobody asked for")


class _Answer:
    """An answer that is waited for."""

    def __init__(self, answer_type: Type) -> None:
        self.type = answer_type
        self.body: bytes | None = None
        self.came = anyio.Event()


def _parts(payloads: Sequence[bytes]) -> list[list[bytes]]:
    """*payloads* in parts that fit a frame each."""
    parts: list[list[bytes]] = []
    size = 0
    for payload in payloads:
        if not parts or size + len(payload) + 4 > protocol.BATCH_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(payload)
        size += len(payload) + 4
    return parts


@asynccontextmanager
async def connect(path: str | os.PathLike[str]) -> AsyncIterator[DaemonSession]:
    """Connect to the daemon at the Unix socket *path*: ``async with connect(…) as session``.

    Raises DaemonError if nobody serves there, or if the daemon speaks another version; later, from
    the session's methods, if the connection ends.
    """
    place = os.fspath(path)
    try:
        stream = await connect_stream(place)
    except OSError as error:
        raise DaemonError(
            f"no daemon answers at {place}: {error.strerror or error}; is `vsync run` running, and "
            "is this its socket?"
        ) from error
    session = DaemonSession(stream, place)
    failure: BaseException | None = None
    async with stream:
        await session._greet()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session._read)
            tasks.start_soon(session._write)
            try:
                yield session
            except BaseException as error:
                # Raised below, outside the task group, so that it comes as it is.
                failure = error
            tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure

"""Client: a session on a node that runs in another process of this machine."""

import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import anyio.lowlevel

from vsync.api.news import News
from vsync.api.parts import parts_of
from vsync.api.session import Session
from vsync.daemon import protocol
from vsync.daemon.link import Asked, Destination, Link
from vsync.daemon.protocol import DAEMON_PROTOCOL, SLOW_POLICIES, Type
from vsync.daemon.stream import READ_BYTES, connect_stream
from vsync.errors import (
    DaemonError,
    DaemonLost,
    DuplicateNode,
    MessageTooLarge,
    MisuseError,
    NodeClosed,
    ServiceFailed,
    StateFailed,
    TraceFailed,
    TransportFailed,
    Undelivered,
    VsyncError,
    WouldBlock,
)
from vsync.events import Disconnected, Event
from vsync.vocabulary import (
    GroupKey,
    Guarantee,
    Member,
    MessageId,
    MessageIds,
    NodeId,
    Priority,
    SlowPolicy,
)

CONNECT_S: Final = 10.0
"""How long it may take to be let in and to be answered."""

LEAVE_S: Final = 2.0
"""How long the daemon may take to let a client go."""

WINDOW_BYTES: Final = 2**22
"""Bytes of events that wait in this process, at most; the others wait at the daemon."""

BATCH_BYTES: Final = READ_BYTES - 2**13
"""As much a SEND carries at most, unless one message is larger; it is read at once, with its
lengths."""

BACKOFF_S: Final = 0.05
BACKOFF_MAX_S: Final = 2.0
"""How long to wait before the daemon is looked for again: doubled each time, up to the second."""

REFUSALS_MAX: Final = 256
"""Groups whose messages were refused after ``send_nowait``, that are remembered."""


class DaemonSession(Session):
    """A session through a daemon. Made by ``connect``."""

    def __init__(self, place: str, hello: bytes, window_bytes: int, reconnect: bool) -> None:
        super().__init__()
        self._place = place
        self._hello = hello
        self._window_bytes = window_bytes
        self._reconnect = reconnect
        self._events: list[Event] = []
        self._events_bytes = 0
        """Of those that came over the link that there is now."""
        self._news = News()
        self._link: Link | None = None
        self._member = Member(NodeId(0), 0)
        self._message_bytes_max = 0
        self._rejoining_since: float | None = None
        self._rejoined = anyio.Event()
        self._refused: dict[Destination, VsyncError] = {}
        self._end: VsyncError | None = None

    @property
    def node(self) -> NodeId:
        """The id of the node behind the daemon."""
        return self._member.node

    @property
    def member(self) -> Member:
        return self._member

    @property
    def message_bytes_max(self) -> int:
        return self._message_bytes_max

    async def _take(self) -> Sequence[Event]:
        if self._events or self._end is not None:  # else it waits below
            # Before taking: who is cancelled must have taken nothing.
            await anyio.lowlevel.checkpoint()
        while True:
            if self._events:
                batch, self._events = self._events, []
                self._tell_taken()
                return batch
            if self._end is not None:
                raise self._end.with_traceback(None)
            await self._news.wait()

    def _tell_taken(self) -> None:
        """Let the daemon know that all that has come was taken, if it can be told yet."""
        if self._link is not None:
            self._link.taken(self._events_bytes)
            self._events_bytes = 0

    async def status(self) -> Mapping[str, Any]:
        link = await self._ready_link()
        status: dict[str, Any] = json.loads(await link.ask(Type.STATUS))
        return status

    async def command(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Have the node itself do something: ``reload`` or ``rotate_key``; its answer.

        Only root and the user who runs the node may. Raises what the node does; NotAllowed.
        """
        link = await self._ready_link()
        packed = json.dumps(arguments).encode()
        answer: dict[str, Any] = json.loads(
            await link.ask(Type.COMMAND, name=name, arguments=packed)
        )
        return answer

    async def request(self, service: str, body: bytes) -> bytes:
        link = await self._ready_link()
        if len(service.encode()) > protocol.NAME_BYTES_MAX:
            raise ServiceFailed(f"no service has a name of {len(service)} characters")
        if len(body) > link.message_bytes_max:
            raise MessageTooLarge(len(body), link.message_bytes_max)
        answer: bytes = await link.ask(Type.REQUEST, service=service, body=body)
        return answer

    async def _join(self, groups: Sequence[GroupKey], closed: bool) -> None:
        await self._join_over(await self._ready_link(), groups, closed)

    @staticmethod
    async def _join_over(link: Link, groups: Sequence[GroupKey], closed: bool) -> None:
        for keys in _key_parts(groups):
            await link.ask(Type.JOIN, closed=closed, groups=keys)

    async def _leave(self, groups: Sequence[GroupKey]) -> None:
        link = await self._ready_link()
        for keys in _key_parts(groups):
            await link.ask(Type.LEAVE, groups=keys)

    async def _send(
        self,
        groups: Destination,
        payloads: list[bytes],
        guarantee: Guarantee,
        priority: Priority,
    ) -> Sequence[MessageId]:
        link = await self._ready_link()
        _check(payloads, link)
        asked: list[Asked] = []
        for part in parts_of(payloads, BATCH_BYTES):
            asked.append(await link.send(groups, part, guarantee, priority))
        sent: list[MessageIds] = []
        for each in asked:
            first, count = await each.wait()
            counters = range(first, first + count)
            sent.append(MessageIds(link.member.node, link.life, priority, counters))
        return MessageIds.joined(sent)

    def _send_nowait(
        self, groups: Destination, payload: bytes, guarantee: Guarantee, priority: Priority
    ) -> None:
        link = self._open_link()
        if self._rejoining_since is not None:
            raise WouldBlock(None, self._rejoining_since)
        if groups in self._refused:
            raise self._refused.pop(groups)
        _check([payload], link)
        link.send_nowait(groups, payload, guarantee, priority)

    def _remember_refusal(self, groups: Destination, error: VsyncError) -> None:
        if len(self._refused) < REFUSALS_MAX:
            self._refused[groups] = error

    # --- the connection -------------------------------------------------------------------------

    def _open_link(self) -> Link:
        """The connection that there is. Raises DaemonLost, or what ended the session."""
        if self._end is not None:
            raise self._end.with_traceback(None)
        if self._link is None:
            raise DaemonLost(
                f"the daemon at {self._place} is not there at the moment; it is looked for, and "
                "this session's stream goes on when it is back"
            )
        over = self._link.end or self._link.evicted
        if over is not None:
            raise over.with_traceback(None)
        return self._link

    async def _ready_link(self) -> Link:
        """As ``_open_link``, once the groups are joined again, if it is another one."""
        link = self._open_link()
        while self._rejoining_since is not None:
            await self._rejoined.wait()
            link = self._open_link()
        return link

    def _put(self, events: Sequence[Event], size: int) -> None:
        self._events += events
        self._events_bytes += size
        self._news.tell()

    async def _find(self) -> Link:
        """Connect to the daemon. Raises DaemonError, or what it refuses with."""
        try:
            with anyio.fail_after(CONNECT_S):
                stream = await connect_stream(self._place)
                link = Link(
                    stream,
                    self._place,
                    self._window_bytes,
                    tell=self._put,
                    refused=self._remember_refusal,
                )
                try:
                    await link.greet(self._hello)
                except BaseException:
                    stream.close()
                    raise
        except OSError as error:  # TimeoutError too
            if isinstance(error, TimeoutError):
                raise _NotFound(
                    f"{self._place} does not answer as a vsync daemon would: nothing came in "
                    f"{CONNECT_S:g} s"
                ) from error
            raise _NotFound(
                f"no daemon answers at {self._place}: {error.strerror or error}; is `vsync run` "
                "running, and is this its socket?"
            ) from error
        self._link = link
        if not self._events:  # what came with the WELCOME may have been taken already
            self._tell_taken()
        self._member = link.member
        self._message_bytes_max = link.message_bytes_max
        self._refused.clear()
        return link

    async def _live(self) -> None:
        """Have a connection until the session ends."""
        link = self._link
        while link is not None:
            async with anyio.create_task_group() as tasks:
                if self._rejoining_since is not None:
                    tasks.start_soon(self._rejoin, link)
                end = await link.run()
                tasks.cancel_scope.cancel()
            link.close(end)
            link = self._link = None
            self._events_bytes = 0
            if self._end is None and self._reconnect and _is_passing(end):
                self._put([Disconnected(str(end))], 0)
                self._rejoining_since = time.monotonic()
                self._wake_waiting()
                link = await self._find_again()
            else:
                self._finish(end)

    async def _find_again(self) -> Link | None:
        """Look for the daemon until it is there; None if it does not want this session."""
        pause_s = BACKOFF_S
        while True:
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_MAX_S)
            try:
                return await self._find()
            except VsyncError as error:
                if not _is_passing(error):
                    self._finish(error)
                    return None

    async def _rejoin(self, link: Link) -> None:
        """Join over *link* what was joined before it."""
        try:
            for closed in (False, True):
                groups = [group for group, was in self._joined.items() if was is closed]
                await self._join_over(link, groups, closed)
        except DaemonLost:
            return  # and again
        except VsyncError as error:  # a group that was closed is an open one by now
            self._finish(error)
            link.close(error)
        self._rejoining_since = None
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        rejoined, self._rejoined = self._rejoined, anyio.Event()
        rejoined.set()

    def _finish(self, error: VsyncError) -> None:
        """Nothing more will come: let nobody wait for it."""
        if self._end is None:
            self._end = error
        self._news.tell()
        self._wake_waiting()

    async def _leave_daemon(self) -> None:
        if self._link is not None:
            await self._link.leave()

    def _close(self) -> None:
        self._finish(NodeClosed("the session is closed"))
        if self._link is not None:
            self._link.close(NodeClosed("the session is closed"))


class _NotFound(DaemonError):
    """Nobody is there, or nobody who answers; that may change."""


def _is_passing(error: VsyncError) -> bool:
    """Whether it makes sense to connect again after *error*."""
    return isinstance(
        error,
        DaemonLost
        | _NotFound
        | NodeClosed
        | Undelivered
        | DuplicateNode
        | TransportFailed
        | StateFailed
        | TraceFailed,
    )


def _check(payloads: Sequence[bytes], link: Link) -> None:
    largest = max(map(len, payloads), default=0)
    if largest > link.message_bytes_max:
        raise MessageTooLarge(largest, link.message_bytes_max)


def _key_parts(groups: Sequence[GroupKey]) -> Iterator[list[bytes]]:
    """The keys of *groups*, as many as one frame takes at a time."""
    for start in range(0, len(groups), protocol.GROUPS_MAX):
        yield [group.key for group in groups[start : start + protocol.GROUPS_MAX]]


def _hello(
    name: str,
    slow: SlowPolicy | None,
    queue_bytes: int | None,
    spill_bytes: int | None,
    primary: bool,
    window_bytes: int,
) -> bytes:
    if len(name.encode()) > protocol.NAME_BYTES_MAX:
        raise MisuseError(f"a session's name has at most {protocol.NAME_BYTES_MAX} bytes")
    for what, size in (("queue_bytes", queue_bytes), ("spill_bytes", spill_bytes)):
        if size is not None and not 0 <= size < protocol.AS_THE_DAEMON_SAYS:
            raise MisuseError(f"{what} is a number of bytes, not {size}")
    return protocol.build(
        Type.HELLO,
        magic=b"vsync",
        protocol=DAEMON_PROTOCOL,
        slow=0 if slow is None else 1 + SLOW_POLICIES.index(SlowPolicy(slow)),
        queue_bytes=protocol.AS_THE_DAEMON_SAYS if queue_bytes is None else queue_bytes,
        spill_bytes=protocol.AS_THE_DAEMON_SAYS if spill_bytes is None else spill_bytes,
        primary=primary,
        window_bytes=window_bytes,
        name=name,
    )


@asynccontextmanager
async def connect(
    path: str | os.PathLike[str],
    *,
    name: str = "",
    slow: SlowPolicy | None = None,
    queue_bytes: int | None = None,
    spill_bytes: int | None = None,
    primary: bool = False,
    reconnect: bool = False,
) -> AsyncIterator[DaemonSession]:
    """Connect to the daemon at the Unix socket *path*: ``async with connect(…) as session``.

    *name*, *slow*, *queue_bytes*, *spill_bytes* and *primary* are as for ``Node.session``; what is
    not given is as ``[daemon]`` in the node's settings says, which also says what may be asked for.
    At the end of the block the session leaves its groups; when the process dies instead, the others
    see that (``Cause.DIED``).

    When the connection ends, what waits for an answer raises DaemonLost: it may have been done or
    not. Then so does everything else; but with *reconnect* the stream has a ``Disconnected``, the
    daemon is looked for until it is back, the groups are joined again, and the stream goes on with
    the configuration of then. Meanwhile sending raises DaemonLost. The ``member`` is another one.

    Raises DaemonError if nobody serves there, within 10 s, or if the daemon speaks another version
    or refuses; MisuseError for *primary* where no service decides that.

    What the node refuses after ``send_nowait`` has returned (NotMember), the next ``send_nowait``
    to the same groups raises.
    """
    window_bytes = WINDOW_BYTES if queue_bytes is None else max(1, min(WINDOW_BYTES, queue_bytes))
    hello = _hello(name, slow, queue_bytes, spill_bytes, primary, window_bytes)
    session = DaemonSession(os.fspath(path), hello, window_bytes, reconnect)
    await session._find()
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session._live)
            try:
                yield session
            except BaseException as error:
                # Raised below, outside the task group, so that it comes as it is.
                failure = error
            with anyio.move_on_after(LEAVE_S, shield=True):
                await session._leave_daemon()
            tasks.cancel_scope.cancel()
    finally:
        session._close()
    if failure is not None:
        raise failure

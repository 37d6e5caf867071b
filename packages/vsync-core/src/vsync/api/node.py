"""Node: one node of a ring in this process, from ``open_node`` to the end of its block."""

import contextlib
import logging
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel

from vsync.api.session import Session
from vsync.engine import Engine
from vsync.errors import MessageTooLarge, NodeClosed, Undelivered
from vsync.events import Event
from vsync.runtime import Driver, StateStore
from vsync.runtime.driver import MESSAGES_PER_TURN, Submission
from vsync.runtime.mailbox import Mailbox
from vsync.runtime.store import state_directory
from vsync.settings import NodeSettings
from vsync.settings_file import read_settings, transport_of
from vsync.trace import TraceWriter
from vsync.vocabulary import Configuration, GroupKey, Guarantee, MessageId, NodeId, Priority

SEND_QUEUE_BYTES: Final = 8 * 2**20
"""Bytes that may wait for a place in the order before ``send`` waits."""

SESSION_QUEUE_BYTES: Final = 32 * 2**20
"""Bytes that may wait for a session before the ring waits for it, unless the caller says else."""

CLOSE_GRACE_S: Final = 5.0
"""How long, beyond draining, the ring's thread may take to end."""

NO_KEY: Final = (
    "no key configured: packets are neither sealed nor authenticated; "
    "anyone on this network can read and forge them"
)

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Node:
    """One node of a ring. Made by ``open_node``; give it sessions to send and receive."""

    def __init__(self, settings: NodeSettings, trace: Path | None) -> None:
        self.settings = settings
        self._opened_at = time.monotonic()
        self._news = anyio.Event()
        self._sessions: list[NodeSession] = []
        self._senders: deque[anyio.Event] = deque()
        self._told, self._tell = socket.socketpair()
        self._told.setblocking(False)
        self._tell.setblocking(False)
        self.send_queue_bytes = max(SEND_QUEUE_BYTES, 2 * settings.ring.message_bytes_max)
        try:
            self._store = StateStore(
                state_directory(settings.node.state_dir), settings.ring.name, self.id
            )
        except BaseException:
            self._close_sockets()
            raise
        try:
            self._driver = self._make_driver(settings, trace)
        except BaseException:
            self._close_sockets()
            self._store.close()
            raise

    def _make_driver(self, settings: NodeSettings, trace: Path | None) -> Driver:
        kind, transport_settings = transport_of(settings)
        make: Any = kind
        transport = make(transport_settings, node=self.id)
        life = self._store.life
        writer = None
        if trace is not None:
            writer = TraceWriter(trace, node=self.id, life=f"{life:x}")
        try:
            transport.open()
            engine = Engine(
                self.id,
                life,
                settings.ring,
                now=time.monotonic(),
                packet_bytes_max=transport.packet_bytes_max,
                receive_buffer_bytes=transport.receive_buffer_bytes,
                store=self._store,
            )
            if writer is not None:
                writer.start(
                    time.monotonic_ns(),
                    version=version("vsync-core"),
                    transport=settings.ring.transport,
                    ring=settings.ring.name,
                )
                writer.flush()
        except BaseException:
            transport.close()
            if writer is not None:
                writer.close()
            raise
        return Driver(
            engine,
            transport,
            notify=self._notified,
            trace=writer,
            drain_s=settings.node.drain_s,
        )

    @property
    def id(self) -> NodeId:
        """This node's id."""
        return NodeId(self.settings.node.id)

    @property
    def life(self) -> int:
        """The number of this life of the node, which grows with every restart."""
        return self._store.life

    @property
    def configuration(self) -> Configuration | None:
        """The configuration delivered last; a session's stream may be behind it."""
        return self._driver.engine.configuration

    def session(self, *, name: str = "", queue_bytes: int = SESSION_QUEUE_BYTES) -> "NodeSession":
        """A new session, to be used as ``async with node.session() as session``.

        *queue_bytes* may wait in it before the ring waits for it. *name* is for warnings.
        """
        return NodeSession(self, name or str(len(self._sessions) + 1), queue_bytes)

    async def status(self) -> dict[str, Any]:
        """How the node is: what ``vsync status --json`` shows."""
        status = await self._result(self._driver.call(self._driver.status))
        status["version"] = version("vsync-core")
        status["ring"] = self.settings.ring.name
        status["preset"] = self.settings.ring.preset
        status["uptime_s"] = round(time.monotonic() - self._opened_at, 3)
        status["warnings"] = [NO_KEY, *status["warnings"]]
        return status

    # --- for sessions ---------------------------------------------------------------------------

    async def _result(self, future: "Future[Result]") -> Result:
        """What the ring's thread answers."""
        while not future.done():
            await self._news.wait()
        return future.result()

    def _notified(self) -> None:
        """There is news; called in the ring's thread."""
        with contextlib.suppress(OSError):  # full: it is being told; closed: nobody is left
            self._tell.send(b"\0")

    async def _listen(self) -> None:
        """Wake whoever waits for news, once for all that there is, until the thread's last."""
        ended = False
        while not ended:
            await anyio.wait_readable(self._told)
            try:
                self._told.recv(64)
            except BlockingIOError:
                continue
            self._driver.seen()
            ended = self._driver.ended  # asked before waking, so that all who wake learn of it
            self._wake_all()

    def _wake_all(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    async def _open(self) -> None:
        self._driver.start()
        while not (self._driver.ready or self._driver.ended):
            await self._news.wait()
        if self._driver.ended:
            raise self._driver.end_error()

    async def _room(self, size: int) -> None:
        """Wait, in turn, until *size* more bytes may be submitted."""
        if not self._senders and self._has_room(size):
            return
        turn = anyio.Event()
        self._senders.append(turn)
        try:
            if self._senders[0] is not turn:
                await turn.wait()
            while not self._has_room(size):
                self._driver.want_room(max(0, self.send_queue_bytes - size))
                await self._news.wait()
        finally:
            first = self._senders[0] is turn
            self._senders.remove(turn)
            if first and self._senders:
                self._senders[0].set()

    def _has_room(self, size: int) -> bool:
        if self._driver.ended:
            raise self._driver.end_error()
        unsent = self._driver.unsent_bytes
        return unsent == 0 or unsent + size <= self.send_queue_bytes

    async def _close(self) -> None:
        """Drain, leave, end the thread. Raises what ended the node, or Undelivered."""
        self._driver.close()
        patience = self.settings.node.drain_s + CLOSE_GRACE_S
        with anyio.move_on_after(patience):
            while not self._driver.ended:
                await self._news.wait()
        if not self._driver.join(1.0):
            logger.error(
                "node %d: its thread hangs, in the transport or in writing to disk, and is left "
                "behind",
                self.id,
            )

    def _close_sockets(self) -> None:
        self._told.close()
        self._tell.close()

    def _release(self) -> None:
        self._store.close()
        self._close_sockets()


class NodeSession(Session):
    """A session on a node in this process."""

    def __init__(self, node: Node, name: str, queue_bytes: int) -> None:
        super().__init__()
        self._node = node
        self._mailbox = Mailbox(name, queue_bytes)
        self._closed = False

    async def __aenter__(self) -> "NodeSession":
        self._node._sessions.append(self)
        try:
            await self._node._result(self._node._driver.attach(self._mailbox))
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._node._sessions.remove(self)
        self._node._driver.detach(self._mailbox)
        self._node._wake_all()  # who waits for this session's events is to learn of its end

    @property
    def full_since(self) -> float | None:
        """Since when (monotonic, seconds) the ring waits for this session; None if it does not."""
        return self._mailbox.full_since

    async def _take(self) -> Sequence[Event]:
        driver, mailbox = self._node._driver, self._mailbox
        await anyio.lowlevel.checkpoint()  # before taking: who is cancelled must have taken nothing
        while True:
            news = self._node._news
            ended = driver.ended
            batch = mailbox.take()
            if batch:
                driver.taken(mailbox)
                return batch
            if self._closed:
                raise NodeClosed("the session is closed")
            if ended:
                raise driver.end_error()
            await news.wait()

    async def status(self) -> Mapping[str, Any]:
        return await self._node.status()

    async def set_groups(self, groups: frozenset[GroupKey]) -> None:
        def command(now: float) -> None:
            self._mailbox.groups = groups

        await self._node._result(self._node._driver.call(command))

    async def _send(
        self,
        groups: tuple[GroupKey, ...],
        payloads: list[bytes],
        guarantee: Guarantee,
        priority: Priority,
    ) -> list[MessageId]:
        node = self._node
        limit = node.settings.ring.message_bytes_max
        for payload in payloads:
            if len(payload) > limit:
                raise MessageTooLarge(len(payload), limit)
        sent: list[MessageId] = []
        for part in _parts(payloads, node.send_queue_bytes // 4):
            await anyio.lowlevel.checkpoint()
            submission = Submission(groups, part, guarantee, priority)
            await node._room(submission.size)
            sent += node._driver.submit(submission)
        return sent


def _parts(payloads: list[bytes], size_max: int) -> Iterator[list[bytes]]:
    """*payloads* in parts that fit *size_max* together, or are one payload."""
    part: list[bytes] = []
    size = 0
    for payload in payloads:
        if part and (size + len(payload) > size_max or len(part) == MESSAGES_PER_TURN):
            yield part
            part, size = [], 0
        part.append(payload)
        size += len(payload)
    if part:
        yield part


@asynccontextmanager
async def open_node(
    settings: NodeSettings | str | os.PathLike[str], *, trace: str | os.PathLike[str] | None = None
) -> AsyncIterator[Node]:
    """Open a node, and close it at the end of the block: ``async with open_node(…) as node``.

    *settings* is a settings file's path, or what it would say. *trace* is a file that every event
    is appended to (see the trace's format in the documentation). The block begins when the node has
    its first configuration. At its end the node delivers what it accepted, for up to
    ``[node] drain_s``, and leaves the ring.

    Raises SettingsError, PluginNotFound, TransportFailed, StateFailed when it opens; at the end of
    the block Undelivered if something accepted was not yet known to be everywhere, and whatever
    ended the node before (DuplicateNode, TransportFailed, StateFailed).
    """
    if not isinstance(settings, NodeSettings):
        settings = read_settings(settings)
    node = Node(settings, None if trace is None else Path(trace))
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node._listen)
            try:
                await node._open()
                yield node
            except BaseException as error:
                failure = error
            with anyio.CancelScope(shield=True):
                await node._close()
            tasks.cancel_scope.cancel()
    finally:
        node._release()
    ended_by = node._driver.failure
    if failure is not None:
        if isinstance(ended_by, Undelivered):
            logger.warning("node %d: %s", node.id, ended_by)
        raise failure
    if ended_by is not None:
        raise node._driver.end_error()

"""Server: a node's sessions, for local programs.

One client's nonsense ends that client alone. What a client is owed is bounded: events by the window
that it has opened, answers by how much it may ask at a time; so its daemon goes on reading whatever
it says, and what it has to say to others never waits for it. A client that does not take its events
meets its session's ``SlowPolicy``; if that is to have the ring wait, ``client_stuck_s`` is the end
of it.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import stat
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import anyio
import anyio.abc
import anyio.lowlevel

from vsync.api.news import News
from vsync.api.node import Node
from vsync.api.node_session import NodeSession, RunSession
from vsync.daemon import frames, protocol
from vsync.daemon.commands import ARGUMENTS_BYTES_MAX, obey
from vsync.daemon.frames import EventFrames, Send
from vsync.daemon.peers import Doorkeeper, peer_of
from vsync.daemon.protocol import DAEMON_PROTOCOL, FrameReader, Type
from vsync.daemon.stream import READ_BYTES, WRITE_BYTES, Outgoing, Stream, accept, listen
from vsync.errors import (
    DaemonError,
    DaemonLost,
    Evicted,
    MisuseError,
    ServiceFailed,
    VsyncError,
)
from vsync.settings import MESSAGE_BYTES_LIMIT, DaemonSection, NodeSettings
from vsync.vocabulary import Cause, GroupKey, MessageId, Priority, SlowPolicy

HELLO_S: Final = 5.0
"""How long a new client may take to say HELLO."""

SEND_WINDOW_BYTES: Final = 2**21
"""What a client may send beyond what was accepted, unless a single message is larger."""

SENDS_AT_A_TIME: Final = 8
"""So many SENDs of a client are accepted before other clients have their turn."""

REQUESTS_MAX: Final = 64
"""What a client may ask at a time, besides sending."""

TICK_S: Final = 0.1
"""How often it is looked at who waits for whom."""

FAREWELL_S: Final = 0.5
"""How long a client that is to go may take to hear why."""

Work: TypeAlias = Callable[[], Awaitable[bytes | None]]
"""What a request has done; its answer, or None if that is only that it is done."""


logger = logging.getLogger(__name__)


async def serve(
    node: Node,
    path: str | os.PathLike[str],
    *,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *node* at the Unix socket *path* until cancelled.

    This user and root may use it, and whom ``users`` and ``groups`` in ``[daemon]`` name; the
    kernel says who somebody is. Raises DaemonError if the socket cannot be made, or if another
    daemon serves there; SettingsError for a user or group that does not exist.
    """
    place = Path(path)
    server = _Server(node, place)
    _clear(place)
    try:
        listener = listen(str(place), server.doorkeeper.mode)
    except OSError as error:
        raise DaemonError(
            f"cannot make the socket {place}: {error.strerror or error}; choose another place with "
            "--socket or with socket in [daemon]"
        ) from error
    node.prepare_reload.append(server.prepare_reload)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.tick)
            task_status.started()
            await accept(listener, server.handle)
    finally:
        node.prepare_reload.remove(server.prepare_reload)
        listener.close()
        with contextlib.suppress(OSError):
            os.unlink(place)


def _clear(place: Path) -> None:
    """Remove a socket that nobody serves any more."""
    try:
        mode = place.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise DaemonError(f"{place} is in the way: it is no socket; remove it or choose another")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(place))
        except BlockingIOError as error:  # it has more callers than it can take
            raise DaemonError(
                f"another daemon serves {place}; stop it or choose another socket"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                raise DaemonError(
                    f"cannot tell whether {place} is in use: {error.strerror}; choose another"
                ) from error
        else:
            raise DaemonError(f"another daemon serves {place}; stop it or choose another socket")
    place.unlink(missing_ok=True)


class _Server:
    """All clients of one socket."""

    def __init__(self, node: Node, place: Path) -> None:
        self.node = node
        self._place = place
        self.doorkeeper = Doorkeeper(node.settings.daemon)
        self.frames = EventFrames()
        self.space = bytearray(READ_BYTES)
        """Where what comes from a client is put, and then read at once."""
        self.connected = 0
        self.clients: set[_Client] = set()
        """Those that have a session."""
        self._came = anyio.Event()
        """Set when there is one."""

    def add(self, client: "_Client") -> None:
        """Look after that client from now on."""
        self.clients.add(client)
        self._came.set()

    def prepare_reload(self, settings: NodeSettings) -> Callable[[], None]:
        """Let others in, from the next on who knocks. Raises SettingsError for unknown names."""
        doorkeeper = Doorkeeper(settings.daemon)

        def go() -> None:
            self.doorkeeper = doorkeeper
            with contextlib.suppress(OSError):  # somebody has removed it
                os.chmod(self._place, doorkeeper.mode)

        return go

    async def handle(self, stream: Stream) -> None:
        """Serve one connection to its end."""
        self.connected += 1
        try:
            async with stream:
                await _Client(self, stream).run()
        finally:
            self.connected -= 1

    def check(self, stream: Stream) -> None:
        """Raise DaemonError if nobody else, or not this one, is let in."""
        try:
            self.doorkeeper.check(peer_of(stream.socket))
        except OSError as error:
            raise DaemonError(f"cannot tell who connects: {error}") from error
        limit = self.node.settings.daemon.clients_max
        if self.connected > limit:
            raise DaemonError(
                f"this daemon has {limit} clients already; end one, or raise clients_max in "
                "[daemon] of the node's settings"
            )

    async def tick(self) -> None:
        """Look after all clients, again and again; while there are none, wait for one."""
        while True:
            if not self.clients:
                self._came = anyio.Event()
                await self._came.wait()
            await anyio.sleep(TICK_S)
            now = time.monotonic()
            for client in tuple(self.clients):
                client.tick(now)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wishes:
    """What a client's HELLO asks for."""

    slow: SlowPolicy
    queue_bytes: int
    spill_bytes: int
    primary: bool
    window_bytes: int
    name: str

    @classmethod
    def from_hello(cls, body: bytes | memoryview, bounds: DaemonSection) -> "_Wishes":
        """Read a HELLO. Raises DaemonError for what is not allowed here."""
        fields = protocol.parse(Type.HELLO, body)
        if not fields.name.isprintable():  # it stands in warnings, and goes to terminals
            raise DaemonError("the name of the client's session has characters that nobody can see")
        if fields.slow > len(protocol.SLOW_POLICIES):
            raise DaemonError(f"the client asks for a policy {fields.slow} that nobody knows")
        slow = protocol.SLOW_POLICIES[fields.slow - 1] if fields.slow else SlowPolicy(bounds.slow)
        if slow is SlowPolicy.BLOCK and not bounds.may_block:
            raise DaemonError(
                "this daemon lets no program hold up the ring (may_block in [daemon] of the node's "
                "settings); connect with slow=SlowPolicy.EVICT or SPILL"
            )
        return cls(
            slow=slow,
            queue_bytes=_bounded(
                "queue_bytes", fields.queue_bytes, bounds.queue_bytes, bounds.queue_bytes_max
            ),
            spill_bytes=_bounded(
                "spill_bytes", fields.spill_bytes, bounds.spill_bytes, bounds.spill_bytes_max
            ),
            primary=fields.primary,
            window_bytes=fields.window_bytes,
            name=fields.name,
        )


def _bounded(name: str, asked: int, usual: int, most: int) -> int:
    if asked == protocol.AS_THE_DAEMON_SAYS:
        return usual
    if asked > most:
        raise DaemonError(
            f"the client asks for {name}={asked}, and this daemon allows {most} ({name}_max in "
            "[daemon] of the node's settings)"
        )
    return asked


class _Client:
    """One client, from its HELLO to its end."""

    def __init__(self, server: _Server, stream: Stream) -> None:
        self._server = server
        self._node = server.node
        self._stream = stream
        self._outgoing = Outgoing(stream)
        self._reader = FrameReader(protocol.HELLO_BYTES_MAX)
        self._window_bytes = 0
        self._untaken_bytes = 0
        """Bytes of events that were sent and that the client has not dealt with."""
        self._window_opened = anyio.Event()
        self._requests = 0
        self._asked: deque[tuple[int, Work, tuple[type[VsyncError], ...]]] = deque()
        """Requests that were heard and are not under way yet."""
        self._asked_news = News()
        self._sends: deque[tuple[Send, int]] = deque()
        self._sends_bytes = 0
        self._sends_news = News()
        self._sends_done = anyio.Event()
        self._send_window_bytes = max(
            SEND_WINDOW_BYTES, 2 * server.node.settings.ring.message_bytes_max
        )
        self._sending_since: float | None = None
        self._sending_priority = Priority.MEDIUM
        self._session: NodeSession | None = None
        self._scope = anyio.CancelScope()
        self._stuck: Evicted | None = None
        self._leaves = False

    async def run(self) -> None:
        """Serve the client until it goes, misbehaves, or the node ends."""
        failure: VsyncError | None = DaemonLost("the daemon was stopped")
        try:
            self._server.check(self._stream)
            session = await self._greet()
            with self._scope:
                await self._attend(session)
            failure = self._stuck  # None: it has left
        except* (anyio.ClosedResourceError, anyio.EndOfStream):
            failure = None  # it has gone
        except* VsyncError as errors:
            failure = _first(errors)
        finally:
            await self._say_farewell(failure)

    async def _say_farewell(self, failure: VsyncError | None) -> None:
        """Write what is owed, and why this is the end, if the client still listens."""
        if failure is not None:
            fields = protocol.failure_fields(failure)
            self._outgoing.put(protocol.build(Type.END, failure=fields))
        with anyio.move_on_after(FAREWELL_S, shield=True):
            try:
                await self._outgoing.flush()
                if failure is not None:
                    # Closed with something unread, the connection would be reset, END or not.
                    self._stream.socket.shutdown(socket.SHUT_WR)
                    while True:
                        await self._stream.receive(4096)
            except (anyio.ClosedResourceError, anyio.EndOfStream, OSError):
                return

    async def _greet(self) -> RunSession:
        """Hear who the client is and what it wants. Raises DaemonError."""
        node = self._node
        with anyio.move_on_after(HELLO_S) as waiting:
            kind, body = await self._first_frame()
            if kind != Type.HELLO:
                raise DaemonError("a client begins with HELLO; is this a vsync client?")
        if waiting.cancelled_caught:
            raise DaemonError(f"the client said nothing for {HELLO_S:g} s")
        theirs = protocol.parse_protocol(body)
        if theirs != DAEMON_PROTOCOL:
            raise DaemonError(
                f"the client speaks protocol {theirs}, this daemon {DAEMON_PROTOCOL}; "
                "install the same version of vsync-core for both"
            )
        wishes = _Wishes.from_hello(body, node.settings.daemon)
        session = RunSession(
            node,
            wishes.name or "of a local program",
            wishes.queue_bytes,
            slow=wishes.slow,
            spill_bytes=wishes.spill_bytes,
            primary=wishes.primary,
        )
        self._window_bytes = wishes.window_bytes
        limit = node.settings.ring.message_bytes_max
        self._reader.frame_bytes_max = limit + protocol.FRAME_EXTRA_BYTES
        self._outgoing.write(
            protocol.build(
                Type.WELCOME,
                protocol=DAEMON_PROTOCOL,
                node=node.id,
                session=session.member.session,
                life=node.life,
                message_bytes_max=limit,
                window_bytes=self._send_window_bytes,
                requests_max=REQUESTS_MAX,
            )
        )
        return session

    async def _first_frame(self) -> tuple[int, memoryview]:
        while True:
            data = await self._stream.receive(4096)
            with contextlib.closing(self._reader.feed(data)) as found:
                for kind, body in found:
                    return kind, body  # what came with it is looked at later

    async def _attend(self, session: RunSession) -> None:
        """Serve *session*, and end it with the cause of its end."""
        clients, event_frames = self._server.clients, self._server.frames
        async with session:
            self._session = session
            self._server.add(self)
            event_frames.joined()
            cause = Cause.DIED
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._outgoing.run)
                    tasks.start_soon(self._tell, session)
                    tasks.start_soon(self._send, session)
                    tasks.start_soon(self._answer_all, tasks)
                    await self._obey(session)
                    tasks.cancel_scope.cancel()
            except anyio.get_cancelled_exc_class():
                cause = Cause.LEFT  # the daemon ends
                raise
            finally:
                event_frames.left()
                clients.discard(self)
                if self._leaves:
                    cause = Cause.LEFT
                elif self._stuck is not None:
                    cause = Cause.EVICTED
                session.close(cause)

    # --- what the client says -------------------------------------------------------------------

    async def _obey(self, session: NodeSession) -> None:
        """Take in what the client says, until it leaves. Waits for nothing but the client."""
        space = memoryview(self._server.space)

        def take() -> bool:
            return self._hear(space[: self._stream.read_into(self._server.space)], session)

        # At first, what came together with HELLO.
        if self._hear(space[:0], session):
            await self._stream.read(take)
        while self._sends_bytes:  # what it has sent is accepted before it has left
            self._sends_done = anyio.Event()
            await self._sends_done.wait()

    def _hear(self, data: memoryview, session: NodeSession) -> bool:
        """Take in a piece of what the client says; whether it stays.

        This may be no task's doing, and outside of one anyio does not know which loop it is in.
        """
        for kind, body in self._reader.feed(data):
            match kind:
                case Type.SEND:
                    self._queue(frames.parse_send(body), len(body))
                case Type.TAKEN:
                    taken = frames.parse_taken(body)
                    self._untaken_bytes = max(0, self._untaken_bytes - taken)
                    self._window_opened.set()
                case Type.BYE:
                    protocol.parse(Type.BYE, body)
                    self._leaves = True
                    break
                case _:
                    self._ask(session, kind, body)
        return not self._leaves

    def _queue(self, send: Send, size: int) -> None:
        if self._sends_bytes and self._sends_bytes + size > self._send_window_bytes:
            raise DaemonError(
                f"the client sends more than the {self._send_window_bytes} bytes that it may"
            )
        self._sends.append((send, size))
        self._sends_bytes += size
        self._sends_news.tell()

    def _ask(self, session: NodeSession, kind: int, body: memoryview) -> None:
        """Have a request answered; others may be answered before it."""
        refusals: tuple[type[VsyncError], ...] = (MisuseError, ServiceFailed, Evicted)
        work: Work
        match kind:
            case Type.JOIN:
                fields = protocol.parse(Type.JOIN, body)
                work = partial(self._join, session, fields.groups, fields.closed)
            case Type.LEAVE:
                fields = protocol.parse(Type.LEAVE, body)
                work = partial(self._leave, session, fields.groups)
            case Type.STATUS:
                fields = protocol.parse(Type.STATUS, body)
                work = self._status
            case Type.REQUEST:
                fields = protocol.parse(Type.REQUEST, body)
                work = partial(session.request, fields.service, fields.body)
            case Type.COMMAND:
                fields = protocol.parse(Type.COMMAND, body)
                if len(fields.arguments) > ARGUMENTS_BYTES_MAX:
                    raise DaemonError("the client sent a command that no command can be")
                work = partial(self._command, fields.name, fields.arguments)
                refusals = (VsyncError,)
            case _:
                raise DaemonError(f"the client sent a frame of unknown type {kind}")
        self._requests += 1
        self._asked.append((fields.number, work, refusals))
        self._asked_news.tell()
        if self._requests > REQUESTS_MAX:
            raise DaemonError(f"the client asks more than the {REQUESTS_MAX} things that it may")

    async def _answer_all(self, tasks: anyio.abc.TaskGroup) -> None:
        """Begin to answer each request as it comes."""
        while True:
            while self._asked:
                tasks.start_soon(self._answer, *self._asked.popleft())
            await self._asked_news.wait()

    async def _answer(
        self, number: int, work: Work, refusals: tuple[type[VsyncError], ...]
    ) -> None:
        """Answer; *refusals* end what was asked, and other errors the session."""
        try:
            body = await work()
            if body is not None and len(body) > MESSAGE_BYTES_LIMIT:
                raise ServiceFailed(
                    f"the answer has {len(body)} bytes, and {MESSAGE_BYTES_LIMIT} are possible"
                )
        except refusals as error:
            self._outgoing.write(_refused_frame(number, error))
        else:
            if body is None:
                self._outgoing.write(protocol.build(Type.DONE, number=number))
            else:
                self._outgoing.write(protocol.build(Type.ANSWER, number=number, body=body))
        await self._outgoing.room()  # until then it counts as under way
        self._requests -= 1

    async def _command(self, name: str, arguments: bytes) -> bytes:
        try:
            peer = peer_of(self._stream.socket)
        except OSError as error:
            raise DaemonError(f"cannot tell who asks: {error}") from error
        return await obey(self._node, peer, name, arguments)

    async def _join(self, session: NodeSession, keys: list[bytes], closed: bool) -> None:
        groups = list(map(GroupKey, keys))
        if len({*session.joined, *groups}) > protocol.GROUPS_MAX:
            raise MisuseError(
                f"a session that goes through a daemon joins at most {protocol.GROUPS_MAX} groups"
            )
        await session.join(*groups, closed=closed)

    async def _leave(self, session: NodeSession, keys: list[bytes]) -> None:
        await session.leave(*map(GroupKey, keys))

    async def _status(self) -> bytes:
        return json.dumps(await self._node.status()).encode()

    async def _send(self, session: RunSession) -> None:
        """Send what the client wants sent, in its order."""
        while True:
            while not self._sends:
                await self._sends_news.wait()
            for _ in range(min(len(self._sends), SENDS_AT_A_TIME)):
                send, size = self._sends.popleft()
                try:
                    sent = session.submit(
                        send.payloads, send.groups, send.guarantee, send.priority
                    ) or await self._send_in_turn(session, send)
                except (MisuseError, Evicted) as error:  # evicted: what came before still goes out
                    answer = _refused_frame(send.number, error)
                else:
                    answer = frames.accepted_frame(send.number, sent[0].counter, len(sent))
                if self._sends:  # there will be more answers
                    self._outgoing.put(answer)
                else:
                    self._outgoing.write(answer)
                self._sends_bytes -= size
            if not self._sends_bytes:
                self._sends_done.set()
            await self._outgoing.room()
            await anyio.lowlevel.checkpoint()

    async def _send_in_turn(self, session: NodeSession, send: Send) -> Sequence[MessageId]:
        """Send when there is room, and nobody waits for it who came before."""
        self._sending_since = time.monotonic()
        self._sending_priority = send.priority
        try:
            return await session.send_batch(
                send.payloads, *send.groups, guarantee=send.guarantee, priority=send.priority
            )
        finally:
            self._sending_since = None

    # --- what the client is told ----------------------------------------------------------------

    async def _tell(self, session: RunSession) -> None:
        """Pass on the session's events, as the client opens its window."""
        size_max = min(WRITE_BYTES, self._window_bytes // 2)
        while True:
            parts: list[bytes | memoryview] = []
            size = 0
            for event in await session.take_runs():
                made = self._server.frames.of(event)
                parts += made
                size += sum(map(len, made))
                if size >= size_max:
                    await self._put_events(parts, size)
                    parts, size = [], 0
            if parts:
                await self._put_events(parts, size)

    async def _put_events(self, parts: list[bytes | memoryview], size: int) -> None:
        # Below a quarter of the window the client may have taken all, and not have said so yet.
        while (
            self._untaken_bytes * 4 >= self._window_bytes
            and self._untaken_bytes + size > self._window_bytes
        ):
            self._window_opened = anyio.Event()
            await self._window_opened.wait()
        self._untaken_bytes += size
        self._outgoing.write(*parts)
        await self._outgoing.room()

    def tick(self, now: float) -> None:
        """Tell the client what its sending waits for; end it if the ring waits for it too long."""
        session = self._session
        assert session is not None
        since = self._sending_since
        if since is not None and now - since > TICK_S and not self._outgoing.bytes:
            with contextlib.suppress(VsyncError):  # it comes up where it is awaited
                blocked = session.would_block(self._sending_priority)
                if blocked is not None:
                    self._outgoing.write(
                        protocol.build(
                            Type.WAITING,
                            node=blocked.blocked_by or 0,
                            waited_ms=min(2**32 - 1, int(1000 * max(0, now - blocked.since))),
                        )
                    )
        full_since, patience = session.full_since, self._node.settings.daemon.client_stuck_s
        if full_since is not None and now - full_since > patience and self._stuck is None:
            self._stuck = Evicted(
                f"the ring waited for this session for more than {patience:g} s (client_stuck_s in "
                "[daemon] of the node's settings); take events sooner, or connect with "
                "slow=SlowPolicy.EVICT or SPILL"
            )
            logger.warning(
                "node %d: the ring waited for session %s (%s) for more than %g s; it is cut off",
                self._node.id,
                session.member,
                session.name,
                patience,
            )
            self._scope.cancel()


def _refused_frame(number: int, error: VsyncError) -> bytes:
    return protocol.build(Type.REFUSED, number=number, failure=protocol.failure_fields(error))


def _first(errors: BaseExceptionGroup[VsyncError]) -> VsyncError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, VsyncError)
    return error

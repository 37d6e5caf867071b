"""Link: one connection of a client to its daemon, from HELLO to its end.

It numbers what is asked and finds each answer's asker; it keeps to the windows that both sides have
opened. What it knows ends with it: see ``vsync.daemon.client`` for what outlives a connection.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import anyio
import anyio.lowlevel

from vsync.daemon import frames, protocol
from vsync.daemon.protocol import DAEMON_PROTOCOL, FrameReader, Type
from vsync.daemon.stream import READ_BYTES, Outgoing, Stream
from vsync.errors import DaemonError, DaemonLost, Evicted, VsyncError, WouldBlock
from vsync.events import Event
from vsync.settings import MESSAGE_BYTES_LIMIT
from vsync.vocabulary import Configuration, GroupKey, Guarantee, Member, NodeId, Priority

NUMBERS: Final = 2**32

Destination = tuple[GroupKey, ...]


class Asked:
    """Something that was asked, until its answer is there."""

    __slots__ = ("answer", "came", "error", "groups", "kind", "size")

    def __init__(self, kind: Type, size: int = 0, groups: Destination | None = None) -> None:
        self.kind = kind
        self.size = size
        self.groups = groups
        """Set where nobody waits for the answer."""
        self.came = anyio.Event() if groups is None else None
        self.answer: Any = None
        self.error: VsyncError | None = None

    async def wait(self) -> Any:
        """The answer. Raises what the daemon refuses with, or DaemonLost."""
        assert self.came is not None
        await self.came.wait()
        if self.error is not None:
            raise self.error
        return self.answer


class Link:
    """One connection. *tell* is given events and their bytes, *refused* what nobody waits for."""

    def __init__(
        self,
        stream: Stream,
        place: str,
        window_bytes: int,
        *,
        tell: Callable[[Sequence[Event], int], None],
        refused: Callable[[Destination, VsyncError], None],
    ) -> None:
        self._stream = stream
        self._place = place
        self._window_bytes = window_bytes
        self._tell = tell
        self._refused = refused
        self._outgoing = Outgoing(stream)
        self._space = bytearray(READ_BYTES)
        self._reader = FrameReader(MESSAGE_BYTES_LIMIT + protocol.FRAME_EXTRA_BYTES)
        self._configuration: Configuration | None = None
        self._asked: dict[int, Asked] = {}
        self._number = 0
        self._taken_bytes = 0
        # It is fair, so those who wait go in their order.
        self._turn = anyio.Lock(fast_acquire=True)
        self._send_window_bytes = 0
        self._unaccepted_bytes = 0
        self._room = anyio.Event()
        self._requests = anyio.Semaphore(0)
        """So much more may be asked, besides sending; each has its place until it is answered."""
        self._blocked_by: NodeId | None = None
        self._no_room_since: float | None = None
        self.end: VsyncError | None = None
        """Why the connection has ended, once it has."""
        self.ended = anyio.Event()
        self.evicted: Evicted | None = None
        """Why nothing can be asked any more, though events may still come."""
        self.member = Member(NodeId(0), 0)
        self.life = 0
        self.message_bytes_max = 0

    # --- its life -------------------------------------------------------------------------------

    async def greet(self, hello: bytes) -> None:
        """Say HELLO, and hear WELCOME. Raises why there will be no session."""
        welcome = self._asked[-1] = Asked(Type.WELCOME)
        try:
            self._outgoing.put(hello)
            with contextlib.suppress(anyio.EndOfStream):  # it may have said why, all the same
                await self._outgoing.flush()
            await self._stream.read(lambda: self._take_some() and welcome.answer is None)
        except (anyio.ClosedResourceError, anyio.EndOfStream):
            self._finish(self._lost())
        if self.end is not None:
            raise self.end

    async def run(self) -> VsyncError:
        """Carry what goes both ways, until the connection ends; why it did."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write)
            try:
                await self._stream.read(self._take_some)
            except (anyio.ClosedResourceError, anyio.EndOfStream):
                self._finish(self._lost())
            except DaemonError as error:
                self._finish(error)
            tasks.cancel_scope.cancel()
        assert self.end is not None
        return self.end

    async def _write(self) -> None:
        try:
            await self._outgoing.run()
        except (anyio.ClosedResourceError, anyio.EndOfStream):
            return  # the reader learns why

    def _lost(self) -> DaemonLost:
        return DaemonLost(f"the daemon at {self._place} has closed the connection")

    def _finish(self, error: VsyncError) -> None:
        """Nothing more will come: let nobody wait for it."""
        if self.end is None:
            self.end = error
        kind = Evicted if isinstance(self.end, Evicted) else DaemonLost
        for asked in self._asked.values():
            asked.error = kind(f"{self.end}; what was asked may have been done or not")
            self._give_place(asked)
            if asked.came is not None:
                asked.came.set()
        self._asked.clear()
        self._room.set()
        self.ended.set()

    async def leave(self) -> None:
        """Say BYE, and wait until the daemon has closed the connection."""
        if self.end is None:
            self._outgoing.write(protocol.build(Type.BYE))
            await self.ended.wait()

    def close(self, error: VsyncError) -> None:
        """End the connection, for that reason."""
        self._finish(error)
        self._stream.close()

    # --- what is asked --------------------------------------------------------------------------

    async def ask(self, kind: Type, **fields: Any) -> Any:
        """Have the daemon do something; its answer. Raises what it refuses with, or DaemonLost.

        Who is cancelled while the answer is on its way has asked all the same, and what was asked
        counts as under way at the daemon until then.
        """
        await self._requests.acquire()
        asked, number = Asked(kind), self._next_number()
        try:
            frame = protocol.build(kind, number=number, **fields)
            self._expect(number, asked)
        except BaseException:
            self._requests.release()
            raise
        self._outgoing.write(frame)
        return await asked.wait()

    async def send(
        self,
        groups: Destination,
        payloads: Sequence[bytes],
        guarantee: Guarantee,
        priority: Priority,
    ) -> Asked:
        """Send messages when it is their turn and there is room; what to wait for."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        number = self._next_number()
        frame = frames.send_frame(number, groups, payloads, guarantee, priority)
        async with self._turn:
            while not self._has_room(len(frame)):
                self._room = anyio.Event()
                await self._room.wait()
            asked = Asked(Type.SEND, len(frame))
            self._expect(number, asked)
            self._outgoing.write(frame)
        return asked

    def send_nowait(
        self, groups: Destination, payload: bytes, guarantee: Guarantee, priority: Priority
    ) -> None:
        """Send a message now. Raises WouldBlock if there is no room."""
        number = self._next_number()
        frame = frames.send_frame(number, groups, [payload], guarantee, priority)
        if self._turn.locked() or not self._has_room(len(frame)):
            if self._no_room_since is None:
                self._no_room_since = time.monotonic()
            raise WouldBlock(self._blocked_by, self._no_room_since)
        self._expect(number, Asked(Type.SEND, len(frame), groups))
        self._outgoing.put(frame)  # there may be many of them, and nobody waits for the answers

    def _has_room(self, size: int) -> bool:
        if self.end is not None:
            return True  # to be refused
        unaccepted = self._unaccepted_bytes
        return unaccepted == 0 or unaccepted + size <= self._send_window_bytes

    def _next_number(self) -> int:
        self._number = (self._number + 1) % NUMBERS
        return self._number

    def _expect(self, number: int, asked: Asked) -> None:
        if self.end is not None:
            raise self.end.with_traceback(None)
        self._asked[number] = asked
        self._unaccepted_bytes += asked.size

    def taken(self, size_bytes: int) -> None:
        """Events of so many bytes were dealt with; the daemon may send more."""
        self._taken_bytes += size_bytes
        if self.end is None and self._taken_bytes * 4 >= self._window_bytes:
            self._outgoing.write(frames.taken_frame(self._taken_bytes))
            self._taken_bytes = 0

    # --- what the daemon says -------------------------------------------------------------------

    def _take_some(self) -> bool:
        """Take what has come, some of it at least; whether more may come."""
        size_read = self._stream.read_into(self._space)
        events: list[Event] = []
        size = 0
        try:
            for kind, body in self._reader.feed(memoryview(self._space)[:size_read]):
                if kind == Type.DELIVERIES and self._configuration is not None:
                    events += frames.parse_deliveries(body, self._configuration)
                    size += len(body) + protocol.HEAD_BYTES
                elif kind == Type.VIEW and self._configuration is not None:
                    events.append(frames.parse_view(body, self._configuration))
                    size += len(body) + protocol.HEAD_BYTES
                elif kind == Type.CONFIGURATION:
                    change = frames.parse_configuration(body)
                    self._configuration = change.configuration
                    events.append(change)
                    size += len(body) + protocol.HEAD_BYTES
                else:
                    self._take_answer(kind, body)
        finally:
            if events:
                self._tell(events, size)
        return self.end is None

    def _take_answer(self, kind: int, body: memoryview) -> None:
        match kind:
            case Type.ACCEPTED:
                number, first, count = frames.parse_accepted(body)
                self._answered(number, [Type.SEND], (first, count))
            case Type.DONE:
                self._answered(protocol.parse(Type.DONE, body).number, [Type.JOIN, Type.LEAVE], b"")
            case Type.ANSWER:
                fields = protocol.parse(Type.ANSWER, body)
                self._answered(
                    fields.number, [Type.STATUS, Type.REQUEST, Type.COMMAND], fields.body
                )
            case Type.REFUSED:
                fields = protocol.parse(Type.REFUSED, body)
                self._answered(fields.number, None, None, protocol.failure(fields.failure))
            case Type.WAITING:
                fields = protocol.parse(Type.WAITING, body)
                self._blocked_by = NodeId(fields.node) if fields.node else None
                self._no_room_since = time.monotonic() - fields.waited_ms / 1000
            case Type.END:
                self._finish(
                    self._explained(protocol.failure(protocol.parse(Type.END, body).failure))
                )
            case Type.WELCOME if -1 in self._asked:
                self._take_welcome(protocol.parse(Type.WELCOME, body))
            case _:
                raise DaemonError(f"the daemon sent a frame of type {kind} that nobody asked for")

    def _take_welcome(self, fields: Any) -> None:
        if fields.protocol != DAEMON_PROTOCOL:
            raise DaemonError(f"the daemon speaks protocol {fields.protocol} all of a sudden")
        self.member = Member(NodeId(fields.node), fields.session)
        self.life = fields.life
        self.message_bytes_max = fields.message_bytes_max
        self._send_window_bytes = fields.window_bytes
        self._requests = anyio.Semaphore(max(1, fields.requests_max))
        self._asked.pop(-1).answer = fields

    def _answered(
        self,
        number: int,
        kinds: Iterable[Type] | None,
        answer: Any,
        error: VsyncError | None = None,
    ) -> None:
        asked = self._asked.get(number)
        if asked is None or (kinds is not None and asked.kind not in kinds):
            raise DaemonError("the daemon sent an answer that nobody asked for")
        del self._asked[number]
        self._give_place(asked)
        asked.answer, asked.error = answer, error
        if isinstance(error, Evicted):
            self.evicted = error
        if asked.size:
            self._unaccepted_bytes -= asked.size
            self._blocked_by = self._no_room_since = None
            self._room.set()
        if asked.came is not None:
            asked.came.set()
        elif error is not None:
            assert asked.groups is not None
            self._refused(asked.groups, error)

    def _give_place(self, asked: Asked) -> None:
        """Let something else be asked in place of *asked*, which the daemon is done with."""
        if asked.kind not in (Type.SEND, Type.WELCOME):
            self._requests.release()

    def _explained(self, error: VsyncError) -> VsyncError:
        """*error*, with the daemon's place where it is about the daemon."""
        if isinstance(error, DaemonLost):
            return DaemonLost(f"the daemon at {self._place} has closed the connection: {error}")
        if isinstance(error, DaemonError):
            return type(error)(f"the daemon at {self._place} ends this session: {error}")
        return error

"""Server: a node's sessions, for local programs.

One client's nonsense ends that client alone. A client that does not read holds up the ring, as any
slow session does, until ``client_stuck_s`` has passed; then it is cut off.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import stat
import time
from pathlib import Path
from typing import Final

import anyio
import anyio.abc

from vsync.api.node import Node, NodeSession
from vsync.daemon import protocol
from vsync.daemon.protocol import DAEMON_PROTOCOL, FrameReader, Type
from vsync.daemon.stream import Stream, accept, listen
from vsync.errors import DaemonError, MisuseError, VsyncError
from vsync.events import ConfigurationChanged, Delivery
from vsync.vocabulary import GroupKey

RECEIVE_BYTES: Final = 2**18
HELLO_S: Final = 5.0
"""How long a new client may take to say HELLO."""

WRITE_BYTES: Final = 2**18
"""About how much is handed to the kernel at once."""


logger = logging.getLogger(__name__)


async def serve(
    node: Node,
    path: str | os.PathLike[str],
    *,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *node* at the Unix socket *path*, for this user alone, until cancelled.

    Raises DaemonError if the socket cannot be made, or if another daemon serves there.
    """
    place = Path(path)
    _clear(place)
    try:
        listener = listen(str(place))
    except OSError as error:
        raise DaemonError(
            f"cannot make the socket {place}: {error.strerror or error}; choose another place with "
            "--socket or with socket in [daemon]"
        ) from error

    async def handle(stream: Stream) -> None:
        async with stream:
            await _Client(node, stream).run()

    try:
        task_status.started()
        await accept(listener, handle)
    finally:
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


class _Client:
    """One client, from its HELLO to its end."""

    def __init__(self, node: Node, stream: Stream) -> None:
        self._node = node
        self._stream = stream
        self._limit = node.settings.ring.message_bytes_max + protocol.FRAME_EXTRA_BYTES
        self._reader = FrameReader(64)  # before its HELLO nobody needs more
        self._writing = anyio.Lock()

    async def run(self) -> None:
        """Serve the client until it goes, misbehaves, or the node ends."""
        try:
            await self._greet()
            async with (
                self._node.session(name="of a local program") as session,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(self._tell, session)
                tasks.start_soon(self._watch, session, tasks.cancel_scope)
                await self._obey(session)
                tasks.cancel_scope.cancel()
        except* (anyio.ClosedResourceError, anyio.EndOfStream):
            pass  # it has gone
        except* VsyncError as errors:
            await self._refuse(errors)

    async def _refuse(self, errors: BaseExceptionGroup[VsyncError]) -> None:
        """Tell the client why this is its end, if it still listens."""
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        with anyio.move_on_after(1):
            try:
                await self._write(protocol.build(Type.ERROR, protocol.ERROR, text=str(error)))
            except (anyio.ClosedResourceError, anyio.EndOfStream):
                return

    async def _greet(self) -> None:
        with anyio.move_on_after(HELLO_S) as waiting:
            first: tuple[int, bytes] | None = None
            while first is None:
                data = await self._stream.receive(4096)
                with contextlib.closing(self._reader.feed(data)) as frames:
                    first = next(frames, None)  # what came with it is looked at later
            kind, body = first
            if kind != Type.HELLO:
                raise DaemonError("a client begins with HELLO; is this a vsync client?")
            theirs = protocol.parse(protocol.HELLO, body).protocol
            if theirs != DAEMON_PROTOCOL:
                raise DaemonError(
                    f"the client speaks protocol {theirs}, this daemon {DAEMON_PROTOCOL}; "
                    "install the same version of vsync-core for both"
                )
            self._reader.frame_bytes_max = self._limit
        if waiting.cancelled_caught:
            raise DaemonError(f"the client said nothing for {HELLO_S:.0f} s")
        await self._write(
            protocol.build(
                Type.WELCOME,
                protocol.WELCOME,
                protocol=DAEMON_PROTOCOL,
                node=self._node.id,
                life=self._node.life,
                message_bytes_max=self._node.settings.ring.message_bytes_max,
            )
        )

    async def _obey(self, session: NodeSession) -> None:
        """Carry out what the client asks for, in its order."""
        data = b""  # at first, what came together with HELLO
        while True:
            answers = [
                await self._answer(session, kind, body) for kind, body in self._reader.feed(data)
            ]
            if answers:
                await self._write(b"".join(answers))
            try:
                data = await self._stream.receive(RECEIVE_BYTES)
            except anyio.EndOfStream:
                return

    async def _answer(self, session: NodeSession, kind: int, body: bytes) -> bytes:
        match kind:
            case Type.SEND:
                return await self._send(session, body)
            case Type.GROUPS:
                keys = protocol.parse(protocol.GROUPS, body).groups
                if len(keys) > protocol.GROUPS_MAX:
                    raise MisuseError(f"a session joins at most {protocol.GROUPS_MAX} groups")
                wanted = set(map(GroupKey, keys))
                await session.leave(*set(session.joined).difference(wanted))
                await session.join(*sorted(wanted, key=GroupKey.hex))
                return protocol.frame(Type.DONE)
            case Type.STATUS:
                return protocol.frame(
                    Type.STATUS_IS, json.dumps(await self._node.status()).encode()
                )
            case _:
                raise DaemonError(f"the client sent a frame of unknown type {kind}")

    async def _send(self, session: NodeSession, body: bytes) -> bytes:
        messages = protocol.parse_send(body)
        sent = await session.send_batch(
            messages.payloads,
            *messages.groups,
            guarantee=messages.guarantee,
            priority=messages.priority,
        )
        return protocol.accepted_frame(messages.priority, sent[0].counter, len(sent))

    async def _tell(self, session: NodeSession) -> None:
        """Pass on the session's events."""
        async for batch in session.batches():
            parts: list[bytes] = []
            size = 0
            for event in batch:
                if not isinstance(event, Delivery | ConfigurationChanged):
                    continue
                part = protocol.event_frame(event)
                parts.append(part)
                size += len(part)
                if size >= WRITE_BYTES:
                    await self._write(b"".join(parts))
                    parts, size = [], 0
            if parts:
                await self._write(b"".join(parts))

    async def _watch(self, session: NodeSession, scope: anyio.CancelScope) -> None:
        """Cut the client off if the ring has waited for it too long."""
        patience = self._node.settings.daemon.client_stuck_s
        while True:
            await anyio.sleep(patience / 4)
            since = session.full_since
            if since is not None and time.monotonic() - since > patience:
                logger.warning(
                    "node %d: a local program took nothing for %.1f s while the ring waited for "
                    "it, and is cut off",
                    self._node.id,
                    patience,
                )
                scope.cancel()
                return

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            await self._stream.send(data)

"""Node: one node of a ring in this process, from ``open_node`` to the end of its block."""

import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskGroup

from vsync import speedups
from vsync.api.keeper import Keeper
from vsync.api.news import News
from vsync.api.node_session import (
    SESSION_QUEUE_BYTES,
    SPILL_BYTES,
    NodeServiceSession,
    NodeSession,
)
from vsync.api.reload import RESTART, RING, Difference, differences
from vsync.api.room import Room
from vsync.api.services import ServiceRunner
from vsync.engine import Engine
from vsync.engine.groups import SettingsChanged
from vsync.engine.rekeying import KeyStep
from vsync.errors import (
    MisuseError,
    ServiceFailed,
    SettingsError,
    TransportFailed,
    Undelivered,
)
from vsync.key_file import key_ring_of, read_key
from vsync.runtime import Driver, StateStore
from vsync.runtime.caller import Caller
from vsync.runtime.changes import shown
from vsync.runtime.store import state_directory
from vsync.settings import NodeSettings
from vsync.settings_file import read_settings, services_of, transport_of
from vsync.trace import TraceWriter
from vsync.transport import Station
from vsync.transports.sealed import serving
from vsync.vocabulary import (
    Configuration,
    GroupKey,
    Member,
    NodeId,
    Priority,
    SlowPolicy,
)
from vsync.wire import KeyNews, network_of

SEND_QUEUE_BYTES: Final = 8 * 2**20
"""Bytes of one priority that may wait for a place in the order before ``send`` waits."""

SERVICE_QUEUE_BYTES: Final = 64 * 2**20
"""Bytes that may wait for a service before the ring waits for it."""

RING_CHANGE_S: Final = 10.0
"""How long a reload waits for a configuration in which the ring can change its settings."""

CLOSE_GRACE_S: Final = 5.0
"""How long, beyond draining, the ring's thread may take to end."""

NO_KEY: Final = (
    "no key configured: packets are neither sealed nor authenticated; "
    "anyone on this network can read and forge them"
)

SEALED_SEEN: Final = (
    "{} sealed packets came, which this node cannot read: if they are of its ring, give it the "
    "ring's key file (key_file in [security])"
)

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Node:
    """One node of a ring. Made by ``open_node``; give it sessions to send and receive."""

    def __init__(
        self, settings: NodeSettings, trace: Path | None, settings_file: Path | None = None
    ) -> None:
        self.settings = settings
        """What is in effect."""
        self._settings_lock = threading.Lock()
        """Both the ring's thread and a reload replace ``settings``."""
        self.settings_file = None if settings_file is None else settings_file.absolute()
        """Where they were read from, and are read again by ``reload``; None: nowhere."""
        self._written = settings.ring
        """What the file says of the ring."""
        self._reloading = False
        self.prepare_reload: list[Callable[[NodeSettings], Callable[[], None]]] = []
        """Called with other settings before they are in effect. Each raises SettingsError if they
        cannot be, and gives what is to be called when they are."""
        self._opened_at = time.monotonic()
        self._news = News()
        self._sessions: list[NodeSession] = []
        self._session_numbers = 0
        self._services: dict[str, ServiceRunner] = {}
        self._rooms = tuple(Room(self, priority) for priority in Priority)
        self.send_queue_bytes = max(SEND_QUEUE_BYTES, 2 * settings.ring.message_bytes_max)
        self._keys = key_ring_of(settings.security)
        self._store = StateStore(
            state_directory(settings.node.state_dir), settings.ring.name, self.id
        )
        with ExitStack() as unless_made:
            unless_made.callback(self._store.close)
            services = services_of(settings)
            self._caller = Caller(self._notice)
            unless_made.callback(self._caller.close)
            self._driver = self._make_driver(settings, trace)
            unless_made.callback(self._driver.discard)
            self._keeper = Keeper(
                self.id, self._keys, settings.security.key_file, self._driver.key_step_done
            )
            self._driver.desk.tell = self._changed
            for kind, service_settings in services:
                session = NodeServiceSession(self, kind.NAME, SERVICE_QUEUE_BYTES, serves=True)
                self._services[kind.NAME] = ServiceRunner(kind, service_settings, session)
            unless_made.pop_all()

    def _make_driver(self, settings: NodeSettings, trace: Path | None) -> Driver:
        kind, transport_settings = transport_of(settings)
        make: Any = kind
        life = self._store.life
        station = Station(
            self.id,
            life,
            network_of(settings.ring.name),
            instance=self._store.instance,
            keys=self._keys,
        )
        transport = serving(make(transport_settings, node=self.id), station)
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
                synchronize_s=settings.node.synchronize_s,
            )
            if writer is not None:
                writer.start(
                    time.monotonic_ns(),
                    version=version("vsync-core"),
                    transport=settings.ring.transport,
                    ring=settings.ring.name,
                )
                writer.flush()
            return Driver(
                engine,
                transport,
                notify=self._notified,
                trace=writer,
                drain_s=settings.node.drain_s,
            )
        except BaseException:
            transport.close()
            if writer is not None:
                writer.close()
            raise

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

    def session(
        self,
        *,
        name: str = "",
        slow: SlowPolicy = SlowPolicy.BLOCK,
        queue_bytes: int = SESSION_QUEUE_BYTES,
        spill_bytes: int = SPILL_BYTES,
        primary: bool = False,
    ) -> NodeSession:
        """A new session, to be used as ``async with node.session() as session``.

        *queue_bytes* may wait in it; what happens beyond that, *slow* says: the ring waits for it
        (``BLOCK``), it ends with Evicted (``EVICT``), or *spill_bytes* go to disk (``SPILL``).
        With *primary*, regular configurations come with ``primary`` and ``reason``, once a service
        has decided; raises MisuseError where none does. *name* is for warnings.
        """
        return NodeSession(
            self,
            name,
            queue_bytes,
            slow=slow,
            spill_bytes=spill_bytes,
            primary=primary,
        )

    @property
    def decides_primary(self) -> bool:
        """Whether a service of this node says which configurations are primary."""
        return any(runner.kind.PRIMARY for runner in self._services.values())

    def group_members(self) -> Mapping[GroupKey, Sequence[Member]]:
        """The members of all groups of the ring; a session's stream may be behind it."""
        return self._driver.engine.groups.members()

    async def status(self) -> dict[str, Any]:
        """How the node is: what ``vsync status --json`` shows."""
        status = await self._result(self._driver.call(self._driver.status))
        status["version"] = version("vsync-core")
        status["speedups"] = speedups.in_use
        status["ring"] = self.settings.ring.name
        status["preset"] = self.settings.ring.preset
        status["uptime_s"] = round(time.monotonic() - self._opened_at, 3)
        if self._keys is None:
            sealed = status["counters"].get("dropped_sealed", 0)
            seen = [SEALED_SEEN.format(sealed)] if sealed else []
            status["warnings"] = [NO_KEY, *seen, *status["warnings"]]
        status["settings_file"] = None if self.settings_file is None else str(self.settings_file)
        status["warnings"] += self._warn_of_changes(changing=status["key_change"] is not None)
        status["services"] = {name: runner.status() for name, runner in self._services.items()}
        for name, runner in self._services.items():
            if runner.failure is not None:
                status["warnings"].append(f"service {name} has failed: {runner.failure}")
        return status

    async def request(self, service: str, body: bytes) -> bytes:
        """As ``Session.request``."""
        runner = self._services.get(service)
        if runner is None:
            running = ", ".join(sorted(self._services)) or "none"
            raise ServiceFailed(
                f"no service {service!r} runs in node {self.id} (running: {running}); "
                f"add a section [service.{service}] to its settings"
            )
        return await runner.request(body)

    # --- changes while it runs ------------------------------------------------------------------

    def _changed(self, change: SettingsChanged | KeyStep) -> None:
        """The ring has changed, or wants us to do something for it; called in its thread."""
        if isinstance(change, KeyStep):
            self._keeper.do(change)
        else:
            with self._settings_lock:
                self.settings = self.settings.model_copy(update={"ring": change.new})

    def _warn_of_changes(self, *, changing: bool) -> list[str]:
        found = self._keeper.warnings(changing=changing)
        written, current = dict(self._written.shared()), dict(self.settings.ring.shared())
        differing = [
            f"{name} = {shown(value)}" for name, value in current.items() if written[name] != value
        ]
        if differing:
            found.append(
                "the settings file of this node is behind what its ring was changed to; write into "
                f"[ring]: {', '.join(differing)}"
            )
        return found

    async def reload(
        self, *, dry_run: bool = False, expected: Sequence[Difference] | None = None
    ) -> list[Difference]:
        """Read the settings file again, and have what it says now; what differed.

        What all nodes share changes on the whole ring. If anything differs that cannot change
        (``where`` is ``restart``), or with *dry_run*, nothing is changed. If there is something
        else to change than *expected*, nothing is, either.

        Raises SettingsError for a file that cannot be used, ChangeFailed if the ring does not
        change, TransportFailed if a link cannot be had; then all is as it was.
        """
        if self.settings_file is None:
            raise MisuseError("this node was not opened with a settings file, so none can be read")
        if self._reloading:
            raise MisuseError("the settings are being reloaded already; wait until they are")
        self._reloading = True
        try:
            new = await anyio.to_thread.run_sync(read_settings, self.settings_file)
            found = differences(self.settings, new)
            if expected is not None and list(expected) != found:
                raise SettingsError(
                    f"{self.settings_file} or the ring has changed since the difference was shown; "
                    "look at it again"
                )
            if not dry_run and all(each.where != RESTART for each in found):
                with anyio.CancelScope(shield=True):  # all of it, or nothing
                    await self._have(new, found)
            return found
        finally:
            self._reloading = False

    async def _have(self, new: NodeSettings, found: Sequence[Difference]) -> None:
        """Have *new* settings, of which *found* are other ones. What may fail comes first."""
        old = self.settings
        ready = [prepare(new) for prepare in self.prepare_reload]
        ready.append(self._prepare_keys(new))
        changes_transport = any(each.key.startswith("transport.") for each in found)
        if changes_transport:
            for settings in (new, old):  # it may have to go back
                kind, section = transport_of(settings)
                look_up = kind.looking_up(section)
                if look_up is not None:
                    await anyio.to_thread.run_sync(look_up)
            await self._result(self._driver.reload_transport(transport_of(new)[1]))
        if any(each.where == RING for each in found):
            try:
                await self._change_ring(new)
            except BaseException:
                if changes_transport:
                    await self._restore_transport(old)
                raise
        self._driver.retime(new.node.drain_s, new.node.synchronize_s)
        for go in ready:
            go()
        with self._settings_lock:  # the ring's may have changed once more in the meantime
            ring = new.ring.with_shared(self.settings.ring.shared())
            self.settings = new.model_copy(update={"ring": ring})
        self._written = new.ring

    async def _restore_transport(self, old: NodeSettings) -> None:
        try:
            await self._result(self._driver.restore_transport(transport_of(old)[1]))
        except TransportFailed as error:  # why the ring did not change is to be told, too
            logger.error("node %d: the transport keeps its new settings: %s", self.id, error)

    async def _change_ring(self, new: NodeSettings) -> None:
        changing = self._driver.change_settings(new.ring)
        with anyio.move_on_after(RING_CHANGE_S):
            await self._result(changing)
            return
        self._driver.give_up_settings()
        await self._result(changing)

    def _prepare_keys(self, new: NodeSettings) -> Callable[[], None]:
        keys = self._keys
        if keys is None:
            return lambda: None
        accepted = [read_key(Path(path)) for path in new.security.accepted_key_files]

        def go() -> None:
            for key in accepted:
                keys.accept(key)
            kept = frozenset(key.id for key in accepted)
            for key_id in keys.kept - kept - {keys.used.id}:
                keys.drop(key_id)
            keys.kept = kept

        return go

    async def rotate_key(
        self, *, copied: bool = False, without: Sequence[int] = ()
    ) -> dict[str, Any]:
        """Change the key of the running ring to a new one, in its nodes and in their key files.

        Waits until all nodes have it and nothing else; nodes in *without* are not waited for while
        they are away. With *copied* the new key is in each node's key file with ``.next`` behind
        its name already, and does not travel. Who stops waiting does not stop the change.

        Raises MisuseError, SettingsError, ChangeFailed; then the key is as it was.
        """
        driver = self._driver
        news = await self._result(driver.call(lambda now: driver.engine.changes.rekeying.known))
        if news is None:
            news = await anyio.to_thread.run_sync(
                lambda: self._keeper.propose(copied=copied, without=without)
            )
        else:  # it is under way already
            news = KeyNews(0, news.new, news.old, without=frozenset(map(NodeId, without)))
        began_at = self._now()
        beginning, changing = self._driver.change_key(news)
        begun = await self._result(beginning)
        await self._result(changing)
        configuration = self.configuration
        return {
            "old": begun.old.hex(),
            "new": begun.new.hex(),
            "members": [] if configuration is None else list(configuration.members),
            "seconds": round(self._now() - began_at, 3),
        }

    # --- for sessions ---------------------------------------------------------------------------

    async def _result(self, future: "Future[Result]") -> Result:
        """What the ring's thread answers."""
        while not future.done():
            await self._news.wait()
        return future.result()

    def _notified(self) -> None:
        """There is news; called in whichever thread runs the engine."""
        self._caller.call()

    def _notice(self) -> None:
        """Wake whoever waits for news, once for all that there is."""
        self._driver.seen()
        self._wake_all()

    def _wake_all(self) -> None:
        while self._driver.late_services:
            self._services[self._driver.late_services.pop()].end_late(
                self.settings.node.synchronize_s
            )
        self._news.tell()
        for session in self._sessions:  # there may be hundreds, and news for few
            session._wake_if_news()

    async def _open(self, tasks: TaskGroup) -> None:
        for runner in self._services.values():
            runner.start(tasks)
        self._driver.start()
        while not (self._driver.ready or self._driver.ended):
            await self._news.wait()
        if self._driver.ended:
            raise self._driver.end_error()

    def _now(self) -> float:
        """The time (monotonic, seconds)."""
        return time.monotonic()

    async def _close(self) -> None:
        """End the services, drain, leave, end the thread."""
        self._keeper.close()
        for runner in self._services.values():
            await runner.stop()
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

    def _load_kept(self, service: str) -> bytes | None:
        """What a service of this node kept."""
        return self._store.load_service(service)

    async def _keep(self, service: str, data: bytes) -> None:
        """Keep something for a service, on disk."""
        await anyio.to_thread.run_sync(self._store.save_service, service, data)

    def _release(self) -> None:
        self._caller.close()
        self._store.close()


@asynccontextmanager
async def open_node(
    settings: NodeSettings | str | os.PathLike[str],
    *,
    trace: str | os.PathLike[str] | None = None,
    settings_file: str | os.PathLike[str] | None = None,
) -> AsyncIterator[Node]:
    """Open a node, and close it at the end of the block: ``async with open_node(…) as node``.

    *settings* is a settings file's path, or what it would say. *trace* is a file that every event
    is appended to (see the trace's format in the documentation). *settings_file* is where
    ``Node.reload`` reads settings that were not given as a path. The block begins when the node has
    its first configuration. At its end the node delivers what it accepted, for up to
    ``[node] drain_s``, and leaves the ring.

    Raises SettingsError, PluginNotFound, TransportFailed, StateFailed when it opens; at the end of
    the block Undelivered if something accepted was not yet known to be everywhere, and whatever
    ended the node before (DuplicateNode, TransportFailed, StateFailed).
    """
    if not isinstance(settings, NodeSettings):
        settings_file = settings_file or settings
        settings = read_settings(settings)
    place = None if settings_file is None else Path(settings_file)
    node = Node(settings, None if trace is None else Path(trace), place)
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                await node._open(tasks)
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

"""Nodes with applications in a simulated cluster: the node, sessions and services that users have.

Only what touches the machine is another one here: in place of the ring's thread there is a driver
whose turns the cluster takes, in place of the state directory the store of the simulated host, and
the event loop is one in virtual time.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, Final, Protocol, TypeAlias

import anyio
import anyio.lowlevel
from pydantic import BaseModel

from vsync.api.keeper import Keeper
from vsync.api.news import News
from vsync.api.node import SEND_QUEUE_BYTES, SERVICE_QUEUE_BYTES, Node
from vsync.api.node_session import NodeServiceSession, NodeSession
from vsync.api.room import Room
from vsync.api.services import ServiceRunner
from vsync.engine import Engine
from vsync.engine.groups import EngineOutput
from vsync.errors import NodeClosed
from vsync.plugins import load_service
from vsync.runtime.driver import Driver, Submission
from vsync.runtime.spill import Worker
from vsync.service import Service
from vsync.settings import NodeSettings, RingSettings
from vsync.settings_file import services_of
from vsync.testing.cluster import Cluster, Host
from vsync.testing.network import NEVER
from vsync.testing.virtual_loop import Process, VirtualLoop
from vsync.transport import Burst, Packet, Transport
from vsync.vocabulary import GroupKey, Guarantee, MessageId, Priority

Services: TypeAlias = Mapping[type[Service] | str, Mapping[str, Any]]
"""Services by class, or by the name of an installed one, and their settings."""

WAKE_MIN_S: Final = 20e-6
WAKE_MAX_S: Final = 300e-6
"""How long it takes until an application notices that its node has something for it."""


class Application(Protocol):
    """What lives on a node: ``run`` from the first configuration to the end of the node."""

    def __call__(self, node: "SimulatedNode") -> Coroutine[Any, Any, None]:
        """Run on *node*; cancelled when the node leaves or crashes."""


class _NoSettings(BaseModel):
    pass


class _NoTransport(Transport):
    """What a simulated node's driver has: the cluster carries its packets."""

    SCHEME = "simulated"
    SETTINGS = _NoSettings

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def descriptors(self) -> Sequence[int]:
        return ()

    def send(self, burst: Burst) -> None:
        raise AssertionError("the cluster sends")

    def receive(self) -> Sequence[Packet]:
        return ()

    @property
    def packet_bytes_max(self) -> int:
        return 0

    @property
    def receive_buffer_bytes(self) -> int:
        return 0


class SteppedDriver(Driver):
    """A driver without a thread: ``NodeCluster`` takes its turns when its host does something."""

    def __init__(
        self,
        cluster: "NodeCluster",
        host: Host,
        engine: Engine,
        notify: Callable[[], None],
        drain_s: float,
    ) -> None:
        super().__init__(
            engine, _NoTransport(), notify=notify, drain_s=drain_s, clock=lambda: cluster.now
        )
        self._wake_receiver.close()
        self._wake_sender.close()
        self._cluster = cluster
        self._host = host

    def start(self) -> None:
        """Nothing: the cluster has started the engine."""

    def close(self) -> None:
        if self._closing_by is None:
            super().close()
            self._cluster.begin_leave(self._host, self._drain_s)

    def join(self, timeout_s: float | None = None) -> bool:
        return True

    def _wake(self) -> None:
        self._awake = True
        self._host.called = not self.ended

    def _let_out(self) -> None:
        if self._host.engine is self.engine:
            self._cluster.let_out(self._host)

    def take_turn(self, now: float) -> None:
        """Do what the application wants."""
        self._host.called = False
        self._take_commands(now)
        self._host.called = self.to_do

    def hand_out(self, outputs: Sequence[EngineOutput]) -> None:
        """Give the application what there is."""
        if outputs:
            self._hand_over(outputs)
        self._tell_room()

    @property
    def undelivered(self) -> int:
        """Messages that were accepted and may not be everywhere yet."""
        return self.engine.unstable + self._unaccepted()

    def end(self, failure: BaseException | None) -> None:
        """The node has ended, because of *failure* if there is one."""
        if not self.ended:
            self.failure = failure
            self._end()

    def _accept(self, submission: Submission, now: float) -> None:
        self._taken_bytes[submission.priority] += submission.size
        for payload in submission.payloads:
            self._cluster.accept(
                self._host,
                submission.session,
                submission.groups,
                payload,
                submission.guarantee,
                submission.priority,
            )


class _Inline(Worker[Any]):
    """Does its jobs at once: threads are not the same twice."""

    def submit(self, job: Any) -> None:
        self._work(job)


class SimulatedNode(Node):
    """A node on a simulated host, for one of its lives."""

    def __init__(
        self,
        cluster: "NodeCluster",
        host: Host,
        engine: Engine,
        process: Process,
        settings: NodeSettings,
        services: Sequence[tuple[type[Service], BaseModel]],
    ) -> None:
        # In place of that of Node, which opens sockets and files.
        self.settings = settings
        self.settings_file = None
        self._written = settings.ring
        self._news = News()
        self._sessions = []
        self._keys = None
        self._session_numbers = 0
        self._services = {}
        self._rooms = tuple(Room(self, priority) for priority in Priority)
        self.send_queue_bytes = max(SEND_QUEUE_BYTES, 2 * settings.ring.message_bytes_max)
        self.stepped = SteppedDriver(cluster, host, engine, self._notified, settings.node.drain_s)
        self._driver = self.stepped
        self._keeper = Keeper(host.node, None, None, self.stepped.key_step_done)
        self._cluster = cluster
        self._life = host.life
        self._kept = host.store.services
        self._process = process
        self._opened_at = cluster.now
        for kind, service_settings in services:
            session = NodeServiceSession(self, kind.NAME, SERVICE_QUEUE_BYTES, serves=True)
            self._services[kind.NAME] = ServiceRunner(kind, service_settings, session)

    @property
    def life(self) -> int:
        return self._life

    def session(self, **options: Any) -> NodeSession:
        session = super().session(**options)
        mailbox = session._mailbox
        mailbox._writer = _Inline("none", mailbox._write)
        return session

    def service(self, name: str) -> Service:
        """The object of the service *name*; KeyError if it does not run here."""
        return self._services[name]._service

    async def status(self) -> dict[str, Any]:
        return await super().status() | {"uptime_s": round(self._cluster.now - self._opened_at, 6)}

    def _load_kept(self, service: str) -> bytes | None:
        return self._kept.get(service)

    async def _keep(self, service: str, data: bytes) -> None:
        # A disk takes its time, and who crashes meanwhile may have kept it or not.
        await anyio.sleep(self._cluster.latency_s())
        self._kept[service] = data
        await anyio.sleep(self._cluster.latency_s())

    def _notified(self) -> None:
        self._process.call_later(self._cluster.latency_s(), self._notice)

    def _now(self) -> float:
        return self._cluster.now


class Life:
    """One life of a node with its application, from its start to its crash or leaving."""

    def __init__(self, cluster: "NodeCluster", host: Host, engine: Engine) -> None:
        self.process = Process(cluster.loop, f"node {host.node}")
        self.node: SimulatedNode | None = None
        """None in the instant of its start."""
        self.begun = False
        """The node has its first configuration, and the application runs."""
        self.crashed = False
        self.blocked = False
        self._cluster = cluster
        self._host = host
        self._engine = engine
        self._leaving = False
        self._scope: anyio.CancelScope | None = None
        self.process.spawn(self._run(), f"node {host.node}")

    @property
    def leaving(self) -> bool:
        """The node has been told to leave."""
        return self._leaving

    def leave(self) -> None:
        """Close the application, then the node."""
        if not self._leaving:
            self._leaving = True
            self.process.call_later(0, self._cancel)

    def _cancel(self) -> None:
        assert self._scope is not None, "its task has not begun"
        self._scope.cancel()

    def crash(self) -> None:
        """The node is no more: nothing that its tasks still do gets out."""
        self.crashed = True
        host = self._host
        self.end(NodeClosed(f"node {host.node} crashed at {self._cluster.now:.6f} s"))
        self.process.cancel()

    def end(self, failure: BaseException | None) -> None:
        """The engine has ended."""
        self._host.called = self.blocked = False
        self.update()
        if self.node is not None:
            self.node.stepped.end(failure)

    def update(self) -> None:
        """Stop the application or let it go on, as host and faults will have it."""
        stopped = self._host.paused or self.blocked
        if stopped and not self.process.stopped:
            self.process.stop()
        elif self.process.stopped and not stopped:
            self.process.go_on()

    async def _run(self) -> None:
        cluster, host = self._cluster, self._host
        try:
            self._scope = anyio.CancelScope()
            settings, services = cluster.node_settings(host.node)
            self.node = node = SimulatedNode(
                cluster, host, self._engine, self.process, settings, services
            )
            async with anyio.create_task_group() as tasks:
                with self._scope:
                    await node._open(tasks)
                    self.begun = True
                    await cluster.application(node)
                    await anyio.sleep_forever()
                await node._close()
                tasks.cancel_scope.cancel()
        except Exception as error:
            if not self.crashed:  # a dead process tells nothing
                cluster.loop.fail(error)


class NodeCluster(Cluster):
    """A cluster whose nodes run *application*, each life anew, in virtual time.

    *services* gives the services of a node. Whoever wants time to pass
    runs ``loop``. All commands of ``Cluster`` mean the node and its application.
    """

    def __init__(
        self,
        application: Application,
        nodes: int,
        seed: int,
        *,
        services: Callable[[int], Services],
        settings: RingSettings,
        synchronize_s: float,
    ) -> None:
        self.application = application
        self.lives: dict[int, Life] = {}
        """The last life of each host."""
        self._services = services
        self._synchronize_s = synchronize_s
        self._latency = Random(f"latency {seed}")
        super().__init__(nodes, seed, settings=settings)
        self.loop = VirtualLoop(self)

    def node_settings(
        self, node: int
    ) -> tuple[NodeSettings, Sequence[tuple[type[Service], BaseModel]]]:
        """What a node is opened with. Raises what ``services_of`` does."""
        chosen = {
            kind if isinstance(kind, str) else kind.NAME: (kind, dict(section))
            for kind, section in self._services(node).items()
        }
        settings = NodeSettings.model_validate(
            {
                "node": {"id": node, "synchronize_s": self._synchronize_s},
                "ring": self._settings.model_dump(),
                "service": {name: section for name, (_, section) in chosen.items()},
            }
        )

        def load(name: str) -> type[Service]:
            kind = chosen[name][0]
            return load_service(kind) if isinstance(kind, str) else kind

        return settings, services_of(settings, load)

    def latency_s(self) -> float:
        """How long an application takes to notice something."""
        return self._latency.uniform(WAKE_MIN_S, WAKE_MAX_S)

    # --- life and death -------------------------------------------------------------------------

    def start(self, *numbers: int) -> None:
        for number in numbers or sorted(self.hosts):
            host = self.hosts[number]
            if host.engine is None:
                super().start(number)
                host.called = False
                assert host.engine is not None
                self.lives[number] = Life(self, host, host.engine)

    def crash(self, *numbers: int) -> None:
        for number in numbers:
            running = self.hosts[number].engine is not None
            super().crash(number)
            if running:
                self.lives[number].crash()

    def pause(self, *numbers: int) -> None:
        super().pause(*numbers)
        self._update_lives()

    def freeze(self, *numbers: int) -> None:
        """As ``pause``: all that runs here has one clock, which goes on."""
        self.pause(*numbers)

    def resume(self, *numbers: int) -> None:
        super().resume(*numbers)
        self._update_lives()

    def leave(self, *numbers: int) -> None:
        for number in numbers:
            if self.hosts[number].engine is not None:
                self.lives[number].leave()

    def block(self, number: int, blocked: bool) -> None:
        """Let the application stand still, while its node goes on; or no more."""
        if self.hosts[number].engine is not None:
            self.lives[number].blocked = blocked
            self._update_lives()

    def _update_lives(self) -> None:
        for life in self.lives.values():
            life.update()

    def begin_leave(self, host: Host, drain_s: float) -> None:
        """The application has closed; the node leaves once its messages are everywhere."""
        if host.engine is not None:
            host.engine.close_sessions(self.now)
            host.leave_before = self.now + drain_s
            host.called = True

    # --- messages -------------------------------------------------------------------------------

    def submit(
        self,
        number: int,
        payload: bytes | int,
        guarantee: Guarantee = Guarantee.AGREED,
        priority: Priority = Priority.MEDIUM,
        group: str = "load",
    ) -> MessageId | None:
        host, life = self.hosts[number], self.lives.get(number)
        if host.engine is None or host.engine.configuration is None:
            return None
        if life is None or life.node is None or life.leaving:
            return None
        if isinstance(payload, int):
            payload = self.random.randbytes(payload)
        [message] = life.node.stepped.submit(
            Submission(0, [GroupKey.from_name(group)], [payload], guarantee, priority)
        )
        return message

    def accept(
        self,
        host: Host,
        session: int,
        groups: Sequence[GroupKey],
        payload: bytes,
        guarantee: Guarantee,
        priority: Priority,
    ) -> None:
        """A message of an application reaches its engine."""
        assert host.engine is not None
        self._accept(host, host.engine, session, groups, payload, guarantee, priority)

    # --- time -----------------------------------------------------------------------------------

    def pass_time(self, until: float, interrupted: Callable[[], bool]) -> None:
        """As ``World`` says."""
        self._look_around()
        while not interrupted():
            due = self._due()
            if due >= until:
                if until < NEVER:
                    self.now = until
                return
            self._advance(due)

    def run(self, seconds: float) -> None:
        self.loop.complete(anyio.sleep(seconds), NEVER, "time")

    def is_whole(self) -> bool:
        """All nodes are in one configuration, and their applications run."""
        members = tuple(sorted(host.node for host in self.hosts.values()))
        return all(
            host.engine is not None
            and host.engine.members == members
            and not host.engine.synchronizing
            and self.lives[host.number].begun
            for host in self.hosts.values()
        )

    def at_rest(self) -> bool:
        """Everything sent is everywhere, and all who can hear each other are on one ring."""
        for host in self._live:
            engine, driver = host.engine, self._driver_of(host)
            if driver is None or driver.undelivered or engine is None or engine.synchronizing:
                return False
        return self._calm()

    def standing(self) -> tuple[object, ...]:
        """What stays the same while nothing changes."""
        return self._standing()

    # --- inside ---------------------------------------------------------------------------------

    def _driver_of(self, host: Host) -> SteppedDriver | None:
        life = self.lives.get(host.number)
        return None if life is None or life.node is None else life.node.stepped

    def _work(self, host: Host) -> None:
        driver = self._driver_of(host)
        if driver is not None:
            driver.take_turn(self.now)
        super()._work(host)

    def _tell(self, host: Host, outputs: Sequence[EngineOutput]) -> None:
        driver = self._driver_of(host)
        if driver is not None and driver.engine is host.engine:
            driver.hand_out(outputs)

    def let_out(self, host: Host) -> None:
        """Let out what the engine has for the network and for the application."""
        self._take_outputs(host)

    def _take_outputs(self, host: Host, stop: str | None = None) -> None:
        engine = host.engine
        super()._take_outputs(host, stop)
        life = self.lives.get(host.number)
        if host.engine is None and engine is not None and life is not None:
            life.end(engine.failure)

    def _maybe_leave(self, host: Host) -> None:
        driver = self._driver_of(host)
        if host.leave_before is not None and (
            driver is None or not driver.undelivered or host.leave_before <= self.now
        ):
            super()._maybe_leave(host)

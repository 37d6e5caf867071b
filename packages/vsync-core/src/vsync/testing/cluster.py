"""A whole cluster in virtual time: real engines, a simulated network, one seed.

    cluster = Cluster(nodes=3, seed=7)
    cluster.start()
    cluster.settle()
    cluster.submit(1, 100)
    cluster.crash(2)
    cluster.settle()
    assert cluster.check(quiet=True).holds

The same calls with the same seed give the same trace, always. Nothing here reads a clock. An
exception in an engine is not caught: it is a bug.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeAlias

from vsync.engine import Engine, MemoryStore, State
from vsync.engine.groups import EngineOutput, events_of
from vsync.engine.rekeying import KeyStep, Step
from vsync.errors import SettingsError, VsyncError
from vsync.events import ConfigurationChanged, Delivery, GroupChanged
from vsync.key_change import do_step, switch
from vsync.keys import Key, KeyRing
from vsync.seal.wrapping import wrap_key
from vsync.settings import RingSettings
from vsync.testing.history import History
from vsync.testing.key_disk import KeyDisk
from vsync.testing.network import NEVER, Inbox, Network
from vsync.testing.properties import Findings, check
from vsync.testing.wiring import KEY, PLAIN, Wires, Wiring
from vsync.trace import digest, view_fields
from vsync.transport import Arrival, Station
from vsync.vocabulary import Cause, GroupKey, Guarantee, MessageId, NodeId, Priority
from vsync.wire import KeyNews

Line: TypeAlias = dict[str, Any]
"""A line of a trace, as the fields of its JSON object."""

RECEIVE_BATCH: Final = 128
"""Packets that a node takes in at once, as transports bound it."""

WORK_MIN_S: Final = 10e-6
WORK_MAX_S: Final = 60e-6
"""How long a node is busy with one batch; what arrives in the meantime waits and is the next."""

LEAVE_WAIT_S: Final = 2.0
"""How long a leaving node waits for its own messages to be everywhere."""

SETTLE_S: Final = 0.5
"""How long nothing may change before a cluster counts as settled."""


KEY_STEP_MIN_S: Final = 0.5e-3
KEY_STEP_MAX_S: Final = 30e-3
"""How long a disk takes to keep a key."""


@dataclass(slots=True)
class Host:
    """A place where one node lives, dies and lives again."""

    number: int
    """Its address on the network."""
    node: NodeId
    inbox: Inbox
    wiring: Wiring | None = None
    store: MemoryStore = field(default_factory=MemoryStore)
    settings: RingSettings | None = None
    """What its settings file says; ``None``: what all others' say."""
    disk: KeyDisk = field(default_factory=KeyDisk)
    keys: KeyRing = field(default_factory=lambda: KeyRing(KEY))
    key_steps: deque[tuple[float, KeyStep]] = field(default_factory=deque)
    """What is to be done with its keys, and when that is done."""
    engine: Engine | None = None
    """``None``: nothing runs here."""
    lives: int = 0
    paused: bool = False
    frozen_at: float | None = None
    """Since when its clock stands still, too."""
    behind_s: float = 0.0
    """How far its clock is behind that of the cluster: its machine was frozen."""
    busy_until: float = 0.0
    called: bool = False
    """Its application has something to say to its engine."""
    leave_before: float | None = None
    """When a leaving node goes, stable or not."""
    failure: VsyncError | None = None
    """Why the last life stopped, if it had to."""
    wakes_at: float = NEVER
    """``due()`` as it was when this host last changed: asked often, computed seldom."""

    @property
    def life(self) -> int:
        """This life's number: it grows, and no two hosts share one, even with the same node id."""
        return self.lives << 8 | self.number

    def due(self) -> float:
        """When this node has something to do."""
        if self.engine is None or self.paused:
            return NEVER
        if self.inbox.packets or self.called:
            return self.busy_until
        deadline = self.engine.poll_timeout()
        if deadline is None:
            deadline = NEVER
        if self.wiring is not None:
            deadline = min(deadline, self.wiring.poll_timeout())
        due = max(self.busy_until, deadline + self.behind_s)
        return min(due, self.key_steps[0][0]) if self.key_steps else due


class Cluster:
    """Nodes 1 to *nodes* on one network, not started yet.

    *settings* apply to all. *packet_bytes_max* and *receive_buffer_bytes* are the network's.
    *wires* may connect the nodes several times, and have packets sealed.
    """

    def __init__(
        self,
        nodes: int = 3,
        seed: int = 7,
        *,
        settings: RingSettings | None = None,
        packet_bytes_max: int = 1472,
        receive_buffer_bytes: int = 4 << 20,
        wires: Wires = PLAIN,
    ) -> None:
        self.now = 0.0
        """Virtual seconds since the cluster was made."""
        self.lines: list[Line] = []
        """The trace of all nodes, in the order of time."""
        self.hosts: dict[int, Host] = {}
        self.random = Random(seed)
        self.network = Network(self.random, receive_buffer_bytes)
        self._openings = 0
        """Of links that were closed; each has a port of its own."""
        self.on_line: Callable[[Host, Line], None] | None = None
        """Told of every line of the trace as it happens."""
        self._settings = settings or RingSettings()
        self._keys_changed = 0
        self._packet_bytes_max = packet_bytes_max
        self._receive_buffer_bytes = receive_buffer_bytes
        self._wires = wires
        self.network.attacked = wires.sealed
        for node in range(1, nodes + 1):
            self.add(node, NodeId(node))

    def add(self, number: int, node: NodeId) -> Host:
        """Add a host; *node* may be the id of another host's node, by mistake."""
        host = Host(number, node, self.network.attach(number))
        self.hosts[number] = host
        return host

    # --- life and death -------------------------------------------------------------------------

    def start(self, *numbers: int) -> None:
        """Start these hosts' nodes, or all. One that runs already goes on."""
        for number in numbers or sorted(self.hosts):
            host = self.hosts[number]
            if host.engine is not None:
                continue
            host.lives += 1
            host.inbox.clear()
            host.paused, host.frozen_at, host.behind_s = False, None, 0.0
            host.leave_before = None
            host.busy_until = self.now
            host.keys = host.disk.keys
            packet_bytes_max = self._packet_bytes_max
            if not self._wires.plain:
                station = Station(host.node, host.life, 0, instance=host.number)
                host.wiring = Wiring(self._wires, station, packet_bytes_max, self.now, host.keys)
                packet_bytes_max = host.wiring.packet_bytes_max
                for link in range(1, self._wires.links + 1):
                    if self.network.ports.get((link, number), 0) is None:
                        self._give_port(link, number)
            host.engine = Engine(
                host.node,
                host.life,
                host.settings or self._settings,
                now=self.now,
                packet_bytes_max=packet_bytes_max,
                receive_buffer_bytes=self._receive_buffer_bytes,
                store=host.store,
            )
            self._trace(host, "start", version="0", transport="simulated", ring=self._settings.name)
            host.engine.start(self.now)
            self._take_outputs(host)

    def crash(self, *numbers: int) -> None:
        """Kill these nodes: nothing of them remains but the ring number that they stored."""
        for number in numbers:
            host = self.hosts[number]
            host.engine = None
            host.paused = False
            host.inbox.clear()
            if host.key_steps and self.random.random() < 0.5:  # it may have reached the disk
                with suppress(SettingsError):
                    do_step(host.key_steps[0][1], host.keys, host.disk)
            host.key_steps.clear()

    def restart(self, *numbers: int) -> None:
        """Kill these nodes if they run, and start them as new lives."""
        self.crash(*numbers)
        self.start(*numbers)

    def pause(self, *numbers: int) -> None:
        """Stop these nodes as SIGSTOP does: packets wait for them, up to the receive buffer."""
        for number in numbers:
            self.hosts[number].paused = self.hosts[number].engine is not None

    def freeze(self, *numbers: int) -> None:
        """Stop these nodes with their machines: not even their clocks go on, until ``resume``."""
        self.pause(*numbers)
        for number in numbers:
            host = self.hosts[number]
            if host.paused and host.frozen_at is None:
                host.frozen_at = self.now

    def resume(self, *numbers: int) -> None:
        """Let these nodes, or all, go on as SIGCONT does, and their machines if they are frozen."""
        for number in numbers or sorted(self.hosts):
            host = self.hosts[number]
            host.paused = False
            if host.frozen_at is not None:
                host.behind_s += self.now - host.frozen_at
                host.frozen_at = None

    def _clock(self, host: Host) -> float:
        """What time it is on that host."""
        return self.now - host.behind_s

    def leave(self, *numbers: int) -> None:
        """Let these nodes leave once their messages are everywhere; after 2 s they go anyway."""
        for number in numbers:
            host = self.hosts[number]
            if host.engine is not None:
                host.leave_before = self.now + LEAVE_WAIT_S
                if not host.paused:
                    self._maybe_leave(host)

    def close_link(self, number: int, link: int) -> bool:
        """Close one of several links of that node; False: it goes on, for it is the last one."""
        host = self.hosts[number]
        closed = host.engine is not None and host.wiring is not None and host.wiring.close(link)
        if closed:
            self.network.ports[link, number] = None
        return closed

    def open_link(self, number: int, link: int) -> None:
        """Open a link again that was closed, at another address."""
        host = self.hosts[number]
        assert host.wiring is not None
        self._give_port(link, number)
        host.wiring.open(link, self._clock(host))

    def _give_port(self, link: int, number: int) -> None:
        self._openings += 1
        self.network.ports[link, number] = self._openings

    def block(self, number: int, blocked: bool) -> None:
        """Say that this node's application is too slow to read, or no more."""
        host = self.hosts[number]
        if host.engine is not None and not host.paused:
            host.engine.set_blocked(blocked, self._clock(host))
            self._take_outputs(host)

    # --- messages -------------------------------------------------------------------------------

    def submit(
        self,
        number: int,
        payload: bytes | int,
        guarantee: Guarantee = Guarantee.AGREED,
        priority: Priority = Priority.MEDIUM,
        group: str = "load",
    ) -> MessageId | None:
        """Send a message, or one of that many random bytes; its id.

        ``None`` if that node does not run, is paused or leaving, or has no configuration yet.
        """
        host = self.hosts[number]
        engine = host.engine
        if (
            engine is None
            or host.paused
            or host.leave_before is not None
            or engine.configuration is None
        ):
            return None
        if isinstance(payload, int):
            payload = self.random.randbytes(payload)
        message = self._accept(
            host, engine, 0, [GroupKey.from_name(group)], payload, guarantee, priority
        )
        self._take_outputs(host)
        return message

    def _accept(
        self,
        host: Host,
        engine: Engine,
        session: int,
        groups: Sequence[GroupKey],
        payload: bytes,
        guarantee: Guarantee,
        priority: Priority,
    ) -> MessageId:
        message = engine.submit(session, groups, payload, guarantee, priority, self._clock(host))
        self._trace(
            host,
            "send",
            message=str(message),
            groups=[group.hex() for group in groups],
            guarantee=guarantee.word,
            priority=priority.word,
            size=len(payload),
            digest=digest(payload),
        )
        return message

    # --- groups ---------------------------------------------------------------------------------

    def join(self, number: int, session: int, group: str, *, closed: bool = False) -> None:
        """Let a session of this node join a group."""
        key = GroupKey.from_name(group)
        self._command(
            number,
            lambda engine, now: engine.join_groups(session, [key], closed=closed, now=now),
        )

    def quit(self, number: int, session: int, group: str) -> None:
        """Let a session of this node leave a group."""
        key = GroupKey.from_name(group)
        self._command(number, lambda engine, now: engine.leave_groups(session, [key], now))

    def end_session(self, number: int, session: int, cause: Cause = Cause.DIED) -> None:
        """End a session of this node; it leaves all its groups."""
        self._command(number, lambda engine, now: engine.close_session(session, cause, now))

    @property
    def sealed(self) -> bool:
        """Whether the ring has a key."""
        return self._wires.sealed

    # --- changes of the ring --------------------------------------------------------------------

    def change_settings(self, number: int, settings: RingSettings) -> None:
        """Let this node have the whole ring use *settings*. Raises MisuseError."""
        self._command(number, lambda engine, now: engine.change_settings(settings, now))

    def change_key(self, number: int, new: Key, *, without: Collection[int] = ()) -> None:
        """Let this node change the ring's key to *new*. Raises MisuseError."""
        host = self.hosts[number]
        old = host.disk.used
        if old.id == new.id:  # a change that was broken off is taken up again
            old = host.disk.previous or Key(bytes(32))
        self._keys_changed += 1
        news = KeyNews(
            self._keys_changed,
            new.id,
            old.id,
            wrap_key(new, old),
            without=frozenset(map(NodeId, without)),
        )
        self._command(number, lambda engine, now: engine.change_key(news, now))

    def _do_key_step(self, host: Host, engine: Engine, now: float) -> None:
        _, step = host.key_steps.popleft()
        done, failure = step.step, ""
        try:
            done = do_step(step, host.keys, host.disk)
        except SettingsError as error:
            if not step.may_fail:  # it is tried until it works
                self._begin_key_step(host, step)
                return
            failure = str(error)
        if step.step is not Step.UNDO:
            engine.key_step_done(step.name, done, failure, host.keys.used.id, now)

    def _begin_key_step(self, host: Host, step: KeyStep) -> None:
        last = host.key_steps[-1][0] if host.key_steps else self.now
        took_s = self.random.uniform(KEY_STEP_MIN_S, KEY_STEP_MAX_S)
        host.key_steps.append((last + took_s, step))

    def _command(self, number: int, command: Callable[[Engine, float], None]) -> None:
        host = self.hosts[number]
        if host.engine is not None and not host.paused and host.leave_before is None:
            command(host.engine, self._clock(host))
            self._take_outputs(host)

    # --- the network ----------------------------------------------------------------------------

    def partition(self, *sides: Collection[int]) -> None:
        """See ``Network.partition``."""
        self.network.partition(*sides)

    def cut(self, sender: int, receiver: int) -> None:
        """See ``Network.cut``."""
        self.network.cut(sender, receiver)

    def heal(self) -> None:
        """See ``Network.heal``."""
        self.network.heal()

    # --- time -----------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let that much virtual time pass."""
        end = self.now + seconds
        self._look_around()
        while (due := self._due()) <= end:
            self._advance(due)
        self.now = end

    def run_until(self, condition: Callable[[], bool], most_s: float = 10.0) -> bool:
        """Run until *condition* holds; whether it did within that time."""
        end = self.now + most_s
        while not condition():
            self._look_around()  # the condition may have done something
            due = self._due()
            if due > end:
                self.now = end
                return condition()
            self._advance(due)
        return True

    def settle(self, most_s: float = 10.0) -> bool:
        """Run until nothing changes any more: all that can meet are on one ring, everything sent
        is everywhere. Whether that came to be within that time.
        """
        end = self.now + most_s
        while self.now < end:
            before = self._standing()
            self.run(SETTLE_S)
            if self._calm() and self._standing() == before:
                return True
        return False

    # --- what came of it ------------------------------------------------------------------------

    def running(self) -> list[Host]:
        """The hosts whose nodes live."""
        return [host for host in self.hosts.values() if host.engine is not None]

    def engine(self, number: int) -> Engine:
        """The engine on that host, which must run."""
        engine = self.hosts[number].engine
        assert engine is not None, f"nothing runs on host {number}"
        return engine

    def check(self, *, quiet: bool = False) -> Findings:
        """Hold the trace against every property. *quiet*: the cluster has settled."""
        return check(self.history(), quiet=quiet)

    def history(self) -> History:
        """The trace, read."""
        running = {(int(host.node), f"{host.life:x}") for host in self.running()}
        return History.from_lines(self.lines, running=running)

    # --- inside ---------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Anything may have been done to the hosts since time last passed."""
        for host in self.hosts.values():
            host.wakes_at = host.due()

    def _due(self) -> float:
        due = self.network.next_arrival()
        for host in self.hosts.values():
            if host.wakes_at < due:
                due = host.wakes_at
        return due if due > self.now else self.now

    def _advance(self, due: float) -> None:
        self.now = due
        hosts = self.hosts
        for number in self.network.arrive(due):
            host = hosts[number]
            host.wakes_at = host.due()
        for host in hosts.values():
            if host.wakes_at <= due:
                self._work(host)
                host.wakes_at = host.due()

    def _work(self, host: Host) -> None:
        engine, now = host.engine, self._clock(host)
        assert engine is not None
        if host.inbox.packets:
            # Every other host's kernel joins packets.
            take = host.inbox.take if host.number % 2 else host.inbox.take_joined
            arrivals: Sequence[Arrival] = take(RECEIVE_BATCH)
            if host.wiring is not None:
                arrivals = host.wiring.arrived(arrivals, now)
            engine.receive(arrivals, now)
        deadline = engine.poll_timeout()
        # Added, not subtracted, as in ``Host.due``: else they might differ in the last bit.
        if deadline is not None and deadline + host.behind_s <= self.now:
            engine.handle_timeout(max(now, deadline))
        if host.key_steps and host.key_steps[0][0] <= self.now:
            self._do_key_step(host, engine, now)
        host.busy_until = self.now + self.random.uniform(WORK_MIN_S, WORK_MAX_S)
        self._take_outputs(host)
        if host.leave_before is not None:
            self._maybe_leave(host)

    def _maybe_leave(self, host: Host) -> None:
        engine = host.engine
        if engine is None:
            return
        stable = engine.unstable == 0
        if stable or (host.leave_before is not None and host.leave_before <= self.now):
            engine.leave(self._clock(host))
            self._take_outputs(host, stop="leave" if stable else None)

    def _take_outputs(self, host: Host, stop: str | None = None) -> None:
        engine = host.engine
        assert engine is not None
        self._send(host, engine)
        outputs = engine.take_runs()
        for output in outputs:
            if type(output) is KeyStep:
                switch(output, host.keys)
                self._begin_key_step(host, output)
        self._tell(host, outputs)
        self._send(host, engine)
        for event in events_of(outputs):
            if isinstance(event, Delivery):
                self._trace(
                    host,
                    "deliver",
                    message=str(event.message),
                    sender=int(event.message.node),
                    configuration=event.configuration.id,
                    groups=[group.hex() for group in event.groups],
                    guarantee=event.guarantee.word,
                    size=len(event.payload),
                    digest=digest(event.payload),
                )
            elif isinstance(event, ConfigurationChanged):
                configuration = event.configuration
                fields: Line = {
                    "id": configuration.id,
                    "kind": configuration.kind.value,
                    "members": list(configuration.members),
                    "joined": list(configuration.joined),
                    "left": list(configuration.left),
                }
                if configuration.next is not None:
                    fields["next"] = configuration.next
                self._trace(host, "configuration", **fields)
            elif isinstance(event, GroupChanged):
                self._trace(host, "group", **view_fields(event))
        if engine.state is State.LEFT:
            if stop is not None:
                self._trace(host, "stop", reason=stop)
            host.failure = engine.failure
            host.engine = None
            host.inbox.clear()
            host.key_steps.clear()

    def _send(self, host: Host, engine: Engine) -> None:
        wiring, network = host.wiring, self.network
        while (burst := engine.poll_transmit()) is not None:
            if wiring is None:
                network.send(host.number, burst, self.now)
            else:
                for sending in wiring.send(burst):
                    network.send_wired(host.number, sending, self.now)
        if wiring is not None and wiring.poll_timeout() + host.behind_s <= self.now:
            for sending in wiring.hellos(max(self._clock(host), wiring.poll_timeout())):
                network.send_wired(host.number, sending, self.now)

    def _tell(self, host: Host, outputs: Sequence[EngineOutput]) -> None:
        """Where there are applications, they are told here."""

    def _trace(self, host: Host, event: str, **fields: Any) -> None:
        line: Line = {
            "t": round(self.now * 1e9),
            "node": int(host.node),
            "life": f"{host.life:x}",
            "event": event,
            **fields,
        }
        self.lines.append(line)
        if self.on_line is not None:
            self.on_line(host, line)

    def _standing(self) -> tuple[object, ...]:
        return (
            len(self.lines),
            tuple((host.number, host.engine and host.engine.configuration) for host in self._live),
        )

    def _calm(self) -> bool:
        """Everything sent is everywhere, and all who can hear each other are on one ring."""
        live = self._live
        for host in live:
            engine = host.engine
            assert engine is not None
            if engine.state is not State.OPERATIONAL or engine.unstable:
                return False
        cuts = self.network.cuts
        return all(
            (one.number, other.number) in cuts
            or (other.number, one.number) in cuts
            or _members(one) == _members(other)
            for one in live
            for other in live
        )

    @property
    def _live(self) -> Iterable[Host]:
        return [host for host in self.running() if not host.paused]


def _members(host: Host) -> tuple[NodeId, ...]:
    assert host.engine is not None
    return host.engine.members

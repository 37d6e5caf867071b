"""Simulations of applications: nodes that run your code, in virtual time, with faults.

    class Counter:
        def __init__(self, session: vsync.Session) -> None:
            self.session, self.value = session, 0

        async def run(self) -> None:
            await self.session.join("counter")
            async for event in self.session:
                ...

    def test_the_counter() -> None:
        with Simulation(Counter, nodes=3, seed=7) as simulation:
            simulation.run(simulation.application(1).session.send(b"1"))
            simulation.crash(1)
            simulation.settle()
            assert [counter.value for counter in simulation.applications()] == [1, 1]

Engines, sessions and services are the real ones; network, clock and threads are simulated. The same
test with the same seed does the same always, on every machine.
"""

import inspect
import json
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import anyio

from vsync.api.node import Node
from vsync.api.node_session import SESSION_QUEUE_BYTES, SPILL_BYTES
from vsync.api.session import Session
from vsync.errors import MisuseError
from vsync.service import Service
from vsync.settings import RingSettings
from vsync.testing.cluster import SETTLE_S, Line
from vsync.testing.faults import FAULTS, Running, Step, do
from vsync.testing.network import Network
from vsync.testing.simulate import show_line
from vsync.testing.simulated_node import Life, NodeCluster, Services, SimulatedNode
from vsync.testing.virtual_loop import SimulationFailed
from vsync.vocabulary import SlowPolicy

BEGIN_MOST_S: Final = 10.0
"""How long nodes may take to find each other in the beginning."""

END_MOST_S: Final = 60.0
"""How long tasks may take to end once they are cancelled, at the end of a simulation."""

BEGIN_QUIET_S: Final = 0.02
BEGIN_QUIET_MOST_S: Final = 0.5
"""A beginning is over when nothing has happened for so long, or at the latest after so long."""

LOOK_S: Final = 0.001
"""How often a condition is looked at."""

FAULTS_PER_S: Final = 2.0
"""How many faults ``disturb`` makes in a second, on average."""

STEPS_SHOWN: Final = 20
LINES_SHOWN: Final = 5

LIFE_AND_DEATH: Final = ("start", "crash", "restart", "leave")

App = TypeVar("App", covariant=True)
Result = TypeVar("Result")
ServiceKind = TypeVar("ServiceKind", bound=Service)


async def idle(session: Session) -> None:
    """An application that does nothing, for simulations of services alone."""


class Simulation(Generic[App]):
    """Nodes 1 to *nodes*, each with an application, from the beginning of a ``with`` block to its
    end.

    *application* is called with a session on each node when the node has its first configuration,
    and again in every later life of it. It is a class (or any callable) whose objects have an
    ``async def run(self)``, or an async function; ``application()`` gives the object. What it does
    is ended when its node leaves or crashes; of a node that crashes nothing remains.

    *seed* decides everything that is left to chance. *services* are run by every node: their
    settings by class or by name, or a function that gives those of a node. *settings* are the
    ring's; *synchronize_s* is as in ``[node]``; *slow*, *queue_bytes*, *spill_bytes* and *primary*
    are those of ``Node.session``.

    The block begins when all nodes are in one configuration, and applications have come to rest if
    they do within 0.5 s; with ``start=False``, before any node runs. At its end the properties of
    virtual synchrony are checked (``check``). It raises SimulationFailed, an AssertionError, and
    whatever an application raises, each with a note of the seed and of what was done.

    Inside, use anyio or asyncio, and their clocks: ``anyio.current_time`` is virtual time. Sockets,
    threads, files that others write, real clocks and unseeded dice do not belong into a simulation;
    ``random`` is there for applications that need dice.
    """

    def __init__(
        self,
        application: Callable[[Session], App],
        *,
        nodes: int = 3,
        seed: int = 7,
        services: Services | Callable[[int], Services] | Iterable[type[Service] | str] = (),
        settings: RingSettings | None = None,
        synchronize_s: float = 30.0,
        slow: SlowPolicy = SlowPolicy.BLOCK,
        queue_bytes: int = SESSION_QUEUE_BYTES,
        spill_bytes: int = SPILL_BYTES,
        primary: bool = False,
        start: bool = True,
    ) -> None:
        if nodes < 1:
            raise MisuseError(f"a simulation has at least one node, not {nodes}")
        self.seed = seed
        self.random = Random(f"application {seed}")
        """Dice for applications and tests."""
        self.steps: list[Step] = []
        """What was done to the nodes and the network, and when."""
        self._make = application
        self._slow = slow
        self._queue_bytes = queue_bytes
        self._spill_bytes = spill_bytes
        self._primary = primary
        self._start = start
        self._faults = Random(f"faults {seed}")
        self._applications: dict[int, tuple[Life, App]] = {}
        self._settled_lines = -1
        self._ended_with: list[int] | None = None
        self.cluster = NodeCluster(
            self._apply,
            nodes,
            seed,
            services=_by_node(services),
            settings=settings or RingSettings(),
            synchronize_s=synchronize_s,
        )
        """The engines, for tests that look deeper; let time pass with the methods here only."""

    def __enter__(self) -> Self:
        try:
            for node in self.cluster.hosts:
                self.cluster.node_settings(node)  # raises what is wrong with them
            if self._start:
                self.start()
                self._begin()
        except BaseException as error:
            self._close(error)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                self.check()
            except BaseException as failure:
                self._close(failure)
                raise
        self._close(error)

    # --- what runs ------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Seconds of virtual time since the beginning."""
        return self.cluster.now

    @property
    def nodes(self) -> list[int]:
        """The nodes that run, ascending, paused ones too; after the block, those that did."""
        if self._ended_with is not None:
            return self._ended_with
        return sorted(host.number for host in self.cluster.running())

    @property
    def network(self) -> Network:
        """The network: its ``conditions`` and ``rules`` may be changed at any time."""
        return self.cluster.network

    @property
    def trace(self) -> list[Line]:
        """All events of all nodes, in the order of time, as the lines of a trace."""
        return self.cluster.lines

    def application(self, node: int) -> App:
        """The application's object on *node*, in the node's present life; also when its ``run``
        has returned, and after the block.

        Raises MisuseError if the node does not run or has no configuration yet, or if the
        application is an async function.
        """
        self._check_nodes(node)
        life, made = self._applications.get(node, (None, None))
        if life is None or made is None or life is not self._life(node):
            raise MisuseError(f"no application has begun on node {node} at {self.now:.6f} s")
        if inspect.iscoroutine(made):
            raise MisuseError(
                "the application is a function and has no object; make it a class with an "
                "async method run() to look at it"
            )
        return made

    def applications(self) -> list[App]:
        """The application's objects on all nodes that run it, by node, ascending."""
        return [
            self.application(node)
            for node, (life, _) in sorted(self._applications.items())
            if life is self._life(node)
        ]

    def node(self, node: int) -> Node:
        """The node itself, in its present life: for further sessions, requests and its status.

        Raises MisuseError if it does not run.
        """
        return self._node(node)

    def service(self, node: int, kind: type[ServiceKind]) -> ServiceKind:
        """The object of a service on *node*. Raises MisuseError if it does not run there."""
        try:
            service = self._node(node).service(kind.NAME)
        except KeyError:
            raise MisuseError(f"node {node} does not run the service {kind.NAME}") from None
        assert isinstance(service, kind)
        return service

    # --- time -----------------------------------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, Result], within_s: float = 30.0) -> Result:
        """Run *coroutine* while time passes; its result.

        Raises SimulationFailed if it has not ended within that much virtual time.
        """
        name = getattr(coroutine, "__qualname__", "the coroutine")
        return self.cluster.loop.complete(coroutine, within_s, f"{name}()")

    def run_for(self, seconds: float) -> None:
        """Let that much virtual time pass."""
        self.cluster.loop.complete(anyio.sleep(seconds), 2 * seconds + 1, "time")

    def run_until(self, condition: Callable[[], bool], within_s: float = 10.0) -> None:
        """Let time pass until *condition* holds; it is looked at every millisecond.

        Raises SimulationFailed if it does not within that much virtual time.
        """
        name = getattr(condition, "__qualname__", "the condition")

        async def wait() -> None:
            while not condition():  # noqa: ASYNC110 - it may depend on anything
                await anyio.sleep(LOOK_S)  # of virtual time, which costs nothing

        self.cluster.loop.complete(wait(), within_s, f"the wait for {name}")

    def settle(self, within_s: float = 10.0) -> None:
        """Let time pass until nothing changes any more: all that can hear each other are in one
        configuration, and everything sent is everywhere.

        Raises SimulationFailed if that has not come within that much virtual time, as when an
        application never stops to send; then use ``run_for``.
        """
        cluster = self.cluster
        end = self.now + within_s
        while self.now < end:
            before = cluster.standing()
            self.run_for(SETTLE_S)
            if cluster.at_rest() and cluster.standing() == before:
                self._settled_lines = len(cluster.lines)
                return
        raise SimulationFailed(
            f"the nodes have not come to rest within {within_s:g} s of virtual time: "
            f"{self._standing()}"
        )

    # --- life and death -------------------------------------------------------------------------

    def start(self, *nodes: int) -> None:
        """Start these nodes, or all, with a fresh application; those that run go on."""
        self._check_nodes(*nodes)
        self._do("start", *nodes)

    def crash(self, *nodes: int) -> None:
        """Kill these nodes: of node and application nothing remains.

        Its tasks are cancelled, since Python can end them in no other way. Whatever they still do
        in ``finally`` reaches nobody: their sessions raise NodeClosed.
        """
        self._check_nodes(*nodes)
        self._do("crash", *nodes)

    def restart(self, *nodes: int) -> None:
        """Kill these nodes if they run, and start them again, with a fresh application."""
        self._check_nodes(*nodes)
        self._do("restart", *nodes)

    def leave(self, *nodes: int) -> None:
        """End these nodes as a program does that ends by itself: its application is cancelled, and
        the node leaves the ring when its messages are everywhere.
        """
        self._check_nodes(*nodes)
        self._do("leave", *nodes)

    def pause(self, *nodes: int) -> None:
        """Stop these nodes with their applications, as SIGSTOP does."""
        self._check_nodes(*nodes)
        for node in nodes:
            self._do("pause", node)

    def resume(self, *nodes: int) -> None:
        """Let these nodes, or all, go on, as SIGCONT does."""
        self._check_nodes(*nodes)
        self._do("resume", *nodes)

    def block(self, node: int) -> None:
        """Stop the application alone: its node goes on, and its events wait for it."""
        self._check_nodes(node)
        self._do("block", node)

    def release(self, node: int) -> None:
        """Let a blocked application go on."""
        self._check_nodes(node)
        self._do("release", node)

    # --- the network ----------------------------------------------------------------------------

    def partition(self, *sides: Collection[int]) -> None:
        """Cut every path between different sides; nodes on no side are one more side.

        Paths that were cut before stay cut, so partitions overlap.
        """
        self._check_nodes(*(node for side in sides for node in side))
        self._do("partition", *(",".join(map(str, side)) for side in sides if side))

    def cut(self, sender: int, receiver: int) -> None:
        """From now on nothing that *sender* sends reaches *receiver*."""
        self._check_nodes(sender, receiver)
        self._do("cut", sender, receiver)

    def heal(self) -> None:
        """Every path carries everything again."""
        self._do("heal")

    def disturb(
        self,
        seconds: float,
        *,
        kinds: Collection[str] = tuple(FAULTS),
        spare: Collection[int] = (),
    ) -> None:
        """Let time pass with faults that the seed chooses; then heal everything, let all go on and
        start those that are down.

        *kinds* are keys of ``vsync.testing.faults.FAULTS``. Nodes in *spare* do not crash, restart
        or leave: what only applications remember needs one that lives.
        """
        for kind in kinds:
            if kind not in FAULTS:
                raise MisuseError(f"there is no fault {kind!r}; known are {', '.join(FAULTS)}")
        self._check_nodes(*spare)
        began = self.now
        for step in self._random_steps(seconds, sorted(kinds), spare):
            self.run_for(max(0.0, began + step.at_s - self.now))
            self._do(*step.words)
        self.run_for(max(0.0, began + seconds - self.now))
        self.heal()
        self.resume()
        for host in self.cluster.running():
            if self.cluster.lives[host.number].blocked:
                self.release(host.number)
        self.start()

    # --- what came of it ------------------------------------------------------------------------

    def check(self) -> None:
        """Hold the trace against every property; called at the end of the block.

        Those that promise progress are included if nothing has happened since ``settle``. Raises
        SimulationFailed.
        """
        cluster = self.cluster
        quiet = self._settled_lines == len(cluster.lines) and cluster.at_rest()
        findings = cluster.check(quiet=quiet)
        if not findings.holds:
            first, *others = findings.violations
            text = [f"property {first.property} does not hold: {first.text}"]
            text += [f"  also {breach.property}: {breach.text}" for breach in others[:LINES_SHOWN]]
            shown = first.lines[:LINES_SHOWN]
            text += [f"  line {number}: {show_line(self.trace[number])}" for number in shown]
            raise SimulationFailed("\n".join(text))

    def write_trace(self, directory: str | Path) -> list[Path]:
        """Write a trace for each node into *directory*, for ``vsync trace check``; the files."""
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        by_node: dict[int, list[Line]] = {}
        for line in self.trace:
            by_node.setdefault(int(line["node"]), []).append(line)
        files = []
        for node, lines in sorted(by_node.items()):
            file = target / f"{node}.jsonl"
            text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
            file.write_text(text, encoding="utf-8")
            files.append(file)
        return files

    # --- inside ---------------------------------------------------------------------------------

    async def _apply(self, node: SimulatedNode) -> None:
        """The application's life on a node."""
        session = node.session(
            name="application",
            slow=self._slow,
            queue_bytes=self._queue_bytes,
            spill_bytes=self._spill_bytes,
            primary=self._primary,
        )
        number = int(node.id)
        life = self.cluster.lives[number]
        try:
            async with session:
                made = self._make(session)
                self._applications[number] = life, made
                if isinstance(made, Awaitable):
                    await made
                else:
                    run: Callable[[], Awaitable[None]] = made.run  # type: ignore[attr-defined]
                    await run()
        except Exception as error:
            if not life.crashed:  # a dead process tells nothing
                error.add_note(f"raised by the application of node {number} at {self.now:.6f} s")
                self.cluster.loop.fail(error)

    def _do(self, *words: str | int) -> None:
        step = Step(self.now, tuple(map(str, words)))
        self.steps.append(step)
        do(Running(self.cluster, self._later), step.words)
        self.cluster.loop.run_ready()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self.cluster.loop.call_later(seconds, action)

    def _random_steps(self, seconds: float, kinds: list[str], spare: Collection[int]) -> list[Step]:
        random, nodes = self._faults, len(self.cluster.hosts)
        count = max(1, round(seconds * FAULTS_PER_S * random.uniform(0.5, 1.5)))
        weights = [FAULTS[kind][1] for kind in kinds]
        steps = []
        for kind in random.choices(kinds, weights, k=count):
            if nodes == 1 and kind in ("cut", "partition"):
                continue
            word, *rest = FAULTS[kind][0](random, nodes)
            if word in LIFE_AND_DEATH:
                rest = [node for node in rest if int(node) not in spare]
                if not rest:
                    continue
            steps.append(Step(round(random.uniform(0, seconds), 4), (word, *rest)))
        return sorted(steps)

    def _begin(self) -> None:
        """Wait until all nodes are in one configuration; and for a while until applications have
        joined their groups, which for one that never stops to send nobody can tell."""
        cluster = self.cluster
        self.run_until(cluster.is_whole, BEGIN_MOST_S)
        end = self.now + BEGIN_QUIET_MOST_S
        before: object = None
        while self.now < end and (before != cluster.standing() or not cluster.at_rest()):
            before = cluster.standing()
            self.run_for(BEGIN_QUIET_S)

    def _check_nodes(self, *nodes: int) -> None:
        hosts = self.cluster.hosts
        for node in nodes:
            if node not in hosts:
                raise MisuseError(f"there is no node {node}; nodes are 1 to {len(hosts)}")

    def _life(self, number: int) -> Life | None:
        """The present life of a node; None if it does not run."""
        return self.cluster.lives.get(number) if number in self.nodes else None

    def _node(self, number: int) -> SimulatedNode:
        self._check_nodes(number)
        life = self._life(number)
        if life is None or life.node is None:
            raise MisuseError(f"nothing runs on node {number} at {self.now:.6f} s")
        return life.node

    def _standing(self) -> str:
        return ", ".join(
            f"node {host.number} {host.engine.state.name} on {list(map(int, host.engine.members))}"
            for host in self.cluster.running()
            if host.engine is not None
        )

    def _close(self, error: BaseException | None) -> None:
        """End everything; *error* is on its way to the caller."""
        if error is not None:
            error.add_note(self._note())
        cluster, loop = self.cluster, self.cluster.loop
        if loop.is_closed():
            return
        self._ended_with = self.nodes
        cluster.crash(*self.nodes)
        try:
            end = self.now + END_MOST_S
            while loop.tasks() and self.now < end:
                loop.cancel_tasks()
                loop.complete(anyio.sleep(1), 2, "the end")
            left = loop.waiting()
            if loop.tasks() and error is None:
                raise SimulationFailed(
                    f"tasks do not end within {END_MOST_S:g} s though they are cancelled{left}"
                )
        except Exception:
            if error is None:
                raise
        finally:
            with suppress(Exception):
                loop.complete(loop.shutdown_asyncgens(), 1, "the end")
            loop.close()

    def _note(self) -> str:
        shown = [f"  {step}" for step in self.steps[-STEPS_SHOWN:]]
        more = len(self.steps) - len(shown)
        before = f" (and {more} before)" if more else ""
        return "\n".join(
            [
                f"in a simulation of {len(self.cluster.hosts)} nodes with seed {self.seed}, at "
                f"{self.now:.6f} s; what was done to it{before}:",
                *shown,
            ]
        )


def _by_node(
    services: Services | Callable[[int], Services] | Iterable[type[Service] | str],
) -> Callable[[int], Services]:
    if callable(services):
        return services
    if isinstance(services, Mapping):
        chosen: Services = services
    else:
        chosen = {kind: {} for kind in services}
    return lambda node: chosen

"""The three nodes together: start them, keep them talking, watch them, end them."""

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc

import vsync
from vsync.errors import VsyncError
from vsync.vocabulary import GroupKey, Guarantee
from vsync_cli.demo.processes import Condition, NodeProcess, make_nodes

GROUP: Final = GroupKey.from_name("demo")

LOOK_S: Final = 0.05
"""How often the traces are read."""

STATUS_S: Final = 0.2
"""How often each node is asked for its status."""

SETTLE_S: Final = 10.0
"""How long the nodes may take to agree; they take less than one, on a machine that has time."""

GRACE_S: Final = 5.0
"""How long a node may take to leave before it is killed."""

TEXTS_KEPT: Final = 5000
WAITING_MAX: Final = 100


class Cluster:
    """The nodes, what they sent, and what can be done to them."""

    def __init__(self, nodes: Sequence[NodeProcess], rate: float) -> None:
        self.nodes = nodes
        self.texts: OrderedDict[str, str] = OrderedDict()
        """What was sent through this cluster, by message id; the oldest are forgotten."""

        self._interval_s = 1 / rate if rate > 0 else None
        # What a node that is gone or asleep is to send waits for it; a hundred are enough.
        self._waiting: dict[int, deque[str | None]] = {
            node.node: deque(maxlen=WAITING_MAX) for node in nodes
        }
        self._counts = dict.fromkeys(self._waiting, 0)
        self._talking = True
        self._on_line: Callable[[NodeProcess, dict[str, Any]], None] = lambda node, line: None

    def on_line(self, call: Callable[[NodeProcess, dict[str, Any]], None]) -> None:
        """Have *call* be called with every line of every trace."""
        self._on_line = call

    def node(self, number: int) -> NodeProcess:
        """The node with this number."""
        return next(node for node in self.nodes if node.node == number)

    def send(self, number: int, text: str | None = None) -> None:
        """Let a node send *text*, or a text of its own, when it can."""
        self._waiting[number].append(text)

    def do(self, verb: str, number: int, text: str | None = None) -> None:
        """Do to a node what one of the script's verbs says."""
        node = self.node(number)
        match verb:
            case "kill":
                node.kill()
            case "restart":
                node.start()
            case "leave":
                node.leave()
            case "pause":
                node.pause()
            case "continue":
                node.resume()
            case "cut":
                node.cut_off()
            case "heal":
                node.heal()
            case "send":
                self.send(number, text)
            case _:
                raise AssertionError(verb)

    def look(self) -> None:
        """Read all traces, and see who still runs."""
        for node in self.nodes:
            for line in node.look():
                self._on_line(node, line)

    def disagreement(self) -> str | None:
        """Say who does not have the configuration that it should, or ``None`` if all do.

        Who is cut off should be alone; the other live ones should be together.
        """
        together = tuple(node.node for node in self.nodes if node.live and not node.cut)
        identities = set()
        for node in self.nodes:
            if not node.live:
                continue
            expected = (node.node,) if node.cut else together
            members = node.follower.regular_members
            if members != expected:
                return (
                    f"node {node.node} has the configuration of {members or 'nobody'}, "
                    f"and should have that of {expected}"
                )
            if not node.cut and node.follower.configuration is not None:
                identities.add(node.follower.configuration["id"])
        return f"there are several configurations: {identities}" if len(identities) > 1 else None

    async def settle(self, within_s: float = SETTLE_S) -> str | None:
        """Wait until all agree; give what still separates them after *within_s*."""
        with anyio.move_on_after(within_s):
            await until(lambda: self.disagreement() is None, LOOK_S)
        return self.disagreement()

    async def quiet(self) -> None:
        """Send nothing more, and give what is on its way a little time."""
        self._talking = False
        with anyio.move_on_after(SETTLE_S):
            await until(lambda: not any(map(_has_work, self.nodes)), STATUS_S)
        # What was asked before the last message was accepted says nothing about it.
        await anyio.sleep(2 * STATUS_S)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Start all nodes, then keep them talking and watch them, until cancelled."""
        for node in self.nodes:
            node.start()
        async with anyio.create_task_group() as tasks:
            for node in self.nodes:
                tasks.start_soon(self._attend, node)
            task_status.started()
            while True:
                self.look()
                await anyio.sleep(LOOK_S)

    async def close(self) -> None:
        """End all nodes, those that can with a farewell."""
        with anyio.CancelScope(shield=True):
            for node in self.nodes:
                node.leave()
            for node in self.nodes:
                await anyio.to_thread.run_sync(node.end, GRACE_S)
            self.look()

    async def _attend(self, node: NodeProcess) -> None:
        """Hold a session with a node whenever there is one to talk to."""
        while True:
            if node.condition is Condition.RUNNING and node.socket.exists():
                try:
                    async with (
                        vsync.connect(node.socket) as session,
                        anyio.create_task_group() as tasks,
                    ):
                        tasks.start_soon(self._ask, node, session)
                        await self._talk(node, session)
                except* (VsyncError, OSError, anyio.ClosedResourceError):
                    pass  # it was killed, or is not there yet; we try again
            await anyio.sleep(LOOK_S)

    async def _ask(self, node: NodeProcess, session: Any) -> None:
        while True:
            if node.live:
                status = await session.status()
                node.status = status if node.live else None
            await anyio.sleep(STATUS_S)

    async def _talk(self, node: NodeProcess, session: Any) -> None:
        """Send what waits, and something now and then; half of it safe."""
        waiting = self._waiting[node.node]
        next_at = anyio.current_time()
        while True:
            due = self._talking and self._interval_s is not None and anyio.current_time() >= next_at
            if not node.live or not (waiting or due):
                await anyio.sleep(LOOK_S)
                continue
            wanted = waiting.popleft() if waiting else None
            if due:
                next_at = anyio.current_time() + (self._interval_s or 0)
            self._counts[node.node] += 1
            count = self._counts[node.node]
            text = wanted or f"hello {count}"
            guarantee = Guarantee.SAFE if count % 2 else Guarantee.AGREED
            message = await session.send(text.encode(), GROUP, guarantee=guarantee)
            self.texts[str(message)] = text
            if len(self.texts) > TEXTS_KEPT:
                self.texts.popitem(last=False)


async def until(holds: Callable[[], bool], every_s: float) -> None:
    """Wait until *holds()*, looking again and again: processes tell nobody when they change."""
    while True:
        if holds():
            return
        await anyio.sleep(every_s)


def _has_work(node: NodeProcess) -> bool:
    """Whether messages that a live node accepted may not be everywhere yet."""
    status = node.status
    return node.live and (status is None or bool(status["pending_bytes"] or status["unstable"]))


@asynccontextmanager
async def running_cluster(directory: Path, rate: float) -> AsyncIterator[Cluster]:
    """Run three nodes, whose files are in *directory*; end them, whatever happens."""
    cluster = Cluster(make_nodes(directory), rate)
    try:
        async with anyio.create_task_group() as tasks:
            await tasks.start(cluster.run)
            yield cluster
            tasks.cancel_scope.cancel()
    finally:
        await cluster.close()

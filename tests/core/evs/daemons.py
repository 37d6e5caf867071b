"""Daemons for blocking tests: nodes that serve a socket from a thread of their own."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskStatus
from anyio.from_thread import start_blocking_portal

import vsync
from tests.core.api.rings import fresh_network, settings_of
from vsync import evs
from vsync.evs import GroupKey, Handle

PATIENCE_S = 20.0

KEY1, KEY2, KEY3 = (GroupKey.from_name(name) for name in ("key1", "key2", "key3"))
AGREED = evs.Guarantee.AGREED
LOW = evs.Priority.LOW


class Daemon:
    """One node, and its socket, in this process but out of the test's way."""

    def __init__(
        self, directory: Path, node: int = 1, network: str | None = None, **daemon: Any
    ) -> None:
        self.path = directory / f"{node}.sock"
        settings = settings_of(directory, node, network or fresh_network())
        bounds = vsync.DaemonSection.model_validate(daemon)
        self._settings = settings.model_copy(update={"daemon": bounds})
        self._stack = ExitStack()

    def start(self) -> "Daemon":
        self._portal = self._stack.enter_context(start_blocking_portal("asyncio"))
        self._ended, self._stop = self._portal.start_task(self._serve)
        return self

    async def _serve(self, *, task_status: TaskStatus[anyio.Event]) -> None:
        stop = anyio.Event()
        async with (
            vsync.open_node(self._settings) as node,
            anyio.create_task_group() as tasks,
        ):
            self.node = node
            await tasks.start(vsync.serve, node, self.path)
            task_status.started(stop)
            await stop.wait()
            tasks.cancel_scope.cancel()

    def stop(self) -> None:
        """Close the node and its socket. May be called twice."""
        with self._stack:
            if not self._ended.done():
                self._portal.call(self._stop.set)
                self._ended.result(PATIENCE_S)


@contextmanager
def daemons(directory: Path, count: int = 1, **daemon: Any) -> Iterator[list[Daemon]]:
    """*count* daemons that have found each other."""
    network = fresh_network()
    started: list[Daemon] = []
    try:
        for number in range(1, count + 1):
            started.append(Daemon(directory, number, network, **daemon).start())
        members = tuple(range(1, count + 1))
        eventually(lambda: all(members_of(each) == members for each in started))
        yield started
    finally:
        for each in started:
            each.stop()


def members_of(daemon: Daemon) -> tuple[int, ...]:
    configuration = daemon.node.configuration
    return () if configuration is None else configuration.members


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until *holds()*."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


class Log:
    """A handle's callbacks, and what they were told."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.senders: list[int] = []
        self.changes: list[tuple[Any, ...]] = []
        self.transitional: list[tuple[Any, ...]] = []
        self.handles: list[Handle] = []
        self.threads: list[int] = []

    def deliver(self, handle: Handle, sender: int, payload: bytes) -> None:
        self.threads.append(threading.get_ident())
        self.handles.append(handle)
        self.senders.append(sender)
        self.messages.append(payload)

    def confchg(self, handle: Handle, *change: Any) -> None:
        self.threads.append(threading.get_ident())
        self.handles.append(handle)
        self.changes.append(change)

    def before(self, handle: Handle, *change: Any) -> None:
        self.transitional.append(change)

    @property
    def callbacks(self) -> evs.Callbacks:
        return evs.Callbacks(deliver=self.deliver, confchg=self.confchg)

    @property
    def all_callbacks(self) -> evs.Callbacks:
        return evs.Callbacks(deliver=self.deliver, confchg=self.confchg, transitional=self.before)


def dispatch_until(handle: Handle, holds: Callable[[], bool]) -> None:
    """Dispatch until *holds()*, never waiting in a call."""

    def dispatched() -> bool:
        evs.dispatch(handle, evs.Dispatch.ALL)
        return holds()

    eventually(dispatched)


def messages(log: Log, handle: Handle, count: int) -> list[bytes]:
    """The first *count* messages."""
    dispatch_until(handle, lambda: len(log.messages) >= count)
    return log.messages


def numbered(count: int, size: int = 8) -> list[bytes]:
    """Messages that say their place."""
    return [number.to_bytes(size, "big") for number in itertools.islice(itertools.count(), count)]


def send_all(handle: Handle, payloads: list[bytes]) -> int:
    """Send as the seed's programs do: dispatch and try again. How often that was needed."""
    again = 0
    for payload in payloads:
        while True:
            try:
                evs.mcast_joined(handle, AGREED, LOW, payload)
                break
            except evs.TryAgain:
                again += 1
                evs.dispatch(handle, evs.Dispatch.ALL)
    return again

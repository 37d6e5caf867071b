"""One member of a group of vsync, for measuring it: ``python -m benchmarks.corosync.vsync_peer``.

The same course as ``cpg_peer.c``, which describes it. With ``--settings`` it is a node itself, with
``--socket`` an application at a daemon.
"""

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
from benchmarks.corosync import wire
from benchmarks.corosync.wire import PROBE_BYTES, Checker, Kind, Maker, WrongMessage

import vsync

GROUP: Final = "bench"
BATCH_BYTES: Final = 2**20
BATCH_MAX: Final = 1024
"""Handed over at a time, whichever is reached first; a larger message goes alone."""

TICK_S: Final = 0.001
"""Between two looks at what is due, where a rate is kept."""

QUANTILES: Final = 2000


def tell(fact: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


class Measured:
    """One session: what it sends, and what it counts."""

    def __init__(self, options: argparse.Namespace, session: vsync.Session) -> None:
        self._options = options
        self._session = session
        self._library = wire.load(options.payloads)
        self._node = session.member.node
        self._guarantee = vsync.Guarantee[options.guarantee.upper()]
        self._complete = anyio.Event()
        self._from_ns = self._to_ns = sys.maxsize
        self._messages = 0
        self._bytes = 0
        self._sent = 0
        self._own_ns: list[int] = []
        self._others_ns: list[int] = []

    async def run(self) -> None:
        await self._session.join(GROUP)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._receive)
            await self._complete.wait()
            tell({"ready": True})
            line = await anyio.to_thread.run_sync(sys.stdin.readline)
            self._from_ns, self._to_ns = map(int, line.split())
            if self._options.sends and self._options.rate:
                tasks.start_soon(self._send_paced)
            elif self._options.sends:
                tasks.start_soon(self._send)
            if self._options.probe_ns:
                tasks.start_soon(self._probe)
            await anyio.sleep(max(0, self._to_ns - time.monotonic_ns()) / 1e9)
            tell(await self._result())
            await anyio.to_thread.run_sync(sys.stdin.read)
            # What is still queued does not matter, and all members end together.
            os._exit(0)

    async def _receive(self) -> None:
        checker = Checker(self._library, self._options.size)
        async for batch in self._session.batches():
            now_ns = time.monotonic_ns()
            messages, size, probes = checker.check_all(batch)
            if messages + len(probes) != len(batch):
                self._notice(batch, now_ns)
            if self._from_ns <= now_ns < self._to_ns:
                self._messages += messages
                self._bytes += size
                for node, took_ns in probes:
                    (self._own_ns if node == self._node else self._others_ns).append(took_ns)

    def _notice(self, batch: Sequence[vsync.Event], now_ns: int) -> None:
        """See whether the group is complete, and stays so."""
        for event in batch:
            if type(event) is vsync.GroupChanged:
                if len(event.members) == self._options.members:
                    self._complete.set()
                elif self._complete.is_set() and now_ns < self._to_ns:
                    raise WrongMessage(
                        f"no message but a group of {len(event.members)}: members left while "
                        "it was measured"
                    )

    async def _send(self) -> None:
        """Send as fast as it goes."""
        maker = Maker(self._library, self._node, Kind.BULK, self._options.size)
        count = max(1, min(BATCH_MAX, BATCH_BYTES // self._options.size))
        while (now_ns := time.monotonic_ns()) < self._to_ns:
            await self._hand_over(maker.make_all(count))
            if now_ns >= self._from_ns:
                self._sent += count

    async def _send_paced(self) -> None:
        """Send at the rate that was asked for, in as many pieces as there are ticks."""
        maker = Maker(self._library, self._node, Kind.BULK, self._options.size)
        began_ns = time.monotonic_ns()
        sent = 0
        while (now_ns := time.monotonic_ns()) < self._to_ns:
            due = int((now_ns - began_ns) * self._options.rate / 1e9) - sent
            if due > 0:
                count = min(due, BATCH_MAX)
                await self._hand_over(maker.make_all(count))
                sent += count
                if now_ns >= self._from_ns:
                    self._sent += count
            # Also when it is late: pieces that become ever smaller would make it ever later.
            await anyio.sleep(TICK_S)

    async def _probe(self) -> None:
        """Send a message with the time in it, every now and then."""
        maker = Maker(self._library, self._node, Kind.PROBE, PROBE_BYTES)
        next_ns = time.monotonic_ns() + self._options.probe_offset_ns
        while next_ns < self._to_ns:
            await anyio.sleep(max(0, next_ns - time.monotonic_ns()) / 1e9)
            await self._hand_over(maker.make_all(1, now_ns := time.monotonic_ns()))
            # What was missed is not made up for.
            next_ns = max(next_ns, now_ns - self._options.probe_ns) + self._options.probe_ns

    async def _hand_over(self, payloads: Sequence[bytes]) -> None:
        await self._session.send_batch(payloads, guarantee=self._guarantee)

    async def _result(self) -> dict[str, Any]:
        return {
            "received": self._messages,
            "bytes": self._bytes,
            "sent": self._sent,
            "own_us": quantiles_us(self._own_ns),
            "others_us": quantiles_us(self._others_ns),
        }


def quantiles_us(times_ns: list[int]) -> list[float]:
    """The times in order, in microseconds; of very many, evenly chosen ones."""
    times_ns.sort()
    shown = min(len(times_ns), QUANTILES)
    chosen = (i * (len(times_ns) - 1) // max(1, shown - 1) for i in range(shown))
    return [times_ns[at] / 1000 for at in itertools.islice(chosen, shown)]


@asynccontextmanager
async def opened(options: argparse.Namespace) -> AsyncIterator[vsync.Session]:
    if options.socket:
        async with vsync.connect(options.socket) as session:
            yield session
    else:
        async with vsync.open_node(options.settings) as node, node.session() as session:
            yield session


async def measured(options: argparse.Namespace) -> None:
    async with opened(options) as session:
        await Measured(options, session).run()


def main() -> int:
    """Run one member; 1 if it was delivered anything wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", help="of the node that this is to be")
    parser.add_argument("--socket", help="of the daemon to connect to")
    parser.add_argument("--payloads", type=Path, required=True, help="as compiled, to be loaded")
    parser.add_argument("--members", type=int, required=True, help="of the group, at the start")
    parser.add_argument("--size", type=int, required=True, help="of the load's messages, in bytes")
    parser.add_argument("--sends", type=int, default=0, help="whether it sends load")
    parser.add_argument("--rate", type=float, default=0, help="of the load, a second; 0 is full")
    parser.add_argument("--probe-ns", type=int, default=0, help="time between two probes")
    parser.add_argument("--probe-offset-ns", type=int, default=0, help="time before the first")
    parser.add_argument("--guarantee", default="agreed", help="of all messages")
    options = parser.parse_args()
    try:
        anyio.run(measured, options)
    except BaseExceptionGroup as group:
        tell(complaint(group))
        return 1
    except (WrongMessage, vsync.VsyncError) as error:
        tell(complaint(error))
        return 1
    return 0


def complaint(error: BaseException) -> dict[str, Any]:
    """What went wrong, as the benchmark takes it; a bug keeps its traceback."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, WrongMessage):
        return {"wrong": str(error)}
    if isinstance(error, vsync.VsyncError):
        return {"failed": f"{type(error).__name__}: {error}"}
    raise error


if __name__ == "__main__":
    sys.exit(main())

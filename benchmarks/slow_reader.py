"""What one reader that takes nothing costs the others, under each policy. Needs nothing.

    python -m benchmarks.slow_reader [--nodes 10] [--seconds 5] [--size 1000] [--tries 3]

All nodes are in this process, over the transport ``memory``, each with a session that receives
everything; two of them send as fast as they may. One session takes nothing, but under "none", where
it reads as the others do. Each line is one policy, the median of all tries:

messages/s  received by the slowest of the readers
longest gap the longest time in which one of the readers received nothing
memory, disk  what waited for the slow session at the end
end         what became of it
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

import anyio

from tests.core.api.rings import ring_of
from vsync import Delivery, Evicted, Node, Session, SlowPolicy, WouldBlock

QUEUE_BYTES: Final = 4 * 2**20
BATCH: Final = 20
SENDERS: Final = 2


class Outcome(NamedTuple):
    """What one try showed."""

    rate: float
    gap_s: float
    memory_bytes: int
    disk_bytes: int
    end: str


class Reader:
    """One that takes what comes, and notes how much and how evenly."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.messages = 0
        self.gap_s = 0.0
        self.last = time.monotonic()

    async def run(self) -> None:
        async for batch in self._session.batches():
            self.note_gap()
            self.messages += sum(isinstance(event, Delivery) for event in batch)

    def note_gap(self) -> None:
        now = time.monotonic()
        self.gap_s = max(self.gap_s, now - self.last)
        self.last = now


async def send(session: Session, size: int) -> None:
    """Send as fast as it goes."""
    batch = [bytes(size)] * BATCH
    while True:
        await session.send_batch(batch, "load")


async def attempt(slow: SlowPolicy | None, options: argparse.Namespace) -> Outcome:
    """Run a ring for a while, with a slow reader of that policy, or with none."""
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="vsync-slow-"))
        nodes = await stack.enter_async_context(ring_of(Path(directory), options.nodes))
        quick = [await stack.enter_async_context(node.session()) for node in nodes[:-1]]
        last = await stack.enter_async_context(
            nodes[-1].session(name="slow", slow=slow or SlowPolicy.BLOCK, queue_bytes=QUEUE_BYTES)
        )
        if slow is None:
            quick.append(last)
        for session in {*quick, last}:
            await session.join("load")
        readers = [Reader(session) for session in quick]
        async with anyio.create_task_group() as tasks:
            for reader in readers:
                tasks.start_soon(reader.run)
            for session in quick[:SENDERS]:
                tasks.start_soon(send, session, options.size)
            await anyio.sleep(options.seconds)
            tasks.cancel_scope.cancel()
        for reader in readers:
            reader.note_gap()
        mailbox = last._mailbox
        return Outcome(
            min(reader.messages for reader in readers) / options.seconds,
            max(reader.gap_s for reader in readers),
            mailbox.memory_bytes,
            mailbox.disk_bytes,
            await end_of(last, nodes[0]),
        )


async def end_of(session: Session, node: Node) -> str:
    """What became of the slow session."""
    blocked_by = (await node.status())["blocked_by"]
    if blocked_by is not None:
        return f"the ring waits for node {blocked_by}"
    with contextlib.suppress(WouldBlock):
        try:
            session.send_nowait(b"", "load")
        except Evicted:
            return "evicted"
    return "goes on"


def main() -> int:
    """Measure and print; 1 if under evict or spill the others got less than half of their due."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--size", type=int, default=1000, help="of every message, in bytes")
    parser.add_argument("--tries", type=int, default=3)
    options = parser.parse_args()
    policies = [None, *SlowPolicy]
    outcomes: dict[SlowPolicy | None, list[Outcome]] = {policy: [] for policy in policies}
    for _ in range(options.tries):
        for policy in policies:
            outcomes[policy].append(anyio.run(attempt, policy, options))
    sys.stdout.write("policy   messages/s   longest gap     memory       disk   end\n")
    rates = {}
    for policy, found in outcomes.items():
        rates[policy] = statistics.median(outcome.rate for outcome in found)
        sys.stdout.write(
            f"{policy.value if policy else 'none':6} {rates[policy]:12.0f} "
            f"{1000 * statistics.median(o.gap_s for o in found):10.0f} ms "
            f"{statistics.median(o.memory_bytes for o in found) / 2**20:7.1f} MiB "
            f"{statistics.median(o.disk_bytes for o in found) / 2**20:6.1f} MiB   {found[-1].end}\n"
        )
    slowed = [policy for policy in policies[2:] if 2 * rates[policy] < rates[None]]
    return int(bool(slowed))


if __name__ == "__main__":
    sys.exit(main())

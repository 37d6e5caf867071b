"""Send messages of all guarantees, priorities and sizes through the sockets of running nodes.

    python -m tests.network.load [options] --report FILE SOCKET...

A node that is not there, or goes away, is tried again. The program ends when its standard input
does, and then writes what became of it as JSON: above all, which messages were accepted.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import anyio

import vsync
from vsync.errors import VsyncError
from vsync.events import Delivery
from vsync.vocabulary import GroupKey, Guarantee, Priority

SIZES_BYTES = (1, 100, 1400, 20_000, 300_000)
WEIGHTS = (40, 40, 20, 4, 0.4)
GROUPS = tuple(GroupKey.from_name(name) for name in ("red", "green", "blue"))
RETRY_S = 0.05


class Sender:
    """Sends through one socket, and remembers what was accepted."""

    def __init__(self, socket: Path, options: argparse.Namespace) -> None:
        self.socket = socket
        self.accepted: list[str] = []
        self.sent = 0
        self.received = 0
        self.received_bytes = 0
        self._options = options
        self._random = random.Random(f"{options.seed} {socket.name}")

    async def run(self) -> None:
        """Send for ever."""
        while True:
            try:
                async with (
                    vsync.connect(self.socket) as session,
                    anyio.create_task_group() as tasks,
                ):
                    tasks.start_soon(self._receive, session)
                    await self._send(session)
            except* (VsyncError, OSError):
                pass  # not there yet, killed, or not in a configuration yet
            await anyio.sleep(RETRY_S)

    async def _receive(self, session: vsync.Session) -> None:
        """Take the events, so that nobody waits for us."""
        if self._options.receive:
            await session.join(*GROUPS)
        async for batch in session.batches():
            for event in batch:
                if isinstance(event, Delivery):
                    self.received += 1
                    self.received_bytes += len(event.payload)

    async def _send(self, session: vsync.Session) -> None:
        dice = self._random
        rate = self._options.rate
        while True:
            size = self._options.size or dice.choices(SIZES_BYTES, WEIGHTS)[0]
            payloads = [
                dice.randbytes(min(size, 64)).ljust(size, b".") for _ in range(self._options.batch)
            ]
            ids = await session.send_batch(
                payloads,
                *dice.sample(GROUPS, dice.choice((1, 1, 1, 2, 3))),
                guarantee=dice.choice(list(Guarantee)),
                priority=dice.choice(list(Priority)),
            )
            self.sent += len(ids)
            if not self._options.forget:
                self.accepted += map(str, ids)
            if rate:
                await anyio.sleep(dice.expovariate(rate))


async def send_until_end(senders: Sequence[Sender]) -> None:
    """Send until standard input ends."""
    async with anyio.create_task_group() as tasks:
        for sender in senders:
            tasks.start_soon(sender.run)
        await anyio.to_thread.run_sync(sys.stdin.buffer.read)
        tasks.cancel_scope.cancel()


def main() -> None:
    """Send, then write what became of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sockets", nargs="+", type=Path, metavar="SOCKET")
    parser.add_argument(
        "--rate", type=float, default=150, help="batches a node, a second; 0: no limit"
    )
    parser.add_argument("--size", type=int, help="bytes; without it: all sizes")
    parser.add_argument("--batch", type=int, default=1, help="messages handed over at a time")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--receive", action="store_true", help="receive all messages as well")
    parser.add_argument("--forget", action="store_true", help="do not tell what was accepted")
    parser.add_argument("--report", type=Path, required=True, help="the file to write at the end")
    options = parser.parse_args()
    senders = [Sender(socket, options) for socket in options.sockets]
    began = time.monotonic()
    anyio.run(send_until_end, senders)
    found = {
        "seconds": time.monotonic() - began,
        "sent": {str(sender.socket): sender.sent for sender in senders},
        "received": {str(sender.socket): sender.received for sender in senders},
        "received_bytes": {str(sender.socket): sender.received_bytes for sender in senders},
        "accepted": [id for sender in senders for id in sender.accepted],
    }
    options.report.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

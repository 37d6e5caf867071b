"""Measures throughput, as openais' ``evsbench`` did.

Each round sends messages to the joined groups as fast as they are taken, and ends when the last of
them has come back; then there are a fifth fewer of them, each 100 bytes larger. (The first evsbench
stopped its clock when the last one was sent.)

Needs a node: ``vsync run -c node.toml``. Run it on one node, or on several at a time.
"""

import argparse
import os
import time

from vsync import evs
from vsync.vocabulary import NodeId

KEYS = [evs.GroupKey.from_name(name) for name in ("key1", "key2", "key3")]
TAG_BYTES = 8


class Bench:
    """One run: its messages begin with a tag, by which it knows them from those of others."""

    def __init__(self) -> None:
        self._tag = os.urandom(TAG_BYTES)
        self._returned = 0
        self.callbacks = evs.Callbacks(deliver=self._deliver)

    def _deliver(self, handle: evs.Handle, sender: NodeId, payload: bytes) -> None:
        if payload.startswith(self._tag):
            self._returned += 1

    def round(self, handle: evs.Handle, count: int, size: int) -> float:
        """Send *count* messages of *size* bytes and have them back; the seconds that it took."""
        agreed, low = evs.Guarantee.AGREED, evs.Priority.LOW
        message = self._tag + bytes(size - TAG_BYTES)
        self._returned = 0
        began = time.perf_counter()
        for _ in range(count):
            while True:
                try:
                    evs.mcast_joined(handle, agreed, low, message)
                    break
                except evs.TryAgain:
                    evs.dispatch(handle, evs.Dispatch.ALL)
        while self._returned < count:
            evs.dispatch(handle, evs.Dispatch.ONE)
        return time.perf_counter() - began


def main() -> None:
    """Run all rounds, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--socket", metavar="PATH", help="the node's Unix socket")
    parser.add_argument("--rounds", type=int, default=35)
    parser.add_argument("--count", type=int, default=100_000, help="messages of the first round")
    parser.add_argument("--size", type=int, default=1300, help="bytes of each in the first round")
    options = parser.parse_args()
    if options.rounds < 1 or options.count < 1 or options.size < TAG_BYTES:
        parser.error(f"there is at least one round of one message of {TAG_BYTES} bytes")

    bench = Bench()
    with evs.initialize(bench.callbacks, path=options.socket, name="evsbench") as handle:
        evs.join(handle, KEYS)
        evs.leave(handle, KEYS[0])
        count, size = options.count, options.size
        for _ in range(options.rounds):
            seconds = bench.round(handle, count, size)
            print(
                f"{count:6d} writes {size:5d} bytes per write {seconds:8.3f} seconds "
                f"{count / seconds:11.1f} TP/s {count * size / seconds / 1e6:8.3f} MB/s",
                flush=True,
            )
            count, size = max(1, count * 4 // 5), size + 100


if __name__ == "__main__":
    try:
        main()
    except evs.EvsError as error:
        raise SystemExit(f"evsbench: {error} ({error.code.name})") from None
    except KeyboardInterrupt:
        raise SystemExit(1) from None

"""Whether a ring of five under full load accuses a node that is only slow, and whether its nodes'
memory stays flat. Needs root.

    python -m benchmarks.accusations [--seconds 360] [--nodes 5] [--preset lan] [--size BYTES]

Each node has its own host and a program of its own that sends as fast as it may and receives
everything, so all of them together use every core there is. Nothing happens to any node: a change
of configuration is a false accusation, and the exit code is then 1. It is 1 too if a node's memory
grew by more than ``GROWTH_MAX``.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final

from tests.network.nodes import Node, Ring

REPORT_S = 10.0
"""How often to say how it goes."""

GROWTH_MAX: Final = 1.25
"""A node's memory in the last third of the time against the first third (without its first tenth),
the median of each. What waits differs from one moment to the next, and the C library's allocator
takes a little more room for it for some minutes; a leak of two bytes in a thousand that are
delivered makes more of it."""


def memory_mb(node: Node) -> float:
    """What the node's process has in memory, in megabytes; proc(5)."""
    pages = int(Path(f"/proc/{node.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def configurations(ring: Ring) -> dict[int, list[str]]:
    """The configurations that each node has told of."""
    return {
        node.number: [line for line in node.told() if "configuration" in line]
        for node in ring.nodes
    }


def busy_s() -> float:
    """Processor time that this machine has used, in seconds of one core."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    idle = ticks[3] + ticks[4]  # idle and iowait, proc(5)
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def say(line: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Load the ring and watch its configurations; 0 if none changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=360)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--preset", default="lan")
    parser.add_argument(
        "--size", type=int, help="of every message, in bytes; without it: 1 B to 300 KB"
    )
    parser.add_argument("--batch", type=int, default=20, help="messages handed over at a time")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="vsync-accusations-") as directory,
        Ring(
            Path(directory), options.nodes, housed=True, ring=f'preset = "{options.preset}"'
        ) as ring,
    ):
        ring.start(trace=False)
        numbers = [node.number for node in ring.nodes]
        ring.wait_until_told(numbers)
        loads = [
            ring.load(
                *("--rate", "0", "--batch", str(options.batch), "--receive", "--forget"),
                *(("--size", str(options.size)) if options.size else ()),
                nodes=[node],
            )
            for node in ring.nodes
        ]
        before = configurations(ring)
        began, busy = time.monotonic(), busy_s()
        changed: list[str] = []
        memory: list[list[float]] = []
        while not changed and time.monotonic() - began < options.seconds:
            time.sleep(min(REPORT_S, options.seconds))
            now = configurations(ring)
            changed = [
                f"node {number}: {line}"
                for number, lines in now.items()
                for line in lines[len(before[number]) :]
            ]
            passed = time.monotonic() - began
            cores = (busy_s() - busy) / passed
            memory.append([memory_mb(node) for node in ring.nodes])
            sizes = " ".join(f"{size:.0f}" for size in memory[-1])
            sys.stderr.write(f"{passed:.0f} s, {cores:.2f} cores busy, nodes' MB: {sizes}\n")
        told = [load.stop() for load in loads]
        counters = {node.number: node.status()["counters"] for node in ring.nodes}
    samples = memory[len(memory) // 10 :]
    third = max(1, len(samples) // 3)
    early = [median(sizes) for sizes in zip(*samples[:third], strict=True)]
    late = [median(sizes) for sizes in zip(*samples[-third:], strict=True)]
    grown = any(end > GROWTH_MAX * start for start, end in zip(early, late, strict=True))
    say(f"{'node':>4} {'sent/s':>9} {'received/s':>11} {'MB received/s':>14} {'MB of memory':>17}")
    for number, found, *mb in zip(numbers, told, early, late, strict=True):
        seconds = found["seconds"]
        (sent,), (received,), (size,) = (
            found[name].values() for name in ("sent", "received", "received_bytes")
        )
        say(
            f"{number:4} {sent / seconds:9.0f} {received / seconds:11.0f} "
            f"{size / seconds / 1e6:14.1f} {mb[0]:8.1f}, {mb[1]:7.1f}"
        )
    say(f"{cores:.2f} of {os.cpu_count()} cores busy for {passed:.0f} s")
    for line in changed:
        say(line)
    say("Accused wrongly." if changed else "No change of configuration.")
    say("Memory grew." if grown else "Memory stayed flat.")
    say(json.dumps({"changed": changed, "memory_mb": memory, "loads": told, "counters": counters}))
    return 1 if changed or grown else 0


if __name__ == "__main__":
    sys.exit(main())

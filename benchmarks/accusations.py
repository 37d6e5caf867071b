"""Whether a ring of five under full load accuses a node that is only slow. Needs root.

    python -m benchmarks.accusations [--seconds 360] [--nodes 5] [--preset lan] [--size BYTES]

Each node has its own host and a program of its own that sends as fast as it may and receives
everything, so all of them together use every core there is. Nothing happens to any node: a change
of configuration is a false accusation, and the exit code is then 1.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.network.nodes import Ring

REPORT_S = 10.0
"""How often to say how it goes."""


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
            sys.stderr.write(f"{passed:.0f} s, {cores:.2f} cores busy\n")
        told = [load.stop() for load in loads]
        counters = {node.number: node.status()["counters"] for node in ring.nodes}
    say(f"{'node':>4} {'sent/s':>9} {'received/s':>11} {'MB received/s':>14}")
    for number, found in zip(numbers, told, strict=True):
        seconds = found["seconds"]
        (sent,), (received,), (size,) = (
            found[name].values() for name in ("sent", "received", "received_bytes")
        )
        say(
            f"{number:4} {sent / seconds:9.0f} {received / seconds:11.0f} "
            f"{size / seconds / 1e6:14.1f}"
        )
    say(f"{cores:.2f} of {os.cpu_count()} cores busy for {passed:.0f} s")
    for line in changed:
        say(line)
    say("Accused wrongly." if changed else "No change of configuration.")
    say(json.dumps({"changed": changed, "loads": told, "counters": counters}))
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())

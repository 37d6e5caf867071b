"""How long a ring of five takes to change its membership. Needs root: each node has its own host.

    python -m benchmarks.membership [--tries 20] [--nodes 5] [--preset lan] [--rate 0]

Times come from the nodes' own traces, whose clock is common to all network namespaces of a machine,
and end with the last node that delivers the new configuration:

killed      from the SIGKILL of a node until it is in nobody's configuration
left        from the SIGTERM of a node until it is in nobody's configuration
merged      from the end of a partition (two and the rest) until all have one configuration
restarted   from the ``start`` line in a node's trace, which it writes when its sockets are open,
            just before its first packet, until all have one configuration
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.network.nodes import Node, Ring, eventually

TARGETS_MS = {"killed": 500, "left": 100, "merged": 300, "restarted": 500}
"""What the median of each may be with the preset ``lan``."""

SETTLE_S = 0.3
"""Between two measurements."""


def changed_at(nodes: Iterable[Node], members: Sequence[int], since_ns: int) -> int:
    """When the last of *nodes* delivered a regular configuration of *members*, after *since_ns*."""
    latest = 0
    for node in nodes:
        times: list[int] = []

        def found(node: Node = node, times: list[int] = times) -> bool:
            node.following.read()
            times[:] = [
                line["t"]
                for line in node.following.configurations
                if line["t"] >= since_ns
                and line["kind"] == "regular"
                and line["members"] == list(members)
            ]
            return bool(times)

        eventually(found, f"node {node.number} in a configuration of {list(members)}")
        latest = max(latest, times[0])
    return latest


class Trial:
    """One ring, and what was measured on it, in milliseconds."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.numbers = [node.number for node in ring.nodes]
        self.taken_ms: dict[str, list[float]] = {name: [] for name in TARGETS_MS}

    def lose_and_restart(self, number: int, *, kill: bool) -> None:
        """Kill a node, or let it leave, and start it again."""
        node = self.ring[number]
        others = [other for other in self.numbers if other != number]
        survivors = [self.ring[other] for other in others]
        if kill:
            began = node.kill()
            self._note("killed", began, changed_at(survivors, others, began))
        else:
            began = time.monotonic_ns()
            node.leave()
            self._note("left", began, changed_at(survivors, others, began))
        node.start()
        eventually(lambda: started_since(node, began), f"the start of node {number}")
        began = node.following.started_ns
        self._note("restarted", began, changed_at(self.ring.nodes, self.numbers, began))

    def part_and_merge(self, pair: tuple[int, int]) -> None:
        """Part two nodes from the others, and merge them again."""
        others = [number for number in self.numbers if number not in pair]
        self.ring.part(*pair)
        self.ring.wait_for(*pair)
        self.ring.wait_for(*others)
        began = self.ring.merge(*pair)
        self._note("merged", began, changed_at(self.ring.nodes, self.numbers, began))

    def _note(self, what: str, began_ns: int, ended_ns: int) -> None:
        taken_ms = (ended_ns - began_ns) / 1e6
        self.taken_ms[what].append(taken_ms)
        sys.stderr.write(f"{what}: {taken_ms:.0f} ms\n")
        time.sleep(SETTLE_S)


def started_since(node: Node, since_ns: int) -> bool:
    node.following.read()
    return node.following.started_ns > since_ns


def table(taken_ms: dict[str, list[float]]) -> str:
    """The results as lines for people."""
    lines = [f"{'':10} {'tries':>5} {'median':>8} {'min':>8} {'max':>8} {'target':>8}   ms"]
    for name, times in taken_ms.items():
        median = statistics.median(times)
        verdict = "" if median <= TARGETS_MS[name] else "   over its target"
        lines.append(
            f"{name:10} {len(times):5} {median:8.1f} {min(times):8.1f} {max(times):8.1f} "
            f"{TARGETS_MS[name]:8}{verdict}"
        )
    return "\n".join(lines)


def say(line: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Measure; 0 if every median is within its target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=20, help="of each kind")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--preset", default="lan")
    parser.add_argument(
        "--rate", type=float, default=0, help="messages a node, a second, meanwhile"
    )
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="vsync-membership-") as directory,
        Ring(
            Path(directory), options.nodes, housed=True, ring=f'preset = "{options.preset}"'
        ) as ring,
    ):
        ring.start()
        ring.wait_for()
        if options.rate:
            ring.load("--rate", str(options.rate))
        trial = Trial(ring)
        for turn in range(options.tries):
            number = trial.numbers[turn % options.nodes]
            trial.lose_and_restart(number, kill=True)
            trial.lose_and_restart(number, kill=False)
            other = trial.numbers[
                (turn + 1 + turn // options.nodes % (options.nodes - 1)) % options.nodes
            ]
            trial.part_and_merge((min(number, other), max(number, other)))
    say(table(trial.taken_ms))
    medians = {name: statistics.median(times) for name, times in trial.taken_ms.items()}
    say(json.dumps({"medians_ms": medians, "taken_ms": trial.taken_ms}))
    return 0 if all(medians[name] <= target for name, target in TARGETS_MS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())

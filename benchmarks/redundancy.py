"""How long an application waits when one of two networks fails, under full load from all nodes.

    python -m benchmarks.redundancy [--mode MODE...] [--seconds S]

Three ``vsync run`` processes on hosts of their own, on two bridges. A row for each fault, a column
for each mode: the longest time between two deliveries at any node, in milliseconds, in the time
after the fault. It fails if a configuration changes, if a message that was accepted is lost, or if
the traces do not hold every property. Needs root.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.network.nodes import Node
from tests.network.twofold import TwofoldRing
from vsync.links import Mode

RECOVER_WITHIN_S = 15.0


def longest_pause_ms(nodes: list[Node], begin_ns: int, end_ns: int) -> float:
    """The longest time between two deliveries at any node, by their traces."""
    longest = 0
    for node in nodes:
        last = begin_ns
        with node.trace.open("rb") as trace:
            for line in trace:
                if b'"event":"deliver"' not in line:
                    continue
                at = json.loads(line)["t"]
                if begin_ns <= at <= end_ns:
                    longest = max(longest, at - last)
                    last = at
        longest = max(longest, end_ns - last)
    return longest / 1e6


def say(line: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def wait_until_good(ring: TwofoldRing) -> None:
    """Wait until all nodes find both links good."""
    end = time.monotonic() + RECOVER_WITHIN_S
    while {*ring.states(1), *ring.states(2)} != {"good"}:
        if time.monotonic() > end:
            raise SystemExit(f"a link did not become good again:{ring.complaints()}")
        time.sleep(0.2)


def measure(mode: str, seconds: float) -> dict[str, float]:
    """The longest pause after each fault, in that mode."""
    found: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as directory, TwofoldRing(Path(directory), 3, mode) as ring:
        ring.start()
        ring.wait_for()
        wait_until_good(ring)
        load = ring.load("--rate", "0")
        ring.wait_for_messages(1000)
        before = [len(node.following.configurations) for node in ring.nodes]

        def phase(name: str, fault: Callable[[], None]) -> None:
            begin = time.monotonic_ns()
            fault()
            time.sleep(seconds)
            found[name] = (begin, time.monotonic_ns())

        phase("none", lambda: None)
        for link in (1, 2):
            phase(f"network {link} cut", partial(ring.cut_link, link))
            phase(f"network {link} works again", partial(ring.heal_link, link))
            wait_until_good(ring)
        phase("nothing reaches node 1 on network 1", lambda: ring.lose_on(1, 100, 1))
        ring.lose_on(1, 0, 1)
        wait_until_good(ring)
        phase("30 % lost on network 2", lambda: ring.lose_on(2, 30))
        ring.lose_on(2, 0)
        for node in ring.nodes:
            node.following.read()
        after = [len(node.following.configurations) for node in ring.nodes]
        pauses = {name: longest_pause_ms(ring.nodes, *times) for name, times in found.items()}
        report = ring.finish(load, messages=1000)
        say(f"{mode}: {len(report.history.messages)} messages, all as they should be")
        if after != before:
            raise SystemExit(f"{mode}: configurations changed: {before}, then {after}")
    return pauses


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", nargs="+", default=[mode.value for mode in Mode])
    parser.add_argument("--seconds", type=float, default=2.0, help="after each fault")
    options = parser.parse_args()
    modes = {mode: measure(mode, options.seconds) for mode in options.mode}
    say(f"\n| fault | {' | '.join(f'`{mode}`' for mode in modes)} |")
    say("| --- |" + " --- |" * len(modes))
    for name in next(iter(modes.values())):
        say(f"| {name} | {' | '.join(f'{found[name]:.0f}' for found in modes.values())} |")


if __name__ == "__main__":
    main()

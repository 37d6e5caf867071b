"""Runs of whole clusters from seeds, each held against every property.

A seed gives settings, a schedule of faults and load (``vsync.testing.faults``) and every throw of
the network's dice, so the same seed is the same run, always. When the schedule has ended everything
heals, the cluster must settle, and an idle ring must still deliver at once.

A run that fails has its schedule cut down, step by step, as long as the same property fails.

Use it as ``vsync simulate``, or without that command as ``python -m vsync.testing.simulate``.
"""

import argparse
import heapq
import json
import multiprocessing
import re
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

from vsync.testing.cluster import Cluster, Host, Line
from vsync.testing.faults import (
    FAULTS_UNTIL_S,
    Running,
    Step,
    do,
    random_changes,
    random_link_faults,
    random_schedule,
    random_settings,
    random_wires,
)
from vsync.testing.network import Action, Rule
from vsync.testing.properties import check
from vsync.vocabulary import Guarantee
from vsync.wire.header import FrameType

SETTLE_MOST_S: Final = 15.0
"""How long a healed cluster may take to settle."""

PROMPT_S: Final = 0.02
"""How long a message on an idle ring may take to everyone; below any time for which it holds."""

PROMPT_BYTES: Final = (100, 20_000)
"""Of one that goes with a number that is reserved while the token rests, and one that wakes it."""

REPAIR_S: Final = 0.8
"""How long a ring may take to mend a few lost frames: below any ``receive_failed_s``."""

SHRINK_RUNS: Final = 250
"""How many runs may be spent to shorten one schedule."""

LINES_BEFORE: Final = 14
LINES_AFTER: Final = 2

CHANGES: Final = {"rotate", "reload"}
CHANGING: Final = "changes"
CHANGES_MOST_S: Final = 30.0
"""How long a change of the key or of settings may take once all nodes are together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One thing that went wrong in a run."""

    property: str
    """Its number; for what is none: ``exception``, ``settling``, ``prompt``, ``repair`` or
    ``change``."""
    text: str
    line: int | None = None
    """Which line of the trace shows it."""

    def __str__(self) -> str:
        return f"{self.property}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one run."""

    seed: int
    nodes: int
    steps: tuple[Step, ...]
    failures: tuple[Failure, ...]
    notes: int
    """Breaches that no protocol could have avoided."""
    messages: int
    deliveries: int
    configurations: int
    virtual_s: float
    lines: tuple[Line, ...] = ()
    """The trace; left out of runs that were neither asked for it nor failed."""
    shortened_from: int | None = None
    """How many steps the schedule had, if some were dropped."""

    @property
    def holds(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    @property
    def replay(self) -> str:
        """The command that runs this seed again, with its whole schedule."""
        return f"vsync simulate --nodes {self.nodes} --seeds {self.seed} --trace DIRECTORY"

    def describe(self) -> str:
        """Why it failed and how to see it again; the first line says what failed."""
        first = self.failures[0]
        text = [
            f"seed {self.seed} with {self.nodes} nodes fails {first}",
            *(f"  also {failure}" for failure in self.failures[1:5]),
        ]
        if len(self.failures) > 5:
            text.append(f"  and {len(self.failures) - 5} more")
        text.append(f"  replay: {self.replay}")
        rest = "" if self.shortened_from is None else f", of {self.shortened_from}"
        text.append(f"  what happened ({len(self.steps)} steps{rest} are enough):")
        text += [f"    {step}" for step in self.steps]
        at = len(self.lines) - 1 if first.line is None else first.line
        text.append("  the trace there:")
        shown = range(max(0, at - LINES_BEFORE), min(len(self.lines), at + LINES_AFTER + 1))
        text += [f"  {'>' if n == at else ' '} {show_line(self.lines[n])}" for n in shown]
        return "\n".join(text)

    def write_trace(self, directory: Path) -> Path:
        """Write one trace a node, and the schedule, into a directory of this run's own."""
        target = directory / f"seed-{self.seed}-nodes-{self.nodes}"
        target.mkdir(parents=True, exist_ok=True)
        by_node: dict[int, list[Line]] = {}
        for line in self.lines:
            by_node.setdefault(int(line["node"]), []).append(line)
        for node, lines in by_node.items():
            text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
            (target / f"{node}.jsonl").write_text(text)
        (target / "steps.txt").write_text("".join(f"{step}\n" for step in self.steps))
        return target


def show_line(line: Line) -> str:
    """A line of a trace for people."""
    text = f"{line['t'] / 1e9:.6f} node {line['node']} (life {line['life']}) {line['event']}"
    match line["event"]:
        case "configuration":
            members = " ".join(map(str, line["members"]))
            return f"{text} {line['id']} {line['kind']}: {members}"
        case "deliver":
            return f"{text} {line['message']} {line['guarantee']} in {line['configuration']}"
        case "send":
            return f"{text} {line['message']} {line['guarantee']}, {line['size']} bytes"
    return text


# --- one run ------------------------------------------------------------------------------------


def simulate(seed: int, nodes: int, steps: Sequence[Step] | None = None) -> Outcome:
    """Run one seed with that many nodes; with *steps* instead of those that the seed gives."""
    wires = random_wires(Random(f"wires {seed} {nodes}"))
    if steps is None:
        # Of their own dice each, so that what a seed means changes as little as can be.
        link_faults = random_link_faults(Random(f"links {seed} {nodes}"), wires.links, nodes)
        faults = random_schedule(Random(f"steps {seed} {nodes}"), nodes)
        changes = random_changes(Random(f"changes {seed} {nodes}"), nodes)
        steps = sorted([*faults, *link_faults, *changes], key=lambda step: step.at_s)
    settings, packet_bytes_max = random_settings(Random(f"settings {seed} {nodes}"))
    cluster = Cluster(
        nodes, seed, settings=settings, packet_bytes_max=packet_bytes_max, wires=wires
    )
    failures: list[Failure] = []
    try:
        _play(cluster, steps)
        failures += _end(cluster)
        if not failures and any(step.words[0] in CHANGES for step in steps):
            failures += _end_changes(cluster)
    except Exception as error:  # whatever it is, it must not end the search for others
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno} in {place.name}"
        said = str(error) or place.line
        failures.append(
            Failure(property="exception", text=f"{type(error).__name__}: {said} ({where})")
        )
    history = cluster.history()
    findings = check(history, quiet=not failures)
    failures += [
        Failure(property=breach.property, text=breach.text, line=max(breach.lines, default=None))
        for breach in findings.violations
    ]
    return Outcome(
        seed=seed,
        nodes=nodes,
        steps=tuple(steps),
        failures=tuple(failures),
        notes=len(findings.notes),
        messages=len(history.messages),
        deliveries=history.deliveries,
        configurations=len(history.configurations),
        virtual_s=cluster.now,
        lines=tuple(cluster.lines),
    )


def _play(cluster: Cluster, steps: Sequence[Step]) -> None:
    """Do every step at its time, and what it leaves for later."""
    later: list[tuple[float, int, Callable[[], None]]] = []
    numbers = count()  # what is due at once is done in the order in which it was planned

    def after(seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(later, (cluster.now + seconds, next(numbers), action))

    running = Running(cluster, after)
    for step in steps:
        later.append((step.at_s, next(numbers), partial(do, running, step.words)))
    heapq.heapify(later)
    while later and later[0][0] <= FAULTS_UNTIL_S:
        at_s, _, action = heapq.heappop(later)
        cluster.run(max(0.0, at_s - cluster.now))
        action()
    cluster.run(max(0.0, FAULTS_UNTIL_S - cluster.now))


def _end(cluster: Cluster) -> Iterator[Failure]:
    """Heal everything: then the cluster must settle, and stay prompt."""
    cluster.heal()
    cluster.resume()
    for host in cluster.running():
        cluster.block(host.number, False)
    if not cluster.settle(SETTLE_MOST_S):
        standing = ", ".join(
            f"{host.number} {host.engine.state.name} on {host.engine.members}"
            for host in cluster.running()
            if host.engine is not None
        )
        yield Failure(
            property="settling",
            text=f"{SETTLE_MOST_S:g} s after the last fault the nodes are: {standing}",
        )
        return
    for host in cluster.running():
        for size in PROMPT_BYTES:
            message = cluster.submit(host.number, size, Guarantee.AGREED)
            cluster.run(PROMPT_S)
            reached = {
                line["node"]
                for line in cluster.lines[-2 * len(cluster.hosts) :]
                if line["event"] == "deliver" and line["message"] == str(message)
            }
            if len(reached) < len(cluster.running()):
                yield Failure(
                    property="prompt",
                    text=f"a message of node {host.number} on an idle ring, {size} bytes, reached "
                    f"only {sorted(reached)} within {PROMPT_S * 1000:g} ms",
                )
    yield from _repair(cluster)
    cluster.settle()


def _end_changes(cluster: Cluster) -> Iterator[Failure]:
    """Once all are there again, changes of the key and of settings are over, the same for all."""
    cluster.start()
    end = cluster.now + CHANGES_MOST_S
    while cluster.now < end:
        settled = cluster.settle(SETTLE_MOST_S)
        standing = {host.number: _changed(host) for host in cluster.hosts.values()}
        if settled and CHANGING not in standing.values() and len(set(standing.values())) == 1:
            return
    told = "; ".join(f"node {number}: {said}" for number, said in standing.items())
    yield Failure(property="change", text=f"changes did not come to an end: {told}")


def _changed(host: Host) -> str:
    """What the changes of a ring have come to at a node."""
    engine = host.engine
    if engine is None or engine.changes.rekeying.known is not None:
        return CHANGING
    members = ",".join(map(str, engine.members))
    return f"key {host.keys.used}, window {engine.agreement.settings.window_packets}, on {members}"


def _repair(cluster: Cluster) -> Iterator[Failure]:
    """Lose a few frames and a token of a ring at work: it must mend that without a change."""
    live = cluster.running()
    if len(live) < 2:
        return
    before = {host.number: host.engine and host.engine.configuration for host in live}
    network = cluster.network
    for host in live:
        network.rules.append(
            Rule(action=Action.DROP, frame=FrameType.DATA, receiver=host.number, count=2)
        )
    network.rules.append(Rule(action=Action.REPEAT, frame=FrameType.TOKEN, count=2))
    for host in live:
        for guarantee in (Guarantee.AGREED, Guarantee.SAFE):
            cluster.submit(host.number, 1000, guarantee)
    cluster.run(REPAIR_S / 2)
    network.rules.clear()
    network.rules.append(Rule(action=Action.DROP, frame=FrameType.TOKEN))
    cluster.run(REPAIR_S / 2)
    for host in live:
        engine = host.engine
        if engine is None or engine.unstable:
            text = f"node {host.number} could not repair two lost frames in {REPAIR_S:g} s"
            yield Failure(property="repair", text=text)
        elif engine.configuration != before[host.number]:
            text = f"node {host.number} changed its configuration for a few lost frames"
            yield Failure(property="repair", text=text)


# --- a shorter one ------------------------------------------------------------------------------


def shrink(failed: Outcome) -> Outcome:
    """Drop steps as long as what failed first still fails."""
    wanted = failed.failures[0].property
    best = failed
    runs = 0
    size = max(1, len(best.steps) // 2)
    while True:
        dropped = False
        first = 0
        while first < len(best.steps) and runs < SHRINK_RUNS:
            runs += 1
            steps = best.steps[:first] + best.steps[first + size :]
            outcome = simulate(failed.seed, failed.nodes, steps)
            kept = [failure for failure in outcome.failures if failure.property == wanted]
            if kept:
                others = [failure for failure in outcome.failures if failure not in kept]
                best = replace(outcome, failures=(*kept, *others))
                dropped = True
            else:
                first += size
        if runs >= SHRINK_RUNS or (size == 1 and not dropped):
            return replace(best, shortened_from=len(failed.steps))
        size = max(1, size // 2)


# --- many runs ----------------------------------------------------------------------------------


def nodes_of(seed: int, nodes: range) -> int:
    """How many nodes a seed has, where there is a choice."""
    return nodes[seed % len(nodes)]


def _run(seed: int, nodes: int, shorten: bool, keep_lines: bool) -> Outcome:
    outcome = simulate(seed, nodes)
    if outcome.holds:
        return outcome if keep_lines else replace(outcome, lines=())
    return shrink(outcome) if shorten else outcome


def run_seeds(
    seeds: range,
    nodes: range,
    *,
    processes: int = 1,
    shorten: bool = True,
    keep_lines: bool = False,
) -> Generator[Outcome, None, None]:
    """Run every seed; the outcomes, in the order in which runs end.

    Close the iterator to stop early. *keep_lines*: also runs in which all holds keep their trace.
    """
    if processes <= 1 or len(seeds) <= 1:
        for seed in seeds:
            yield _run(seed, nodes_of(seed, nodes), shorten, keep_lines)
        return
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    try:
        waiting: set[Future[Outcome]] = set()
        rest = iter(seeds)
        while True:
            for seed in rest:
                waiting.add(pool.submit(_run, seed, nodes_of(seed, nodes), shorten, keep_lines))
                if len(waiting) >= 4 * processes:
                    break
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# --- without the vsync command ------------------------------------------------------------------


def _range(end_included: bool) -> Callable[[str], range]:
    def read(text: str) -> range:
        found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor like 3..7")
        first = int(found[1])
        end = first + 1 if found[2] is None else int(found[2]) + end_included
        if end <= first:
            raise argparse.ArgumentTypeError(f"the range {text} is empty")
        return range(first, end)

    return read


def main(arguments: Sequence[str] | None = None) -> int:
    """Run seeds as the command line says; 1 if one fails."""
    parser = argparse.ArgumentParser(
        prog="python -m vsync.testing.simulate", description="Run whole clusters from seeds."
    )
    parser.add_argument("--nodes", type=_range(True), default=range(3, 8), help="5, or 3..7")
    parser.add_argument("--seeds", type=_range(False), default=range(100), help="7, or 0..100")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--first", action="store_true", help="stop at the first that fails")
    parser.add_argument("--no-shrink", action="store_true", help="leave schedules as they are")
    parser.add_argument("--trace", type=Path, help="write the traces of those that fail here")
    parser.add_argument("--steps", type=Path, help="this schedule instead of the seeds' own")
    options = parser.parse_args(arguments)
    shorten = not options.no_shrink
    outcomes: Iterator[Outcome]
    if options.steps is not None:
        steps = [Step.parse(line) for line in options.steps.read_text().splitlines() if line]
        outcomes = (simulate(seed, options.nodes[0], steps) for seed in options.seeds)
    else:
        outcomes = run_seeds(
            options.seeds, options.nodes, processes=options.processes, shorten=shorten
        )
    ran = failed = 0
    for outcome in outcomes:
        ran += 1
        if outcome.holds:
            continue
        failed += 1
        sys.stdout.write(outcome.describe() + "\n")
        sys.stdout.flush()
        if options.trace is not None:
            sys.stdout.write(f"  trace: {outcome.write_trace(options.trace)}\n")
        if options.first:
            break
    close = getattr(outcomes, "close", None)
    if close is not None:
        close()
    sys.stdout.write(f"{ran} seeds, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

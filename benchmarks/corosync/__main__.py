"""vsync beside Corosync, on network namespaces of one machine. Needs root.

    python -m benchmarks.corosync [--parts rate,latency] [--sizes 1024,65536] [--peers vsync,…]
                                  [--seconds 3] [--tries 3] [--quick] [--add] [--write]

Each try goes through all cases, and each case through all peers, one after another; so what
disturbs the machine for a while disturbs all of them. Every message is checked by its receivers.
Results go to a file after each measurement. ``--write`` makes the page and its plots from it, and
``--write --tries 0`` does nothing else. The exit code is 1 if anything wrong was delivered.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.corosync import page
from benchmarks.corosync.cases import COUNTS, SIZES, Case, Load, Outcome, Part, plan
from benchmarks.corosync.machine import described, missing_packages
from benchmarks.corosync.measuring import measure
from benchmarks.corosync.members import Failed
from benchmarks.corosync.peers import PEERS, compile_programs

RESULTS: Final = Path(__file__).with_name("results.json")
PAGE: Final = Path(__file__).parents[2] / "docs" / "benchmarks.md"
HALF: Final = 0.5
FULL_RATE: Final = Case(part=Part.RATE, senders=3)
"""What says how much a peer can carry, for loads that are half of it."""


def say(line: str) -> None:
    """Print one line for people."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Benchmark:
    """One run of the benchmark, and what it found so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.outcomes: list[Outcome] = []
        self._machine = described()
        if options.add and options.results.exists():
            self.outcomes = read(options.results)[1]

    def run(self) -> None:
        options = self._options
        tried: dict[Case, int] = {}
        for outcome in self.outcomes:
            tried[outcome.case] = max(outcome.attempt, tried.get(outcome.case, 0))
        for attempt in range(1, options.tries + 1):
            turns = plan(
                options.parts,
                options.peers,
                sizes=options.sizes,
                counts=options.counts,
                loss_sizes=options.loss_sizes,
                loss_percents=options.loss,
            )
            for turn in turns:
                for peer in turn.peers:
                    self._measure(peer, turn.case, tried.get(turn.case, 0) + attempt)

    def _measure(self, peer: str, case: Case, attempt: int) -> None:
        began = time.monotonic()
        outcome = measure(
            PEERS[peer],
            case,
            attempt=attempt,
            seconds=self._options.seconds,
            warm_s=self._options.warm,
            load=self._load(peer, case, attempt),
        )
        self.outcomes.append(outcome)
        self._save()
        say(f"{attempt}  {case!s:48} {peer:22} {told(outcome)}  ({time.monotonic() - began:.1f} s)")

    def _load(self, peer: str, case: Case, attempt: int) -> float:
        """The load that goes with a case, in messages a second of all senders together."""
        match case.load:
            case Load.NONE:
                return 0.0
            case Load.HALF:
                return HALF * self._full_rate(peer, attempt)
            case Load.EQUAL:
                return HALF * self._full_rate("corosync-udp", attempt)

    def _full_rate(self, peer: str, attempt: int) -> float:
        """What a peer can carry; measured now if it has not been."""
        if PEERS[peer].missing():
            return 0.0
        if not any((o.peer, o.case) == (peer, FULL_RATE) for o in self.outcomes):
            self._measure(peer, FULL_RATE, attempt)
        rates = [o.rate for o in self.outcomes if (o.peer, o.case) == (peer, FULL_RATE)]
        return statistics.median(rates)

    def _save(self) -> None:
        # One outcome a line: the file is kept, and differences should be readable.
        outcomes = ",\n".join(json.dumps(outcome.as_json()) for outcome in self.outcomes)
        facts = json.dumps({"machine": self._machine, "seconds": self._options.seconds}, indent=1)
        text = f'{facts.removesuffix("}").rstrip()},\n "outcomes": [\n{outcomes}\n ]\n}}\n'
        beside = self._options.results.with_suffix(".new")
        beside.write_text(text)
        beside.replace(self._options.results)


def read(results: Path) -> tuple[dict[str, Any], list[Outcome]]:
    """What a file of results holds."""
    found = json.loads(results.read_text())
    return found, [Outcome.from_json(each) for each in found["outcomes"]]


def told(outcome: Outcome) -> str:
    """An outcome in a few words."""
    if outcome.failed is not None:
        return outcome.failed
    if outcome.case.probes:
        times = " ".join(f"{outcome.others_us[name]:.0f}" for name in ("p50", "p99", "p99.9"))
        load = f", load {outcome.accepted:.0f}/s" if outcome.offered else ""
        return f"{times} µs{load}"
    return (
        f"{outcome.rate:.0f}/s {outcome.byte_rate / 1e6:.1f} MB/s "
        f"CPU {outcome.cpu_s / outcome.seconds:.2f}"
    )


def numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


def parts(text: str) -> list[Part]:
    return [Part(each) for each in text.split(",")]


def known_peers(text: str) -> list[str]:
    unknown = [name for name in text.split(",") if name not in PEERS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"there is no peer {unknown[0]}; there are {', '.join(PEERS)}"
        )
    return text.split(",")


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.corosync", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--parts", type=parts, default=list(Part), help=f"of {', '.join(Part)}; all by default"
    )
    parser.add_argument("--peers", type=known_peers, default=list(PEERS), help=", ".join(PEERS))
    parser.add_argument("--sizes", type=numbers, default=SIZES, help="of messages, for rates")
    parser.add_argument("--loss-sizes", type=numbers, default=[1024, 65536], help="under loss")
    parser.add_argument("--loss", type=numbers, default=[1, 5], help="of packets, in percent")
    parser.add_argument("--counts", type=numbers, default=COUNTS, help="of nodes")
    parser.add_argument("--seconds", type=float, default=3, help="that a rate is measured for")
    parser.add_argument("--warm", type=float, default=1, help="seconds of load before that")
    parser.add_argument("--tries", type=int, default=3, help="of each; medians are shown")
    parser.add_argument("--quick", action="store_true", help="one short try of little")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of results (JSON)")
    parser.add_argument("--add", action="store_true", help="to what the file holds already")
    parser.add_argument("--write", action="store_true", help="make the page from the results")
    parser.add_argument("--page", type=Path, default=PAGE, help="that --write makes")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.warm, options.tries = 1.0, 0.5, 1
        options.sizes, options.loss_sizes, options.counts = (1024, 65536), (1024,), (2, 4, 8)
        options.loss = (1,)
    return options


def complaints(outcomes: Iterable[Outcome]) -> list[str]:
    """What was delivered wrong: such a run proves nothing."""
    return [
        f"{outcome.peer}, {outcome.case}: {outcome.failed}"
        for outcome in outcomes
        if outcome.failed is not None and outcome.failed.startswith("WRONG")
    ]


def end(number: int, _: object) -> None:
    """End as after an interrupt: everything that was started is cleared away."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Measure, save, show."""
    options = parsed()
    signal.signal(signal.SIGTERM, end)
    if options.tries > 0:
        if os.geteuid() != 0:
            say("Network namespaces need root; run this as root.")
            return 2
        if missing := missing_packages():
            say(f"These are missing: {', '.join(missing)}; install them (Debian's names).")
            return 2
        with tempfile.TemporaryDirectory(prefix="vsync-bench-") as directory:
            try:
                compile_programs(Path(directory))
            except Failed as failed:
                say(str(failed))
                return 2
            try:
                Benchmark(options).run()
            except KeyboardInterrupt:
                say(f"Stopped; what was measured until now is in {options.results}.")
                return 130
    if not options.results.exists():
        say(f"There are no results in {options.results}; measure something first.")
        return 2
    found, outcomes = read(options.results)
    if options.write:
        for path in page.write(options.page, found, outcomes):
            say(f"wrote {path}")
    else:
        say(page.summary_text(outcomes))
    wrong = complaints(outcomes)
    for complaint in wrong:
        say(complaint)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

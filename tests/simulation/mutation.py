"""Break the engine on purpose, one way at a time: the simulator must notice each.

Run it as ``python -m tests.simulation.mutation [--seeds 0..40] [NUMBER ...]``. Every mutation is a
replacement in a copy of the package; seeds then run on the copy until one fails. A mutation that
survives all seeds is a hole in the simulator or in the checker, and makes the run fail.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import vsync

PACKAGE = Path(vsync.__file__).parent


class Mutation(NamedTuple):
    """One way to break the engine: in *file*, *before* becomes *after*."""

    name: str
    file: str
    before: str
    after: str


MUTATIONS = (
    Mutation(
        "agreed messages are delivered over a gap",
        "engine/log.py",
        "        while seq < aru:\n            frame = frames[seq + 1]\n",
        "        while seq < self.high:\n            frame = frames.get(seq + 1)\n",
    ),
    Mutation(
        "safe messages are delivered as agreed ones",
        "engine/log.py",
        "if frame.guarantee == _SAFE and seq >= safe_up_to:",
        "if False:",
    ),
    Mutation(
        "safe after one rotation instead of two",
        "engine/rotation.py",
        "log.settle(min(self._aru_passed, token.aru))",
        "log.settle(token.aru)",
    ),
    Mutation(
        "old-ring messages are not exchanged",
        "engine/recovery.py",
        "exchange_above=None if complete else min(arus),",
        "exchange_above=None,",
    ),
    Mutation(
        "the exchange starts above the highest instead of the lowest aru",
        "engine/recovery.py",
        "exchange_above=None if complete else min(arus),",
        "exchange_above=None if complete else max(arus),",
    ),
    Mutation(
        "messages of lost senders beyond a gap are delivered",
        "engine/log.py",
        "            if seq <= self.aru or frame.sender in owed:",
        "            if True:",
    ),
    Mutation(
        "nothing is delivered in the transitional configuration",
        "engine/membership.py",
        "            self._events += log.deliver_transitional(transitional, plan.owed)\n",
        "",
    ),
    Mutation(
        "the transitional configuration is left out",
        "engine/membership.py",
        "            self._events.append(ConfigurationChanged(transitional))\n",
        "",
    ),
    Mutation(
        "the transitional configuration has all new members",
        "engine/recovery.py",
        "            members=self.together,\n            left",
        "            members=self.members,\n            left",
    ),
    Mutation(
        "a missing frame is never asked for",
        "engine/rotation.py",
        "        if self._log.aru >= self.seq_passed:",
        "        if True:",
    ),
    Mutation(
        "of what is asked for, some parts are never repeated",
        "engine/rotation.py",
        "if wanted >> part & 1 and room > 0:",
        "if wanted >> part & 1 and room > 0 and part < 1:",
    ),
    Mutation(
        "a frame is taken without its last part",
        "engine/log.py",
        "        if partial.missing:\n            return None",
        "        if partial.missing > 1:\n            return None",
    ),
    Mutation(
        "requests are never answered",
        "engine/rotation.py",
        "self._log.packets(seq) if seq not in self._answered and room > 0 else ()",
        "()",
    ),
    Mutation(
        "aru is never lowered",
        "engine/rotation.py",
        "        if aru < token.aru or token.aru_owner in (0, self._me):",
        "        if token.aru_owner == 0 and False:",
    ),
    Mutation(
        "copies of the token are taken",
        "engine/ordering.py",
        "log is None or token.ring != log.ring or token.token_seq <= rotation.token_seq",
        "log is None or token.ring != log.ring",
    ),
    Mutation(
        "a lost token is never sent again",
        "engine/ordering.py",
        "            self._transmit.append(Burst(address, [packet]))\n            self._resend_s",
        "            self._resend_s",
    ),
    Mutation(
        "a ring number is used again after a restart",
        "engine/membership.py",
        "self._store.save(ring_seq)",
        "self._store.load()",
    ),
    Mutation(
        "ring numbers do not grow",
        "engine/membership.py",
        "RingId(max(self._ring_seq_max, self._ring.seq) + 1, self.node)",
        "RingId(self._ring.seq, self.node)",
    ),
    Mutation(
        "half-sent messages are not sent again on the new ring",
        "engine/membership.py",
        "        self._packer.restart()\n",
        "",
    ),
    Mutation(
        "FIFO messages overtake their own sender",
        "engine/streams.py",
        "        while (frame := self.waiting.pop(self.next_index, None)) is not None:\n",
        "        while self.waiting and (frame := self.waiting.pop(min(self.waiting))):\n",
    ),
    Mutation(
        "recovery ends before all have everything",
        "engine/recovery.py",
        "        return recovering, self.full_visits == 2",
        "        return recovering, self.quiet_visits >= 1",
    ),
    Mutation(
        "frames of any ring are taken",
        "engine/ordering.py",
        "log is None or log.ring != part.ring:\n            self.counters",
        "log is None:\n            self.counters",
    ),
    Mutation(
        "rings never look for each other",
        "engine/membership.py",
        "            if self.node in beacon.heard:",
        "            if False:",
    ),
    Mutation(
        "silent nodes are never given up",
        "engine/gather.py",
        "        self.failed |= accused\n",
        "",
    ),
    Mutation(
        "the token is held though others wait",
        "engine/ordering.py",
        "            self._resting = False\n            self._release_held(now)",
        "            self._resting = False",
    ),
    Mutation(
        "a rest ends and what it reserved is given out again",
        "engine/rest.py",
        "            token.seq += self._members\n",
        "",
    ),
    Mutation(
        "reserved numbers are not filled when a rest ends",
        "engine/rest.py",
        "        return own\n",
        "        return 0\n",
    ),
    Mutation(
        "all members use the first reserved number",
        "engine/rest.py",
        "        return base + 1 + self._place\n",
        "        return base + 1\n",
    ),
    Mutation(
        "views come before all have announced",
        "engine/groups.py",
        "if configuration.kind is not Kind.REGULAR or not self._announced.issuperset(\n"
        "            configuration.members\n        ):",
        "if len(self._announced) < 2 and len(configuration.members) > 1:",
    ),
    Mutation(
        "sessions of lost nodes stay",
        "engine/groups.py",
        "            self._covered &= frozenset(configuration.members)\n"
        "            self._remove_lost(out)",
        "            self._covered &= frozenset(configuration.members)",
    ),
    Mutation(
        "the plug is out at once",
        "engine/ordering.py",
        "lanes = LANES_SYNCHRONIZING if self.synchronizing else LANES_ALL",
        "lanes = LANES_ALL",
    ),
)


def mutate(mutation: Mutation, target: Path) -> None:
    """Copy the package to *target*, broken by *mutation*."""
    shutil.copytree(PACKAGE, target / "vsync", ignore=shutil.ignore_patterns("__pycache__"))
    path = target / "vsync" / mutation.file
    text = path.read_text()
    if text.count(mutation.before) != 1:
        raise SystemExit(
            f"mutation {mutation.name!r} no longer fits {mutation.file}: its text stands there "
            f"{text.count(mutation.before)} times; rewrite the mutation"
        )
    path.write_text(text.replace(mutation.before, mutation.after))


def noticed(mutation: Mutation, seeds: str, nodes: str, processes: int) -> str | None:
    """What the simulator said of the broken engine; None if it said nothing."""
    with tempfile.TemporaryDirectory() as directory:
        mutate(mutation, Path(directory))
        run = subprocess.run(
            [
                *(sys.executable, "-m", "vsync.testing.simulate", "--nodes", nodes),
                *("--seeds", seeds, "--processes", str(processes), "--first", "--no-shrink"),
            ],
            env={**os.environ, "PYTHONPATH": directory},
            capture_output=True,
            text=True,
            timeout=1800,
            check=False,
        )
    if run.returncode == 0:
        return None
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.strip()]
    return lines[0] if lines else f"exit code {run.returncode}"


def main() -> int:
    """Run the mutations; 0 if the simulator noticed every one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", type=int, nargs="*", help="only these mutations (from 1)")
    parser.add_argument("--seeds", default="0..60")
    parser.add_argument("--nodes", default="3..5")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    survivors = 0
    for number, mutation in enumerate(MUTATIONS, 1):
        if options.numbers and number not in options.numbers:
            continue
        began = time.monotonic()
        said = noticed(mutation, options.seeds, options.nodes, options.processes)
        survivors += said is None
        verdict = "SURVIVED" if said is None else f"noticed: {said[:110]}"
        sys.stdout.write(f"{number:2} {mutation.name}: {verdict} ")
        sys.stdout.write(f"({time.monotonic() - began:.1f} s)\n")
        sys.stdout.flush()
    sys.stdout.write(f"{survivors} survived\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())

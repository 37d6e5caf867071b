"""Five nodes under random faults for a time, then all traces held against every property.

    python -m benchmarks.soak [--minutes 30] [--seed N] [--nodes 5]

Real processes, each on a host of its own, with load on all of them. By its seed a run has one
network or two, and a key or none. What happens, happens again and again: nodes are killed, leave,
are stopped and come back; cables come out; the network falls apart into two sides and heals;
packets are lost, repeated, held back and reordered; a path works one way only; a reader takes
nothing for a while. In the end everything heals: the ring must become one, no message that was
accepted by a node that lives may be lost, and the traces must hold. Exit code 1 if not; the files
stay where they are then. Needs root.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.cli.command import environment
from tests.network.nodes import PATIENCE_S, ROOT, Node, Ring, eventually
from tests.network.twofold import TwofoldRing
from vsync.key_file import make_key, write_key

MESSAGES_MAX: Final = 250_000
"""In all, so that traces stay within what fits into memory when they are checked."""

RATE_MAX: Final = 100.0
"""Batches a node, a second."""

REPORT_S: Final = 30.0


def say(line: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Soak:
    """One run: a ring, its load, and what is done to it."""

    def __init__(self, directory: Path, seed: int, nodes: int, stack: ExitStack) -> None:
        self.dice = random.Random(seed)
        self.directory = directory
        self.faults: Counter[str] = Counter()
        twofold = self.dice.random() < 0.4
        sealed = self.dice.random() < 0.5
        self.kind = f"{'two networks' if twofold else 'one network'}, {'a' if sealed else 'no'} key"
        self._security = ""
        if sealed:
            write_key(directory / "ring.key", make_key())
            self._security = f'[security]\nkey_file = "{directory}/ring.key"\n'
        self.ring = stack.enter_context(
            TwofoldRing(directory, nodes, self.dice.choice(["passive", "active", "fastest"]))
            if twofold
            else Ring(directory, nodes, housed=True, transport="fault", section=self._section)
        )
        self._twofold = self.ring if isinstance(self.ring, TwofoldRing) else None
        if self._twofold is not None:
            self._spoil_links(self._twofold)
        self._stack = stack
        self._readers: list[subprocess.Popen[bytes]] = []
        self.deeds: dict[str, Callable[[Node], None]] = {
            "killed": self._kill,
            "left": self._leave,
            "stopped": self._stop,
            "unplugged": self._unplug,
            "cut off": self._cut,
            "parted": self._part,
            "lossy": self._spoil("loss = {:.2f}\n", 0.02, 0.3),
            "repeating": self._spoil("duplicate = {:.2f}\n", 0.05, 0.5),
            "late": self._spoil("delay_s = {:.4f}\njitter_s = 0.004\n", 0.0005, 0.01),
            "out of order": self._spoil("reorder = {:.2f}\n", 0.05, 0.5),
            "deaf": self._spoil("cut_receive = true\n", 0, 0),
            "mute": self._spoil("cut_send = true\n", 0, 0),
            "slow to read": self._read_slowly,
        }
        if self._twofold is not None:
            self.deeds["one network cut"] = self._cut_network

    def _section(self, number: int) -> str:
        """``[transport.fault]`` around UDP, with a control file for each node."""
        return (
            f'inner = "udp"\ncontrol = "{self._control(number)}"\n[transport.fault.settings]\n'
            f'bind = "10.77.0.{number}"\ngroup = "239.192.7.9"\n{self._security}'
        )

    def _spoil_links(self, ring: TwofoldRing) -> None:
        """Put faults around the first link of each node, and the key into its settings."""
        for node in ring.nodes:
            text = node.settings.read_text()
            first = f'transport = "udp"\nsettings = {{ bind = "10.77.0.{node.number}"'
            assert first in text
            faulty = (
                f'transport = "fault"\n[transport.redundant.links.settings]\ninner = "udp"\n'
                f'control = "{self._control(node.number)}"\n'
                f'settings = {{ bind = "10.77.0.{node.number}"'
            )
            node.settings.write_text(text.replace(first, faulty) + self._security)

    def _control(self, number: int) -> Path:
        return self.directory / f"faults-{number}.toml"

    def start(self) -> None:
        """Start all nodes, and a reader at each."""
        self.ring.start()
        self.ring.wait_for()
        for node in self.ring.nodes:
            reader = subprocess.Popen(
                [
                    *(sys.executable, "-m", "vsync_cli", "watch", "red", "--reconnect"),
                    *("--socket", str(node.socket), "--slow", "block"),
                ],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(),
            )
            self._stack.callback(self._end_reader, reader)
            self._readers.append(reader)

    @staticmethod
    def _end_reader(reader: subprocess.Popen[bytes]) -> None:
        reader.kill()
        reader.wait()

    def do_something(self) -> None:
        """One fault, to one node or all, and its end."""
        name = self.dice.choice(list(self.deeds))
        self.faults[name] += 1
        self.deeds[name](self.dice.choice(self.ring.nodes))
        time.sleep(self.dice.choice((0, 0, 0.1, 0.5, 2)) * self.dice.random())

    def _for_a_while(self, longest_s: float) -> None:
        time.sleep(self.dice.uniform(0.05, longest_s))

    def _kill(self, node: Node) -> None:
        node.kill()
        self._for_a_while(1.0)
        self.ring.start(node.number)

    def _leave(self, node: Node) -> None:
        # Who is still starting does not leave, but just ends.
        eventually(lambda: node.serving, lambda: f"node {node.number} serves: {node.said()}")
        code = node.leave()
        # Messages that nobody else could be told of are said so; it was alone, or as good as.
        fine = code == 0 or "not yet known to be" in node.said()
        assert fine, f"node {node.number} left with code {code}: {node.said()}"
        self.ring.start(node.number)

    def _stop(self, node: Node) -> None:
        node.pause()
        self._for_a_while(2.0)
        node.resume()

    def _unplug(self, node: Node) -> None:
        self.ring.unplug(node.number)
        self._for_a_while(1.5)
        self.ring.plug(node.number)

    def _cut(self, node: Node) -> None:
        self.ring.cut(node.number)
        self._for_a_while(1.5)
        self.ring.heal(node.number)

    def _part(self, node: Node) -> None:
        del node
        numbers = [each.number for each in self.ring.nodes]
        side = self.dice.sample(numbers, len(numbers) // 2)
        self.ring.part(*side)
        self._for_a_while(2.0)
        self.ring.merge(*side)

    def _cut_network(self, node: Node) -> None:
        del node
        assert self._twofold is not None
        link = self.dice.choice((1, 2))
        self._twofold.cut_link(link)
        self._for_a_while(2.0)
        self._twofold.heal_link(link)

    def _spoil(self, faults: str, least: float, most: float) -> Callable[[Node], None]:
        def spoil(node: Node) -> None:
            everyone = "cut" not in faults and self.dice.random() < 0.5
            for each in self.ring.nodes if everyone else [node]:
                self._write_faults(each, faults.format(self.dice.uniform(least, most)))
            self._for_a_while(2.0)
            for each in self.ring.nodes:
                self._control(each.number).unlink(missing_ok=True)

        return spoil

    def _write_faults(self, node: Node, text: str) -> None:
        aside = self._control(node.number).with_suffix(".new")
        aside.write_text(text)
        os.replace(aside, self._control(node.number))

    def _read_slowly(self, node: Node) -> None:
        reader = self._readers[node.number - 1]
        reader.send_signal(signal.SIGSTOP)
        self._for_a_while(2.0)
        reader.send_signal(signal.SIGCONT)


def soak(directory: Path, minutes: float, seed: int, nodes: int) -> None:
    """Run it; raises AssertionError if something is wrong in the end."""
    seconds = minutes * 60
    with ExitStack() as stack:
        run = Soak(directory, seed, nodes, stack)
        say(f"seed {seed}: {nodes} nodes, {run.kind}, {minutes:g} minutes")
        run.start()
        rate = min(RATE_MAX, MESSAGES_MAX / seconds / nodes)
        load = run.ring.load("--rate", f"{rate:.1f}", "--seed", str(seed))
        end = time.monotonic() + seconds
        told_at = time.monotonic()
        while (now := time.monotonic()) < end:
            run.do_something()
            if now - told_at >= REPORT_S:
                told_at = now
                say(f"{end - now:5.0f} s to go: {sum(run.faults.values())} faults, {counted(run)}")
        run.ring.wait_for(within_s=2 * PATIENCE_S)
        run.ring.wait_for_messages(20 * nodes)
        report = run.ring.finish(load, messages=100)
        held = f"{len(report.history.messages)} messages, {report.history.deliveries} deliveries"
        lives = len(report.history.processes)
        say(f"{held}, {len(report.history.configurations)} configurations, {lives} lives: all hold")
        say("faults: " + ", ".join(f"{name} {count}" for name, count in run.faults.most_common()))
        run.ring.leave()


def counted(run: Soak) -> str:
    """How far the nodes have come."""
    for node in run.ring.nodes:
        node.following.read()
    delivered = max(node.following.delivered for node in run.ring.nodes)
    changes = max(len(node.following.configurations) for node in run.ring.nodes)
    return f"{delivered} messages, {changes} configurations at one node"


def main() -> int:
    """Run it, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, help="without it: another one each time")
    parser.add_argument("--nodes", type=int, default=5)
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    directory = Path(tempfile.mkdtemp(prefix="vsync-soak-"))
    try:
        soak(directory, options.minutes, seed, options.nodes)
    except AssertionError as error:
        say(f"seed {seed} fails: {error}\nthe traces are in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())

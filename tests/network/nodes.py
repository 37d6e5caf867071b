"""Rings of real ``vsync run`` processes: started, killed, paused, restarted, loaded and checked.

On hosts of their own (network namespaces), or all on the loopback interface of this machine.
"""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.cli.command import environment, status_of
from tests.network.following import Following
from tests.transport_udp.hosts import Ethernet, Host
from tests.transport_udp.ports import unused_port
from vsync.testing.properties import Report, check_files

PATIENCE_S = 30.0
"""How long anything may take on a busy machine before it counts as never."""

QUIET_S = 0.7
"""So long must nothing happen before a run counts as settled: longer than any of our timers."""

PATIENT = 'preset = "lan"\ntoken_lost_s = 1.5'
"""So that a machine that has no time for a third of a second does not look like a network that is
cut. ``nox -s redundancy`` has the default, and measures the pauses."""

ROOT = Path(__file__).parents[2]


class Process(Protocol):
    """A process that was started, as ``subprocess.Popen`` has it."""

    pid: int

    def poll(self) -> int | None:
        """The exit code; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended."""

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...


class Node:
    """One node: its files, and one life of its process after another."""

    def __init__(self, directory: Path, number: int, settings: str, host: Host | None) -> None:
        self.number = number
        self.host = host
        self.socket = directory / f"{number}.sock"
        self.trace = directory / f"{number}.jsonl"
        self.settings = directory / f"{number}.toml"
        self.settings.write_text(settings)
        self.following = Following(self.trace)
        self.crashed: set[str] = set()
        """The lives that were killed."""

        self._output = directory / f"{number}.out"
        self._errors = directory / f"{number}.err"
        self._told_before = 0
        """Bytes of standard output that are of former lives."""
        self._process: Process | None = None

    def start(self, *, trace: bool = True) -> None:
        """Start a life of the process; it appends to the trace of the former ones."""
        assert not self.running, f"node {self.number} runs already"
        tracing = ("--trace", str(self.trace)) if trace else ()
        self._told_before = self._output.stat().st_size if self._output.exists() else 0
        self._process = self.spawn(
            *("run", "-c", str(self.settings), *tracing, "--socket", str(self.socket))
        )

    def spawn(self, *arguments: str) -> Process:
        """Run ``vsync`` with these arguments where the node is at home."""
        housing = ("ip", "netns", "exec", self.host.name) if self.host else ()
        with self._output.open("ab") as output, self._errors.open("ab") as errors:
            # `ip netns exec` becomes the command, so the process is the node itself.
            return subprocess.Popen(
                [*housing, sys.executable, "-m", "vsync_cli", *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment(),
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def serving(self) -> bool:
        """Whether it has said its first line in this life: before, nobody is at its socket, though
        its trace may have a configuration already."""
        return self.running and self._output.stat().st_size > self._told_before

    @property
    def process(self) -> Process:
        assert self._process is not None, f"node {self.number} was never started"
        return self._process

    def signal(self, number: signal.Signals) -> int:
        """Send a signal; gives the time, in nanoseconds of the monotonic clock."""
        assert self.running, f"node {self.number} does not run: {self.said()}"
        now = time.monotonic_ns()
        self.process.send_signal(number)
        return now

    def kill(self) -> int:
        """End the process by force; gives the time."""
        now = self.signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        self.following.read()
        if not self.following.stopped:
            self.crashed.add(self.following.life)
        return now

    def leave(self) -> int:
        """Ask the process to leave its ring, and give its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end, and give the exit code."""
        return self.process.wait(PATIENCE_S)

    def pause(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def said(self) -> str:
        """All that it wrote to standard error, in all its lives."""
        return self._errors.read_text().strip() if self._errors.exists() else ""

    def told(self) -> list[str]:
        """The lines of standard output, of all its lives."""
        return self._output.read_text().splitlines() if self._output.exists() else []

    def status(self) -> dict[str, Any]:
        """What ``vsync status`` says."""
        return status_of(self.socket)

    def members(self) -> list[int]:
        """The members of its regular configuration; empty if it is in none."""
        self.following.read()
        return self.following.members if self.running else []

    def dropped(self, reason: str) -> int:
        """How many packets it dropped for this reason."""
        count: int = self.status()["counters"].get(f"dropped_{reason}", 0)
        return count


class Load:
    """One process that sends messages of all kinds through the nodes' sockets until it ends.

    *hang_up* closes its standard input, which ends it.
    """

    def __init__(self, process: Process, hang_up: Callable[[], object], report: Path) -> None:
        self._process = process
        self._hang_up = hang_up
        self._report = report

    @classmethod
    def start(cls, directory: Path, nodes: Sequence[Node], *arguments: str) -> Self:
        """Start it on this machine."""
        report = load_report(directory)
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.network.load", "--report", str(report), *arguments),
                *(str(node.socket) for node in nodes),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdin is not None
        return cls(process, process.stdin.close, report)

    def stop(self) -> dict[str, Any]:
        """End it, and give what it says of itself: ``accepted`` are the messages by their ids."""
        assert self.running, "the load ended by itself; it says why above"
        self._hang_up()
        assert self._process.wait(PATIENCE_S) == 0
        found: dict[str, Any] = json.loads(self._report.read_text())
        return found

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        if self.running:
            self._process.kill()
        self._process.wait()
        self._hang_up()


def load_report(directory: Path) -> Path:
    """Where a load may write what became of it."""
    return directory / f"load-{time.monotonic_ns()}.json"


class Ring:
    """Nodes that hear each other and nobody else. Leave it, and everything is gone but the files.

    With *housed* each node has a host of its own, which needs root. They use multicast, or another
    *transport* whose *section* of the settings is given for each node's number.
    """

    def __init__(
        self,
        directory: Path,
        size: int,
        *,
        housed: bool,
        ring: str = "",
        transport: str = "udp",
        section: Callable[[int], str] | None = None,
    ) -> None:
        self._directory = directory
        self._size = size
        self._housed = housed
        self._ring = ring or 'preset = "lan"'
        self._transport = transport
        self._section = section
        self._stack = contextlib.ExitStack()
        self._loads: list[Load] = []
        self._parted = False
        self.ethernet: Ethernet | None = None
        self.nodes: list[Node] = []
        self.group = f"239.192.{random.randrange(256)}.{random.randrange(1, 255)}"
        self.port = 5405 if housed else unused_port()

    def __enter__(self) -> Self:
        with self._stack:
            if self._housed:
                self.ethernet = self._stack.enter_context(Ethernet())
            for number in range(1, self._size + 1):
                self.add(number)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __getitem__(self, number: int) -> Node:
        return next(node for node in self.nodes if node.number == number)

    def add(self, number: int, *, name: str = "truth", place: str = "") -> Node:
        """Make a node, on the next host, but do not start it. *place* tells its files from those
        of another of that number."""
        host = self.ethernet.add_host() if self.ethernet is not None else None
        directory = self._directory / place
        directory.mkdir(exist_ok=True)
        multicast = (
            f'bind = "{f"10.77.0.{host.number}" if host else "127.0.0.1"}"\n'
            f'group = "{self.group}"\nport = {self.port}\n'
        )
        settings = (
            f'[node]\nid = {number}\nstate_dir = "{directory}/state-{number}"\n'
            f'[ring]\nname = "{name}"\ntransport = "{self._transport}"\n{self._ring}\n'
            f"[transport.{self._transport}]\n"
            f"{self._section(number) if self._section else multicast}"
        )
        node = Node(directory, number, settings, host)
        self._stack.callback(lambda: end(node))
        self.nodes.append(node)
        return node

    # --- what happens to them -------------------------------------------------------------------

    def start(self, *numbers: int, trace: bool = True) -> None:
        """Start these nodes, or all; do not wait for them."""
        for node in self.nodes:
            if not numbers or node.number in numbers:
                node.start(trace=trace)

    def load(self, *arguments: str, nodes: Sequence[Node] = ()) -> Load:
        """Send through *nodes*, or all, until it is stopped; see ``tests/network/load.py``."""
        load = self._start_load(nodes or self.nodes, *arguments)
        self._loads.append(load)
        self._stack.callback(load.close)
        return load

    def _start_load(self, nodes: Sequence[Node], *arguments: str) -> Load:
        return Load.start(self._directory, nodes, *arguments)

    def unplug(self, *numbers: int) -> int:
        """Take the cables of these hosts out of the bridge; gives the time."""
        return self._link("down", numbers)

    def plug(self, *numbers: int) -> int:
        """Undo ``unplug``."""
        return self._link("up", numbers)

    def _link(self, state: str, numbers: Iterable[int]) -> int:
        assert self.ethernet is not None
        for number in numbers:
            self.ethernet.ip("link", "set", "dev", self._host(number).port, state)
        return time.monotonic_ns()

    def cut(self, *numbers: int) -> int:
        """Let no packet through to or from these hosts, though their links stay up."""
        assert self.ethernet is not None
        for number in numbers:
            self.ethernet.cut(self._host(number))
        return time.monotonic_ns()

    def heal(self, *numbers: int) -> int:
        """Undo ``cut``; gives the time."""
        assert self.ethernet is not None
        for number in numbers:
            self.ethernet.heal(self._host(number))
        return time.monotonic_ns()

    def part(self, *numbers: int) -> int:
        """Move these hosts to a bridge of their own: they hear each other, and not the others."""
        return self._move("br1", numbers)

    def merge(self, *numbers: int) -> int:
        """Move these hosts back to the others; gives the time when all had moved."""
        return self._move("br0", numbers)

    def _move(self, bridge: str, numbers: Iterable[int]) -> int:
        assert self.ethernet is not None
        if not self._parted:
            kind = ("type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
            self.ethernet.ip("link", "add", "br1", *kind)
            self.ethernet.ip("link", "set", "br1", "up")
            self._parted = True
        for number in numbers:
            self.ethernet.ip("link", "set", "dev", self._host(number).port, "master", bridge)
        return time.monotonic_ns()

    def lose(self, percent: float) -> None:
        """Lose so many of the packets that arrive at a host, each host for itself; 0 ends it.

        What is lost may be many packets that travel as one, since the kernel cuts them later.
        """
        for node in self.nodes:
            host = self._host(node.number)
            rules = "table netdev loss\ndelete table netdev loss\n"
            if percent:
                rules += (
                    "table netdev loss {\nchain in {\ntype filter hook ingress device eth0 "
                    f"priority 0\nnumgen random mod 10000 < {round(percent * 100)} drop\n}}\n}}\n"
                )
            filter_packets(host.name, rules)

    def repeat(self, percent: float) -> None:
        """Let so many of the packets of each host arrive twice at each of the others."""
        assert self.ethernet is not None
        ports = [self._host(node.number).port for node in self.nodes]
        arriving = "type filter hook ingress device"
        for port in ports:
            rules = "\n".join(
                f"numgen random mod 10000 < {round(percent * 100)} dup to {other}"
                for other in ports
                if other != port
            )
            filter_packets(
                self.ethernet.name,
                f"table netdev repeat_{port} {{\nchain in {{\n"
                f"{arriving} {port} priority 0\n{rules}\n}}\n}}\n",
            )

    def _host(self, number: int) -> Host:
        host = self[number].host
        assert host is not None
        return host

    # --- what is to come of it ------------------------------------------------------------------

    def wait_for(self, *numbers: int, within_s: float = PATIENCE_S) -> None:
        """Wait until these nodes, or all, are in one configuration of just them, and serve."""
        chosen = [node for node in self.nodes if not numbers or node.number in numbers]
        self.wait_for_all_of(chosen, within_s=within_s)

    def wait_for_all_of(self, chosen: Sequence[Node], *, within_s: float = PATIENCE_S) -> None:
        """Wait until these nodes are in one configuration of just them, and serve programs."""
        expected = sorted(node.number for node in chosen)

        def agreed() -> bool:
            dead = [node.number for node in chosen if not node.running]
            assert not dead, f"these nodes have ended: {dead}{self.complaints()}"
            if any(node.members() != expected or not node.serving for node in chosen):
                return False
            return len({node.following.configurations[-1]["id"] for node in chosen}) == 1

        def described() -> str:
            seen = "; ".join(
                f"{node.number} {'serves' if node.serving else 'does not serve'} {node.members()}"
                for node in chosen
            )
            return f"{expected} in one configuration: {seen}{self.complaints()}"

        eventually(agreed, described, within_s)

    def wait_for_messages(self, count: int) -> None:
        """Wait until every running node has delivered so many more."""
        running = [node for node in self.nodes if node.running]
        before = {}
        for node in running:
            node.following.read()
            before[node.number] = node.following.delivered

        def enough() -> bool:
            assert any(load.running for load in self._loads), "no load runs; it says why above"
            for node in running:
                node.following.read()
            return all(
                node.following.delivered - before[node.number] >= count
                for node in running
                if node.running
            )

        def described() -> str:
            seen = {
                node.number: (node.following.delivered - before[node.number], node.members())
                for node in running
            }
            return f"{count} more messages everywhere: {seen}{self.complaints()}"

        eventually(enough, described)

    def wait_until_told(self, numbers: Sequence[int]) -> None:
        """Wait until every node says on its output that it is in a configuration of *numbers*."""
        members = f"members {' '.join(map(str, numbers))}"
        eventually(
            lambda: all(members in (node.told() or [""])[-1] for node in self.nodes),
            lambda: f"{members} told everywhere{self.complaints()}",
        )

    def complaints(self) -> str:
        """What the nodes wrote to standard error."""
        said = [f"\nnode {node.number}: {node.said()}" for node in self.nodes if node.said()]
        return "".join(said)

    def settle(self) -> None:
        """Wait until all nodes that run are in one configuration, and nothing happens any more."""
        running = [node for node in self.nodes if node.running]
        end = time.monotonic() + PATIENCE_S
        while True:
            self.wait_for_all_of(running)
            before = [node.trace.stat().st_size for node in running]
            time.sleep(QUIET_S)
            if before == [node.trace.stat().st_size for node in running]:
                return
            assert time.monotonic() < end, f"the nodes never became quiet{self.complaints()}"

    def finish(self, load: Load, *, messages: int) -> Report:
        """Stop the load, let the ring settle, and hold all traces against all properties.

        At least so many *messages* must have been sent, and none that was accepted may be lost but
        those of lives that were killed.
        """
        accepted = load.stop()["accepted"]
        self.settle()
        living = [node for node in self.nodes if node.running]
        report = self.check(quiet=True)
        assert len(accepted) >= messages, f"only {len(accepted)} messages were accepted"
        lost = self._lost(report, accepted)
        assert not lost, f"{len(lost)} accepted messages are lost, such as {lost[:5]}"
        for node in living:
            status = node.status()
            assert status["state"] == "operational"
            assert status["configuration"]["members"] == sorted(node.number for node in living)
            assert (status["pending_bytes"], status["unstable"]) == (0, 0)
        return report

    def _lost(self, report: Report, accepted: Iterable[str]) -> list[str]:
        """Which of the accepted messages nobody delivered to their own sender, though it lives."""
        dead = {life for node in self.nodes for life in node.crashed}
        messages = {str(message): message for message in report.history.messages}
        lost = []
        for id in accepted:
            _, life, _ = id.split("-", 2)
            message = messages.get(id)
            if life in dead:
                continue
            if message is None or not message.sends:
                lost.append(id)  # accepted, and not even in the trace
            elif message.index not in message.sends[0][0].delivered:
                lost.append(id)
        return lost

    def check(self, *, quiet: bool) -> Report:
        """Hold the traces against the properties; *quiet* says that the run ended settled."""
        living = [(node.number, node.following.life) for node in self.nodes if node.running]
        traces = [node.trace for node in self.nodes if node.trace.exists()]
        report = check_files(traces, quiet=quiet, running=living)
        breaches = "\n".join(
            f"{breach.property} {breach.process}: {breach.text} "
            f"[{', '.join(report.history.place(line) for line in breach.lines)}]"
            for breach in report.violations[:20]
        )
        assert report.holds, f"{len(report.violations)} breaches:\n{breaches}{self.complaints()}"
        return report

    def leave(self) -> None:
        """Let all nodes leave, and see that each ends well, having said so in its trace."""
        for node in self.nodes:
            if node.running:
                assert node.leave() == 0, node.said()
                node.following.read()
                assert node.following.stopped
        self.check(quiet=False)


def end(node: Node) -> None:
    """End a process, however it is."""
    if node.running:
        node.process.kill()
        node.process.wait()


def filter_packets(namespace: str, rules: str) -> None:
    """Give ``nft`` in a namespace these rules."""
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, "nft", "-f", "-"],
        input=rules,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\n{rules}"


def eventually(
    holds: Callable[[], bool], what: Callable[[], str] | str, within_s: float = PATIENCE_S
) -> None:
    """Wait until *holds()*; fail with *what* if it never does."""
    end_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end_s:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {within_s:.0f} s: {said}")
        time.sleep(0.02)

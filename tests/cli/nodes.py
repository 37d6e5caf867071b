"""Real ``vsync run`` processes on the loopback interface."""

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.cli.command import environment, status_of
from tests.transport_udp.ports import unused_port

PATIENCE_S = 20.0
"""How long anything may take on a busy machine."""

TOKEN_LOST_S = 1.5
"""So that a machine that has no time for a third of a second changes no configuration."""


def eventually(holds: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
    """Wait until *holds()*; fail with *what* if it never does."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.02)


class RunningNode:
    """One process, its files, and what it said so far."""

    def __init__(self, directory: Path, node: int, settings: str) -> None:
        self.node = node
        self.socket = directory / f"{node}.sock"
        self.trace = directory / f"{node}.jsonl"
        self.settings = directory / f"{node}.toml"
        self._output = directory / f"{node}.out"
        self._errors = directory / f"{node}.err"
        self.settings.write_text(settings)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "vsync_cli", "run"),
                    *("-c", str(self.settings), "--trace", str(self.trace)),
                ],
                stdout=output,
                stderr=errors,
                env=environment(),
            )

    def lines(self) -> list[str]:
        return self._output.read_text().splitlines()

    def errors(self) -> str:
        return self._errors.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and give the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def wait(self) -> int:
        """Wait for the end, and give the exit code."""
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    def status(self) -> dict[str, Any]:
        return status_of(self.socket)

    def members(self) -> list[int]:
        """The members of the last regular configuration that it told of."""
        told = [line.split(": members ")[1] for line in self.lines() if " regular conf" in line]
        return [int(word) for word in told[-1].split(" (")[0].split()] if told else []


class Ring:
    """Nodes that can hear each other, and nobody else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.group = f"239.192.{random.randrange(256)}.{random.randrange(1, 255)}"
        self.port = unused_port()
        self.nodes: list[RunningNode] = []

    def settings(self, node: int, name: str) -> str:
        return (
            f'[node]\nid = {node}\nstate_dir = "{self.directory}/state-{name}"\n'
            f'[ring]\nname = "test"\ntoken_lost_s = {TOKEN_LOST_S}\n'
            f'[transport.udp]\nbind = "127.0.0.1"\ngroup = "{self.group}"\nport = {self.port}\n'
            f'[daemon]\nsocket = "{self.directory}/{node}.sock"\n'
        )

    def start(self, *numbers: int) -> list[RunningNode]:
        """Start nodes, and wait until all that were started so far have one configuration."""
        for number in numbers:
            node = RunningNode(self.directory, number, self.settings(number, str(number)))
            node.start()
            self.nodes.append(node)
        expected = sorted(node.node for node in self.nodes)
        for node in self.nodes:
            eventually(
                lambda node=node: node.members() == expected,  # type: ignore[misc]
                f"node {node.node} in a configuration of {expected}",
            )
        return self.nodes

    def close(self) -> None:
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.kill()
                node.process.wait()


@contextlib.contextmanager
def ring() -> Iterator[Ring]:
    """A ring in a directory with a short path, as Unix sockets need it."""
    directory = Path(tempfile.mkdtemp(prefix="vsync-test-"))
    made = Ring(directory)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)

"""One real ``vsync run`` of the demo: its files, its process, and what can be done to it."""

import ctypes
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from enum import Enum
from pathlib import Path
from typing import Any, Final

from vsync_cli.demo.follower import Follower

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

NODES: Final = (1, 2, 3)


class Condition(Enum):
    """What we did to a process, and what became of it."""

    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


class NodeProcess:
    """A node of the demo, through all its lives."""

    def __init__(self, node: int, directory: Path, settings: str) -> None:
        self.node = node
        self.condition = Condition.ENDED
        self.why_ended = "not started"
        self.cut = False
        self.traces: list[Path] = []
        self.follower = Follower(directory / "none")
        self.status: dict[str, Any] | None = None
        self.socket = directory / f"node-{node}.sock"
        self._directory = directory
        self._settings = directory / f"node-{node}.toml"
        self._control = directory / f"node-{node}.faults.toml"
        self._log = directory / f"node-{node}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._settings.write_text(
            settings.format(
                node=node,
                state_dir=directory / f"state-{node}",
                socket=self.socket,
                control=self._control,
            )
        )

    @property
    def live(self) -> bool:
        """Whether it takes part: it runs and is not paused."""
        return self.condition is Condition.RUNNING

    def start(self) -> None:
        """Begin a new life, with a trace of its own."""
        if self.condition is not Condition.ENDED:
            return
        trace = self._directory / f"node-{self.node}.life-{len(self.traces) + 1}.jsonl"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "vsync_cli", "run"),
                    *("-c", self._settings, "--trace", trace),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is for the demo alone, which then ends its nodes.
                start_new_session=True,
                preexec_fn=functools.partial(_die_with_parent, os.getpid()),
            )
        self.traces.append(trace)
        self.follower = Follower(trace)
        self.status = None
        self.condition = Condition.RUNNING

    def kill(self) -> None:
        """End it as a crash does."""
        self._signal(signal.SIGKILL, "killed")

    def leave(self) -> None:
        """Ask it to leave the ring and end."""
        if self.condition is Condition.PAUSED:
            self.resume()
        self._signal(signal.SIGTERM, "left")

    def pause(self) -> None:
        """Stop it where it stands: it does nothing, and does not know."""
        if self.condition is Condition.RUNNING:
            self._signal(signal.SIGSTOP)
            self.condition = Condition.PAUSED

    def resume(self) -> None:
        """Let a paused one go on."""
        if self.condition is Condition.PAUSED:
            self._signal(signal.SIGCONT)
            self.condition = Condition.RUNNING

    def cut_off(self) -> None:
        """Let no packet in or out. Takes effect within some hundredths of a second."""
        self._control.with_suffix(".new").write_text("cut = true\n")
        # Renamed over the old one, so that nobody reads half a file.
        self._control.with_suffix(".new").replace(self._control)
        self.cut = True

    def heal(self) -> None:
        """Let packets through again."""
        self._control.unlink(missing_ok=True)
        self.cut = False

    def look(self) -> list[dict[str, Any]]:
        """See whether the process still runs, and read its trace; give what is new in it."""
        lines = self.follower.read()
        if self._process is not None and self._process.poll() is not None:
            if self.condition is not Condition.ENDED:
                self.condition = Condition.ENDED
                self.why_ended = self._last_words()
            self._process = None
            self.status = None
            lines += self.follower.read()
        return lines

    @property
    def has_process(self) -> bool:
        """Whether there is a process that has not been seen to end."""
        return self._process is not None

    def end(self, grace_s: float) -> None:
        """Wait *grace_s* at most for the process to end by itself, then kill it."""
        if self._process is None:
            return
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.look()

    def _signal(self, number: signal.Signals, why_ended: str | None = None) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        if why_ended is not None:
            self.condition = Condition.ENDED
            self.why_ended = why_ended
            self.status = None

    def _last_words(self) -> str:
        code = self._process.returncode if self._process else None
        words = self._log.read_text(errors="replace").strip().splitlines()
        return words[-1] if words else f"ended with exit code {code}"


def _die_with_parent(parent: int) -> None:
    """Runs in the new process: whatever ends the demo, even SIGKILL, ends its nodes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


SETTINGS: Final = """\
[node]
id = {{node}}
state_dir = "{{state_dir}}"

[ring]
name = "demo"
transport = "fault"

[transport.fault]
inner = "udp"
control = "{{control}}"

[transport.fault.settings]
bind = "127.0.0.1"
group = "{group}"
port = {port}

[daemon]
socket = "{{socket}}"
"""


def make_nodes(directory: Path) -> list[NodeProcess]:
    """Write the settings of three nodes into *directory*.

    The multicast group is chosen at random, so that two demos on one machine do not meet.
    """
    dice = random.SystemRandom()
    # Organisation-local scope (RFC 2365, section 6.2).
    group = f"239.192.{dice.randrange(256)}.{dice.randrange(1, 255)}"
    settings = SETTINGS.format(group=group, port=_unused_port())
    return [NodeProcess(node, directory, settings) for node in NODES]


def make_directory() -> Path:
    """A new temporary directory, for everything that the nodes write."""
    return Path(tempfile.mkdtemp(prefix="vsync-demo-"))


def remove_directory(directory: Path) -> None:
    """Remove what ``make_directory`` made."""
    shutil.rmtree(directory, ignore_errors=True)


def _unused_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.bind(("", 0))
        port: int = asker.getsockname()[1]
        return port

"""``vsync demo``: real nodes, harmed by a script, and a screen on a terminal of its own."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import complaint, environment, invoke, vsync
from tests.cli.nodes import PATIENCE_S, eventually


def processes_with(text: str) -> list[int]:
    """The processes whose command line has *text* in it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has just ended
    return found


def test_the_tour_ends_well_and_every_property_holds() -> None:
    done = vsync("demo", timeout_s=110)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "There is no terminal here" in done.stdout
    assert "3 live nodes have configuration" in done.stdout
    assert "Every property holds." in done.stdout
    for verb in ("kill 2", "pause 3", "cut 1", "leave 2"):
        assert f"> {verb}" in done.stdout
    assert "\x1b" not in done.stdout


def test_what_the_nodes_wrote_is_kept_when_asked_for(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    script = "settle; send 2 good morning; wait 0.5"
    done = vsync("demo", "--script", script, "--messages", "--rate", "0", "--keep", kept)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.count("message 1 from 2: good morning") == 3
    traces = sorted(kept.glob("*.jsonl"))
    assert len(traces) == 3
    assert vsync("trace", "check", *traces).returncode == 0
    assert "--keep" not in done.stderr
    assert "name one that is not there" in complaint("demo", "--script", "settle", "--keep", kept)


def test_a_node_left_cut_off_is_a_failure_that_is_named() -> None:
    done = vsync("demo", "--script", "settle; cut 3; settle")
    assert done.returncode == 1
    assert "node 3 is still cut off" in done.stderr
    directory = re.search(r"wrote is in (\S+)\.$", done.stderr, re.M)
    assert directory is not None
    for path in Path(directory[1]).iterdir():
        if path.is_file():
            path.unlink()


def test_a_script_that_cannot_be_understood_starts_nothing() -> None:
    assert 'did you mean "kill"' in complaint("demo", "--script", "settle; kil 2")
    assert invoke("demo", "--rate", "-1").exit_code == 2


def test_the_script_may_come_from_standard_input() -> None:
    done = vsync("demo", "--script", "-", input=b"settle # only that\n")
    assert done.returncode == 0, done.stderr


def test_no_node_outlives_a_demo_that_is_killed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    demo = subprocess.Popen(
        [
            *(sys.executable, "-m", "vsync_cli", "demo"),
            *("--script", "wait 60", "--keep", str(kept)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    try:
        eventually(lambda: len(processes_with(f"{kept}/node-")) == 3, "three nodes run")
    finally:
        demo.kill()
        demo.wait()
    eventually(lambda: not processes_with(f"{kept}/node-"), "no node runs")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_demo_and_its_nodes(tmp_path: Path, number: signal.Signals) -> None:
    kept = tmp_path / "kept"
    demo = subprocess.Popen(
        [
            *(sys.executable, "-m", "vsync_cli", "demo"),
            *("--script", "settle; wait 60", "--keep", str(kept)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    eventually(lambda: len(processes_with(f"{kept}/node-")) == 3, "three nodes run")
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 1
    assert b"the demo was interrupted" in errors
    assert b"Traceback" not in errors
    assert not processes_with(f"{kept}/node-")


class Terminal:
    """A demo on a terminal of its own."""

    def __init__(self, kept: Path) -> None:
        self.kept = kept
        self.shown = ""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 140, 0, 0))
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.process = subprocess.Popen(
            [*(sys.executable, "-m", "vsync_cli", "demo"), "--keep", str(kept)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment() | {"TERM": "xterm-256color"},
            start_new_session=True,
        )

    def read(self, within_s: float = 0.1) -> None:
        end = time.monotonic() + within_s
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self._master], [], [], left)
            if ready:
                self.shown += os.read(self._master, 65536).decode(errors="replace")

    def press(self, key: str) -> None:
        os.write(self._master, key.encode())

    def wait_for(self, text: str) -> None:
        """Wait until *text* is drawn after what was waited for before."""
        end = time.monotonic() + PATIENCE_S
        while text not in (plain := re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.shown)):
            assert time.monotonic() < end, f"{text!r} is not shown in {plain[-4000:]!r}"
            self.read()
        self.shown = ""

    def ended(self) -> bool:
        """Read on, and say whether the demo has ended."""
        self.read()
        return self.process.poll() is not None

    def is_as_before(self) -> bool:
        now: list[object] = termios.tcgetattr(self._slave)
        return now == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    made = Terminal(tmp_path / "kept")
    yield made
    made.close()


def test_on_a_terminal_keys_harm_and_heal_and_quit(terminal: Terminal) -> None:
    terminal.wait_for("1 2 3 +")
    terminal.press("2k")
    terminal.wait_for("Node 2 was killed")
    terminal.wait_for(": 1 3 -2")
    terminal.press("r")
    terminal.wait_for("starts a new life")
    second = terminal.kept / "node-2.life-2.jsonl"

    def together() -> bool:
        terminal.ended()
        return second.exists() and '"members":[1,2,3]' in second.read_text()

    eventually(together, "node 2 with the others again")
    terminal.press("3p")
    terminal.wait_for("paused")
    terminal.press("pq")
    eventually(terminal.ended, "the end")
    assert terminal.process.returncode == 0
    assert "\x1b[?1049l" in terminal.shown  # the picture is gone, the shell's screen is back
    assert "Every property holds." in terminal.shown
    assert terminal.is_as_before()
    assert not processes_with(f"{terminal.kept}/node-")
    assert len(list(terminal.kept.glob("*.life-*.jsonl"))) == 4


def test_a_signal_gives_the_terminal_back(terminal: Terminal) -> None:
    terminal.wait_for("1 2 3 +")
    terminal.process.send_signal(signal.SIGTERM)
    eventually(terminal.ended, "the end")
    assert "\x1b[?1049l" in terminal.shown
    assert "Traceback" not in terminal.shown
    assert terminal.is_as_before()
    assert not processes_with(f"{terminal.kept}/node-")

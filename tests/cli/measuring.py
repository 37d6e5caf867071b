"""Measuring commands as processes: started beside each other, ended by Ctrl-C, in a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.cli.command import environment
from tests.cli.nodes import PATIENCE_S, Ring, eventually

LONG_S = 3 * PATIENCE_S


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start ``vsync`` and let it run."""
    return subprocess.Popen(
        [sys.executable, "-m", "vsync_cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )


def end(process: subprocess.Popen[str], number: signal.Signals | None = None) -> tuple[int, str]:
    """Wait for the end, after a signal if one is given; exit code and standard output."""
    if number is not None:
        process.send_signal(number)
    output, errors = process.communicate(timeout=LONG_S)
    assert "Traceback" not in errors
    return process.returncode, output


def wait_for_frames(nodes: Ring, count: int) -> None:
    """Wait until node 1 has sent so many more."""

    def sent() -> int:
        return int(nodes.nodes[0].status()["counters"].get("frames_sent", 0))

    before = sent()
    eventually(lambda: sent() >= before + count, f"{count} frames of node 1")


def in_a_terminal(*arguments: str | Path) -> str:
    """All that ``vsync`` writes where output and errors are a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "vsync_cli", *map(str, arguments)],
        stdout=theirs,
        stderr=theirs,
        env={**environment(), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    written = b""
    until = time.monotonic() + LONG_S
    while time.monotonic() < until:
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait(PATIENCE_S) == 0
    return written.decode()

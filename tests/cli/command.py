"""Calling ``vsync`` in tests: through click's runner, and as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
from click.testing import CliRunner, Result

from vsync_cli.commands.status import ask
from vsync_cli.main import main


def invoke(*arguments: str | Path, input: str | bytes | None = None) -> Result:
    """Run ``vsync`` in this process; an exception that is no exit is the test's failure."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=input)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def complaint(*arguments: str | Path, code: int = 1) -> str:
    """Run ``vsync``, expect it to fail with *code* and one sentence, and give that sentence."""
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.strip()


def status_of(socket: Path) -> dict[str, Any]:
    """What ``vsync status --json`` shows, without a process of its own: tests ask often."""
    found: dict[str, Any] = json.loads(json.dumps(anyio.run(ask, socket)))
    return found


def environment() -> dict[str, str]:
    """The environment of a process that has no terminal and no settings of its own."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VSYNC_") and name not in ("FORCE_COLOR", "CLICOLOR_FORCE")
    }


def vsync(
    *arguments: str | Path, input: bytes = b"", timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run ``vsync`` as a process and wait for its end."""
    done = subprocess.run(
        [sys.executable, "-m", "vsync_cli", *map(str, arguments)],
        input=input,
        capture_output=True,
        env=environment(),
        timeout=timeout_s,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )

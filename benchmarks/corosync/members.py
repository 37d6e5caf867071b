"""Programs that run on a host while something is measured, and end with it, whatever happens."""

import contextlib
import json
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cli.command import environment
from tests.transport_udp.hosts import Host

ERROR_BYTES = 300


class Failed(Exception):
    """A peer did not do what it should; the sentence goes into the results."""


class Member:
    """One program on a host, and the lines of JSON that it says. Closing it ends it."""

    def __init__(
        self,
        host: Host,
        command: Sequence[str],
        errors: Path,
        *,
        cwd: Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.errors = errors
        self._said = b""
        with errors.open("ab") as opened:
            self.process = host.run(
                lambda: subprocess.Popen(
                    # Nothing outlives the benchmark, even if that is killed.
                    ["setpriv", "--pdeathsig", "KILL", *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=opened,
                    cwd=cwd,
                    env=environment() | dict(variables or {}),
                )
            )

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed(f"a member ended too early: {self.complaint()}") from error

    def hear(self, within_s: float, what: str) -> dict[str, Any]:
        """The next line that it says. Raises Failed if it says none in time, or a complaint."""
        found: dict[str, Any] = json.loads(self._line(time.monotonic() + within_s, what))
        if "wrong" in found:
            raise Failed(f"WRONG: {found['wrong']}")
        if "failed" in found:
            raise Failed(str(found["failed"]))
        return found

    def _line(self, deadline: float, what: str) -> bytes:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._said:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise Failed(f"{what} did not come in time")
                read = os.read(self.process.stdout.fileno(), 1 << 20)
                if not read:
                    raise Failed(f"a member ended before {what}: {self.complaint()}")
                self._said += read
        line, _, self._said = self._said.partition(b"\n")
        return line

    def complaint(self) -> str:
        """The end of what it wrote to standard error."""
        said = self.errors.read_bytes()[-ERROR_BYTES:].decode(errors="replace").split("\n")
        return " / ".join(line.strip() for line in said if line.strip()) or "it said nothing"

    def close(self) -> None:
        """End it at once; nothing that it has is needed any more."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

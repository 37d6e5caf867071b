"""What runs in the guest and does what the host asks: one line of JSON a request, one an answer.

    python agent.py PORT

To start Python is slow under emulation, and to import a program's modules far more so. So this one
imports them once (``warm``), and a program that is started is a fork of it. It uses the standard
library alone, and no threads.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

Request = dict[str, Any]

ends: dict[int, int] = {}
"""Exit codes of processes that ended, as ``subprocess`` gives them."""

inputs: dict[int, int] = {}
"""Descriptors whose closing ends the standard input of a process."""


def run(script: str, patience_s: float) -> Request:
    """Run a shell script to its end; its output holds both streams.

    What it leaves running in the background goes on; if it takes too long, all of it is ended.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait(patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return {"code": code, "output": output.read().decode(errors="replace")}


def warm(modules: list[str], path: list[str]) -> Request:
    """Import modules, so that whoever is started later has them."""
    sys.path[:0] = [place for place in path if place not in sys.path]
    for module in modules:
        __import__(module)
    return {}


def start(
    module: str, arguments: list[str], output: str, errors: str, prepare: str | None = None
) -> Request:
    """Start ``python -m module arguments`` as a process of its own; its input is left open.

    *prepare* is Python that it runs before: to give up rights, or to lower a limit.
    """
    theirs, ours = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        inputs[pid] = ours
        return {"pid": pid}
    code = 1
    try:
        os.setsid()
        os.dup2(theirs, 0)
        for number, path in ((1, output), (2, errors)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.closerange(3, 64)  # the port to the host above all
        if prepare is not None:
            exec(prepare, {})
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if isinstance(left.code, str):
            sys.stderr.write(f"{left.code}\n")
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, patience_s: float) -> Request:
    """Give the exit code of a process that was started; None if it does not end so soon."""
    deadline = time.monotonic() + patience_s
    while pid not in ends:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ends[pid] = os.waitstatus_to_exitcode(status)
            hang_up(pid)
        elif time.monotonic() >= deadline:
            return {"code": None}
        else:
            time.sleep(0.01)
    return {"code": ends[pid]}


def hang_up(pid: int) -> Request:
    """End the standard input of a process; may be called twice."""
    if pid in inputs:
        os.close(inputs.pop(pid))
    return {}


def kill(pid: int, number: int) -> Request:
    """Send a signal to a process, if it has not ended."""
    if pid not in ends:
        os.kill(pid, number)
    return {}


DOES = {function.__name__: function for function in (run, warm, start, wait, hang_up, kill)}


def find_port(name: str) -> str:
    """The device of the virtio port of that name."""
    for port in Path("/sys/class/virtio-ports").iterdir():
        if (port / "name").read_text().strip() == name:
            return f"/dev/{port.name}"
    raise SystemExit(f"there is no port {name}")


def serve(port: int) -> None:
    """Answer requests until one says ``off``."""
    waiting = b""
    while True:
        chunk = os.read(port, 65536)
        if not chunk:
            time.sleep(0.05)  # the host has not connected yet
            continue
        *lines, waiting = (waiting + chunk).split(b"\n")
        for line in lines:
            request = json.loads(line)
            action = request.pop("do")
            if action == "off":
                return
            try:
                answer = DOES[action](**request) if action in DOES else {}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            left = json.dumps(answer).encode() + b"\n"
            while left:
                left = left[os.write(port, left) :]


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    serve(os.open(find_port(sys.argv[1]), os.O_RDWR | os.O_CLOEXEC))

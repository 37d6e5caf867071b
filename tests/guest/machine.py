"""A guest: a small virtual machine with Soft-RoCE, over this machine's own root file system.

    with Guest(directory) as guest:
        done = guest.run("rdma link")

QEMU emulates it, without KVM: it is about twenty times slower than the machine, and up after some
seconds. It sees all files of this machine but those in ``/run``, and what it changes of them is
gone when it ends; but *directory* is one and the same on both sides, by the same name. Several
guests can run at a time: each has its own processes, files and interfaces.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from tests.guest.archive import Archive, matches, walk
from tests.guest.kernel import NoGuest, kernel

SHARED: Final = Path("/run/shared")
"""Where the guest mounts its ``directory`` first."""

ROOT: Final = Path(__file__).parents[2]
UP_WITHIN_S: Final = 90.0
"""From nothing; it takes five on an idle machine."""

LIFE_S: Final = 1200
"""After this a guest is ended, whoever may have forgotten it."""

MEMORY_MB: Final = 1536
CPU: Final = "max"
COMMAND_LINE: Final = "console=ttyS0 panic=-1 quiet mitigations=off nokaslr"
"""Of the kernel. What guards against attackers costs much when emulated."""

POLL_INTERVAL_S: Final = 0.5

NOT_COPIED: Final[tuple[str, ...]] = (
    *("python3.*/test", "python3.*/config-*", "idlelib", "ensurepip", "lib2to3", "turtledemo"),
    *("*__mypyc*.so", "site-packages/mypy", "site-packages/mypyc", "site-packages/ruff*"),
    *("site-packages/pip", "site-packages/virtualenv", "site-packages/setuptools", "sboms"),
    *("site-packages/grimp", "site-packages/importlinter", "site-packages/nox", "captures"),
    *("site-packages/coverage", "site-packages/ast_serialize", "site-packages/tzdata"),
)
"""Large, and of no use there."""
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Done(NamedTuple):
    """What came of a script."""

    code: int | None
    """Its exit code; None if it took too long and was ended."""
    output: str


class Guest:
    """One guest, from ``with`` on until its end.

    *taps* are its network cards: names of tap interfaces, in the namespace *netns* if that is
    given, which exist already. Raises NoGuest if this machine lacks what it takes.
    """

    def __init__(
        self,
        directory: Path,
        *,
        taps: Sequence[str] = (),
        netns: str = "",
        life_s: float = LIFE_S,
    ) -> None:
        self.directory = directory
        self._taps = taps
        self._netns = netns
        self._life_s = life_s
        self._stack = contextlib.ExitStack()
        self._qemu: subprocess.Popen[bytes] | None = None
        self._console = directory / "console"

    def __enter__(self) -> Self:
        with self._stack:
            self._stack.callback(self._end)
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        found = kernel()
        qemu = shutil.which("qemu-system-x86_64")
        if qemu is None:
            raise NoGuest(
                "qemu-system-x86_64 is not installed; on Debian it comes with qemu-system-x86"
            )
        self.modules = found.modules
        agent = shlex.join([sys.executable, str(Path(__file__).with_name("agent.py")), "agent"])
        here = shlex.quote(str(self.directory))
        (self.directory / "begin").write_text(
            f"export PATH={PATH} HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1\n"
            f"mkdir -p {here} && mount --bind {SHARED} {here}\n"
            f"cd {shlex.quote(str(ROOT))}; ip link set lo up\n"
            f"exec {agent} > {SHARED}/agent.log 2>&1\n"
        )
        sockets = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="guest-"))
        port = Path(sockets) / "agent"
        initial = Path(sockets) / "initial"
        copied = write_initial(initial, found.initial)
        (self.directory / "copied").write_text("".join(f"{path}\n" for path in copied))
        with self._console.open("wb") as console:
            self._qemu = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "TERM"),  # nobody else would end it then
                    *(("ip", "netns", "exec", self._netns) if self._netns else ()),
                    *("timeout", "--kill-after=5", str(self._life_s), qemu),
                    *("-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2"),
                    *("-m", str(MEMORY_MB), "-nographic", "-no-reboot", "-nodefaults"),
                    *("-serial", "stdio", "-kernel", str(found.image)),
                    *("-initrd", str(initial), "-append", COMMAND_LINE),
                    *self._file_system("root", Path("/"), ",readonly=on,multidevs=remap"),
                    *self._file_system("shared", self.directory, ""),
                    *("-device", "virtio-serial-pci"),
                    *("-chardev", f"socket,id=agent,path={port},server=on,wait=off"),
                    *("-device", "virtserialport,chardev=agent,name=agent"),
                    *self._cards(),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._connect(port)

    @staticmethod
    def _file_system(tag: str, path: Path, options: str) -> tuple[str, ...]:
        return (
            *("-fsdev", f"local,id={tag},path={path},security_model=none{options}"),
            *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
        )

    def _cards(self) -> list[str]:
        cards = ["-nic", "none"] if not self._taps else []
        for number, tap in enumerate(self._taps):
            # The address is the tap's number, in the order in which the guest finds them.
            cards += [
                *("-netdev", f"tap,id=net{number},ifname={tap},script=no,downscript=no"),
                "-device",
                f"virtio-net-pci,netdev=net{number},romfile=,mac=52:54:00:77:00:{number:02x}",
            ]
        return cards

    def _connect(self, port: Path) -> None:
        """Wait until the agent answers."""
        end = time.monotonic() + UP_WITHIN_S
        self._socket = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        while True:
            try:
                self._socket.connect(str(port))
                break
            except OSError:
                self._check(end)
                time.sleep(0.02)
        self._answers = self._stack.enter_context(self._socket.makefile("rb"))
        self._socket.settimeout(UP_WITHIN_S)
        try:
            self.ask("hello")
        except TimeoutError:
            self._check(time.monotonic())

    def _check(self, end: float) -> None:
        assert self._qemu is not None
        if self._qemu.poll() is None and time.monotonic() < end:
            return
        said = self._console.read_text(errors="replace")[-2000:]
        raise AssertionError(f"the guest does not come up; its console says:\n{said}")

    def ask(self, action: str, within_s: float = UP_WITHIN_S, **arguments: Any) -> dict[str, Any]:
        """Have the agent do something; see there."""
        self._socket.settimeout(within_s)
        self._socket.sendall(json.dumps({"do": action, **arguments}).encode() + b"\n")
        line = self._answers.readline()
        if not line:
            said = self._console.read_text(errors="replace")[-2000:]
            log = (self.directory / "agent.log").read_text(errors="replace")[-2000:]
            raise AssertionError(f"the guest has ended: {log}{said}")
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, f"{action} {arguments}: {answer['error']}"
        return answer

    def run(self, script: str, within_s: float = 60) -> Done:
        """Run a shell script as root, in the root of the repository."""
        answer = self.ask("run", within_s + UP_WITHIN_S, script=script, patience_s=within_s)
        return Done(answer["code"], answer["output"])

    def need(self, script: str, within_s: float = 60) -> str:
        """Run a shell script that must succeed; gives its output."""
        done = self.run(f"set -e; {script}", within_s)
        assert done.code == 0, f"{script}\n{done.output}"
        return done.output

    def warm(self, *modules: str) -> None:
        """Import modules of the environment that runs here, once for all programs to be started."""
        self.ask("warm", 2 * UP_WITHIN_S, modules=modules, path=[str(ROOT), *sys.path[1:]])

    def start(
        self,
        module: str,
        *arguments: str | Path,
        output: Path,
        errors: Path,
        prepare: str | None = None,
    ) -> "GuestProcess":
        """Start ``python -m module arguments``; output and errors are files on both sides."""
        answer = self.ask(
            "start",
            module=module,
            arguments=[str(argument) for argument in arguments],
            output=str(output),
            errors=str(errors),
            prepare=prepare,
        )
        return GuestProcess(self, answer["pid"])

    def call(
        self,
        module: str,
        *arguments: str | Path,
        prepare: str | None = None,
        within_s: float = UP_WITHIN_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -m module arguments`` to its end."""
        output, errors = self.directory / "call.out", self.directory / "call.err"
        for file in (output, errors):
            file.write_bytes(b"")
        process = self.start(module, *arguments, output=output, errors=errors, prepare=prepare)
        code = process.wait(within_s)
        return subprocess.CompletedProcess(
            [module, *arguments], code, output.read_text(), errors.read_text()
        )

    def _end(self) -> None:
        if self._qemu is None:
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._socket.sendall(b'{"do": "off"}\n')
            self._qemu.wait(10)
        if self._qemu.poll() is None:
            os.killpg(self._qemu.pid, signal.SIGKILL)
            self._qemu.wait()


def write_initial(file: Path, kernel_s: Path) -> list[str]:
    """Write the first file system: the kernel's, and what Python imports; give its directories.

    To look for a module in a directory of the host takes a guest a millisecond, and Python looks in
    many: with copies in the guest's memory an import takes a third of the time.
    """
    paths = sysconfig.get_paths()
    copied = [paths["stdlib"], str(ROOT / "packages"), str(ROOT / "tests")]
    patterns = NOT_COPIED
    if not paths["purelib"].startswith(f"{paths['stdlib']}/"):
        copied.append(paths["purelib"])
        patterns += (f"{paths['stdlib'].lstrip('/')}/site-packages",)
    with file.open("wb") as written:
        written.write(kernel_s.read_bytes())
        written.write(bytes(-written.tell() % 512))
        archive = Archive(written)
        for top in copied:
            for path in walk(Path(top), matches(patterns)):
                archive.add(path, f"tree{path}")
        archive.close()
    return copied


class GuestProcess:
    """A process in the guest, in the manner of ``subprocess.Popen``."""

    def __init__(self, guest: Guest, pid: int) -> None:
        self._guest = guest
        self.pid = pid
        self._code: int | None = None
        self._asked_at = 0.0

    def poll(self) -> int | None:
        """The exit code; None while it runs, or did a moment ago: asking loads the guest."""
        if self._code is None and time.monotonic() - self._asked_at > POLL_INTERVAL_S:
            self._look(0)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended."""
        self._look(UP_WITHIN_S if timeout is None else timeout)
        if self._code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid} of the guest", timeout or 0)
        return self._code

    def _look(self, patience_s: float) -> None:
        if self._code is None:
            within_s = patience_s + UP_WITHIN_S
            answer = self._guest.ask("wait", within_s, pid=self.pid, patience_s=patience_s)
            self._code = answer["code"]
            self._asked_at = time.monotonic()

    def send_signal(self, sig: int) -> None:
        """Send a signal, if it has not ended."""
        self._guest.ask("kill", pid=self.pid, number=int(sig))

    def kill(self) -> None:
        """End it by force."""
        self.send_signal(signal.SIGKILL)

    def hang_up(self) -> None:
        """End its standard input."""
        self._guest.ask("hang_up", pid=self.pid)

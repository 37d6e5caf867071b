"""Those that are measured: how each is stood up on the hosts of one case."""

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from benchmarks.corosync.cases import Case, Lost
from benchmarks.corosync.members import Failed, Member
from benchmarks.corosync.programs import compile_client, compile_payloads

from tests.transport_udp.hosts import Host
from vsync import speedups
from vsync.key_file import make_key, write_key

ROOT: Final = Path(__file__).parents[2]
STARTS_WITHIN_S: Final = 10.0
PROBE_EVERY_NS: Final = 15_000_000
"""Between two probes of one node; nodes take turns."""


@dataclass(frozen=True)
class Sending:
    """What one member sends in a case."""

    number: int
    bulk: bool
    rate: float
    """Of the bulk, in messages a second; 0 is as much as possible."""

    probe_ns: int
    probe_offset_ns: int


def sendings(case: Case, load: float) -> list[Sending]:
    """What each member sends; *load* is the rate of all members together, 0 for all they can."""
    return [
        Sending(
            number=number,
            bulk=number <= case.senders and (load > 0 or not case.probes),
            rate=load / case.senders,
            probe_ns=PROBE_EVERY_NS if case.probes else 0,
            probe_offset_ns=number * PROBE_EVERY_NS // case.nodes,
        )
        for number in range(1, case.nodes + 1)
    ]


class Peer(ABC):
    """Something that can be measured."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title

    def missing(self) -> str | None:
        """Why it cannot be measured here, if it cannot."""
        return None

    @abstractmethod
    def start(
        self, hosts: Sequence[Host], directory: Path, case: Case, load: float, stack: ExitStack
    ) -> list[Member]:
        """Stand it up on *hosts*, one member on each; *stack* ends everything. Raises Failed."""


class Raw(Peer):
    """The bare program."""

    def start(
        self, hosts: Sequence[Host], directory: Path, case: Case, load: float, stack: ExitStack
    ) -> list[Member]:
        members = []
        for host in hosts:
            role = "send" if host.number == 1 else "receive"
            module = "benchmarks.corosync.raw_peer"
            command = [sys.executable, "-m", module, address(host), role]
            member = Member(host, command, directory / f"{host.number}.err", cwd=ROOT)
            stack.callback(member.close)
            members.append(member)
        return members


class Vsync(Peer):
    """A node in the process that sends and receives, or a daemon and a program connected to it."""

    payloads: ClassVar[Path | None] = None
    """``payload.c`` as compiled for this run."""

    def __init__(
        self,
        name: str,
        title: str,
        *,
        daemon: bool = False,
        key: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__(name, title)
        self._daemon = daemon
        self._key = key
        self._variables = {} if compiled else {speedups.VARIABLE: "1"}
        self._compiled = compiled

    def missing(self) -> str | None:
        if self._compiled and speedups.in_use != speedups.COMPILED:
            return speedups.in_use
        return None

    def start(
        self, hosts: Sequence[Host], directory: Path, case: Case, load: float, stack: ExitStack
    ) -> list[Member]:
        assert self.payloads is not None, "payload.c is compiled before anything is measured"
        places = []
        if self._key:
            write_key(directory / KEY_FILE, make_key())
        for host in hosts:
            settings = self._settings(host, directory, case)
            places.append(
                ["--socket", self._serve(host, settings, directory, stack)]
                if self._daemon
                else ["--settings", str(settings)]
            )
        members = []
        for host, place, sending in zip(hosts, places, sendings(case, load), strict=True):
            command = [
                *(sys.executable, "-m", "benchmarks.corosync.vsync_peer", *place),
                *("--payloads", str(self.payloads)),
                *("--members", str(case.nodes), "--size", str(case.size)),
                *("--sends", str(int(sending.bulk)), "--rate", str(sending.rate)),
                *("--probe-ns", str(sending.probe_ns)),
                *("--probe-offset-ns", str(sending.probe_offset_ns)),
                *("--guarantee", case.guarantee),
            ]
            errors = directory / f"{host.number}.err"
            member = Member(host, command, errors, cwd=ROOT, variables=self._variables)
            stack.callback(member.close)
            members.append(member)
        return members

    def _settings(self, host: Host, directory: Path, case: Case) -> Path:
        fault = case.lost is Lost.FAULT
        section = "transport.fault.settings" if fault else "transport.udp"
        lines = [
            *("[node]", f"id = {host.number}", f'state_dir = "{directory}/state-{host.number}"'),
            *("[ring]", 'name = "bench"', f'transport = "{"fault" if fault else "udp"}"'),
        ]
        if fault:
            lines += ["[transport.fault]", f"loss = {case.loss_percent / 100}"]
        # Every node has its own host, so nobody there needs to hear what it sends itself.
        lines += [f"[{section}]", f'bind = "{address(host)}"', "multicast_loop = false"]
        if self._key:
            lines += ["[security]", f'key_file = "{directory / KEY_FILE}"']
        path = directory / f"{host.number}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def _serve(self, host: Host, settings: Path, directory: Path, stack: ExitStack) -> str:
        path = directory / f"{host.number}.sock"
        command = [
            *(sys.executable, "-m", "vsync_cli", "run", "-c", str(settings)),
            *("--socket", str(path)),
        ]
        errors = directory / f"daemon-{host.number}.err"
        daemon = Member(host, command, errors, cwd=ROOT, variables=self._variables)
        stack.callback(daemon.close)
        # What a daemon says of its ring is not of interest, and short.
        wait_until(path.exists, "the daemon's socket", daemon)
        return str(path)


KEY_FILE: Final = "ring.key"
"""Of all nodes: here they share a directory."""


class Corosync(Peer):
    """Corosync from Debian, and one program a node that uses its CPG library."""

    program: ClassVar[Path | None] = None
    """``cpg_peer`` as compiled for this run."""

    def __init__(
        self,
        name: str,
        title: str,
        *,
        transport: str,
        encrypted: bool = False,
        token_ms: int | None = None,
        realtime: bool = True,
    ) -> None:
        super().__init__(name, title)
        self._transport = transport
        self._encrypted = encrypted
        self._token_ms = token_ms
        self._realtime = realtime

    def start(
        self, hosts: Sequence[Host], directory: Path, case: Case, load: float, stack: ExitStack
    ) -> list[Member]:
        assert self.program is not None, "cpg_peer is compiled before anything is measured"
        key = os.urandom(256)
        daemons = [self._serve(host, hosts, key, directory, stack) for host in hosts]
        members = []
        for host, daemon, sending in zip(hosts, daemons, sendings(case, load), strict=True):
            # The library talks to its daemon through /dev/shm, which is the daemon's own.
            inside = ("nsenter", f"--target={daemon.process.pid}", "--mount", "--net", "--")
            command = [
                *(*inside, str(self.program), str(host.number), str(case.nodes), str(case.size)),
                *(str(int(sending.bulk)), str(sending.rate)),
                *(str(sending.probe_ns), str(sending.probe_offset_ns), "bench"),
            ]
            member = Member(host, command, directory / f"{host.number}.err", cwd=directory)
            stack.callback(member.close)
            members.append(member)
        return members

    def _serve(
        self, host: Host, hosts: Sequence[Host], key: bytes, directory: Path, stack: ExitStack
    ) -> Member:
        """Start a Corosync with private files."""
        etc = directory / f"etc-{host.number}"
        etc.mkdir()
        (etc / "corosync.conf").write_text(self.configuration(hosts))
        (etc / "authkey").write_bytes(key)
        (etc / "authkey").chmod(0o400)
        script = (
            "set -e\n"
            f"mount --bind {etc} /etc/corosync\n"
            "for private in /run /dev/shm /var/lib/corosync /var/log/corosync; do\n"
            "  mount -t tmpfs none $private\n"
            "done\n"
            "exec corosync -f\n"
        )
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        daemon = Member(host, command, directory / f"corosync-{host.number}.err", cwd=directory)
        stack.callback(daemon.close)
        comm = Path(f"/proc/{daemon.process.pid}/comm")
        wait_until(lambda: comm.read_text() == "corosync\n", "Corosync", daemon)
        return daemon

    def configuration(self, hosts: Sequence[Host]) -> str:
        """What ``corosync.conf`` says; what it does not say is Corosync's default."""
        totem = {"version": "2", "cluster_name": "bench", "transport": self._transport}
        if self._encrypted:
            totem |= {"crypto_cipher": "aes256", "crypto_hash": "sha256"}
        elif self._transport == "knet":
            totem |= {"crypto_cipher": "none", "crypto_hash": "none"}
        if self._token_ms is not None:
            totem |= {"token": str(self._token_ms), "token_coefficient": "0"}
        lines = ["totem {", *(f"  {name}: {value}" for name, value in totem.items()), "}"]
        lines += ["nodelist {"]
        for host in hosts:
            node = {
                "nodeid": host.number,
                "name": f"node{host.number}",
                "ring0_addr": address(host),
            }
            lines += ["  node {", *(f"    {name}: {value}" for name, value in node.items()), "  }"]
        lines += ["}"]
        lines += ["logging {", "  to_stderr: yes", "  to_logfile: no", "  to_syslog: no", "}"]
        lines += ["system {", f"  sched_rr: {'yes' if self._realtime else 'no'}", "}"]
        return "\n".join(lines) + "\n"


def address(host: Host) -> str:
    return f"10.77.0.{host.number}"


def wait_until(found: Callable[[], bool], what: str, member: Member) -> None:
    """Until *found* says so; Failed if the member ends before, or takes too long."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not found():
        if member.process.poll() is not None:
            raise Failed(f"{what} did not start: {member.complaint()}")
        if time.monotonic() > deadline:
            raise Failed(f"{what} did not start within {STARTS_WITHIN_S:.0f} s")
        time.sleep(0.01)


def compile_programs(directory: Path) -> None:
    """Compile into *directory* what the peers need. Raises Failed with what the compiler says."""
    Corosync.program = compile_client(directory)
    Vsync.payloads = compile_payloads(directory)


PEERS: Final[dict[str, Peer]] = {
    peer.name: peer
    for peer in (
        Corosync("corosync-udp", "Corosync udp", transport="udp"),
        Corosync(
            "corosync-udp-norr", "Corosync udp, sched_rr: no", transport="udp", realtime=False
        ),
        Corosync(
            "corosync-udp-token300", "Corosync udp, token: 300", transport="udp", token_ms=300
        ),
        Corosync("corosync-knet", "Corosync knet", transport="knet"),
        Corosync("corosync-knet-aes", "Corosync knet, aes256", transport="knet", encrypted=True),
        Vsync("vsync", "vsync"),
        Vsync("vsync-speedups", "vsync with speedups", compiled=True),
        Vsync("vsync-key", "vsync with a key", key=True),
        Vsync("vsync-key-speedups", "vsync with a key and speedups", key=True, compiled=True),
        Vsync("vsync-daemon", "vsync through its daemon", daemon=True),
        Raw("raw", "bare program"),
    )
}

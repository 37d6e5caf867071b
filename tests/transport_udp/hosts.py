"""Hosts on one Ethernet, made of network namespaces, for tests that run as root.

A host is a namespace and a thread that lives in it: sockets belong to the namespace of the thread
that made them. The bridge is in a namespace of its own, so nothing here touches the machine's.
"""

import ctypes
import itertools
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000  # linux/sched.h

SECOND = "second0"
"""The second bridge; the first is ``br0``."""

FORWARDED_WITHIN_S = 10.0
"""How long a new link may take on a busy machine."""

_numbers = itertools.count(1)


def run(*command: str) -> None:
    """Run *command*; what it complains of becomes the error."""
    output_of(*command)


def output_of(*command: str) -> str:
    """Run *command* and give what it prints; what it complains of becomes the error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


class Host:
    """One namespace with an interface ``eth0`` on the bridge."""

    def __init__(self, ethernet: "Ethernet", number: int, *, mtu_bytes: int) -> None:
        self.name = f"{ethernet.name}-{number}"
        self.number = number
        self.port = f"port{number}"
        self._ethernet = ethernet
        self._mtu_bytes = mtu_bytes
        run("ip", "netns", "add", self.name)
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)
        self.ip("link", "set", "lo", "up")
        self.plug_in()

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{self.name}") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def plug_in(self) -> None:
        """Make ``eth0``, with the addresses 10.77.0.NUMBER and fd77::NUMBER."""
        bridge = self._ethernet.name
        mtu = ("mtu", str(self._mtu_bytes))
        peer = ("peer", "name", self.port, *mtu, "netns", bridge)
        run("ip", "-n", self.name, "link", "add", "eth0", *mtu, "type", "veth", *peer)
        run("ip", "-n", bridge, "link", "set", self.port, "master", "br0", "up")
        self.ip("link", "set", "eth0", "up")
        self.add_addresses()
        self._wait_until_forwarded()

    def plug_in_second(self) -> None:
        """Make ``eth1`` on the second bridge, with the address 10.78.0.NUMBER."""
        port = f"second{self.number}"
        peer = ("peer", "name", port, "netns", self._ethernet.name)
        run("ip", "-n", self.name, "link", "add", "eth1", "type", "veth", *peer)
        run("ip", "-n", self._ethernet.name, "link", "set", port, "master", SECOND, "up")
        self.ip("link", "set", "eth1", "up")
        self.ip("addr", "add", f"10.78.0.{self.number}/24", "dev", "eth1")
        self._wait_until_forwarded(port)

    def _wait_until_forwarded(self, port: str = "") -> None:
        """Until the bridge passes packets on: the kernel notices a new link a little later."""
        port = port or self.port
        show = ("bridge", "-n", self._ethernet.name, "link", "show", "dev", port)
        deadline = time.monotonic() + FORWARDED_WITHIN_S
        while "state forwarding" not in output_of(*show):
            assert time.monotonic() < deadline, f"the bridge never forwarded for {port}"
            time.sleep(0.01)

    def unplug(self) -> None:
        """Remove ``eth0`` for good."""
        self.ip("link", "del", "eth0")

    def add_addresses(self) -> None:
        self.ip("addr", "add", f"10.77.0.{self.number}/24", "dev", "eth0")
        self.ip("addr", "add", f"fd77::{self.number}/64", "dev", "eth0", "nodad")

    def remove_addresses(self) -> None:
        self.ip("addr", "flush", "dev", "eth0", "scope", "global")

    def ip(self, *arguments: str) -> None:
        """Run ``ip`` in this host."""
        run("ip", "-n", self.name, *arguments)

    def run(self, function: Callable[[], T]) -> T:
        """Call *function* in this host."""
        return self._thread.submit(function).result()

    def close(self) -> None:
        self._thread.shutdown()
        run("ip", "netns", "del", self.name)


class Ethernet:
    """A bridge that floods multicast, and the hosts on it."""

    def __init__(self) -> None:
        self.name = f"vsync-{os.getpid()}-{next(_numbers)}"
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        run("ip", "netns", "add", self.name)
        self.add_bridge("br0")
        return self

    def add_bridge(self, name: str) -> None:
        bridge = ("type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        self.ip("link", "add", name, *bridge)
        self.ip("link", "set", name, "up")

    def add_second(self) -> None:
        """Connect all hosts that there are by a second bridge, too."""
        self.add_bridge(SECOND)
        for host in self.hosts:
            host.plug_in_second()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for host in self.hosts:
            host.close()
        run("ip", "netns", "del", self.name)

    def add_host(self, *, mtu_bytes: int = 1500) -> Host:
        host = Host(self, len(self.hosts) + 1, mtu_bytes=mtu_bytes)
        self.hosts.append(host)
        return host

    def ip(self, *arguments: str) -> None:
        """Run ``ip`` where the bridge is."""
        run("ip", "-n", self.name, *arguments)

    def cut(self, host: Host) -> None:
        """Let no packet through to or from *host*; its link stays up."""
        # By bridge(8): `ip link … type bridge_slave state 0` does not last.
        run("bridge", "-n", self.name, "link", "set", "dev", host.port, "state", "disabled")

    def heal(self, host: Host) -> None:
        """Undo ``cut``."""
        run("bridge", "-n", self.name, "link", "set", "dev", host.port, "state", "forwarding")

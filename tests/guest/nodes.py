"""Rings with nodes in a guest, each on a Soft-RoCE device of its own, and maybe nodes outside.

The guest's network cards are on the same bridge as the hosts in namespaces (``hosts.py``), so what
can be done to one can be done to the other: links are cut, and packets dropped, on the bridge.
"""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.guest.machine import Guest
from tests.network.nodes import Load, Node, Process, Ring, filter_packets, load_report
from tests.transport_udp.hosts import Ethernet, run

LOCAL = "/run/ring"
"""A directory that only the guest has: Unix sockets and states are no good in a shared one."""


def add_cards(ethernet: Ethernet, count: int) -> list[str]:
    """Make so many taps on the bridge, for a guest's network cards; they go with the bridge."""
    taps = [f"card{number}" for number in range(count)]
    for tap in taps:
        run("ip", "netns", "exec", ethernet.name, "ip", "tuntap", "add", tap, "mode", "tap")
        ethernet.ip("link", "set", tap, "master", "br0", "up")
    return taps


def address(number: int) -> str:
    """The address of the node of that number, in the guest or on a host."""
    return f"10.77.0.{number}"


def address6(number: int) -> str:
    """The same for IPv6."""
    return f"fd77::{number}"


def add_devices(guest: Guest, numbers: Sequence[int]) -> None:
    """Give the guest's cards the addresses of these nodes, and each a device, ``rxe0`` and so on.

    Soft-RoCE of this kernel receives in the first network namespace only, so all are in it; and
    rules of routing see to it that packets from one to another go out and come in again.
    """
    guest.need("for name in all default; do echo 0 > /proc/sys/net/ipv4/conf/$name/rp_filter; done")
    for card, number in enumerate(numbers):
        name, table = f"eth{card}", 100 + number
        guest.need(
            f"""
            echo 1 > /proc/sys/net/ipv4/conf/{name}/accept_local
            echo 0 > /proc/sys/net/ipv4/conf/{name}/rp_filter
            echo 1 > /proc/sys/net/ipv4/conf/{name}/arp_ignore
            echo 2 > /proc/sys/net/ipv4/conf/{name}/arp_announce
            ip link set {name} up
            ip address add {address(number)}/24 dev {name}
            ip rule add pref {10 + card} iif {name} lookup local
            ip rule add pref {20 + card} from {address(number)} lookup {table}
            ip route add 10.77.0.0/24 dev {name} table {table}
            ip route add 224.0.0.0/4 dev {name} table {table}
            ip address add {address6(number)}/64 dev {name} nodad
            ip -6 rule add pref {10 + card} iif {name} lookup local
            ip -6 rule add pref {20 + card} from {address6(number)} lookup {table}
            ip -6 route add fd77::/64 dev {name} table {table}
            ip -6 route add multicast ff00::/8 dev {name} table {table}
            rdma link add rxe{card} type rxe netdev {name}
            """
        )
    for ip in ("ip", "ip -6"):
        guest.need(f"{ip} rule add pref 100 lookup local; {ip} rule del pref 0")
    guest.need(f"mkdir -p {LOCAL}")


class GuestNode(Node):
    """A node whose processes run in the guest."""

    def __init__(self, guest: Guest, directory: Path, number: int, settings: str) -> None:
        super().__init__(directory, number, settings, None)
        self.guest = guest
        self.socket = Path(LOCAL) / f"{directory.name}-{number}.sock"

    def spawn(self, *arguments: str) -> Process:
        return self.guest.start("vsync_cli", *arguments, output=self._output, errors=self._errors)

    def status(self) -> dict[str, Any]:
        done = self.vsync("status", "--socket", str(self.socket), "--json")
        assert done.returncode == 0, f"node {self.number}: {done.stderr}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def vsync(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``vsync`` beside the node, to its end."""
        return self.guest.call("vsync_cli", *arguments)


class GuestRing(Ring):
    """A ring of nodes in the guest: *size* of them, by the numbers that its cards have.

    *outside* nodes more are on hosts of their own on the same Ethernet; their numbers come first.
    """

    def __init__(
        self,
        guest: Guest,
        ethernet: Ethernet,
        directory: Path,
        *,
        inside: Sequence[int],
        outside: Sequence[int] = (),
        transport: str,
        section: Callable[[int], str],
        ring: str = "",
    ) -> None:
        super().__init__(
            directory, 0, housed=False, ring=ring, transport=transport, section=section
        )
        self._guest = guest
        self.ethernet = ethernet
        self._inside = inside
        self._outside = outside
        self._filtered: set[str] = set()

    def __enter__(self) -> "GuestRing":
        super().__enter__()
        self._directory.mkdir(exist_ok=True)
        for number in self._outside:
            self.nodes.append(self._made(number, outside=True))
        for number in self._inside:
            self.nodes.append(self._made(number, outside=False))
        self._stack.callback(self.pass_all)
        return self

    def _made(self, number: int, *, outside: bool) -> Node:
        assert self._section is not None
        states = str(self._directory) if outside else f"{LOCAL}/{self._directory.name}"
        settings = (
            f'[node]\nid = {number}\nstate_dir = "{states}/state-{number}"\n'
            f'[ring]\nname = "truth"\ntransport = "{self._transport}"\n{self._ring}\n'
            f"[transport.{self._transport}]\n{self._section(number)}"
        )
        node: Node
        if outside:
            assert self.ethernet is not None
            host = next(host for host in self.ethernet.hosts if host.number == number)
            node = Node(self._directory, number, settings, host)
        else:
            node = GuestNode(self._guest, self._directory, number, settings)
        self._stack.callback(lambda: _end(node))
        return node

    def _start_load(self, nodes: Sequence[Node], *arguments: str) -> Load:
        inside = [node for node in nodes if isinstance(node, GuestNode)]
        report = load_report(self._directory)
        said = self._directory / "load.err"
        process = self._guest.start(
            "tests.network.load",
            *("--report", str(report), *arguments),
            *(node.socket for node in inside),
            output=said,
            errors=said,
        )
        return Load(process, process.hang_up, report)

    # --- what happens to packets ----------------------------------------------------------------

    def drop(self, *ports: str, what: str = "") -> None:
        """Drop on the bridge what comes from these ports: *what* in the words of nftables."""
        assert self.ethernet is not None
        for port in ports:
            table = f"table netdev drop_{port}"
            filter_packets(
                self.ethernet.name,
                f"{table}\ndelete {table}\n{table} {{\nchain in {{\n"
                f"type filter hook ingress device {port} priority 0\n{what} drop\n}}\n}}\n",
            )
            self._filtered.add(port)

    def pass_all(self) -> None:
        """Undo ``drop``, for all ports."""
        assert self.ethernet is not None
        for port in self._filtered:
            filter_packets(self.ethernet.name, f"delete table netdev drop_{port}\n")
        self._filtered.clear()


def _end(node: Node) -> None:
    if node.running:
        node.process.kill()
        node.process.wait()

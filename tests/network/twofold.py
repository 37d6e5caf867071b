"""Rings of real processes on two networks each, and what can happen to one of the networks."""

from pathlib import Path

from tests.network.nodes import Node, Ring, filter_packets
from tests.transport_udp.hosts import SECOND
from vsync.errors import VsyncError

INTERFACES = {1: "eth0", 2: "eth1"}
BRIDGES = {1: "br0", 2: SECOND}


def section(number: int, mode: str) -> str:
    """``[transport.redundant]`` of a node on both networks."""
    return f'mode = "{mode}"\n' + "".join(
        f'[[transport.redundant.links]]\ntransport = "udp"\n'
        f'settings = {{ bind = "10.{76 + link}.0.{number}", group = "239.192.7.{link}" }}\n'
        for link in INTERFACES
    )


class TwofoldRing(Ring):
    """Nodes that are connected twice."""

    def __init__(self, directory: Path, size: int, mode: str, *, ring: str = "") -> None:
        super().__init__(
            directory,
            size,
            housed=True,
            ring=ring,
            transport="redundant",
            section=lambda number: section(number, mode),
        )

    def __enter__(self) -> "TwofoldRing":
        super().__enter__()
        assert self.ethernet is not None
        self.ethernet.add_second()
        return self

    def cut_link(self, link: int) -> None:
        """Let nothing pass the bridge of that network."""
        assert self.ethernet is not None
        self.ethernet.ip("link", "set", BRIDGES[link], "down")

    def heal_link(self, link: int) -> None:
        """Undo ``cut_link``."""
        assert self.ethernet is not None
        self.ethernet.ip("link", "set", BRIDGES[link], "up")

    def lose_on(self, link: int, percent: float, *numbers: int) -> None:
        """Lose so many of the packets that arrive at these nodes, or all, there; 0 ends it."""
        for node in self.nodes:
            if numbers and node.number not in numbers:
                continue
            table = f"table netdev lost{link}"
            rules = f"{table}\ndelete {table}\n"
            if percent:
                chosen = (
                    f"numgen random mod 10000 < {round(percent * 100)} " if percent < 100 else ""
                )
                rules += (
                    f"{table} {{\nchain in {{\ntype filter hook ingress device {INTERFACES[link]} "
                    f"priority 0\n{chosen}drop\n}}\n}}\n"
                )
            filter_packets(self._host(node.number).name, rules)

    def states(self, link: int) -> list[str]:
        """How each node finds that link."""
        return [self._state(node, link) for node in self.nodes]

    @staticmethod
    def _state(node: Node, link: int) -> str:
        try:
            status = node.status()
        except VsyncError:
            return "not known"  # its socket is not there yet
        state: str = status["transport"]["links"][str(link)]["state"]
        return state

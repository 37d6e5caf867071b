"""``vsync bench`` over a kernel's verbs beside UDP, in one guest that has Soft-RoCE.

    python -m benchmarks.guest [--tries N] [--seconds S]

Three nodes in the guest, a ring of each transport in turn: the median of some tries. Everything is
emulated, so the absolute figures say little, and the comparison something: all work of a network
card is done by the emulated processor. Needs root and what the tests marked ``infiniband`` need.
"""

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.guest.machine import Guest
from tests.guest.nodes import GuestNode, GuestRing, add_cards, add_devices, address
from tests.transport_udp.hosts import Ethernet

NODES = (11, 12, 13)
SIZES = ("1K", "64K")
WARM = ("vsync_cli.main", "vsync_cli.commands.run", "vsync_cli.commands.bench")
SECTIONS = {
    "ib": 'device = "{address}"\n',
    "udp": 'bind = "{address}"\n',
}
PATIENT = "token_lost_s = 3.0\n"


def written(section: str, number: int) -> str:
    """The section of a node's transport."""
    return section.format(address=address(number))


def measure(ring: GuestRing, size: str, seconds: float) -> tuple[float, float]:
    """Messages and megabytes a second as delivered on the first node, which sends them too."""
    node = ring.nodes[0]
    assert isinstance(node, GuestNode)
    options = ("--size", size, "--seconds", str(seconds), "--json")
    done = node.vsync("bench", "--socket", str(node.socket), *options)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    delivered = json.loads(done.stdout)["delivered"]
    return delivered["messages_per_s"], delivered["bytes_per_s"] / 1e6


def main() -> None:
    """Measure, and print a row for each transport."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    say = sys.stdout.write
    with tempfile.TemporaryDirectory() as place, Ethernet() as ethernet:
        cards = add_cards(ethernet, len(NODES))
        with Guest(Path(place), taps=cards, netns=ethernet.name, life_s=900) as guest:
            add_devices(guest, NODES)
            guest.warm(*WARM, "vsync_transport_ib.rdma", "vsync_transport_udp.transport")
            for transport, section in SECTIONS.items():
                made = GuestRing(
                    guest,
                    ethernet,
                    Path(place) / transport,
                    inside=NODES,
                    transport=transport,
                    section=partial(written, section),
                    ring=PATIENT,
                )
                with made as ring:
                    ring.start(trace=False)
                    ring.wait_until_told(NODES)
                    for size in SIZES:
                        tried = [measure(ring, size, options.seconds) for _ in range(options.tries)]
                        rate, carried = map(statistics.median, zip(*tried, strict=True))
                        say(f"{transport:4}{size:>5}{rate:9.0f} messages/s{carried:8.2f} MB/s\n")


if __name__ == "__main__":
    main()

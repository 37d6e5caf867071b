"""Packets that are none of the ring's: damaged ones, another ring's, another node's of our number.

They are dropped and counted by reason, and the ring does not mind.
"""

import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.nodes import PATIENT, Node, Ring, eventually
from vsync.wire.header import HEADER_BYTES, MAGIC

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    with Ring(tmp_path, 3, housed=True, ring=PATIENT) as made:
        made.start()
        made.wait_for()
        yield made


class Stranger:
    """A host on the same network that sends what it likes."""

    def __init__(self, ring: Ring) -> None:
        assert ring.ethernet is not None
        self._host = ring.ethernet.add_host()
        self._host.ip("route", "add", "224.0.0.0/4", "dev", "eth0")
        self._ring = ring
        self._everyone = (ring.group, ring.port)

    def send(self, packets: list[bytes], *, per_second: int = 100_000) -> None:
        """Send every packet to everyone, and to each node by itself; no more than so many."""
        nodes = [tuple(node.status()["transport"]["address"]) for node in self._ring.nodes]
        self._send(packets, [self._everyone, *nodes], per_second)

    def send_to_everyone(self, packets: list[bytes], *, per_second: int) -> None:
        """Send every packet to everyone; no more than so many."""
        self._send(packets, [self._everyone], per_second)

    def _send(self, packets: list[bytes], places: list[tuple[str, int]], per_second: int) -> None:
        def spray() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for number, packet in enumerate(packets):
                    for place in places:
                        sender.sendto(packet, place)
                    if number % 25 == 0:
                        time.sleep(25 * len(places) / per_second)

        self._host.run(spray)


class Listener:
    """Hears what a ring sends to everyone."""

    def __init__(self, ring: Ring) -> None:
        assert ring.ethernet is not None
        self._host = ring.ethernet.add_host()
        self._socket = self._host.run(lambda: opened(ring.group, ring.port, self._host.number))

    def hear(self, count: int) -> list[bytes]:
        """The next *count* packets."""
        with self._socket:
            return [self._socket.recv(65536) for _ in range(count)]


def opened(group: str, port: int, number: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(10)
    made.bind((group, port))
    membership = socket.inet_aton(group) + socket.inet_aton(f"10.77.0.{number}")
    made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    return made


def configurations(ring: Ring) -> list[int]:
    """How many configurations each node has delivered."""
    for node in ring.nodes:
        node.following.read()
    return [len(node.following.configurations) for node in ring.nodes]


def expect_dropped(node: Node, reason: str, count: int) -> None:
    eventually(
        lambda: node.dropped(reason) >= count,
        lambda: f"node {node.number} has dropped {count} as {reason}: {node.status()['counters']}",
    )


def test_garbage_and_truncated_packets_are_counted_and_do_no_harm(ring: Ring) -> None:
    before = configurations(ring)
    dice = random.Random(1)
    real = Listener(ring).hear(20)
    assert all(packet.startswith(MAGIC) for packet in real)
    garbage = [dice.randbytes(dice.randrange(HEADER_BYTES, 1472)) for _ in range(50)]
    garbage = [b"xx" + packet[2:] for packet in garbage]
    cut = [packet[: dice.randrange(1, HEADER_BYTES)] for packet in real]
    damaged = [packet[:-1] + bytes([packet[-1] ^ 1]) for packet in real]
    load = ring.load()
    Stranger(ring).send([b"", *garbage, *cut, *damaged])
    for node in ring.nodes:
        expect_dropped(node, "garbage", 100)
        expect_dropped(node, "truncated", 40)
        expect_dropped(node, "checksum", 40)
    ring.wait_for_messages(300)
    ring.finish(load, messages=100)
    assert configurations(ring) == before


def test_a_ring_of_another_name_on_the_same_group_and_port_is_ignored(ring: Ring) -> None:
    before = configurations(ring)
    stranger = ring.add(1, name="another", place="another")
    stranger.start()
    eventually(lambda: stranger.members() == [1], "the other ring's node in its own ring")
    ours = [node for node in ring.nodes if node is not stranger]
    for node in (*ours, stranger):
        expect_dropped(node, "other_ring", 10)
    assert configurations(ring)[:3] == before
    assert stranger.leave() == 0, stranger.said()
    assert [node.members() for node in ours] == [[1, 2, 3]] * 3


@pytest.mark.parametrize("number", [1, 3])
def test_of_two_nodes_with_one_id_the_younger_stops_and_says_why(ring: Ring, number: int) -> None:
    older = ring[number]
    load = ring.load()  # through the older one only
    ring.wait_for_messages(100)
    younger = ring.add(number, place="younger")
    younger.start()
    assert younger.wait() == 1
    said = younger.said()
    assert f"another running node on this ring also has id {number}" in said
    assert "Traceback" not in said
    assert older.running
    # It may have been taken for the older one's next life for a moment; so its trace counts too.
    younger.following.read()
    younger.crashed.add(younger.following.life)
    living = [node for node in ring.nodes if node is not younger]
    ring.wait_for_all_of(living)
    ring.wait_for_messages(300)
    ring.finish(load, messages=100)

"""A ring with a key among people who do not have it, and people who recorded what it said."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.nodes import PATIENT, Node, Ring, eventually
from tests.network.test_strangers import Listener, Stranger, configurations
from vsync.key_file import make_key, write_key
from vsync.seal import ENVELOPE_BYTES, OVERHEAD_BYTES, is_sealed
from vsync.seal.envelope import PREFIX_BYTES

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

RECORDED = 4000
BAD_PACKETS = 100_000
PORTION = 10_000


class SealedRing(Ring):
    """Three nodes with a key, each on a host of its own."""

    def __init__(self, directory: Path) -> None:
        self.key_file = directory / "ring.key"
        write_key(self.key_file, make_key())
        super().__init__(directory, 3, housed=True, ring=PATIENT, section=self.settings)

    def settings(self, number: int) -> str:
        """The transport's section, and what follows it."""
        return (
            f'bind = "10.77.0.{number}"\ngroup = "{self.group}"\nport = {self.port}\n'
            f'[security]\nkey_file = "{self.key_file}"\n'
        )


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[SealedRing]:
    with SealedRing(tmp_path) as made:
        made.start()
        made.wait_for()
        yield made


def refused(node: Node) -> dict[str, int]:
    """What a node has not let in, by reason."""
    counters: dict[str, int] = node.status()["transport"]["counters"]
    return {name: count for name, count in counters.items() if name.startswith("dropped_")}


class Attacker:
    """Makes bad packets of good ones."""

    def __init__(self, recorded: list[bytes]) -> None:
        self._recorded = recorded
        self._dice = random.Random(7)

    def make(self, count: int) -> list[bytes]:
        """So many, of all kinds alike."""
        kinds = (self.repeat, self.change, self.forge, self.come_from_a_life_to_come, self.cut)
        made = [kinds[number % len(kinds)](self._any()) for number in range(count)]
        self._dice.shuffle(made)
        return made

    def _any(self) -> bytes:
        """Any of those that were recorded, so they come again in another order."""
        return self._dice.choice(self._recorded)

    def repeat(self, packet: bytes) -> bytes:
        return packet

    def change(self, packet: bytes) -> bytes:
        """One bit."""
        place = self._dice.randrange(len(packet))
        bit = 1 << self._dice.randrange(8)
        return packet[:place] + bytes([packet[place] ^ bit]) + packet[place + 1 :]

    def forge(self, packet: bytes) -> bytes:
        """With a counter that is still to come."""
        counter = int.from_bytes(packet[PREFIX_BYTES:ENVELOPE_BYTES])
        counter += 1 + self._dice.randrange(10**6)
        return packet[:PREFIX_BYTES] + counter.to_bytes(8) + packet[ENVELOPE_BYTES:]

    def come_from_a_life_to_come(self, packet: bytes) -> bytes:
        return packet[:16] + self._dice.randbytes(8) + packet[24:]

    def cut(self, packet: bytes) -> bytes:
        return packet[: self._dice.randrange(len(packet))]


def test_replayed_reordered_forged_cut_and_changed_packets_change_nothing_but_counters(
    ring: SealedRing,
) -> None:
    before = configurations(ring)
    load = ring.load()
    recorded = Listener(ring).hear(RECORDED)
    assert all(map(is_sealed, recorded))
    ring.wait_for_messages(100)
    attacker, stranger = Attacker(recorded), Stranger(ring)
    sent = fewest = 0
    per_second = 9000
    # Each node refuses them all; of those that its kernel has no room for, others come.
    while fewest < BAD_PACKETS:
        assert sent < 3 * BAD_PACKETS, f"refused: {[refused(node) for node in ring.nodes]}"
        stranger.send_to_everyone(attacker.make(PORTION), per_second=per_second)
        sent += PORTION
        before_them, fewest = fewest, min(sum(refused(node).values()) for node in ring.nodes)
        # Not faster than this machine can refuse them: a flood is another matter.
        if fewest - before_them < 0.9 * PORTION:
            per_second = max(1000, per_second // 2)
    ring.wait_for_messages(300)
    for node in ring.nodes:
        assert {"dropped_replay", "dropped_seal", "dropped_truncated"} <= set(refused(node))
    ring.finish(load, messages=300)
    assert configurations(ring) == before, ring.complaints()
    ring.leave()


def test_genuine_packets_that_come_twice_and_out_of_order_are_taken_once(tmp_path: Path) -> None:
    with SealedRing(tmp_path) as ring:
        for node in ring.nodes:
            node.settings.write_text(spoilt(node.settings.read_text()))
        ring.start()
        ring.wait_for()
        before = configurations(ring)
        load = ring.load()
        ring.wait_for_messages(500)
        ring.finish(load, messages=500)
        assert configurations(ring) == before, ring.complaints()
        for node in ring.nodes:
            assert set(refused(node)) == {"dropped_replay"}
        ring.leave()


def spoilt(settings: str) -> str:
    """Settings of a node on UDP, whose packets then come twice and out of order."""
    return settings.replace('transport = "udp"', 'transport = "fault"').replace(
        "[transport.udp]",
        '[transport.fault]\ninner = "udp"\nduplicate = 0.2\nreorder = 0.2\n'
        "[transport.fault.settings]",
    )


def test_packets_have_room_for_the_seal(ring: SealedRing) -> None:
    load = ring.load("--size", "20000")
    sizes = {len(packet) for packet in Listener(ring).hear(500)}
    assert max(sizes) == 1472
    assert ring[1].status()["transport"]["packet_bytes_max"] == 1472 - OVERHEAD_BYTES
    ring.finish(load, messages=10)


def test_who_has_another_key_or_none_is_told_so_and_the_ring_goes_on(
    ring: SealedRing, tmp_path: Path
) -> None:
    before = configurations(ring)
    ours = list(ring.nodes)
    other = tmp_path / "other.key"
    write_key(other, make_key())
    wrong, without = ring.add(4), ring.add(5)
    settings = wrong.settings.read_text().replace(str(ring.key_file), str(other))
    wrong.settings.write_text(settings)
    without.settings.write_text(without.settings.read_text().split("[security]")[0])
    wrong.start()
    without.start()
    eventually(lambda: wrong.members() == [4], "the one with another key is alone")
    eventually(lambda: without.members() == [5], "the one without a key is alone")

    def told(node: Node, *parts: str) -> None:
        eventually(
            lambda: any(all(part in each for part in parts) for each in node.status()["warnings"]),
            lambda: f"{parts} in {node.status()['warnings']}",
        )

    for node in ours:
        told(node, "node 4 at 10.77.0.4:", "which this node does not have")
        told(node, "packets without a seal come from 10.77.0.5:")
    told(wrong, "which this node does not have (it uses ")
    told(without, "sealed packets came, which this node cannot read")
    told(without, "no key configured")
    assert "which this node does not have" in ours[0].said()
    assert configurations(ring)[:3] == before


def test_of_two_nodes_with_one_id_the_younger_stops_though_both_have_the_key(
    ring: SealedRing,
) -> None:
    younger = ring.add(3, place="younger")
    younger.settings.write_text(younger.settings.read_text().replace("10.77.0.3", "10.77.0.4"))
    younger.start()
    assert younger.wait() == 1
    assert "another running node on this ring also has id 3" in younger.said()
    ring.wait_for_all_of(ring.nodes[:3])


def test_a_node_may_be_restarted_again_and_again(ring: SealedRing) -> None:
    load = ring.load()
    for _ in range(3):
        ring.wait_for_messages(100)
        ring[2].kill()
        ring.wait_for(1, 3)
        ring.start(2)
        ring.wait_for()
    ring.wait_for_messages(100)
    ring.finish(load, messages=300)
    assert all("dropped_seal" not in refused(node) for node in ring.nodes)

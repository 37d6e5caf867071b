"""Peers and hellos, without sockets: in virtual time, on a network of the test's own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from construct import ConstructError
from hypothesis import given
from hypothesis import strategies as st

from vsync.errors import MalformedPacket
from vsync.wire.header import MAGIC
from vsync_transport_udp.hello import (
    ADDRESSES_MAX,
    HELLO,
    HELLO_BYTES_MAX,
    HELLO_BYTES_MIN,
    MARK,
    NO_RESPONSE,
    VERSION,
    Hello,
    tell,
)
from vsync_transport_udp.peers import (
    HELLO_S,
    LEARNT_MAX,
    LEARNT_OF_HOST_MAX,
    SECRET_S,
    SILENT_HELLOS,
    UNKNOWN_HELLOS,
    UNKNOWN_MAX,
    UNPROVED_PER_S,
    Allowance,
    Origin,
    Peers,
    Place,
)

ROOT = Path(__file__).parents[2]
STEP_S = 0.05
FORGET_S = 100.0


def at(number: int, port: int = 5405) -> Place:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", port


def place_of(host: str, port: int) -> Place | None:
    address = ip_address(host)
    return None if address.version != 4 or address.is_multicast or not port else (host, port)


@dataclass
class World:
    """Nodes, and a network that carries their hellos and records them."""

    now: float = 1000.0
    nodes: dict[Place, Peers] = field(default_factory=dict)
    down: set[Place] = field(default_factory=set)
    sent: list[tuple[Place, Place, bytes]] = field(default_factory=list)
    """Source, destination and packet of every hello."""

    def add(
        self, number: int, peers: Sequence[Place] = (), seeds: Sequence[Place] = (), life: int = 0
    ) -> Peers:
        place = at(number)
        made = Peers(
            own=place,
            place_of=place_of,
            instance=number.to_bytes(4) + life.to_bytes(4),
            secret=bytes([number % 256, life]),
            learning=bool(seeds),
            forget_s=FORGET_S,
            now=self.now,
        )
        for origin, places in ((Origin.LISTED, peers), (Origin.SEED, seeds)):
            for each in places:
                made.add(each, origin, f"node {each}", self.now)
        self.nodes[place] = made
        return made

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += STEP_S
            for place, node in list(self.nodes.items()):
                if place not in self.down:
                    for destination, packet in node.due(self.now):
                        self.carry(place, destination, packet)

    def carry(self, source: Place, destination: Place, packet: bytes) -> None:
        """Deliver a hello and the answers to it."""
        while True:
            self.sent.append((source, destination, packet))
            node = self.nodes.get(destination)
            if node is None or destination in self.down:
                return
            answer = node.receive(packet, source, self.now)
            if answer is None:
                return
            source, destination, packet = destination, source, answer

    def sent_to(self, place: Place) -> list[bytes]:
        return [packet for _, destination, packet in self.sent if destination == place]


def states(node: Peers, now: float) -> dict[str, str]:
    return {fact["address"]: fact["state"] for fact in node.facts(now)}


def targets(*numbers: int) -> set[Place]:
    return {at(number) for number in numbers}


# The frame

HELLOS = st.builds(
    Hello,
    instance=st.binary(min_size=8, max_size=8),
    challenge=st.binary(min_size=8, max_size=8),
    response=st.binary(min_size=8, max_size=8),
    wants_answer=st.booleans(),
    told=st.lists(
        st.tuples(
            st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
            .filter(lambda address: address.version == 4 or address.ipv4_mapped is None)
            .map(str),
            st.integers(0, 65535),
        ),
        max_size=ADDRESSES_MAX,
    ).map(tell),
)


@given(HELLOS)
def test_a_hello_arrives_as_it_was_sent(hello: Hello) -> None:
    packet = hello.encode()
    assert Hello.decode(packet) == hello
    assert packet.startswith(MARK)
    assert len(packet) == HELLO_BYTES_MIN + len(hello.told) <= HELLO_BYTES_MAX


def test_the_bytes_of_a_hello_are_these() -> None:
    hello = Hello(
        instance=b"instance",
        challenge=b"question",
        response=b"answered",
        wants_answer=True,
        told=tell([("192.0.2.7", 5405), ("2001:db8::7", 5406)]),
    )
    assert hello.encode() == (
        b"\xd7vsudpu\x01\x01instancequestionanswered\x02"
        b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\x00\x02\x07\x15\x1d"
        b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x15\x1e"
    )


def test_the_page_has_every_field_of_a_hello() -> None:
    page = (ROOT / "docs" / "howto" / "run-without-multicast.md").read_text()
    names = [part.name for part in HELLO.subcons if part.name]
    assert re.findall(r"^\| `(\w+)` \| \d", page, flags=re.MULTILINE) == names


def test_no_packet_of_a_ring_begins_like_a_hello() -> None:
    assert MARK[:1] != MAGIC[:1]


@given(HELLOS)
def test_the_fast_path_writes_what_the_declaration_says(hello: Hello) -> None:
    raw = HELLO.parse(hello.encode())
    assert (raw.flags, raw.instance) == (int(hello.wants_answer), hello.instance)
    assert (raw.challenge, raw.response) == (hello.challenge, hello.response)
    assert tell((str(ip_address(each.host)), each.port) for each in raw.addresses) == hello.told


@given(
    st.one_of(
        st.binary(max_size=700),
        st.binary(max_size=700).map(lambda noise: MARK + bytes([VERSION, 0]) + noise),
        st.tuples(HELLOS, st.integers(0, 40), st.integers(0, 255)).map(
            lambda drawn: changed(drawn[0].encode(), drawn[1], drawn[2])
        ),
    )
)
def test_the_fast_path_reads_what_the_declaration_reads_and_nothing_else(packet: bytes) -> None:
    try:
        raw = HELLO.parse(packet)
        declared = len(raw.addresses) <= ADDRESSES_MAX and raw.flags in (0, 1)
    except ConstructError:
        declared = False
    try:
        hello = Hello.decode(packet)
    except MalformedPacket:
        assert not declared
    else:
        assert declared
        assert hello.encode() == packet
        assert all(ip_address(host) and 0 <= port <= 65535 for host, port in hello.addresses)


def changed(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + bytes([value]) + packet[at + 1 :]


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda good: good[:-1],
        lambda good: good + b"\0",
        lambda good: good[:7] + b"\x02" + good[8:],  # another version
        lambda good: good[:8] + b"\x03" + good[9:],  # a flag that does not exist
        lambda good: good[:33] + b"\xff" + good[34:],  # more addresses than there are
        lambda good: good[:33] + b"\x21" + bytes(33 * 18),  # more than may be
    ],
)
def test_a_hello_that_is_not_quite_one_is_refused_and_counted(spoilt: Any) -> None:
    good = Hello(instance=bytes(8), challenge=bytes(8)).encode()
    with pytest.raises(MalformedPacket):
        Hello.decode(spoilt(good))
    world = World()
    node = world.add(1, seeds=[at(2)])
    assert node.receive(spoilt(good), at(3), world.now) is None
    assert node.counters["hellos_malformed"] == 1


# From a list


def test_all_of_a_list_are_served_from_the_start_but_oneself() -> None:
    world = World()
    everyone = [at(1), at(2), at(3)]
    node = world.add(1, peers=everyone)
    assert set(node.targets) == targets(2, 3)
    assert states(node, world.now)["10.0.0.1:5405"] == "own"


def test_those_of_a_list_never_expire_and_are_asked_for_ever() -> None:
    world = World()
    node = world.add(1, peers=[at(2)])
    world.run(50 * FORGET_S)
    assert set(node.targets) == targets(2)
    world.sent.clear()
    world.run(10)
    assert 9 <= len(world.sent_to(at(2))) <= 11
    world.add(2, peers=[at(1)])
    world.run(2 * HELLO_S)
    assert states(node, world.now) == {"10.0.0.2:5405": "up"}


def test_who_falls_silent_is_told_and_served_while_listed() -> None:
    world = World()
    node = world.add(1, peers=[at(2)])
    world.add(2, peers=[at(1)])
    world.run(3)
    world.down.add(at(2))
    world.run(SILENT_HELLOS * HELLO_S + 2)
    assert states(node, world.now) == {"10.0.0.2:5405": "silent"}
    assert set(node.targets) == targets(2)


def test_without_seeds_a_stranger_is_not_answered_but_named() -> None:
    world = World()
    node = world.add(1, peers=[at(2)])
    world.add(3, peers=[at(1)])
    world.run(3)
    assert set(node.targets) == targets(2)
    assert world.sent_to(at(3)) == []
    assert "hellos come from 10.0.0.3:5405, which peers" in node.warnings[0]


def test_a_name_with_several_addresses_gets_one_copy_once_one_of_them_answers() -> None:
    world = World()
    node = world.add(1)
    for place in (at(2), at(22), at(222)):
        node.add(place, Origin.LISTED, "node2.example:5405", world.now)
    assert set(node.targets) == targets(2, 22, 222)
    world.add(22, peers=[at(1)])
    world.run(1)
    assert set(node.targets) == targets(22)
    world.down.add(at(22))
    world.run(SILENT_HELLOS * HELLO_S + 2)
    assert set(node.targets) == targets(2, 22, 222)


def test_a_node_that_is_listed_by_two_addresses_gets_one_copy() -> None:
    world = World()
    node = world.add(1, peers=[at(2), at(22)])
    other = world.add(2, peers=[at(1)])
    world.nodes[at(22)] = other
    world.run(1)
    assert len(node.targets) == 1


def test_an_own_name_with_further_addresses_is_not_sent_to_at_all() -> None:
    world = World()
    node = world.add(1)
    for place in (at(1), at(11)):
        node.add(place, Origin.LISTED, "node1.example:5405", world.now)
    assert list(node.targets) == []


def test_a_node_that_meets_its_own_hello_does_not_send_to_itself() -> None:
    world = World()
    node = world.add(1, peers=[at(11), at(2)])
    world.nodes[at(11)] = node  # an address that leads back here
    world.run(1)
    assert set(node.targets) == targets(2)
    assert states(node, world.now)["10.0.0.11:5405"] == "own"


def test_who_answers_from_another_address_of_its_own_is_recognised() -> None:
    world = World()
    node = world.add(1, peers=[at(2)])
    other = world.add(22, peers=[at(1)])
    for _ in range(3):
        for _, packet in node.due(world.now):  # what is sent to 2 arrives at 22
            world.carry(at(1), at(22), packet)
        for _, packet in other.due(world.now):
            world.carry(at(22), at(1), packet)
        world.now += HELLO_S
    assert set(node.targets) == targets(22)
    (fact,) = [fact for fact in node.facts(world.now) if fact["address"] == "10.0.0.22:5405"]
    assert (fact["from"], fact["state"], fact["name"]) == ("peers", "up", "node ('10.0.0.2', 5405)")


# From seeds


def test_nodes_learn_of_each_other_from_a_seed() -> None:
    world = World()
    nodes = [world.add(number, seeds=[at(1)]) for number in range(1, 6)]
    assert all(list(node.targets) == [] for node in nodes)
    world.run(2.5)
    for number, node in enumerate(nodes, 1):
        assert set(node.targets) == targets(*{1, 2, 3, 4, 5} - {number})


def test_forty_nodes_learn_of_each_other_though_a_hello_has_no_room_for_all() -> None:
    world = World()
    nodes = [world.add(number, seeds=[at(1)]) for number in range(1, 41)]
    world.run(10)
    assert {len(node.targets) for node in nodes} == {39}
    assert max(len(packet) for _, _, packet in world.sent) <= HELLO_BYTES_MAX


def test_a_node_that_comes_later_is_learnt_and_learns() -> None:
    world = World()
    nodes = [world.add(number, seeds=[at(1), at(2)]) for number in (1, 2, 3)]
    world.run(60)
    late = world.add(9, seeds=[at(1), at(2)])
    world.run(2.5)
    assert set(late.targets) == targets(1, 2, 3)
    assert all(at(9) in node.targets for node in nodes)


def test_a_node_that_starts_anew_at_its_address_is_met_again() -> None:
    world = World()
    nodes = [world.add(number, seeds=[at(1)]) for number in (1, 2)]
    world.run(3)
    again = world.add(2, seeds=[at(1)], life=1)
    world.run(2.5)
    assert set(nodes[0].targets) == targets(2)
    assert set(again.targets) == targets(1)


def test_a_learnt_node_that_falls_silent_is_not_served_then_forgotten() -> None:
    world = World()
    nodes = [world.add(number, seeds=[at(1)]) for number in (1, 2, 3)]
    world.run(3)
    world.down.add(at(3))
    world.run(SILENT_HELLOS * HELLO_S + 2)
    assert set(nodes[1].targets) == targets(1)
    assert states(nodes[1], world.now)["10.0.0.3:5405"] == "silent"
    world.run(FORGET_S)
    assert "10.0.0.3:5405" not in states(nodes[1], world.now)
    world.sent.clear()
    world.run(30)
    assert world.sent_to(at(3)) == []


def test_a_silent_node_is_served_again_from_its_first_answer_on() -> None:
    world = World()
    nodes = [world.add(number, seeds=[at(1)]) for number in (1, 2, 3)]
    world.run(3)
    world.down.add(at(3))
    world.run(30)
    world.down.clear()
    world.run(1.5 * HELLO_S)
    assert set(nodes[1].targets) == targets(1, 3)


def test_a_seed_is_asked_for_ever_and_served_while_it_answers() -> None:
    world = World()
    node = world.add(2, seeds=[at(1)])
    world.run(20 * FORGET_S)
    assert list(node.targets) == []
    world.add(1, seeds=[at(1)])
    world.run(1.5 * HELLO_S)
    assert set(node.targets) == targets(1)


def test_who_was_asleep_does_not_think_that_the_others_were() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    world.add(2, seeds=[at(1)])
    world.run(3)
    world.now += 10 * FORGET_S
    assert set(node.targets) == targets(2)
    for place, packet in node.due(world.now):
        world.carry(at(1), place, packet)
    world.run(3)
    assert states(node, world.now) == {"10.0.0.2:5405": "up"}


def test_challenges_change_and_nobody_is_lost_by_it() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    world.add(2, seeds=[at(1)])
    world.run(3)
    before = node.counters["hellos_unproved"]
    seen = set()
    for _ in range(int(3 * SECRET_S)):
        world.run(HELLO_S)
        assert states(node, world.now) == {"10.0.0.2:5405": "up"}
        seen.add(Hello.decode(world.sent_to(at(2))[-1]).challenge)
    assert len(seen) >= 3
    assert node.counters["hellos_unproved"] == before


# Forgers


def forged(**fields: Any) -> bytes:
    return Hello(
        **{"instance": b"forger!!", "challenge": b"whatever", "wants_answer": True, **fields}
    ).encode()


def test_a_hello_in_anothers_name_brings_the_other_no_packets() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    victim = at(77)
    for number in range(1000):
        answer = node.receive(forged(response=number.to_bytes(8)), victim, world.now)
        if answer is not None:
            assert len(answer) == HELLO_BYTES_MIN <= len(forged())
        world.now += 0.001
    assert victim not in node.targets
    assert "10.0.0.77:5405" not in states(node, world.now)


def test_answers_without_proof_are_so_many_a_second_and_no_more() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    answers = 0
    for number in range(10_000):
        answers += node.receive(forged(), at(1000 + number), world.now) is not None
        world.now += 0.0005
    assert answers <= UNPROVED_PER_S * 6
    assert node.counters["hellos_unanswered"] == 10_000 - answers
    assert list(node.targets) == []


def test_a_challenge_serves_only_the_address_that_it_was_sent_to() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    answer = node.receive(forged(), at(66), world.now)
    assert answer is not None
    challenge = Hello.decode(answer).challenge
    node.receive(forged(response=challenge), at(77), world.now)
    assert list(node.targets) == []
    node.receive(forged(response=challenge), at(66), world.now)
    assert list(node.targets) == [at(66)]


def test_a_challenge_serves_for_a_while_only() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    answer = node.receive(forged(), at(66), world.now)
    assert answer is not None
    world.now += 2 * SECRET_S
    node.receive(forged(response=Hello.decode(answer).challenge), at(66), world.now)
    assert list(node.targets) == []


def admitted(world: World, node: Peers, place: Place, **fields: Any) -> bytes:
    """Become a peer as a node at *place* would; gives the challenge that proves it."""
    answer = node.receive(forged(**fields), place, world.now)
    assert answer is not None
    challenge = Hello.decode(answer).challenge
    node.receive(forged(response=challenge, **fields), place, world.now)
    return challenge


def test_lists_of_strangers_bring_them_a_few_small_hellos_and_a_bounded_number() -> None:
    world = World()
    begin = world.now
    node = world.add(1, seeds=[at(2)])
    challenge = admitted(world, node, at(66))
    victims = {at(number) for number in range(5000, 8000)}
    waiting = sorted(victims)
    for _ in range(90):
        told, waiting = waiting[:ADDRESSES_MAX], waiting[ADDRESSES_MAX:]
        node.receive(forged(response=challenge, told=tell(told)), at(66), world.now)
        waits = [state for state in states(node, world.now).values() if state == "waiting"]
        assert len(waits) <= UNKNOWN_MAX + 1
        world.run(0.1)
    to_victims = [packet for _, place, packet in world.sent if place in victims]
    assert 0 < len(to_victims) <= UNPROVED_PER_S * (world.now - begin + 1)
    assert {len(packet) for packet in to_victims} == {HELLO_BYTES_MIN}
    assert max(len(world.sent_to(victim)) for victim in victims) <= UNKNOWN_HELLOS
    assert set(node.targets) == {at(66)}
    world.run(60)
    assert len(states(node, world.now)) <= 2


def test_a_list_counts_from_those_only_who_have_proved_themselves() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    node.receive(forged(told=tell([at(77)])), at(66), world.now)
    assert list(states(node, world.now)) == ["10.0.0.2:5405"]


@pytest.mark.parametrize(
    "place", [("10.0.0.1", 5405), ("224.0.0.1", 5405), ("10.0.0.8", 0), ("::1", 9)]
)
def test_addresses_where_no_peer_can_be_are_not_asked(place: Place) -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    challenge = admitted(world, node, at(66))
    node.receive(forged(response=challenge, told=tell([place])), at(66), world.now)
    assert set(states(node, world.now)) == {"10.0.0.2:5405", "10.0.0.66:5405"}


def test_one_host_gets_a_bounded_number_of_copies() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    for port in range(1, 100):
        admitted(world, node, at(66, port), instance=port.to_bytes(8))
        world.now += 0.1
    assert len(node.targets) == LEARNT_OF_HOST_MAX
    assert "further nodes than can be learnt" in node.warnings[-1]


def test_all_together_are_a_bounded_number() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    for number in range(LEARNT_MAX + 50):
        admitted(world, node, at(1000 + number), instance=number.to_bytes(8))
        world.now += 0.02
    assert len(node.targets) == LEARNT_MAX
    assert node.counters["peers_refused"] == 50


def test_room_is_made_of_those_who_are_silent() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    for port in range(1, LEARNT_OF_HOST_MAX + 1):
        admitted(world, node, at(66, port), instance=port.to_bytes(8))
    world.run(SILENT_HELLOS * HELLO_S + 3)
    assert list(node.targets) == []
    admitted(world, node, at(66, 999))
    assert list(node.targets) == [at(66, 999)]
    assert len(states(node, world.now)) == LEARNT_OF_HOST_MAX + 1


def test_a_flood_in_strangers_names_does_not_keep_known_ones_from_meeting() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    for number in range(10 * UNPROVED_PER_S):
        node.receive(forged(), at(1000 + number), world.now)
    assert node.receive(forged(), at(3), world.now) is None
    assert node.receive(forged(), at(2), world.now) is not None


def test_a_forged_hello_does_not_part_peers() -> None:
    world = World()
    node = world.add(1, seeds=[at(2)])
    world.add(2, seeds=[at(1)])
    world.run(3)
    for _ in range(20):
        node.receive(forged(instance=b"another!"), at(2), world.now)
        node.receive(forged(instance=(1).to_bytes(4) + bytes(4)), at(2), world.now)
        world.run(HELLO_S)
    assert states(node, world.now) == {"10.0.0.2:5405": "up"}
    assert set(node.targets) == targets(2)


def test_who_claims_the_instance_of_a_peer_does_not_take_its_packets() -> None:
    world = World()
    node = world.add(10, seeds=[at(20)])
    world.add(20, seeds=[at(10)])
    world.run(3)
    admitted(world, node, at(3), instance=(20).to_bytes(4) + bytes(4))
    assert set(node.targets) == targets(20)


def test_the_instance_of_a_peer_is_no_word_to_make_it_ours() -> None:
    """Only what was really sent to an address, and came back, shows that it is one's own."""
    world = World()
    node = world.add(1, peers=[at(2)])
    own_instance = (1).to_bytes(4) + bytes(4)
    node.receive(forged(instance=own_instance, response=NO_RESPONSE), at(2), world.now)
    assert set(node.targets) == targets(2)


def test_an_allowance_is_what_it_says() -> None:
    allowance = Allowance(10, 0.0)
    assert sum(allowance.take(0.0) for _ in range(100)) == 10
    assert not allowance.take(0.05)
    assert allowance.take(0.11)
    assert sum(allowance.take(99.0) for _ in range(100)) == 10

"""Replicas of the map on a model of virtual synchrony that does its worst."""

import pytest

from tests.services.bus import Bus, Waiting, run, settle
from vsync.errors import MalformedPacket
from vsync.vocabulary import Member, NodeId
from vsync_services.kv.messages import Chunk, Command, Done, Operation, encode
from vsync_services.kv.plan import Mode
from vsync_services.kv.replica import Replica
from vsync_services.testing import Set, check_linearizable

pytestmark = pytest.mark.timeout(300)


def contents(bus: Bus) -> list[object]:
    """Every node's map, and how far it is certain."""
    return [
        (life.replica.store.entries, life.replica.store.digest, life.replica.visible)
        for life in bus.lives.values()
    ]


def check_end(bus: Bus) -> None:
    """All serve, all have the same, nothing is left over."""
    for life in bus.lives.values():
        assert life.replica.mode is (Mode.PRIMARY if bus.quorum else Mode.PART)
        assert life.replica.visible == life.replica.store.point
        assert not life.waiting, "a command was never answered"
        assert not life.replica.counters.malformed
    first, *others = contents(bus)
    assert all(other == first for other in others)


def check_watches(bus: Bus) -> None:
    """No two watches were told different things of one revision."""
    told: dict[int, tuple[str, bytes | None]] = {}
    for changes in bus.watched.values():
        for revision, change in changes.items():
            assert told.setdefault(revision, change) == change, f"revision {revision}"


@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
def test_the_map_is_linearizable_whatever_virtual_synchrony_allows(nodes: int) -> None:
    answered = 0
    for seed in range(25):
        bus = run(seed, nodes=nodes, deaths=False)
        check_end(bus)
        check_watches(bus)
        violations = check_linearizable(bus.calls)
        assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
        assert not bus.lost
        answered += sum(call.end != float("inf") for call in bus.calls)
    assert answered > 300


@pytest.mark.parametrize("nodes", [3, 5])
def test_the_map_is_linearizable_while_nodes_die_and_begin_again(nodes: int) -> None:
    judged = 0
    for seed in range(40):
        bus = run(seed, nodes=nodes)
        check_end(bus)
        if bus.lost:
            continue  # all nodes that had the newest map died: nothing can be promised then
        judged += 1
        check_watches(bus)
        violations = check_linearizable(bus.calls)
        assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
    assert judged > 15


@pytest.mark.parametrize("seed", range(20))
def test_without_a_quorum_all_parts_serve_and_have_one_map_in_the_end(seed: int) -> None:
    check_end(run(seed, nodes=4, quorum=False))


# --- by hand ------------------------------------------------------------------------------------


def resting(*, quorum: bool = True) -> Bus:
    """A bus on which three nodes serve."""
    bus = Bus(3, 0, quorum=quorum)
    settle(bus)
    return bus


def get_to(bus: Bus, *nodes: int) -> None:
    """Let these nodes get all messages of their configuration."""
    for node in nodes:
        ring = bus.lives[node].ring
        assert ring is not None
        for message in ring.order:
            message.got.add(node)


def deliver_to(bus: Bus, node: int) -> None:
    """Let the node deliver all that it may."""
    life = bus.lives[node]
    assert life.ring is not None
    for _ in range(len(life.ring.order)):
        bus.deliver_next(life, life.ring)


def ordered_set(bus: Bus, node: int, value: bytes) -> None:
    """Have a client at the node set key k, and give that its place in the order."""
    life = bus.lives[node]
    number = life.replica.submit(Operation.SET, "k", value)
    life.waiting[number] = Waiting(f"c{node}", "k", bus.tick(), Operation.SET, 0, value)
    bus.act(life)
    if life.ordinary:
        assert life.ring is not None
        bus.introduce(life, life.ring)


def value_at(bus: Bus, node: int) -> bytes | None:
    entry = bus.lives[node].replica.get("k")
    return entry.value if entry is not None else None


def nothing_more_in_the_regular_one(bus: Bus) -> None:
    """What is safe and not delivered yet comes in the transitional configuration."""
    bus.dice.random = lambda: 1.0  # type: ignore[method-assign]


def test_what_one_node_acknowledged_others_carry_out_in_the_transitional_configuration() -> None:
    bus = resting()
    ordered_set(bus, 1, b"v")
    get_to(bus, 2, 3)
    deliver_to(bus, 1)
    assert [call.action for call in bus.calls] == [Set(b"v", 1)]
    assert (value_at(bus, 1), value_at(bus, 2), value_at(bus, 3)) == (b"v", None, None)
    nothing_more_in_the_regular_one(bus)
    bus.form([[1], [2, 3]])
    assert value_at(bus, 2) == value_at(bus, 3) == b"v"
    assert bus.lives[2].replica.visible.revision == 0, "not certain yet"
    settle(bus)
    assert bus.lives[2].replica.visible.revision == 1


def test_a_command_in_the_transitional_configuration_is_answered_once_it_is_certain() -> None:
    bus = resting()
    ordered_set(bus, 1, b"v")
    get_to(bus, 2)  # node 3 has not got it
    nothing_more_in_the_regular_one(bus)
    bus.form([[1, 2], [3]])
    assert value_at(bus, 1) == value_at(bus, 2) == b"v"
    assert not bus.calls
    settle(bus)
    assert [call.action for call in bus.calls] == [Set(b"v", 1)]


def test_a_command_that_may_be_nowhere_else_is_answered_as_unknown() -> None:
    bus = resting()
    ordered_set(bus, 1, b"v")
    nothing_more_in_the_regular_one(bus)
    bus.form([[1], [2, 3]])
    assert value_at(bus, 1) == b"v"
    settle(bus)
    assert [call.action for call in bus.calls] == [Set(b"v", None)]
    ordered_set(bus, 2, b"of the others")
    settle(bus)
    bus.form([[1, 2, 3]])
    settle(bus)
    assert value_at(bus, 1) == b"of the others"
    assert bus.lives[1].replica.counters.changes_lost == 1


def test_what_is_ordered_in_a_configuration_that_is_not_primary_is_never_carried_out() -> None:
    bus = resting()
    bus.form([[1, 2], [3]])
    bus.form([[1], [2, 3]])  # node 1 does not know yet that it is not primary
    ordered_set(bus, 1, b"v")
    settle(bus)
    assert value_at(bus, 1) is None
    bus.form([[1, 2, 3]])
    settle(bus)
    assert [value_at(bus, node) for node in (1, 2, 3)] == [None] * 3
    assert not bus.calls, "it was refused, and had no effect"


def test_a_command_that_waited_for_its_place_is_carried_out_in_the_next_configuration() -> None:
    bus = resting()
    life = bus.lives[1]
    number = life.replica.submit(Operation.SET, "k", b"v")
    life.waiting[number] = Waiting("c", "k", bus.tick(), Operation.SET, 0, b"v")
    bus.act(life)  # accepted, and not ordered
    bus.form([[1, 2], [3]])
    settle(bus)
    assert [call.action for call in bus.calls] == [Set(b"v", 1)]


@pytest.mark.parametrize("quorum", [False, True])
def test_when_the_service_that_sends_its_map_fails_nobody_waits_for_it(quorum: bool) -> None:
    bus = resting(quorum=quorum)
    ordered_set(bus, 1, b"v" * 100)
    settle(bus)
    bus.crash(3)
    bus.start(3)
    bus.form([[1, 2, 3]])
    life = bus.lives[1]
    while not life.replica.counters.maps_sent:
        for node in (1, 2, 3):
            ring = bus.lives[node].ring
            assert ring is not None
            bus.introduce(bus.lives[node], ring)
            get_to(bus, 1, 2, 3)
            deliver_to(bus, node)
    assert life.ring is not None
    bus.introduce(life, life.ring)  # the first part of its map
    get_to(bus, 1, 2, 3)
    life.urgent.clear()  # the service of node 1 fails, and its node goes on
    for node in (2, 3):
        deliver_to(bus, node)
        other = bus.lives[node]
        other.replica.viewed([bus.lives[2].member, bus.lives[3].member])
        bus.act(other)
    settle(bus)
    modes = {bus.lives[node].replica.mode for node in (2, 3)}
    if quorum:  # a node that votes and has no map: see the plan
        assert modes == {Mode.REFUSED}
        assert "node 1 is here and without kv" in bus.lives[3].replica.reason
    else:
        assert modes == {Mode.PART}
        assert value_at(bus, 3) == b"v" * 100
        assert bus.lives[2].replica.counters.maps_sent == 1
    for node in (2, 3):
        assert node in bus.lives[node].synchronized, "its part of synchronizing is done"


def test_what_is_no_message_or_comes_from_a_stranger_is_counted_and_harms_nothing() -> None:
    bus = resting()
    replica = bus.lives[1].replica
    stranger = Member(NodeId(9), 9)
    replica.delivered(bus.lives[2].member, b"garbage")
    replica.delivered(stranger, encode(Command(1, Operation.SET, "k", 0, b"forged")))
    replica.delivered(stranger, encode(Done("1.1")))
    replica.delivered(stranger, encode(Chunk("1.1", 0, True, b"forged")))
    assert value_at(bus, 1) is None
    assert (replica.counters.malformed, replica.counters.strays) == (1, 1)


def test_a_damaged_record_is_not_taken_for_none() -> None:
    with pytest.raises(MalformedPacket):
        Replica(kept=b"\x01\x00\x05damaged")

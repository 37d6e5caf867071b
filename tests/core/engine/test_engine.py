"""The engine as a whole, where a scenario cannot look."""

import pytest

from tests.core.engine.logs import GROUP
from vsync.engine import Engine, MemoryStore, State
from vsync.errors import DuplicateNode, MessageTooLarge, MisuseError, NodeClosed
from vsync.settings import RingSettings
from vsync.testing.cluster import Cluster
from vsync.testing.network import Action, Conditions, Rule
from vsync.transport import Packet
from vsync.vocabulary import Guarantee, NodeId, Priority, RingId
from vsync.wire import Codec, Commit, Entry, FrameType, Wake, network_of
from vsync.wire.header import seal


def ring_of(count: int) -> Cluster:
    """*count* nodes on one ring."""
    cluster = Cluster(count, seed=3)
    cluster.start()
    assert cluster.settle()
    return cluster


def test_a_frame_of_the_old_ring_that_comes_after_the_entry_was_filled_is_not_taken() -> None:
    # The entry said what this node has. A frame more, and its companions would not know of it.
    cluster = ring_of(3)
    engine = cluster.engine(1)
    assert engine.configuration is not None
    number, representative = map(int, engine.configuration.id.split("."))
    life = cluster.hosts[3].life
    cluster.network.rules.append(Rule(action=Action.DROP, frame=FrameType.COMMIT, count=10**6))
    cluster.crash(3)
    assert cluster.run_until(lambda: engine.state is State.COMMIT)
    codec = Codec(network_of(RingSettings().name), NodeId(3), life)
    ring = RingId(number, NodeId(representative))
    late = codec.data(ring, 1, 0, 0, Guarantee.UNORDERED, [b"\1" + GROUP.key + b"late"])
    before = engine.counters["dropped_foreign"]
    engine.receive([Packet(late.packets[0], 3)], cluster.now)
    assert engine.counters["dropped_foreign"] == before + 1
    assert engine.take_events() == []


def lone(**settings: object) -> Engine:
    """An engine that has heard nobody yet."""
    return Engine(
        NodeId(1),
        1,
        RingSettings.model_validate(settings),
        now=0.0,
        packet_bytes_max=1472,
        receive_buffer_bytes=2**20,
        store=MemoryStore(),
    )


def submit(engine: Engine, payload: bytes, groups: int = 1) -> None:
    engine.submit(1, [GROUP] * groups, payload, Guarantee.AGREED, Priority.HIGH, 1.0)


def test_nothing_is_accepted_before_the_first_configuration() -> None:
    engine = lone()
    engine.start(0.0)
    with pytest.raises(MisuseError, match="after the first ConfigurationChanged"):
        submit(engine, b"x")


def test_a_message_too_large_names_the_limit_and_changes_nothing() -> None:
    engine = ring_of(1).engine(1)
    with pytest.raises(MessageTooLarge, match="1048577 bytes is over the limit of 1048576 bytes"):
        submit(engine, bytes(2**20 + 1))
    assert engine.pending_bytes == engine.unstable == 0


@pytest.mark.parametrize("groups", [0, 51])
def test_a_message_goes_to_1_to_50_groups(groups: int) -> None:
    with pytest.raises(MisuseError, match="1 to 50 groups"):
        submit(ring_of(1).engine(1), b"x", groups)


def test_a_node_that_left_accepts_and_sends_nothing() -> None:
    cluster = ring_of(2)
    engine = cluster.engine(1)
    engine.leave(cluster.now)
    farewell = engine.poll_transmit()
    assert farewell is not None
    assert engine.poll_transmit() is None
    assert engine.poll_timeout() is None
    with pytest.raises(NodeClosed):
        submit(engine, b"x")


def test_a_node_that_was_stopped_suspects_itself_first() -> None:
    cluster = ring_of(3)
    cluster.pause(2)
    cluster.run(0.2)  # shorter than the others' patience
    cluster.resume(2)
    cluster.run(1.0)
    assert cluster.engine(2).counters["pauses_noticed"] == 1
    assert cluster.engine(2).counters["tokens_lost"] == 0
    assert {cluster.engine(node).counters["entered_gather"] for node in (1, 2, 3)} <= {0, 1}


def test_unstable_counts_what_is_not_yet_known_to_be_everywhere() -> None:
    cluster = ring_of(2)
    cluster.submit(1, b"x")
    assert cluster.engine(1).unstable == 1
    cluster.run(0.1)
    assert cluster.engine(1).unstable == 0


def alone_to_install(cluster: Cluster) -> None:
    """Node 3 dies; node 1 installs the ring of 1 and 2, and the token of that visit is lost."""
    cluster.crash(3)
    one, two = cluster.engine(1), cluster.engine(2)

    def about_to() -> bool:
        return all(e._attempt is not None and e._attempt.full_visits == 1 for e in (one, two))

    assert cluster.run_until(about_to)
    cluster.network.rules.append(
        Rule(action=Action.DROP, frame=FrameType.TOKEN, receiver=2, count=10**6)
    )
    assert cluster.run_until(lambda: one.members == (1, 2))
    assert one.state is State.OPERATIONAL
    assert two.state is State.RECOVERY


def configurations(cluster: Cluster, node: int) -> list[tuple[str, list[int]]]:
    return [
        (line["id"], line["members"])
        for line in cluster.lines
        if line["node"] == node and line["event"] == "configuration"
    ]


def test_who_missed_the_last_token_of_a_recovery_installs_late_what_the_other_installed() -> None:
    cluster = ring_of(3)
    cluster.submit(2, b"before", Guarantee.SAFE)
    alone_to_install(cluster)
    two = cluster.engine(2)
    message = cluster.submit(1, b"on the ring that only node 1 has installed")
    assert cluster.run_until(lambda: two.state is State.GATHER)
    assert two.members == (1, 2, 3)
    cluster.network.rules.clear()
    assert cluster.settle()
    assert two.counters["installed_late"] == 1
    assert cluster.engine(1).counters["installed_late"] == 0
    assert configurations(cluster, 2)[-4:] == configurations(cluster, 1)[-4:]
    assert [members for _, members in configurations(cluster, 2)[-4:]] == [[1, 2]] * 4
    heard = [
        (line["node"], line["configuration"])
        for line in cluster.lines
        if line["event"] == "deliver" and line["message"] == str(message)
    ]
    assert {node for node, _ in heard} == {1, 2}
    assert cluster.check(quiet=True).holds


def test_who_installed_alone_and_died_is_not_waited_for() -> None:
    cluster = ring_of(3)
    alone_to_install(cluster)
    cluster.crash(1)
    cluster.network.rules.clear()
    assert cluster.settle()
    assert cluster.engine(2).members == (2,)
    assert cluster.engine(2).counters["installed_late"] == 0
    assert cluster.check(quiet=True).holds


def test_a_node_alone_orders_and_delivers_all_guarantees() -> None:
    cluster = ring_of(1)
    for guarantee in Guarantee:
        cluster.submit(1, guarantee.word.encode(), guarantee)
    assert cluster.settle()
    got = [line["guarantee"] for line in cluster.lines if line["event"] == "deliver"]
    assert sorted(got) == sorted(guarantee.word for guarantee in Guarantee)
    assert cluster.engine(1).unstable == 0


def test_an_idle_ring_holds_its_token_and_wakes_for_a_message() -> None:
    cluster = ring_of(3)
    visits = cluster.engine(2)._rotation.token_seq
    cluster.run(1.0)
    # One rotation every hold_s; three visits in each.
    rounds = (cluster.engine(2)._rotation.token_seq - visits) / 3
    assert rounds <= 1.0 / RingSettings().hold_s + 1
    sent_at = cluster.now
    cluster.submit(3, b"wake up", Guarantee.SAFE)
    delivered = [False]
    cluster.on_line = lambda host, line: delivered.__setitem__(0, line["event"] == "deliver")
    assert cluster.run_until(lambda: delivered[0])
    assert cluster.now - sent_at < RingSettings().hold_s / 2


def test_who_leaves_is_let_go_without_a_wait_for_its_silence() -> None:
    cluster = ring_of(3)
    left_at = cluster.now
    cluster.leave(2)
    assert cluster.run_until(lambda: cluster.engine(1).members == (1, 3))
    assert cluster.now - left_at < RingSettings().token_lost_s / 2
    assert cluster.settle()
    assert cluster.engine(1).counters["tokens_lost"] == 0
    assert configurations(cluster, 1)[-1] == configurations(cluster, 3)[-1]


def test_the_younger_of_two_nodes_with_one_id_stops_and_says_why() -> None:
    cluster = ring_of(2)
    older = cluster.hosts[2]
    cluster.add(9, NodeId(2))
    cluster.start(9)
    assert cluster.run_until(lambda: cluster.hosts[9].engine is None)
    assert older.engine is not None
    failure = cluster.hosts[9].failure
    assert isinstance(failure, DuplicateNode)
    assert "another running node on this ring also has id 2" in str(failure)
    assert cluster.settle()
    assert cluster.engine(1).members == (1, 2)


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_a_second_node_with_the_representatives_id_is_not_taken_for_it(seed: int) -> None:
    """Both make a ring of the same number, and the commit token of one comes back to the other."""
    cluster = Cluster(3, seed, settings=RingSettings(token_lost_s=1.5))
    cluster.network.conditions = Conditions(spikes=0.2, spike_s=0.05)
    dice = cluster.random
    cluster.start()
    assert cluster.settle()

    def send_for(seconds: float) -> None:
        end = cluster.now + seconds
        while cluster.now < end:
            for number in (1, 2, 3):
                if dice.random() < 0.7:
                    size = dice.choice((1, 100, 1400, 5000))
                    cluster.submit(number, size, dice.choice(list(Guarantee)))
            cluster.run(0.002)

    send_for(0.1 + dice.random() * 0.3)
    cluster.add(9, NodeId(1))
    cluster.start(9)
    send_for(0.2)
    assert cluster.run_until(lambda: cluster.hosts[9].engine is None)
    assert cluster.settle()
    assert cluster.engine(3).members == (1, 2, 3)
    assert cluster.check(quiet=True).violations == ()


def test_garbage_is_counted_by_what_is_wrong_with_it_and_changes_nothing() -> None:
    engine = ring_of(2).engine(1)
    network = network_of(RingSettings().name)
    good = Codec(network, NodeId(2), 1).wake(Wake(RingId(1, NodeId(1))))
    wrong = {
        "truncated": good[:10],
        "garbage": b"x" * 100,
        "version": good[:2] + b"\x63" + good[3:],
        "checksum": good[:-1] + bytes((good[-1] ^ 1,)),
        "other_ring": Codec(network + 1, NodeId(2), 1).wake(Wake(RingId(1, NodeId(1)))),
        "malformed": seal(99, network, NodeId(2), 1, b""),
    }
    before = engine.counters.as_dict()
    due = engine.poll_timeout()
    assert due is not None
    engine.receive([Packet(packet, 2) for packet in wrong.values()], due)
    after = engine.counters.as_dict()
    changed = {name: after[name] - before.get(name, 0) for name in after if name not in before}
    assert changed == {f"dropped_{reason}": 1 for reason in wrong}
    assert engine.take_events() == []
    assert engine.poll_transmit() is None


def test_a_filled_commit_token_with_other_members_than_were_agreed_is_not_taken() -> None:
    cluster = ring_of(3)
    engine = cluster.engine(1)
    cluster.network.rules.append(Rule(action=Action.DROP, frame=FrameType.COMMIT, count=10**6))
    cluster.crash(3)
    assert cluster.run_until(lambda: engine.state is State.COMMIT)
    codec = Codec(network_of(RingSettings().name), NodeId(2), cluster.hosts[2].life)
    members = (NodeId(1), NodeId(77))
    entries = tuple(Entry(node, True, RingId(1, node)) for node in members)
    lie = codec.commit(Commit(engine._ring, 9, entries))
    engine.receive([Packet(lie, 2)], cluster.now)
    assert engine.state is State.COMMIT
    assert engine.counters["dropped_commit"] == 1

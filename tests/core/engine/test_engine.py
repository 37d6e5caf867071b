"""The engine as a whole, where a scenario cannot look."""

import pytest

from tests.core.engine.logs import GROUP
from vsync.engine import Engine, MemoryStore, State
from vsync.errors import MessageTooLarge, MisuseError, NodeClosed
from vsync.settings import RingSettings
from vsync.testing.cluster import Cluster
from vsync.testing.network import Action, Rule
from vsync.transport import Packet
from vsync.vocabulary import Guarantee, NodeId, Priority, RingId
from vsync.wire import Codec, FrameType, network_of


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
    engine.receive([Packet(bytes(late.packet), 3)], cluster.now)
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
    engine.submit([GROUP] * groups, payload, Guarantee.AGREED, Priority.HIGH, 1.0)


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

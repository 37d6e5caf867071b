"""While the token rests, each member has a number of its own; when that ends, all are filled."""

from vsync.engine.rest import MEMBERS_MAX, Rest
from vsync.settings import RingSettings
from vsync.testing.cluster import Cluster
from vsync.testing.network import Action, Rule
from vsync.vocabulary import Guarantee, NodeId, Priority, RingId
from vsync.wire import CLOSING, MOVING, RESTING, FrameType, Token

RING = RingId(1, NodeId(1))


def token(seq: int, resting: int) -> Token:
    return Token(RING, seq=seq, aru=seq, resting=resting)


def test_each_member_has_the_number_of_its_place() -> None:
    numbers = []
    for place in range(3):
        rest = Rest(3, place)
        rest.begin(10)
        numbers.append(rest.own)
    assert numbers == [11, 12, 13]


def test_who_ends_a_rest_fills_its_number_and_counts_all() -> None:
    rest = Rest(3, 1)
    rest.begin(10)
    ending = token(10, RESTING)
    assert rest.close(ending, 10) == 12
    assert (ending.seq, ending.resting) == (13, CLOSING)
    assert rest.own == 0


def test_who_has_used_its_number_does_not_fill_it() -> None:
    rest = Rest(3, 1)
    rest.begin(10)
    rest.own = 0
    assert rest.close(token(13, CLOSING), 10) == 0


def test_who_never_saw_the_token_rest_fills_its_number_too() -> None:
    assert Rest(3, 2).close(token(13, CLOSING), 10) == 13


def test_a_number_is_filled_once_though_the_closing_token_comes_twice() -> None:
    rest = Rest(3, 2)
    assert rest.close(token(13, CLOSING), 10) == 13
    assert rest.close(token(13, CLOSING), 13) == 0
    rest.moves()
    assert rest.close(token(16, CLOSING), 13) == 16


def test_the_token_moves_again_when_all_were_told_to_close() -> None:
    rest = Rest(3, 0)
    closing = token(13, CLOSING)
    rest.closed(closing)
    assert closing.resting == CLOSING
    rest.closed(closing)
    assert closing.resting == MOVING


def test_on_a_large_ring_nothing_is_reserved() -> None:
    rest = Rest(MEMBERS_MAX + 1, 0)
    rest.begin(10)
    ending = token(10, RESTING)
    assert (rest.own, rest.close(ending, 10)) == (0, 0)
    assert (ending.seq, ending.resting) == (10, MOVING)


# --- in a ring ----------------------------------------------------------------------------------


def resting(count: int) -> Cluster:
    cluster = Cluster(count, seed=5)
    cluster.start()
    assert cluster.settle()
    cluster.run(0.05)
    return cluster


def reached(cluster: Cluster, message: object) -> set[int]:
    return {
        line["node"]
        for line in cluster.lines
        if line["event"] == "deliver" and line["message"] == str(message)
    }


def test_an_agreed_message_of_any_member_needs_no_token() -> None:
    for node in (1, 2, 3):
        cluster = resting(3)
        cluster.network.rules.append(Rule(action=Action.DROP, frame=FrameType.TOKEN, count=10**6))
        message = cluster.submit(node, 100)
        cluster.run(0.01)
        assert reached(cluster, message) == {1, 2, 3}


def test_frames_that_are_sent_while_the_token_rests_are_counted_too() -> None:
    cluster = resting(3)
    before = [cluster.engine(node).counters["frames_sent"] for node in (1, 2, 3)]
    cluster.submit(3, 100)
    cluster.run(0.01)
    sent = [cluster.engine(node).counters["frames_sent"] for node in (1, 2, 3)]
    assert [after - then for after, then in zip(sent, before, strict=True)] == [1, 1, 1]


def test_a_safe_message_is_delivered_without_waiting_for_the_rest_to_end_by_itself() -> None:
    cluster = resting(3)
    message = cluster.submit(3, 100, Guarantee.SAFE)
    cluster.run(0.01)
    assert reached(cluster, message) == {1, 2, 3}


def test_a_message_is_repeated_though_nobody_received_it_and_the_ring_rests() -> None:
    cluster = resting(3)
    cluster.network.rules.append(Rule(action=Action.DROP, frame=FrameType.DATA, count=2))
    message = cluster.submit(2, 100)
    cluster.run(RingSettings().hold_s / 2)
    assert reached(cluster, message) == {1, 2, 3}
    assert cluster.check().holds


def test_a_lost_wake_is_repeated() -> None:
    cluster = resting(3)
    cluster.network.rules.append(Rule(action=Action.DROP, frame=FrameType.WAKE, count=2))
    message = cluster.submit(2, 20_000)
    cluster.run(RingSettings().hold_s / 2)
    assert reached(cluster, message) == {1, 2, 3}


def test_many_that_send_at_once_are_delivered_in_one_order() -> None:
    cluster = resting(4)
    for _ in range(3):
        for node in (4, 2, 3, 1):
            cluster.submit(node, 100)
        cluster.run(0.0003)
    cluster.settle()
    assert cluster.check(quiet=True).holds


def test_the_wakes_of_two_that_hear_each_other_are_repeated_if_both_are_lost() -> None:
    cluster = resting(3)
    lost = Rule(action=Action.DROP, frame=FrameType.WAKE, receiver=NodeId(1), count=2)
    cluster.network.rules.append(lost)
    messages = [cluster.submit(node, 20_000) for node in (2, 3)]
    cluster.run(RingSettings().hold_s / 2)
    assert [reached(cluster, message) for message in messages] == [{1, 2, 3}] * 2


def test_what_follows_from_a_command_happens_in_its_time() -> None:
    cluster = Cluster(1, seed=5)
    cluster.start()
    engine = cluster.engine(1)
    engine.expect("kv")
    assert cluster.run_until(lambda: engine.configuration is not None and engine.groups.settled)
    cluster.submit(1, 100, priority=Priority.MEDIUM)  # it waits for the service
    cluster.run(RingSettings().hold_s * 0.9)
    configuration = engine.configuration
    assert configuration is not None
    cluster._command(1, lambda engine, now: engine.synchronized("kv", configuration, now))
    cluster.run(0.05)
    assert engine.health.lateness_s(cluster.now) == 0

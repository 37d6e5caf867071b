"""What the papers say of the ring, claim by claim.

"Totem": Amir, Moser, Melliar-Smith, Agarwal, Ciarfella, "The Totem Single-Ring Ordering and
Membership Protocol", TOCS 13(4), 1995; parts of it are cited by the name of the protocol that they
describe. "Accelerated": Babay and Amir, "Fast Total Ordering for Modern Data Centers", ICDCS 2016.
"""

from collections import defaultdict
from itertools import pairwise

import pytest

from tests.specification.wiretap import Wiretap, ring_of, wiretap
from vsync.engine import State
from vsync.engine.rest import MEMBERS_MAX
from vsync.settings import RingSettings
from vsync.testing.cluster import Cluster, Line
from vsync.testing.network import Action, Conditions, Rule
from vsync.vocabulary import Guarantee, RingId
from vsync.wire import Commit, FrameType, Join, Part, Token


def load(cluster: Cluster, messages: int, guarantee: Guarantee = Guarantee.AGREED) -> None:
    """Every node sends that many messages of a frame each."""
    for number in range(messages):
        for host in cluster.running():
            cluster.submit(host.number, b"%d" % number + bytes(1000), guarantee)


def delivered(cluster: Cluster, node: int) -> list[str]:
    return [
        line["message"]
        for line in cluster.lines
        if line["node"] == node and line["event"] == "deliver"
    ]


def configurations(cluster: Cluster, node: int) -> list[Line]:
    return [
        line for line in cluster.lines if line["node"] == node and line["event"] == "configuration"
    ]


def packets_by_visit(tap: Wiretap) -> list[int]:
    """How many packets of data each holder of the token sent, before it and after."""
    visits: list[int] = []
    holder = 0
    for seen in tap.seen:
        if isinstance(seen.frame, Token | Part) and seen.sender != holder:
            holder = seen.sender
            visits.append(0)
        if isinstance(seen.frame, Part):
            visits[-1] += 1
    return visits


# --- Totem, total ordering protocol ---------------------------------------------------------------


def test_the_token_goes_to_the_next_higher_id_and_from_the_highest_to_the_lowest() -> None:
    cluster = ring_of(4)
    with wiretap(cluster) as tap:
        load(cluster, 10)
        cluster.run(0.2)
    paths = {(seen.sender, seen.receiver) for seen, _ in tap.of(Token)}
    assert paths == {(1, 2), (2, 3), (3, 4), (4, 1)}


def test_only_the_holder_of_the_token_sends_new_messages() -> None:
    cluster = ring_of(MEMBERS_MAX + 1)  # nothing is reserved for members of so large a ring
    cluster.network.rules.append(Rule(action=Action.DROP, frame=FrameType.TOKEN, count=10**6))
    cluster.run(0.1)  # the token is nowhere now
    with wiretap(cluster) as tap:
        load(cluster, 5)
        cluster.run(0.05)
    assert not tap.parts()


def test_while_the_token_rests_each_member_may_send_one_frame_with_a_number_of_its_own() -> None:
    cluster = ring_of(3)
    cluster.network.rules.append(Rule(action=Action.DROP, frame=FrameType.TOKEN, count=10**6))
    with wiretap(cluster) as tap:
        for _ in range(5):
            for node in (2, 3):
                cluster.submit(node, 1000)
        cluster.run(0.05)
    sent = sorted((part.seq, seen.sender) for seen, part in tap.parts())
    assert [sender for _, sender in sent] == [1, 2, 3]
    assert len({seq - sender for seq, sender in sent}) == 1  # by their places on the ring


def test_a_sequence_number_is_given_to_one_frame_only() -> None:
    cluster = ring_of(4)
    cluster.network.conditions = Conditions(loss=0.05, duplication=0.1)
    packets: defaultdict[tuple[RingId, int, int], set[bytes]] = defaultdict(set)
    with wiretap(cluster) as tap:
        load(cluster, 50)
        cluster.run(1.0)
    for seen, part in tap.parts():
        packets[part.ring, part.seq, part.part].add(seen.packet)
    assert len(packets) > 100
    assert all(len(versions) == 1 for versions in packets.values())


def test_a_token_grows_by_one_with_each_visit_and_a_copy_of_it_is_not_taken() -> None:
    cluster = ring_of(3)
    cluster.network.rules.append(Rule(action=Action.REPEAT, frame=FrameType.TOKEN, count=10**6))
    with wiretap(cluster) as tap:
        load(cluster, 20)
        cluster.run(0.3)
    numbers = [token.token_seq for _, token in tap.of(Token)]
    assert len(set(numbers)) > 10
    assert sorted(set(numbers)) == list(range(min(numbers), max(numbers) + 1))
    holders = defaultdict(set)
    for seen, token in tap.of(Token):
        holders[token.token_seq].add(seen.sender)
    assert all(len(senders) == 1 for senders in holders.values())
    assert cluster.engine(2).counters["dropped_token"] > 0
    assert len(delivered(cluster, 2)) == 60


def test_a_token_that_is_lost_is_sent_again_by_the_member_that_passed_it() -> None:
    cluster = ring_of(3)
    ring = cluster.engine(1).configuration
    cluster.network.rules.append(
        Rule(action=Action.DROP, frame=FrameType.TOKEN, sender=2, receiver=3)
    )
    cluster.run(0.3)
    assert cluster.engine(2).counters["tokens_resent"] >= 1
    assert cluster.engine(1).configuration == ring


def test_a_frame_that_a_member_misses_may_be_repeated_by_any_member_that_has_it() -> None:
    cluster = ring_of(3)
    cluster.cut(1, 3)  # 3 never hears the author, so another must have answered
    message = cluster.submit(1, b"x")
    assert cluster.run_until(lambda: str(message) in delivered(cluster, 3), 0.25)
    assert cluster.engine(2).counters["packets_repeated"] >= 1


def test_members_deliver_agreed_messages_in_the_order_of_their_sequence_numbers() -> None:
    cluster = ring_of(3)
    cluster.network.conditions = Conditions(loss=0.05)
    load(cluster, 50)
    cluster.run(1.0)
    orders = [delivered(cluster, node) for node in (1, 2, 3)]
    assert len(orders[0]) == 150
    assert orders[0] == orders[1] == orders[2]


def test_a_safe_message_is_delivered_only_after_the_aru_covered_it_on_two_visits() -> None:
    cluster = ring_of(3)
    with wiretap(cluster) as tap:
        message = cluster.submit(2, b"x", Guarantee.SAFE)
        assert cluster.run_until(lambda: str(message) in delivered(cluster, 2))
        delivered_at = cluster.now
    seq = next(part.seq for _, part in tap.parts())
    covered = [
        token.aru >= seq
        for seen, token in tap.of(Token)
        if seen.sender == 2 and seen.t <= delivered_at
    ]
    twice = [one and next for one, next in pairwise(covered)]
    assert twice.index(True) == len(twice) - 1  # the last visit is the first that makes it safe


def test_while_one_member_misses_a_safe_message_nobody_delivers_it() -> None:
    cluster = ring_of(3)
    cluster.network.rules += [
        Rule(action=Action.DROP, frame=FrameType.DATA, receiver=3, count=10**6)
    ]
    message = str(cluster.submit(1, b"x", Guarantee.SAFE))
    agreed = str(cluster.submit(2, b"behind", Guarantee.AGREED))
    cluster.run(0.5)
    assert cluster.engine(1).state is State.OPERATIONAL
    for node in (1, 2, 3):
        assert message not in delivered(cluster, node)
    # What the total order has behind it waits too.
    assert agreed not in delivered(cluster, 1) or delivered(cluster, 1)[0] == agreed
    cluster.network.rules.clear()
    cluster.run(0.5)
    assert all(message in delivered(cluster, node) for node in (1, 2, 3))
    assert delivered(cluster, 1) == delivered(cluster, 2) == delivered(cluster, 3)


# --- Totem, flow control --------------------------------------------------------------------------


def test_a_member_sends_no_more_at_one_visit_than_its_own_limit() -> None:
    cluster = ring_of(3, RingSettings(packets_per_visit=5))
    with wiretap(cluster) as tap:
        for _ in range(60):
            cluster.submit(1, 1000)
        cluster.run(0.5)
    assert max(packets_by_visit(tap)) == 5


# --- Accelerated ----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [4, 20])
def test_a_rotation_carries_no_more_new_packets_than_the_window_and_one_for_each_member(
    window: int,
) -> None:
    # The one for each member is this implementation's: a member is never starved.
    cluster = ring_of(4, RingSettings(window_packets=window))
    with wiretap(cluster) as tap:
        load(cluster, 60)
        cluster.run(1.0)
    visits = packets_by_visit(tap)
    assert sum(visits) > 150
    for first in range(len(visits) - 3):
        assert sum(visits[first : first + 4]) <= window + 4


def test_the_token_is_passed_before_the_last_frames_that_it_counts() -> None:
    cluster = ring_of(2, RingSettings(accelerated_packets=50, packets_per_visit=96))
    with wiretap(cluster) as tap:
        for _ in range(300):
            cluster.submit(1, 1000)
        cluster.run(0.1)
    followed = 0
    counted, after = 0, set[int]()
    for seen in (seen for seen in tap.seen if seen.sender == 1):
        if isinstance(seen.frame, Token):
            counted, after = seen.frame.seq, set()
        elif isinstance(seen.frame, Part) and seen.frame.seq <= counted:
            after.add(seen.frame.seq)
            followed += 1
            assert max(after) <= counted
    assert 0 < followed < len(tap.parts())


def test_without_acceleration_the_token_follows_all_frames_that_it_counts() -> None:
    cluster = ring_of(2, RingSettings(accelerated_packets=0))
    with wiretap(cluster) as tap:
        for _ in range(20):
            cluster.submit(1, 1000)
        cluster.run(0.1)
    counted = 0
    for seen in tap.seen:
        if isinstance(seen.frame, Token):
            counted = seen.frame.seq
        elif isinstance(seen.frame, Part) and seen.sender == 1:  # the other fills what is reserved
            assert seen.frame.seq > counted


def test_no_frame_is_asked_for_that_the_token_had_not_counted_a_round_before() -> None:
    cluster = ring_of(3, RingSettings(accelerated_packets=32))
    cluster.network.conditions = Conditions(loss=0.1)
    with wiretap(cluster) as tap:
        load(cluster, 60)
        cluster.run(1.0)
    tokens = {token.token_seq: token for _, token in tap.of(Token)}
    asked = 0
    for number, token in tokens.items():
        # Who passes token number n asked last for what number n - 3 (its own) had counted.
        if token.requests and number - 3 in tokens:
            asked += 1
            assert max(token.requests) <= max(tokens[number - back].seq for back in (1, 2, 3))
        before = tokens.get(number - 1)
        if before is not None and number - 3 in tokens:
            new = set(token.requests) - set(before.requests)
            assert all(seq <= tokens[number - 3].seq for seq in new)
    assert asked


def test_without_loss_nothing_is_asked_for_though_frames_follow_the_token() -> None:
    cluster = ring_of(4, RingSettings(accelerated_packets=32))
    load(cluster, 100)
    cluster.run(1.0)
    assert sum(cluster.engine(node).counters["frames_requested"] for node in (1, 2, 3, 4)) == 0


# --- Totem, membership protocol -------------------------------------------------------------------


def test_the_lowest_id_of_a_ring_is_its_representative_and_is_in_the_rings_name() -> None:
    cluster = ring_of(3)
    cluster.crash(1)
    assert cluster.settle()
    configuration = cluster.engine(2).configuration
    assert configuration is not None
    assert configuration.members == (2, 3)
    assert configuration.id.endswith(".2")


def test_silence_of_the_token_begins_a_membership_change_that_ends_without_the_dead() -> None:
    cluster = ring_of(3)
    cluster.crash(2)
    assert cluster.settle()
    assert cluster.engine(1).counters["tokens_lost"] + cluster.engine(3).counters["tokens_lost"]
    assert cluster.engine(1).members == cluster.engine(3).members == (1, 3)


def test_a_message_of_a_foreign_ring_brings_two_rings_together() -> None:
    cluster = ring_of(4)
    cluster.partition([1, 2])
    assert cluster.settle()
    assert cluster.engine(3).members == (3, 4)
    cluster.heal()
    assert cluster.settle()
    assert {cluster.engine(node).members for node in (1, 2, 3, 4)} == {(1, 2, 3, 4)}


def test_joins_go_out_again_and_again_until_a_ring_is_formed() -> None:
    cluster = Cluster(2, seed=3)
    cluster.cut(2, 1)
    with wiretap(cluster) as tap:
        cluster.start(2)
        cluster.run(0.09)
    assert len(tap.of(Join)) >= 3


def test_the_commit_token_goes_round_twice_and_is_filled_on_the_first_round() -> None:
    cluster = Cluster(3, seed=3)
    with wiretap(cluster) as tap:
        cluster.start()
        assert cluster.settle()
    ring = tap.of(Commit)[-1][1].ring
    filled = {
        commit.token_seq: [entry.filled for entry in commit.entries]
        for _, commit in tap.of(Commit)
        if commit.ring == ring
    }
    assert filled[1] == [True, False, False]
    assert filled[2] == [True, True, False]
    assert filled[3] == filled[4] == filled[5] == filled[6] == [True, True, True]
    assert max(filled) == 6


def test_a_ring_number_is_above_all_that_its_members_knew_and_is_never_used_again() -> None:
    cluster = Cluster(4, seed=3)
    cluster.start()
    members: defaultdict[str, set[tuple[int, ...]]] = defaultdict(set)
    for step in range(12):
        cluster.run(0.6)
        match step % 4:
            case 0:
                cluster.partition([1, 2] if step % 8 else [2, 3])
            case 1:
                cluster.restart(1 + step % 3)
            case 2:
                cluster.heal()
            case _:
                cluster.restart(*cluster.hosts)
    assert cluster.settle()
    for node in cluster.hosts:
        regular = [line for line in configurations(cluster, node) if line["kind"] == "regular"]
        numbers = [int(line["id"].split(".")[0]) for line in regular]
        assert numbers == sorted(set(numbers))  # over all lives: the number is on disk
        for line in regular:
            members[line["id"]].add(tuple(line["members"]))
    assert len(members) > 12
    assert all(len(versions) == 1 for versions in members.values())


# --- Totem, recovery protocol ---------------------------------------------------------------------


def lone_copy(cluster: Cluster) -> str:
    """Node 1 sends a message that only node 2 receives, and dies."""
    cluster.cut(1, 3)
    cluster.network.rules.append(
        Rule(action=Action.DROP, frame=FrameType.DATA, sender=2, count=10**6)
    )
    message = str(cluster.submit(1, b"last words"))
    assert cluster.run_until(lambda: message in delivered(cluster, 2), 0.25)
    cluster.crash(1)
    cluster.network.rules.clear()
    cluster.network.cuts.clear()
    return message


def test_members_of_one_old_ring_send_each_other_what_they_have_of_it() -> None:
    cluster = ring_of(3)
    message = lone_copy(cluster)
    with wiretap(cluster) as tap:
        assert cluster.settle()
    assert {seen.sender for seen, _ in tap.parts(FrameType.RECOVERED)} == {2}
    assert delivered(cluster, 2) == delivered(cluster, 3) == [message]


def test_who_comes_from_another_ring_gets_nothing_of_the_old_one() -> None:
    cluster = ring_of(3)
    message = lone_copy(cluster)
    cluster.restart(3)
    assert cluster.settle()
    assert message in delivered(cluster, 2)
    assert message not in delivered(cluster, 3)


def test_messages_of_a_recovery_that_failed_are_delivered_once_when_the_next_succeeds() -> None:
    cluster = ring_of(3)
    message = lone_copy(cluster)
    assert cluster.run_until(lambda: cluster.engine(3).state is State.RECOVERY)
    cluster.network.rules.append(Rule(action=Action.DROP, frame=FrameType.TOKEN, count=10**6))
    assert cluster.run_until(lambda: cluster.engine(3).state is State.GATHER)
    cluster.network.rules.clear()
    assert cluster.settle()
    assert cluster.engine(3).counters["entered_recovery"] >= 3
    assert delivered(cluster, 2) == delivered(cluster, 3) == [message]


def test_a_message_accepted_but_not_numbered_before_the_change_is_sent_on_the_new_ring() -> None:
    cluster = ring_of(3)
    cluster.crash(1)
    assert cluster.run_until(lambda: cluster.engine(2).state is State.GATHER)
    message = str(cluster.submit(2, b"x"))
    assert cluster.settle()
    home = {
        line["configuration"]
        for line in cluster.lines
        if line["event"] == "deliver" and line["message"] == message
    }
    configuration = cluster.engine(2).configuration
    assert configuration is not None
    assert home == {configuration.id}

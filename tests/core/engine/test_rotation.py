"""One visit of the token."""

from collections.abc import Sequence

import pytest

from tests.core.engine.logs import RING, Sender, new_log
from tests.core.wire.frames import NETWORK
from vsync.engine.counters import Counters
from vsync.engine.flow import Flow
from vsync.engine.log import ALL_PARTS, Log
from vsync.engine.rotation import Rotation, Visit
from vsync.vocabulary import Guarantee, NodeId, Priority
from vsync.wire import REQUESTS_MAX, Codec, Data, Token
from vsync.wire.data import PART_OVERHEAD_BYTES, Packets, flags_of


def packets(bundles: Sequence[Packets]) -> int:
    """How many there are."""
    return sum(map(len, bundles))


class Member:
    """A member of the ring with a log of its own."""

    def __init__(self, node: int, window: int = 100, waiting: int = 0) -> None:
        self.log: Log = new_log()
        self.flow = Flow(window, window)
        self.rotation = Rotation(NodeId(node), self.log, self.flow, Counters())
        self.sender = Sender(node)
        self.waiting = waiting

    def next_frame(self, seq: int, packets_max: int) -> Packets:
        if not self.waiting:
            return ()
        self.waiting -= 1
        frame = self.sender.frame(seq, Guarantee.AGREED, b"%d" % seq)
        self.log.add(frame)
        return frame.packets

    def visit(self, token: Token, *, accelerated: int = 0) -> Visit:
        self.rotation.arrive(token, 0.0)
        return self.rotation.work(
            token,
            self.next_frame,
            self.waiting,
            accelerated=accelerated,
            now=0.0,
        )


def test_new_frames_get_the_next_numbers() -> None:
    member, token = Member(1, waiting=3), Token(RING, seq=4, aru=4)
    member.log.aru = member.log.high = 4
    visit = member.visit(token)
    assert token.seq == 7
    assert packets(visit.before) == 3
    assert token.token_seq == 1


def test_the_last_frames_follow_the_token_if_the_ring_is_accelerated() -> None:
    member, token = Member(1, waiting=10), Token(RING)
    visit = member.visit(token, accelerated=4)
    assert (packets(visit.before), packets(visit.after)) == (6, 4)


def test_a_frame_is_asked_for_only_if_the_token_counted_it_a_round_ago() -> None:
    member, token = Member(1), Token(RING, seq=3)
    member.visit(token)
    assert token.requests == {}  # it may still be on its way
    token.seq = 5
    member.visit(token)
    assert token.requests == dict.fromkeys((1, 2, 3), ALL_PARTS)


def test_requests_stay_within_a_packet() -> None:
    member, token = Member(1), Token(RING, seq=1000)
    member.visit(token)
    member.visit(token)
    assert list(token.requests) == list(range(1, REQUESTS_MAX + 1))


def test_who_has_a_frame_repeats_it_before_anything_new() -> None:
    member, token = Member(1, waiting=3), Token(RING)
    member.visit(token)
    repeated = [*member.log.packets(2), *member.log.packets(3)]
    member.waiting, token.requests = 1, {2: ALL_PARTS, 3: ALL_PARTS}
    visit = member.visit(token)
    assert visit.before[0] == repeated
    assert token.requests == {}


def test_what_is_asked_for_again_is_left_to_the_others_for_a_round() -> None:
    member, token = Member(1, waiting=1), Token(RING)
    member.visit(token)
    repeated = []
    for _ in range(4):
        token.requests = {1: 1}
        repeated.append(packets(member.visit(token).before))
    assert repeated == [1, 0, 1, 0]


def test_nothing_is_stable_before_the_token_came_round_twice() -> None:
    one, two, token = Member(1, waiting=1), Member(2), Token(RING)
    one.visit(token)
    assert one.log.stable == 0
    two.visit(token)  # it misses the frame, and says so
    assert (token.aru, token.aru_owner) == (0, 2)
    one.visit(token)
    assert one.log.stable == 0
    frame = Sender(1).frame(1, Guarantee.AGREED, b"1")
    two.log.add(frame)
    two.visit(token)
    assert (token.aru, token.aru_owner) == (1, 0)
    one.visit(token)
    assert one.log.stable == 0
    two.visit(token)
    one.visit(token)
    assert one.log.stable == 1


def test_nobody_but_its_owner_raises_the_aru() -> None:
    one, token = Member(1), Token(RING, seq=5, aru=2, aru_owner=3)
    one.log.aru = one.log.high = 5
    one.visit(token)
    assert (token.aru, token.aru_owner) == (2, 3)


@pytest.mark.parametrize("senders", [1, 2, 5])
def test_a_rotation_stays_within_the_window_and_nobody_starves(senders: int) -> None:
    members = [Member(number, window=20, waiting=10_000) for number in range(1, senders + 1)]
    token = Token(RING)
    for rotation in range(20):
        sent = []
        for member in members:
            for other in members:
                other.log.aru = other.log.high = token.seq
            sent.append(packets(member.visit(token).before))
            member.log.settle(token.seq)
        if rotation > 3:
            assert min(sent) >= 1
            assert sum(sent) <= 20 + senders


def test_a_flow_never_goes_below_zero() -> None:
    flow, token = Flow(50, 17), Token(RING, sent=0, backlog=0)
    flow.sent_before, flow.backlog_before = 900, 900
    assert flow.allowed(token, 10) >= 1
    flow.update(token, 3, 7)
    assert (token.sent, token.backlog) == (3, 7)
    token.sent = 10_000
    assert flow.allowed(token, 10) == 1


def test_beyond_the_gap_nothing_is_numbered_but_everything_is_repeated() -> None:
    member, token = Member(1, waiting=1), Token(RING)
    member.visit(token)
    member.log.held_packets = member.flow.gap_max
    member.waiting, token.requests = 5, {1: ALL_PARTS}
    visit = member.visit(token)
    assert (packets(visit.before), packets(visit.after)) == (1, 0)
    assert token.seq == 1


def in_parts(member: Member, seq: int, count: int) -> Data:
    """A frame of *count* packets in the member's log."""
    flags = flags_of(Guarantee.AGREED, Priority.MEDIUM, continues=False, unfinished=False)
    codec = Codec(NETWORK, NodeId(1), 101, PART_OVERHEAD_BYTES + 10)
    frame = codec.data(RING, seq, seq, seq, flags, [bytes(10 * count - 21)])
    assert len(frame.packets) == count
    member.log.add(frame)
    return frame


def test_of_a_frame_only_the_parts_that_somebody_misses_are_repeated() -> None:
    member, token = Member(1), Token(RING, seq=2)
    frame = in_parts(member, 1, 5)
    token.requests = {1: 0b10010, 2: 1}
    visit = member.visit(token)
    assert visit.before == [[frame.packets[1], frame.packets[4]]]
    assert token.requests == {2: 1}


def test_what_there_is_no_room_to_repeat_is_still_asked_for() -> None:
    member, token = Member(1, window=3), Token(RING, seq=1)
    frame = in_parts(member, 1, 5)
    token.requests = {1: ALL_PARTS}
    visit = member.visit(token)
    assert visit.before == [frame.packets[:3]]
    assert token.requests == {1: 0b11000}


def test_what_two_members_miss_of_a_frame_is_asked_for_together() -> None:
    one, two, token = Member(1), Member(2), Token(RING, seq=1)
    arrived = in_parts(Member(3), 1, 5).packets
    codec = Codec(NETWORK, NodeId(1), 101)
    for member, here in ((one, (0, 1, 2)), (two, (2, 3, 4))):
        for place in here:
            member.log.add_part(codec.decode_part(arrived[place]))
        member.visit(token)
    one.visit(token)
    assert token.requests == {1: 0b11000}
    two.visit(token)
    assert token.requests == {1: 0b11011}

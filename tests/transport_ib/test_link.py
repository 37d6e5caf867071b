"""A queue pair is kept busy: receives stay posted, sends go in batches, no slot is lost or shared.

``FakeVerbs`` refuses a slot that is posted twice, or used while it is being sent from.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transport_ib.fake import OTHER, OWN, FakeVerbs
from vsync.errors import TransportFailed
from vsync.transport import EVERYONE, Burst
from vsync_transport_ib.link import BATCH_PACKETS_MAX, FLUSHED, Link


def linked(**slots: int) -> tuple[FakeVerbs, Link]:
    verbs = FakeVerbs(**slots)
    link = Link(verbs, receive_slots=verbs.receive_slots, send_slots=verbs.send_slots)
    link.start()
    return verbs, link


def taken(link: Link) -> list[bytes]:
    return [bytes(packet.data) for packet in link.receive()]


def test_all_receives_are_posted_at_first_and_again_after_each_look() -> None:
    verbs, link = linked(receive_slots=8)
    assert sorted(verbs.posted) == list(range(8))
    for round_number in range(5):
        verbs.arrive(*[b"%d" % round_number] * 5)
        assert taken(link) == [b"%d" % round_number] * 5
        assert sorted(verbs.posted) == list(range(8))


def test_more_than_there_are_slots_is_taken_in_several_turns() -> None:
    verbs, link = linked(receive_slots=4)
    sent = [b"%d" % number for number in range(50)]
    verbs.arrive(*sent)
    assert taken(link) == sent


def test_what_one_call_takes_is_bounded() -> None:
    verbs, link = linked(receive_slots=64)
    verbs.arrive(*[b"flood"] * 10 * BATCH_PACKETS_MAX)
    assert BATCH_PACKETS_MAX <= len(link.receive()) < 2 * BATCH_PACKETS_MAX


def test_what_comes_while_the_wake_up_is_asked_for_is_not_left_behind() -> None:
    verbs, link = linked()
    verbs.at_arm = [b"just now"]
    assert taken(link) == [b"just now"]
    assert taken(link) == []


def test_one_s_own_packets_are_left_out() -> None:
    verbs, link = linked()
    verbs.arrive(b"mine", source=OWN)
    verbs.arrive(b"yours", source=OTHER)
    (packet,) = link.receive()
    assert (packet.data, packet.source) == (b"yours", OTHER)
    assert link.counters["packets_own"] == 1


def test_a_burst_is_one_batch() -> None:
    verbs, link = linked()
    link.send(Burst(EVERYONE, [b"a", b"b", b"c"]))
    link.send(Burst(OTHER, [b"token"]))
    assert verbs.batches == [3, 1]
    assert verbs.sent == [(None, b"a"), (None, b"b"), (None, b"c"), (OTHER, b"token")]


def test_a_burst_that_is_longer_than_the_queue_goes_in_several_batches() -> None:
    verbs, link = linked(send_slots=8)
    packets = [b"%d" % number for number in range(20)]
    link.send(Burst(EVERYONE, packets))
    assert verbs.batches == [8, 8, 4]
    assert [message for _, message in verbs.sent] == packets


def test_what_finds_the_queue_full_is_lost_and_counted_and_later_sends_go_on() -> None:
    verbs, link = linked(send_slots=8)
    verbs.completes = False
    link.send(Burst(EVERYONE, [b"x"] * 6))
    link.send(Burst(EVERYONE, [b"y"] * 6))
    assert [message for _, message in verbs.sent] == [b"x"] * 6 + [b"y"] * 2
    assert link.counters["packets_lost_send_queue"] == 4
    verbs.completes = True
    link.send(Burst(EVERYONE, [b"z"] * 8))
    assert verbs.sent[-8:] == [(None, b"z")] * 8
    assert link.counters["packets_lost_send_queue"] == 4


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=20))
def test_no_slot_is_lost_or_shared_whatever_is_sent(
    send_slots: int, bursts: list[tuple[int, bool]]
) -> None:
    verbs, link = linked(send_slots=send_slots)
    try:
        asked = 0
        for count, completes in bursts:
            verbs.completes = completes
            asked += count
            link.send(Burst(EVERYONE, [b"x"] * count))
        assert len(verbs.sent) + link.counters["packets_lost_send_queue"] == asked
        assert len(verbs.sent) == link.counters["packets_sent"]
        verbs.completes = True
        before = len(verbs.sent)
        link.send(Burst(EVERYONE, [b"last"] * send_slots))
        assert len(verbs.sent) == before + send_slots, "every slot came back"
    finally:
        verbs.close()


def test_an_address_of_another_transport_is_a_lost_packet() -> None:
    verbs, link = linked()
    link.send(Burst(("10.0.0.2", 5405), [b"x"]))
    assert not verbs.sent
    assert link.counters["packets_lost_sending"] == 1


def test_a_message_that_came_broken_is_counted_and_its_slot_posted_again() -> None:
    verbs, link = linked()
    verbs.arrive(b"", status=1)
    verbs.arrive(b"good")
    assert taken(link) == [b"good"]
    assert link.counters["errors_receiving_local_length_error"] == 1
    assert len(verbs.posted) == verbs.receive_slots


def test_a_queue_pair_that_failed_is_told() -> None:
    verbs, link = linked()
    verbs.arrive(b"", status=FLUSHED)
    with pytest.raises(TransportFailed, match="queue pair has failed"):
        link.receive()

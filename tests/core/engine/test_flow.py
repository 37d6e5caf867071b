"""How much may be sent at one visit of the token."""

from hypothesis import given
from hypothesis import strategies as st

from tests.core.engine.logs import RING
from vsync.engine.flow import (
    BUFFER_SHARE,
    GAP_FRAMES_MAX,
    GAP_PACKETS_MIN,
    PACKET_MEMORY_FACTOR,
    Flow,
)
from vsync.engine.log import AHEAD_MAX
from vsync.settings import RingSettings
from vsync.testing.cluster import Cluster
from vsync.testing.network import Action, Rule
from vsync.wire import FrameType, Token

figures = st.integers(0, 2**32 - 1)


def token(seq: int = 0, sent: int = 0, backlog: int = 0) -> Token:
    return Token(RING, seq=seq, sent=sent, backlog=backlog)


@given(st.integers(1, 65536), st.integers(1, 65536), st.integers(500, 65507), st.integers(0, 2**28))
def test_a_rotation_fits_the_receive_buffer_and_is_never_empty(
    window: int, per_visit: int, packet_bytes: int, buffer_bytes: int
) -> None:
    settings = RingSettings(window_packets=window, packets_per_visit=per_visit)
    flow = Flow.of(settings, packet_bytes, buffer_bytes)
    assert 1 <= flow.per_visit <= flow.window <= window
    if flow.window > 1:
        memory = flow.window * packet_bytes * PACKET_MEMORY_FACTOR
        assert memory <= buffer_bytes * BUFFER_SHARE


@given(figures, figures, figures, figures, figures)
def test_whatever_the_token_says_a_share_is_at_least_1_and_at_most_a_visits(
    sent: int, backlog: int, sent_before: int, backlog_before: int, mine: int
) -> None:
    flow = Flow(50, 17, sent_before, backlog_before)
    assert 1 <= flow.allowed(token(0, sent, backlog), mine) <= 17


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 999)), max_size=60))
def test_the_token_adds_up_what_every_node_said_last(visits: list[tuple[int, int, int]]) -> None:
    flows = [Flow(50, 17) for _ in range(10)]
    last: dict[int, tuple[int, int]] = {}
    round_the_ring = token()
    for node, sent, backlog in visits:
        flows[node].update(round_the_ring, sent, backlog)
        last[node] = (sent, backlog)
        assert round_the_ring.sent == sum(sent for sent, _ in last.values())
        assert round_the_ring.backlog == sum(backlog for _, backlog in last.values())


def test_alone_with_something_to_send_a_node_may_use_what_is_left_of_the_window() -> None:
    assert Flow(50, 50).allowed(token(sent=20), 100) == 30


def test_nodes_that_wait_together_share_the_window_by_what_waits() -> None:
    assert Flow(50, 50).allowed(token(backlog=300), 100) == 12


def test_nothing_new_is_numbered_too_far_ahead_of_what_all_have() -> None:
    flow = Flow(50, 17)
    assert flow.gap_max == GAP_PACKETS_MIN
    assert flow.may_number(token(seq=9), 8, GAP_PACKETS_MIN - 1)
    assert not flow.may_number(token(seq=9), 8, GAP_PACKETS_MIN)
    assert flow.may_number(token(seq=GAP_FRAMES_MAX + 9), 10, 0)
    assert not flow.may_number(token(seq=GAP_FRAMES_MAX + 10), 10, 0)


def test_a_log_takes_all_that_may_be_numbered() -> None:
    assert GAP_FRAMES_MAX <= AHEAD_MAX // 2


def test_a_new_ring_begins_with_no_debts() -> None:
    flow = Flow(50, 17, 30, 40)
    flow.restart()
    flow.update(ring := token(sent=5, backlog=6), 1, 2)
    assert (ring.sent, ring.backlog) == (6, 8)


def test_a_node_that_heard_no_data_for_a_moment_is_helped_though_others_are_far_ahead() -> None:
    cluster = Cluster(3, seed=3)
    cluster.start()
    assert cluster.settle()
    cluster.network.rules += [
        Rule(action=Action.DROP, frame=FrameType.DATA, sender=sender, receiver=3, count=10**9)
        for sender in (1, 2)
    ]
    for _ in range(3000):
        cluster.submit(1, 1200)
    cluster.run(0.5)
    cluster.network.rules.clear()
    assert cluster.settle()
    assert cluster.check(quiet=True).holds
    assert cluster.engine(3).counters["receive_failed"] == 0

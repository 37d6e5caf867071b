"""Frames of several senders come in any order, some never: what each node delivers of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from tests.core.engine.logs import REGULAR, TRANSITIONAL, Sender, new_log, payloads
from vsync.engine.log import Log
from vsync.engine.streams import Ordered
from vsync.vocabulary import Guarantee, NodeId
from vsync.wire import Data

UNORDERED, FIFO, AGREED, SAFE = Guarantee


@dataclass(frozen=True)
class Sent:
    """One message of a ring, in one frame."""

    seq: int
    sender: int
    guarantee: Guarantee
    frame: Data


@st.composite
def rings(draw: st.DrawFn) -> list[Sent]:
    """All that was sent on a ring, in its order."""
    kinds = st.tuples(st.integers(1, 3), st.sampled_from(Guarantee))
    senders = {node: Sender(node) for node in (1, 2, 3)}
    return [
        Sent(seq, node, guarantee, senders[node].frame(seq, guarantee, b"%d" % seq))
        for seq, (node, guarantee) in enumerate(draw(st.lists(kinds, min_size=1, max_size=14)), 1)
    ]


def seqs(ordered: Sequence[Ordered]) -> list[int]:
    return list(map(int, payloads(ordered)))


def check_orders(ring: list[Sent], got: list[int]) -> None:
    """Nothing twice; the total order for agreed and safe; each sender's order from FIFO up."""
    assert len(got) == len(set(got))
    kind = {sent.seq: sent for sent in ring}
    ordered = [seq for seq in got if kind[seq].guarantee >= AGREED]
    assert ordered == sorted(ordered)
    for node in (1, 2, 3):
        its = [seq for seq in got if kind[seq].sender == node and kind[seq].guarantee >= FIFO]
        assert its == sorted(its)


def receive(log: Log, ring: list[Sent], order: Sequence[Sent], data: st.DataObject) -> list[int]:
    """Take frames in, sometimes learning what is stable; the numbers delivered meanwhile."""
    got: list[int] = []
    for sent in order:
        assert log.add(sent.frame)
        if data.draw(st.booleans()):
            log.settle(data.draw(st.integers(0, len(ring))))
            assert log.stable <= log.aru
            if data.draw(st.booleans()):
                log.release()  # as after a visit of the token, before anything is delivered
        got += seqs(log.deliver(REGULAR))
        assert log.delivered <= log.aru
        for safe in (sent for sent in ring if sent.seq in got and sent.guarantee is SAFE):
            assert safe.seq <= log.stable
        if data.draw(st.booleans()):
            log.release()
    return got


@given(rings(), st.data())
def test_with_nothing_lost_everything_is_delivered_once_and_in_order(
    ring: list[Sent], data: st.DataObject
) -> None:
    log = new_log()
    got = receive(log, ring, data.draw(st.permutations(ring)), data)
    log.settle(len(ring))
    got += seqs(log.deliver(REGULAR))
    check_orders(ring, got)
    assert sorted(got) == [sent.seq for sent in ring]
    log.release()
    assert (log.released, log.missing(len(ring), 9)) == (len(ring), {})


@given(rings(), st.data())
def test_at_a_change_all_is_delivered_to_the_first_gap_and_beyond_it_only_what_is_owed(
    ring: list[Sent], data: st.DataObject
) -> None:
    # Those who come along have all of their own frames, so only frames of others can be lost.
    owed = data.draw(st.frozensets(st.integers(1, 3)))
    lost = {sent.seq for sent in ring if sent.sender not in owed and data.draw(st.booleans())}
    here = [sent for sent in ring if sent.seq not in lost]
    log = new_log()
    got = receive(log, ring, data.draw(st.permutations(here)), data)
    by_any = data.draw(st.integers(log.delivered, max(log.delivered, log.aru)))
    regular = got + seqs(log.deliver_rest(REGULAR, by_any))
    later = seqs(log.deliver_transitional(TRANSITIONAL, {NodeId(node) for node in owed}))
    check_orders(ring, regular + later)

    first_gap = min(lost, default=len(ring) + 1)
    delivered = set(regular + later)
    for sent in ring:
        if sent.seq in lost:
            assert sent.seq not in delivered
        elif sent.guarantee is UNORDERED or sent.seq < first_gap or sent.sender in owed:
            assert sent.seq in delivered
        elif sent.guarantee >= AGREED:
            assert sent.seq not in delivered
    for sent in ring:
        if sent.seq in later and sent.guarantee is SAFE and sent.seq < first_gap:
            assert sent.seq > by_any


@given(rings(), st.data())
def test_nodes_with_the_same_frames_end_with_the_same_deliveries(
    ring: list[Sent], data: st.DataObject
) -> None:
    owed = {NodeId(1)}
    lost = {sent.seq for sent in ring if sent.sender != 1 and data.draw(st.booleans())}
    here = [sent for sent in ring if sent.seq not in lost]
    logs, got = (new_log(), new_log()), []
    for log in logs:
        got.append(receive(log, ring, data.draw(st.permutations(here)), data))
    by_any = max(log.delivered for log in logs)
    ends = []
    for log, before in zip(logs, got, strict=True):
        regular = before + seqs(log.deliver_rest(REGULAR, by_any))
        ends.append((set(regular), set(seqs(log.deliver_transitional(TRANSITIONAL, owed)))))
    assert ends[0] == ends[1]

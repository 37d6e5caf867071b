"""What Extended Virtual Synchrony promises, claim by claim.

The source is Moser, Amir, Melliar-Smith, Agarwal, "Extended Virtual Synchrony", ICDCS 1994; the
numbers are those of its groups of specifications (1 basic delivery, 2 delivery of configuration
changes, 3 self-delivery, 4 failure atomicity, 5 causal delivery, 6 totally ordered delivery, 7 safe
delivery). Each claim is looked for in the traces directly, not through the checker: the two are
written from the same text and should not share a mistake.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import pytest

from tests.specification.wiretap import ring_of
from vsync.engine import State
from vsync.testing.cluster import Cluster, Line
from vsync.testing.network import Action, Conditions, Rule
from vsync.vocabulary import Guarantee
from vsync.wire import FrameType

SEEDS = range(6)


class Span(NamedTuple):
    """What one life delivered in one configuration."""

    configuration: Line
    deliveries: list[Line]

    @property
    def id(self) -> str:
        return str(self.configuration["id"])

    @property
    def members(self) -> set[int]:
        return set(self.configuration["members"])

    @property
    def regular(self) -> bool:
        return bool(self.configuration["kind"] == "regular")

    def messages(self, *guarantees: str) -> list[str]:
        return [
            line["message"]
            for line in self.deliveries
            if not guarantees or line["guarantee"] in guarantees
        ]


class Life(NamedTuple):
    """One life of one node."""

    node: int
    lines: list[Line]
    runs: bool

    @property
    def spans(self) -> list[Span]:
        spans: list[Span] = []
        for line in self.lines:
            if line["event"] == "configuration":
                spans.append(Span(line, []))
            elif line["event"] == "deliver":
                spans[-1].deliveries.append(line)
        return spans

    @property
    def stays(self) -> list[tuple[Span, Span | None, Span | None]]:
        """Each regular configuration, the transitional one after it, and the next regular one."""
        spans: list[Span | None] = [*self.spans, None, None]
        return [
            (span, spans[place + 1], spans[place + 2])
            for place, span in enumerate(self.spans)
            if span.regular
        ]


def lives_of(cluster: Cluster) -> list[Life]:
    running = {(int(host.node), f"{host.life:x}") for host in cluster.running()}
    lines: defaultdict[tuple[int, str], list[Line]] = defaultdict(list)
    for line in cluster.lines:
        lines[line["node"], line["life"]].append(line)
    return [Life(node, its, (node, life) in running) for (node, life), its in lines.items()]


@cache
def troubled(seed: int) -> Cluster:
    """Five nodes under load, with loss, parted, merged, killed, stopped; then left in peace."""
    cluster = Cluster(5, seed=seed)
    cluster.start()
    for step in range(60):
        if step % 3 == 0:
            cluster.network.conditions = Conditions(loss=0.03, duplication=0.02, spikes=0.02)
        for host in cluster.running():
            for guarantee in Guarantee:
                cluster.submit(host.number, cluster.random.choice((20, 500, 4000)), guarantee)
        cluster.run(0.05)
        match step:
            case 10:
                cluster.partition([1, 2], [3, 4])
            case 20:
                cluster.heal()
            case 28:
                cluster.crash(1 + seed % 5)
            case 36:
                cluster.start()
                cluster.partition([2, 5])
            case 40:
                cluster.partition([1, 5])
            case 46:
                cluster.heal()
                cluster.pause(3)
            case 54:
                cluster.resume()
    cluster.heal()
    assert cluster.settle(20)
    return cluster


@pytest.fixture(params=SEEDS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return troubled(request.param)


@pytest.fixture
def lives(cluster: Cluster) -> list[Life]:
    return lives_of(cluster)


def stays_in(lives: list[Life]) -> dict[str, list[tuple[Life, Span, Span | None, Span | None]]]:
    """By regular configuration: who was in it, and how it went on from there."""
    stays: defaultdict[str, list[tuple[Life, Span, Span | None, Span | None]]] = defaultdict(list)
    for life in lives:
        for regular, transitional, following in life.stays:
            stays[regular.id].append((life, regular, transitional, following))
    return stays


def test_the_runs_have_all_that_the_claims_are_about() -> None:
    kinds: defaultdict[str, int] = defaultdict(int)
    for seed in SEEDS:
        for life in lives_of(troubled(seed)):
            for regular, transitional, _ in life.stays:
                kinds["regular"] += len(regular.deliveries)
                if transitional is not None:
                    kinds["transitional"] += 1
                    kinds["alone"] += len(transitional.members) == 1
                    kinds["safe in transitional"] += bool(transitional.messages("safe"))
    assert kinds["regular"] > 10_000
    assert kinds["transitional"] > 80
    assert kinds["alone"]
    assert kinds["safe in transitional"]


# --- 1 Basic delivery -----------------------------------------------------------------------------


def test_1_3_only_what_was_sent_is_delivered_and_as_it_was_sent(cluster: Cluster) -> None:
    sent: dict[str, Line] = {}
    for line in cluster.lines:
        if line["event"] == "send":
            assert line["message"] not in sent
            sent[line["message"]] = line
        elif line["event"] == "deliver":
            origin = sent[line["message"]]  # 1.1: sent before it is delivered
            assert line["sender"] == origin["node"]
            for field in ("groups", "guarantee", "size", "digest"):
                assert line[field] == origin[field]


def test_1_4_a_message_is_delivered_once_and_everywhere_in_the_same_regular_configuration_or_after(
    lives: list[Life],
) -> None:
    homes: dict[str, str] = {}
    for life in lives:
        seen: set[str] = set()
        for regular, transitional, _ in life.stays:
            for message in regular.messages() + (transitional.messages() if transitional else []):
                assert message not in seen
                seen.add(message)
                assert homes.setdefault(message, regular.id) == regular.id


# --- 2 Delivery of configuration changes ----------------------------------------------------------


def test_2_1_those_who_can_reach_each_other_end_in_one_regular_configuration(
    lives: list[Life],
) -> None:
    last = {life.node: life.spans[-1] for life in lives if life.runs}
    assert len(last) == 5
    assert {span.id for span in last.values()} == {last[1].id}
    assert last[1].regular
    assert last[1].members == set(last)


def test_2_2_a_node_is_a_member_of_every_configuration_that_it_delivers_messages_in(
    lives: list[Life],
) -> None:
    for life in lives:
        for span in life.spans:
            assert life.node in span.members
            assert all(line["configuration"] == span.id for line in span.deliveries)


def test_2_5_a_configuration_is_the_same_to_all_who_deliver_it_and_comes_once(
    lives: list[Life],
) -> None:
    seen: dict[str, tuple[object, ...]] = {}
    for life in lives:
        ids = [span.id for span in life.spans]
        assert len(ids) == len(set(ids))
        for span in life.spans:
            line = span.configuration
            facts = (line["kind"], line["members"], line.get("next"))
            assert seen.setdefault(span.id, facts) == facts


def test_2_6_a_transitional_configuration_leads_from_one_regular_to_the_next_with_who_is_in_both(
    lives: list[Life],
) -> None:
    for life in lives:
        assert life.spans == [] or life.spans[0].regular
        for one, next in pairwise(life.spans):
            assert one.regular != next.regular
        for regular, transitional, following in life.stays:
            if transitional is not None and following is not None:
                assert transitional.members <= regular.members & following.members
                assert transitional.configuration["next"] == following.id
                joined = following.members - transitional.members
                assert set(following.configuration["joined"]) == joined
                left = regular.members - transitional.members
                assert set(transitional.configuration["left"]) == left


def test_2_7_who_is_in_a_transitional_configuration_delivers_it_and_who_is_not_does_not(
    lives: list[Life],
) -> None:
    for stays in stays_in(lives).values():
        for _, _, transitional, _ in stays:
            for other, _, its, _ in stays:
                if transitional is None or its is None:
                    continue  # it has not gone on, or not lived to
                together = other.node in transitional.members
                if together and its.id != transitional.id:
                    # The network parted while they installed the next one, and the last of them
                    # never did: nobody who does not block can rule that out.
                    next_id = transitional.configuration["next"]
                    assert next_id not in {span.id for span in other.spans}
                    assert its.configuration["next"] != next_id
                else:
                    assert together == (its.id == transitional.id)


# --- 3 Self-delivery ------------------------------------------------------------------------------


def test_3_a_node_delivers_its_own_messages_in_the_order_of_sending(lives: list[Life]) -> None:
    for life in lives:
        for guarantee in ("fifo", "agreed", "safe"):
            sent, own = (
                [
                    line["message"]
                    for line in life.lines
                    if line["event"] == event
                    and line["guarantee"] == guarantee
                    and line.get("sender", life.node) == life.node
                    and int(line["message"].split("-")[1], 16) == int(line["life"], 16)
                ]
                for event in ("send", "deliver")
            )
            assert own == sent[: len(own)]
            assert own == sent or not life.runs


# --- 4 Failure atomicity --------------------------------------------------------------------------


def test_4_those_who_go_together_from_one_configuration_to_the_next_deliver_the_same(
    lives: list[Life],
) -> None:
    together: defaultdict[tuple[str, str], list[list[str]]] = defaultdict(list)
    for regular, stays in stays_in(lives).items():
        for _, span, transitional, following in stays:
            if transitional is not None and following is not None:
                ordered = span.messages("agreed", "safe") + transitional.messages("agreed", "safe")
                rest = span.messages("unordered", "fifo")
                rest += transitional.messages("unordered", "fifo")
                together[regular, following.id].append([*ordered, *sorted(rest)])
    assert any(len(stories) > 1 for stories in together.values())
    for stories in together.values():
        assert all(story == stories[0] for story in stories)


# --- 5 Causal delivery ----------------------------------------------------------------------------


@pytest.mark.parametrize("guarantee", [Guarantee.AGREED, Guarantee.SAFE])
def test_5_an_answer_is_nowhere_delivered_before_its_question(guarantee: Guarantee) -> None:
    cluster = ring_of(3)
    cluster.network.conditions = Conditions(spikes=0.3, loss=0.1)
    asked: list[tuple[str, str]] = []
    for _ in range(30):
        question = cluster.submit(1, 50, guarantee)
        assert cluster.run_until(lambda: question_delivered(cluster, 2, str(question)))  # noqa: B023
        asked.append((str(question), str(cluster.submit(2, 50, guarantee))))
    cluster.network.conditions = Conditions()
    assert cluster.settle()
    for life in lives_of(cluster):
        order = [message for span in life.spans for message in span.messages()]
        for question_id, answer in asked:
            assert order.index(question_id) < order.index(answer)


def question_delivered(cluster: Cluster, node: int, message: str) -> bool:
    return any(
        line["event"] == "deliver" and line["node"] == node and line["message"] == message
        for line in reversed(cluster.lines)
    )


# --- 6 Totally ordered delivery -------------------------------------------------------------------


def pairs(lives: list[Life]) -> Iterator[tuple[list[str], list[str]]]:
    """What each two lives deliver, ordered, of each regular configuration that both were in."""
    for stays in stays_in(lives).values():
        stories = [
            span.messages("agreed", "safe")
            + (transitional.messages("agreed", "safe") if transitional else [])
            for _, span, transitional, _ in stays
        ]
        for place, one in enumerate(stories):
            for other in stories[place + 1 :]:
                yield one, other


def test_6_2_any_two_nodes_deliver_what_both_deliver_in_one_order(lives: list[Life]) -> None:
    for one, other in pairs(lives):
        common = set(one) & set(other)
        assert [m for m in one if m in common] == [m for m in other if m in common]


def test_6_3_in_a_regular_configuration_all_deliver_a_beginning_of_one_order(
    lives: list[Life],
) -> None:
    for stays in stays_in(lives).values():
        stories = sorted(
            (span.messages("agreed", "safe") for _, span, _, _ in stays), key=len, reverse=True
        )
        for story in stories:
            assert story == stories[0][: len(story)]


def test_6_3_beyond_a_gap_only_senders_outside_the_transitional_configuration_are_missing(
    lives: list[Life],
) -> None:
    for stays in stays_in(lives).values():
        for _, span, transitional, following in stays:
            if transitional is None or following is None:
                continue
            mine = span.messages("agreed", "safe") + transitional.messages("agreed", "safe")
            if not mine:
                continue
            for _, theirs, rest, _ in stays:
                lines = theirs.deliveries + (rest.deliveries if rest else [])
                order = [line for line in lines if line["guarantee"] in ("agreed", "safe")]
                ids = [line["message"] for line in order]
                if mine[-1] not in ids:
                    continue
                for line in order[: ids.index(mine[-1])]:
                    assert line["message"] in mine or line["sender"] not in transitional.members


# --- 7 Safe delivery ------------------------------------------------------------------------------


def test_7_1_a_safe_message_that_one_delivers_is_delivered_by_all_members_of_that_configuration(
    lives: list[Life],
) -> None:
    for stays in stays_in(lives).values():
        complete = {
            life.node: set(span.messages() + (transitional.messages() if transitional else []))
            for life, span, transitional, following in stays
            if following is not None or life.runs
        }
        for _, span, transitional, _ in stays:
            for where in (span, transitional):
                if where is not None:
                    for node in where.members & set(complete):
                        assert set(where.messages("safe")) <= complete[node]


def test_7_2_a_safe_message_in_a_regular_configuration_means_that_all_its_members_installed_it(
    lives: list[Life],
) -> None:
    for stays in stays_in(lives).values():
        installed = {life.node for life, _, _, _ in stays}
        for _, span, _, _ in stays:
            if span.messages("safe"):
                assert span.members <= installed


def test_7_a_safe_message_that_others_may_not_have_waits_for_the_transitional_configuration() -> (
    None
):
    cluster = ring_of(3)
    cluster.network.rules += [Rule(action=Action.DROP, frame=FrameType.DATA, sender=1, count=10**6)]
    message = str(cluster.submit(1, b"x", Guarantee.SAFE))
    cluster.run(0.05)
    cluster.partition([1])
    assert cluster.run_until(lambda: cluster.engine(1).members == (1,))
    (span,) = (
        span for life in lives_of(cluster) for span in life.spans if message in span.messages()
    )
    assert not span.regular
    assert span.members == {1}


def test_6_3_what_may_depend_on_a_lost_message_is_dropped_with_it() -> None:
    cluster = ring_of(3)
    tokens = Rule(action=Action.DROP, frame=FrameType.TOKEN, sender=3, count=10**6)
    lost = [
        Rule(action=Action.DROP, frame=FrameType.DATA, sender=3, receiver=receiver)
        for receiver in (1, 2)
    ]
    cluster.network.rules += lost
    first = str(cluster.submit(3, 1300))
    assert cluster.run_until(lambda: cluster.network.rules == [])
    cluster.network.rules.append(tokens)
    second = str(cluster.submit(3, 1300))
    cluster.run(0.02)
    heard = [int(cluster.engine(node)._log.high > cluster.engine(node)._log.aru) for node in (1, 2)]
    cluster.crash(3)
    cluster.network.rules.clear()
    assert cluster.settle()
    assert cluster.engine(1).state is State.OPERATIONAL
    for life in lives_of(cluster):
        if life.runs:
            delivered = [message for span in life.spans for message in span.messages()]
            assert first not in delivered
            assert second not in delivered
    assert any(heard), "nobody had received the second message; the test shows nothing"

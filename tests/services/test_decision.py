"""The quorum's rule: what it says in each case, and that two parts are never both primary."""

import itertools
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsync.vocabulary import NodeId, RingId
from vsync_services.quorum.decision import Ballot, Decision, Terms, Voter, decide


class World:
    """Nodes that vote, and the configurations that they are in; each holds for its members until
    they are in another one."""

    def __init__(self, votes: dict[int, int], terms: dict[int, Terms]) -> None:
        self.votes = votes
        self.terms = terms
        self.voters: dict[int, Voter] = {}
        self.rings = 0
        self.standing: dict[int, frozenset[int]] = {}
        self.decisions: dict[int, Decision] = {}
        for node in votes:
            self.start(node)

    def start(self, *nodes: int) -> None:
        """Begin a life, if the node has none."""
        for node in nodes:
            if node not in self.voters:
                self.voters[node] = Voter(NodeId(node), self.votes[node], self.terms[node])

    def crash(self, *nodes: int) -> None:
        for node in nodes:
            self.voters.pop(node, None)
            self.standing.pop(node, None)
            self.decisions.pop(node, None)

    def leave(self, node: int) -> None:
        """Leave in order: whoever is still in the same configuration is told."""
        members = self.standing.get(node, frozenset())
        for other in members - {node}:
            if self.standing.get(other) == members:
                self.voters[other].left(NodeId(node))
        self.crash(node)

    def form(self, *nodes: int, deciding: frozenset[int] | None = None) -> Decision | None:
        """A configuration of those that live. Only *deciding* get all ballots before it ends, or
        all; gives what they decide."""
        members = frozenset(set(nodes) & self.voters.keys())
        if not members:
            return None
        self.rings += 1
        ring = RingId(self.rings, NodeId(min(members)))
        for node in members:
            self.standing[node] = members
            self.decisions.pop(node, None)
            self.voters[node].configured(sorted(map(NodeId, members)))
        ballots = {NodeId(node): self.voters[node].ballot() for node in members}
        decision = decide(ring, ballots)
        for node in members if deciding is None else members & deciding:
            for ballot in ballots.values():
                self.voters[node].heard(ballot)
            self.voters[node].decided(decision)
            self.decisions[node] = decision
        return decision

    def primaries(self) -> set[frozenset[int]]:
        """The configurations that some member takes for primary now."""
        return {self.standing[node] for node, said in self.decisions.items() if said.primary}

    def check(self) -> None:
        for one, other in itertools.combinations(self.primaries(), 2):
            assert one & other, f"{sorted(one)} and {sorted(other)} are primary at a time"


def world(count: int, **options: object) -> World:
    """So many nodes with one vote each."""
    given_options = {"expected_votes": count, **options}
    terms = Terms(**given_options)  # type: ignore[arg-type]
    return World(dict.fromkeys(range(1, count + 1), 1), dict.fromkeys(range(1, count + 1), terms))


def reason(decision: Decision | None) -> str:
    assert decision is not None
    return f"{'primary' if decision.primary else 'not primary'}: {decision.reason}"


# --- what it says -------------------------------------------------------------------------------


def test_more_than_half_is_primary_and_names_who_is_missing() -> None:
    three = world(3)
    assert reason(three.form(1, 2, 3)) == "primary: 3 of 3 votes: nodes 1, 2 and 3"
    assert reason(three.form(1, 3)) == "primary: 2 of 3 votes: nodes 1 and 3; node 2 is missing"
    assert reason(three.form(2)) == (
        "not primary: 1 of 3 votes: node 2, and 2 are needed; nodes 1 and 3 are missing"
    )


def test_who_was_never_seen_has_no_name() -> None:
    assert reason(world(5).form(1, 2, 3)) == (
        "primary: 3 of 5 votes: nodes 1, 2 and 3; 2 votes missing"
    )


def test_half_is_not_enough_without_a_tie_breaker() -> None:
    four = world(4)
    four.form(1, 2, 3, 4)
    assert reason(four.form(1, 2)) == (
        "not primary: 2 of 4 votes: nodes 1 and 2; nodes 3 and 4 are missing; that is half, and no "
        "auto_tie_breaker is set"
    )


def test_the_half_with_the_lowest_node_of_all_is_primary() -> None:
    four = world(4, auto_tie_breaker="lowest")
    four.form(1, 2, 3, 4)
    assert reason(four.form(1, 4)) == (
        "primary: 2 of 4 votes: nodes 1 and 4; nodes 2 and 3 are missing; node 1, the lowest of "
        "all, breaks the tie"
    )
    assert reason(four.form(2, 3)).endswith(
        "that is half, and node 1, the lowest of all, would break the tie"
    )


def test_the_lowest_node_of_those_that_are_left_breaks_no_tie() -> None:
    four = world(4, auto_tie_breaker="lowest")
    four.form(1, 2, 3, 4)
    four.form(2, 3, 4)
    assert reason(four.form(2, 3)).startswith("not primary")


def test_who_has_not_seen_all_does_not_know_the_lowest() -> None:
    four = world(4, auto_tie_breaker="lowest")
    assert "is not known" in reason(four.form(1, 2))


def test_more_than_half_of_the_listed_nodes_break_a_tie() -> None:
    four = world(4, auto_tie_breaker=(2, 3, 4))
    assert reason(four.form(3, 4)).endswith("nodes 3 and 4 of auto_tie_breaker break the tie")
    assert reason(four.form(1, 2)).endswith(
        "auto_tie_breaker needs more than half of nodes 2, 3 and 4"
    )


def test_nodes_that_started_wait_for_all_once() -> None:
    three = world(3, wait_for_all=True)
    assert reason(three.form(1, 2)).endswith("waiting until all have been here at once")
    assert reason(three.form(1, 2, 3)).startswith("primary")
    assert reason(three.form(1, 2)).startswith("primary")
    three.crash(1)
    three.start(1)
    assert reason(three.form(1, 2)).startswith("primary")
    three.crash(1, 2)
    three.start(1, 2)
    assert reason(three.form(1, 2)).startswith("not primary")


def test_of_two_nodes_the_lower_goes_on_alone() -> None:
    two = world(2, two_node=True)
    assert reason(two.form(1)).endswith("waiting until all have been here at once")
    two.form(1, 2)
    assert reason(two.form(1)).startswith("primary")
    assert reason(two.form(2)).startswith("not primary")


def test_of_two_nodes_the_higher_goes_on_when_the_lower_left_in_order() -> None:
    two = world(2, two_node=True)
    two.form(1, 2)
    two.leave(1)
    assert reason(two.form(2)) == "primary: 1 of 2 votes: node 2; the other node left in order"
    two.start(1)
    assert reason(two.form(1)).startswith("not primary")
    two.form(1, 2)
    two.crash(1)
    assert reason(two.form(2)).startswith("not primary")


def test_nodes_without_votes_count_for_nothing() -> None:
    some = World({1: 1, 2: 1, 3: 0}, dict.fromkeys((1, 2, 3), Terms(expected_votes=2)))
    assert reason(some.form(1, 2, 3)) == "primary: 2 of 2 votes: nodes 1 and 2"
    assert reason(some.form(1, 3)).startswith("not primary: 1 of 2 votes: node 1;")
    assert reason(some.form(3)).startswith("not primary: 0 of 2 votes")


def test_settings_that_differ_are_named_and_remembered() -> None:
    terms = {1: Terms(expected_votes=3), 2: Terms(expected_votes=3), 3: Terms(expected_votes=1)}
    three = World(dict.fromkeys((1, 2, 3), 1), terms)
    assert reason(three.form(1, 2, 3)) == (
        "not primary: the settings differ: expected_votes is 3 on nodes 1 and 2 and 1 on node 3; "
        "make [service.quorum] equal on all nodes"
    )
    assert reason(three.form(1, 2)) == (
        "not primary: the settings differ: when node 3 was last here, expected_votes was 1 and is "
        "3 here; make [service.quorum] equal on all nodes, and let them meet"
    )
    assert reason(three.form(3)).startswith("not primary: 3 votes have been here at once")
    three.crash(3)
    three.terms[3] = terms[1]
    three.start(3)
    assert reason(three.form(1, 2, 3)).startswith("primary")
    assert reason(three.form(1, 2)).startswith("primary")


def test_halves_with_tie_breakers_of_their_own_are_not_primary_once_they_have_met() -> None:
    one = Terms(expected_votes=4, auto_tie_breaker=(NodeId(1),))
    other = Terms(expected_votes=4, auto_tie_breaker=(NodeId(2),))
    four = World(dict.fromkeys((1, 2, 3, 4), 1), {1: one, 3: one, 2: other, 4: other})
    assert reason(four.form(1, 3)).startswith("primary")
    four.form(1, 2, 3, 4)
    assert reason(four.form(1, 3)).startswith("not primary: the settings differ: when node 2 was")
    assert reason(four.form(2, 4)).startswith("not primary: the settings differ: when node 1 was")


def test_more_votes_than_expected_are_found_out_and_remembered() -> None:
    four = World(
        dict.fromkeys((1, 2, 3, 4), 1), dict.fromkeys((1, 2, 3, 4), Terms(expected_votes=3))
    )
    assert reason(four.form(1, 2, 3, 4)) == (
        "not primary: 4 votes have been here at once, and expected_votes is 3; raise it on all "
        "nodes, and restart them"
    )
    assert reason(four.form(1, 2)).startswith("not primary")


# --- never two ----------------------------------------------------------------------------------

NODES = range(1, 7)
BREAKERS: list[str | tuple[NodeId, ...]] = ["none", "lowest", (NodeId(1),), (NodeId(2),)]
PARTS = st.frozensets(st.sampled_from(NODES), min_size=1)


@st.composite
def equal_terms(draw: st.DrawFn) -> tuple[dict[int, int], Terms]:
    """Votes of up to six nodes, and settings, as right as they must be."""
    if draw(st.integers(0, 3)) == 0:
        breaker: str | tuple[NodeId, ...] = draw(st.sampled_from(BREAKERS))
        return {1: 1, 2: 1}, Terms(expected_votes=2, two_node=True, auto_tie_breaker=breaker)
    count = draw(st.integers(1, 6))
    votes = {node: draw(st.sampled_from([1, 1, 1, 0, 2])) for node in range(1, count + 1)}
    if not sum(votes.values()):
        votes[1] = 1
    listed = st.lists(st.sampled_from(NODES).map(NodeId), min_size=1, max_size=4, unique=True).map(
        tuple
    )
    return votes, Terms(
        expected_votes=sum(votes.values()) + draw(st.sampled_from([0, 0, 0, 1, 2])),
        wait_for_all=draw(st.booleans()),
        auto_tie_breaker=draw(st.one_of(st.sampled_from(["none", "lowest", "lowest"]), listed)),
    )


FORM = st.tuples(st.just("form"), PARTS, st.one_of(st.none(), PARTS))
STEPS = st.lists(
    st.one_of(
        FORM,
        FORM,
        st.tuples(st.just("crash"), PARTS, st.none()),
        st.tuples(st.just("leave"), PARTS, st.none()),
        st.tuples(st.just("start"), PARTS, st.none()),
    ),
    max_size=30,
)


def take(some: World, step: tuple[str, frozenset[int], frozenset[int] | None]) -> None:
    word, nodes, deciding = step
    nodes = frozenset(nodes & some.votes.keys())
    match word:
        case "form":
            some.form(*nodes, deciding=deciding)
        case "crash":
            some.crash(*nodes)
        case "leave" if nodes:
            some.leave(min(nodes))
        case "start":
            some.start(*nodes)


@settings(max_examples=400)
@given(equal_terms(), STEPS)
def test_two_disjoint_configurations_are_never_primary_at_a_time(
    chosen: tuple[dict[int, int], Terms],
    steps: list[tuple[str, frozenset[int], frozenset[int] | None]],
) -> None:
    votes, terms = chosen
    some = World(votes, dict.fromkeys(votes, terms))
    for step in steps:
        take(some, step)
        some.check()


TWO = st.frozensets(st.sampled_from([1, 2]), min_size=1)
TWO_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("form"), TWO, st.one_of(st.none(), TWO)),
        st.tuples(st.just("form"), st.just(frozenset([1, 2])), st.one_of(st.none(), TWO)),
        st.tuples(st.sampled_from(["crash", "leave"]), TWO, st.none()),
        st.tuples(st.just("start"), st.just(frozenset([1, 2])), st.none()),
    ),
    max_size=20,
)


@settings(max_examples=400)
@given(st.sampled_from(BREAKERS), TWO_STEPS)
def test_two_nodes_are_never_primary_apart_at_a_time(
    breaker: str | tuple[NodeId, ...],
    steps: list[tuple[str, frozenset[int], frozenset[int] | None]],
) -> None:
    two = world(2, two_node=True, auto_tie_breaker=breaker)
    for step in steps:
        take(two, step)
        two.check()


@settings(max_examples=300)
@given(equal_terms(), st.randoms(use_true_random=False))
def test_no_split_of_all_nodes_has_two_primaries(
    chosen: tuple[dict[int, int], Terms], dice: Random
) -> None:
    votes, terms = chosen
    some = World(votes, dict.fromkeys(votes, terms))
    some.form(*votes)
    for _ in range(5):
        sides: dict[int, list[int]] = {}
        for node in votes:
            sides.setdefault(dice.randrange(3), []).append(node)
        for side in sides.values():
            some.form(*side)
        assert len(some.primaries()) <= 1


@st.composite
def unequal_terms(draw: st.DrawFn) -> dict[int, Terms]:
    """Settings of four nodes, of two kinds."""
    kinds = [
        Terms(
            expected_votes=draw(st.sampled_from([1, 3, 4, 4, 4, 5])),
            wait_for_all=draw(st.booleans()),
            auto_tie_breaker=draw(st.sampled_from(BREAKERS)),
        )
        for _ in range(2)
    ]
    return {node: draw(st.sampled_from(kinds)) for node in range(1, 5)}


@settings(max_examples=300)
@given(unequal_terms(), st.lists(FORM, max_size=20))
def test_settings_that_differ_never_make_two_primaries_of_nodes_that_have_met(
    terms: dict[int, Terms], steps: list[tuple[str, frozenset[int], frozenset[int] | None]]
) -> None:
    some = World(dict.fromkeys(range(1, 5), 1), terms)
    some.form(*range(1, 5))
    for step in steps:
        take(some, step)
        some.check()
        for members in some.primaries():
            assert len({terms[node] for node in members}) == 1


@settings(max_examples=300)
@given(equal_terms(), st.permutations(list(NODES)))
def test_the_order_in_which_ballots_come_changes_nothing(
    chosen: tuple[dict[int, int], Terms], order: list[int]
) -> None:
    votes, terms = chosen
    ballots = {
        NodeId(node): Ballot(node=NodeId(node), votes=votes[node], terms=terms, waiting=terms.waits)
        for node in order
        if node in votes
    }
    ascending = {node: ballots[node] for node in sorted(ballots)}
    ring = RingId(1, NodeId(1))
    assert decide(ring, ballots) == decide(ring, ascending)


@pytest.mark.parametrize("votes", range(1, 9))
def test_the_quorum_is_more_than_half(votes: int) -> None:
    assert 2 * Terms(expected_votes=votes).quorum > votes
    assert 2 * (Terms(expected_votes=votes).quorum - 1) <= votes

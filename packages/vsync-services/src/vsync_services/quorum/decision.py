"""Whether a configuration is primary: the rule, without any I/O.

Words as in corosync's votequorum, the rule stricter, because here nobody fences anybody: no node
may ever conclude that others are dead from not hearing of them.

* A configuration is primary if the votes of its members are **more than half** of
  ``expected_votes``. Two such sets share a member, so they cannot exist at a time.
* **Exactly half** is enough only with a tie breaker. With a list of nodes: if more than half of the
  listed ones are here. With ``lowest``: if the node is here that is the lowest of all, as last seen
  when all expected votes were here at once. Of two halves, at most one can claim that.
* **wait_for_all**: nodes that have started do not count until one of them has been in a
  configuration with all expected votes, or meets a node that has.
* **two_node**: two votes, ``wait_for_all``, and ``lowest`` unless a list is given. When the other
  node *left in order* (its own word, in the total order, that it goes), the one that stays is
  primary by itself: who left has to meet it again before it counts, since it waits for all.

Two sets that may be primary always share a node, at whatever times they exist; the node alone
after an orderly leave shares one with the configuration before it and with the one after it. So
what one primary configuration agreed on, somebody in the next one knows.

All of this needs settings that are equal everywhere and ``expected_votes`` no less than all votes
that there are. What can be seen of a mistake there is seen, remembered until it is mended, and
makes nobody primary.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Final

from vsync.vocabulary import NodeId, RingId
from vsync_services.wording import be, counted, nodes_named

LOWEST: Final = "lowest"
NONE: Final = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The settings that must be equal on all nodes."""

    expected_votes: int
    two_node: bool = False
    wait_for_all: bool = False
    auto_tie_breaker: str | tuple[NodeId, ...] = NONE
    """``none``, ``lowest``, or the listed nodes."""

    @property
    def waits(self) -> bool:
        """Whether nodes that have started wait for all."""
        return self.wait_for_all or self.two_node

    @property
    def tie_breaker(self) -> str | tuple[NodeId, ...]:
        """What breaks a tie."""
        if self.two_node and self.auto_tie_breaker == NONE:
            return LOWEST
        return self.auto_tie_breaker

    @property
    def quorum(self) -> int:
        """Votes that are more than half."""
        return self.expected_votes // 2 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """All nodes with votes, as they were here at once in the configuration of ring *at*."""

    at: RingId
    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ballot:
    """What one node tells the others in each configuration."""

    node: NodeId
    votes: int
    terms: Terms
    waiting: bool
    """It has started, and not yet been with all, nor with a node that had."""
    roster: Roster | None = None
    released: bool = False
    """Of two nodes, the other one left in order and has not been met since."""
    most_votes: int = 0
    """The most votes that it knows to have been here at once."""
    differing: tuple[tuple[NodeId, Terms], ...] = ()
    """Nodes that had other settings when they were last here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What follows from the ballots of all members; the same at every one of them."""

    primary: bool
    reason: str
    """A sentence without its full stop."""
    votes: int
    waiting: bool
    roster: Roster | None
    most_votes: int
    differing: Mapping[NodeId, Terms]
    """Nodes that are not here and had other settings than some that are."""


def decide(ring: RingId, ballots: Mapping[NodeId, Ballot]) -> Decision:
    """Decide for the configuration of *ring*, whose members with votes gave these *ballots*."""
    here = sorted(ballots)
    terms = ballots[here[0]].terms
    votes = sum(ballot.votes for ballot in ballots.values())
    unequal = _unequal(ballots)
    complete = not unequal and votes == terms.expected_votes
    roster = max(
        (ballot.roster for ballot in ballots.values() if ballot.roster is not None),
        key=lambda known: known.at,
        default=None,
    )
    if complete:
        roster = Roster(at=ring, nodes=tuple(node for node in here if ballots[node].votes))
    waiting = terms.waits and not complete and all(ballot.waiting for ballot in ballots.values())
    most_votes = max(votes, *(ballot.most_votes for ballot in ballots.values()))
    differing = {
        node: others
        for ballot in ballots.values()
        for node, others in ballot.differing
        if node not in ballots
    }
    released = any(ballot.released for ballot in ballots.values())

    primary = False
    counted_here = _counted(votes, terms, [node for node in here if ballots[node].votes])
    missing = _missing(votes, terms, roster, here)
    if unequal:
        reason = f"the settings differ: {unequal}; make [service.quorum] equal on all nodes"
    elif most_votes > terms.expected_votes:
        reason = (
            f"{most_votes} votes have been here at once, and expected_votes is "
            f"{terms.expected_votes}; raise it on all nodes, and restart them"
        )
    elif differing:
        reason = (
            f"the settings differ: {_absent(differing, terms)}; make [service.quorum] equal on all "
            "nodes, and let them meet"
        )
    elif waiting:
        reason = f"{counted_here}{missing}; waiting until all have been here at once"
    elif votes >= terms.quorum:
        primary, reason = True, f"{counted_here}{missing}"
    elif terms.two_node and released and votes:
        primary, reason = True, f"{counted_here}; the other node left in order"
    elif 2 * votes == terms.expected_votes:
        primary, broken = _tie(terms, roster, here)
        reason = f"{counted_here}{missing}; {broken}"
    else:
        reason = f"{counted_here}, and {terms.quorum} are needed{missing}"
    return Decision(
        primary=primary,
        reason=reason,
        votes=votes,
        waiting=waiting,
        roster=roster,
        most_votes=most_votes,
        differing=differing,
    )


def _tie(terms: Terms, roster: Roster | None, here: Collection[NodeId]) -> tuple[bool, str]:
    breaker = terms.tie_breaker
    if breaker == NONE:
        return False, "that is half, and no auto_tie_breaker is set"
    if breaker == LOWEST:
        if roster is None:
            return False, (
                "that is half, and which node is the lowest of all is not known, since not all "
                "have been here at once"
            )
        lowest = roster.nodes[0]
        if lowest in here:
            return True, f"node {lowest}, the lowest of all, breaks the tie"
        return False, f"that is half, and node {lowest}, the lowest of all, would break the tie"
    listed = [NodeId(int(node)) for node in breaker]
    present = [node for node in listed if node in here]
    if 2 * len(present) > len(listed):
        verb = "breaks" if len(present) == 1 else "break"
        return True, f"{nodes_named(present)} of auto_tie_breaker {verb} the tie"
    return False, (
        f"that is half, and auto_tie_breaker needs more than half of {nodes_named(listed)}"
    )


def _counted(votes: int, terms: Terms, voters: Collection[NodeId]) -> str:
    text = f"{votes} of {counted(terms.expected_votes, 'vote')}"
    return f"{text}: {nodes_named(voters)}" if voters else text


def _missing(votes: int, terms: Terms, roster: Roster | None, here: Collection[NodeId]) -> str:
    lost = [node for node in roster.nodes if node not in here] if roster is not None else []
    if lost:
        return f"; {nodes_named(lost)} {be(lost)} missing"
    if votes < terms.expected_votes:
        return f"; {counted(terms.expected_votes - votes, 'vote')} missing"
    return ""


def _unequal(ballots: Mapping[NodeId, Ballot]) -> str:
    """The settings that differ among the nodes here, and at whom; empty if none do."""
    parts = []
    for name in _names():
        held: dict[object, list[NodeId]] = {}
        for node in sorted(ballots):
            held.setdefault(getattr(ballots[node].terms, name), []).append(node)
        if len(held) > 1:
            values = [
                f"{_shown(value)} on {nodes_named(nodes)}"
                for value, nodes in sorted(held.items(), key=lambda item: item[1])
            ]
            parts.append(f"{name} is {' and '.join(values)}")
    return ", ".join(parts)


def _absent(differing: Mapping[NodeId, Terms], terms: Terms) -> str:
    parts = []
    for node in sorted(differing):
        names = [n for n in _names() if getattr(differing[node], n) != getattr(terms, n)]
        told = ", ".join(
            f"{name} was {_shown(getattr(differing[node], name))} and is "
            f"{_shown(getattr(terms, name))} here"
            for name in names
        )
        parts.append(f"when node {node} was last here, {told or 'others had other settings'}")
    return "; ".join(parts)


def _names() -> list[str]:
    return [field.name for field in fields(Terms)]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


class Voter:
    """What one node remembers from one configuration to the next, in one life."""

    def __init__(self, node: NodeId, votes: int, terms: Terms) -> None:
        self.node = node
        self.votes = votes
        self.terms = terms
        self.waiting = terms.waits
        self.roster: Roster | None = None
        self.released = False
        self.most_votes = 0
        self.differing: dict[NodeId, Terms] = {}

    def configured(self, members: Collection[NodeId]) -> None:
        """A configuration has been delivered; before this node's ballot goes out in it."""
        if any(node != self.node for node in members):
            self.released = False

    def left(self, node: NodeId) -> None:
        """The quorum of *node* has said, in the total order, that it leaves."""
        voters = self.roster.nodes if self.roster is not None else ()
        if self.terms.two_node and node != self.node and node in voters:
            self.released = True

    def ballot(self) -> Ballot:
        """What to tell the others."""
        return Ballot(
            node=self.node,
            votes=self.votes,
            terms=self.terms,
            waiting=self.waiting,
            roster=self.roster,
            released=self.released,
            most_votes=self.most_votes,
            differing=tuple(sorted(self.differing.items(), key=lambda item: item[0])),
        )

    def heard(self, ballot: Ballot) -> None:
        """A ballot of the present configuration: settings are compared at once, for good."""
        if ballot.terms != self.terms:
            self.differing[ballot.node] = ballot.terms
        else:
            self.differing.pop(ballot.node, None)

    def decided(self, decision: Decision) -> None:
        """What has been decided for the present configuration."""
        self.waiting = decision.waiting
        self.roster = decision.roster
        self.most_votes = decision.most_votes
        self.differing |= decision.differing

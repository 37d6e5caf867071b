"""Rekeying: how a running ring changes its key, so that nobody is ever left without the right one.

Three steps: all *accept* the new key, then all *use* it, then all *drop* the old one. A node does a
step when it knows that all who take part have durably done the one before; so two nodes are never
more than one step apart, and such nodes can read each other. Which node it was that said so, and in
which configuration, does not matter: the facts stay true. So a node's death, a partition and a
merge only make the change wait. It waits for those who are away, too, since they have to come back
with a key that works; unless somebody says that they need not be waited for.

The keys themselves are not seen here: this module says which step is to be done, and is told when
it is.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import replace
from enum import IntEnum
from typing import Final, NamedTuple

from vsync.vocabulary import NodeId
from vsync.wire.rekey import KeyNews, readable

OUTCOMES_MAX: Final = 8
"""Changes that have ended, remembered for those who come back and do not know."""


class Step(IntEnum):
    """What a node does with its keys."""

    UNDO = 0  #: forget the new key: the change was given up before anyone used it
    ACCEPT = 1  #: have the new key on disk, and take its seals
    USE = 2  #: seal with it, also after a restart
    DROP = 3  #: take the old one's seals no more


class KeyStep(NamedTuple):
    """The runtime is to do a step now, and to say when it is durable.

    With *may_fail* a failure gives the whole change up; else it is to be tried until it works.
    """

    step: Step
    new: bytes
    old: bytes
    body: bytes
    may_fail: bool


class KeyChangeEnded(NamedTuple):
    """That change is complete; or it was given up, for the reason *failure*."""

    name: tuple[bytes, int]
    failure: str


class Rekeying:
    """One node's part in the change of its ring's key."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self.known: KeyNews | None = None
        """The change under way; None: there is none."""
        self.away: set[NodeId] = set()
        """Nodes that were members in this life of the node, and are not now."""
        self.outgoing: list[KeyNews] = []
        """What is to be told to the others."""
        self.notices: list[KeyStep | KeyChangeEnded] = []
        """What is to be done here."""
        self._asked = Step.UNDO
        """The last step that this node was told to do, for the change under way."""
        self._done = Step.UNDO
        """The last one that it has done in this life."""
        self._outcomes: OrderedDict[tuple[bytes, int], KeyNews] = OrderedDict()

    # --- what this node does --------------------------------------------------------------------

    def say(self, news: KeyNews) -> None:
        """Propose a change, or add to what is known of the one under way."""
        self.outgoing.append(news)

    def step_done(self, new: bytes, step: Step, failure: str) -> None:
        """This node has durably done *step*; or it cannot, for the reason *failure*.

        It is only said here: it counts where it counts for all, at its place in the order.
        """
        known = self.known
        if known is None or known.new != new:
            return
        if failure:
            self.outgoing.append(replace(known, failure=readable(failure)))
            return
        self._done = max(self._done, step)
        me = frozenset({self._node})
        self.outgoing.append(
            replace(
                known,
                accepted=known.accepted | me,
                used=known.used | me if step >= Step.USE else known.used,
                dropped=known.dropped | me if step >= Step.DROP else known.dropped,
            )
        )

    def configured(self, members: Collection[NodeId], left: Collection[NodeId] = ()) -> None:
        """There is another regular configuration: tell those who may not know."""
        self.away.update(left)
        self.away.difference_update(members)
        self._go_on(members)
        if self.known is not None:
            self.outgoing.append(self.known)

    # --- what the ring says ---------------------------------------------------------------------

    def hear(self, sender: NodeId, news: KeyNews, members: Collection[NodeId]) -> None:
        """Take in what *sender* knows; it may be this node itself."""
        outcome = self._outcomes.get(news.name)
        if outcome is not None:
            if not (news.complete or news.failure):
                self.outgoing.append(outcome)
            return
        known = self.known
        if known is None:
            self._begin(news)
        elif known.name == news.name:
            self.known = known.joined_with(news)
        elif news.name < known.name and self._level(known, members) == Step.UNDO:
            # Two were begun on two sides, or at once. All agree which one it is to be.
            self._end(replace(known, failure=f"the key is changed to {news.new.hex()} instead"))
            if known.new != news.new:
                self._undo(known)
            self._begin(news)
        else:
            if sender == self._node:
                reason = f"the key is being changed already, to {known.new.hex()}"
                self.notices.append(KeyChangeEnded(news.name, reason))
            return
        known = self.known
        assert known is not None
        if known.failure and self._level(known, members) == Step.UNDO:
            self._end(known)
            self._undo(known)
        else:
            self._go_on(members)

    def _begin(self, news: KeyNews) -> None:
        self.known = news
        self._asked = self._done = Step.UNDO

    def _undo(self, known: KeyNews) -> None:
        self.notices.append(KeyStep(Step.UNDO, known.new, known.old, known.body, False))

    def _end(self, known: KeyNews) -> None:
        self._outcomes[known.name] = known
        if len(self._outcomes) > OUTCOMES_MAX:
            self._outcomes.popitem(last=False)
        self.known = None
        self.notices.append(KeyChangeEnded(known.name, known.failure))

    def _go_on(self, members: Collection[NodeId]) -> None:
        """Do what can be done now."""
        known = self.known
        if known is None:
            return
        # Whom only this node knows to be away is told with what it accepts, so that all wait.
        others = self.away.union(members) - known.members - known.others - known.without
        if others:
            self.known = known = replace(known, others=known.others | others)
        level = self._level(known, members)
        if level == self._done == Step.DROP:
            self._end(replace(known, complete=True))
        elif self._asked == self._done < Step.DROP and self._done <= level:
            self._asked = Step(self._done + 1)
            may_fail = self._node in known.members - known.accepted - known.without
            self.notices.append(KeyStep(self._asked, known.new, known.old, known.body, may_fail))

    # --- observables ----------------------------------------------------------------------------

    def waits_for(self, members: Collection[NodeId]) -> list[NodeId]:
        """Who has not done the step that the others wait for."""
        known = self.known
        if known is None or (level := self._level(known, members)) == Step.DROP:
            return []
        done = (known.accepted, known.used, known.dropped)[level]
        return sorted(self._expected(known, members) - done)

    def level(self, members: Collection[NodeId]) -> Step:
        """The last step that all have done."""
        return Step.UNDO if self.known is None else self._level(self.known, members)

    @staticmethod
    def _expected(known: KeyNews, members: Collection[NodeId]) -> frozenset[NodeId]:
        present = frozenset(members)
        return (known.members | known.others | present) - (known.without - present)

    def _level(self, known: KeyNews, members: Collection[NodeId]) -> Step:
        expected = self._expected(known, members)
        if known.complete or expected <= known.dropped:
            return Step.DROP
        if expected <= known.used:
            return Step.USE
        return Step.ACCEPT if expected <= known.accepted else Step.UNDO

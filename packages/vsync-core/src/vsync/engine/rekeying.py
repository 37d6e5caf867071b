"""Rekeying: how a running ring changes its key, so that nobody is ever left without the right one.

Three steps: all *accept* the new key, then all *use* it, then all *drop* the old one. A node does a
step when it knows that all who take part have durably done the one before; so two nodes are never
more than one step apart, and such nodes can read each other. Which node it was that said so, and in
which configuration, does not matter: the facts stay true. So a node's death, a partition and a
merge only make the change wait. It waits for those who are away, too, since they have to come back
with a key that works; unless somebody says that they need not be waited for.

Before anybody has begun to use the new key the change can still be given up: since a node cannot
keep the key, or since two changes meet and only one can be made. Two decisions must never both be
taken: to *begin* to use the key, and to give it up. So each needs what all who take part say in one
configuration, and in one life: to begin that all *hold* the key, to give up that all *give it up*.
Who gives up does not begin any more, unless it learns that somebody has begun; who has begun does
not give up. Whoever parted, or forgot in a restart, has to say again what it stands for. So it is
only a matter of time, and not of safety, which of two changes that meet gives way.

The keys themselves are not seen here: this module says which step is to be done, and is told when
it is.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import replace
from enum import IntEnum
from typing import Final, NamedTuple

from vsync.vocabulary import NodeId
from vsync.wire.rekey import KeyNews, Stand, readable

OUTCOMES_MAX: Final = 8
"""Changes that have ended, remembered for those who come back and do not know."""

CHANGES_MAX: Final = 8
"""Changes that are looked at in one configuration; more than two are not met in practice."""

Name = tuple[bytes, int]


class Step(IntEnum):
    """What a node does with its keys."""

    UNDO = 0  #: forget the new key: the change was given up before anyone used it
    ACCEPT = 1  #: have the new key on disk, and take its seals
    USE = 2  #: seal with it at once, and also after a restart
    DROP = 3  #: take the old one's seals no more


class KeyStep(NamedTuple):
    """The runtime is to do a step now, and to say when it is durable.

    With *may_fail* a failure gives the whole change up; else it is to be tried until it works.
    To seal with the new key is to be done before anything else is given to the engine.
    """

    step: Step
    new: bytes
    old: bytes
    body: bytes
    may_fail: bool
    attempt: int = 0

    @property
    def name(self) -> Name:
        """The change that it belongs to."""
        return self.new, self.attempt


class KeyChangeEnded(NamedTuple):
    """That change is complete; or it was given up, for the reason *failure*."""

    name: Name
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
        self._failed = False
        """It could not accept the new key."""
        self._used = b""
        """The key that it seals with; empty: its runtime has not said so."""
        self._outcomes: OrderedDict[Name, KeyNews] = OrderedDict()
        self._refused: OrderedDict[Name, KeyNews] = OrderedDict()
        """Changes whose key this node could not accept; it has no part in them any more."""
        # In the present configuration:
        self._here: frozenset[NodeId] = frozenset()
        self._stands: dict[Name, dict[NodeId, Stand]] = {}
        """What each node said last that it stands for."""
        self._said: dict[Name, Stand] = {}
        """What this node has said of that, ordered yet or not."""
        self._rivals: dict[Name, KeyNews] = {}
        """Other changes, which others hold."""

    # --- what this node does --------------------------------------------------------------------

    def say(self, news: KeyNews) -> None:
        """Propose a change, or add to what is known of the one under way."""
        known = self.known
        if known is not None and known.name == news.name:
            # Who takes part from the beginning is settled once.
            self._tell(known.joined_with(replace(news, members=frozenset())))
        else:
            self.outgoing.append(news)

    def step_done(
        self, name: Name, step: Step, failure: str, used: bytes, members: Collection[NodeId]
    ) -> None:
        """This node has durably done *step*; or it cannot, for the reason *failure*. *used* is the
        id of the key that it seals with.

        It is only said here: it counts where it counts for all, at its place in the order.
        """
        known = self.known
        if known is None or known.name != name:
            return
        self._used = used
        if failure:
            self._failed = True
            self.known = replace(known, failure=known.failure or readable(failure))
        else:
            self._done = max(self._done, step)
            self._asked = max(self._asked, step)
            if step >= Step.USE:
                self.known = known = replace(known, begun=True)
            me = frozenset({self._node})
            self._tell(
                replace(
                    known,
                    accepted=known.accepted | me,
                    used=known.used | me if step >= Step.USE else known.used,
                    dropped=known.dropped | me if step >= Step.DROP else known.dropped,
                )
            )
        self._pursue(members)

    def configured(self, members: Collection[NodeId], left: Collection[NodeId] = ()) -> None:
        """There is another regular configuration: tell those who may not know."""
        self.away.update(left)
        self.away.difference_update(members)
        self._here = frozenset(members)
        self._stands.clear()
        self._said.clear()
        self._rivals.clear()
        if self.known is not None:
            self.known = self._with_others(self.known, self._here)
            self._tell(self.known)
        self._pursue(self._here)

    def _tell(self, news: KeyNews) -> None:
        """Say what is known of the change under way, and what this node stands for."""
        news = replace(news, stand=self._stand(news))
        self._said[news.name] = news.stand
        self.outgoing.append(news)

    def _stand(self, known: KeyNews) -> Stand:
        """What this node stands for; it knows that only when its disk has been looked at: it may
        have begun to use the key in a former life."""
        if self._done < Step.ACCEPT and not self._failed:
            return Stand.TELLS
        if known.given_up_by_some:
            return Stand.GIVES_UP
        return Stand.TELLS if self._failed else Stand.HOLDS

    # --- what the ring says ---------------------------------------------------------------------

    def hear(self, sender: NodeId, news: KeyNews, members: Collection[NodeId]) -> None:
        """Take in what *sender* knows; it may be this node itself."""
        outcome = self._outcomes.get(news.name)
        if outcome is not None:
            if not news.ended:
                self.outgoing.append(outcome)
            return
        self._note_stand(sender, news)
        facts = replace(news, stand=Stand.TELLS)
        if (refused := self._refused.get(news.name)) is not None:
            facts = facts.joined_with(refused)
        known = self.known
        if known is None and (refused is None or facts.begun):
            if news.given_up:
                self._remember(facts)
            else:
                self._begin(facts)
        elif known is not None and known.name == news.name:
            if not (known.begun and news.given_up):
                self.known = known.joined_with(facts)
        elif facts.accepted or facts.failure:
            rival = self._rivals.get(news.name)
            if rival is not None or len(self._rivals) < CHANGES_MAX:
                self._rivals[news.name] = facts if rival is None else rival.joined_with(facts)
        elif (
            known is not None and sender == self._node
        ):  # else nobody has begun it, and nobody will
            reason = f"the key is being changed already, to {known.new.hex()}"
            self.notices.append(KeyChangeEnded(news.name, reason))
        self._pursue(members)

    def _note_stand(self, sender: NodeId, news: KeyNews) -> None:
        if news.name not in self._stands and len(self._stands) >= CHANGES_MAX:
            mine = None if self.known is None else self.known.name
            del self._stands[next(name for name in self._stands if name != mine)]
        self._stands.setdefault(news.name, {})[sender] = news.stand

    def _begin(self, news: KeyNews) -> None:
        self.known = news
        self._asked = self._done = Step.UNDO
        self._failed = False

    def _remember(self, outcome: KeyNews) -> None:
        self._stands.pop(outcome.name, None)
        self._said.pop(outcome.name, None)
        self._rivals.pop(outcome.name, None)
        self._refused.pop(outcome.name, None)
        _keep(self._outcomes, outcome)

    def _refuse(self, known: KeyNews) -> None:
        """Have no part in what this node never accepted; it only says that it gives it up. So it
        can take part in another change, whatever becomes of this one."""
        _keep(self._refused, known)
        self._leave(known)
        self._rivals[known.name] = known

    def _end(self, known: KeyNews) -> None:
        self._remember(known)
        self._leave(known)

    def _leave(self, known: KeyNews) -> None:
        """The change under way is over here; if another one was met meanwhile, it is its turn."""
        self.known = None
        self.notices.append(KeyChangeEnded(known.name, "" if known.begun else known.failure))
        following = min(
            (
                each
                for each in self._rivals.values()
                if each.begun or each.name not in self._refused
            ),
            key=lambda news: (not news.begun, bool(news.failure), news.name),
            default=None,
        )
        if known.given_up and (following is None or following.new != known.new):
            self._ask(Step.UNDO, known)
        if following is not None:
            del self._rivals[following.name]
            self._begin(following)

    def _ask(self, step: Step, known: KeyNews) -> None:
        may_fail = step is Step.ACCEPT and not known.begun
        self.notices.append(
            KeyStep(step, known.new, known.old, known.body, may_fail, known.attempt)
        )

    # --- what follows ---------------------------------------------------------------------------

    def _pursue(self, members: Collection[NodeId]) -> None:
        """Do what can be done now. *members* are those of the ring, which may be about to change
        the configuration."""
        present = self._here.union(members)
        while True:
            self._judge_rivals(present)
            if self.known is None or not self._advance(self.known, present):
                break
        if (known := self.known) is not None and self._said.get(
            known.name, Stand.TELLS
        ) is not self._stand(known):
            self._tell(known)

    def _advance(self, known: KeyNews, present: frozenset[NodeId]) -> bool:
        """Go on with the change under way; whether it is over here, and perhaps another follows."""
        known = self._with_others(known, present)
        for rival in self._rivals.values():
            if not known.failure and self._yields(known, rival, present):
                reason = f"the key is changed to {rival.new.hex()} instead"
                known = replace(known, failure=reason)
        self.known = known
        if known.given_up or self._all_give_up(known, present):
            self._end(replace(known, ended=True))
        elif self._failed and known.given_up_by_some and self._node not in known.accepted:
            self._refuse(known)
        elif any(self._is_same(known, rival) for rival in self._rivals.values()):
            self._leave(known)
        else:
            return self._go_on(known, present)
        return True

    def _with_others(self, known: KeyNews, present: frozenset[NodeId]) -> KeyNews:
        # Whom only this node knows to be away is told with what it accepts, so that all wait.
        others = present.union(self.away) - known.members - known.others - known.without
        return replace(known, others=known.others | others) if others else known

    def _judge_rivals(self, present: frozenset[NodeId]) -> None:
        """Give up with others what they hold and this node does not."""
        for rival in list(self._rivals.values()):
            if rival.given_up or self._all_give_up(rival, present):
                self._remember(replace(rival, ended=True))
                continue
            if not self._used:
                continue
            if rival.new == self._used:  # from a former life, or another change to the same key
                rival = replace(rival, begun=True, stand=Stand.HOLDS)
            elif rival.given_up_by_some:
                rival = replace(rival, stand=Stand.GIVES_UP)
            if rival.stand is not self._said.get(rival.name, Stand.TELLS):
                self._said[rival.name] = rival.stand
                self.outgoing.append(rival)

    def _yields(self, known: KeyNews, rival: KeyNews, present: frozenset[NodeId]) -> bool:
        """Whether the change under way is to give way to that other one. All who see both should
        come to the same answer, but nothing breaks if they do not."""
        if known.begun or rival.begun:
            return not known.begun
        if rival.failure:
            return False
        mine, theirs = (self._expected(each, present) <= present for each in (known, rival))
        return mine and (not theirs or rival.name < known.name)

    def _all_give_up(self, known: KeyNews, present: frozenset[NodeId]) -> bool:
        return not known.begun and self._expected(known, present) <= self._who(
            known, Stand.GIVES_UP
        )

    def _who(self, known: KeyNews, stand: Stand) -> set[NodeId]:
        """Who has said in this configuration that it stands for that."""
        return {node for node, said in self._stands.get(known.name, {}).items() if said is stand}

    @staticmethod
    def _is_same(known: KeyNews, rival: KeyNews) -> bool:
        """Both change to the same key, as when a change was taken up again by some and went on
        elsewhere, and it is used: then one of them is enough."""
        same = known.new == rival.new and known.begun and rival.begun
        return same and rival.name < known.name

    def _go_on(self, known: KeyNews, present: frozenset[NodeId]) -> bool:
        if known.begun and self._failed:  # it must, then
            self._failed = False
            self._asked = self._done
        level = self._level(known, present)
        if level == self._done == Step.DROP:
            self._end(replace(known, ended=True, begun=True))
            return True
        if self._asked == self._done < Step.DROP and self._done <= level:
            following = Step(self._done + 1)
            if following is Step.USE:
                if not self._may_use(known, present):
                    return False
                self.known = known = replace(known, begun=True)
                self._used = known.new
            self._asked = following
            self._ask(following, known)
        return False

    def _may_use(self, known: KeyNews, present: frozenset[NodeId]) -> bool:
        """All have accepted the key; whether this node may seal with it."""
        if known.ended:
            return True
        expected, holding = self._expected(known, present), self._who(known, Stand.HOLDS)
        if not expected & present <= holding:
            return False  # one that is here has forgotten, and may be about to accept it again
        leaders = self._leaders(known, present)
        if known.begun:
            # Who came later is not known to all, so it begins only when it cannot be the only one.
            return self._node in leaders or bool(known.used & leaders)
        return self._node in leaders and expected <= holding and not known.failure

    # --- observables ----------------------------------------------------------------------------

    @property
    def giving_up(self) -> bool:
        """The change under way waits for all to give it up."""
        return self.known is not None and self.known.given_up_by_some

    def waits_for(self, members: Collection[NodeId]) -> list[NodeId]:
        """Who has not done the step that the others wait for."""
        known = self.known
        if known is None or (level := self._level(known, members)) == Step.DROP:
            return []
        expected = self._expected(known, members)
        if known.given_up_by_some:
            return sorted(expected - self._who(known, Stand.GIVES_UP))
        if level == Step.ACCEPT and not known.begun:
            return sorted(expected - self._who(known, Stand.HOLDS))
        return sorted(expected - (known.accepted, known.used, known.dropped)[level])

    def level(self, members: Collection[NodeId]) -> Step:
        """The last step that all have done."""
        return Step.UNDO if self.known is None else self._level(self.known, members)

    @staticmethod
    def _expected(known: KeyNews, members: Collection[NodeId]) -> frozenset[NodeId]:
        present = frozenset(members)
        return (known.members | known.others | present) - (known.without - present)

    @staticmethod
    def _leaders(known: KeyNews, present: frozenset[NodeId]) -> frozenset[NodeId]:
        """Who may be the first to use the key: all who hold the change know of them."""
        leaders = known.members - (known.without - present)
        return leaders or known.others | present

    def _level(self, known: KeyNews, members: Collection[NodeId]) -> Step:
        expected = self._expected(known, members)
        if (known.ended and known.begun) or expected <= known.dropped:
            return Step.DROP
        if expected <= known.used:
            return Step.USE
        return Step.ACCEPT if expected <= known.accepted else Step.UNDO


def _keep(memory: "OrderedDict[Name, KeyNews]", news: KeyNews) -> None:
    memory[news.name] = news
    if len(memory) > OUTCOMES_MAX:
        memory.popitem(last=False)

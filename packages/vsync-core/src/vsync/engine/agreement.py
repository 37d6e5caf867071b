"""Agreement: whether others have the settings that all nodes of this ring share.

A ring changes its *terms* in its order. Who comes with former ones of a ring is out of date, and
takes the present ones; who has others is let be: no ring is formed with it, and both sides are told
what differs.
"""

from collections import deque
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final, NamedTuple

from vsync.settings import RingSettings, mark_of
from vsync.vocabulary import NodeId
from vsync.wire.terms import FORMER_MAX, Mark, Terms

AGAIN_S: Final = 1.0
"""How often those are told our terms again of whom we know that theirs are others."""

HEARD_S: Final = 5.0
"""How long a node counts as one with other terms after it was heard last."""

DIFFERING_MAX: Final = 16
"""So many nodes with other terms are known by name, and told of within ``HEARD_S``."""


class Verdict(Enum):
    """What another's terms are to ours."""

    SAME = auto()  #: the same values
    NEWER = auto()  #: what ours were changed to, in a ring that had them
    OLDER = auto()  #: what ours were before a change: they will take ours
    OTHER = auto()  #: neither follows from the other


class Differing(NamedTuple):
    """A node with other terms."""

    terms: Terms
    heard_at: float
    told: bytes
    """The digest of those that were told of last."""


class Agreement:
    """One node's terms, and those of the others that it hears."""

    def __init__(self, settings: RingSettings) -> None:
        self.settings = settings
        """Those in effect."""
        self.terms = Terms(0, (), settings.shared())
        self._differing: dict[NodeId, Differing] = {}
        self._told_at = float("-inf")
        self._news: deque[tuple[NodeId, float]] = deque(maxlen=DIFFERING_MAX)
        """Of whom it was told last that it has other terms, and when."""

    @property
    def mark(self) -> Mark:
        """That of this node's terms."""
        return self.terms.mark

    def agrees(self, node: NodeId, mark: Mark, now: float) -> bool:
        """Whether *node*, which has said so just now, has the same terms."""
        if mark.digest == self.mark.digest:
            self._differing.pop(node, None)
            return True
        known = self._differing.get(node)
        if known is not None and known.terms.mark.digest == mark.digest:
            self._differing[node] = known._replace(heard_at=now)
        return False

    def may_tell(self, node: NodeId, interval_s: float, now: float) -> bool:
        """Whether it is time to say what our terms are, for *node* that has others."""
        if now - self._told_at < (AGAIN_S if node in self._differing else interval_s):
            return False
        self._told_at = now
        return True

    def weigh(self, terms: Terms) -> Verdict:
        """What *terms* of another are to ours."""
        mine = self.terms
        if terms.mark.digest == mine.mark.digest:
            return Verdict.SAME
        if terms.revision > mine.revision and mine.mark.digest in terms.former:
            return Verdict.NEWER if self._settings_of(terms) else Verdict.OTHER
        if mine.revision > terms.revision and terms.mark.digest in mine.former:
            return Verdict.OLDER
        return Verdict.OTHER

    def note(self, node: NodeId, terms: Terms, now: float) -> bool:
        """Remember that *node* has other terms; whether that is news.

        Who forges packets with ever other terms is not told of more often than is of use.
        """
        known = self._differing.get(node)
        if known is None and len(self._differing) >= DIFFERING_MAX:
            oldest = min(self._differing, key=lambda each: self._differing[each].heard_at)
            del self._differing[oldest]
        told = b"" if known is None else known.told
        is_news = told != terms.mark.digest and self._may_be_news(node, now)
        if is_news:
            told = terms.mark.digest
            self._news.append((node, now))
        self._differing[node] = Differing(terms, now, told)
        return is_news

    def _may_be_news(self, node: NodeId, now: float) -> bool:
        of_late = [each for each, told_at in self._news if now - told_at < HEARD_S]
        return node not in of_late and len(of_late) < DIFFERING_MAX

    def differing(self, now: float) -> Iterator[tuple[NodeId, Terms]]:
        """The nodes with other terms that were heard of late."""
        for node, each in sorted(self._differing.items()):
            if now - each.heard_at < HEARD_S:
                yield node, each.terms

    def adopt(self, terms: Terms) -> bool:
        """Have *terms* from now on; False if this node cannot have them."""
        settings = self._settings_of(terms)
        if settings is None:
            return False
        self.settings = settings
        self.terms = terms
        for node in [
            each
            for each, known in self._differing.items()
            if known.terms.mark.digest == terms.mark.digest
        ]:
            del self._differing[node]
        return True

    def merge(self, terms: Terms) -> None:
        """Take over what another with the same values knows of former ones.

        Without it, a node that was restarted with them would refuse whoever is merely out of date.
        """
        one, other = sorted(
            (self.terms, terms), key=lambda each: (each.revision, each.former), reverse=True
        )
        former = tuple(dict.fromkeys((*one.former, *other.former)))[:FORMER_MAX]
        self.terms = Terms(one.revision, former, one.values)

    def _settings_of(self, terms: Terms) -> RingSettings | None:
        try:
            settings = self.settings.with_shared(terms.values)
        except ValueError:
            return None
        return None if fixed(self.settings, settings) else settings


def fixed(old: RingSettings, new: RingSettings) -> str | None:
    """The name of a setting that differs, and cannot change while a ring runs."""
    for name in RingSettings.model_fields:
        if getattr(old, name) != getattr(new, name) and not mark_of(RingSettings, name, "change"):
            return name
    return None

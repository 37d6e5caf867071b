"""Changes: what a running ring changes about itself, in its own order: its settings and its key.

Both are control messages among those about groups. Settings change at one place of the order, the
same at every node; the key changes in steps (see ``rekeying``).
"""

from collections.abc import Collection, Sequence
from typing import Final

from vsync.engine.agreement import Agreement, fixed
from vsync.engine.groups import EngineOutput, RingNews, SettingsChanged, SettingsWishEnded
from vsync.engine.rekeying import KeyChangeEnded, KeyStep, Rekeying
from vsync.errors import MisuseError
from vsync.events import ConfigurationChanged
from vsync.settings import RingSettings
from vsync.vocabulary import Configuration, Kind, NodeId, RingId
from vsync.wire.group import ControlMessage
from vsync.wire.rekey import KeyNews
from vsync.wire.terms import NO_BASE, REVISION_MAX, ChangeTerms, Terms

NO_REVISION_LEFT: Final = (
    "somebody has forged that this ring's settings were changed as often as can be, so they cannot "
    "be once more; give the ring a key, and start all its nodes again"
)


class RingChanges:
    """One node's part in changes of the ring itself.

    *outgoing* is to be sent in order; *notices* are for the runtime.
    """

    def __init__(self, node: NodeId, agreement: Agreement) -> None:
        self._node = node
        self._agreement = agreement
        self.rekeying = Rekeying(node)
        self.outgoing: list[ControlMessage] = []
        self.notices: list[KeyStep | KeyChangeEnded | SettingsWishEnded] = []
        self._wish: RingSettings | None = None
        """Settings that this node wants the ring to have."""
        self._wish_sent = False
        self._passed_on: tuple[RingId, Terms] | None = None
        """What was passed on and has not come to its place in the order."""
        self._left: list[NodeId] = []
        """Who has left since the last regular configuration."""

    # --- what this node wants -------------------------------------------------------------------

    def wish(self, settings: RingSettings) -> None:
        """Have the ring use *settings*; a ``SettingsWishEnded`` says what came of it.

        Raises MisuseError for what cannot change, or while another wish is under way.
        """
        name = fixed(self._agreement.settings, settings)
        if name is not None:
            raise MisuseError(f"{name} in [ring] cannot change while the ring runs")
        if self._wish is not None:
            raise MisuseError("another change of the ring's settings is under way; try again")
        self._wish, self._wish_sent = settings, False

    def withdraw(self) -> bool:
        """Take the wish back; False if the ring may have it already, and will say what it does."""
        if self._wish_sent:
            return False
        self._wish = None
        return True

    def pursue(self, ring: RingId | None, *, settled: bool) -> None:
        """Propose what is wanted, if it can be now."""
        wish = self._wish
        if wish is not None and settled and ring is not None and not self._wish_sent:
            terms = self._agreement.terms
            if terms.revision >= REVISION_MAX:
                self._wish = None
                self.notices.append(SettingsWishEnded(NO_REVISION_LEFT))
                return
            self._wish_sent = True
            changed = terms.changed_to(wish.shared())
            self.outgoing.append(ChangeTerms(ring, terms.mark.digest, changed))

    def pass_on(self, ring: RingId | None, terms: Terms) -> None:
        """Tell the members what this ring's terms were changed to, as another ring has said."""
        if ring is not None and (self._passed_on is None or self._passed_on[0] != ring):
            self._passed_on = ring, terms  # one at a time: any number can be forged
            self.outgoing.append(ChangeTerms(ring, NO_BASE, terms))

    def announcements(self, ring: RingId) -> list[ControlMessage]:
        """What to say first in a regular configuration, to those who may not know."""
        self._wish_sent = False
        if self._agreement.terms.revision == 0:
            return []
        return [ChangeTerms(ring, NO_BASE, self._agreement.terms)]

    # --- what the ring says ---------------------------------------------------------------------

    def read(
        self, events: Sequence[EngineOutput | RingNews], members: Collection[NodeId]
    ) -> list[EngineOutput]:
        """*events*, but what concerns the ring itself done, and told as what it means."""
        out: list[EngineOutput] = []
        for event in events:
            if type(event) is not RingNews:
                if isinstance(event, ConfigurationChanged):
                    self._follow(event.configuration)
                out.append(event)  # type: ignore[arg-type]  # mypy does not narrow by type()
            elif isinstance(event.message, KeyNews):
                self.rekeying.hear(event.sender, event.message, members)
            else:
                self._change_terms(event.sender, event.message, event, out)
        self.collect()
        return out

    def _follow(self, configuration: Configuration) -> None:
        """What is said after this place is said in another configuration."""
        self._left += configuration.left
        if configuration.kind is Kind.REGULAR:
            self.rekeying.configured(configuration.members, self._left)
            self._left.clear()

    def collect(self) -> None:
        """Take over what ``rekeying`` has to say."""
        rekeying = self.rekeying
        self.outgoing += rekeying.outgoing
        self.notices += rekeying.notices
        rekeying.outgoing.clear()
        rekeying.notices.clear()

    def _change_terms(
        self, sender: NodeId, message: ChangeTerms, news: RingNews, out: list[EngineOutput]
    ) -> None:
        agreement, terms = self._agreement, message.terms
        mine = agreement.mark
        if message.ring != news.ring:
            return  # of another configuration: nobody takes it
        if sender == self._node and self._passed_on == (message.ring, terms):
            self._passed_on = None
        if message.base == NO_BASE:
            wanted = terms.mark > mine and terms.mark.digest != mine.digest
            if terms.mark.digest == mine.digest:
                agreement.merge(terms)
        else:
            wanted = news.settled and message.base == mine.digest
        old = agreement.settings
        if wanted and agreement.adopt(terms) and terms.mark.digest != mine.digest:
            out.append(SettingsChanged(sender, old, agreement.settings))
        if self._wish is not None and self._wish_sent and sender == self._node:
            self._look_at_wish(message, wanted, news)

    def _look_at_wish(self, message: ChangeTerms, granted: bool, news: RingNews) -> None:
        """Our own proposal has come to its place in the order."""
        if message.base == NO_BASE:
            return
        if granted:
            failure = ""
        elif not news.settled:
            self._wish_sent = False  # once more, when all nodes have announced themselves
            return
        else:
            failure = (
                "the ring's settings were changed by another node at the same time; look at the "
                "difference again"
            )
        self._wish = None
        self.notices.append(SettingsWishEnded(failure))

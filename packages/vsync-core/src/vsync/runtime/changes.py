"""Changes of the ring itself as a driver sees them: who waits for what, and sentences about them.

Used by the ring's thread alone.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeAlias

from vsync.engine import Engine
from vsync.engine.groups import SettingsChanged, SettingsDiffer, SettingsWishEnded
from vsync.engine.rekeying import KeyChangeEnded, KeyStep, Step
from vsync.errors import ChangeFailed
from vsync.settings import RingSettings
from vsync.vocabulary import NodeId
from vsync.wire import KeyNews
from vsync.wire.terms import Values, differences

logger = logging.getLogger(__name__)

Change: TypeAlias = SettingsChanged | SettingsDiffer | SettingsWishEnded | KeyStep | KeyChangeEnded

DOING = {Step.UNDO: "accept", Step.ACCEPT: "use", Step.USE: "drop", Step.DROP: "drop"}
"""What is being done, by what all have done."""

GIVE_UP = "give up"
"""What is being done if the change is to be given up."""


class RingDesk:
    """Whoever wants the ring to change waits here. *tell* is given what the node has to see."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.tell: Callable[[SettingsChanged | KeyStep], None] = lambda change: None
        self._settings_wish: Future[None] | None = None
        self._key_wishes: dict[tuple[bytes, int], list[Future[None]]] = {}

    def change_settings(self, settings: RingSettings, answer: "Future[None]", now: float) -> None:
        """Have the ring use *settings*; *answer* is given when it does, or says why not."""
        self._engine.change_settings(settings, now)
        self._settings_wish = answer

    def give_up_settings(self) -> None:
        """Wait no more, if the ring has not been asked yet."""
        if self._engine.changes.withdraw():
            self._end_settings_wish(
                "no configuration of the ring came about; see `vsync status`, and try again"
            )

    def change_key(self, news: KeyNews, answer: "Future[None]", now: float) -> KeyNews:
        """Change the key, or take part in the change under way; which one it is."""
        engine = self._engine
        known = engine.changes.rekeying.known
        if known is not None:
            without = known.without | news.without
            news = KeyNews(known.attempt, known.new, known.old, without=without)
        engine.change_key(news, now)
        self._key_wishes.setdefault(news.name, []).append(answer)
        return news

    def handle(self, change: Change) -> None:
        """Take in what the engine says."""
        node = self._engine.node
        match change:
            case SettingsChanged(by, old, new):
                logger.warning("node %d: %s", node, changed_sentence(by, old, new))
                self.tell(change)
            case SettingsDiffer(other, terms):
                mine = self._engine.agreement.terms.values
                logger.warning("node %d: %s", node, differ_sentence(other, mine, terms.values))
            case SettingsWishEnded(failure):
                self._end_settings_wish(failure)
            case KeyStep():
                self.tell(change)
            case KeyChangeEnded((new, _), failure):
                if failure:
                    logger.error(
                        "node %d: the key was not changed to %s: %s", node, new.hex(), failure
                    )
                else:
                    logger.warning("node %d: the ring's key is %s now", node, new.hex())
                for answer in self._key_wishes.pop(change.name, ()):
                    _answer(answer, failure)

    def _end_settings_wish(self, failure: str) -> None:
        answer, self._settings_wish = self._settings_wish, None
        if answer is not None:
            _answer(answer, failure)

    def fail(self, error: BaseException) -> None:
        """Nothing will happen any more: let nobody wait."""
        waiting = [each for answers in self._key_wishes.values() for each in answers]
        if self._settings_wish is not None:
            waiting.append(self._settings_wish)
        self._key_wishes.clear()
        self._settings_wish = None
        for answer in waiting:
            answer.set_exception(error)

    def status(self) -> dict[str, Any]:
        """How far a change of the key is."""
        engine = self._engine
        rekeying = engine.changes.rekeying
        known = rekeying.known
        if known is None:
            return {"key_change": None}
        return {
            "key_change": {
                "old": known.old.hex(),
                "new": known.new.hex(),
                "step": GIVE_UP if rekeying.giving_up else DOING[rekeying.level(engine.members)],
                "waits_for": list(rekeying.waits_for(engine.members)),
                "without": sorted(known.without),
            }
        }

    def warnings(self, now: float) -> list[str]:
        """What is not as it should be."""
        engine = self._engine
        agreement, rekeying = engine.agreement, engine.changes.rekeying
        found = [
            differ_sentence(node, agreement.terms.values, terms.values)
            for node, terms in agreement.differing(now)
        ]
        away = [node for node in rekeying.waits_for(engine.members) if node not in engine.members]
        if away:
            found.append(
                f"the change of the key waits for node {', '.join(map(str, away))}, which is away: "
                f"start it, or go on with `vsync key rotate --without {away[0]}`; if it runs and "
                "cannot read the others, copy the key file to it and restart it"
            )
        return found


def _answer(answer: "Future[None]", failure: str) -> None:
    if failure:
        answer.set_exception(ChangeFailed(failure))
    else:
        answer.set_result(None)


def shown(value: float | None) -> str:
    """A setting's value as users write it."""
    if value is None:
        return "not known"
    return repr(int(value) if value.is_integer() and abs(value) < 2**53 else value)


def differ_sentence(node: NodeId, mine: Values, theirs: Values) -> str:
    """What to do about a node with other settings."""
    listed = ", ".join(
        f"{name} is {shown(there)} there and {shown(here)} here"
        for name, here, there in differences(mine, theirs)
    )
    return (
        f"node {node} and this one form no ring, since their settings in [ring] differ: {listed}; "
        "make the settings file right where it is wrong, and use `vsync reload` there"
    )


def changed_sentence(node: NodeId, old: RingSettings, new: RingSettings) -> str:
    """What has changed."""
    listed = ", ".join(
        f"{name} from {shown(before)} to {shown(after)}"
        for name, before, after in differences(old.shared(), new.shared())
    )
    return f"the ring's settings were changed by node {node}: {listed}"

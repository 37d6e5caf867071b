"""Neighbours: which life of which node was met, at what address, and whom to leave alone.

Two rings merge only after their representatives know that they hear each other both ways: a
one-way cut would otherwise make the hearing side gather for ever. A node that was heard, joined
and still could not be agreed with is avoided for a while, longer each time.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from vsync.transport import Address
from vsync.vocabulary import NodeId

AVOID_FIRST_S: Final = 0.2
AVOID_MAX_S: Final = 2.0

DUPLICATE_FRAMES: Final = 3
"""Frames of an older life before we believe that it lives: one or two may be late ones of a former
life."""

HEARD_BEACONS: Final = 4
"""A representative counts as heard for this many beacon intervals."""

MET_MAX: Final = 4096
"""Nodes remembered between two configurations; beyond it strangers are forgotten."""


class Meeting(Enum):
    """What a frame's life says of its sender."""

    SAME_LIFE = auto()  #: the one that we know, or the first that we meet
    NEW_LIFE = auto()  #: the node was restarted since we met it
    FORMER_LIFE = auto()  #: a late frame of a life that has ended; it must be ignored


@dataclass(slots=True)
class Farewell:
    """A life that has left, and how often an older one has spoken since."""

    life: int
    frames: int = 0
    since: float = 0.0


NOBODY: Final = Farewell(-1)


class Neighbours:
    """What a node remembers of the others on its network."""

    def __init__(self, me: NodeId, life: int, now: float, join_s: float, beacon_s: float) -> None:
        self._me = me
        self._life = life
        self._join_s = join_s
        self._beacon_s = beacon_s
        self._lives: dict[NodeId, int] = {}
        self._addresses: dict[NodeId, Address] = {}
        self._kept: AbstractSet[NodeId] = frozenset()
        """The members of our ring."""
        self._joins: dict[NodeId, int] = {}
        self._representatives: dict[NodeId, float] = {}
        self._avoided: dict[NodeId, tuple[float, float]] = {}
        self._beacon_sent_at = now - beacon_s
        self._duplicates = 0
        self._duplicate_since = now
        self._farewells: dict[NodeId, Farewell] = {}

    def retime(self, join_s: float, beacon_s: float) -> None:
        """The ring has other settings from now on."""
        self._join_s = join_s
        self._beacon_s = beacon_s

    def meet(self, node: NodeId, life: int, source: Address, now: float) -> Meeting:
        """Note where *node* is, unless the frame is a late one of a former life of it."""
        known = self._lives.get(node)
        if known is not None and life < known:
            if not self._outlived(node, known, now):
                return Meeting.FORMER_LIFE
            self._joins.pop(node, None)
            known = None
        if known is None and len(self._lives) >= MET_MAX:
            self._lives.clear()
            self._joins.clear()
            kept = self._kept
            self._addresses = {each: at for each, at in self._addresses.items() if each in kept}
        self._lives[node] = life
        self._addresses[node] = source
        if known is not None and life > known:
            self._joins.pop(node, None)
            self._avoided.pop(node, None)
            return Meeting.NEW_LIFE
        return Meeting.SAME_LIFE

    def _outlived(self, node: NodeId, known: int, now: float) -> bool:
        """An older life than the *known* one speaks. True if it lives and the known one has left:
        they shared a number by mistake, and the younger stopped."""
        farewell = self._farewells.get(node)
        if farewell is None or farewell.life != known:
            return False
        if farewell.frames == 0:
            farewell.since = now
        farewell.frames += 1
        return (
            farewell.frames >= DUPLICATE_FRAMES
            and now - farewell.since >= DUPLICATE_FRAMES * self._join_s
        )

    def left(self, node: NodeId, life: int) -> None:
        """*node* has said farewell."""
        if self._farewells.get(node, NOBODY).life != life:
            if len(self._farewells) >= MET_MAX:
                self._farewells.clear()
            self._farewells[node] = Farewell(life)

    def is_latest(self, node: NodeId, number: int) -> bool:
        """Whether *number* is that of a newer join than any that came from this life of *node*."""
        if number <= self._joins.get(node, -1):
            return False
        self._joins[node] = number
        return True

    def lives(self, nodes: Iterable[NodeId]) -> dict[NodeId, int]:
        """The lives in which *nodes* were met last."""
        lives = self._lives | {self._me: self._life}
        return {node: lives[node] for node in nodes if node in lives}

    def address(self, node: NodeId) -> Address | None:
        """Where *node* was last; None if it was never met."""
        return self._addresses.get(node)

    def duplicate(self, life: int, now: float) -> bool:
        """A frame with our own number and another *life* came. True if we are the one to stop:
        the younger of two that are both alive."""
        if life >= self._life:
            return False
        if self._duplicates == 0:
            self._duplicate_since = now
        self._duplicates += 1
        return (
            self._duplicates >= DUPLICATE_FRAMES
            and now - self._duplicate_since >= DUPLICATE_FRAMES * self._join_s
        )

    def installed(
        self, members: Iterable[NodeId], *, given_up: AbstractSet[NodeId], now: float
    ) -> None:
        """A ring was formed; nodes in *given_up* were heard but could not be agreed with."""
        keep = self._kept = set(members) | {self._me}
        self._lives = {node: life for node, life in self._lives.items() if node in keep}
        self._addresses = {node: at for node, at in self._addresses.items() if node in keep}
        self._joins = {node: number for node, number in self._joins.items() if node in keep}
        for node in keep:
            self._avoided.pop(node, None)
            self._representatives.pop(node, None)
        for node in sorted(given_up):
            _, span = self._avoided.get(node, (0.0, AVOID_FIRST_S / 2))
            span = min(span * 2, AVOID_MAX_S)
            self._avoided[node] = (now + span, span)

    def avoided(self, node: NodeId, now: float) -> bool:
        """Whether *node*'s beacons are to be ignored for now."""
        until, _ = self._avoided.get(node, (now, 0.0))
        return until > now

    def hear_representative(self, node: NodeId, now: float) -> None:
        """A beacon of another ring came."""
        self._representatives[node] = now

    def representatives_heard(self, now: float) -> list[NodeId]:
        """Representatives of other rings heard of late, ascending."""
        since = now - HEARD_BEACONS * self._beacon_s
        self._representatives = {
            node: at for node, at in self._representatives.items() if at >= since
        }
        return sorted(self._representatives)

    def beacon_sent(self, now: float) -> None:
        """Our own beacon went out."""
        self._beacon_sent_at = now

    def may_answer(self, now: float) -> bool:
        """Whether a beacon may be answered at once, without a storm."""
        return now - self._beacon_sent_at >= self._beacon_s / 8

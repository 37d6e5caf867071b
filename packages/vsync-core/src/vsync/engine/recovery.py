"""Recovery: what the members of an old ring still owe each other (Totem, TOCS 1995, section 5.3).

All decisions follow from the filled commit token alone, so that all who read it decide alike.

One case needs care. On forming a ring R some node may install it while another loses the token
just before it would. When they meet again, the commit token shows it: the one has R as its
installed ring, the other as its last *attempt*. All that R's members owed each other had been
exchanged by then, or nobody could have installed R; so the other installs R now, late, and both
go on from there together.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from vsync.engine.log import Log
from vsync.vocabulary import Configuration, Kind, NodeId, RingId
from vsync.wire.control import Commit, Entry
from vsync.wire.data import Data


class Standing(NamedTuple):
    """Where a member comes from, once the commit token is filled."""

    ring: RingId
    aru: int
    high: int
    delivered: int
    owes: frozenset[NodeId]


def standings(commit: Commit) -> dict[NodeId, Standing]:
    """The ring that each member comes from: its last attempt, if another member installed that."""
    installed = {entry.ring for entry in commit.entries}
    return {entry.node: _standing(entry, installed) for entry in commit.entries}


def _standing(entry: Entry, installed: set[RingId]) -> Standing:
    if entry.attempt is not None and entry.attempt in installed:
        return Standing(entry.attempt, entry.attempt_aru, entry.attempt_high, 0, frozenset())
    return Standing(entry.ring, entry.aru, entry.high, entry.delivered, entry.owes)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one member does in the recovery of one ring."""

    ring: RingId  #: the ring being formed
    members: tuple[NodeId, ...]
    old_ring: RingId  #: the ring that this member comes from
    together: tuple[NodeId, ...]  #: the members that come from it too
    exchange_above: int | None  #: they exchange what they hold above this; None: nothing to do
    delivered_by_any: int  #: the highest number that any of them delivered in the old ring
    owed: frozenset[NodeId]  #: senders whose messages beyond a gap are delivered all the same

    @classmethod
    def read(cls, commit: Commit, me: NodeId) -> "Plan":
        """The plan that the filled commit token holds for *me*."""
        everyone = standings(commit)
        mine = everyone[me]
        group = {node: at for node, at in everyone.items() if at.ring == mine.ring}
        arus = {at.aru for at in group.values()}
        complete = len(arus) == 1 and all(at.high == at.aru for at in group.values())
        return cls(
            ring=commit.ring,
            members=commit.members,
            old_ring=mine.ring,
            together=tuple(sorted(group)),
            exchange_above=None if complete else min(arus),
            delivered_by_any=max(at.delivered for at in group.values()),
            owed=frozenset(group).union(*(at.owes for at in group.values())),
        )

    def transitional(self, old: Configuration) -> Configuration:
        """The transitional configuration between *old* and the ring being formed."""
        return Configuration(
            id=f"{self.old_ring}>{self.ring}",
            kind=Kind.TRANSITIONAL,
            members=self.together,
            left=tuple(node for node in old.members if node not in self.together),
            next=str(self.ring),
        )

    def regular(self) -> Configuration:
        """The configuration of the ring being formed."""
        return Configuration(
            id=str(self.ring),
            kind=Kind.REGULAR,
            members=self.members,
            joined=tuple(node for node in self.members if node not in self.together),
        )


@dataclass(slots=True)
class Attempt:
    """One try to form a ring, from the filled commit token until it is installed or given up."""

    plan: Plan
    log: Log
    queue: deque[Data]  #: old frames that this node still has to send
    seen: set[int] = field(default_factory=set)  #: old frames that somebody has sent
    started: bool = False  #: the first token of the ring was made, or came
    quiet_visits: int = 0  #: visits in a row at which nobody had anything to send
    asked: bool = False  #: this node set the token's flag
    all_sent: int = 0  #: the last sequence number of the exchange
    received_all: bool = False  #: this node has everything of the exchange
    full_visits: int = 0  #: visits in a row at which everyone had everything

    @property
    def backlog_packets(self) -> int:
        """About how many packets the queue takes; at least 1 while there is something in it."""
        return sum(max(1, len(frame.packets)) for frame in self.queue)

    def next_frame(self) -> Data | None:
        """The next old frame to send that nobody else has sent."""
        while self.queue:
            frame = self.queue.popleft()
            if frame.seq not in self.seen:
                return frame
        return None

    def visit(self, recovering: bool, seq: int, aru: int) -> tuple[bool, bool]:
        """The token is about to go on; the flag that it then carries, and whether all is done.

        Done means: twice in a row it was seen that everyone has all that was exchanged.
        """
        if self.queue:
            if not recovering:
                recovering = self.asked = True
        elif recovering and self.asked:
            recovering = self.asked = False
        self.quiet_visits = 0 if recovering else self.quiet_visits + 1
        if self.quiet_visits == 2:
            self.all_sent = seq
        if self.quiet_visits >= 2 and self.log.aru >= self.all_sent:
            self.received_all = True
        if self.quiet_visits >= 3 and aru >= self.all_sent:
            self.full_visits += 1
        else:
            self.full_visits = 0
        return recovering, self.full_visits == 2

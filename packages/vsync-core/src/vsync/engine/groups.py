"""Groups over the ring: which sessions are in which, and the views that say so.

Every node keeps the members of every group, and all keep the same, since they apply the same
control messages at the same places of the total order. After a configuration change that no longer
holds by itself: sides that come together know nothing of each other's groups. So in each regular
configuration every node *announces* its own sessions, and only when all have is the next view
delivered: one for each group that changed, the same at every node. Meanwhile the groups are as they
were, less those whose nodes are gone.

After that the nodes *synchronize*: each says when its services are done, and when all have said it,
the ring is *synchronized* and ordinary messages flow again (the recovery plug of openais, by
messages in the total order in place of bits in the token).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from vsync.engine.rekeying import KeyChangeEnded, KeyStep
from vsync.engine.runs import Run
from vsync.engine.streams import Control, Ordered
from vsync.errors import NotMember
from vsync.events import ConfigurationChanged, Delivery, GroupChanged, Move
from vsync.settings import RingSettings
from vsync.vocabulary import Cause, Configuration, GroupKey, Kind, Member, NodeId, RingId
from vsync.wire.group import (
    GROUPS_MAX,
    MEMBERSHIPS_MAX,
    Announce,
    ControlMessage,
    JoinGroups,
    LeaveGroups,
    Membership,
    Synchronized,
)
from vsync.wire.rekey import KeyNews
from vsync.wire.terms import ChangeTerms, Terms

SESSION_MAX: Final = 2**32 - 1


class Settled(NamedTuple):
    """All nodes of *configuration* have announced their groups; services synchronize now."""

    configuration: Configuration


class RingNews(NamedTuple):
    """Something that a node says of the ring itself, at its place in the order of *ring*.

    *settled*: all nodes had announced themselves before it.
    """

    sender: NodeId
    message: ChangeTerms | KeyNews
    ring: RingId
    settled: bool


class SettingsChanged(NamedTuple):
    """From here on the ring has *new* settings in place of *old* ones, since *node* said so."""

    node: NodeId
    old: RingSettings
    new: RingSettings


class SettingsWishEnded(NamedTuple):
    """The ring has the settings that this node wanted; or not, for the reason *failure*."""

    failure: str


class SettingsDiffer(NamedTuple):
    """*node* is let be, and its ring: the settings that all nodes share are other ones there."""

    node: NodeId
    terms: Terms


class JoinRefused(NamedTuple):
    """A join of this node's *session* was refused, at its place in the order."""

    session: int
    group: GroupKey
    reason: str


class SynchronizeLate(NamedTuple):
    """The service *name* of this node has not synchronized in time; it is waited for no more."""

    name: str


Notice: TypeAlias = (
    Settled
    | JoinRefused
    | SynchronizeLate
    | SettingsChanged
    | SettingsDiffer
    | SettingsWishEnded
    | KeyStep
    | KeyChangeEnded
)
"""What the engine tells the runtime alone."""

EngineEvent: TypeAlias = Delivery | ConfigurationChanged | GroupChanged | Notice
EngineOutput: TypeAlias = Run | ConfigurationChanged | GroupChanged | Notice
"""The same, with deliveries in runs."""


def events_of(outputs: Iterable[EngineOutput]) -> list[EngineEvent]:
    """The same, one by one."""
    events: list[EngineEvent] = []
    for each in outputs:
        if isinstance(each, Run):
            events += each.deliveries
        else:
            events.append(each)
    return events


@dataclass(slots=True)
class Group:
    """One group, as far as views have told of it."""

    closed: bool = False
    members: set[Member] = field(default_factory=set)


Memberships: TypeAlias = dict[GroupKey, dict[int, bool]]
"""Of one node's sessions: by group, by session, whether the session knows the group as closed."""


class Groups:
    """The groups of a ring as one of its nodes sees them.

    *outgoing* are the control messages that are to be sent, in their order.
    """

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._mine: dict[int, dict[GroupKey, bool]] = {}
        """What this node's sessions have asked for, ordered yet or not."""
        self._table: dict[GroupKey, Group] = {}
        self._closed: set[GroupKey] = set()
        self._covered: frozenset[NodeId] = frozenset()
        """The nodes whose sessions the table has."""
        self._configuration: Configuration | None = None
        self._ring: RingId | None = None
        self._announcing: dict[NodeId, Memberships] | None = None
        """While not all have announced: what has come of each."""
        self._announced: set[NodeId] = set()
        self._postponed: list[tuple[NodeId, JoinGroups | LeaveGroups]] = []
        """What nodes that have announced say before all have; it counts when all have."""
        self._causes: dict[tuple[Member, GroupKey | None], Cause] = {}
        """Why sessions have left since the nodes were last settled."""
        self._synchronized: set[NodeId] = set()
        self.outgoing: list[ControlMessage] = []

    # --- this node's sessions -------------------------------------------------------------------

    def join(self, session: int, groups: Collection[GroupKey], closed: bool) -> None:
        """A session of this node joins *groups*; the view with it comes in its turn."""
        mine = self._mine.setdefault(session, {})
        new = [group for group in groups if group not in mine]
        mine.update(dict.fromkeys(new, closed))
        if self._configuration is not None:  # else the announcement tells of it
            for start in range(0, len(new), GROUPS_MAX):
                part = tuple(new[start : start + GROUPS_MAX])
                self.outgoing.append(JoinGroups(session, closed, part))

    def leave(self, session: int, groups: Collection[GroupKey]) -> None:
        """A session of this node leaves *groups*; the view without it comes in its turn."""
        mine = self._mine.get(session, {})
        known = [group for group in groups if mine.pop(group, None) is not None]
        if self._configuration is not None:
            for start in range(0, len(known), GROUPS_MAX):
                part = tuple(known[start : start + GROUPS_MAX])
                self.outgoing.append(LeaveGroups(session, Cause.LEFT, part))

    def close(self, session: int, cause: Cause) -> None:
        """A session of this node has ended; it leaves all its groups."""
        if self._mine.pop(session, None) and self._configuration is not None:
            self.outgoing.append(LeaveGroups(session, cause, ()))

    def close_all(self) -> None:
        """All sessions of this node leave their groups, since it leaves the ring."""
        for session in sorted(self._mine):
            self.close(session, Cause.LEFT)

    def check_sender(self, session: int, groups: Iterable[GroupKey]) -> None:
        """Raise NotMember if one of *groups* is closed and *session* of this node is not in it.

        May be called from any thread.
        """
        if self._closed:
            member = Member(self._node, session)
            for group in groups:
                if group in self._closed:
                    known = self._table.get(group)
                    if known is not None and member not in known.members:
                        raise NotMember(
                            f"group {group} is closed: only its members send to it; join it first"
                        )

    # --- what the ring has ordered --------------------------------------------------------------

    def read(
        self, ordered: Iterable[Ordered | ConfigurationChanged]
    ) -> list[EngineOutput | RingNews]:
        """What the application is to see for what the ring has ordered, in the same order."""
        out: list[EngineOutput | RingNews] = []
        for each in ordered:
            if type(each) is Control:
                self._read_control(each.sender, each.message, out)
            elif type(each) is Run:
                out.append(each)
            else:
                assert isinstance(each, ConfigurationChanged)
                out.append(each)
                self._configure(each.configuration, out)
        return out

    @property
    def ring(self) -> RingId | None:
        """The ring of the last regular configuration."""
        return self._ring

    @property
    def settled(self) -> bool:
        """Every node of the configuration has announced its groups."""
        return self._configuration is not None and self._announcing is None

    @property
    def synchronized(self) -> bool:
        """Every node of the configuration has said that its services are done."""
        return (
            self.settled
            and self._configuration is not None
            and self._synchronized.issuperset(self._configuration.members)
        )

    def synchronize(self) -> None:
        """This node's services are done with the configuration."""
        assert self._ring is not None
        self.outgoing.append(Synchronized(self._ring))

    def _configure(self, configuration: Configuration, out: list[EngineOutput | RingNews]) -> None:
        self._configuration = configuration
        if configuration.kind is Kind.TRANSITIONAL:
            self._covered &= frozenset(configuration.members)
            self._remove_lost(out)
            return
        self._ring = RingId.from_text(configuration.id)
        # A node may be back before we saw it gone: then its former sessions went with its old ring.
        self._covered -= frozenset(configuration.joined)
        self._remove_lost(out)
        self._announcing = {}
        self._announced.clear()
        self._postponed.clear()  # the announcements to come tell of it
        self._synchronized.clear()
        self._announce(self._ring, out)

    def _remove_lost(self, out: list[EngineOutput | RingNews]) -> None:
        """Take out the members whose nodes are gone."""
        for key in sorted(self._table, key=_by_key):
            members = self._table[key].members
            lost = sorted(member for member in members if member.node not in self._covered)
            if lost:
                members.difference_update(lost)
                gone = tuple(Move(member, Cause.NODE_GONE) for member in lost)
                self._view(key, (), gone, out)

    def _announce(self, ring: RingId, out: list[EngineOutput | RingNews]) -> None:
        memberships: list[Membership] = []
        for session, groups in sorted(self._mine.items()):
            member = Member(self._node, session)
            for key, closed in tuple(groups.items()):
                group = self._table.get(key)
                if closed and group is not None and not (group.closed or member in group.members):
                    self._refuse(member, key, out)  # others could not tell what it asked for
                    continue
                now = closed if group is None else group.closed
                memberships.append(Membership(session, now, key))
        starts = range(0, max(1, len(memberships)), MEMBERSHIPS_MAX)
        for start in starts:
            part = tuple(memberships[start : start + MEMBERSHIPS_MAX])
            self.outgoing.append(Announce(ring, start == starts[-1], part))

    def _read_control(
        self, sender: NodeId, message: ControlMessage, out: list[EngineOutput | RingNews]
    ) -> None:
        if self._configuration is None or sender not in self._configuration.members:
            return  # its sessions went with it
        match message:
            case Announce():
                if self._announcing is not None and message.ring == self._ring:
                    self._read_announcement(sender, message)
                    self._settle_if_complete(out)
            case JoinGroups() | LeaveGroups():
                if self._announcing is None:
                    self._move(sender, message, out)
                else:
                    self._postpone(sender, message)
            case Synchronized(ring):
                if ring == self._ring:
                    self._synchronized.add(sender)
            case ChangeTerms() | KeyNews():
                assert self._ring is not None
                out.append(RingNews(sender, message, self._ring, self.settled))

    def _move(
        self, sender: NodeId, message: JoinGroups | LeaveGroups, out: list[EngineOutput | RingNews]
    ) -> None:
        member = Member(sender, message.session)
        if isinstance(message, JoinGroups):
            self._join_now(member, message.closed, message.groups, out)
        else:
            self._leave_now(member, message.cause, message.groups, out)

    def _postpone(self, sender: NodeId, message: JoinGroups | LeaveGroups) -> None:
        """Not all have announced, so it is not known yet what this changes."""
        if sender in self._announced:  # else its announcement, to come, tells of it
            self._postponed.append((sender, message))
        if isinstance(message, LeaveGroups):  # but not why a session is gone
            member = Member(sender, message.session)
            self._causes |= dict.fromkeys(
                ((member, key) for key in message.groups or (None,)), message.cause
            )

    def _read_announcement(self, sender: NodeId, message: Announce) -> None:
        assert self._announcing is not None
        if sender in self._announced:
            return
        memberships = self._announcing.setdefault(sender, {})
        for session, closed, group in map(_fields, message.memberships):
            memberships.setdefault(group, {})[session] = closed
        if message.last:
            self._announced.add(sender)

    def _settle_if_complete(self, out: list[EngineOutput | RingNews]) -> None:
        """When the last node has announced: the next views, all at one place in the order."""
        configuration = self._configuration
        assert configuration is not None and self._announcing is not None
        if configuration.kind is not Kind.REGULAR or not self._announced.issuperset(
            configuration.members
        ):
            return
        table: dict[GroupKey, Group] = {}
        for node in configuration.members:
            for key, sessions in self._announcing[node].items():
                group = table.setdefault(key, Group())
                group.members.update(Member(node, session) for session in sessions)
                # Where sides with a closed and an open group of one key meet, closed wins.
                group.closed = group.closed or any(sessions.values())
        old, self._table, self._announcing = self._table, table, None
        self._closed = {key for key, group in table.items() if group.closed}
        for key in sorted(old.keys() | table.keys(), key=_by_key):
            before = old[key].members if key in old else set()
            after = table[key].members if key in table else set()
            if before != after:
                joined = tuple(
                    Move(
                        member,
                        Cause.JOINED if self._was_here(member.node) else Cause.MERGED,
                    )
                    for member in sorted(after - before)
                )
                left = tuple(
                    Move(member, self._cause(member, key)) for member in sorted(before - after)
                )
                self._view(key, joined, left, out)
        self._covered = frozenset(configuration.members)
        self._causes.clear()
        for sender, message in self._postponed:
            self._move(sender, message, out)
        self._postponed.clear()
        out.append(Settled(configuration))

    def _was_here(self, node: NodeId) -> bool:
        return node == self._node or node in self._covered

    def _cause(self, member: Member, key: GroupKey) -> Cause:
        """Why *member* left while the nodes announced."""
        cause = self._causes.get((member, key)) or self._causes.get((member, None))
        return cause or Cause.LEFT

    def _join_now(
        self,
        member: Member,
        closed: bool,
        keys: Sequence[GroupKey],
        out: list[EngineOutput | RingNews],
    ) -> None:
        for key in dict.fromkeys(keys):
            group = self._table.get(key)
            if group is None:
                group = self._table[key] = Group(closed)
                if closed:
                    self._closed.add(key)
            elif closed and not group.closed:
                self._refuse(member, key, out)
                continue
            if member not in group.members:
                group.members.add(member)
                self._view(key, (Move(member, Cause.JOINED),), (), out)

    def _refuse(self, member: Member, key: GroupKey, out: list[EngineOutput | RingNews]) -> None:
        if member.node == self._node:
            self._mine.get(member.session, {}).pop(key, None)
            out.append(
                JoinRefused(
                    member.session,
                    key,
                    f"cannot join group {key} as closed: it is open, since it was first joined "
                    "so; join it without closed=True, or choose another group",
                )
            )

    def _leave_now(
        self,
        member: Member,
        cause: Cause,
        keys: Sequence[GroupKey],
        out: list[EngineOutput | RingNews],
    ) -> None:
        if not keys:
            keys = sorted(
                (key for key, group in self._table.items() if member in group.members),
                key=_by_key,
            )
        for key in dict.fromkeys(keys):
            group = self._table.get(key)
            if group is not None and member in group.members:
                group.members.remove(member)
                self._view(key, (), (Move(member, cause),), out)

    def _view(
        self,
        key: GroupKey,
        joined: tuple[Move, ...],
        left: tuple[Move, ...],
        out: list[EngineOutput | RingNews],
    ) -> None:
        assert self._configuration is not None
        group = self._table.get(key)
        members = tuple(sorted(group.members)) if group is not None else ()
        closed = group is not None and group.closed
        out.append(GroupChanged(key, members, joined, left, closed, self._configuration))
        if not members:
            self._table.pop(key, None)
            self._closed.discard(key)

    # --- observables ----------------------------------------------------------------------------

    def members(self) -> Mapping[GroupKey, Sequence[Member]]:
        """The members of all groups, as the views have told. May be called from any thread."""
        table = dict(self._table)
        return {key: sorted(table[key].members) for key in sorted(table, key=_by_key)}


def _by_key(group: GroupKey) -> bytes:
    return group.key


def _fields(membership: Membership) -> tuple[int, bool, GroupKey]:
    return membership.session, membership.closed, membership.group

"""Groups: who is in which, as every node reads it out of the same order."""

from collections.abc import Sequence

import pytest

from vsync.engine.groups import EngineOutput, Groups, JoinRefused, RingNews, Settled
from vsync.engine.streams import Control
from vsync.errors import NotMember
from vsync.events import ConfigurationChanged, GroupChanged
from vsync.vocabulary import Cause, Configuration, GroupKey, Kind, Member, NodeId, RingId
from vsync.wire import Announce, ControlMessage, JoinGroups, Synchronized

G, H = GroupKey.from_name("g"), GroupKey.from_name("h")
ONE, TWO, THREE = map(NodeId, (1, 2, 3))


def regular(seq: int, *members: int, joined: Sequence[int] = ()) -> Configuration:
    return Configuration(
        id=f"{seq}.{members[0]}",
        kind=Kind.REGULAR,
        members=tuple(map(NodeId, members)),
        joined=tuple(map(NodeId, joined)),
    )


def transitional(old: int, new: int, *members: int, left: Sequence[int] = ()) -> Configuration:
    return Configuration(
        id=f"{old}.1>{new}.{members[0]}",
        kind=Kind.TRANSITIONAL,
        members=tuple(map(NodeId, members)),
        left=tuple(map(NodeId, left)),
        next=f"{new}.{members[0]}",
    )


class Ring:
    """Groups of several nodes, and an order that all of them read."""

    def __init__(self, *nodes: int) -> None:
        self.groups = {NodeId(node): Groups(NodeId(node)) for node in nodes}
        self.events: dict[NodeId, list[EngineOutput]] = {node: [] for node in self.groups}

    def read(self, node: int, *ordered: Control | ConfigurationChanged) -> None:
        for event in self.groups[NodeId(node)].read(ordered):
            assert not isinstance(event, RingNews)  # nobody has any here
            self.events[NodeId(node)].append(event)

    def configure(self, configuration: Configuration) -> None:
        for node in configuration.members:
            self.read(node, ConfigurationChanged(configuration))

    def order(self, *nodes: int, among: Sequence[int] | None = None) -> None:
        """Order what these nodes have to say, all that there is of each in turn."""
        receivers = among if among is not None else tuple(self.groups)
        for node in nodes or tuple(self.groups):
            groups = self.groups[NodeId(node)]
            outgoing, groups.outgoing = groups.outgoing, []
            for message in outgoing:
                for receiver in receivers:
                    self.read(receiver, Control(NodeId(node), message))

    def views(self, node: int) -> list[GroupChanged]:
        """The views that *node* has had since the last call."""
        events = self.events[NodeId(node)]
        views = [event for event in events if isinstance(event, GroupChanged)]
        events.clear()
        return views


def moves(view: GroupChanged) -> list[tuple[int, int, str]]:
    return [
        (move.member.node, move.member.session, move.cause.value)
        for move in (*view.joined, *view.left)
    ]


def settled(*nodes: int) -> Ring:
    ring = Ring(*nodes)
    ring.configure(regular(2, *nodes, joined=nodes))
    ring.order()
    return ring


def test_a_join_is_one_view_alike_for_all() -> None:
    ring = settled(1, 2)
    ring.groups[TWO].join(7, [G], closed=False)
    ring.order()
    (one,), (two,) = ring.views(1), ring.views(2)
    assert one == two
    assert one.members == (Member(TWO, 7),)
    assert moves(one) == [(2, 7, "joined")]


def test_a_leave_and_a_death_say_why() -> None:
    ring = settled(1, 2)
    ring.groups[TWO].join(7, [G, H], closed=False)
    ring.groups[TWO].join(8, [G], closed=False)
    ring.order()
    ring.views(1)
    ring.groups[TWO].leave(7, [H])
    ring.groups[TWO].close(8, Cause.DIED)
    ring.groups[TWO].close(7, Cause.EVICTED)
    ring.order()
    assert [(view.group, moves(view)) for view in ring.views(1)] == [
        (H, [(2, 7, "left")]),
        (G, [(2, 8, "process died")]),
        (G, [(2, 7, "evicted")]),
    ]
    assert ring.groups[ONE].members() == {}


def test_a_session_that_joined_before_the_first_configuration_comes_with_its_announcement() -> None:
    ring = Ring(1, 2)
    ring.groups[ONE].join(1, [G], closed=False)
    assert ring.groups[ONE].outgoing == []
    ring.configure(regular(2, 1, 2, joined=(1, 2)))
    ring.order()
    assert [moves(view) for view in ring.views(1)] == [[(1, 1, "joined")]]
    assert [moves(view) for view in ring.views(2)] == [[(1, 1, "merged in")]]


def test_a_lost_node_takes_its_sessions_with_it_at_once() -> None:
    ring = settled(1, 2, 3)
    for node in (1, 3):
        ring.groups[NodeId(node)].join(5, [G], closed=False)
    ring.order()
    ring.views(1)
    ring.read(1, ConfigurationChanged(transitional(2, 3, 1, 2, left=(3,))))
    (view,) = ring.views(1)
    assert moves(view) == [(3, 5, "node gone")]
    assert view.members == (Member(ONE, 5),)
    assert view.configuration.kind is Kind.TRANSITIONAL


def test_two_sides_that_merge_see_one_view_and_the_same_members() -> None:
    ring = settled(1, 2)
    other = settled(3)
    ring.groups[ONE].join(1, [G], closed=False)
    ring.order()
    other.groups[THREE].join(1, [G, H], closed=False)
    other.order()
    merged = Ring()
    merged.groups = ring.groups | other.groups
    merged.events = {node: [] for node in merged.groups}
    for node, old, together in ((1, 2, (1, 2)), (2, 2, (1, 2)), (3, 2, (3,))):
        merged.read(node, ConfigurationChanged(transitional(old, 5, *together)))
    for node, joined in ((1, (3,)), (2, (3,)), (3, (1, 2))):
        merged.read(node, ConfigurationChanged(regular(5, 1, 2, 3, joined=joined)))
    merged.order(1)
    merged.order(3)
    assert merged.views(1) == merged.views(3) == []  # not before all have announced
    merged.order(2)
    assert [(view.group, moves(view)) for view in merged.views(1)] == [
        (G, [(3, 1, "merged in")]),
        (H, [(3, 1, "merged in")]),
    ]
    assert [(view.group, moves(view)) for view in merged.views(3)] == [(G, [(1, 1, "merged in")])]
    assert len({str(groups.members()) for groups in merged.groups.values()}) == 1


def announcing(*nodes: int) -> Ring:
    """Nodes with session 1 each in G, in a new configuration where nobody has announced."""
    ring = settled(*nodes)
    for node in nodes:
        ring.groups[NodeId(node)].join(1, [G], closed=False)
    ring.order()
    ring.configure(transitional(2, 3, *nodes))
    ring.configure(regular(3, *nodes))
    for node in nodes:
        ring.views(node)
    return ring


def test_what_happens_while_nodes_announce_is_seen_once_all_have() -> None:
    ring = announcing(1, 2)
    ring.groups[ONE].join(9, [G], closed=False)  # after its announcement
    ring.groups[ONE].close(1, Cause.DIED)
    ring.order(1)
    assert ring.views(2) == []
    ring.order(2)
    assert [moves(view) for view in ring.views(2)] == [
        [(1, 9, "joined")],
        [(1, 1, "process died")],
    ]
    assert ring.groups[ONE].members() == {G: [Member(ONE, 9), Member(TWO, 1)]}


def test_what_was_said_before_the_announcement_is_in_the_view_that_follows() -> None:
    ring = announcing(1, 2)
    ring.groups[ONE].outgoing.clear()
    ring.groups[ONE].close(1, Cause.DIED)
    ring.groups[ONE].outgoing.append(Announce(RingId(3, ONE), True, ()))
    ring.order()
    assert [moves(view) for view in ring.views(2)] == [[(1, 1, "process died")]]


def test_a_cause_outlives_a_configuration_that_never_settled() -> None:
    ring = announcing(1, 2)
    ring.groups[ONE].close(1, Cause.DIED)
    ring.order(1)
    ring.groups[TWO].outgoing.clear()  # what is sent too late for this configuration
    ring.configure(transitional(3, 4, 1, 2))
    ring.configure(regular(4, 1, 2))
    ring.order()
    assert [moves(view) for view in ring.views(2)] == [[(1, 1, "process died")]]


def test_a_join_as_closed_while_nodes_announce_does_not_close_an_open_group() -> None:
    ring = announcing(1, 2)
    ring.groups[ONE].join(9, [G], closed=True)
    ring.order()
    (refused,) = [each for each in ring.events[ONE] if isinstance(each, JoinRefused)]
    assert (refused.session, refused.group) == (9, G)
    for groups in ring.groups.values():
        groups.check_sender(7, [G])
        assert groups.members() == {G: [Member(ONE, 1), Member(TWO, 1)]}


def test_an_announcement_does_not_join_an_open_group_as_closed() -> None:
    ring = announcing(1, 2)
    for groups in ring.groups.values():
        groups.outgoing.clear()
    ring.groups[ONE].join(9, [G], closed=True)
    ring.configure(transitional(3, 4, 1, 2))
    ring.configure(regular(4, 1, 2))
    ring.order()
    told = [each for each in ring.events[ONE] if isinstance(each, JoinRefused | GroupChanged)]
    assert [type(each) for each in told] == [JoinRefused]
    assert ring.groups[TWO].members() == {G: [Member(ONE, 1), Member(TWO, 1)]}


def test_what_a_lost_node_said_last_brings_none_of_its_sessions_back() -> None:
    ring = settled(1, 2, 3)
    late = JoinGroups(5, False, (G,))
    ring.read(1, ConfigurationChanged(transitional(2, 3, 1, 2, left=(3,))))
    ring.read(1, Control(THREE, late))
    assert ring.views(1) == []
    assert ring.groups[ONE].members() == {}


def test_an_announcement_for_another_configuration_is_not_taken() -> None:
    ring = settled(1, 2)
    ring.configure(transitional(2, 3, 1, 2))
    ring.configure(regular(3, 1, 2))
    stale = Announce(RingId(2, ONE), True, ())
    ring.read(1, Control(ONE, stale), Control(TWO, stale))
    assert not ring.groups[ONE].settled
    ring.order()
    assert ring.groups[ONE].settled


def test_a_change_while_nodes_announce_begins_anew() -> None:
    ring = settled(1, 2, 3)
    ring.groups[THREE].join(1, [G], closed=False)
    ring.order()
    ring.configure(transitional(2, 3, 1, 2, 3))
    ring.configure(regular(3, 1, 2, 3))
    ring.order(1)
    ring.order(3)  # and now it dies, before 2 has announced
    ring.views(1)
    for configuration in (transitional(3, 4, 1, 2, left=(3,)), regular(4, 1, 2)):
        ring.read(1, ConfigurationChanged(configuration))
        ring.read(2, ConfigurationChanged(configuration))
    ring.order(1, 2, among=(1, 2))
    assert [moves(view) for view in ring.views(1)] == [[(3, 1, "node gone")]]
    assert ring.groups[ONE].settled and ring.groups[TWO].settled
    assert ring.groups[ONE].members() == {}


def test_a_long_announcement_comes_in_parts_and_counts_when_the_last_is_there() -> None:
    ring = Ring(1, 2)
    groups = [GroupKey(number.to_bytes(32)) for number in range(3000)]
    ring.groups[ONE].join(1, groups, closed=False)
    ring.configure(regular(2, 1, 2, joined=(1, 2)))
    parts = list(ring.groups[ONE].outgoing)
    assert [isinstance(part, Announce) and part.last for part in parts] == [False, False, True]
    ring.order(2)
    ring.read(2, *(Control(ONE, part) for part in parts[:2]))
    assert not ring.groups[TWO].settled
    ring.read(2, Control(ONE, parts[2]))
    assert len(ring.groups[TWO].members()) == 3000


def test_a_closed_group_is_closed_for_those_outside_and_while_it_has_members() -> None:
    ring = settled(1, 2)
    ring.groups[ONE].join(1, [G], closed=True)
    ring.order()
    ring.groups[ONE].check_sender(1, [G])
    with pytest.raises(NotMember, match="group g is closed"):
        ring.groups[TWO].check_sender(1, [G])
    ring.groups[TWO].join(1, [G], closed=False)
    ring.order()
    ring.groups[TWO].check_sender(1, [G])
    assert ring.views(2)[-1].closed
    for node in (ONE, TWO):
        ring.groups[node].close(1, Cause.LEFT)
    ring.order()
    ring.groups[TWO].check_sender(2, [G])  # it is gone, and with it that it was closed


def test_an_open_group_is_not_joined_as_closed() -> None:
    ring = settled(1, 2)
    ring.groups[ONE].join(1, [G], closed=False)
    ring.groups[TWO].join(2, [G, H], closed=True)
    ring.order()
    (refused,) = [each for each in ring.events[TWO] if isinstance(each, JoinRefused)]
    assert (refused.session, refused.group) == (2, G)
    assert not [each for each in ring.events[ONE] if isinstance(each, JoinRefused)]
    assert ring.groups[ONE].members() == {G: [Member(ONE, 1)], H: [Member(TWO, 2)]}


def test_where_a_closed_and_an_open_side_meet_closed_wins() -> None:
    ring, other = settled(1), settled(2)
    ring.groups[ONE].join(1, [G], closed=False)
    other.groups[TWO].join(1, [G], closed=True)
    ring.order()
    other.order()
    merged = Ring()
    merged.groups = ring.groups | other.groups
    merged.events = {node: [] for node in merged.groups}
    merged.configure(regular(5, 1, 2, joined=(1, 2)))
    merged.order()
    for groups in merged.groups.values():
        with pytest.raises(NotMember):
            groups.check_sender(9, [G])


def test_the_ring_is_synchronized_when_every_node_has_said_so_for_this_configuration() -> None:
    ring = settled(1, 2)
    ring.groups[ONE].synchronize()
    ring.order(1)
    assert not ring.groups[ONE].synchronized
    stale: ControlMessage = Synchronized(RingId(1, ONE))
    ring.read(1, Control(TWO, stale))
    assert not ring.groups[ONE].synchronized
    ring.groups[TWO].synchronize()
    ring.order(2)
    assert ring.groups[ONE].synchronized and ring.groups[TWO].synchronized


def test_services_are_told_once_all_have_announced() -> None:
    ring = Ring(1)
    ring.configure(regular(2, 1))
    assert not any(isinstance(event, Settled) for event in ring.events[ONE])
    ring.order()
    assert isinstance(ring.events[ONE][-1], Settled)

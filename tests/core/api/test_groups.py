"""Groups: views in the stream, closed ones, causes; in this process and through a daemon."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

import vsync
from tests.core.api.rings import (
    PATIENCE_S,
    Open,
    deliveries,
    fresh_network,
    ring_of,
    settings_of,
    until_together,
)
from vsync import (
    Cause,
    ConfigurationChanged,
    Delivery,
    Event,
    GroupChanged,
    GroupKey,
    Member,
    MisuseError,
    Move,
    NotMember,
    Priority,
    Session,
)

pytestmark = pytest.mark.anyio


async def until(session: Session, wanted: Callable[[Event], bool]) -> list[Event]:
    """What comes, up to the first that is *wanted*."""
    found: list[Event] = []
    with anyio.fail_after(PATIENCE_S):
        while not (found and wanted(found[-1])):
            found.append(await session.receive())
    return found


async def views(session: Session, count: int) -> list[GroupChanged]:
    """The next *count* views; other events are passed over."""
    found: list[GroupChanged] = []
    with anyio.fail_after(PATIENCE_S):
        while len(found) < count:
            event = await session.receive()
            if isinstance(event, GroupChanged):
                found.append(event)
    return found


def plain(event: Event) -> tuple[object, ...]:
    """*event* without what each node knows otherwise: whom it had in its configuration before."""
    match event:
        case Delivery():
            message = event.message, event.groups, event.payload, event.guarantee, event.sender
            return *message, event.configuration.id
        case GroupChanged():
            moves = event.joined, event.left
            return event.group, event.members, *moves, event.closed, event.configuration.id
        case ConfigurationChanged():
            return event.configuration.id, event.configuration.members
    raise AssertionError(event)


def joined(*members: Member) -> tuple[Move, ...]:
    return tuple(Move(member, Cause.JOINED) for member in members)


async def test_a_view_comes_to_all_members_with_who_came_and_why(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 2) as (node, other),
        open_session(node) as one,
        open_session(other) as two,
    ):
        key = GroupKey.from_name("a")
        await one.join("a")
        await two.join("a")
        first, second = await views(one, 2)
        assert (first.group, first.members, first.joined) == (
            key,
            (one.member,),
            joined(one.member),
        )
        assert second.members == (one.member, two.member)
        assert (second.joined, second.left, second.closed) == (joined(two.member), (), False)
        (seen,) = await views(two, 1)
        assert plain(seen) == plain(second)
        assert (one.member.node, two.member.node) == (1, 2)
        assert node.configuration == second.configuration


async def test_a_view_stands_between_the_same_messages_for_all(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 2) as (node, other),
        open_session(node) as one,
        open_session(other) as two,
        open_session(node) as three,
    ):
        await one.join("a")
        await two.join("a")

        async def talk(session: Session) -> None:
            for number in range(200):
                await session.send(b"%d" % number, "a", priority=Priority.HIGH)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk, one)
            tasks.start_soon(talk, two)
            await three.join("a")
            await three.leave("a")
        await one.send(b"end", "a")

        def ends(event: Event) -> bool:
            return isinstance(event, Delivery) and event.payload == b"end"

        seen_one, seen_two = await until(one, ends), await until(two, ends)
        common = seen_two[1:]  # after the view that brought it in, and its configuration
        start = next(
            place
            for place, event in enumerate(seen_one)
            if isinstance(event, GroupChanged) and event.joined == joined(two.member)
        )
        first = next(i for i, event in enumerate(common) if isinstance(event, GroupChanged))
        assert list(map(plain, seen_one[start:])) == list(map(plain, common[first:]))
        about_three = [
            event
            for event in common
            if isinstance(event, GroupChanged) and three.member in (*event.joined, *event.left)[0]
        ]
        assert len(about_three) == 2


async def test_a_joiner_has_every_message_from_its_view_on(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 2) as (node, other),
        open_session(node) as joiner,
        other.session() as talker,
    ):
        await talker.join("a")
        async with anyio.create_task_group() as tasks:
            stop = anyio.Event()
            sent = 0

            async def talk() -> None:
                nonlocal sent
                while not stop.is_set():
                    await talker.send(b"%d" % sent, "a")
                    sent += 1

            tasks.start_soon(talk)
            await anyio.sleep(0.05)
            await joiner.join("a")
            await anyio.sleep(0.05)
            stop.set()
        await talker.send(b"end", "a")

        def ends(event: Event) -> bool:
            return isinstance(event, Delivery) and event.payload == b"end"

        everything = await until(talker, ends)
        place = next(
            i
            for i, event in enumerate(everything)
            if isinstance(event, GroupChanged) and joiner.member in event.members
        )
        seen = await until(joiner, ends)
        assert isinstance(seen[0], ConfigurationChanged)
        assert list(map(plain, seen[1:])) == list(map(plain, everything[place:]))


async def test_who_leaves_sees_the_view_that_says_so_and_nothing_after(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 1) as (node,),
        open_session(node) as one,
        open_session(node) as two,
    ):
        await one.join("a", "b")
        await two.join("a")
        await two.leave("a")
        assert two.joined == ()
        *_, last = await views(one, 4)
        assert last.left == (Move(two.member, Cause.LEFT),)
        assert last.members == (one.member,)
        came, went = await views(two, 2)
        assert (came.joined, went.left) == (joined(two.member), last.left)
        await one.send(b"x", "a")
        await two.join("b")
        assert (await views(two, 1))[0].members == (one.member, two.member)


async def test_the_end_of_a_session_is_a_leave(tmp_path: Path, open_session: Open) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as watcher:
        await watcher.join("a", "b")
        async with open_session(node) as other:
            await other.join("a", "b")
            member = other.member
        found = await views(watcher, 6)
        assert [view.left for view in found[4:]] == 2 * [(Move(member, Cause.LEFT),)]
        assert {view.group for view in found[4:]} == set(watcher.joined)


async def test_nodes_that_meet_merge_their_groups_and_part_with_node_gone(
    tmp_path: Path, open_session: Open
) -> None:
    network = fresh_network()
    async with (
        vsync.open_node(settings_of(tmp_path, 1, network)) as one,
        open_session(one) as session,
    ):
        await session.join("a")
        async with (
            vsync.open_node(settings_of(tmp_path, 2, network)) as two,
            open_session(two) as other,
        ):
            await until_together([one, two])
            await other.join("a")
            member = other.member
            found = await views(session, 2)
            assert found[1].joined == joined(member)
            assert found[1].configuration.members == (1, 2)
        (gone,) = await views(session, 1)
        assert gone.left[0].member == member
        assert gone.members == (session.member,)


async def test_sessions_have_numbers_of_their_own_and_send_under_them(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 1) as (node,), AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(open_session(node)) for _ in range(5)]
        assert len({session.member for session in sessions}) == 5
        for session in sessions:
            await session.join("a")
        for session in sessions:
            await session.send(b"%d" % session.member.session)
        for session in sessions:
            got = await deliveries(session, 5)
            assert [d.sender for d in got] == [s.member for s in sessions]
            assert [int(d.payload) for d in got] == [s.member.session for s in sessions]


async def test_only_members_send_to_a_closed_group(tmp_path: Path, open_session: Open) -> None:
    async with (
        ring_of(tmp_path, 2) as (node, other),
        open_session(node) as member,
        open_session(other) as stranger,
    ):
        await member.join("board", closed=True)
        assert (await views(member, 1))[0].closed
        await stranger.join("a")
        with anyio.fail_after(PATIENCE_S):
            while GroupKey.from_name("board") not in other.group_members():
                await anyio.sleep(0.01)
        with pytest.raises(NotMember, match="group board is closed"):
            await stranger.send(b"let me in", "board")
        with pytest.raises(NotMember):
            await stranger.send_batch([b"let", b"me", b"in"], "a", "board")
        await stranger.send(b"still here", "a")  # a refusal ends nothing
        assert [d.payload for d in await deliveries(stranger, 1)] == [b"still here"]
        await stranger.join("board")
        await stranger.send(b"now", "board")
        assert [d.payload for d in await deliveries(member, 1)] == [b"now"]
        await stranger.leave("board")
        with pytest.raises(NotMember):
            await stranger.send(b"again", "board")


async def test_what_was_sent_at_once_to_a_closed_group_is_refused(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 1) as (node,),
        open_session(node) as member,
        open_session(node) as stranger,
    ):
        await member.join("board", closed=True)
        with anyio.fail_after(PATIENCE_S), pytest.raises(NotMember, match="join it first"):
            while True:
                stranger.send_nowait(b"let me in", "board")
                await anyio.sleep(0.01)
        await member.send(b"ours", "board")
        assert [d.payload for d in await deliveries(member, 1)] == [b"ours"]


async def test_a_group_that_is_open_cannot_be_joined_as_closed(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 1) as (node,),
        open_session(node) as one,
        open_session(node) as two,
    ):
        await one.join("a")
        with pytest.raises(MisuseError, match="cannot join group a as closed"):
            await two.join("a", closed=True)
        assert two.joined == ()
        await two.join("a")
        assert (await views(one, 2))[1].members == (one.member, two.member)


async def test_a_refused_group_keeps_no_other_from_being_joined(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 1) as (node,),
        open_session(node) as one,
        open_session(node) as two,
    ):
        await one.join("a", "b")
        with pytest.raises(
            MisuseError, match=r"join group a as closed.*; .*join group b as closed"
        ):
            await two.join("a", "c", "b", "d", closed=True)
        assert [str(group) for group in two.joined] == ["c", "d"]
        await two.send(b"x")
        assert [str(group) for group in (await deliveries(two, 1))[0].groups] == ["c", "d"]
        await two.leave("c", "d")


async def test_a_closed_group_without_members_is_forgotten(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 1) as (node,),
        open_session(node) as one,
        open_session(node) as two,
    ):
        await one.join("a", closed=True)
        await one.leave("a")
        await two.join("a")
        await one.send(b"x", "a")
        assert not (await views(two, 1))[0].closed
        assert [d.payload for d in await deliveries(two, 1)] == [b"x"]


async def test_many_groups_are_joined_and_left_at_once(tmp_path: Path, open_session: Open) -> None:
    names = [f"group {number}" for number in range(1000)]
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        await session.join(*names)
        found = await views(session, len(names))
        assert [view.group for view in found] == [GroupKey.from_name(name) for name in names]
        await session.leave(*names)
        assert {view.members for view in await views(session, len(names))} == {()}
        assert node.group_members() == {}

"""Slow readers, and who waits for them: senders, the ring, or nobody."""

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.core.api.rings import PATIENCE_S, Open, block, deliveries, ring_of
from vsync import (
    Cause,
    Delivery,
    Event,
    Evicted,
    GroupChanged,
    Member,
    Move,
    Node,
    Priority,
    Session,
    SlowPolicy,
    WouldBlock,
)

pytestmark = pytest.mark.anyio

QUEUE_BYTES = 100_000
SIZE = 500


def slow_options(slow: SlowPolicy, *, spill_bytes: int = 2**28) -> dict[str, Any]:
    """Of a session that its test does not read for a while."""
    return {
        "name": "printer",
        "slow": slow,
        "queue_bytes": QUEUE_BYTES,
        "spill_bytes": spill_bytes,
    }


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until *condition* holds."""
    with anyio.move_on_after(PATIENCE_S):
        while not await condition():
            await anyio.sleep(0.01)
        return
    pytest.fail(f"after {PATIENCE_S} s still not: {what}")


async def events_until(session: Session, wanted: Callable[[Event], bool]) -> list[Event]:
    """What comes, up to the first that is *wanted*."""
    found: list[Event] = []
    with anyio.fail_after(PATIENCE_S):
        while not (found and wanted(found[-1])):
            found.append(await session.receive())
    return found


async def rest_of(session: Session) -> tuple[list[Delivery], Evicted]:
    """The messages that come before the session says that it was evicted."""
    found: list[Delivery] = []
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                event = await session.receive()
            except Evicted as evicted:
                return found, evicted
            if isinstance(event, Delivery):
                found.append(event)


def payload(number: int) -> bytes:
    return b"%08d" % number + bytes(SIZE - 8)


async def send_until_evicted(sender: Session, slow: Member, node: Node) -> int:
    """Send to the group a until *node* knows that *slow* is evicted; how many it took.

    How many it takes depends on how many come in one batch: the one beyond the bound is taken in.
    """
    sent = 0
    with anyio.fail_after(PATIENCE_S):
        while any(slow in members for members in node.group_members().values()):
            await sender.send(payload(sent), "a")
            sent += 1
    return sent


def numbers(found: Sequence[Delivery]) -> list[int]:
    return [int(delivery.payload[:8]) for delivery in found]


# --- send_nowait --------------------------------------------------------------------------------


async def test_send_nowait_sends(tmp_path: Path) -> None:
    async with ring_of(tmp_path, 2) as (one, two), two.session() as reader:
        await reader.join("a")
        async with one.session() as session:
            for number in range(50):
                session.send_nowait(payload(number), "a")
            assert numbers(await deliveries(reader, 50)) == list(range(50))


async def test_send_nowait_says_who_is_slow_and_since_when(tmp_path: Path) -> None:
    async with (
        ring_of(tmp_path, 3) as (one, _, three),
        three.session(queue_bytes=QUEUE_BYTES, name="printer") as slow,
        one.session() as session,
    ):
        one.send_queue_bytes = 20_000
        await slow.join("a")
        began = time.monotonic()
        refusal = await block(session, payload(0), "a")
        assert refusal.blocked_by == 3
        assert began <= refusal.since <= time.monotonic()
        assert "waits for a slow reader on node 3" in str(refusal)
        await anyio.sleep(0.05)
        again = await block(session, payload(0), "a")
        assert (again.blocked_by, again.since) == (3, refusal.since)

        async with anyio.create_task_group() as tasks:

            async def read() -> None:
                async for _ in slow:
                    pass

            tasks.start_soon(read)

            async def sent() -> bool:
                try:
                    session.send_nowait(payload(0), "a")
                except WouldBlock:
                    return False
                return True

            await until(sent, "room to send once the slow one reads")
            tasks.cancel_scope.cancel()


async def test_a_ring_that_is_merely_behind_blames_nobody(tmp_path: Path) -> None:
    async with ring_of(tmp_path, 1) as (node,), node.session() as session:
        node.send_queue_bytes = 5_000
        began = time.monotonic()
        with pytest.raises(WouldBlock) as refusal:
            for number in range(10_000):
                session.send_nowait(payload(number), "a")
        assert refusal.value.blocked_by is None
        assert "the ring is behind" in str(refusal.value)
        assert began <= refusal.value.since <= time.monotonic()


async def test_since_is_of_this_time_and_not_of_an_earlier_one(tmp_path: Path) -> None:
    async with ring_of(tmp_path, 1) as (node,), node.session() as session:
        node.send_queue_bytes = 5_000
        with pytest.raises(WouldBlock):
            for number in range(10_000):
                session.send_nowait(payload(number), "a")
        await until_unsent(node)  # now there is room, and nobody has asked for it
        later = time.monotonic()
        with pytest.raises(WouldBlock) as refusal:
            for _ in range(1000):
                await session.send(bytes(1_000_000), "a")
                session.send_nowait(b"x", "a")
        assert refusal.value.since >= later


async def until_unsent(node: Node) -> None:
    async def all_sent() -> bool:
        return node._driver.unsent_bytes(Priority.MEDIUM) == 0

    await until(all_sent, "all that was submitted has its place in the order")


async def test_send_nowait_does_not_overtake_those_who_wait(tmp_path: Path) -> None:
    async with (
        ring_of(tmp_path, 1) as (node,),
        node.session(queue_bytes=QUEUE_BYTES) as slow,
        node.session() as waiting,
        node.session() as hasty,
    ):
        node.send_queue_bytes = 20_000
        await slow.join("a")
        await block(hasty, payload(0), "a")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waiting.send, bytes(19_000), "a")
            await anyio.sleep(0.05)
            with pytest.raises(WouldBlock):
                hasty.send_nowait(b"x", "a")
            tasks.cancel_scope.cancel()


# --- send waits, in turn ------------------------------------------------------------------------


async def test_many_senders_of_a_node_take_turns(tmp_path: Path) -> None:
    senders, rounds = 20, 40
    async with ring_of(tmp_path, 2) as (one, _), AsyncExitStack() as stack:
        one.send_queue_bytes = 5 * (SIZE + 64)
        sent = [0] * senders
        apart = 0

        async def send(number: int, session: Session) -> None:
            nonlocal apart
            for _ in range(rounds):
                await session.send(payload(number), "a")
                sent[number] += 1
                apart = max(apart, sent[number] - min(sent))

        sessions = [await stack.enter_async_context(one.session()) for _ in range(senders)]
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                for number, session in enumerate(sessions):
                    tasks.start_soon(send, number, session)
        assert sent == [rounds] * senders
        # Each sends again only after all who waited; the first may find room before others begin.
        assert apart <= 3, apart


def be_busy(seconds: float) -> None:
    """Keep the event loop from going on."""
    time.sleep(seconds)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio has tasks go on in any order
async def test_nobody_overtakes_a_task_that_called_send_before(tmp_path: Path) -> None:
    async with ring_of(tmp_path, 2) as (one, _), one.session() as session:
        await session.join("a")
        called: list[bytes] = []

        async def send(number: int) -> None:
            called.append(payload(number))
            await session.send(payload(number))

        async def send_twice() -> None:
            await send(1)
            await send(2)  # in quick succession: others get their turn first

        async def send_after_a_while() -> None:
            be_busy(0.01)
            await send(3)

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_twice)
                tasks.start_soon(send_after_a_while)
            delivered: list[bytes] = []
            while len(delivered) < len(called):
                event = await session.receive()
                if isinstance(event, Delivery):
                    delivered.append(event.payload)
        assert delivered == called


async def test_a_large_batch_lets_others_have_their_turn(tmp_path: Path) -> None:
    async with ring_of(tmp_path, 2) as (one, _), one.session() as large, one.session() as small:
        one.send_queue_bytes = 20_000
        sent: list[str] = []

        async def send_batch() -> None:
            await large.send_batch([payload(number) for number in range(3000)], "a")
            sent.append("large")

        async def send_some() -> None:
            for number in range(5):
                await small.send(payload(number), "a")
                sent.append("small")

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_batch)
                tasks.start_soon(send_some)
        assert sent == ["small"] * 5 + ["large"]


async def test_a_sender_that_gives_up_waiting_holds_up_nobody(tmp_path: Path) -> None:
    async with (
        ring_of(tmp_path, 1) as (node,),
        node.session(queue_bytes=QUEUE_BYTES) as slow,
        node.session() as session,
    ):
        node.send_queue_bytes = 20_000
        await slow.join("a")
        await block(session, payload(0), "a")
        async with anyio.create_task_group() as tasks:
            first, second = anyio.CancelScope(), anyio.Event()

            async def give_up() -> None:
                with first:
                    await session.send(bytes(19_000), "a")

            async def go_on() -> None:
                await session.send(bytes(19_000), "a")
                second.set()

            tasks.start_soon(give_up)
            await anyio.sleep(0.02)
            tasks.start_soon(go_on)
            await anyio.sleep(0.02)
            first.cancel()
            with anyio.fail_after(PATIENCE_S):
                while not second.is_set():
                    await slow.receive()


# --- block --------------------------------------------------------------------------------------


async def test_block_stops_the_whole_ring_and_says_so(tmp_path: Path, open_session: Open) -> None:
    count = 3000
    async with (
        ring_of(tmp_path, 3) as (one, two, three),
        open_session(three, **slow_options(SlowPolicy.BLOCK)) as slow,
        two.session() as quick,
        one.session() as sender,
    ):
        for session in (slow, quick):
            await session.join("a")
        quickly: list[Delivery] = []

        async def send() -> None:
            for number in range(count):
                await sender.send(payload(number), "a")

        async def read() -> None:
            async for event in quick:
                if isinstance(event, Delivery):
                    quickly.append(event)

        one.send_queue_bytes = 20_000
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            tasks.start_soon(read)

            async def blocked() -> bool:
                status = await one.status()
                return bool(status["blocked_by"] == 3)

            async def warned() -> bool:
                return [w for w in (await three.status())["warnings"] if "too slow" in w] != []

            async def stands() -> bool:
                return await blocked() and await warned() and await blocked()

            # A daemon takes what its client has room for, so the first times are short ones.
            at_rest, least = -1, QUEUE_BYTES // (SIZE + 200)
            with anyio.fail_after(PATIENCE_S):
                while not least <= at_rest == len(quickly) or not await stands():
                    await until(stands, "node 1 says that node 3 blocks the ring, and node 3 why")
                    at_rest = len(quickly)
                    await anyio.sleep(0.3)  # what was on its way still comes
            assert at_rest < count // 2
            (warning,) = [w for w in (await three.status())["warnings"] if "too slow" in w]
            assert warning.startswith("session printer has been too slow for")
            assert not [w for w in (await two.status())["warnings"] if "too slow" in w]

            assert numbers(await deliveries(slow, count)) == list(range(count))

            async def all_read() -> bool:
                return len(quickly) == count

            await until(all_read, "the others have all, too")
            assert numbers(quickly) == list(range(count))

            async def over() -> bool:
                return not await blocked() and not await warned()

            await until(over, "nobody blocks the ring any more")
            tasks.cancel_scope.cancel()


# --- evict and spill ----------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [SlowPolicy.EVICT, SlowPolicy.SPILL])
async def test_nine_receive_all_while_one_takes_nothing(
    tmp_path: Path, open_session: Open, slow: SlowPolicy
) -> None:
    count = 1500
    async with ring_of(tmp_path, 10) as nodes, AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(node.session()) for node in nodes[:9]]
        printer = await stack.enter_async_context(open_session(nodes[9], **slow_options(slow)))
        for session in (*readers, printer):
            await session.join("a")
        found: list[list[Delivery]] = [[] for _ in readers]

        async def send(session: Session) -> None:
            for number in range(count):
                await session.send(payload(number), "a")

        async def read(session: Session, into: list[Delivery]) -> None:
            into += await deliveries(session, 2 * count)

        async with anyio.create_task_group() as tasks:
            for session in readers[:2]:
                tasks.start_soon(send, session)
            for session, into in zip(readers, found, strict=True):
                tasks.start_soon(read, session, into)

        order = [delivery.message for delivery in found[0]]
        assert all([delivery.message for delivery in each] == order for each in found)
        for node in nodes:
            assert (await node.status())["blocked_by"] is None
        if slow is SlowPolicy.EVICT:
            await send_until_evicted(readers[0], printer.member, nodes[9])
            prefix, _ = await rest_of(printer)
            taken = [delivery.message for delivery in prefix]
            assert taken[: len(order)] == order[: len(taken)]
            assert len(taken) >= QUEUE_BYTES // (SIZE + 200)
        else:
            assert [d.message for d in await deliveries(printer, 2 * count)] == order


async def test_others_see_that_a_session_was_evicted(tmp_path: Path, open_session: Open) -> None:
    async with (
        ring_of(tmp_path, 2) as (one, two),
        one.session() as quick,
        two.session() as neighbour,
        open_session(two, **slow_options(SlowPolicy.EVICT)) as slow,
    ):
        for session in (slow, neighbour, quick):
            await session.join("a", "b")

        def gone(event: Event) -> bool:
            return isinstance(event, GroupChanged) and bool(event.left)

        await send_until_evicted(quick, slow.member, two)
        for session in (quick, neighbour):
            views: list[GroupChanged] = []
            while len(views) < 2:
                view = (await events_until(session, gone))[-1]
                assert isinstance(view, GroupChanged)
                views.append(view)
            assert {str(view.group) for view in views} == {"a", "b"}
            for view in views:
                assert view.left == (Move(slow.member, Cause.EVICTED),)
                assert slow.member not in view.members
        # The neighbour on the same node goes on as if nothing had been.
        await neighbour.send(payload(99_999), "b")

        def last(event: Event) -> bool:
            return isinstance(event, Delivery) and numbers([event]) == [99_999]

        event = (await events_until(quick, last))[-1]
        assert isinstance(event, Delivery)
        assert event.sender == neighbour.member


async def test_an_evicted_session_says_why_and_does_nothing_more(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 1) as (node,),
        node.session() as sender,
        open_session(node, **slow_options(SlowPolicy.EVICT)) as slow,
    ):
        await slow.join("a")
        await send_until_evicted(sender, slow.member, node)
        for call in (
            lambda: slow.send(b"x", "a"),
            lambda: slow.join("b"),
            lambda: slow.leave("a"),
        ):
            with pytest.raises(Evicted, match="session printer was evicted: it did not take"):
                await call()
        prefix, evicted = await rest_of(slow)
        assert numbers(prefix) == list(range(len(prefix)))
        assert len(prefix) >= QUEUE_BYTES // (SIZE + 200)
        assert f"its queue_bytes is {QUEUE_BYTES}" in str(evicted)
        with pytest.raises(Evicted):
            slow.send_nowait(b"x", "a")
        for _ in range(3):
            with pytest.raises(Evicted) as again:
                await slow.receive()
        assert len(again.traceback) < 10  # it does not grow each time


async def test_who_waits_in_receive_learns_of_the_eviction(
    tmp_path: Path, open_session: Open
) -> None:
    """A reader that is there, but too late with one batch: nothing wakes it but the eviction."""
    async with (
        ring_of(tmp_path, 1) as (node,),
        node.session() as sender,
        open_session(node, **slow_options(SlowPolicy.EVICT)) as slow,
    ):
        await slow.join("a")
        sent = await send_until_evicted(sender, slow.member, node)
        found, _ = await rest_of(slow)
        assert 0 < len(found) < sent


async def test_spill_delivers_all_afterwards_and_needs_little_memory(
    tmp_path: Path, open_session: Open
) -> None:
    count = 20_000
    async with (
        ring_of(tmp_path, 2) as (one, two),
        one.session() as sender,
        open_session(two, **slow_options(SlowPolicy.SPILL)) as slow,
    ):
        await slow.join("a")
        for first in range(0, count, 1000):
            await sender.send_batch([payload(n) for n in range(first, first + 1000)], "a")
        await until_unsent(one)
        mailbox = two._sessions[-1]._mailbox

        async def on_disk() -> bool:
            # A daemon may have taken some of it before a busy machine had written that.
            return mailbox.disk_bytes > (count * SIZE) * 0.5 and (
                mailbox.memory_bytes <= 3 * QUEUE_BYTES
            )

        await until(on_disk, "what waits is on disk, and not in memory")
        assert (await one.status())["blocked_by"] is None
        (warning,) = [w for w in (await two.status())["warnings"] if "too slow" in w]
        assert warning.startswith("session printer is too slow: ")
        assert warning.endswith(f"on disk, and beyond {2**28} it is evicted")
        assert numbers(await deliveries(slow, count)) == list(range(count))
        assert not [w for w in (await two.status())["warnings"] if "too slow" in w]
        assert mailbox.waiting_bytes == mailbox.memory_bytes == 0

        async def off_disk() -> bool:
            return mailbox.disk_bytes == 0

        await until(off_disk, "nothing is left on disk, also of what was read while it was written")
        await sender.send(payload(count), "a")
        assert numbers(await deliveries(slow, 1)) == [count]


async def test_spill_is_for_short_storms_and_ends_in_eviction(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 2) as (one, two),
        one.session() as sender,
        open_session(two, **slow_options(SlowPolicy.SPILL, spill_bytes=300_000)) as slow,
    ):
        await sender.join("a")
        await slow.join("a")
        sent = await send_until_evicted(sender, slow.member, two)

        def gone(event: Event) -> bool:
            return isinstance(event, GroupChanged) and bool(event.left)

        view = (await events_until(sender, gone))[-1]
        assert isinstance(view, GroupChanged)
        assert view.left == (Move(slow.member, Cause.EVICTED),)
        prefix, evicted = await rest_of(slow)
        assert numbers(prefix) == list(range(len(prefix)))
        assert 400_000 // (SIZE + 200) <= len(prefix) < sent
        assert "its spill_bytes 300000" in str(evicted)


async def test_a_disk_that_cannot_be_read_evicts_at_once(
    tmp_path: Path, open_session: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        ring_of(tmp_path, 1) as (node,),
        node.session() as sender,
        open_session(node, **slow_options(SlowPolicy.SPILL)) as slow,
    ):
        await slow.join("a")
        mailbox = node._sessions[-1]._mailbox
        monkeypatch.setattr(os, "pread", lambda *_: b"")
        await sender.send_batch([payload(number) for number in range(20_000)], "a")

        async def written() -> bool:
            return bool(0 < mailbox._sent_bytes == mailbox._handled_bytes)

        await until_unsent(node)
        await until(written, "what waits is on disk")
        # Nothing else happens on this ring: nobody but the reader can see to it.
        prefix, evicted = await rest_of(slow)
        assert numbers(prefix) == list(range(len(prefix)))
        assert "cannot be read back from disk" in str(evicted)

        async def gone() -> bool:
            return bool((await node.status())["sessions"] == 1)

        await until(gone, "the session has left its groups")


async def test_a_session_is_blocked_evicted_or_spilled_as_it_chose(
    tmp_path: Path, open_session: Open
) -> None:
    """Policies are each session's own: of two on one node the one goes, the other keeps all."""
    async with (
        ring_of(tmp_path, 1) as (node,),
        node.session() as sender,
        open_session(node, **slow_options(SlowPolicy.EVICT)) as evicted,
        open_session(node, **slow_options(SlowPolicy.SPILL)) as spilled,
    ):
        for session in (evicted, spilled):
            await session.join("a")
        sent = await send_until_evicted(sender, evicted.member, node)
        assert numbers(await deliveries(spilled, sent)) == list(range(sent))
        prefix, _ = await rest_of(evicted)
        assert len(prefix) < sent
        status = await node.status()
        assert status["sessions"] == 2

"""Nothing is lost, doubled or left waiting when tasks are cancelled, end or come together."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.core.api.rings import PATIENCE_S, Open, block, deliveries, ring_of
from vsync import Delivery, NodeClosed, Session, Undelivered, VsyncError

pytestmark = pytest.mark.anyio


async def numbers_until(session: Session, last: int, seen: list[int]) -> None:
    """Add the numbers that *session* delivers to *seen*, *last* being the last."""
    while not seen or seen[-1] != last:
        event = await session.receive()
        if isinstance(event, Delivery):
            seen.append(int(event.payload))


async def test_a_cancelled_reader_loses_nothing(tmp_path: Path, open_session: Open) -> None:
    count = 300
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        await session.join("a")
        seen: list[int] = []
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                for number in range(count):
                    await session.send(b"%d" % number)

            tasks.start_soon(send)
            with anyio.fail_after(PATIENCE_S):
                while not seen or seen[-1] != count - 1:
                    with anyio.move_on_after(0.0005):
                        await numbers_until(session, count - 1, seen)
                    await anyio.lowlevel.checkpoint()
        assert seen == list(range(count))


async def test_a_reader_cancelled_before_it_begins_takes_nothing(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        await session.join("a")
        await session.send_batch([b"%d" % number for number in range(10)])
        await anyio.sleep(0.1)  # all of it waits here now
        for _ in range(3):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await session.receive_batch()
            assert scope.cancelled_caught
        assert [int(d.payload) for d in await deliveries(session, 10)] == list(range(10))


async def test_a_broken_off_iteration_goes_on_where_it_was(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        await session.join("a")
        await session.send_batch([b"%d" % number for number in range(30)])
        seen: list[int] = []
        with anyio.fail_after(PATIENCE_S):
            while len(seen) < 20:
                async for event in session:
                    if isinstance(event, Delivery):
                        seen.append(int(event.payload))
                        break
            async for batch in session.batches():
                seen += [int(event.payload) for event in batch if isinstance(event, Delivery)]
                if len(seen) == 30:
                    break
        assert seen == list(range(30))


async def test_joins_that_come_together_are_all_in_effect(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        names = [f"group {number}" for number in range(10)]
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(session.join, name)
        assert len(session.joined) == len(names)
        for name in names:
            await session.send(name.encode(), name)
        assert [d.payload.decode() for d in await deliveries(session, len(names))] == names


async def test_a_cancelled_join_does_not_disturb_the_next(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        with anyio.move_on_after(0):
            await session.join("a")
        await session.join("b")
        await session.send(b"x", "b")
        assert [d.payload for d in await deliveries(session, 1)] == [b"x"]


async def cancelled(steps: int, call: Callable[..., Coroutine[Any, Any, None]], group: str) -> None:
    """Cancel *call* after so many turns of the loop, if it has not returned by then."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, group)
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


async def test_a_cancelled_join_can_be_left(tmp_path: Path, open_session: Open) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        for steps in range(40):
            await cancelled(steps % 8, session.join, "a")
            if session.joined:  # it had begun, and so it goes on
                await session.leave("a")
            else:
                await session.join("a")
                await session.leave("a")
            assert not session.joined
        assert node.group_members() == {}


async def test_a_group_is_joined_again_though_the_leave_was_cancelled(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        await session.join("a")
        for number in range(40):
            await cancelled(number % 8, session.leave, "a")
            await session.join("a")
            assert [str(group) for group in session.joined] == ["a"]
            await session.send(b"%d" % number, "a")
            assert [int(d.payload) for d in await deliveries(session, 1)] == [number]
        assert [len(members) for members in node.group_members().values()] == [1]


async def test_cancelled_sends_leave_the_others_whole_and_in_order(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 2) as (node, other), open_session(node) as session:
        async with other.session() as listener:
            await listener.join("a")
            accepted: list[int] = []

            async def send(number: int) -> None:
                with anyio.move_on_after(0 if number % 3 == 0 else PATIENCE_S):
                    await session.send(b"%d" % number, "a")
                    accepted.append(number)

            async with anyio.create_task_group() as tasks:
                for number in range(200):
                    tasks.start_soon(send, number)
            await session.send(b"200", "a")
            seen: list[int] = []
            with anyio.fail_after(PATIENCE_S):
                await numbers_until(listener, 200, seen)
        assert set(accepted) <= set(seen)
        assert len(seen) == len(set(seen))


async def test_a_session_cancelled_while_it_opens_leaves_no_queue_behind(tmp_path: Path) -> None:
    async with ring_of(tmp_path, 1) as (node,):
        for _ in range(3):
            with anyio.CancelScope() as scope:
                scope.cancel()
                async with node.session():
                    await anyio.sleep_forever()
        assert (await node.status())["sessions"] == 0


async def test_a_session_that_ends_ends_its_readers(tmp_path: Path, open_session: Open) -> None:
    async with ring_of(tmp_path, 1) as (node,), anyio.create_task_group() as tasks:
        ended = anyio.Event()

        async def read(session: Session) -> None:
            try:
                while True:
                    await session.receive()
            except VsyncError:
                ended.set()

        async with open_session(node) as session:
            tasks.start_soon(read, session)
            await anyio.sleep(0.05)
        with anyio.fail_after(PATIENCE_S):
            await ended.wait()


async def test_senders_go_in_their_order_while_the_queue_is_full(tmp_path: Path) -> None:
    async with ring_of(tmp_path, 2) as (node, other):
        node.send_queue_bytes = 2000
        order: list[int] = []
        async with node.session() as session, other.session() as listener:
            await listener.join("a")

            async def send(number: int) -> None:
                await session.send((b"%d" % number).rjust(900, b"0"), "a")
                order.append(number)

            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(send, number)
                    await anyio.lowlevel.checkpoint()
            seen: list[int] = []
            with anyio.fail_after(PATIENCE_S):
                while len(seen) < 100:
                    event = await listener.receive()
                    if isinstance(event, Delivery):
                        seen.append(int(event.payload))
        assert seen == order


async def test_a_cancelled_sender_gives_its_turn_to_the_next(tmp_path: Path) -> None:
    async with ring_of(tmp_path, 1) as (node,), node.session(queue_bytes=1000) as slow:
        await slow.join("a")
        node.send_queue_bytes = 2000
        async with node.session() as session, anyio.create_task_group() as tasks:
            await block(session, bytes(900), "a")
            scopes = []
            done: list[int] = []

            async def send(number: int) -> None:
                with anyio.CancelScope() as scope:
                    scopes.append(scope)
                    await session.send(bytes(900), "b")
                    done.append(number)

            for number in range(4):
                tasks.start_soon(send, number)
                await anyio.sleep(0.01)
            for scope in scopes[:2]:
                scope.cancel()
            await slow.leave("a")
            with anyio.fail_after(PATIENCE_S):
                while len(done) < 2:
                    with anyio.move_on_after(0.01):
                        await slow.receive_batch()
            assert done == [2, 3]


async def test_waiting_senders_learn_that_the_node_has_closed(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    async with anyio.create_task_group() as tasks:
        # The session that nobody reads keeps the ring waiting to the end.
        with pytest.raises(Undelivered):
            async with ring_of(tmp_path, 1) as (node,):
                session = node.session(queue_bytes=1000)
                await session.__aenter__()
                await session.join("a")
                node.send_queue_bytes = 2000

                async def send() -> None:
                    try:
                        while True:
                            await session.send(bytes(900), "a")
                    except VsyncError as error:
                        errors.append(error)

                for _ in range(3):
                    tasks.start_soon(send)
                with anyio.fail_after(PATIENCE_S):
                    while session.full_since is None:
                        await anyio.sleep(0.01)
                await anyio.sleep(0.1)
        with anyio.fail_after(PATIENCE_S):
            while len(errors) < 3:
                await anyio.sleep(0.01)
    assert all(isinstance(error, NodeClosed | Undelivered) for error in errors)

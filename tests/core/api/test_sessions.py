"""What a session does, on a node in this process and through a daemon."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.core.api.rings import (
    PATIENCE_S,
    Open,
    configuration,
    deliveries,
    ring_of,
)
from vsync import GroupKey, Guarantee, MessageTooLarge, MisuseError, Priority
from vsync.testing.properties import check_files

pytestmark = pytest.mark.anyio


async def test_the_first_event_is_the_current_configuration(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 2) as (node, _), open_session(node) as session:
        assert (await configuration(session)).members == (1, 2)


async def test_all_sessions_deliver_the_same_messages_in_the_same_order(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 3) as nodes,
        open_session(nodes[0]) as one,
        open_session(nodes[1]) as two,
        open_session(nodes[2]) as three,
    ):
        sessions = (one, two, three)
        for session in sessions:
            await session.join("orders")
        sent = []
        for number in range(30):
            session = sessions[number % 3]
            sent.append(await session.send(b"%d" % number, guarantee=Guarantee(2 + number % 2)))
        seen = [[d.message for d in await deliveries(session, 30)] for session in sessions]
        assert seen[0] == seen[1] == seen[2]
        assert set(seen[0]) == set(sent)


async def test_a_message_says_who_sent_it_where_and_how(tmp_path: Path, open_session: Open) -> None:
    async with ring_of(tmp_path, 2) as (one, two), open_session(one) as session:
        await session.join("orders", "audit")
        async with two.session() as other:
            id = await other.send(b"x", "orders", "audit", guarantee=Guarantee.SAFE)
        (delivery,) = await deliveries(session, 1)
        assert delivery.message == id
        assert delivery.sender.node == delivery.message.node == 2
        assert delivery.groups == (GroupKey.from_name("orders"), GroupKey.from_name("audit"))
        assert delivery.payload == b"x"
        assert delivery.guarantee is Guarantee.SAFE
        assert one.configuration is not None
        assert delivery.configuration.id == one.configuration.id


async def test_only_messages_of_joined_groups_come(tmp_path: Path, open_session: Open) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        await session.join("a", "b")
        await session.leave("b")
        await session.send(b"not for us", "b")
        await session.send(b"nor this", "c")
        await session.send(b"for us", "a")
        assert [d.payload for d in await deliveries(session, 1)] == [b"for us"]


async def test_a_message_to_several_joined_groups_comes_once(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        await session.join("a", "b")
        await session.send(b"to the joined ones")
        await session.send(b"next", "a")
        payloads = [d.payload for d in await deliveries(session, 2)]
        assert payloads == [b"to the joined ones", b"next"]


async def test_one_may_send_without_joining(tmp_path: Path, open_session: Open) -> None:
    async with (
        ring_of(tmp_path, 1) as (node,),
        open_session(node) as session,
        node.session() as listener,
    ):
        await listener.join("a")
        await session.send(b"hello", "a")
        assert [d.payload for d in await deliveries(listener, 1)] == [b"hello"]


async def test_a_message_without_a_group_is_a_mistake(tmp_path: Path, open_session: Open) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        with pytest.raises(MisuseError, match="join a group, or name one"):
            await session.send(b"x")
        with pytest.raises(MisuseError, match="1 to 50 groups"):
            await session.send(b"x", *(f"g{number}" for number in range(51)))


@pytest.mark.parametrize("payload", ["text", 5, [1, 2], None])
async def test_a_payload_that_is_no_bytes_is_a_mistake(
    tmp_path: Path, open_session: Open, payload: Any
) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        with pytest.raises(MisuseError, match="a payload is bytes"):
            await session.send(payload, "a")
        with pytest.raises(MisuseError, match="a payload is bytes"):
            await session.send_batch(b"forgot the brackets", "a")  # type: ignore[arg-type]


async def test_a_payload_is_taken_as_it_was_when_it_was_sent(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        await session.join("a")
        payload = bytearray(b"before")
        await session.send(payload)
        payload[:] = b"after!"
        await session.send(memoryview(payload))
        assert [d.payload for d in await deliveries(session, 2)] == [b"before", b"after!"]


async def test_leaving_a_group_that_was_not_joined_is_a_mistake(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        with pytest.raises(MisuseError, match="has not joined"):
            await session.leave("a")


async def test_a_message_too_large_names_the_limit(tmp_path: Path, open_session: Open) -> None:
    async with (
        ring_of(tmp_path, 1, message_bytes_max=1000) as (node,),
        open_session(node) as session,
    ):
        await session.join("a")
        with pytest.raises(MessageTooLarge, match="1001 bytes is over the limit of 1000"):
            await session.send(bytes(1001))
        await session.send(bytes(1000))
        assert len((await deliveries(session, 1))[0].payload) == 1000


async def test_large_messages_arrive_whole(tmp_path: Path, open_session: Open) -> None:
    async with (
        ring_of(tmp_path, 2, message_bytes_max=4 * 2**20) as (one, two),
        open_session(one) as session,
        two.session() as other,
    ):
        await other.join("a")
        payload = bytes(range(256)) * 4 * 2**12
        await session.send(payload, "a", guarantee=Guarantee.SAFE)
        assert (await deliveries(other, 1))[0].payload == payload


async def test_a_batch_keeps_its_order_and_gives_its_ids(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 2) as (node, _), open_session(node) as session:
        await session.join("a")
        sent = await session.send_batch([b"%d" % n for n in range(5000)], priority=Priority.LOW)
        got = await deliveries(session, 5000)
        assert [d.message for d in got] == sent
        assert [d.payload for d in got] == [b"%d" % n for n in range(5000)]


async def test_a_huge_batch_holds_up_neither_the_ring_nor_a_status(
    tmp_path: Path, open_session: Open
) -> None:
    count = 50_000
    async with (
        ring_of(tmp_path, 2, preset="lan") as (node, other),
        open_session(node) as session,
    ):
        before = node.configuration
        statuses = 0
        async with other.session() as listener, anyio.create_task_group() as tasks:
            await listener.join("a")

            async def ask() -> None:
                nonlocal statuses
                while True:
                    await other.status()
                    statuses += 1
                    await anyio.sleep(0.01)

            tasks.start_soon(ask)
            await session.send_batch([b""] * count, "a")
            got = await deliveries(listener, count)
            tasks.cancel_scope.cancel()
        assert [d.message.counter for d in got] == list(range(count))
        assert node.configuration == before
        assert statuses > 3


async def test_status_tells_the_configuration_and_the_state(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 2) as (node, _), open_session(node) as session:
        status = await session.status()
        assert status["state"] == "operational"
        assert status["configuration"]["members"] == [1, 2]
        assert node.configuration is not None
        assert status["configuration"]["id"] == node.configuration.id


async def test_a_slow_session_makes_the_ring_wait_and_loses_nothing(tmp_path: Path) -> None:
    async with (
        ring_of(tmp_path, 2, message_bytes_max=2**16) as (one, two),
        one.session(name="slow", queue_bytes=100_000) as slow,
        two.session() as sender,
        anyio.create_task_group() as tasks,
    ):
        await slow.join("a")

        async def send() -> None:
            for number in range(2000):
                await sender.send(b"%05d" % number + bytes(5000), "a")

        tasks.start_soon(send)
        with anyio.fail_after(PATIENCE_S):
            while not any("slow" in warning for warning in (await one.status())["warnings"]):
                await anyio.sleep(0.01)
            while (await two.status())["blocked_by"] != 1:
                await anyio.sleep(0.01)
        got = await deliveries(slow, 2000)
        assert [int(d.payload[:5]) for d in got] == list(range(2000))


async def test_a_clean_close_leaves_traces_that_hold_every_property(tmp_path: Path) -> None:
    async with ring_of(tmp_path, 3, trace=True) as nodes:
        for node in nodes:
            async with node.session() as session:
                for guarantee in Guarantee:
                    await session.send_batch([b"x" * 2000] * 20, "a", guarantee=guarantee)
    report = check_files([tmp_path / f"{number}.jsonl" for number in (1, 2, 3)])
    assert report.violations == ()
    assert report.messages == 3 * 4 * 20
    for number in (1, 2, 3):
        assert '"event":"stop"' in (tmp_path / f"{number}.jsonl").read_text().splitlines()[-1]

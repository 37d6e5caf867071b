"""What a session may be asked to be, and services behind it; here and through a daemon."""

import time
from collections.abc import Sequence
from functools import partial
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
    Configuration,
    ConfigurationChanged,
    Delivery,
    Event,
    Evicted,
    GroupChanged,
    Member,
    MessageTooLarge,
    MisuseError,
    Move,
    ServiceFailed,
    Session,
    SlowPolicy,
    WouldBlock,
)
from vsync.settings_file import services_of

pytestmark = pytest.mark.anyio


async def rest_of(session: Session) -> list[Event]:
    """All that comes before the session is evicted."""
    found: list[Event] = []
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                found.append(await session.receive())
            except Evicted:
                return found


def numbers(events: Sequence[Event]) -> list[int]:
    return [int(event.payload[:6]) for event in events if isinstance(event, Delivery)]


async def test_several_buffers_make_one_message(tmp_path: Path, open_session: Open) -> None:
    async with ring_of(tmp_path, 1) as (node,), open_session(node) as session:
        await session.join("a")
        buffer = bytearray(b"two ")
        await session.send([b"one ", buffer, memoryview(b"three")])
        buffer[:] = b"2!! "
        await session.send((buffer,))
        session.send_nowait([b"no", b"w"], "a")
        got = [d.payload for d in await deliveries(session, 3)]
        assert got == [b"one two three", b"2!! ", b"now"]


async def test_a_reader_that_is_to_be_evicted_has_what_came_before_and_then_knows(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 2) as (node, other),
        open_session(node, slow=SlowPolicy.EVICT, queue_bytes=100_000) as slow,
        open_session(other) as quick,
    ):
        await quick.join("a")
        await slow.join("a")
        member = slow.member
        gone = False

        async def read() -> None:
            nonlocal gone
            while not gone:
                event = await quick.receive()
                gone = isinstance(event, GroupChanged) and event.left == (
                    Move(member, Cause.EVICTED),
                )

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                number = 0
                while not gone:
                    await quick.send(b"%06d" % number + bytes(4000), "a")
                    number += 1
        seen = numbers(await rest_of(slow))
        assert seen == list(range(len(seen)))
        assert 20 < len(seen) < number
        with pytest.raises(Evicted):
            await slow.send(b"x", "a")
        with pytest.raises(Evicted):
            slow.send_nowait(b"x", "a")
        with pytest.raises(Evicted):
            await slow.join("b")


async def test_a_reader_that_spills_has_everything_in_the_end(
    tmp_path: Path, open_session: Open
) -> None:
    count = 3000
    async with (
        ring_of(tmp_path, 1) as (node,),
        open_session(node, slow=SlowPolicy.SPILL, queue_bytes=100_000) as slow,
        open_session(node) as sender,
    ):
        await slow.join("a")
        for number in range(count):  # if the ring waited for the slow one, for ever
            await sender.send(b"%06d" % number + bytes(4000), "a")
        await slow.join("b")  # asking works while events wait
        assert (await slow.status())["blocked_by"] is None
        assert numbers(await deliveries(slow, count)) == list(range(count))


async def test_sending_at_once_says_who_is_slow_and_goes_on_when_there_is_room(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 2) as (node, other),
        open_session(node) as sender,
        other.session(queue_bytes=100_000) as slow,
    ):
        await slow.join("a")
        began = time.monotonic()
        sent = 0
        refusal: WouldBlock | None = None
        with anyio.fail_after(PATIENCE_S):
            while refusal is None or refusal.blocked_by is None:
                try:
                    sender.send_nowait(b"%06d" % sent + bytes(20_000), "a")
                    sent += 1
                except WouldBlock as error:
                    refusal = error
                    await anyio.sleep(0.01)
        assert refusal.blocked_by == 2
        assert began <= refusal.since <= time.monotonic()
        assert "slow reader on node 2" in str(refusal)
        got = await deliveries(slow, sent)
        assert numbers(got) == list(range(sent))
        with anyio.fail_after(PATIENCE_S):
            while True:
                try:
                    sender.send_nowait(b"000000", "a")
                    break
                except WouldBlock:
                    await anyio.sleep(0.01)
        assert numbers(await deliveries(slow, 1)) == [0]


async def test_sending_at_once_refuses_what_send_refuses(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 1, message_bytes_max=1000) as (node,),
        open_session(node) as session,
    ):
        with pytest.raises(MessageTooLarge, match="1001 bytes is over the limit of 1000"):
            session.send_nowait(bytes(1001), "a")
        with pytest.raises(MisuseError, match="join a group, or name one"):
            session.send_nowait(b"x")


async def test_messages_sent_at_once_are_sent_though_the_session_ends(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 1) as (node,), node.session() as listener:
        await listener.join("a")
        async with open_session(node) as session:
            for number in range(500):
                session.send_nowait(b"%06d" % number, "a")
        assert numbers(await deliveries(listener, 500)) == list(range(500))


class Echo(vsync.Service):
    """Answers what it is asked, in no particular order; the late ones when it is asked to."""

    NAME = "echo"

    def __init__(self, settings: object, context: vsync.ServiceContext) -> None:
        super().__init__(vsync.NoSettings(), context)
        self._late = anyio.Event()

    async def answer(self, request: bytes) -> bytes:
        if request == b"refuse":
            raise ServiceFailed("the echo is tired")
        if request == b"break":
            raise RuntimeError("a bug")
        if request == b"late":
            await self._late.wait()
        if request == b"now":
            self._late.set()
        return request.upper()


class Odd(vsync.Service):
    """Says that configurations with an odd number of members are primary."""

    NAME = "odd"
    PRIMARY = True

    async def synchronize(self, configuration: Configuration, members: Sequence[Member]) -> None:
        odd = len(configuration.members) % 2 == 1
        self.context.set_primary(configuration, odd, "it is odd" if odd else "it is even")


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: dict[str, type[vsync.Service]] = {"echo": Echo, "odd": Odd}
    installed = partial(services_of, load=kinds.__getitem__)
    monkeypatch.setattr("vsync.api.node.services_of", installed)


def with_service(directory: Path, node: int, network: str, service: str) -> vsync.NodeSettings:
    plain = settings_of(directory, node, network).model_dump(mode="python")
    return vsync.NodeSettings.model_validate({**plain, "service": {service: {}}})


@pytest.mark.usefixtures("services")
async def test_services_answer_as_they_can_and_refuse_with_a_sentence(
    tmp_path: Path, open_session: Open
) -> None:
    settings = with_service(tmp_path, 1, fresh_network(), "echo")
    async with vsync.open_node(settings) as node, open_session(node) as session:
        answers: list[bytes] = []

        async def ask(body: bytes) -> None:
            answers.append(await session.request("echo", body))

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, b"late")
                await anyio.sleep(0.05)
                for number in range(200):
                    tasks.start_soon(ask, b"a%d" % number)
                while len(answers) < 200:
                    await anyio.sleep(0.01)
                assert sorted(answers) == sorted(b"A%d" % number for number in range(200))
                await ask(b"now")
        assert sorted(answers[200:]) == [b"LATE", b"NOW"]
        for body, sentence in ((b"refuse", "tired"), (b"break", "a bug")):
            with pytest.raises(ServiceFailed, match=sentence):
                await session.request("echo", body)
        with pytest.raises(ServiceFailed, match="no service 'nobody' runs in node 1"):
            await session.request("nobody", b"")
        large = bytes(700_000)
        assert await session.request("echo", large) == large
        assert (await session.status())["node"] == 1


@pytest.mark.usefixtures("services")
async def test_who_asks_learns_which_configuration_is_primary(
    tmp_path: Path, open_session: Open
) -> None:
    network = fresh_network()
    async with (
        vsync.open_node(with_service(tmp_path, 1, network, "odd")) as one,
        open_session(one, primary=True) as asking,
        open_session(one) as other,
    ):
        first = await asking.receive()
        assert isinstance(first, ConfigurationChanged)
        assert (first.primary, first.reason) == (True, "it is odd")
        plain = await other.receive()
        assert isinstance(plain, ConfigurationChanged)
        assert (plain.primary, plain.reason) == (None, "")
        async with vsync.open_node(with_service(tmp_path, 2, network, "odd")) as two:
            await until_together([one, two])
            with anyio.fail_after(PATIENCE_S):
                while True:
                    event = await asking.receive()
                    if isinstance(event, ConfigurationChanged) and event.reason == "it is even":
                        break
            assert event.primary is False
            assert event.configuration.members == (1, 2)


async def test_nobody_can_say_what_is_primary_where_no_service_decides(
    tmp_path: Path, open_session: Open
) -> None:
    async with ring_of(tmp_path, 1) as (node,):
        with pytest.raises(MisuseError, match=r"no service of this node decides"):
            async with open_session(node, primary=True):
                pass


async def test_the_warning_of_a_slow_session_has_its_name(
    tmp_path: Path, open_session: Open
) -> None:
    async with (
        ring_of(tmp_path, 1) as (node,),
        open_session(node, name="tortoise", queue_bytes=10_000) as slow,
        open_session(node) as sender,
    ):
        await slow.join("a")
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                while True:
                    await sender.send(bytes(5000), "a")

            tasks.start_soon(send)
            with anyio.fail_after(PATIENCE_S):
                while not any("tortoise" in w for w in (await node.status())["warnings"]):
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

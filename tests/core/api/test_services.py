"""Services in nodes: what they are told, what they hold up, and how they end."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import ClassVar, Self

import anyio
import pytest

import vsync
from tests.core.api.rings import (
    PATIENCE_S,
    configuration,
    deliveries,
    fresh_network,
    settings_of,
    until_together,
)
from tests.core.daemon.test_daemon import served
from vsync import (
    Configuration,
    ConfigurationChanged,
    Delivery,
    GroupChanged,
    Kind,
    Member,
    Node,
    Priority,
    ServiceFailed,
)
from vsync.service import service_group
from vsync.settings_file import services_of

pytestmark = pytest.mark.anyio


class Counter(vsync.Service):
    """A number that all nodes agree on: what the tests watch."""

    NAME = "counter"
    all: ClassVar[list[Self]] = []

    def __init__(self, settings: object, context: vsync.ServiceContext) -> None:
        super().__init__(vsync.NoSettings(), context)
        self.count = 0
        self.known = False
        self.told: list[str] = []
        self.members: Sequence[Member] = ()
        self.came = anyio.Event()
        self.closed = False
        Counter.all.append(self)

    async def configuration_changed(self, configuration: Configuration) -> None:
        self.told.append(configuration.kind.value)

    async def view_changed(self, view: GroupChanged) -> None:
        self.told.append("view")

    async def synchronize(self, configuration: Configuration, members: Sequence[Member]) -> None:
        self.told.append("synchronize")
        self.members = members
        self.came = anyio.Event()
        if members[0] == self.context.member:
            await self.context.send(b"=%d" % self.count, priority=Priority.RECOVERY)
        await self.came.wait()

    async def deliver(self, delivery: Delivery) -> None:
        if delivery.payload.startswith(b"="):
            self.count = int(delivery.payload[1:])
            self.came.set()
        else:
            self.count += int(delivery.payload)

    async def answer(self, request: bytes) -> bytes:
        if request == b"get":
            return b"%d" % self.count
        if request == b"break":
            raise ValueError("broken on request")
        if not request.isdigit():
            raise ServiceFailed("a counter is asked to get, or to add a number")
        await self.context.send(request)
        return b""

    async def close(self) -> None:
        self.closed = True


class Primary(vsync.Service):
    """Says that the configurations with node 1 are primary."""

    NAME = "primary"
    PRIMARY = True

    async def synchronize(self, configuration: Configuration, members: Sequence[Member]) -> None:
        has = 1 in configuration.members
        self.context.set_primary(configuration, has, "node 1 is here" if has else "no node 1")


class Stuck(vsync.Service):
    """Never synchronizes on node 2."""

    NAME = "stuck"

    async def synchronize(self, configuration: Configuration, members: Sequence[Member]) -> None:
        if self.context.node == 2:
            await anyio.sleep_forever()


class Hasty(vsync.Service):
    """Sends what is held inside its synchronize."""

    NAME = "hasty"
    failure: BaseException | None = None

    async def synchronize(self, configuration: Configuration, members: Sequence[Member]) -> None:
        try:
            await self.context.send(b"x", priority=Priority.MEDIUM)
        except vsync.PriorityHeld as error:
            Hasty.failure = error
            raise


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    services: dict[str, type[vsync.Service]] = {
        service.NAME: service for service in (Counter, Primary, Stuck, Hasty)
    }
    monkeypatch.setattr(
        "vsync.api.node.services_of",
        lambda settings: services_of(settings, services.__getitem__),
    )
    Counter.all = []


@asynccontextmanager
async def serving(
    directory: Path,
    last: int,
    *services: str,
    first: int = 1,
    network: str = "",
    synchronize_s: float = 10.0,
) -> AsyncIterator[list[Node]]:
    network = network or fresh_network()
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(first, last + 1):
            plain = settings_of(directory, number, network).model_dump(mode="python")
            plain["node"]["synchronize_s"] = synchronize_s
            plain["service"] = {service: {} for service in services}
            settings = vsync.NodeSettings.model_validate(plain)
            nodes.append(await stack.enter_async_context(vsync.open_node(settings)))
        if first == 1:
            await until_together(nodes)
        yield nodes


async def until_synchronized(counter: Counter, times: int = 1) -> None:
    with anyio.fail_after(PATIENCE_S):
        while counter.told.count("synchronize") < times:
            await anyio.sleep(0.01)


async def until_count(node: Node, count: int) -> None:
    with anyio.fail_after(PATIENCE_S):
        while await node.request("counter", b"get") != b"%d" % count:
            await anyio.sleep(0.01)


async def test_a_service_is_told_in_order_and_synchronizes_once_its_members_are_known(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, 1, "counter"):
        (counter,) = Counter.all
        await until_synchronized(counter)
        assert counter.told[:3] == ["regular", "view", "synchronize"]
        assert counter.members == (counter.context.member,)
    assert counter.closed


async def test_a_joiner_gets_the_state_before_any_ordinary_message(tmp_path: Path) -> None:
    async with serving(tmp_path, 2, "counter") as nodes:
        for node in nodes:
            await node.request("counter", b"10")
        for node in nodes:
            await until_count(node, 20)
        async with serving(
            tmp_path, 3, "counter", network=nodes[0].settings.ring.name, first=3
        ) as (joiner,):
            await nodes[0].request("counter", b"1")
            await until_count(joiner, 21)


async def test_a_request_that_is_refused_or_breaks_is_a_sentence_and_harms_nobody(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, 1, "counter") as (node,), node.session() as session:
        with pytest.raises(ServiceFailed, match="a counter is asked to get"):
            await session.request("counter", b"nonsense")
        with pytest.raises(ServiceFailed, match="cannot answer: ValueError: broken on request"):
            await session.request("counter", b"break")
        with pytest.raises(ServiceFailed, match=r"no service 'clock' runs.*running: counter"):
            await session.request("clock", b"")
        assert await session.request("counter", b"get") == b"0"


async def test_a_status_that_cannot_be_told_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    monkeypatch.setattr(Counter, "status", lambda self: {"members": {1, 2}})
    async with (
        serving(tmp_path, 1, "counter") as (node,),
        served(node, path),
        vsync.connect(path) as session,
    ):
        told = (await session.status())["services"]["counter"]
        assert told == {"error": "TypeError: Object of type set is not JSON serializable"}
        await session.join("a")
        await session.send(b"x")
        assert [d.payload for d in await deliveries(session, 1)] == [b"x"]


async def test_primary_comes_with_the_configuration_to_those_who_asked(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, 2, "primary") as nodes,
        nodes[1].session(primary=True) as asking,
        nodes[1].session() as other,
    ):
        first = await asking.receive()
        assert isinstance(first, ConfigurationChanged)
        assert (first.primary, first.reason) == (True, "node 1 is here")
        plain = await other.receive()
        assert isinstance(plain, ConfigurationChanged)
        assert plain.primary is None


async def test_primary_is_asked_for_in_vain_where_nobody_decides(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as (node,):
        with pytest.raises(vsync.MisuseError, match=r"add a section \[service.quorum\]"):
            node.session(primary=True)


async def test_ordinary_messages_wait_until_all_are_synchronized_and_urgent_ones_pass(
    tmp_path: Path,
) -> None:
    async with (
        serving(tmp_path, 2, "stuck", synchronize_s=4.0) as (one, two),
        one.session() as session,
    ):
        await session.join("g")
        await session.send(b"medium")
        await session.send(b"high", priority=Priority.HIGH)
        urgent, ordinary = await deliveries(session, 2)
        assert (urgent.payload, ordinary.payload) == (b"high", b"medium")
        status = await two.status()
        assert "did not synchronize within 4 s" in status["services"]["stuck"]["failed"]
        assert "failed" not in (await one.status())["services"]["stuck"]
        with pytest.raises(ServiceFailed, match="did not synchronize"):
            await two.request("stuck", b"")


async def test_what_is_held_cannot_be_sent_while_synchronizing(tmp_path: Path) -> None:
    async with serving(tmp_path, 1, "hasty") as (node,), node.session() as session:
        await session.join("g")
        await session.send(b"x")
        await deliveries(session, 1)  # the ring goes on
        assert "inside its synchronize()" in str(Hasty.failure)
        assert "failed" in (await node.status())["services"]["hasty"]


async def test_a_service_that_fails_leaves_its_group_as_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Counter, delivery: Delivery) -> None:
        if delivery.payload == b"5" and self.context.node == 1:
            raise RuntimeError("no fives")
        await working(self, delivery)

    working = Counter.deliver
    monkeypatch.setattr(Counter, "deliver", fail)
    async with serving(tmp_path, 2, "counter") as (one, two), two.session() as session:
        group = service_group("counter")
        with pytest.raises(vsync.MisuseError, match="ask the service with request"):
            await session.join(group)
        with pytest.raises(vsync.MisuseError, match="ask the service with request"):
            await session.send(b"5", group)
        await two.request("counter", b"5")
        with anyio.fail_after(PATIENCE_S):
            while [member.node for member in two.group_members().get(group, ())] != [2]:
                await anyio.sleep(0.01)
        assert "RuntimeError: no fives" in (await one.status())["services"]["counter"]["failed"]
        await until_count(two, 5)
        await session.join("g")
        await session.send(b"on")
        await deliveries(session, 1)


async def test_what_a_service_keeps_outlives_its_node(tmp_path: Path) -> None:
    async with serving(tmp_path, 1, "counter") as (node,):
        context = Counter.all[-1].context
        assert context.load() is None
        await context.save(b"first")
        await context.save(b"second")
        with pytest.raises(vsync.MisuseError, match="65536 are possible"):
            await context.save(bytes(2**16 + 1))
    async with serving(tmp_path, 1, "counter", network=node.settings.ring.name):
        assert Counter.all[-1].context.load() == b"second"


async def test_a_configuration_that_changes_cancels_synchronize_and_begins_it_anew(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, 1, "stuck", "counter") as (one,), one.session() as session:
        assert (await configuration(session)).kind is Kind.REGULAR
        network = one.settings.transport["memory"]["network"]
        plain = settings_of(tmp_path, 2, network).model_dump(mode="python")
        plain["service"] = {"stuck": {}, "counter": {}}
        async with vsync.open_node(vsync.NodeSettings.model_validate(plain)) as two:
            await until_together([one, two])
            await one.request("counter", b"7")
            await anyio.sleep(0.3)
            assert await one.request("counter", b"get") == b"0"  # held: 2 is stuck
        await until_count(one, 7)
        await until_synchronized(Counter.all[0], 3)

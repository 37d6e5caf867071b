"""Applications and services on simulated nodes: seeds, faults, and what is said when they fail."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

import vsync
from tests.docs.pages import ROOT
from vsync.api.node_session import NodeSession
from vsync.engine.log import Log
from vsync.testing import Simulation, SimulationFailed, idle
from vsync.testing.properties import check_files

pytestmark = pytest.mark.timeout(300)


class Counter:
    """Adds up what it hears; what it did not hear it does not know."""

    def __init__(self, session: vsync.Session) -> None:
        self.session = session
        self.value = 0
        self.views: list[vsync.GroupChanged] = []

    async def run(self) -> None:
        await self.session.join("counter")
        async for event in self.session:
            if isinstance(event, vsync.Delivery):
                self.value += int(event.payload)
            elif isinstance(event, vsync.GroupChanged):
                self.views.append(event)

    async def add(self, number: int) -> None:
        await self.session.send(b"%d" % number)


class Busy(Counter):
    """Adds 1 all the time, from a task of its own, with scopes within scopes."""

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(super().run)
            for _ in range(8):
                tasks.start_soon(self.work)

    async def work(self) -> None:
        while True:
            with anyio.move_on_after(0.2):
                await anyio.sleep(0.1)
                await self.add(1)


def values(simulation: Simulation[Counter]) -> list[int]:
    return [counter.value for counter in simulation.applications()]


# --- what it is for -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_a_counter_survives_a_killed_node(seed: int) -> None:
    with Simulation(Counter, nodes=3, seed=seed) as simulation:
        simulation.run(simulation.application(1).add(5))
        simulation.settle()
        simulation.crash(1)
        simulation.run(simulation.application(2).add(3))
        simulation.settle()
        assert values(simulation) == [8, 8]
        simulation.start(1)
        simulation.settle()
        assert values(simulation) == [0, 8, 8]  # a new life knows nothing
        assert simulation.nodes == [1, 2, 3]
    assert values(simulation) == [0, 8, 8]  # objects may be looked at afterwards


def test_an_application_may_be_a_function() -> None:
    heard: list[tuple[int, bytes]] = []

    async def application(session: vsync.Session) -> None:
        await session.join("all")
        if session.member.node == 2:
            await session.send(b"hello")
        async for event in session:
            if isinstance(event, vsync.Delivery):
                heard.append((session.member.node, event.payload))

    with Simulation(application, nodes=2) as simulation:
        simulation.settle()
    assert sorted(heard) == [(1, b"hello"), (2, b"hello")]


def test_an_application_may_come_to_its_end_and_its_node_goes_on() -> None:
    class Brief(Counter):
        async def run(self) -> None:
            await self.session.join("brief")
            self.value = 7

    with Simulation(Brief, nodes=2) as simulation:
        simulation.settle()
        assert values(simulation) == [7, 7]
        assert simulation.nodes == [1, 2]
        assert simulation.run(simulation.node(1).status())["groups"] == {}


def test_a_session_may_begin_in_the_turn_in_which_another_ends() -> None:
    with Simulation(idle, nodes=2) as simulation:
        node = simulation.node(1)

        async def begin() -> vsync.Session:
            session = await node.session().__aenter__()
            await session.join("a")
            return session

        one = simulation.run(begin())
        simulation.settle()

        async def follow() -> None:
            assert isinstance(one, NodeSession)
            one.close()
            async with node.session() as two:
                await two.join("a")
                (now, view, *more) = await two.receive_batch()
                assert isinstance(now, vsync.ConfigurationChanged)
                assert isinstance(view, vsync.GroupChanged)
                assert view.members == (two.member,)
                assert not more

        simulation.run(follow())
        simulation.settle()


# --- the same always ----------------------------------------------------------------------------


def run_of_everything(seed: int) -> str:
    """A digest of all that happens in a run with all kinds of faults."""
    with Simulation(Busy, nodes=4, seed=seed, services=[Ledger]) as simulation:
        simulation.run_for(0.5)
        simulation.disturb(3)
        simulation.run_for(1)
        text = json.dumps([simulation.trace, simulation.steps])
        return hashlib.sha256(text.encode()).hexdigest()


def test_the_same_seed_is_the_same_run_whatever_the_order_of_hashes() -> None:
    here = run_of_everything(5)
    assert run_of_everything(5) == here
    assert run_of_everything(6) != here
    for hash_seed in ("0", "1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import *; print(run_of_everything(5))"],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == here, done.stderr


def test_ten_seconds_of_three_nodes_take_less_than_two() -> None:
    began = time.process_time()
    with Simulation(Busy, nodes=3) as simulation:
        simulation.run_for(10)
        assert min(values(simulation)) > 2000
    assert time.process_time() - began < 2


# --- life and death -----------------------------------------------------------------------------


class Mourned(Counter):
    """Says goodbye if it is let."""

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            with anyio.CancelScope(shield=True):
                await self.session.send(b"100")
                said.append(self.session.member.node)


said: list[int] = []


def test_nothing_of_a_crashed_node_gets_out_and_a_leaving_one_may_end_in_order() -> None:
    said.clear()
    with Simulation(Mourned, nodes=3) as simulation:
        simulation.crash(1)
        simulation.settle()
        assert values(simulation) == [0, 0]
        simulation.leave(2)
        simulation.settle()
        assert values(simulation) == [100]
        assert said == [2]
        causes = [
            [move.cause for move in view.left] for view in simulation.application(3).views[1:]
        ]
        assert [cause for cause in causes if cause] == [
            [vsync.Cause.NODE_GONE],
            [vsync.Cause.LEFT],
        ]


def test_a_paused_node_stands_still_with_its_application() -> None:
    class Clock(Counter):
        async def run(self) -> None:
            while True:
                await anyio.sleep(0.1)
                self.value += 1

    with Simulation(Clock, nodes=3) as simulation:
        simulation.run_for(1)
        simulation.pause(1)
        before = simulation.application(1).value
        simulation.run_for(2)
        assert simulation.application(1).value == before < simulation.application(2).value
        assert simulation.nodes == [1, 2, 3]
        configuration = simulation.node(2).configuration
        assert configuration is not None and configuration.members == (2, 3)
        simulation.resume(1)
        simulation.run_for(1)
        assert before < simulation.application(1).value < simulation.application(2).value
        configuration = simulation.node(1).configuration
        assert configuration is not None and configuration.members == (1, 2, 3)


def test_the_events_of_a_blocked_application_wait_for_it() -> None:
    with Simulation(Counter, nodes=3) as simulation:
        simulation.block(1)
        simulation.run(simulation.application(2).add(4))
        simulation.settle()
        assert values(simulation) == [0, 4, 4]
        configuration = simulation.node(1).configuration
        assert configuration is not None and configuration.members == (1, 2, 3)
        simulation.release(1)
        simulation.settle()
        assert values(simulation) == [4, 4, 4]


def test_a_slow_application_meets_the_policy_of_its_session() -> None:
    async def flood(simulation: Simulation[Counter]) -> None:
        for _ in range(5):  # in turns: what comes at once may be more than the bound
            for _ in range(100):
                await simulation.application(2).session.send(b"1".rjust(1000))
            await anyio.sleep(0.1)

    slow = vsync.SlowPolicy.EVICT
    with Simulation(Counter, nodes=2, slow=slow, queue_bytes=50_000) as simulation:
        simulation.block(1)
        simulation.run(flood(simulation))
        simulation.run_for(1)
        with pytest.raises(vsync.Evicted, match="was evicted"):
            simulation.release(1)
            simulation.run_for(1)
        causes = [move.cause for move in simulation.application(2).views[-1].left]
        assert causes == [vsync.Cause.EVICTED]


def test_what_is_on_disk_is_there_when_an_application_goes_on() -> None:
    async def flood(simulation: Simulation[Counter]) -> None:
        for _ in range(500):
            await simulation.application(2).session.send(b"1".rjust(1000))

    def run() -> list[Any]:
        slow = vsync.SlowPolicy.SPILL
        with Simulation(Counter, nodes=2, slow=slow, queue_bytes=50_000) as simulation:
            threads = threading.active_count()
            simulation.block(1)
            simulation.run(flood(simulation))
            simulation.settle()
            assert values(simulation) == [0, 500]
            assert threading.active_count() == threads
            simulation.release(1)
            simulation.settle()
            assert values(simulation) == [500, 500]
            return simulation.trace

    assert run() == run()


def test_parted_sides_go_on_and_merge() -> None:
    with Simulation(Counter, nodes=4) as simulation:
        simulation.partition([1, 2], [3, 4])
        simulation.settle()
        simulation.run(simulation.application(1).add(1))
        simulation.run(simulation.application(3).add(10))
        simulation.settle()
        assert values(simulation) == [1, 1, 10, 10]
        simulation.heal()
        simulation.settle()
        moves = simulation.application(1).views[-1].joined
        assert [(move.member.node, move.cause) for move in moves] == [
            (3, vsync.Cause.MERGED),
            (4, vsync.Cause.MERGED),
        ]


def test_commands_may_come_from_a_task() -> None:
    async def play(simulation: Simulation[Counter]) -> list[int]:
        async with simulation.node(1).session() as session:
            await session.join("counter")
            await session.send(b"1")
            await anyio.sleep(0.5)
            simulation.crash(2)
            await anyio.sleep(1)
            simulation.start(2)
            await anyio.sleep(1)
            await session.send(b"1")
            await anyio.sleep(0.5)
            return values(simulation)

    with Simulation(Counter, nodes=3) as simulation:
        assert simulation.run(play(simulation)) == [2, 1, 2]


def test_nodes_may_be_started_one_by_one() -> None:
    with Simulation(Counter, nodes=2, start=False) as simulation:
        assert simulation.nodes == []
        assert simulation.applications() == []
        simulation.start(2)
        simulation.settle()
        with pytest.raises(vsync.MisuseError, match="no application has begun on node 1"):
            simulation.application(1)
        simulation.start()
        simulation.start()  # those that run go on
        simulation.settle()
        assert len(simulation.applications()) == 2


# --- services -----------------------------------------------------------------------------------


class Ledger(vsync.Service):
    """Counts requests; those of all who meet count, each the highest that anyone knows."""

    NAME = "ledger"

    def __init__(self, settings: Any, context: vsync.ServiceContext) -> None:
        super().__init__(settings, context)
        self.entries: dict[str, int] = {}
        self.synchronized = 0
        self.told: set[vsync.Member] = set()
        self.news = anyio.Event()
        self.own = int(context.load() or b"0")

    async def synchronize(
        self, configuration: vsync.Configuration, members: Sequence[vsync.Member]
    ) -> None:
        self.told.clear()
        said = json.dumps([configuration.id, self.entries]).encode()
        await self.context.send(said, priority=vsync.Priority.RECOVERY)
        while not self.told.issuperset(members):
            self.news = anyio.Event()
            await self.news.wait()
        self.synchronized += 1

    async def deliver(self, delivery: vsync.Delivery) -> None:
        told_in, entries = json.loads(delivery.payload)
        for key, value in entries.items():
            self.entries[key] = max(self.entries.get(key, 0), value)
        # What was told in a synchronize() that a new configuration has ended may come in that one.
        if told_in == delivery.configuration.id:
            self.told.add(delivery.sender)
        self.news.set()

    async def answer(self, request: bytes) -> bytes:
        self.own += 1
        await self.context.save(b"%d" % self.own)
        await self.context.send(json.dumps([None, {str(self.context.node): self.own}]).encode())
        return b"entered"


class Client(Counter):
    """Asks its node's ledger all the time."""

    asks = True

    async def run(self) -> None:
        while self.asks:
            await anyio.sleep(0.05)
            await self.session.request("ledger", b"")


@pytest.mark.parametrize("seed", range(8))
def test_a_service_runs_as_in_a_node(seed: int) -> None:
    with Simulation(Client, nodes=4, seed=seed, services={Ledger: {}}) as simulation:
        simulation.disturb(3)
        simulation.run_for(2)
        for client in simulation.applications():
            client.asks = False
        simulation.settle()
        ledgers = [simulation.service(node, Ledger) for node in simulation.nodes]
        assert len({json.dumps(ledger.entries, sort_keys=True) for ledger in ledgers}) == 1
        assert all(ledger.synchronized for ledger in ledgers)
        # What a service kept on disk its next life has.
        assert {str(n): ledger.own for n, ledger in enumerate(ledgers, 1)} == ledgers[0].entries


class Prepared(vsync.Service):
    """Counts on it that its ``synchronize`` has begun before the others' messages of it come."""

    NAME = "prepared"
    prepared = ""

    async def synchronize(
        self, configuration: vsync.Configuration, members: Sequence[vsync.Member]
    ) -> None:
        self.prepared = configuration.id
        await self.context.send(configuration.id.encode(), priority=vsync.Priority.RECOVERY)

    async def deliver(self, delivery: vsync.Delivery) -> None:
        if delivery.payload.decode() == delivery.configuration.id:
            assert self.prepared == delivery.configuration.id


@pytest.mark.parametrize("seed", range(8))
def test_synchronize_has_begun_before_what_others_send_in_it_is_delivered(seed: int) -> None:
    with Simulation(idle, nodes=4, seed=seed, services=[Prepared]) as simulation:
        simulation.disturb(3)
        simulation.settle()
        for node in simulation.nodes:
            services = simulation.run(simulation.node(node).status())["services"]
            assert "failed" not in services["prepared"], services


class Flood:
    """Sends more than the ring takes, all the time."""

    def __init__(self, session: vsync.Session) -> None:
        self.session = session

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(self.send)

    async def send(self) -> None:
        while True:
            await self.session.send(bytes(500_000), "flood")


def test_messages_that_synchronization_holds_back_do_not_hold_it_back() -> None:
    with Simulation(Flood, nodes=3, services=[Ledger], synchronize_s=0.3) as simulation:
        simulation.run_for(0.1)
        simulation.crash(3)
        simulation.run_for(0.8)
        for node in (1, 2):
            status = simulation.run(simulation.node(node).status())
            assert status["pending_bytes"] > 7_000_000
            assert "failed" not in status["services"]["ledger"], status["services"]
            assert not status["synchronizing"]
            assert simulation.service(node, Ledger).synchronized == 2


def test_services_are_chosen_by_node() -> None:
    with Simulation(
        idle, nodes=2, services=lambda node: {Ledger: {}} if node == 1 else {}
    ) as simulation:
        assert simulation.run(simulation.node(1).request("ledger", b"")) == b"entered"
        with pytest.raises(vsync.ServiceFailed, match="no service 'ledger' runs in node 2"):
            simulation.run(simulation.node(2).request("ledger", b""))
        with pytest.raises(vsync.MisuseError, match="node 2 does not run the service ledger"):
            simulation.service(2, Ledger)


# --- what is said when it fails -----------------------------------------------------------------


def test_what_an_application_raises_is_raised_with_the_seed_and_the_faults() -> None:
    class Broken(Counter):
        async def run(self) -> None:
            if self.session.member.node == 2:
                await anyio.sleep(1)
                raise ValueError("broken on purpose")

    with (
        pytest.raises(ValueError, match="broken on purpose") as caught,
        Simulation(Broken, nodes=3, seed=41) as simulation,
    ):
        simulation.crash(1)
        simulation.run_for(5)
    notes = "\n".join(caught.value.__notes__)
    assert "raised by the application of node 2 at 1." in notes
    assert "in a simulation of 3 nodes with seed 41, at 1." in notes
    assert "crash 1" in notes


@pytest.mark.pure
def test_the_properties_are_checked_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered = Log._deliver_ordered
    monkeypatch.setattr(
        Log, "_deliver_ordered", lambda self, c, safe_up_to, out: ordered(self, c, 2**62, out)
    )

    async def flood(session: vsync.Session) -> None:
        await session.join("all")
        while True:
            await session.send(b"1", guarantee=vsync.Guarantee.SAFE)
            await anyio.sleep(0.002)

    def run(seed: int) -> None:
        with Simulation(flood, nodes=3, seed=seed) as simulation:
            simulation.disturb(2)

    with pytest.raises(SimulationFailed, match=r"property 7\.\d does not hold: ") as caught:
        for seed in range(20):
            run(seed)
    assert "\n  line " in str(caught.value)


def test_what_does_not_come_to_its_end_is_told_with_where_it_waits() -> None:
    async def wait_for_what_nobody_says(session: vsync.Session) -> None:
        await session.join("silence")
        while not isinstance(await session.receive(), vsync.Delivery):
            pass

    async def ask(simulation: Simulation[Any]) -> None:
        async with simulation.node(1).session() as session:
            await wait_for_what_nobody_says(session)

    with Simulation(idle) as simulation, pytest.raises(SimulationFailed) as caught:
        simulation.run(ask(simulation), within_s=2)
    message = str(caught.value)
    assert "ask() has not come to its end within 2 s of virtual time" in message
    assert "the test: " in message
    assert "wait_for_what_nobody_says (test_application.py:" in message


def test_a_cluster_that_never_rests_is_told() -> None:
    with Simulation(Busy) as simulation, pytest.raises(SimulationFailed, match="not come to rest"):
        simulation.settle(within_s=2)


def never() -> bool:
    return False


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda s: s.crash(4), "there is no node 4; nodes are 1 to 3"),
        (lambda s: s.partition([1], [2, 9]), "there is no node 9"),
        (lambda s: s.cut(1, 0), "there is no node 0"),
        (lambda s: s.disturb(1, kinds=["flood"]), "there is no fault 'flood'; known are crash"),
        (lambda s: s.disturb(1, spare=[7]), "there is no node 7"),
        (lambda s: s.application(1), "the application is a function and has no object"),
        (lambda s: (s.crash(2), s.node(2)), r"nothing runs on node 2 at 0\.\d+ s"),
    ],
)
def test_misuse_is_a_sentence(misuse: Callable[[Simulation[Any]], object], sentence: str) -> None:
    with Simulation(idle) as simulation, pytest.raises(vsync.MisuseError, match=sentence):
        misuse(simulation)


def test_a_wait_for_a_condition_ends() -> None:
    with Simulation(idle) as simulation:
        simulation.run_until(lambda: simulation.now > 1)
        assert 1 < simulation.now < 1.1
        with pytest.raises(SimulationFailed, match="the wait for never"):
            simulation.run_until(never, within_s=1)


def test_a_simulation_has_nodes() -> None:
    with pytest.raises(vsync.MisuseError, match="at least one node, not 0"):
        Simulation(idle, nodes=0)


def test_settings_that_a_service_refuses_are_told_at_once() -> None:
    simulation = Simulation(idle, services={Ledger: {"colour": "red"}})
    sentence = r"there is no key colour in \[service\.ledger\]"
    with pytest.raises(vsync.SettingsError, match=sentence), simulation:
        pass
    simulation = Simulation(idle, services=["nowhere"])
    with pytest.raises(vsync.PluginNotFound, match="nowhere"), simulation:
        pass


def test_traces_are_written_for_the_checker(tmp_path: Path) -> None:
    with Simulation(Counter, nodes=3) as simulation:
        simulation.run(simulation.application(1).add(1))
        simulation.restart(2)
        simulation.settle()
        files = simulation.write_trace(tmp_path / "traces")
    assert [file.name for file in files] == ["1.jsonl", "2.jsonl", "3.jsonl"]
    report = check_files(files)
    assert report.holds
    assert report.deliveries >= 2

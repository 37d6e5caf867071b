"""Both services on simulated nodes, with faults from seeds; the map is linearizable throughout."""

import logging
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import anyio
import pytest

import vsync
from tests.services.clients import Client
from vsync.testing import Simulation, idle
from vsync.testing.faults import FAULTS
from vsync_services.kv import (
    KeyValue,
    KeyValueError,
    NotPrimary,
    OutcomeUnknown,
    WatchBehind,
)
from vsync_services.kv.service import KeyValueService
from vsync_services.quorum.service import QuorumService
from vsync_services.testing import Recorder, Set, check_linearizable

pytestmark = pytest.mark.timeout(300)

MILD = [kind for kind in FAULTS if kind.split()[0] not in ("crash", "restart", "leave")]
DEADLY = ["crash", "restart", "leave"]


Services = dict[type[vsync.Service] | str, Mapping[str, Any]]


def with_quorum(votes: int, **kv: Any) -> Services:
    return {QuorumService: {"expected_votes": votes}, KeyValueService: {"timeout_s": 1.0, **kv}}


def status(simulation: Simulation[Any], node: int) -> dict[str, Any]:
    return dict(simulation.service(node, KeyValueService).status())


@pytest.fixture
def losses(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What the nodes say of maps that are lost for good; filled at the end."""
    lost: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "is lost" in record.getMessage():
                lost.append(record.getMessage())

    handler = Handler()
    logger = logging.getLogger("vsync_services")
    logger.addHandler(handler)
    yield lost
    logger.removeHandler(handler)


class Clients:
    """The application of each node: two clients, which write down what they see."""

    def __init__(self, session: vsync.Session, recorder: Recorder, dice: Random) -> None:
        self.session = session
        self.recorder = recorder
        self.dice = dice

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(2):
                name = f"{self.session.member}-{self.dice.randrange(10**6)}-{number}"
                client = Client(name, self.session, self.recorder, self.dice, 0.1)
                tasks.start_soon(client.run)


def disturbed(seed: int, nodes: int, kinds: list[str], seconds: float) -> Recorder:
    """What clients saw on nodes that were disturbed."""
    recorder, dice = Recorder(), Random(seed)
    with Simulation(
        lambda session: Clients(session, recorder, dice),
        nodes=nodes,
        seed=seed,
        services=with_quorum(nodes, chunk_bytes=1024),
    ) as simulation:
        simulation.disturb(seconds, kinds=kinds)
        simulation.run_for(3.0)  # rings that just parted avoid each other for up to two seconds
        serving = {status(simulation, node)["serves"] for node in simulation.nodes}
        assert serving == {"linearizable"}
    return recorder


# --- under faults -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(15))
def test_the_map_is_linearizable_while_the_network_parts_and_nodes_pause(
    seed: int, losses: list[str]
) -> None:
    recorder = disturbed(seed, 3 + 2 * (seed % 2), MILD, 5.0)
    violations = check_linearizable(recorder.calls)
    assert not violations, "\n".join(map(str, violations))
    assert not losses
    assert sum(isinstance(call.action, Set) for call in recorder.calls) > 20


def test_the_map_is_linearizable_while_nodes_crash_and_restart(losses: list[str]) -> None:
    judged = 0
    for seed in range(100, 114):
        losses.clear()
        recorder = disturbed(seed, 5, [*MILD, *DEADLY], 4.0)
        if losses:
            continue  # every node that had the newest map was killed: nothing can be promised then
        judged += 1
        violations = check_linearizable(recorder.calls)
        assert not violations, f"seed {seed}:\n" + "\n".join(map(str, violations))
    assert judged >= 7


# --- by hand ------------------------------------------------------------------------------------


def test_a_node_that_comes_back_has_the_map_from_the_others() -> None:
    with Simulation(idle, nodes=3, seed=1, services=with_quorum(3, chunk_bytes=1024)) as ring:
        values = KeyValue(ring.node(1))
        for number in range(50):
            ring.run(values.set(f"key {number:02}", bytes(1000)))
        ring.crash(3)
        ring.run(KeyValue(ring.node(2)).delete("key 00"))
        ring.start(3)
        ring.settle()
        there = ring.run(KeyValue(ring.node(3)).list())
        assert [item.key for item in there.items] == [f"key {number:02}" for number in range(1, 50)]
        points = {status(ring, node)["point"] for node in (1, 2, 3)}
        assert len(points) == 1
        assert status(ring, 3)["maps_received"] == 1


def test_a_minority_refuses_and_says_why_and_has_everything_when_it_is_back() -> None:
    with Simulation(idle, nodes=3, seed=2, services=with_quorum(3)) as ring:
        ring.partition([1], [2, 3])
        ring.run_for(2)
        for attempt in (KeyValue(ring.node(1)).get("k"), KeyValue(ring.node(1)).set("k", b"1")):
            with pytest.raises(NotPrimary, match="1 of 3 votes: node 1, and 2 are needed"):
                ring.run(attempt)
        ring.run(KeyValue(ring.node(2)).set("k", b"2"))
        ring.heal()
        ring.settle()
        item = ring.run(KeyValue(ring.node(1)).get("k"))
        assert item is not None
        assert item.value == b"2"


def test_a_majority_that_has_forgotten_waits_for_who_remembers() -> None:
    with Simulation(idle, nodes=3, seed=3, services=with_quorum(3)) as ring:
        ring.crash(3)
        ring.run(KeyValue(ring.node(1)).set("k", b"acknowledged"))
        ring.crash(1)  # its memory of it is gone
        ring.start(3)
        ring.partition([2], [1, 3])
        ring.start(1)
        ring.run_for(2)
        assert ring.service(3, QuorumService).status()["primary"] is True
        with pytest.raises(NotPrimary, match=r"waiting for node 2, with it or restarted"):
            ring.run(KeyValue(ring.node(3)).get("k"))
        ring.heal()
        ring.settle()
        item = ring.run(KeyValue(ring.node(3)).get("k"))
        assert item is not None
        assert item.value == b"acknowledged"


def test_nodes_that_have_all_forgotten_begin_again(losses: list[str]) -> None:
    with Simulation(idle, nodes=3, seed=4, services=with_quorum(3)) as ring:
        ring.run(KeyValue(ring.node(1)).set("k", b"1"))
        ring.crash(1, 2, 3)
        ring.start(1, 2)
        ring.run_for(2)
        with pytest.raises(NotPrimary, match="waiting for node 3"):
            ring.run(KeyValue(ring.node(1)).get("k"))
        ring.start(3)
        ring.settle()
        assert ring.run(KeyValue(ring.node(1)).get("k")) is None
        assert status(ring, 1)["maps_lost"] == 1
    assert any("all its nodes are here, nodes 1, 2 and 3" in text for text in losses)


def test_a_node_without_kv_among_those_that_vote_is_named() -> None:
    def services(node: int) -> Services:
        both = with_quorum(3)
        return both if node < 3 else {QuorumService: both[QuorumService]}

    with (
        Simulation(idle, nodes=3, seed=5, services=services) as ring,
        pytest.raises(NotPrimary, match=r"node 3 is here and without kv.*give all nodes"),
    ):
        ring.run(KeyValue(ring.node(1)).get("k"))


def test_a_node_without_quorum_among_those_that_have_one_is_named() -> None:
    def services(node: int) -> Services:
        both = with_quorum(3)
        return both if node < 3 else {KeyValueService: {}}

    with (
        Simulation(idle, nodes=3, seed=6, services=services) as ring,
        pytest.raises(NotPrimary, match="node 3 is here without a service that decides"),
    ):
        ring.run(KeyValue(ring.node(3)).get("k"))


def test_without_quorum_every_part_goes_on_and_the_one_with_more_changes_wins() -> None:
    with Simulation(idle, nodes=3, seed=7, services={KeyValueService: {}}) as ring:
        ring.run(KeyValue(ring.node(1)).set("shared", b"1"))
        ring.partition([1], [2, 3])
        ring.run_for(2)
        ring.run(KeyValue(ring.node(1)).set("mine", b"1"))
        for number in range(3):
            ring.run(KeyValue(ring.node(2)).set("theirs", b"%d" % number))
        ring.heal()
        ring.settle()
        listing = ring.run(KeyValue(ring.node(1)).list())
        assert [(item.key, item.value) for item in listing.items] == [
            ("shared", b"1"),
            ("theirs", b"2"),
        ]
        assert status(ring, 1)["changes_lost"] == 1
        assert status(ring, 2)["changes_lost"] == 0


def test_of_parts_with_as_many_changes_that_of_the_lowest_representative_wins() -> None:
    with Simulation(idle, nodes=4, seed=8, services={KeyValueService: {}}) as ring:
        ring.partition([1, 4], [2, 3])
        ring.run_for(2)
        ring.run(KeyValue(ring.node(4)).set("k", b"of 1 and 4"))
        ring.run(KeyValue(ring.node(2)).set("k", b"of 2 and 3"))
        ring.heal()
        ring.settle()
        for node in (1, 2, 3, 4):
            item = ring.run(KeyValue(ring.node(node)).get("k"))
            assert item is not None
            assert item.value == b"of 1 and 4"


@pytest.mark.parametrize("seed", range(6))
def test_a_node_that_sends_its_map_may_die_at_it(seed: int) -> None:
    services = with_quorum(3, chunk_bytes=1024)
    with Simulation(idle, nodes=3, seed=seed, services=services) as ring:
        values = KeyValue(ring.node(2))
        for number in range(20):
            ring.run(values.set(f"{number}", bytes(20_000)))
        ring.crash(3)
        ring.run_for(1)
        ring.start(3)
        ring.run_until(lambda: 3 in ring.nodes and status(ring, 1)["maps_sent"] > 0)
        ring.run_for(0.002 * seed)
        ring.crash(1)
        ring.run_for(3)
        listing = ring.run(KeyValue(ring.node(3)).list())
        assert len(listing.items) == 20
        ring.start(1)
        ring.settle()
        assert len({status(ring, node)["point"] for node in (1, 2, 3)}) == 1


def test_local_reads_are_answered_in_any_configuration() -> None:
    with Simulation(idle, nodes=3, seed=9, services=with_quorum(3, reads="local")) as ring:
        ring.run(KeyValue(ring.node(1)).set("k", b"1"))
        ring.partition([1], [2, 3])
        ring.run_for(2)
        ring.run(KeyValue(ring.node(2)).set("k", b"2"))
        old = ring.run(KeyValue(ring.node(1)).get("k"))
        new = ring.run(KeyValue(ring.node(2)).get("k"))
        assert (old.value if old else None, new.value if new else None) == (b"1", b"2")


def test_a_write_that_nobody_answers_in_time_is_unknown_and_may_take_effect() -> None:
    with Simulation(idle, nodes=3, seed=10, services=with_quorum(3, timeout_s=0.05)) as ring:
        ring.pause(2)
        with pytest.raises(OutcomeUnknown):
            ring.run(KeyValue(ring.node(1)).set("k", b"1"))
        ring.resume(2)
        ring.settle()
        assert ring.run(KeyValue(ring.node(2)).get("k")) is not None


# --- watches ------------------------------------------------------------------------------------


def watched(
    ring: Simulation[Any], node: int, point: str | None, count: int
) -> list[tuple[str, bytes | None]]:
    async def follow() -> list[tuple[str, bytes | None]]:
        seen: list[tuple[str, bytes | None]] = []
        async for update in KeyValue(ring.node(node)).watch("a/", point=point):
            seen.append((update.key, update.value))
            if len(seen) == count:
                break
        return seen

    return ring.run(follow())


def test_a_watch_tells_every_change_in_order_and_goes_on_at_another_node() -> None:
    with Simulation(idle, nodes=3, seed=11, services=with_quorum(3)) as ring:
        values = KeyValue(ring.node(1))
        ring.run(values.set("a/1", b"before"))
        point = ring.run(values.list("a/")).point
        ring.run(values.set("a/1", b"1"))
        ring.run(values.set("b/1", b"not watched"))
        ring.run(values.delete("a/1"))
        ring.crash(1)
        ring.run(KeyValue(ring.node(2)).set("a/2", b"2"))
        expected = [("a/1", b"1"), ("a/1", None), ("a/2", b"2")]
        assert watched(ring, 2, point, 3) == expected
        ring.start(1)
        ring.settle()
        assert watched(ring, 1, point, 3) == expected  # of the map that it was sent


def test_a_watch_that_waits_is_woken() -> None:
    with Simulation(idle, nodes=3, seed=12, services=with_quorum(3)) as ring:

        async def both() -> list[tuple[str, bytes | None]]:
            seen: list[tuple[str, bytes | None]] = []

            async def follow() -> None:
                async for update in KeyValue(ring.node(1)).watch("a/"):
                    seen.append((update.key, update.value))
                    return

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                await anyio.sleep(5)
                await KeyValue(ring.node(2)).set("a/x", b"new")
            return seen

        assert ring.run(both()) == [("a/x", b"new")]


def test_a_watch_too_far_behind_is_told_so() -> None:
    with Simulation(idle, nodes=3, seed=13, services=with_quorum(3, changes_max=5)) as ring:
        values = KeyValue(ring.node(1))
        point = ring.run(values.list()).point
        for number in range(10):
            ring.run(values.set("a/k", b"%d" % number))
        with pytest.raises(WatchBehind, match="too far behind: changes up to revision 5"):
            watched(ring, 1, point, 1)


def test_a_watch_of_changes_that_were_given_up_is_told_so() -> None:
    with Simulation(idle, nodes=3, seed=14, services={KeyValueService: {}}) as ring:
        ring.partition([1], [2, 3])
        ring.run_for(2)
        ring.run(KeyValue(ring.node(1)).set("a/k", b"given up"))
        point = ring.run(KeyValue(ring.node(1)).list()).point
        for _ in range(3):
            ring.run(KeyValue(ring.node(2)).set("a/k", b"goes on"))
        ring.heal()
        ring.settle()
        with pytest.raises(WatchBehind, match="another part of the ring"):
            watched(ring, 1, point, 1)


# --- the quorum's word to sessions --------------------------------------------------------------


def test_sessions_that_ask_learn_which_configuration_is_primary_and_why() -> None:
    heard: dict[int, list[tuple[bool | None, str]]] = {1: [], 2: [], 3: []}

    class Listener:
        def __init__(self, session: vsync.Session) -> None:
            self.session = session

        async def run(self) -> None:
            async for event in self.session:
                if isinstance(event, vsync.ConfigurationChanged):
                    node = self.session.member.node
                    heard[node].append((event.primary, event.reason))

    services = {QuorumService: {"expected_votes": 3}}
    with Simulation(Listener, nodes=3, seed=15, services=services, primary=True) as ring:
        ring.partition([1], [2, 3])
        ring.run_for(2)
        assert heard[1][-1] == (
            False,
            "1 of 3 votes: node 1, and 2 are needed; nodes 2 and 3 are missing",
        )
        assert heard[2][-1] == (True, "2 of 3 votes: nodes 2 and 3; node 1 is missing")
        ring.heal()
        ring.settle()
        assert {heard[node][-1] for node in heard} == {(True, "3 of 3 votes: nodes 1, 2 and 3")}


def test_of_two_nodes_the_one_that_stays_goes_on_when_the_other_leaves_in_order() -> None:
    services: Services = {
        QuorumService: {"two_node": True},
        KeyValueService: {},
    }
    with Simulation(idle, nodes=2, seed=16, services=services) as ring:
        ring.run(KeyValue(ring.node(1)).set("k", b"1"))
        ring.leave(1)
        ring.run_for(3)
        assert ring.run(KeyValue(ring.node(2)).set("k", b"2")) == 2
        assert "left in order" in ring.service(2, QuorumService).status()["reason"]
        ring.start(1)
        ring.settle()
        ring.crash(1)
        ring.run_for(2)
        with pytest.raises(KeyValueError, match="node 1, the lowest of all, would break the tie"):
            ring.run(KeyValue(ring.node(2)).set("k", b"3"))


def test_a_ring_whose_settings_differ_is_never_primary_and_says_where() -> None:
    def services(node: int) -> Services:
        return {QuorumService: {"expected_votes": 5 if node == 2 else 3}}

    with Simulation(idle, nodes=3, seed=17, services=services) as ring:
        said = ring.service(1, QuorumService).status()
        assert said["primary"] is False
        assert "expected_votes is 3 on nodes 1 and 3 and 5 on node 2" in said["reason"]
        ring.partition([2], [1, 3])
        ring.run_for(2)
        said = ring.service(1, QuorumService).status()
        assert said["primary"] is False
        assert "when node 2 was last here" in said["reason"]


@pytest.mark.parametrize("seed", range(12))
def test_primary_configurations_share_a_node_whatever_happens(seed: int) -> None:
    dice = Random(seed)
    nodes = dice.choice((3, 4, 5))
    decided: dict[str, tuple[tuple[int, ...], bool]] = {}

    class Listener:
        def __init__(self, session: vsync.Session) -> None:
            self.session = session

        async def run(self) -> None:
            async for event in self.session:
                if isinstance(event, vsync.ConfigurationChanged) and event.primary is not None:
                    configuration = event.configuration
                    if configuration.kind is vsync.Kind.REGULAR:
                        said = (configuration.members, event.primary)
                        first = decided.setdefault(configuration.id, said)
                        assert first[0] == said[0]
                        # Who sees it end before it is decided takes it for not primary.
                        decided[configuration.id] = (said[0], first[1] or said[1])

    settings = {
        "expected_votes": nodes,
        "wait_for_all": dice.choice((True, False)),
        "auto_tie_breaker": dice.choice(("none", "lowest", [1, 2, 3])),
    }
    services: Services = {QuorumService: settings}
    with Simulation(Listener, nodes=nodes, seed=seed, services=services, primary=True) as ring:
        ring.disturb(6.0, kinds=[*MILD, *DEADLY])
        ring.settle()
        ring.run_for(0.5)
        last = ring.service(1, QuorumService).status()
        assert last["primary"] is True, last["reason"]
    primaries = [set(members) for members, primary in decided.values() if primary]
    assert primaries
    for one in primaries:
        for other in primaries:
            assert one & other, f"{sorted(one)} and {sorted(other)}"

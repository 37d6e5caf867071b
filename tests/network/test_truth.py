"""Real processes on hosts of their own, loaded and ill-treated: what they delivered must hold.

Every test ends with all traces held against every property of Extended Virtual Synchrony, and with
a look for messages that were accepted and are lost; see ``Ring.finish``.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.command import vsync
from tests.network.nodes import PATIENT, Ring
from vsync.testing.properties import Report
from vsync.trace import Sent

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]

MakeRing = Callable[..., Ring]


@pytest.fixture
def make_ring(tmp_path: Path) -> Iterator[MakeRing]:
    """Make a ring of so many nodes, each on a host of its own, started and in one configuration."""
    with ExitStack() as stack:

        def made(size: int, settings: str = "") -> Ring:
            ring = stack.enter_context(Ring(tmp_path, size, housed=True, ring=settings))
            ring.start()
            ring.wait_for()
            return ring

        yield made


def kinds_sent(report: Report) -> set[tuple[str, str, int]]:
    """Guarantee, priority and size of every message."""
    return {
        (line.guarantee, line.priority, line.size)
        for process in report.history.processes
        for line in process.lines
        if isinstance(line, Sent)
    }


def test_three_nodes_agree_on_messages_of_every_kind(make_ring: MakeRing) -> None:
    ring = make_ring(3, PATIENT)
    load = ring.load()
    for node in ring.nodes:
        done = vsync("send", "--socket", node.socket, "red", "--count", "500", "--size", "100")
        assert done.returncode == 0, done.stderr
    ring.wait_for_messages(2500)
    report = ring.finish(load, messages=500)
    assert len(report.history.configurations) <= 6, "the ring broke though nothing happened to it"
    kinds = kinds_sent(report)
    assert {kind[0] for kind in kinds} == {"unordered", "fifo", "agreed", "safe"}
    assert {kind[1] for kind in kinds} == {"recovery", "high", "medium", "low"}
    assert {kind[2] for kind in kinds} == {1, 100, 1400, 20_000, 300_000}
    ring.leave()


def test_five_nodes_go_on_when_the_representative_and_another_are_killed(
    make_ring: MakeRing,
) -> None:
    ring = make_ring(5)
    load = ring.load()
    ring.wait_for_messages(500)
    ring[1].kill()
    ring.wait_for(2, 3, 4, 5)
    ring.wait_for_messages(500)
    ring[4].kill()
    ring.wait_for(2, 3, 5)
    ring.wait_for_messages(500)
    ring.start(1, 4)
    ring.wait_for()
    ring.wait_for_messages(500)
    ring.finish(load, messages=1000)
    ring.leave()


def test_two_of_five_nodes_may_be_killed_at_once(make_ring: MakeRing) -> None:
    ring = make_ring(5)
    load = ring.load()
    ring.wait_for_messages(500)
    for number in (1, 3):
        ring[number].kill()
    ring.wait_for(2, 4, 5)
    ring.start(1, 3)
    ring.wait_for()
    ring.wait_for_messages(500)
    ring.finish(load, messages=500)


@pytest.mark.parametrize("number", [1, 3])
def test_a_node_that_is_stopped_for_a_second_while_it_sends_comes_back(
    make_ring: MakeRing, number: int
) -> None:
    ring = make_ring(5)
    load = ring.load()
    ring.wait_for_messages(500)
    ring[number].pause()
    others = [other for other in range(1, 6) if other != number]
    ring.wait_for(*others)
    time.sleep(1)
    ring[number].resume()
    ring.wait_for()
    ring.wait_for_messages(500)
    for _ in range(5):  # too short to be noticed by anyone, or just long enough
        ring[number].pause()
        time.sleep(0.1)
        ring[number].resume()
        time.sleep(0.2)
    ring.wait_for()
    ring.finish(load, messages=500)


def test_a_node_may_be_restarted_under_load_again_and_again(make_ring: MakeRing) -> None:
    ring = make_ring(3)
    load = ring.load()
    for kill in (True, False, True, True, False):
        ring.wait_for_messages(200)
        if kill:
            ring[2].kill()
        else:
            assert ring[2].leave() == 0, ring[2].said()
        ring.start(2)
        ring.wait_for()
    ring.wait_for_messages(200)
    ring.finish(load, messages=500)


def test_partitions_of_two_and_three_merge_with_and_without_carrier(make_ring: MakeRing) -> None:
    ring = make_ring(5)
    load = ring.load()
    ring.wait_for_messages(500)
    # The cables of 1 and 2 come out, so each of them is alone.
    ring.unplug(1, 2)
    ring.wait_for(3, 4, 5)
    ring.wait_for(1)
    ring.wait_for(2)
    ring.wait_for_messages(200)
    ring.plug(1, 2)
    ring.wait_for()
    ring.wait_for_messages(500)
    # The network falls apart, and 1 and 2 go on together.
    ring.part(1, 2)
    ring.wait_for(1, 2)
    ring.wait_for(3, 4, 5)
    ring.wait_for_messages(200)
    ring.merge(1, 2)
    ring.wait_for()
    ring.wait_for_messages(500)
    ring.finish(load, messages=1000)


def test_a_node_that_is_cut_off_with_its_link_up_goes_on_alone_and_comes_back(
    make_ring: MakeRing,
) -> None:
    ring = make_ring(3)
    load = ring.load()
    for number in (3, 1):
        ring.wait_for_messages(300)
        ring.cut(number)
        ring.wait_for(*{1, 2, 3} - {number})
        ring.wait_for(number)
        ring.wait_for_messages(100)
        ring.heal(number)
        ring.wait_for()
    ring.finish(load, messages=500)


@pytest.mark.parametrize("percent", [2, 5])
def test_five_nodes_lose_no_message_though_they_lose_packets(
    make_ring: MakeRing, percent: float
) -> None:
    ring = make_ring(5)
    ring.lose(percent)
    load = ring.load()
    ring.wait_for_messages(1000)
    ring[2].kill()
    ring.wait_for_messages(500)
    ring.start(2)
    ring.wait_for_messages(500)
    ring.lose(0)
    report = ring.finish(load, messages=1000)
    assert len(report.history.processes) == 6


def test_packets_that_arrive_twice_are_delivered_once(make_ring: MakeRing) -> None:
    ring = make_ring(3)
    ring.repeat(30)
    load = ring.load()
    ring.wait_for_messages(1000)
    ring.finish(load, messages=500)
    assert any(node.dropped("repeated") for node in ring.nodes)


def test_five_nodes_agree_whatever_happens_to_them_in_whatever_order(make_ring: MakeRing) -> None:
    ring = make_ring(5)
    dice = random.Random(1)
    load = ring.load()
    for _ in range(14):
        number = dice.choice([node.number for node in ring.nodes])
        node = ring[number]
        match dice.choice(("kill", "leave", "pause", "cut", "unplug", "lose")):
            case "kill":
                node.kill()
                time.sleep(dice.uniform(0, 0.6))
                ring.start(number)
            case "leave":
                assert node.leave() == 0, node.said()
                ring.start(number)
            case "pause":
                node.pause()
                time.sleep(dice.uniform(0.05, 1))
                node.resume()
            case "cut":
                ring.cut(number)
                time.sleep(dice.uniform(0.05, 1))
                ring.heal(number)
            case "unplug":
                ring.unplug(number)
                time.sleep(dice.uniform(0.05, 1))
                ring.plug(number)
            case "lose":
                ring.lose(dice.choice((1, 10)))
                time.sleep(dice.uniform(0.05, 1))
                ring.lose(0)
        time.sleep(dice.uniform(0, 0.4))
    ring.wait_for()
    ring.wait_for_messages(200)
    ring.finish(load, messages=500)

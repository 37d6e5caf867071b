"""The simulated cluster itself: what its faults do, and that a seed is always the same run."""

import subprocess
import sys

import pytest

from vsync.settings import RingSettings
from vsync.testing.cluster import Cluster
from vsync.testing.network import Action, Conditions, Inbox, Rule
from vsync.transport import Packet
from vsync.vocabulary import Guarantee
from vsync.wire.header import FrameType


@pytest.fixture
def cluster() -> Cluster:
    """Three nodes on one ring."""
    cluster = Cluster(nodes=3, seed=7)
    cluster.start()
    assert cluster.settle()
    return cluster


def members(cluster: Cluster, number: int) -> tuple[int, ...]:
    return tuple(cluster.engine(number).members)


def deliveries(cluster: Cluster, message: object) -> list[int]:
    return [
        line["node"]
        for line in cluster.lines
        if line["event"] == "deliver" and line["message"] == str(message)
    ]


def test_all_form_one_ring(cluster: Cluster) -> None:
    assert [members(cluster, number) for number in (1, 2, 3)] == [(1, 2, 3)] * 3
    assert cluster.check(quiet=True).holds


@pytest.mark.parametrize("guarantee", Guarantee)
def test_a_message_reaches_everyone(cluster: Cluster, guarantee: Guarantee) -> None:
    message = cluster.submit(2, b"hello", guarantee)
    cluster.settle()
    assert sorted(deliveries(cluster, message)) == [1, 2, 3]
    assert cluster.check(quiet=True).holds


def test_a_node_without_a_configuration_sends_nothing() -> None:
    cluster = Cluster(nodes=2)
    assert cluster.submit(1, b"nobody runs") is None
    cluster.start()
    assert cluster.submit(1, b"no configuration yet") is None


def test_a_dead_node_is_missed_and_its_next_life_is_another(cluster: Cluster) -> None:
    cluster.crash(3)
    assert cluster.settle()
    assert members(cluster, 1) == (1, 2)
    former = cluster.hosts[3].life
    cluster.start(3)
    assert cluster.settle()
    assert members(cluster, 1) == (1, 2, 3)
    assert cluster.hosts[3].life > former
    assert cluster.check(quiet=True).holds


def test_a_paused_node_does_nothing_until_it_goes_on(cluster: Cluster) -> None:
    cluster.pause(2)
    assert cluster.submit(2, b"from a stopped node") is None
    told = len([line for line in cluster.lines if line["node"] == 2])
    cluster.run(1)
    assert len([line for line in cluster.lines if line["node"] == 2]) == told
    assert members(cluster, 1) == (1, 3)
    cluster.resume(2)
    assert cluster.settle()
    assert members(cluster, 1) == (1, 2, 3)


def test_a_leaving_node_stops_once_its_messages_are_everywhere(cluster: Cluster) -> None:
    message = cluster.submit(3, b"farewell", Guarantee.SAFE)
    cluster.leave(3)
    assert cluster.settle()
    assert cluster.hosts[3].engine is None
    assert sorted(deliveries(cluster, message)) == [1, 2, 3]
    assert [line["node"] for line in cluster.lines if line["event"] == "stop"] == [3]


def test_a_node_that_cannot_send_its_rest_leaves_without_a_stop(cluster: Cluster) -> None:
    cluster.block(1, True)
    cluster.run(0.1)
    cluster.submit(3, b"it must wait for the slow reader")
    cluster.leave(3)
    cluster.run(1)
    assert cluster.hosts[3].engine is not None
    cluster.run(2)
    assert cluster.hosts[3].engine is None
    assert not [line for line in cluster.lines if line["event"] == "stop"]
    assert cluster.check().holds


def test_partitions_overlap_and_heal(cluster: Cluster) -> None:
    cluster.partition([1], [2, 3])
    cluster.partition([1, 2], [3])
    assert cluster.settle()
    assert [members(cluster, number) for number in (1, 2, 3)] == [(1,), (2,), (3,)]
    cluster.heal()
    assert cluster.settle()
    assert members(cluster, 2) == (1, 2, 3)
    assert cluster.check(quiet=True).holds


def test_a_slow_reader_holds_up_new_messages(cluster: Cluster) -> None:
    cluster.block(3, True)
    cluster.run(0.2)
    message = cluster.submit(1, b"later")
    cluster.run(0.5)
    assert deliveries(cluster, message) == []
    cluster.block(3, False)
    cluster.settle()
    assert sorted(deliveries(cluster, message)) == [1, 2, 3]


@pytest.mark.parametrize(
    "conditions",
    [
        Conditions(loss=0.1),
        Conditions(duplication=0.5),
        Conditions(spikes=0.2),
        Conditions(latency_min_s=0.001, latency_max_s=0.01),
    ],
    ids=["loss", "duplication", "spikes", "slow"],
)
def test_bad_networks_change_no_message(cluster: Cluster, conditions: Conditions) -> None:
    cluster.network.conditions = conditions
    for turn in range(60):
        cluster.submit(1 + turn % 3, 3000, Guarantee(turn % 4))
        cluster.run(0.005)
    cluster.heal()
    assert cluster.settle()
    assert cluster.check(quiet=True).holds
    sent = sum(line["event"] == "send" for line in cluster.lines)
    delivered = sum(line["event"] == "deliver" for line in cluster.lines)
    assert sent == 60
    assert delivered >= 2 * sent


def test_a_rule_picks_frames_by_type_and_path(cluster: Cluster) -> None:
    cluster.network.rules.append(
        Rule(action=Action.DROP, frame=FrameType.DATA, sender=1, receiver=3, count=1)
    )
    message = cluster.submit(1, b"once lost")
    cluster.run(0.0008)
    assert 3 not in deliveries(cluster, message)
    assert cluster.network.rules == []
    cluster.settle()
    assert sorted(deliveries(cluster, message)) == [1, 2, 3]


def test_a_full_receive_buffer_loses_packets() -> None:
    inbox = Inbox(bytes_max=3000)
    for number in range(5):
        inbox.put(Packet(bytes(1000), number))
    assert [packet.source for packet in inbox.take(10)] == [0, 1]
    assert inbox.overflowed == 3
    inbox.put(Packet(bytes(1000), 9))
    assert [packet.source for packet in inbox.take(10)] == [9]


def test_a_small_receive_buffer_is_no_reason_to_lose_a_message() -> None:
    cluster = Cluster(nodes=3, settings=RingSettings(), receive_buffer_bytes=20_000)
    cluster.start()
    cluster.settle()
    for turn in range(30):
        cluster.submit(1 + turn % 3, 5000, Guarantee.AGREED)
    assert cluster.settle()
    assert cluster.check(quiet=True).holds
    assert sum(line["event"] == "deliver" for line in cluster.lines) == 90


PRINT_A_RUN = """
import hashlib, json
from vsync.testing.simulate import simulate
lines = simulate(4, 4).lines
print(len(lines), hashlib.blake2b(json.dumps(lines).encode()).hexdigest())
"""


def test_a_seed_is_the_same_run_in_every_process() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", PRINT_A_RUN],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert int(runs[0].split()[0]) > 100

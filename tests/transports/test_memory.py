"""What is particular to the transport ``memory``."""

import select
import threading
from contextlib import closing

import pytest

from vsync.errors import TransportFailed
from vsync.transport import EVERYONE, Burst
from vsync.transports.memory import MemorySettings, TransportMemory
from vsync.vocabulary import NodeId


def opened(network: str, **settings: int) -> TransportMemory:
    made = TransportMemory(
        MemorySettings(network=network, **settings),
        node=NodeId(1),
    )
    made.open()
    return made


def test_networks_of_different_names_do_not_meet() -> None:
    with closing(opened("here")) as here, closing(opened("there")) as there:
        here.send(Burst(EVERYONE, [b"hello?"]))
        assert list(there.receive()) == []


def test_a_full_receiver_loses_packets_and_counts_them() -> None:
    limit = 2**17
    with (
        closing(opened("full")) as sender,
        closing(opened("full", receive_buffer_bytes=limit)) as receiver,
    ):
        sender.send(Burst(EVERYONE, [bytes(1000)] * 200))
        received = receiver.receive()
        assert 0 < sum(len(packet.data) for packet in received) <= limit
        assert receiver.status["counters"]["packets_lost_receive_buffer"] == 200 - len(received)


def test_a_sender_in_another_thread_wakes_the_receiver() -> None:
    with closing(opened("threads")) as sender, closing(opened("threads")) as receiver:
        rounds = 500

        def send() -> None:
            for number in range(rounds):
                sender.send(Burst(EVERYONE, [number.to_bytes(2)]))

        thread = threading.Thread(target=send)
        thread.start()
        received: list[bytes] = []
        while len(received) < rounds:
            assert select.select(receiver.descriptors(), [], [], 10)[0], "a wake-up was lost"
            received += [bytes(packet.data) for packet in receiver.receive()]
        thread.join()
        assert received == [number.to_bytes(2) for number in range(rounds)]


def test_opening_twice_is_refused() -> None:
    with (
        closing(opened("twice")) as once,
        pytest.raises(TransportFailed, match="memory is open already"),
    ):
        once.open()

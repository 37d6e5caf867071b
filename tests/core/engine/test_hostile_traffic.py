"""A ring whose own traffic comes a second time, changed and sealed anew.

Nobody can promise order against such a network. What is promised is that no engine raises, and that
the ring works again when the lies have ended.
"""

from random import Random

import pytest

from vsync.testing.cluster import Cluster
from vsync.testing.network import Link
from vsync.vocabulary import Guarantee
from vsync.wire.header import HEADER_BYTES, HEADER_FAST, seal

LIKELY = (0, 1, 2, 3, 4, 127, 128, 255)


def changed(packet: bytes, random: Random) -> bytes:
    """*packet* with some bytes of its body changed, at times from another node or life."""
    _, _, kind, _, network, node, life = HEADER_FAST.unpack_from(packet)
    body = bytearray(packet[HEADER_BYTES:])
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(body))
        body[place] = random.choice((*LIKELY, random.randrange(256), body[place] ^ 1))
    if random.random() < 0.1:
        node = random.randrange(1, 6)
    if random.random() < 0.1:
        life = random.choice((max(0, life - 1), life + 1, 0, 2**64 - 1))
    return seal(kind, network, node, life, bytes(body))


def lied_to(seed: int) -> Cluster:
    """A cluster that has heard lies for a while, and hears none any more."""
    random = Random(seed)
    cluster = Cluster(4, seed=seed)
    carry = cluster.network._carry

    def carry_and_lie(plain: bytes, packet: bytes, source: Link, receiver: int, now: float) -> None:
        carry(plain, packet, source, receiver, now)
        if random.random() < 0.2:
            lie = changed(packet, random)
            carry(lie, lie, source, receiver, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster.network, "_carry", carry_and_lie)
        cluster.start()
        for step in range(40):
            for host in cluster.running():
                cluster.submit(host.number, random.choice((10, 3000)), Guarantee(step % 4))
            cluster.run(0.03)
            if step == 12:
                cluster.partition([1, 2])
            if step == 22:
                cluster.heal()
            if step == 30:
                cluster.restart(3)
    return cluster


@pytest.mark.parametrize("seed", [0, 1, 2, 37, 45])
def test_changed_copies_of_real_traffic_make_no_engine_raise(seed: int) -> None:
    lied_to(seed)


@pytest.mark.parametrize("seed", [9, 24])
def test_when_the_lies_have_ended_and_all_were_restarted_they_are_one_ring(seed: int) -> None:
    cluster = lied_to(seed)
    cluster.restart(1, 2, 3, 4)
    assert cluster.settle(20)
    assert cluster.engine(1).members == (1, 2, 3, 4)

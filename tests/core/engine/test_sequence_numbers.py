"""Sequence numbers are 64 bits wide on the wire and in the engine: nothing happens where 31 or 32
bits end."""

import functools

import pytest

from vsync.engine import membership
from vsync.engine.log import Log
from vsync.testing.cluster import Cluster
from vsync.testing.network import Conditions
from vsync.vocabulary import Guarantee
from vsync.wire import Token


@pytest.mark.pure
@pytest.mark.parametrize("border", [2**31, 2**32], ids=["31 bits", "32 bits"])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_rings_work_across_the_border(
    border: int, loss: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every ring begins just below it, as if it had ordered that many frames."""
    first = border - 30
    begin = Log.__init__

    @functools.wraps(begin)
    def begin_late(log: Log, *arguments: object) -> None:
        begin(log, *arguments)  # type: ignore[arg-type]
        log.aru = log.high = log.delivered = log.stable = log.released = first

    monkeypatch.setattr(Log, "__init__", begin_late)
    monkeypatch.setattr(membership, "Token", lambda ring: Token(ring, seq=first, aru=first))
    highest = 0

    def note_highest() -> None:
        nonlocal highest
        highest = max(
            highest, *(host.engine._log.high for host in cluster.running() if host.engine)
        )

    cluster = Cluster(nodes=3)
    cluster.start()
    assert cluster.settle()
    cluster.network.conditions = Conditions(loss=loss)
    for turn in range(120):
        cluster.submit(1 + turn % 3, 1200, Guarantee(turn % 4))
        cluster.run(0.002)
        note_highest()
    cluster.partition([3])  # what is left around the border is exchanged and delivered
    assert cluster.settle()
    cluster.heal()
    for turn in range(120):
        cluster.submit(1 + turn % 3, 1200, Guarantee(turn % 4))
        cluster.run(0.002)
        note_highest()
    assert cluster.settle()
    assert highest > border
    assert cluster.check(quiet=True).holds
    assert cluster.engine(1).members == (1, 2, 3)

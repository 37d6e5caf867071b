"""Rings of real processes that speak RoCE v2 in user space, on hosts of their own, ill-treated.

Every test ends as those of ``tests/network/test_truth.py`` do: all traces are held against every
property, and nothing that was accepted may be lost.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import vsync
from tests.network.nodes import PATIENT, Ring, eventually
from tests.network.twofold import TwofoldRing

pytestmark = [pytest.mark.network, pytest.mark.timeout(300)]


def section(number: int) -> str:
    return f'provider = "soft"\ndevice = "10.77.0.{number}"\n'


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    """Three nodes on hosts of their own, in one configuration."""
    with Ring(tmp_path, 3, housed=True, transport="ib", section=section) as ring:
        ring.start()
        ring.wait_for()
        yield ring


def test_a_ring_in_user_space_survives_loss_death_cuts_and_merges(ring: Ring) -> None:
    load = ring.load()
    for size in ("65536", "1048576"):
        done = vsync("send", "--socket", ring[1].socket, "red", "--count", "5", "--size", size)
        assert done.returncode == 0, done.stderr
    ring.wait_for_messages(500)
    ring.lose(1)
    ring.wait_for_messages(500)
    ring.lose(0)
    ring[3].kill()
    ring.wait_for(1, 2)
    ring.wait_for_messages(300)
    ring.start(3)
    ring.wait_for()
    ring.cut(2)
    ring.wait_for(1, 3)
    ring.wait_for(2)
    ring.heal(2)
    ring.wait_for()
    ring.wait_for_messages(300)
    facts = ring[1].status()["transport"]
    assert (facts["provider"], facts["device"], facts["packet_bytes_max"]) == ("soft", "eth0", 1024)
    assert facts["gso"] and facts["gro"]
    assert not [name for name in facts["counters"] if name.startswith("dropped_")], facts
    ring.finish(load, messages=1000)
    ring.leave()


def test_an_interface_that_goes_down_is_told_and_waited_for(ring: Ring) -> None:
    host = ring[1].host
    assert host is not None
    host.ip("link", "set", "eth0", "down")
    eventually(
        lambda: "eth0 went down" in str(ring[1].status()["warnings"]),
        lambda: str(ring[1].status()),
    )
    ring.wait_for(2, 3)
    host.ip("link", "set", "eth0", "up")
    ring.wait_for()
    assert ring[1].status()["warnings"] == [] or "eth0" not in str(ring[1].status()["warnings"])


class TwofoldIB(TwofoldRing):
    """The first network is RoCE in user space, the second UDP."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, 3, "passive", ring=PATIENT)
        self._section = self._both

    @staticmethod
    def _both(number: int) -> str:
        return (
            'mode = "passive"\n[[transport.redundant.links]]\ntransport = "ib"\n'
            f'settings = {{ provider = "soft", device = "10.77.0.{number}" }}\n'
            '[[transport.redundant.links]]\ntransport = "udp"\n'
            f'settings = {{ bind = "10.78.0.{number}", packet_bytes_max = 1024 }}\n'
        )


def test_of_infiniband_and_udp_either_may_fail_and_nothing_changes(tmp_path: Path) -> None:
    with TwofoldIB(tmp_path) as ring:
        ring.start()
        ring.wait_for()

        def wait_for_states(*states: str) -> None:
            eventually(
                lambda: all(ring.states(n) == [state] * 3 for n, state in enumerate(states, 1)),
                lambda: f"{states}: {[ring.states(n) for n in (1, 2)]}{ring.complaints()}",
            )

        def configurations() -> list[int]:
            for node in ring.nodes:
                node.following.read()
            return [len(node.following.configurations) for node in ring.nodes]

        wait_for_states("good", "good")
        load = ring.load()
        ring.wait_for_messages(300)
        before = configurations()
        for link, states in ((1, ("faulty", "good")), (2, ("good", "faulty"))):
            ring.cut_link(link)
            wait_for_states(*states)
            ring.wait_for_messages(300)
            ring.heal_link(link)
            wait_for_states("good", "good")
            assert configurations() == before, ring.complaints()
        # The port of one node goes down: its link is closed at once, and opened when it is up.
        host = ring[2].host
        assert host is not None
        host.ip("link", "set", "eth0", "down")
        eventually(lambda: ring.states(1)[1] == "closed", lambda: str(ring.states(1)))
        assert "eth0 went down" in ring[2].said()
        ring.wait_for_messages(300)
        assert configurations() == before, ring.complaints()
        host.ip("link", "set", "eth0", "up")
        wait_for_states("good", "good")
        assert configurations() == before, ring.complaints()
        ring.finish(load, messages=800)
        assert configurations() == before
        ring.leave()

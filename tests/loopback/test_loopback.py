"""Three real processes on the loopback interface: the truth tests, smaller, and without root."""

from pathlib import Path

import pytest

from tests.network.nodes import Ring


@pytest.mark.parametrize("preset", ["lan", "loopback"])
def test_one_of_three_nodes_may_be_killed_and_restarted_under_load(
    tmp_path: Path, preset: str
) -> None:
    with Ring(tmp_path, 3, housed=False, ring=f'preset = "{preset}"') as ring:
        ring.start()
        ring.wait_for()
        load = ring.load("--rate", "80")
        ring.wait_for_messages(300)
        for number in (3, 1):
            ring[number].kill()
            ring.wait_for(*{1, 2, 3} - {number})
            ring.wait_for_messages(100)
            ring.start(number)
            ring.wait_for()
        ring.wait_for_messages(300)
        ring.finish(load, messages=300)
        ring.leave()


def test_one_of_three_nodes_may_stop_for_a_second_and_another_leave(tmp_path: Path) -> None:
    with Ring(tmp_path, 3, housed=False) as ring:
        ring.start()
        ring.wait_for()
        load = ring.load("--rate", "80")
        ring.wait_for_messages(300)
        ring[2].pause()
        ring.wait_for(1, 3)
        ring[2].resume()
        ring.wait_for()
        assert ring[1].leave() == 0, ring[1].said()
        ring.wait_for(2, 3)
        ring.wait_for_messages(100)
        ring.start(1)
        ring.wait_for()
        ring.finish(load, messages=300)
        ring.leave()

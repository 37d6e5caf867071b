"""What this service does, beyond the contract."""

import pytest
from vsync_service_example.service import ServiceExample

from vsync.testing import Simulation, idle


def test_additions_at_all_nodes_add_up_everywhere() -> None:
    with Simulation(idle, nodes=3, services=[ServiceExample]) as simulation:
        for node in (1, 2, 3):
            simulation.run(simulation.node(node).request("example", b"add %d" % node))
        simulation.settle()
        numbers = [simulation.service(node, ServiceExample).number for node in (1, 2, 3)]
    assert numbers == [6, 6, 6]


@pytest.mark.parametrize("seed", range(5))
def test_the_number_survives_a_killed_node(seed: int) -> None:
    with Simulation(idle, nodes=3, seed=seed, services=[ServiceExample]) as simulation:
        simulation.run(simulation.node(1).request("example", b"add 5"))
        simulation.settle()
        simulation.crash(1)
        simulation.run(simulation.node(2).request("example", b"add 2"))
        simulation.start(1)
        simulation.settle()
        assert simulation.service(1, ServiceExample).number == 7

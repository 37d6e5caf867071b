"""What proves a ring right: for this project's tests and for those of plugin authors."""

from vsync.testing.application import Simulation, idle
from vsync.testing.virtual_loop import SimulationFailed

__all__ = ["Simulation", "SimulationFailed", "idle"]

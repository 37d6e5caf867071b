"""What proves a ring right: for this project's tests and for those of plugin authors.

``Simulation`` runs your applications and services in virtual time, ``Cluster`` bare engines. The
contracts are what every transport and every service must do; they alone need pytest.
"""

from typing import TYPE_CHECKING, Any

from vsync.testing.application import Simulation, idle
from vsync.testing.cluster import Cluster
from vsync.testing.virtual_loop import SimulationFailed

if TYPE_CHECKING:
    from vsync.testing.contracts import MakeTransport, ServiceContract, TransportContract

__all__ = [
    "Cluster",
    "MakeTransport",
    "ServiceContract",
    "Simulation",
    "SimulationFailed",
    "TransportContract",
    "idle",
]

_CONTRACTS = ("MakeTransport", "ServiceContract", "TransportContract")


def __getattr__(name: str) -> Any:
    """The contracts, once somebody asks for them: they import pytest."""
    if name in _CONTRACTS:
        from vsync.testing import contracts

        return getattr(contracts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

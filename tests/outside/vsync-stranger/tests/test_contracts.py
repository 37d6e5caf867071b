"""Both keep their contracts."""

import pytest
from vsync_stranger.pigeon import Pigeon, PigeonSettings
from vsync_stranger.roster import Roster

from vsync import Service
from vsync.testing import MakeTransport, ServiceContract, TransportContract


class TestPigeon(TransportContract):
    """Over a directory of its own."""

    @pytest.fixture
    def make_transport(self, tmp_path: object) -> MakeTransport:
        """Pigeons of one loft."""
        settings = PigeonSettings(loft=str(tmp_path))
        return lambda node: Pigeon(settings, node=node)


class TestRoster(ServiceContract):
    """In virtual time."""

    @pytest.fixture
    def service(self) -> type[Service]:
        """The roster."""
        return Roster

    def change(self, number: int) -> bytes:
        """A name."""
        return b"name%d!" % number

    def kept(self, service: Service) -> object:
        """The names."""
        assert isinstance(service, Roster)
        return service.names

"""The service keeps the contract."""

import pytest
from vsync_service_example.service import ServiceExample

from vsync import Service
from vsync.testing import ServiceContract


class TestExample(ServiceContract):
    """All that every service must do."""

    @pytest.fixture
    def service(self) -> type[Service]:
        """The class to be tested."""
        return ServiceExample

    def change(self, number: int) -> bytes:
        """A request that changes what the service keeps."""
        return b"add %d" % number

    def kept(self, service: Service) -> object:
        """What must be the same on all nodes."""
        assert isinstance(service, ServiceExample)
        return service.number

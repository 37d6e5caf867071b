"""The transport keeps the contract."""

import socket
from contextlib import ExitStack

import pytest
from vsync_transport_example.transport import ExampleSettings, TransportExample

from vsync.testing import MakeTransport, TransportContract


def unused_addresses() -> dict[str, str]:
    """Addresses on loopback for nodes 1 to 3."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {
            str(node): f"127.0.0.1:{each.getsockname()[1]}"
            for node, each in enumerate(sockets, start=1)
        }


class TestExample(TransportContract):
    """All that every transport must do."""

    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        """Transports that hear each other."""
        settings = ExampleSettings(addresses=unused_addresses())
        return lambda node: TransportExample(settings, node=node)

"""What the entry point ``udp`` names. Nothing heavy is imported, no socket is made."""

from collections.abc import Sequence

from vsync.hookspecs import hookimpl
from vsync.transport import Transport
from vsync_transport_udp.transport import TransportUDP


@hookimpl
def vsync_register_transports() -> Sequence[type[Transport]]:
    """Offer ``udp``."""
    return [TransportUDP]

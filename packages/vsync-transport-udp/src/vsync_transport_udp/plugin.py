"""What the entry points ``udp`` and ``udpu`` name. Nothing heavy is imported, no socket is made."""

from collections.abc import Sequence

from vsync.hookspecs import hookimpl
from vsync.transport import Transport
from vsync_transport_udp.fanout import TransportUDPU
from vsync_transport_udp.transport import TransportUDP


@hookimpl
def vsync_register_transports() -> Sequence[type[Transport]]:
    """Offer ``udp`` and ``udpu``."""
    return [TransportUDP, TransportUDPU]

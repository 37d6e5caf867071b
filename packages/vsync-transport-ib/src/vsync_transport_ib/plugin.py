"""What the entry point ``ib`` names. Nothing of InfiniBand is imported, no device is looked for."""

from collections.abc import Sequence

from vsync.hookspecs import hookimpl
from vsync.transport import Transport
from vsync_transport_ib.transport import TransportIB


@hookimpl
def vsync_register_transports() -> Sequence[type[Transport]]:
    """Offer ``ib``."""
    return [TransportIB]

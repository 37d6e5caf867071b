"""What vsync finds: nothing heavy is imported here, for listing plugins must work everywhere."""

from collections.abc import Sequence

from vsync import Transport, hookimpl
from vsync_transport_example.transport import TransportExample


@hookimpl
def vsync_register_transports() -> Sequence[type[Transport]]:
    """The transports of this package."""
    return [TransportExample]

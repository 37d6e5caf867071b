"""What vsync finds: nothing heavy is imported here, for listing plugins must work everywhere."""

from collections.abc import Sequence

from vsync import Service, hookimpl
from vsync_service_example.service import ServiceExample


@hookimpl
def vsync_register_services() -> Sequence[type[Service]]:
    """The services of this package."""
    return [ServiceExample]

"""What ``vsync`` finds under the entry point ``kv``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vsync import Service, hookimpl
from vsync_services.kv.service import KeyValueService

if TYPE_CHECKING:
    import rich_click as click


@hookimpl
def vsync_register_services() -> Sequence[type[Service]]:
    """The service."""
    return [KeyValueService]


@hookimpl
def vsync_register_commands() -> "Sequence[click.Command]":
    """The commands ``vsync kv …``; only the command line asks, so it is there."""
    from vsync_services.kv.commands import kv

    return [kv]

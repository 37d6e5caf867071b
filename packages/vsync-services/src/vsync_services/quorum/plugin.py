"""What ``vsync`` finds under the entry point ``quorum``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vsync import Service, hookimpl
from vsync_services.quorum.service import QuorumService

if TYPE_CHECKING:
    import rich_click as click


@hookimpl
def vsync_register_services() -> Sequence[type[Service]]:
    """The service."""
    return [QuorumService]


@hookimpl
def vsync_register_commands() -> "Sequence[click.Command]":
    """The command ``vsync quorum``; only the command line asks, so it is there."""
    from vsync_services.quorum.commands import quorum

    return [quorum]

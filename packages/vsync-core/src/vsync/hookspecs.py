"""Every hook of the core, and the two markers that plugins and the hosts above use.

A plugin is a module with functions marked ``@hookimpl``, named by an entry point in group
``vsync``. The name of the entry is what users write in their settings::

    [project.entry-points.vsync]
    carrier = "vsync_transport_carrier.plugin"
"""

from collections.abc import Sequence
from typing import Final

import pluggy

from vsync.service import Service
from vsync.transport import Transport

PROJECT: Final = "vsync"
"""The pluggy project, and the entry point group in which plugins are found."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def vsync_register_transports() -> Sequence[type[Transport]]:
    """Return transport classes; ``SCHEME`` is what users write as ``transport = "…"``.

    Called when a node opens with a transport of this entry's name, and when plugins are listed.
    Import drivers inside ``open``, not at import time: listing the plugins must work where the
    hardware is absent.
    """
    return ()


@hookspec
def vsync_register_services() -> Sequence[type[Service]]:
    """Return service classes; ``NAME`` is what users write in ``[service.NAME]``.

    Called when a node opens whose settings have a section of this entry's name, and when plugins
    are listed.
    """
    return ()

"""The hook by which other packages add commands to ``vsync``.

Such a package marks a function with ``vsync.hookspecs.hookimpl`` and names its module by an entry
point in group ``vsync``, as a transport does::

    [project.entry-points.vsync]
    backup = "vsync_service_backup.plugin"
"""

from collections.abc import Sequence

import rich_click as click

from vsync.hookspecs import hookspec


@hookspec
def vsync_register_commands() -> Sequence[click.Command]:
    """Return click commands or groups; each is called by its name, as ``vsync NAME``.

    Called only when the user asks for the help, or for a command that ``vsync`` does not have
    itself. Its own commands cannot be replaced.
    """
    return ()

"""The hooks by which other packages add to ``vsync``: commands, and what it knows and looks at.

Such a package marks a function with ``vsync.hookspecs.hookimpl`` and names its module by an entry
point in group ``vsync``, as a transport does::

    [project.entry-points.vsync]
    backup = "vsync_service_backup.plugin"
"""

from collections.abc import Mapping, Sequence
from typing import Any

import rich_click as click
from pydantic import BaseModel

from vsync.hookspecs import hookspec


@hookspec
def vsync_register_commands() -> Sequence[click.Command]:
    """Return click commands or groups; each is called by its name, as ``vsync NAME``.

    Called only when the user asks for the help, or for a command that ``vsync`` does not have
    itself. Its own commands cannot be replaced.
    """
    return ()


@hookspec
def vsync_dissect(
    carrier: str, data: bytes, before: bytes
) -> tuple[Sequence[tuple[str, Mapping[str, Any]]], bytes] | None:
    """Take your layers off a captured packet, for ``vsync dissect``; None if it is not yours.

    *carrier* says what *data* was in: ``udp 4791`` (by destination port), ``ethertype 0x8915`` or
    ``link 247`` (a capture's LINKTYPE). *before* is the IP and UDP header before it, if any. Return
    the layers, each a name and its facts (JSON-ready), and the ring's packet within, or ``b""``.
    Bytes are anybody's: never raise.
    """
    return None


@hookspec
def vsync_examine(scheme: str, settings: BaseModel) -> Sequence[tuple[str, str, str, str]]:
    """Say what ``vsync doctor`` should know of your transport on this host, beyond what it says of
    itself once it is open; nothing if *scheme* is another's.

    Each finding is a level (``fine``, ``warning``, ``problem``), what it is about in a word or two,
    what was found, and what to do about it (empty if all is fine). Called before the transport is
    opened, with its *settings*; release all that you open.
    """
    return ()

"""What the entry point ``ib`` names. Nothing of InfiniBand is imported, no device is looked for."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from vsync.hookspecs import hookimpl
from vsync.transport import Transport
from vsync_transport_ib.transport import TransportIB


@hookimpl
def vsync_register_transports() -> Sequence[type[Transport]]:
    """Offer ``ib``."""
    return [TransportIB]


@hookimpl
def vsync_dissect(
    carrier: str, data: bytes, before: bytes
) -> tuple[Sequence[tuple[str, Mapping[str, Any]]], bytes] | None:
    """Read InfiniBand and RoCE in captures."""
    from vsync_transport_ib.dissector import dissect

    return dissect(carrier, data, before)


@hookimpl
def vsync_examine(scheme: str, settings: BaseModel) -> Sequence[tuple[str, str, str, str]]:
    """Look at devices, port, GID, MTU and locked memory, and send a message to oneself."""
    if scheme != TransportIB.SCHEME:
        return ()
    from vsync_transport_ib.examination import examined

    return examined(settings)

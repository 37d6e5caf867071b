"""``[service.kv]``."""

from typing import Final, Literal

from pydantic import Field

from vsync.settings import Strict

MIB: Final = 2**20


class KeyValueSettings(Strict):
    """``[service.kv]``: this node's part of the map. Nodes may differ."""

    reads: Literal["linearizable", "local"] = "linearizable"
    """``linearizable``: a read takes its place in the order of all writes, and is answered where
    they are. ``local``: from this node's map as it is, at once, in any configuration; that may be
    old, and may show a write whose outcome is unknown."""

    value_bytes_max: int = Field(default=MIB // 2, ge=1, le=32 * MIB)
    """The largest value, in bytes. With its key, and in base64 where it comes through a daemon (a
    third more), it must fit into ``message_bytes_max`` of ``[ring]``."""

    map_bytes_max: int = Field(default=256 * MIB, ge=1)
    """Writes are refused here when all keys and values of the map together have so many bytes."""

    timeout_s: float = Field(default=10.0, ge=0.01, le=600)
    """How long a request may wait for its place in the order. After that the outcome of a write is
    unknown."""

    watches_max: int = Field(default=1000, ge=1, le=100_000)
    """Watches that may wait at this node at a time."""

    changes_max: int = Field(default=10_000, ge=1, le=10_000_000)
    """Changes kept for watches. Who is further behind has to list the map again."""

    changes_bytes_max: int = Field(default=8 * MIB, ge=1024)
    """Bytes of changes kept for watches."""

    chunk_bytes: int = Field(default=64 * 1024, ge=1024, le=MIB)
    """The map goes to those who lack it in parts of about this size, in bytes; one message each."""

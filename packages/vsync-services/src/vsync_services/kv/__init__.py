"""kv: a map of text to bytes that every node of a ring holds a copy of.

Programs use ``KeyValue``. Where the nodes run ``quorum`` too, the map is linearizable; ``replica``
says why. Everything but ``service``, ``outbox`` and ``client`` is sans-IO.
"""

from vsync_services.kv.client import Item, KeyValue, Listing, Swap, Update
from vsync_services.kv.errors import (
    KeyValueError,
    NoRoom,
    NotAnswered,
    NotPrimary,
    OutcomeUnknown,
    WatchBehind,
)

__all__ = [
    "Item",
    "KeyValue",
    "KeyValueError",
    "Listing",
    "NoRoom",
    "NotAnswered",
    "NotPrimary",
    "OutcomeUnknown",
    "Swap",
    "Update",
    "WatchBehind",
]

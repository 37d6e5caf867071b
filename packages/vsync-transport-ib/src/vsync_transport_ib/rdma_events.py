"""What happens to a device while it is open, in our words."""

import ctypes
from collections.abc import Iterator
from typing import Final

from vsync_transport_ib.queue_pair import QueuePair
from vsync_transport_ib.rdma_core import AsyncEvent, libibverbs
from vsync_transport_ib.verbs import Endpoint, Event, EventKind

# enum ibv_event_type
QP_ERRORS: Final = (1, 2, 3)
CQ_ERROR, DEVICE_FATAL, LID_CHANGE = 0, 8, 11
PORT_ACTIVE, PORT_ERROR, PKEY_CHANGE, SM_CHANGE = 9, 10, 12, 13
CLIENT_REREGISTER, GID_CHANGE = 17, 18

OF_A_PORT: Final = frozenset(
    (
        *(PORT_ACTIVE, PORT_ERROR, LID_CHANGE, PKEY_CHANGE),
        *(SM_CHANGE, CLIENT_REREGISTER, GID_CHANGE),
    )
)
"""Their element is the number of a port."""

_FATAL: Final = {
    CQ_ERROR: "its completion queue failed",
    **dict.fromkeys(QP_ERRORS, "its queue pair failed"),
    DEVICE_FATAL: "it failed",
    LID_CHANGE: "its LID changed",
}


def take_events(pair: QueuePair, endpoint: Endpoint) -> Iterator[Event]:
    """What happened to the device and to this port since the last call."""
    lib, raw = libibverbs(), AsyncEvent()
    while lib.ibv_get_async_event(pair.context, ctypes.byref(raw)) == 0:
        kind, element = raw.event_type, raw.element & 0xFFFFFFFF
        lib.ibv_ack_async_event(ctypes.byref(raw))
        if kind not in OF_A_PORT or element == endpoint.port:
            yield understood(kind, pair, endpoint)


def understood(kind: int, pair: QueuePair, endpoint: Endpoint) -> Event:
    """What an ``enum ibv_event_type`` means for the queue pair."""
    where = pair.where
    if kind in _FATAL:
        return Event(EventKind.FATAL, f"{where}: {_FATAL[kind]}")
    if kind == PORT_ERROR:
        return Event(EventKind.PORT_DOWN, f"{where} went down")
    if kind == PORT_ACTIVE:
        return Event(EventKind.PORT_ACTIVE, f"{where} is active")
    if kind in (SM_CHANGE, CLIENT_REREGISTER):
        return Event(EventKind.MEMBERSHIP_LOST, f"the subnet of {where} starts anew")
    if kind == GID_CHANGE:
        if pair.gid_is_there():
            return Event(EventKind.GID_CHANGE, f"the GIDs of {where} changed")
        address = endpoint.gid.ipv4_mapped or endpoint.gid
        return Event(EventKind.FATAL, f"{where} has the address {address} no more")
    return Event(EventKind.OTHER, f"{where}: {libibverbs().ibv_event_type_str(kind).decode()}")

"""Membership of a multicast group, through librdmacm.

With InfiniBand that is a join at the subnet administrator, which answers with what the group's
packets must carry. With RoCE the kernel joins the IP group on the network interface (IGMP, MLD), so
that switches forward it; librdmacm does that for IPv4 alone, so for IPv6 a socket asks the kernel.
In all cases attaching the queue pair is the caller's business.
"""

import contextlib
import ctypes
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple, TypeAlias

from vsync.errors import TransportFailed
from vsync.ip.interfaces import resolve_bind
from vsync.ip.sockets import join
from vsync_transport_ib.rdma_core import (
    PS_UDP,
    AddressAttributes,
    ConnectionEvent,
    error_text,
    librdmacm,
)

Address: TypeAlias = IPv4Address | IPv6Address

JOINED: Final = 12  # enum rdma_cm_event_type, from here on
LOST: Final = 13
REMOVED: Final = 11

_IPV4: Final = struct.Struct("=HH4s8x")  # struct sockaddr_in
_IPV6: Final = struct.Struct("=HHI16sI")  # struct sockaddr_in6


class Notice(NamedTuple):
    """What librdmacm told."""

    kind: int
    """``JOINED``, ``LOST``, ``REMOVED``, or another ``enum rdma_cm_event_type``."""
    text: str
    status: int
    """0, or what went wrong."""
    route: AddressAttributes | None
    """With ``JOINED``: how packets get to the group."""


class Membership:
    """One membership, from *source* (an IP address of the device) of *group*.

    Raises TransportFailed if there cannot be any.
    """

    def __init__(self, source: Address, group: Address) -> None:
        self._group_text = str(group)
        self._cm = librdmacm()
        self._group = _socket_address(group)
        self._joined = False
        self._id = ctypes.c_void_p()
        self._channel = self._cm.rdma_create_event_channel()
        if not self._channel:
            why = error_text()
            raise TransportFailed(
                f"the RDMA connection manager cannot be used: {why}; see whether the module "
                "rdma_ucm is loaded (modprobe rdma_ucm) and who may open /dev/infiniband/rdma_cm"
            )
        self.fd: int = self._channel[0]
        os.set_blocking(self.fd, False)
        made = self._cm.rdma_create_id(self._channel, ctypes.byref(self._id), None, PS_UDP)
        if made != 0 or self._cm.rdma_bind_addr(self._id, _socket_address(source)) != 0:
            why = error_text()
            self.close()
            raise TransportFailed(
                f"the RDMA connection manager does not know the address {source}: {why}; "
                "see `rdma link` and `ip address`: it must be on an interface of the device"
            )

    def join(self) -> None:
        """Ask to become a member, anew if need be; ``take`` tells what came of it."""
        if self._joined:
            self._cm.rdma_leave_multicast(self._id, self._group)
        self._joined = True
        if self._cm.rdma_join_multicast(self._id, self._group, None) != 0:
            raise TransportFailed(f"the group {self._group_text} cannot be joined: {error_text()}")

    def wait(self, within_s: float) -> AddressAttributes:
        """The way to the group, once joined. Raises TransportFailed if it takes longer."""
        end = time.monotonic() + within_s
        while (left := end - time.monotonic()) > 0:
            select.select([self.fd], [], [], left)
            for notice in self.take():
                if notice.kind == JOINED and notice.route is not None and notice.status == 0:
                    return notice.route
                if notice.kind in (JOINED, LOST, REMOVED):
                    why = os.strerror(abs(notice.status)) if notice.status else notice.text
                    raise TransportFailed(f"the group {self._group_text} cannot be joined: {why}")
        raise TransportFailed(
            f"nothing answered within {within_s:.0f} s when joining the group {self._group_text}; "
            "with InfiniBand, see whether a subnet manager runs (`sminfo`)"
        )

    def take(self) -> Sequence[Notice]:
        """What happened since the last call."""
        notices = []
        event = ctypes.POINTER(ConnectionEvent)()
        while self._cm.rdma_get_cm_event(self._channel, ctypes.byref(event)) == 0:
            told = event.contents
            route = None
            if told.event == JOINED:
                route = AddressAttributes.from_buffer_copy(told.ah_attr)
            text = self._cm.rdma_event_str(told.event).decode()
            notices.append(Notice(told.event, text, told.status, route))
            self._cm.rdma_ack_cm_event(event)
        return notices

    def close(self) -> None:
        """Leave the group, and release everything; may be called twice."""
        if self._id:
            if self._joined:
                self._cm.rdma_leave_multicast(self._id, self._group)
            with contextlib.suppress(TransportFailed):
                self.take()  # what is not acknowledged would hold up the end
            self._cm.rdma_destroy_id(self._id)
            self._id = ctypes.c_void_p()
        if self._channel:
            self._cm.rdma_destroy_event_channel(self._channel)
            self._channel = None


class MembershipIPv6:
    """The same for RoCE over IPv6: of *group*, on the interface that has the address *source*."""

    def __init__(self, source: IPv6Address, group: IPv6Address) -> None:
        self._local = resolve_bind(str(source), 6)
        self._group = str(group)
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.fd = self._socket.fileno()
        """Never readable: nothing is sent to a socket that has no port."""

    def join(self) -> None:
        """Become a member; nothing happens if it is one. Raises TransportFailed."""
        try:
            join(self._socket, self._local, self._group)
        except OSError as error:
            raise TransportFailed(
                f"the group {self._group} cannot be joined on {self._local.name}: {error.strerror}"
            ) from error

    def wait(self, within_s: float) -> AddressAttributes:
        """There is nothing to wait for, and nothing to learn."""
        return AddressAttributes()

    def take(self) -> Sequence[Notice]:
        """Nothing ever happens."""
        return ()

    def close(self) -> None:
        """Leave the group."""
        self._socket.close()


def _socket_address(address: Address) -> bytes:
    if address.version == 4:
        return _IPV4.pack(socket.AF_INET, 0, address.packed)
    return _IPV6.pack(socket.AF_INET6, 0, 0, address.packed, 0)

"""UDP sockets and their options: binding, joining, where to send through, TTL, DSCP, buffers.

Everything here is Linux's; constants that the standard library lacks name their header.
"""

import contextlib
import errno
import os
import socket
import struct
from typing import Final

from vsync.errors import TransportFailed
from vsync.ip.interfaces import InterfaceAddress

_IP_MULTICAST_ALL: Final = 49  # linux/in.h
_IPV6_MULTICAST_ALL: Final = 29  # linux/in6.h
_SO_SNDBUFFORCE: Final = 32  # asm-generic/socket.h
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO_DROPS: Final = 8  # SK_MEMINFO_DROPS, linux/sock_diag.h

_MEMBERSHIP_IPV4: Final = struct.Struct("=4s4si")  # struct ip_mreqn
_MEMBERSHIP_IPV6: Final = struct.Struct("=16sI")  # struct ipv6_mreq


def open_unicast(
    local: InterfaceAddress, port: int, *, setting: str, advice: str, section: str
) -> socket.socket:
    """The socket that everything is sent from. Raises TransportFailed.

    *setting* of *section* chose the port; *advice* is for the case that it is taken.
    """
    opened = _socket(local)
    try:
        if local.version == 6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(socket_address(local, str(local.address), port))
    except OSError as error:
        opened.close()
        raise _explained(
            error,
            address=str(local.address),
            port=port,
            setting=setting,
            advice=advice,
            section=section,
        ) from error
    return opened


def open_multicast(
    local: InterfaceAddress, group: str, port: int, *, setting: str, advice: str, section: str
) -> socket.socket:
    """The socket that hears the group on the interface of *local*; as ``open_unicast``."""
    opened = _socket(local)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Bound to the group, not to any address: so it gets no stranger's unicast packets. And
        # MULTICAST_ALL off: so it hears the group on our interface only.
        if local.version == 6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            with contextlib.suppress(OSError):  # Linux 4.20
                opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        else:
            opened.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        opened.bind(socket_address(local, group, port))
        join(opened, local, group)
    except OSError as error:
        opened.close()
        raise _explained(
            error,
            address=group,
            port=port,
            setting=setting,
            advice=advice,
            section=section,
        ) from error
    return opened


def join(receiver: socket.socket, local: InterfaceAddress, group: str) -> None:
    """Become a member of *group* on the interface; nothing happens if it is one. Raises OSError."""
    packed = socket.inet_pton(receiver.family, group)
    try:
        if local.version == 6:
            membership = _MEMBERSHIP_IPV6.pack(packed, local.index)
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
        else:
            membership = _MEMBERSHIP_IPV4.pack(packed, local.address.packed, local.index)
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise


def send_through(sender: socket.socket, local: InterfaceAddress) -> None:
    """Send multicast through the interface of *local*. Raises OSError if it is gone."""
    if local.version == 6:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, local.index)
    else:
        through = _MEMBERSHIP_IPV4.pack(b"\0" * 4, local.address.packed, local.index)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, through)


def set_multicast(sender: socket.socket, *, ttl: int, loop: bool) -> None:
    """Set how far multicast packets go, and whether this machine hears them too."""
    if sender.family == socket.AF_INET6:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, loop)
    else:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loop)


def set_dscp(sender: socket.socket, dscp: int) -> None:
    """Mark all packets; the code point is the upper six bits of the byte (RFC 2474)."""
    if sender.family == socket.AF_INET6:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
    else:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)


def set_receive_buffer(receiver: socket.socket, asked_bytes: int) -> int:
    """Ask for a receive buffer; give what the system granted, in the same measure.

    The kernel reserves and reports twice what is asked, to have room for its own bookkeeping
    (socket(7)); what is given here is half of what it reports.
    """
    return _set_buffer(receiver, asked_bytes, _SO_RCVBUFFORCE, socket.SO_RCVBUF)


def set_send_buffer(sender: socket.socket, asked_bytes: int) -> int:
    """Ask for a send buffer; give what the system granted, as ``set_receive_buffer`` does."""
    return _set_buffer(sender, asked_bytes, _SO_SNDBUFFORCE, socket.SO_SNDBUF)


def dropped_by_kernel(receiver: socket.socket) -> int:
    """Packets that found the receive buffer full since the socket was opened (0 if unknown)."""
    try:
        facts = receiver.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 9 * 4)
    except OSError:
        return 0
    values = struct.unpack(f"={len(facts) // 4}I", facts)
    return int(values[_MEMINFO_DROPS]) if len(values) > _MEMINFO_DROPS else 0


def reaches(local: InterfaceAddress, group: str, port: int) -> bool:
    """Whether the kernel has a way to send to *group* through the interface at this moment."""
    with _socket(local) as trial:
        try:
            trial.bind(socket_address(local, str(local.address), 0))
            send_through(trial, local)
            trial.connect(socket_address(local, group, port))
        except OSError:
            return False
    return True


def _socket(local: InterfaceAddress) -> socket.socket:
    try:
        return socket.socket(
            local.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
    except OSError as error:
        raise TransportFailed(
            f"cannot make an IPv{local.version} socket: {os.strerror(error.errno or 0)}; "
            "see whether the system allows this family and has file descriptors left (ulimit -n)"
        ) from error


def socket_address(
    local: InterfaceAddress, host: str, port: int
) -> tuple[str, int] | tuple[str, int, int, int]:
    """An address as the socket calls take it; the scope matters to link-local ones alone."""
    if local.version == 4:
        return host, port
    first = socket.inet_pton(socket.AF_INET6, host)
    link_local = (first[0] == 0xFE and first[1] & 0xC0 == 0x80) or (
        first[0] == 0xFF and first[1] & 0x0F in (1, 2)  # RFC 4291, section 2.7
    )
    return host, port, 0, local.index if link_local else 0


def _set_buffer(changed: socket.socket, asked_bytes: int, force: int, plain: int) -> int:
    try:
        changed.setsockopt(socket.SOL_SOCKET, force, asked_bytes)  # root only; above the limit
    except OSError:
        with contextlib.suppress(OSError):
            changed.setsockopt(socket.SOL_SOCKET, plain, asked_bytes)
    return changed.getsockopt(socket.SOL_SOCKET, plain) // 2


def _explained(
    error: OSError, *, address: str, port: int, setting: str, advice: str, section: str
) -> TransportFailed:
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            return TransportFailed(
                f"UDP {where} is taken: another program has this port and does not share it; "
                f"{advice}"
            )
        case errno.EACCES | errno.EPERM:
            return TransportFailed(
                f"this user may not open UDP {where}; ports below 1024 need root or "
                f"CAP_NET_BIND_SERVICE: choose a higher {setting} in [{section}]"
            )
        case errno.EADDRNOTAVAIL:
            return TransportFailed(
                f"the address of UDP {where} is not on this machine (any more); "
                f"see bind in [{section}] and `ip address`"
            )
        case errno.ENODEV:
            return TransportFailed(
                f"UDP {where} cannot be opened: the interface is gone; see bind in "
                f"[{section}] and `ip link`"
            )
        case errno.ENOBUFS:
            return TransportFailed(
                f"the system takes no further multicast memberships for UDP {where}; raise "
                "net.ipv4.igmp_max_memberships or net.core.optmem_max"
            )
        case code:
            return TransportFailed(
                f"UDP {where} cannot be opened: {os.strerror(code or 0)}; see what [{section}] says"
            )

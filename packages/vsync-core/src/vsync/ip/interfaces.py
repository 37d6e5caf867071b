"""The network interfaces of this machine and their addresses, and the one that ``bind`` means.

Asked of the kernel by netlink (rtnetlink(7)), because the standard library has no other way that
gives all addresses of both families.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Final, TypeAlias

from vsync.errors import TransportFailed

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_NETLINK_ROUTE: Final = 0
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST_DUMP: Final = 0x301
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_F_UNUSABLE: Final = 0x08 | 0x40  # IFA_F_DADFAILED, IFA_F_TENTATIVE

INTERFACE_NAME_MAX: Final = 15  # IFNAMSIZ - 1, linux/if.h

_ANSWER_S: Final = 1.0  # the kernel answers at once; this is for the day it does not

_SIOCGIFMTU: Final = 0x8921  # linux/sockios.h
_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 0x1  # linux/if.h
_IFF_LOOPBACK: Final = 0x8
_IFF_RUNNING: Final = 0x40
_CHANGES: Final = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ADDRESS: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface index
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type


Bind: TypeAlias = IPv4Address | IPv6Address | IPv4Network | IPv6Network | str
"""What ``bind`` means: an address, a network, or (``str``) the name of an interface."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceAddress:
    """One address of one interface: what a socket is bound to."""

    name: str
    index: int
    address: IPv4Address | IPv6Address
    network: IPv4Network | IPv6Network
    usable: bool = True
    """False while the kernel still checks that nobody else has the address, or found that so."""

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.address.version

    @property
    def family(self) -> socket.AddressFamily:
        """That of its sockets."""
        return socket.AF_INET6 if self.version == 6 else socket.AF_INET


def interface_addresses() -> list[InterfaceAddress]:
    """All addresses of this machine, in the kernel's order. Raises OSError if that fails."""
    names = dict(socket.if_nameindex())
    return [
        InterfaceAddress(
            name=names[index],
            index=index,
            address=interface.ip,
            network=interface.network,
            usable=usable,
        )
        for index, interface, usable in _dump()
        if index in names
    ]


def mtu_bytes(name: str) -> int:
    """The largest IP packet that the interface carries. Raises OSError if it is not there."""
    return int(struct.unpack_from("=i", _ask(name, _SIOCGIFMTU), 16)[0])


def is_loopback(name: str) -> bool:
    """Whether the interface reaches only this machine. Raises OSError if it is not there."""
    return bool(_flags(name) & _IFF_LOOPBACK)


def carries(name: str) -> bool:
    """Whether the interface is up and has a carrier. Raises OSError if it is not there."""
    return _flags(name) & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING


def watch() -> socket.socket:
    """A socket that becomes readable when an interface or an address changes; see ``changed``."""
    watching = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
        _NETLINK_ROUTE,
    )
    try:
        watching.bind((0, _CHANGES))
    except OSError:
        watching.close()
        raise
    return watching


def changed(watching: socket.socket) -> bool:
    """Whether something changed since the last call. What it was is to be looked up."""
    found = False
    while True:
        try:
            watching.recv(1 << 16)
        except BlockingIOError:
            return found
        except OSError:
            return True  # so much that the kernel lost some of it (ENOBUFS)
        found = True


def parse_bind(text: str) -> Bind:
    """Read *text* as an address, a network or the name of an interface, in this order.

    An address within a network, as in ``192.0.2.7/24``, stands for the network. Raises ValueError
    if it can be none of them.
    """
    try:
        return ip_address(text)
    except ValueError:
        pass
    name, slash, _ = text.partition("/")
    if slash:
        try:
            return ip_network(text, strict=False)
        except ValueError:
            raise ValueError(
                f'bind "{text}" is no network; one looks like "192.0.2.0/24" or "2001:db8::/64"'
            ) from None
    if not 0 < len(name) <= INTERFACE_NAME_MAX or name.split() != [name]:
        raise ValueError(
            f'bind "{text}" is no address, no network and no name of an interface; examples are '
            '"192.0.2.7", "192.0.2.0/24" and "eth0"'
        )
    return name


def resolve_bind(text: str, version: int, *, asked_for_by: str = "group") -> InterfaceAddress:
    """Choose the address that *text* means for IP *version* 4 or 6.

    *asked_for_by* names the setting that decides the version, where *text* leaves it open.
    Raises TransportFailed with a sentence that lists what there is instead. Never falls back to
    another interface.
    """
    bind = parse_bind(text)
    try:
        known = [address for address in interface_addresses() if address.version == version]
        names = [name for _, name in socket.if_nameindex()]
    except OSError as error:
        raise TransportFailed(
            f"cannot list the network interfaces: {os.strerror(error.errno or 0)}"
        ) from error
    found = _matching(bind, known)
    if isinstance(bind, str) and bind not in names:
        raise TransportFailed(
            f'bind "{text}": there is no interface of that name here; there are {", ".join(names)}'
        )
    if not found:
        if isinstance(bind, str):
            raise TransportFailed(
                f"bind {text}: the interface has no IPv{version} address, and {asked_for_by} asks "
                f"for IPv{version}; give it one, or use the other family in {asked_for_by}"
            )
        what = "an address of that network"
        if not isinstance(bind, IPv4Network | IPv6Network):
            what = "that address"
        raise TransportFailed(
            f"bind {text}: no interface here has {what}; there are {_listing(known)}"
        )
    if len({address.name for address in found}) > 1:
        raise TransportFailed(
            f"bind {text} fits more than one interface: {_listing(found)}; name one of them"
        )
    usable = [address for address in found if address.usable]
    if not usable:
        raise TransportFailed(
            f"bind {text}: the kernel has not accepted {found[0].address} on {found[0].name} yet "
            "(duplicate address detection); wait, or see `ip address` for a duplicate"
        )
    return usable[0]


def _matching(bind: Bind, known: list[InterfaceAddress]) -> list[InterfaceAddress]:
    if isinstance(bind, str):
        # A link-local address serves only if there is no other: sorted() keeps the kernel's order.
        return sorted(
            (address for address in known if address.name == bind),
            key=lambda address: address.address.is_link_local,
        )
    if isinstance(bind, IPv4Network | IPv6Network):
        return [address for address in known if address.address in bind]
    scope = bind.scope_id if isinstance(bind, IPv6Address) else None
    plain = IPv6Address(int(bind)) if isinstance(bind, IPv6Address) else bind
    exact = [
        address
        for address in known
        if address.address == plain and scope in (None, address.name, str(address.index))
    ]
    if exact or not plain.is_loopback:
        return exact
    # Linux takes all of 127.0.0.0/8 for its own, not only what is configured.
    return [
        InterfaceAddress(
            name=address.name, index=address.index, address=plain, network=address.network
        )
        for address in known
        if plain in address.network
    ][:1]


def _listing(addresses: list[InterfaceAddress]) -> str:
    return ", ".join(f"{known.address} ({known.name})" for known in addresses) or "none"


def _flags(name: str) -> int:
    return int(struct.unpack_from("=H", _ask(name, _SIOCGIFFLAGS), 16)[0])


def _ask(name: str, request: int) -> bytes:
    if len(os.fsencode(name)) > 15:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        return fcntl.ioctl(asker, request, struct.pack("=16s24x", os.fsencode(name)))


def _dump() -> Iterator[tuple[int, IPv4Interface | IPv6Interface, bool]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as kernel:
        kernel.settimeout(_ANSWER_S)
        request = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        length = _HEADER.size + len(request)
        kernel.send(_HEADER.pack(length, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + request)
        while True:
            answer = kernel.recv(1 << 16)
            at = 0
            while at + _HEADER.size <= len(answer):
                length, kind, _, _, _ = _HEADER.unpack_from(answer, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", answer, at + _HEADER.size)
                    raise OSError(-code, os.strerror(-code))
                if kind == _RTM_NEWADDR:
                    parsed = _parse_address(answer[at + _HEADER.size : at + length])
                    if parsed is not None:
                        yield parsed
                at += (length + 3) & ~3


def _parse_address(body: bytes) -> tuple[int, IPv4Interface | IPv6Interface, bool] | None:
    family, prefix, flags, _, index = _ADDRESS.unpack_from(body)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    found: dict[int, bytes] = {}
    at = _ADDRESS.size
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    # On a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL is ours where present.
    raw = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))
    if raw is None:
        return None
    text = socket.inet_ntop(family, raw)
    return index, ip_interface(f"{text}/{prefix}"), not flags & _IFA_F_UNUSABLE

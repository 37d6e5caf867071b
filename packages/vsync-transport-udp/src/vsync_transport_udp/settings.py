"""``[transport.udp]`` and ``[transport.udpu]``: where to send and listen, and how much room to ask
the system for.
"""

import re
from ipaddress import (
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Any, Final, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from vsync.ip.interfaces import parse_bind
from vsync.settings import Strict

Offload: TypeAlias = Literal["auto", "off"]

DEFAULT_GROUP_IPV4: Final = "239.192.77.1"  # organisation-local (RFC 2365, section 6.2)
DEFAULT_GROUP_IPV6: Final = "ff15::77:1"  # transient, site-local (RFC 4291, section 2.7)

HOST_NAME_MAX: Final = 253  # RFC 1035, section 2.3.4, as text
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")

ADDRESSES_MAX: Final = 256
"""Entries in ``peers``, and in ``seeds``."""


def parse_peer(text: str, port: int) -> tuple[str, int]:
    """Read ``HOST:PORT`` or ``HOST``, which has the given *port*. Raises ValueError.

    The host is an address or a name; an IPv6 address stands in brackets.
    """
    host, colon, digits = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, digits = text, str(port)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in bare and bare == host:
        raise ValueError(
            f'"{text}": an IPv6 address stands in brackets, as in "[2001:db8::1]:{port}"'
        )
    try:
        address = ip_address(bare)
    except ValueError:
        named = 0 < len(bare) <= HOST_NAME_MAX and bare == host and _HOST_NAME.fullmatch(bare)
        if not named or bare.replace(".", "").isdigit():
            raise ValueError(
                f'"{text}" is no address and no name of a host; examples are "192.0.2.7:{port}", '
                f'"[2001:db8::7]:{port}" and "node7.example:{port}"'
            ) from None
    else:
        if address.is_multicast or address.is_unspecified or bare == "255.255.255.255":
            raise ValueError(f'"{text}" is not the address of one node')
    if not digits.isdecimal() or not digits.isascii() or not 1 <= int(digits[:6]) <= 65535:
        raise ValueError(f'"{text}": the port is a number from 1 to 65535, not "{digits}"')
    return bare, int(digits)


class SettingsBind(Strict):
    """The interface to use."""

    bind: str = "127.0.0.1"
    """The interface to use: one of its addresses, its name, or a network that one of its addresses
    is in. Nodes on other machines need more than the default, which stays on this machine."""

    @field_validator("bind")
    @classmethod
    def _check_bind(cls, text: str) -> str:
        bind = parse_bind(text)
        if not isinstance(bind, str | IPv4Network | IPv6Network):
            if bind.is_multicast:
                raise ValueError(
                    f"bind {text} is a multicast address; bind takes an address of this machine"
                )
            if bind.is_unspecified:
                raise ValueError(
                    f"bind {text} names no interface; give an address, a name such as eth0, or a "
                    "network such as 192.0.2.0/24"
                )
        return text


class SettingsSockets(Strict):
    """What is asked of the system for every socket."""

    dscp: int | None = Field(default=None, ge=0, le=63)
    """The differentiated services code point of all packets. Unset: the system's default."""

    receive_buffer_bytes: int = Field(default=8 * 2**20, ge=2**16, le=2**30)
    """Asked of the system for each socket. It bounds what may be in flight; a system may give less
    (``net.core.rmem_max``), which ``vsync status`` shows."""

    send_buffer_bytes: int = Field(default=4 * 2**20, ge=2**16, le=2**30)
    """Asked of the system for the sending socket; it may give less (``net.core.wmem_max``)."""

    packet_bytes_max: int | None = Field(default=None, ge=512, le=65_487)
    """The largest packet. Unset: what the interface carries in one piece (its MTU less 28 bytes,
    with IPv6 48), and 1472 on loopback. More than the interface carries is cut down to that. About
    the same on all nodes: one that takes less than half of another's packets cannot help to repair
    what that has sent."""

    gso: Offload = "auto"
    """Let the kernel cut many packets out of one piece when sending, if it can."""

    gro: Offload = "auto"
    """Let the kernel hand over many received packets in one piece, if it can."""


class SettingsGroup(SettingsBind):
    """The multicast group, and how far packets to it go."""

    group: str = DEFAULT_GROUP_IPV4
    """The multicast group, IPv4 or IPv6. With an IPv6 ``bind`` the default is ``ff15::77:1``."""

    port: int = Field(default=5405, ge=1, le=65535)
    """The UDP port of the multicast group."""

    unicast_port: int = Field(default=0, ge=0, le=65535)
    """The UDP port this node sends from, and gets answers at. 0: any free one. Set it where a
    firewall must know it; nodes on one machine need different ones."""

    ttl: int = Field(default=1, ge=0, le=255)
    """How many routers (less one) multicast packets may cross. 1 stays in the local network."""

    multicast_loop: bool = True
    """Whether nodes on the same machine hear this one. Where every node has a machine of its own,
    ``false`` saves about a quarter of the cost of sending."""

    @field_validator("group")
    @classmethod
    def _check_group(cls, text: str) -> str:
        try:
            group = ip_address(text)
        except ValueError:
            raise ValueError(
                f'group "{text}" is no IP address; the default is {DEFAULT_GROUP_IPV4}'
            ) from None
        if not group.is_multicast:
            raise ValueError(
                f"group {text} is not a multicast address; use one of 239.0.0.0/8 (such as "
                f"{DEFAULT_GROUP_IPV4}) or, with IPv6, one of ff15::/16"
            )
        return text

    @model_validator(mode="before")
    @classmethod
    def _choose_group(cls, given: Any) -> Any:
        """An IPv6 bind without a group means the IPv6 default; all else is checked later."""
        if isinstance(given, dict) and "group" not in given and isinstance(given.get("bind"), str):
            try:
                bind = parse_bind(given["bind"])
            except ValueError:
                return given
            if isinstance(bind, IPv6Address | IPv6Network):
                return {**given, "group": DEFAULT_GROUP_IPV6}
        return given

    @model_validator(mode="after")
    def _check_families(self) -> "SettingsGroup":
        bind, group = parse_bind(self.bind), ip_address(self.group)
        if not isinstance(bind, str) and bind.version != group.version:
            raise ValueError(
                f"bind {self.bind} is IPv{bind.version} and group {self.group} is "
                f"IPv{group.version}; both must be of one family"
            )
        return self


class SettingsUDP(SettingsSockets, SettingsGroup):
    """``[transport.udp]``. ``group``, ``port`` and the family of ``bind`` must be the same on
    every node of a ring."""


class SettingsPeers(SettingsBind):
    """Whom to send to, where there is no multicast."""

    port: int = Field(default=5405, ge=1, le=65535)
    """The UDP port that this node sends from and listens at. Nodes on one machine need different
    ones."""

    peers: tuple[str, ...] = ()
    """The nodes of the ring, each as ``HOST:PORT``: an IPv4 address, an IPv6 address in brackets or
    a name, which is looked up when the node starts; without a port it is this node's. All nodes may
    have the same list: a node's own address in it is ignored. Everything is sent to every one of
    these, whether it answers or not."""

    seeds: tuple[str, ...] = ()
    """A few nodes, written as in ``peers``, from which this one learns of all others. The same two
    or three on every node are best. With seeds, whoever reaches this port may become a peer and
    hear the ring: let only the nodes through the firewall. Without, only ``peers`` are sent to."""

    forget_s: float = Field(default=3600.0, ge=10, le=30 * 86_400)
    """How long a learnt node that fell silent is looked for. It gets the ring's packets again from
    its first answer on; nodes in ``peers`` and ``seeds`` are looked for always."""

    @property
    def version(self) -> int:
        """4 or 6: the version of IP that ``bind``, or else the first address, says; or else 4."""
        return self._versions()[0][0]

    def _versions(self) -> list[tuple[int, str]]:
        """The IP versions that are said, and by what."""
        found: list[tuple[int, str]] = []
        bind = parse_bind(self.bind)
        if not isinstance(bind, str):
            found.append((bind.version, f"bind {self.bind}"))
        for name in ("peers", "seeds"):
            for text in getattr(self, name):
                host, _ = parse_peer(text, self.port)
                try:
                    found.append((ip_address(host).version, f'"{text}" in {name}'))
                except ValueError:
                    continue  # a name may have addresses of either
        return found or [(4, "the default")]

    @field_validator("peers", "seeds")
    @classmethod
    def _check_addresses(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if len(given) > ADDRESSES_MAX:
            raise ValueError(f"these are {len(given)} addresses; {ADDRESSES_MAX} may be named")
        for text in given:
            parse_peer(text, 5405)
        return given

    @model_validator(mode="after")
    def _check_peers(self) -> "SettingsPeers":
        if not self.peers and not self.seeds:
            raise ValueError(
                "no node is named: name all in peers, or a few in seeds, as in "
                'peers = ["192.0.2.1:5405", "192.0.2.2:5405", "192.0.2.3:5405"]'
            )
        versions = self._versions()
        for version, said_by in versions:
            if version != versions[0][0]:
                raise ValueError(
                    f"{versions[0][1]} is IPv{versions[0][0]} and {said_by} is IPv{version}; "
                    "all must be of one family"
                )
        return self


class SettingsUDPU(SettingsSockets, SettingsPeers):
    """``[transport.udpu]``. Nodes reach each other if each is in the other's ``peers``, or both
    find each other through ``seeds``."""

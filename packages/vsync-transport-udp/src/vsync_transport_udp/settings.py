"""``[transport.udp]`` and ``[transport.udpu]``: where to send and listen, and how much room to ask
the system for.
"""

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Final, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from vsync.settings import Strict

Bind: TypeAlias = IPv4Address | IPv6Address | IPv4Network | IPv6Network | str
"""What ``bind`` means: an address, a network, or (``str``) the name of an interface."""

Offload: TypeAlias = Literal["auto", "off"]

DEFAULT_GROUP_IPV4: Final = "239.192.77.1"  # organisation-local (RFC 2365, section 6.2)
DEFAULT_GROUP_IPV6: Final = "ff15::77:1"  # transient, site-local (RFC 4291, section 2.7)

INTERFACE_NAME_MAX: Final = 15  # IFNAMSIZ - 1, linux/if.h


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

    receive_buffer_bytes: int = Field(default=4 * 2**20, ge=2**16, le=2**30)
    """Asked of the system for each socket. It bounds what may be in flight; a system may give less
    (``net.core.rmem_max``), which ``vsync status`` shows."""

    send_buffer_bytes: int = Field(default=4 * 2**20, ge=2**16, le=2**30)
    """Asked of the system for the sending socket; it may give less (``net.core.wmem_max``)."""

    packet_bytes_max: int | None = Field(default=None, ge=512, le=65_487)
    """The largest packet. Unset: what the interface carries in one piece (its MTU less 28 bytes,
    with IPv6 48), and 1472 on loopback. More than the interface carries is cut down to that."""

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

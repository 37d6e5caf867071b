"""``[transport.ib]``: which device and port, how to address the others, and how deep the queues."""

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal, NamedTuple, TypeAlias

from pydantic import Field, field_validator, model_validator

from vsync.settings import Strict
from vsync_transport_ib.verbs import DEFAULT_PKEY, DEFAULT_QKEY

ProviderName: TypeAlias = Literal["verbs", "soft"]

DEFAULT_GROUP: Final = "239.192.77.1"  # organisation-local (RFC 2365, section 6.2)

DEVICE_NAME_MAX: Final = 63  # IB_DEVICE_NAME_MAX - 1, rdma/ib_verbs.h
PORTS_MAX: Final = 255

_DEVICE: Final = re.compile(r"([A-Za-z0-9_.@-]+)(?::(\d{1,3}))?", re.ASCII)


class DeviceName(NamedTuple):
    """``device`` as a name: of a device, or of a network interface, maybe with a port."""

    name: str
    port: int | None


Wanted: TypeAlias = DeviceName | IPv4Address | IPv6Address | IPv4Network | IPv6Network
"""What ``device`` means."""


def parse_device(text: str) -> Wanted:
    """Read *text* as an address, a network, or a name with or without a port, in this order.

    Raises ValueError if it can be none of them.
    """
    try:
        return ip_address(text)
    except ValueError:
        pass
    if "/" in text:
        try:
            return ip_network(text, strict=False)
        except ValueError:
            raise ValueError(
                f'device "{text}" is no network; one looks like "192.0.2.0/24"'
            ) from None
    found = _DEVICE.fullmatch(text)
    if found is None or len(found[1]) > DEVICE_NAME_MAX:
        raise ValueError(
            f'device "{text}" is no name of a device and no address; examples are "rxe0", '
            '"mlx5_0:1", "eth0", "192.0.2.7" and "192.0.2.0/24"'
        )
    port = None if found[2] is None else int(found[2])
    if port is not None and not 1 <= port <= PORTS_MAX:
        raise ValueError(f'device "{text}": ports are numbered from 1 to {PORTS_MAX}')
    return DeviceName(found[1], port)


class SettingsIB(Strict):
    """``[transport.ib]``. ``group``, ``qkey`` and ``pkey`` must be the same on every node of a
    ring; the provider need not."""

    provider: ProviderName = "verbs"
    """How packets are carried. ``verbs``: by a device of the kernel (an HCA, a RoCE card,
    Soft-RoCE), through libibverbs. ``soft``: as RoCEv2 over a UDP socket of this process, where
    there is no such device; it talks to nodes that have one, in the same Ethernet."""

    fallback: Literal["none", "soft"] = "none"
    """What to use if ``verbs`` cannot open. ``none``: the node does not start. ``soft``: that, on
    the interface that has the same address; so ``device`` must be an address or a network. To fall
    back to UDP, make ``ib`` and ``udp`` two links of ``redundant``."""

    device: str | None = None
    """The device: by its name, with or without a port (``rxe0``, ``mlx5_0:1``), or by an address of
    its interface, a network that the address is in (the same text on every node), or the
    interface's name. Unset: the only port that is active."""

    port: int | None = Field(default=None, ge=1, le=PORTS_MAX)
    """The port of the device, if ``device`` does not say. Unset: its first active one."""

    gid_index: int | None = Field(default=None, ge=0, le=65_535)
    """Which line of the port's GID table to use (``show_gids``, ``rdma link``). Unset: with RoCE
    the RoCE v2 line of the address in ``device`` or else of the first IPv4 address; with InfiniBand
    line 0."""

    pkey: int = Field(default=DEFAULT_PKEY, ge=1, le=0xFFFF)
    """The partition key, by value, as in ``0x8001``. The port's table must have it."""

    service_level: int = Field(default=0, ge=0, le=15)
    """InfiniBand's service level, or RoCE's priority, of all packets."""

    traffic_class: int = Field(default=0, ge=0, le=255)
    """The traffic class of all packets. With RoCE v2 its upper six bits are the DSCP."""

    ttl: int = Field(default=1, ge=1, le=255)
    """How many routers (less one) packets to the group may cross. 1 stays in the local network."""

    group: str = DEFAULT_GROUP
    """The multicast group, as an IP address. With RoCE v2 it is joined by IGMP or MLD, with
    InfiniBand through the subnet administrator."""

    qkey: int = Field(default=DEFAULT_QKEY, ge=0, le=0x7FFFFFFF)
    """What every packet must carry to be taken (the Q_Key). Rings that share a group and have
    different ones do not even see each other's packets."""

    packet_bytes_max: int | None = Field(default=None, ge=512, le=4096)
    """The largest packet. Unset: the port's active MTU (1024 where Ethernet carries 1500 bytes,
    4096 where it carries 4200 or more; up to 4096 with InfiniBand). Not more than that. The same on
    all nodes, or about: set it to the smallest where they differ."""

    receive_depth: int = Field(default=4096, ge=64, le=32_768)
    """Receives that are posted at any time. It bounds what may be in flight. With ``verbs`` each
    locks memory of one packet and 40 bytes (``ulimit -l``)."""

    send_depth: int = Field(default=1024, ge=64, le=32_768)
    """Sends that may wait in the device."""

    multicast_loop: bool = True
    """Whether other nodes on the same machine and port hear this one, where that can be chosen
    (``soft``). Where every node has a machine of its own, ``false`` saves some of the cost of
    sending."""

    @field_validator("device")
    @classmethod
    def _check_device(cls, text: str | None) -> str | None:
        if text is not None:
            wanted = parse_device(text)
            if isinstance(wanted, IPv4Address | IPv6Address) and (
                wanted.is_multicast or wanted.is_unspecified
            ):
                raise ValueError(f'device "{text}": that is no address of one interface')
        return text

    @field_validator("group")
    @classmethod
    def _check_group(cls, text: str) -> str:
        try:
            group = ip_address(text)
        except ValueError:
            raise ValueError(
                f'group "{text}" is no IP address; the default is {DEFAULT_GROUP}'
            ) from None
        if not group.is_multicast:
            raise ValueError(
                f"group {text} is not a multicast address; use one of 239.0.0.0/8, such as "
                f"{DEFAULT_GROUP}"
            )
        return text

    @model_validator(mode="after")
    def _check_together(self) -> "SettingsIB":
        wanted = None if self.device is None else parse_device(self.device)
        if isinstance(wanted, DeviceName):
            if wanted.port is not None and self.port not in (None, wanted.port):
                raise ValueError(
                    f"device {self.device} and port {self.port} contradict each other; "
                    "leave one out"
                )
        elif wanted is not None and wanted.version != ip_address(self.group).version:
            raise ValueError(
                f"device {self.device} is IPv{wanted.version} and group {self.group} is not; "
                "both must be of one family"
            )
        if self.fallback != "none":
            if self.provider != "verbs":
                raise ValueError(f"fallback is for provider verbs, and this is {self.provider}")
            if wanted is None or isinstance(wanted, DeviceName):
                raise ValueError(
                    f'fallback = "{self.fallback}" needs a device that is an address or a network, '
                    'as in device = "192.0.2.0/24": a name means another thing without InfiniBand'
                )
        return self

"""Which device, port and GID the settings mean, of those that there are; or why none.

The same for both providers. Every refusal is one sentence with what to do.
"""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from vsync.errors import TransportFailed
from vsync_transport_ib.settings import DeviceName, SettingsIB, Wanted, parse_device
from vsync_transport_ib.verbs import (
    Device,
    Endpoint,
    GidEntry,
    LinkLayer,
    Port,
    PortState,
)

PACKET_BYTES_MIN: Final = 512
"""A ring's packets have at least that."""

MEMBERSHIP_MASK: Final = 0x7FFF
"""The part of a partition key that says which; the first bit says how."""

_ACTIVE: Final = (PortState.ACTIVE, PortState.ACTIVE_DEFER)

_WHAT_TO_DO: Final = {
    PortState.DOWN: "see that the cable is in and the interface is up (`ip link`, `rdma link`)",
    PortState.INIT: "the subnet manager has not configured it: see that one runs (opensm)",
    PortState.ARMED: "the subnet manager has not activated it yet: see that one runs (opensm)",
    PortState.NOP: "see `rdma link` and the kernel's log (dmesg)",
}


class Place(NamedTuple):
    """One line of the GID table of one port."""

    device: Device
    port: Port
    entry: GidEntry


class Choice(NamedTuple):
    """What to open, and what to say of it."""

    endpoint: Endpoint
    warnings: Sequence[str]


def choose(settings: SettingsIB, devices: Sequence[Device]) -> Choice:
    """The endpoint that *settings* mean. Raises TransportFailed."""
    device, port, entry = choose_place(settings, devices)
    warnings = []
    carried = port.mtu_bytes
    if carried < PACKET_BYTES_MIN:
        raise TransportFailed(
            f"port {port.number} of {device.name} carries messages of {carried} bytes, and a ring "
            f"needs {PACKET_BYTES_MIN}; raise the MTU of its interface or subnet"
        )
    asked = settings.packet_bytes_max or carried
    if asked > carried:
        warnings.append(
            f"packet_bytes_max {asked} is more than port {port.number} of {device.name} carries "
            f"(its active MTU); {carried} is used"
        )
    depths = {}
    for name in ("receive_depth", "send_depth"):
        wanted = getattr(settings, name)
        depths[name] = min(wanted, device.queue_depth_max)
        if depths[name] < wanted:
            warnings.append(
                f"{name} {wanted} is more than {device.name} can do; {depths[name]} is used"
            )
    pkey = next((each for each in port.pkeys if _same_partition(each, settings.pkey)), None)
    if pkey is None:
        known = ", ".join(f"{each:#06x}" for each in port.pkeys) or "none"
        raise TransportFailed(
            f"port {port.number} of {device.name} has no partition key {settings.pkey:#06x}; "
            f"it has {known}: set pkey in [transport.ib] to one of them, or add it at the subnet "
            "manager"
        )
    message_bytes_max = min(asked, carried)
    endpoint = Endpoint(
        device=device.name,
        port=port.number,
        gid_index=entry.index,
        gid=entry.gid,
        group=ip_address(settings.group),
        message_bytes_max=message_bytes_max,
        receive_slots=depths["receive_depth"],
        send_slots=depths["send_depth"],
        qkey=settings.qkey,
        pkey=pkey,
        service_level=settings.service_level,
        traffic_class=settings.traffic_class,
        hop_limit=settings.ttl,
        multicast_loop=settings.multicast_loop,
        receive_buffer_bytes=depths["receive_depth"] * message_bytes_max,
        send_buffer_bytes=depths["send_depth"] * message_bytes_max,
    )
    return Choice(endpoint, warnings)


def _same_partition(had: int, wanted: int) -> bool:
    return had & MEMBERSHIP_MASK == wanted & MEMBERSHIP_MASK


def choose_place(settings: SettingsIB, devices: Sequence[Device]) -> Place:
    """The device, port and GID that *settings* mean. Raises TransportFailed."""
    wanted = None if settings.device is None else parse_device(settings.device)
    if not devices:
        raise TransportFailed(
            "this machine has no InfiniBand or RoCE device: see `rdma link` and `ibv_devices`; "
            "Soft-RoCE makes one (rdma link add rxe0 type rxe netdev eth0), and provider = "
            '"soft" in [transport.ib] needs none'
        )
    if wanted is None or isinstance(wanted, DeviceName):
        device, port = _by_name(settings, wanted, devices)
        if port.state not in _ACTIVE:
            raise _down(device, port)
        return Place(device, port, _gid(settings, device, port))
    return _by_address(settings, wanted, devices)


# By name


def _by_name(
    settings: SettingsIB, wanted: DeviceName | None, devices: Sequence[Device]
) -> tuple[Device, Port]:
    if wanted is None:
        return _the_only(settings, devices)
    named = [device for device in devices if device.name == wanted.name]
    named = named or [device for device in devices if wanted.name in device.interfaces]
    if not named:
        raise TransportFailed(
            f'there is no device "{wanted.name}" here; there are {_devices(devices)}: '
            "name one of them in [transport.ib]"
        )
    if len(named) > 1:
        raise TransportFailed(
            f'"{wanted.name}" is an interface of {_devices(named)}; '
            "name one of these as device in [transport.ib]"
        )
    (device,) = named
    number = wanted.port or settings.port
    if number is not None:
        for port in device.ports:
            if port.number == number:
                return device, port
        known = ", ".join(str(port.number) for port in device.ports) or "none"
        raise TransportFailed(
            f"{device.name} has no port {number}; it has {known}: see device and port in "
            "[transport.ib]"
        )
    if not device.ports:
        raise TransportFailed(f"{device.name} has no ports; name another device")
    active = [port for port in device.ports if port.state in _ACTIVE]
    return device, (active or device.ports)[0]


def _the_only(settings: SettingsIB, devices: Sequence[Device]) -> tuple[Device, Port]:
    """The port that is active, if there is one only; loopback does not count."""
    ports = [
        (device, port)
        for device in devices
        for port in device.ports
        if settings.port in (None, port.number)
        and not any(entry.stands_for_loopback for entry in port.gids)
    ]
    active = [(device, port) for device, port in ports if port.state in _ACTIVE]
    if len(active) == 1:
        return active[0]
    if not active and len(ports) == 1:
        return ports[0]
    if active:
        said = ", ".join(f"{device.name}:{port.number}" for device, port in active)
        raise TransportFailed(
            f"several ports are active here: {said}; name one as device in [transport.ib]"
        )
    said = ", ".join(f"{device.name}:{port.number} is {port.state.name}" for device, port in ports)
    raise TransportFailed(
        f"no port is active here ({said or 'there is none'}); see `rdma link` and `ip link`"
    )


def _gid(settings: SettingsIB, device: Device, port: Port) -> GidEntry:
    where = f"port {port.number} of {device.name}"
    if settings.gid_index is not None:
        for entry in port.gids:
            if entry.index == settings.gid_index:
                return entry
        raise TransportFailed(
            f"{where} has no GID {settings.gid_index}; it has {_gids(port)}: set gid_index in "
            "[transport.ib] to one of these, or leave it out"
        )
    if not port.gids:
        raise TransportFailed(
            f"{where} has no GID at all; with RoCE, give its interface an IP address"
        )
    if port.link_layer is LinkLayer.INFINIBAND:
        return port.gids[0]
    version = ip_address(settings.group).version
    fit = [entry for entry in port.gids if entry.kind == "RoCE v2" and entry.ip.version == version]
    if not fit:
        raise TransportFailed(
            f"{where} has no RoCE v2 GID with an IPv{version} address, as group {settings.group} "
            f"needs; it has {_gids(port)}: give its interface such an address, or set gid_index"
        )
    # A link-local address serves only if there is no other.
    return min(fit, key=lambda entry: (entry.ip.is_link_local, entry.index))


# By address


def _by_address(settings: SettingsIB, wanted: Wanted, devices: Sequence[Device]) -> Place:
    assert not isinstance(wanted, DeviceName)
    places = [
        Place(device, port, entry)
        for device in devices
        for port in device.ports
        if settings.port in (None, port.number)
        for entry in port.gids
        if settings.gid_index in (None, entry.index)
    ]
    if isinstance(wanted, IPv4Address | IPv6Address):
        found = [place for place in places if place.entry.ip == wanted]
        if not found and wanted.version == 4 and wanted.is_loopback:
            gid = IPv6Address(b"\0" * 10 + b"\xff\xff" + wanted.packed)
            found = [
                place._replace(entry=replace(place.entry, gid=gid))
                for place in places
                if place.entry.stands_for_loopback
            ][:1]
    else:
        found = [place for place in places if place.entry.ip in wanted]
    # RoCE v1 has the same GIDs, and no IP beneath.
    found = [place for place in found if place.entry.kind != "RoCE v1"] or found
    if not found:
        known = ", ".join(f"{entry.ip} ({device.name})" for device, _, entry in places) or "none"
        index = "" if settings.gid_index is None else f" at GID {settings.gid_index}"
        raise TransportFailed(
            f"no port here has the address {settings.device}{index}; there are {known}: see device "
            "in [transport.ib], `rdma link` and `ip address`"
        )
    if len({(device.name, port.number) for device, port, _ in found}) > 1:
        which = ", ".join(f"{device.name}:{port.number}" for device, port, _ in found)
        raise TransportFailed(
            f"device {settings.device} fits several ports: {which}; name one of them"
        )
    chosen = found[0]
    if chosen.port.state not in _ACTIVE:
        raise _down(chosen.device, chosen.port)
    return chosen


# What is said


def _down(device: Device, port: Port) -> TransportFailed:
    return TransportFailed(
        f"port {port.number} of {device.name} is {port.state.name}, not ACTIVE; "
        f"{_WHAT_TO_DO.get(port.state, '')}"
    )


def _devices(devices: Sequence[Device]) -> str:
    return ", ".join(device.name for device in devices)


def _gids(port: Port) -> str:
    return ", ".join(f"{entry.index} ({entry.ip}, {entry.kind})" for entry in port.gids) or "none"

"""The kernel's InfiniBand devices, as libibverbs finds them."""

import contextlib
import ctypes
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from vsync.errors import TransportFailed
from vsync.ip.interfaces import interface_addresses
from vsync_transport_ib import rdma_core as core
from vsync_transport_ib.rdma_core import Pointer, error_text, libibverbs
from vsync_transport_ib.verbs import Device, Endpoint, GidEntry, LinkLayer, Port, PortState

SYSFS: Final = Path("/sys/class/infiniband")
NODES: Final = Path("/dev/infiniband")

MTU_BYTES: Final = {1: 256, 2: 512, 3: 1024, 4: 2048, 5: 4096}
"""``enum ibv_mtu``."""


def devices() -> Sequence[Device]:
    """All devices of this machine; see ``verbs.Provider``."""
    with _listed() as found:
        return [_described(name, device) for name, device in found]


@contextlib.contextmanager
def opened(name: str) -> Iterator[Pointer]:
    """The open context of the device of that name. Raises TransportFailed if there is none."""
    with _listed() as found:
        device = dict(found).get(name)
        if device is None:
            raise TransportFailed(
                f"there is no InfiniBand device {name} (any more); see `rdma link`"
            )
        context = _open(name, device)
    try:
        yield context
    finally:
        libibverbs().ibv_close_device(context)


def find_source(endpoint: Endpoint) -> IPv4Address | IPv6Address:
    """The IP address by which the connection manager knows the device.

    With RoCE that is the GID itself. With InfiniBand it is an address of the port's IPoIB
    interface. Raises TransportFailed if that has none.
    """
    if endpoint.gid.ipv4_mapped is not None:
        return endpoint.gid.ipv4_mapped
    layer = (SYSFS / endpoint.device / "ports" / str(endpoint.port) / "link_layer").read_text()
    if layer.strip() == "Ethernet":
        return endpoint.gid
    interfaces = _interfaces(endpoint.device, endpoint.port)
    for interface in interfaces:
        address = _ipv4_address(interface)
        if address is not None:
            return address
    raise TransportFailed(
        f"port {endpoint.port} of {endpoint.device} has no IP address, which joining a multicast "
        "group goes by: give its IP over InfiniBand interface one "
        f"(ip address add … dev {interfaces[0] if interfaces else 'ib0, after modprobe ib_ipoib'})"
    )


@contextlib.contextmanager
def _listed() -> Iterator[list[tuple[str, Pointer]]]:
    """The devices by name, for as long as the list is held."""
    lib = libibverbs()
    count = ctypes.c_int()
    ctypes.set_errno(0)
    listed = lib.ibv_get_device_list(ctypes.byref(count))
    if not listed:
        number = ctypes.get_errno()
        if number in (errno.ENOSYS, errno.ENOENT, 0):
            raise TransportFailed(
                "this kernel has no InfiniBand: the module ib_uverbs is not loaded (`modprobe "
                'ib_uverbs`); without such a device, set provider = "soft" in [transport.ib]'
            )
        raise TransportFailed(f"the InfiniBand devices cannot be listed: {error_text(number)}")
    try:
        found = [
            (lib.ibv_get_device_name(listed[index]).decode(), Pointer(listed[index]))
            for index in range(count.value)
        ]
        if not found and (there := sorted(path.name for path in SYSFS.glob("*"))):
            raise TransportFailed(
                f"the kernel has the InfiniBand device{'s' * (len(there) > 1)} "
                f"{', '.join(there)}, and libibverbs has no driver for it; on Debian and Ubuntu: "
                "apt install ibverbs-providers"
            )
        yield found
    finally:
        lib.ibv_free_device_list(listed)


def _open(name: str, device: Pointer) -> Pointer:
    ctypes.set_errno(0)
    context = libibverbs().ibv_open_device(device)
    if context:
        return Pointer(context)
    why = error_text()
    # libibverbs tries two ways, and of the error it keeps that of the second: so look.
    node = NODES / _node_of(name)
    if not node.exists():
        raise TransportFailed(
            f"the device {name} has no node {node} (in this container?); pass {NODES} in"
        )
    if not os.access(node, os.R_OK | os.W_OK):
        raise TransportFailed(
            f"this user may not open the device {name}: no permission on {node}; let the user into "
            f"the group that may (`ls -l {NODES}`), or have udev give the node mode 0666, as the "
            "package rdma-core does"
        )
    raise TransportFailed(f"the device {name} cannot be opened: {why}")


def find_pkey(context: Pointer, endpoint: Endpoint, lines: int, *, where: str) -> int:
    """The index of the endpoint's partition key; its highest bit tells full members, no more.

    Raises TransportFailed if the port does not have it.
    """
    found, indexes = ctypes.c_uint16(), dict[int, int]()
    for index in range(lines):
        asked = ctypes.byref(found)
        if libibverbs().ibv_query_pkey(context, endpoint.port, index, asked) == 0 and found.value:
            indexes.setdefault(socket.ntohs(found.value), index)
    for key in (endpoint.pkey, endpoint.pkey ^ 0x8000):
        if key in indexes:
            return indexes[key]
    raise TransportFailed(
        f"{where} has no partition key {endpoint.pkey:#06x}; it has "
        f"{', '.join(f'{key:#06x}' for key in indexes) or 'none'}: set pkey in [transport.ib]"
    )


def _node_of(name: str) -> str:
    """The name of the device's node, such as ``uverbs0``."""
    for path in Path("/sys/class/infiniband_verbs").glob("uverbs*"):
        with contextlib.suppress(OSError):
            if (path / "ibdev").read_text().strip() == name:
                return path.name
    return "uverbs*"


def _described(name: str, device: Pointer) -> Device:
    lib = libibverbs()
    context = _open(name, device)
    try:
        attributes = core.DeviceAttributes()
        if failed := lib.ibv_query_device(context, ctypes.byref(attributes)):
            raise TransportFailed(f"the device {name} cannot be asked: {error_text(failed)}")
        ports = [
            _described_port(context, number) for number in range(1, attributes.phys_port_cnt + 1)
        ]
    finally:
        lib.ibv_close_device(context)
    own = {entry.interface: None for port in ports for entry in port.gids if entry.interface}
    beside = dict.fromkeys(_interfaces(name))
    return Device(
        name=name,
        ports=ports,
        interfaces=list(own | beside),
        queue_depth_max=min(attributes.max_qp_wr, attributes.max_cqe),
    )


def _described_port(context: Pointer, number: int) -> Port:
    lib = libibverbs()
    attributes = core.PortAttributes()
    if failed := lib.ibv_query_port(context, number, ctypes.byref(attributes)):
        raise TransportFailed(f"port {number} cannot be asked: {error_text(failed)}")
    pkeys, found = [], ctypes.c_uint16()
    for index in range(attributes.pkey_tbl_len):
        if lib.ibv_query_pkey(context, number, index, ctypes.byref(found)) == 0 and found.value:
            pkeys.append(socket.ntohs(found.value))
    ethernet = attributes.link_layer == core.LINK_LAYER_ETHERNET
    return Port(
        number=number,
        state=PortState(attributes.state) if 0 <= attributes.state <= 5 else PortState.NOP,
        link_layer=LinkLayer.ETHERNET if ethernet else LinkLayer.INFINIBAND,
        mtu_bytes=MTU_BYTES.get(attributes.active_mtu, 256),
        mtu_bytes_max=MTU_BYTES.get(attributes.max_mtu, 256),
        lid=attributes.lid,
        gids=_gids(context, number, attributes.gid_tbl_len),
        pkeys=list(dict.fromkeys(pkeys)),
    )


def _gids(context: Pointer, port: int, lines: int) -> Sequence[GidEntry]:
    """The lines of the port's table that are in use."""
    entries: list[GidEntry] = []
    raw = core.GidEntryRaw()
    for index in range(lines):
        size = ctypes.sizeof(raw)
        if libibverbs()._ibv_query_gid_ex(context, port, index, ctypes.byref(raw), 0, size):
            continue
        gid = IPv6Address(bytes(raw.gid))
        if gid.packed == bytes(16):
            continue
        entries.append(
            GidEntry(
                index=index,
                gid=gid,
                kind=core.GID_KINDS[raw.gid_type] if raw.gid_type < 3 else str(raw.gid_type),
                interface=_interface_name(raw.ndev_ifindex),
            )
        )
    return entries


def _interface_name(index: int) -> str | None:
    """The name of an interface; None if it is of another network namespace."""
    if not index:
        return None
    try:
        return socket.if_indextoname(index)
    except OSError:
        return None


def _interfaces(name: str, port: int | None = None) -> list[str]:
    """Network interfaces of the same hardware, such as IPoIB's; of that port, if told apart."""
    found = []
    for path in sorted((SYSFS / name / "device" / "net").glob("*")):
        with contextlib.suppress(OSError, ValueError):
            if port is None or int((path / "dev_port").read_text()) == port - 1:
                found.append(path.name)
    return found


def _ipv4_address(interface: str) -> IPv4Address | None:
    for found in interface_addresses():
        if found.name == interface and isinstance(found.address, IPv4Address):
            return found.address
    return None

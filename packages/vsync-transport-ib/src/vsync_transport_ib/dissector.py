"""What ``vsync dissect`` says of packets of InfiniBand and RoCE."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from typing import Any, Final, TypeAlias

from vsync_transport_ib import wire
from vsync_transport_ib.icrc import ICRC_BYTES, ROCE_PORT, checksum, covered
from vsync_transport_ib.wire import Malformed, parse

Layers: TypeAlias = list[tuple[str, Mapping[str, Any]]]

LINK_INFINIBAND: Final = 247
GRH_BYTES: Final = 40


def dissect(
    carrier: str, data: bytes, before: bytes
) -> tuple[Sequence[tuple[str, Mapping[str, Any]]], bytes] | None:
    """The hook ``vsync_dissect``."""
    layers: Layers = []
    try:
        if carrier == f"udp {ROCE_PORT}":
            if len(before) < wire.IPV4_BYTES + wire.UDP_BYTES:
                raise Malformed(f"{len(before)} bytes are no headers of IP and UDP")
            covers = covered(ip=before[:-8], udp=before[-8:])
            return layers, _transport(data, covers, layers)
        if carrier == f"ethertype {wire.ETHERTYPE_ROCE_V1:#06x}":
            inner = _global(data, layers)
            return layers, _transport(inner, covered(ip=data[:GRH_BYTES]), layers)
        if carrier == f"link {LINK_INFINIBAND}":
            return layers, _infiniband(data, layers)
    except Malformed as error:
        layers.append(("ib", {"broken": str(error)}))
        return layers, b""
    return None


def _infiniband(data: bytes, layers: Layers) -> bytes:
    header = parse(wire.LRH, data[: wire.LRH_BYTES])
    layers.append(
        (
            "lrh",
            {
                "from": header.source_lid,
                "to": header.destination_lid,
                "service_level": header.service_level,
            },
        )
    )
    # Behind the ICRC stands a checksum of the link itself, two bytes (7.8.2).
    end = header.words * 4
    lrh, rest = data[: wire.LRH_BYTES], data[wire.LRH_BYTES : end]
    if header.next_header == wire.NextHeader.GRH:
        inner = _global(rest, layers)
        return _transport(inner, covered(lrh=lrh, ip=rest[:GRH_BYTES]), layers)
    if header.next_header == wire.NextHeader.BTH:
        return _transport(rest, covered(lrh=lrh), layers)
    return b""


def _global(data: bytes, layers: Layers) -> bytes:
    header = parse(wire.GRH, data[:GRH_BYTES])
    places = {"from": header.source, "to": header.destination}
    layers.append(("grh", {name: str(IPv6Address(gid)) for name, gid in places.items()}))
    return data[GRH_BYTES : GRH_BYTES + header.payload_bytes]


def _transport(data: bytes, covers: bytes, layers: Layers) -> bytes:
    fields = wire.parse_transport(data)
    bth, deth = fields.bth, fields.deth
    known = bth.opcode in set(wire.Opcode)
    facts: dict[str, Any] = {
        "opcode": wire.Opcode(bth.opcode).name.lower() if known else f"{bth.opcode:#04x}",
        "to_qpn": bth.destination_qpn,
        "psn": bth.psn,
        "pkey": f"{bth.pkey:#06x}",
    }
    if deth is not None:
        facts |= {"from_qpn": deth.source_qpn, "qkey": f"{deth.qkey:#010x}"}
    if fields.immediate is not None:
        facts["immediate"] = f"{fields.immediate:#010x}"
    right = checksum(covers, data[:-ICRC_BYTES]) == data[-ICRC_BYTES:]
    facts["icrc"] = "right" if right else "wrong"
    layers.append(("ib", facts))
    payload: bytes = fields.payload
    if known and bth.destination_qpn in wire.MANAGEMENT_QPNS and len(payload) == wire.MAD_BYTES:
        _management(payload, layers)
        return b""
    return payload if known else b""


def _management(data: bytes, layers: Layers) -> None:
    message = parse(wire.SUBNET_ADMINISTRATION, data)
    mad = message.mad
    methods = {int(method): method.name.lower() for method in wire.Method}
    facts: dict[str, Any] = {
        "class": f"{mad.management_class:#04x}",
        "method": methods.get(mad.method, f"{mad.method:#04x}"),
        "attribute": f"{mad.attribute:#06x}",
        "status": mad.status,
    }
    joins = mad.attribute == wire.ATTRIBUTE_MC_MEMBER_RECORD
    if joins and mad.management_class == wire.CLASS_SUBNET_ADMINISTRATION:
        record = parse(wire.MC_MEMBER_RECORD, message.data[: wire.MC_MEMBER_RECORD_BYTES])
        facts |= {
            "group": str(IPv6Address(record.multicast_gid)),
            "port_gid": str(IPv6Address(record.port_gid)),
            "multicast_lid": f"{record.multicast_lid:#06x}",
            "join_state": record.route.join_state,
        }
    layers.append(("mad", facts))

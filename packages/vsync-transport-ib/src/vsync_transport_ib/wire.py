"""The bytes of InfiniBand and RoCE, declared: from Ethernet or LRH down to a multicast join.

Each declaration parses and builds; names are those of the InfiniBand Architecture Specification,
Volume 1 (release 1.4; section numbers are its). What every packet of a ring needs has a fast twin
in ``datagrams``. There is no prefix of our own before a ring's packets: their length is kept by
BTH's pad count, whose they are is said by DETH and Q_Key, and damage is told by the checksum or
seal that each of them has anyway.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

import construct
from construct import (
    BitsInteger,
    BitStruct,
    Bytes,
    Flag,
    If,
    Int8ub,
    Int16ub,
    Int32ub,
    Int32ul,
    Int64ub,
    Padding,
    Struct,
    this,
)

from vsync.errors import VsyncError

ETHERTYPE_IPV4: Final = 0x0800
ETHERTYPE_VLAN: Final = 0x8100
ETHERTYPE_IPV6: Final = 0x86DD
ETHERTYPE_ROCE_V1: Final = 0x8915
PROTOCOL_UDP: Final = 17
NEXT_HEADER_IBA: Final = 0x1B  # GRH.NxtHdr, 8.3.3
MANAGEMENT_QPNS: Final = (0, 1)


class Opcode(IntEnum):
    """BTH's opcodes that this transport has to do with (9.2.1)."""

    UD_SEND = 0x64
    UD_SEND_IMMEDIATE = 0x65


class NextHeader(IntEnum):
    """LRH.LNH: what follows the local route header (7.7.5)."""

    RAW = 0
    IP = 1
    BTH = 2
    GRH = 3


class Malformed(VsyncError):
    """These bytes are not what they were taken for; the text says why."""


# The link (7.7) and the network (8.3)

LRH = BitStruct(
    "virtual_lane" / BitsInteger(4),
    "version" / BitsInteger(4),
    "service_level" / BitsInteger(4),
    Padding(2),
    "next_header" / BitsInteger(2),
    "destination_lid" / BitsInteger(16),
    Padding(5),
    "words" / BitsInteger(11),  # of four bytes, from the LRH to the end of the ICRC
    "source_lid" / BitsInteger(16),
)
LRH_BYTES: Final = 8

GRH = Struct(
    "first"
    / BitStruct(
        "version" / BitsInteger(4),
        "traffic_class" / BitsInteger(8),
        "flow_label" / BitsInteger(20),
    ),
    "payload_bytes" / Int16ub,  # from behind the GRH to the end of the ICRC
    "next_header" / Int8ub,
    "hop_limit" / Int8ub,
    "source" / Bytes(16),
    "destination" / Bytes(16),
)
"""The global route header; the header of IPv6 has the same fields in the same places."""

ETHERNET = Struct("destination" / Bytes(6), "source" / Bytes(6), "ethertype" / Int16ub)
VLAN = Struct("tag" / Int16ub, "ethertype" / Int16ub)
IPV4 = Struct(
    "first" / BitStruct("version" / BitsInteger(4), "words" / BitsInteger(4)),
    "traffic_class" / Int8ub,
    "bytes" / Int16ub,
    "identification" / Int16ub,
    "fragment"
    / BitStruct(
        Padding(1), "dont_fragment" / Flag, "more_fragments" / Flag, "offset" / BitsInteger(13)
    ),
    "hop_limit" / Int8ub,
    "protocol" / Int8ub,
    "checksum" / Int16ub,
    "source" / Bytes(4),
    "destination" / Bytes(4),
)
IPV4_BYTES: Final = 20
IPV6 = GRH
UDP = Struct(
    "source_port" / Int16ub, "destination_port" / Int16ub, "bytes" / Int16ub, "checksum" / Int16ub
)
UDP_BYTES: Final = 8

# The transport (9.2, 9.3)

BTH = Struct(
    "opcode" / Int8ub,
    "flags"
    / BitStruct(
        "solicited_event" / Flag,
        "migration" / Flag,
        "pad" / BitsInteger(2),
        "version" / BitsInteger(4),
    ),
    "pkey" / Int16ub,
    "congestion"
    / BitStruct("forward" / Flag, "backward" / Flag, Padding(6)),  # ones, as far as ICRC counts
    "destination_qpn" / construct.Int24ub,
    "ack" / BitStruct("request" / Flag, Padding(7)),
    "psn" / construct.Int24ub,
)
DETH = Struct("qkey" / Int32ub, Padding(1), "source_qpn" / construct.Int24ub)


def _behind(header: Any) -> int:
    """How many bytes the headers behind BTH have."""
    opcode = header.bth.opcode
    if opcode not in set(Opcode):
        return 0
    return 12 if opcode == Opcode.UD_SEND_IMMEDIATE else 8


TRANSPORT = Struct(
    "bth" / BTH,
    "deth" / If(lambda header: header.bth.opcode in set(Opcode), DETH),
    "immediate" / If(this.bth.opcode == Opcode.UD_SEND_IMMEDIATE, Int32ub),
    "payload"
    / Bytes(lambda header: header._params.size - 16 - _behind(header) - header.bth.flags.pad),
    "padding" / Bytes(this.bth.flags.pad),
    "icrc" / Int32ul,
)
"""From BTH to ICRC. Parsed and built with the *size* of it all, since nothing in it says where it
ends. Operations other than UD SEND keep their own headers in ``payload``."""

TRANSPORT_BYTES_MIN: Final = 16

# Management, as far as joining a multicast group goes (13.4.2, 15.2.1, 15.2.5.17)

MAD = Struct(
    "base_version" / Int8ub,
    "management_class" / Int8ub,
    "class_version" / Int8ub,
    "method" / Int8ub,
    "status" / Int16ub,
    "class_specific" / Int16ub,
    "transaction" / Int64ub,
    "attribute" / Int16ub,
    Padding(2),
    "modifier" / Int32ub,
)
MAD_BYTES: Final = 256
CLASS_SUBNET_ADMINISTRATION: Final = 0x03
ATTRIBUTE_MC_MEMBER_RECORD: Final = 0x0038


class Method(IntEnum):
    """What a message of the subnet administrator is for (15.2.2)."""

    GET = 0x01
    SET = 0x02
    GET_RESPONSE = 0x81
    DELETE = 0x15
    DELETE_RESPONSE = 0x95
    GET_TABLE = 0x12
    GET_TABLE_RESPONSE = 0x92


RMPP = Struct(
    "version" / Int8ub,
    "type" / Int8ub,
    "flags" / Int8ub,  # response time and flags
    "status" / Int8ub,
    "data1" / Int32ub,
    "data2" / Int32ub,
)
SUBNET_ADMINISTRATION = Struct(
    "mad" / MAD,
    "rmpp" / RMPP,
    "key" / Int64ub,
    "attribute_offset" / Int16ub,
    Padding(2),
    "component_mask" / Int64ub,
    "data" / Bytes(200),
)

MC_MEMBER_RECORD = Struct(
    "multicast_gid" / Bytes(16),
    "port_gid" / Bytes(16),
    "qkey" / Int32ub,
    "multicast_lid" / Int16ub,
    "mtu" / BitStruct("selector" / BitsInteger(2), "code" / BitsInteger(6)),
    "traffic_class" / Int8ub,
    "pkey" / Int16ub,
    "rate" / BitStruct("selector" / BitsInteger(2), "code" / BitsInteger(6)),
    "packet_life" / BitStruct("selector" / BitsInteger(2), "code" / BitsInteger(6)),
    "route"
    / BitStruct(
        "service_level" / BitsInteger(4),
        "flow_label" / BitsInteger(20),
        "hop_limit" / BitsInteger(8),
        "scope" / BitsInteger(4),
        "join_state" / BitsInteger(4),
        "proxy_join" / Flag,
        Padding(7),
    ),
    Padding(2),
)
MC_MEMBER_RECORD_BYTES: Final = 52

MTU_BYTES: Final = {1: 256, 2: 512, 3: 1024, 4: 2048, 5: 4096}
"""By the code in records, and that of ``enum ibv_mtu``."""


def parse(declaration: "construct.Construct[Any, Any]", data: bytes, **given: Any) -> Any:
    """Read *data* as declared. Raises Malformed, whatever the bytes are."""
    try:
        return declaration.parse(data, **given)
    except (construct.ConstructError, ValueError) as error:
        raise Malformed(f"{len(data)} bytes are not what they should be: {error}") from error


def parse_transport(data: bytes) -> Any:
    """Read what stands between the UDP header, or GRH or LRH, and the end of the ICRC."""
    return parse(TRANSPORT, data, size=len(data))


def build_transport(fields: Mapping[str, Any]) -> bytes:
    """The bytes of *fields*, the ICRC among them."""
    size = TRANSPORT_BYTES_MIN + len(fields["payload"]) + fields["bth"]["flags"]["pad"]
    opcode = fields["bth"]["opcode"]
    if opcode in set(Opcode):
        size += 12 if opcode == Opcode.UD_SEND_IMMEDIATE else 8
    return TRANSPORT.build(dict(fields), size=size)

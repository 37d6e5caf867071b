"""The declarations parse and build what others write: scapy, and the subnet administrator."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.roce import BTH as SCAPY_BTH
from scapy.contrib.roce import opcode as scapy_opcode

from vsync_transport_ib import wire
from vsync_transport_ib.wire import Malformed, Opcode, parse, parse_transport

LID = 0xC001
QKEY = 0x01234567
GROUP = ipaddress.IPv6Address("ff12:401b:ffff::1:4d01").packed
PORT_GID = ipaddress.IPv6Address("fe80::2:c903:1:2").packed


def test_opcodes_are_those_of_scapy() -> None:
    assert scapy_opcode("UD", "SEND_ONLY")[0] == Opcode.UD_SEND
    assert scapy_opcode("UD", "SEND_ONLY_WITH_IMMEDIATE")[0] == Opcode.UD_SEND_IMMEDIATE


@given(
    st.integers(0, 0xFFFFFF), st.integers(0, 0xFFFFFF), st.integers(0, 3), st.integers(0, 0xFFFF)
)
def test_bth_is_what_scapy_builds(qpn: int, psn: int, pad: int, pkey: int) -> None:
    made = SCAPY_BTH(
        opcode=Opcode.UD_SEND, dqpn=qpn, psn=psn, padcount=pad, pkey=pkey, fecn=1, ackreq=1, icrc=1
    )
    header = parse(wire.BTH, bytes(made)[:12])
    assert (header.opcode, header.destination_qpn, header.psn) == (Opcode.UD_SEND, qpn, psn)
    assert (header.flags.pad, header.pkey) == (pad, pkey)
    assert header.congestion.forward and not header.congestion.backward and header.ack.request
    assert wire.BTH.build(header) == bytes(made)[:12]


def join_request() -> dict[str, object]:
    """A request to join a group as a full member, as opensm gets it."""
    record = {
        "multicast_gid": GROUP,
        "port_gid": PORT_GID,
        "qkey": QKEY,
        "multicast_lid": 0,
        "mtu": {"selector": 2, "code": 4},
        "traffic_class": 0,
        "pkey": 0xFFFF,
        "rate": {"selector": 2, "code": 3},
        "packet_life": {"selector": 2, "code": 18},
        "route": {
            "service_level": 0,
            "flow_label": 0,
            "hop_limit": 1,
            "scope": 2,
            "join_state": 1,
            "proxy_join": False,
        },
    }
    return {
        "mad": {
            "base_version": 1,
            "management_class": wire.CLASS_SUBNET_ADMINISTRATION,
            "class_version": 2,
            "method": wire.Method.SET,
            "status": 0,
            "class_specific": 0,
            "transaction": 0x1122334455667788,
            "attribute": wire.ATTRIBUTE_MC_MEMBER_RECORD,
            "modifier": 0,
        },
        "rmpp": {"version": 0, "type": 0, "flags": 0, "status": 0, "data1": 0, "data2": 0},
        "key": 0,
        "attribute_offset": 0,
        "component_mask": 0x10083,
        "data": wire.MC_MEMBER_RECORD.build(record).ljust(200, b"\0"),
    }


def test_a_join_of_a_multicast_group_is_built_and_parsed() -> None:
    built = wire.SUBNET_ADMINISTRATION.build(join_request())
    assert len(built) == wire.MAD_BYTES
    # The offsets of 15.2.5.17: MGID, PortGID, Q_Key, MLID, … behind the 56 bytes of headers.
    assert built[56:72] == GROUP
    assert built[72:88] == PORT_GID
    assert built[88:92] == QKEY.to_bytes(4)
    assert built[94] == 2 << 6 | 4
    assert built[96:98] == b"\xff\xff"
    assert built[104] == 2 << 4 | 1, "scope and join state"
    read = parse(wire.SUBNET_ADMINISTRATION, built)
    assert read.mad.method == wire.Method.SET
    record = parse(wire.MC_MEMBER_RECORD, read.data[: wire.MC_MEMBER_RECORD_BYTES])
    assert (record.multicast_gid, record.qkey, record.route.join_state) == (GROUP, QKEY, 1)
    assert wire.MTU_BYTES[record.mtu.code] == 2048


def test_lrh_and_grh_have_their_fields_where_the_specification_has_them() -> None:
    lrh = wire.LRH.build(
        {
            "virtual_lane": 1,
            "version": 0,
            "service_level": 2,
            "next_header": wire.NextHeader.GRH,
            "destination_lid": LID,
            "words": 0x123,
            "source_lid": 7,
        }
    )
    assert lrh == bytes.fromhex("1023 c001 0123 0007")
    assert parse(wire.LRH, lrh).destination_lid == LID
    grh = wire.GRH.build(
        {
            "first": {"version": 6, "traffic_class": 0xAB, "flow_label": 0x12345},
            "payload_bytes": 100,
            "next_header": wire.NEXT_HEADER_IBA,
            "hop_limit": 3,
            "source": PORT_GID,
            "destination": GROUP,
        }
    )
    assert grh == bytes.fromhex("6ab12345 0064 1b 03") + PORT_GID + GROUP


@pytest.mark.parametrize(
    "declaration", [wire.LRH, wire.GRH, wire.IPV4, wire.UDP, wire.MAD, wire.DETH]
)
@given(data=st.binary(max_size=60))
def test_short_or_strange_bytes_are_malformed_or_parsed_and_no_more(declaration, data) -> None:  # type: ignore[no-untyped-def]
    try:
        parse(declaration, data)
    except Malformed as error:
        assert str(len(data)) in str(error)


def test_a_datagram_whose_pad_is_longer_than_it_is_malformed() -> None:
    with pytest.raises(Malformed):
        parse_transport(bytes([Opcode.UD_SEND, 0x30]) + bytes(22))

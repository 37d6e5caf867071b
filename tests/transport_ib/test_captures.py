"""What a kernel's Soft-RoCE put on the wire is read, built again and checked; see captures/."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.command import invoke
from tests.transport_ib.test_wire import join_request
from vsync_cli.dissect.capture import Captured, read_capture
from vsync_transport_ib import wire
from vsync_transport_ib.datagrams import Receiver
from vsync_transport_ib.dissector import LINK_INFINIBAND, dissect
from vsync_transport_ib.icrc import Flow, checksum, covered
from vsync_transport_ib.wire import build_transport, parse, parse_transport

CAPTURES = sorted((Path(__file__).parent / "captures").glob("*.pcap"))
IPV4_AT, UDP_AT, BTH_AT = 14, 34, 42

PATTERN = bytes(number % 251 for number in range(4096))
SIZES = [1, 2, 3, 4, 100, 1024] * 2 + [7, 5, 6, 10, 10]
"""Of the payloads in ``rxe-ipv4.pcap``, as its README says."""


def packets() -> list[Captured]:
    (path,) = (each for each in CAPTURES if each.name == "rxe-ipv4.pcap")
    return list(read_capture(path))


def test_all_layers_parse_and_build_to_the_same_bytes() -> None:
    for packet in packets():
        data = packet.data
        for declaration, start, end in (
            (wire.ETHERNET, 0, IPV4_AT),
            (wire.IPV4, IPV4_AT, UDP_AT),
            (wire.UDP, UDP_AT, BTH_AT),
        ):
            assert declaration.build(parse(declaration, data[start:end])) == data[start:end]
        assert build_transport(parse_transport(data[BTH_AT:])) == data[BTH_AT:]


def test_its_checksums_and_payloads_are_those_that_we_find() -> None:
    found = []
    for packet in packets():
        data = packet.data
        before = covered(ip=data[IPV4_AT:UDP_AT], udp=data[UDP_AT:BTH_AT])
        assert checksum(before, data[BTH_AT:-4]) == data[-4:]
        found.append(parse_transport(data[BTH_AT:]).payload)
    assert found == [PATTERN[:size] for size in SIZES]


def test_a_queue_pair_in_user_space_takes_them() -> None:
    """Which does not see the kernel's identification of each packet."""
    for packet, size in zip(packets(), SIZES, strict=True):
        ip = parse(wire.IPV4, packet.data[IPV4_AT:UDP_AT])
        udp = parse(wire.UDP, packet.data[UDP_AT:BTH_AT])
        fields = parse_transport(packet.data[BTH_AT:])
        receiver = Receiver(qpn=19, qkey=fields.deth.qkey, pkey=0xFFFF)
        places = [".".join(map(str, each)) for each in (ip.source, ip.destination)]
        flow = Flow((places[0], udp.source_port), (places[1], udp.destination_port))
        datagram = packet.data[BTH_AT:]
        (message,) = receiver.read(datagram, len(datagram), flow)
        assert message.data == PATTERN[:size]
        assert message.source_qpn == fields.deth.source_qpn


def test_vsync_dissect_names_them() -> None:
    result = invoke("dissect", "--all", "--json", CAPTURES[0])
    found = [json.loads(line)["layers"] for line in result.stdout.splitlines()]
    assert len(found) == len(SIZES)
    for layers in found:
        assert [layer["layer"] for layer in layers] == ["udp", "ib"]
        assert layers[1]["icrc"] == "right"
    assert found[0][1]["to_qpn"] == 0xFFFFFF
    assert found[13][1]["immediate"] == "0x01020304"


@pytest.mark.parametrize("path", CAPTURES, ids=[path.name for path in CAPTURES])
def test_every_checksum_of_every_capture_is_found_right(path: Path) -> None:
    result = invoke("dissect", "--all", "--json", path)
    found = [json.loads(line)["layers"] for line in result.stdout.splitlines()]
    assert found
    assert {layers[1]["icrc"] for layers in found} == {"right"}


def infiniband(payload: bytes, qpn: int) -> bytes:
    """A packet of native InfiniBand, with a GRH, from the LRH to the link's own checksum."""
    fields = {
        "bth": {
            "opcode": wire.Opcode.UD_SEND,
            "flags": {"solicited_event": 0, "migration": 0, "pad": 0, "version": 0},
            "pkey": 0xFFFF,
            "congestion": {"forward": 0, "backward": 0},
            "destination_qpn": qpn,
            "ack": {"request": 0},
            "psn": 1,
        },
        "deth": {"qkey": 0x80010000, "source_qpn": 1},
        "immediate": None,
        "payload": payload,
        "padding": b"",
        "icrc": 0,
    }
    transport = build_transport(fields)[:-4]
    grh = wire.GRH.build(
        {
            "first": {"version": 6, "traffic_class": 0, "flow_label": 0},
            "payload_bytes": len(transport) + 4,
            "next_header": wire.NEXT_HEADER_IBA,
            "hop_limit": 1,
            "source": bytes(15) + b"\1",
            "destination": bytes(15) + b"\2",
        }
    )
    lrh = wire.LRH.build(
        {
            "virtual_lane": 0,
            "version": 0,
            "service_level": 3,
            "next_header": wire.NextHeader.GRH,
            "destination_lid": 5,
            "words": (8 + len(grh) + len(transport) + 4) // 4,
            "source_lid": 4,
        }
    )
    icrc = checksum(covered(lrh=lrh, ip=grh), transport)
    return lrh + grh + transport + icrc + b"\0\0"


def test_a_join_on_native_infiniband_is_named_down_to_its_group() -> None:
    mad = wire.SUBNET_ADMINISTRATION.build(join_request())
    answer = dissect(f"link {LINK_INFINIBAND}", infiniband(mad, qpn=1), b"")
    assert answer is not None
    layers = dict(answer[0])
    assert list(layers) == ["lrh", "grh", "ib", "mad"]
    assert layers["lrh"] == {"from": 4, "to": 5, "service_level": 3}
    assert layers["ib"]["icrc"] == "right"
    assert (layers["mad"]["method"], layers["mad"]["attribute"]) == ("set", "0x0038")
    assert layers["mad"]["group"] == "ff12:401b:ffff::1:4d01"


def test_what_a_ring_sent_over_infiniband_is_handed_on() -> None:
    answer = dissect("link 247", infiniband(b"VS and so on, 16", qpn=0xFFFFFF), b"")
    assert answer is not None
    assert answer[1] == b"VS and so on, 16"


@pytest.mark.parametrize("carrier", ["udp 4791", "ethertype 0x8915", "link 247", "udp 53"])
@given(data=st.binary(max_size=400), before=st.binary(max_size=48))
def test_no_bytes_are_too_strange(carrier: str, data: bytes, before: bytes) -> None:
    answer = dissect(carrier, data, before)
    assert (answer is None) == (carrier == "udp 53")

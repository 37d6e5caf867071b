"""`vsync dissect`: packets of rings are named; no bytes are too strange for it."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import CookedLinux, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgWriter, wrpcap

from tests.cli.command import complaint, invoke
from tests.core.wire.frames import CODEC
from vsync.links.hello import Hello, build_hello
from vsync.seal.envelope import Stamp, build_prefix
from vsync.vocabulary import NodeId, RingId
from vsync.wire import Token
from vsync_cli.dissect.capture import Captured, CaptureFailed, read_capture
from vsync_cli.dissect.layers import dissect

RING = RingId(4, NodeId(7))
TOKEN = CODEC.token(Token(ring=RING, seq=12, aru=11))
DATA = CODEC.data(RING, 5, 0, 0, 0, [b"message"]).packets
HELLO = build_hello(Hello(link=2, network=1, node=NodeId(3), life=9, counter=4, sent_us=1))
SEALED = build_prefix(b"\1\2\3\4", Stamp(5, 6, 7, 8)) + bytes(60)


def packed(payload: bytes) -> Packet:
    return (
        Ether() / IP(src="10.0.0.1", dst="239.192.77.1") / UDP(sport=1, dport=5405) / Raw(payload)
    )


def layers(*arguments: str | Path) -> list[list[dict[str, Any]]]:
    result = invoke("dissect", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line)["layers"] for line in result.stdout.splitlines()]


def named(path: Path) -> list[str]:
    return [found[-1]["layer"] for found in layers(path)]


def test_frames_of_a_ring_are_named_and_read(tmp_path: Path) -> None:
    path = tmp_path / "ring.pcap"
    wrpcap(str(path), [packed(each) for each in (TOKEN, bytes(DATA[0]), HELLO, SEALED)])
    token, data, hello, sealed = layers(path)
    assert token[0] == {
        "layer": "udp", "from": "10.0.0.1", "to": "239.192.77.1", "ports": [1, 5405]
    }  # fmt: skip
    assert (token[1]["layer"], token[1]["seq"], token[1]["aru"]) == ("vsync token", 12, 11)
    assert (token[1]["sender"], token[1]["ring"]) == (7, "4.7")
    assert (data[1]["layer"], data[1]["seq"], data[1]["messages"]) == ("vsync data", 5, 1)
    assert (hello[1]["layer"], hello[1]["link"], hello[1]["node"]) == ("vsync link hello", 2, 3)
    assert (sealed[1]["layer"], sealed[1]["key"], sealed[1]["node"]) == (
        "vsync sealed",
        "01020304",
        5,
    )


def test_people_get_a_line_a_packet(tmp_path: Path) -> None:
    path = tmp_path / "ring.pcap"
    stranger = packed(b"GET / HTTP/1.1")
    wrpcap(str(path), [stranger, packed(TOKEN)])
    result = invoke("dissect", path)
    (line,) = result.stdout.splitlines()
    assert line.split()[0] == "2"
    assert "udp 10.0.0.1:1 > 239.192.77.1:5405 | vsync token: " in line
    assert "seq 12" in line
    assert len(invoke("dissect", "--all", path).stdout.splitlines()) == 2


@pytest.mark.parametrize(
    "packet",
    [
        Ether() / Dot1Q(vlan=7) / IP() / UDP() / Raw(TOKEN),
        Ether() / IPv6() / UDP() / Raw(TOKEN),
        CookedLinux(proto=0x0800) / IP() / UDP() / Raw(TOKEN),
        IP() / UDP() / Raw(TOKEN),
    ],
    ids=["vlan", "ipv6", "cooked", "raw"],
)
def test_other_links_are_read(tmp_path: Path, packet: Packet) -> None:
    path = tmp_path / "ring.pcap"
    wrpcap(str(path), [packet])
    assert named(path) == ["vsync token"]


def test_pcapng_is_read_and_times_are_told(tmp_path: Path) -> None:
    path = tmp_path / "ring.pcapng"
    writer = PcapNgWriter(str(path))
    for number in range(3):
        packet = packed(TOKEN)
        packet.time = 1000 + number / 4
        writer.write(packet)
    writer.close()
    assert [round(packet.at_s, 3) for packet in read_capture(path)] == [1000, 1000.25, 1000.5]
    assert named(path) == ["vsync token"] * 3


def test_damaged_and_cut_packets_are_told(tmp_path: Path) -> None:
    path = tmp_path / "ring.pcap"
    packet = packed(TOKEN[:-1] + bytes([TOKEN[-1] ^ 1]))
    packet.wirelen = 2000
    wrpcap(str(path), [packet])
    ((_, token, cut),) = layers(path)
    assert "damaged" in token["broken"]
    assert cut["bytes"] == 2000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "neither pcap nor pcapng"),
        (b"#!/bin/sh\n", "neither pcap nor pcapng"),
        (b"\xd4\xc3\xb2\xa1", "ends within its header"),
        (b"\xd4\xc3\xb2\xa1" + bytes(20) + b"\1", "ends within a packet"),
        (
            b"\xd4\xc3\xb2\xa1" + bytes(20) + struct.pack("<IIII", 0, 0, 2**31, 0),
            "claims to have 2147483648 bytes",
        ),
        (b"\n\r\r\n" + bytes(20), "no byte order"),
        (b"\n\r\r\n\x1c\0\0\0", "ends within a block"),
        (b"\n\r\r\n" + struct.pack("<I", 2**31) + b"\x4d\x3c\x2b\x1a", "claims to have"),
    ],
)
def test_a_file_that_is_no_capture_is_refused_in_a_sentence(
    tmp_path: Path, content: bytes, said: str
) -> None:
    path = tmp_path / "strange"
    path.write_bytes(content)
    message = complaint("dissect", path)
    assert said in message
    assert str(path) in message


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "No such file" in complaint("dissect", tmp_path / "missing.pcap")


@given(st.integers(0, 300), st.binary(max_size=120), st.sampled_from([b"", TOKEN, HELLO, SEALED]))
def test_no_packet_is_too_strange(link: int, data: bytes, end: bytes) -> None:
    dissect(Captured(0.0, link, data + end, len(data)), lambda *_: None)
    dissect(Captured(0.0, 1, bytes(12) + data + end, 9999), lambda *_: None)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\n\r\r\n"]),
)
def test_no_file_is_too_strange(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(start + data)
    try:
        for _ in read_capture(path):
            pass
    except CaptureFailed as error:
        assert str(path) in str(error)

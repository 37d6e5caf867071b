"""The ICRC is what others compute, and what a UDP socket does not see of it can be solved for."""

import struct
import zlib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scapy.contrib.roce import BTH
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from vsync_transport_ib.icrc import (
    LENGTHS_MAX,
    ROCE_PORT,
    TABLES_AFTER,
    Flow,
    Length,
    checksum,
    covered,
)

ADDRESSES = ("10.0.0.1", "239.192.77.1")
HEADERS_BYTES = 28

#: Whole datagrams: BTH and what follows it, its length a multiple of four.
datagrams = st.integers(5, 300).flatmap(
    lambda words: st.binary(min_size=4 * words, max_size=4 * words)
)
identifications = st.integers(0, 0xFFFF)


def packet(
    datagram: bytes, *, identification: int, flags: str = "DF", congestion: int = 0
) -> bytes:
    """What scapy makes of *datagram* from IP on, the ICRC computed by scapy."""
    fields = bytearray(datagram)
    fields[4] = congestion
    # The last four bytes are the ICRC to scapy's BTH, whose post_build puts it there.
    header, payload = bytes(fields[:12]), bytes(fields[12:])
    made = BTH(header + bytes(4))
    made.icrc = None
    made.remove_payload()
    ip = IP(src=ADDRESSES[0], dst=ADDRESSES[1], id=identification, flags=flags, ttl=7, tos=0x88)
    return bytes(ip / UDP(sport=ROCE_PORT, dport=ROCE_PORT, chksum=0x1234) / made / Raw(payload))


def the_checksum(whole: bytes) -> bytes:
    return whole[-4:]


@given(datagrams, identifications, st.sampled_from(["DF", ""]), st.sampled_from([0, 0x80, 0x40]))
def test_the_icrc_of_a_captured_packet_is_what_scapy_computes(
    datagram: bytes, identification: int, flags: str, congestion: int
) -> None:
    whole = packet(datagram, identification=identification, flags=flags, congestion=congestion)
    before = covered(ip=whole[:20], udp=whole[20:HEADERS_BYTES])
    assert checksum(before, whole[HEADERS_BYTES:-4]) == the_checksum(whole)


@given(datagrams, identifications)
def test_the_icrc_from_a_udp_socket_is_what_scapy_computes(
    datagram: bytes, identification: int
) -> None:
    whole = packet(datagram, identification=identification)
    inner = whole[HEADERS_BYTES:-4]
    length = Length(len(inner))
    flow = Flow((ADDRESSES[0], ROCE_PORT), (ADDRESSES[1], ROCE_PORT))
    icrc = zlib.crc32(inner, flow.seed(len(inner))) ^ length.masked
    icrc ^= length.low[identification & 0xFF] ^ length.high[identification >> 8]
    assert struct.pack("<I", icrc) == the_checksum(whole)


@given(datagrams, identifications, st.sampled_from(["DF", ""]))
def test_the_identification_can_be_solved_for(
    datagram: bytes, identification: int, flags: str
) -> None:
    whole = packet(datagram, identification=identification, flags=flags)
    inner = whole[HEADERS_BYTES:-4]
    flow = Flow((ADDRESSES[0], ROCE_PORT), (ADDRESSES[1], ROCE_PORT))
    length = Length(len(inner))
    difference = zlib.crc32(inner, flow.seed(len(inner))) ^ length.masked
    difference ^= int.from_bytes(the_checksum(whole), "little")
    assert length.solve(difference) == identification
    for _ in range(TABLES_AFTER):
        length.solve(0)
    assert length.solve(difference) == identification, "with tables"


@settings(derandomize=True)  # one change in some ten thousand looks like an identification
@given(datagrams, identifications, st.data())
def test_a_damaged_packet_is_not_explained_by_an_identification(
    datagram: bytes, identification: int, data: st.DataObject
) -> None:
    whole = packet(datagram, identification=identification)
    inner = bytearray(whole[HEADERS_BYTES:-4])
    at = data.draw(st.integers(0, len(inner) - 1))
    assume(at != 4)
    inner[at] ^= 1 << data.draw(st.integers(0, 7))
    flow = Flow((ADDRESSES[0], ROCE_PORT), (ADDRESSES[1], ROCE_PORT))
    length = Length(len(inner))
    difference = zlib.crc32(inner, flow.seed(len(inner))) ^ length.masked
    difference ^= int.from_bytes(the_checksum(whole), "little")
    assert length.solve(difference) is None


def test_a_flow_forgets_lengths_before_they_become_many() -> None:
    flow = Flow(("10.0.0.1", 1), ("10.0.0.2", 2))
    first = flow.seed(20)
    for number in range(2 * LENGTHS_MAX):
        flow.seed(20 + 4 * number)
    assert len(flow._seeds) <= LENGTHS_MAX
    assert flow.seed(20) == first


@pytest.mark.parametrize("version", [4, 6])
def test_what_routers_change_does_not_count(version: int) -> None:
    udp = struct.pack(">HHHH", 49152, ROCE_PORT, 60, 0xABCD)
    if version == 4:
        ip = bytearray(struct.pack(">BBHHHBBHII", 0x45, 1, 80, 9, 0x4000, 64, 17, 5, 6, 7))
        changing = (1, 8, 10, 11)
    else:
        ip = bytearray(struct.pack(">IHBB32x", 0x60000000, 60, 17, 64))
        changing = (1, 2, 3, 7)
    before = covered(ip=bytes(ip), udp=udp)
    for at in changing:
        ip[at] ^= 0x5A
    assert covered(ip=bytes(ip), udp=udp[:6] + b"\1\2") == before
    ip[-1] ^= 1
    assert covered(ip=bytes(ip), udp=udp) != before

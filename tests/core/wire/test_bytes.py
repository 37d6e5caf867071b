"""The bytes of every frame, written by hand: who changes one changes the protocol."""

import zlib

from tests.core.wire.frames import CODEC, LIFE, ME, NETWORK
from vsync.vocabulary import NodeId, RingId
from vsync.wire import (
    PROTOCOL_VERSION,
    Beacon,
    Codec,
    Commit,
    Entry,
    FrameType,
    Join,
    Mark,
    Terms,
    Token,
    Wake,
)
from vsync.wire.data import DATA_HEAD_BYTES, PART_OVERHEAD_BYTES, RECOVERED_HEAD_BYTES

RING = RingId(9, NodeId(2))
RING_HEX = "0000000000000009 00000002"
MARK = Mark(2, b"abcdefgh")


SENDER = NETWORK.to_bytes(4) + bytes.fromhex("00000007 0102030405060708")


def packet(kind: FrameType, body: str) -> bytes:
    """A packet whose body is *body* in hexadecimal digits."""
    checked = SENDER + bytes.fromhex(body)
    return b"VS" + bytes((PROTOCOL_VERSION, kind)) + zlib.crc32(checked).to_bytes(4) + checked


def part(kind: FrameType, number: str, content: str, whole: str) -> bytes:
    """A packet of frame 5 with that part of its content; the checksum is over *whole*."""
    place = bytes.fromhex(RING_HEX + "0000000000000005")
    checksum = zlib.crc32(SENDER + place + bytes.fromhex(whole)).to_bytes(4)
    start = b"VS" + bytes((PROTOCOL_VERSION, kind)) + checksum + SENDER + place
    return start + bytes.fromhex(number) + bytes.fromhex(content)


TOKEN = RING_HEX + (
    "000000000000000a"  # token_seq
    "0000000000000005"  # seq
    "0000000000000004"  # aru
    "00000003"  # aru_owner
    "00000006"  # sent
    "00000008"  # backlog
    "00000001"  # blocked_by
    "01"  # recovering
    "00"  # resting
    "0002"  # requests: two
    "0000000000000004 0000000000000003"  # the first two parts of frame 4
    "0000000000000005 ffffffffffffffff"  # frame 5
)
DATA = (
    "0000000000000001"  # index
    "0000000000000003"  # counter
    "2b"  # safe (3), medium (2 << 2), unfinished (0x20)
    "0002"  # two pieces
    "0001 0002"  # of one and two bytes
    "61 6263"
)
JOIN = RING_HEX + (
    "000000000000000b"  # ring_seq_max
    "0000000000000004"  # number
    "00"  # not leaving
    "0002 00000002 00000007"  # processes
    "0001 00000005"  # failed
    "0000"  # refused
    "0000000000000002 6162636465666768"  # mark: revision, digest
)
COMMIT = RING_HEX + (
    "00000003"  # token_seq
    "0002"  # two entries
    "00000002 00"  # node 2, not filled
    "00000007 01"  # node 7, filled
    "0000000000000001 00000007"  # its old ring
    "000000000000000a 000000000000000c 0000000000000009"  # aru, high, delivered
    "01 0000000000000003 00000002 0000000000000001 0000000000000002"  # attempt: ring, aru, high
    "0001 00000004"  # owes
)
BEACON = RING_HEX + (
    "0000000000000009"  # ring_seq_max
    "0001 00000001"  # heard
    "0000000000000002 6162636465666768"  # mark: revision, digest
)


def test_a_token_has_these_bytes() -> None:
    token = Token(RING, 10, 5, 4, 3, 6, 8, 1, True, False, {4: 3, 5: 2**64 - 1})
    assert CODEC.token(token) == packet(FrameType.TOKEN, TOKEN)


def test_a_data_packet_has_these_bytes() -> None:
    frame = CODEC.data(RING, 5, 1, 3, 0x2B, [b"a", b"bc"])
    assert frame.packets == [part(FrameType.DATA, "00 01", DATA, DATA)]


def test_a_data_frame_in_parts_has_these_bytes() -> None:
    codec = Codec(NETWORK, ME, LIFE, PART_OVERHEAD_BYTES + 20)
    frame = codec.data(RING, 5, 1, 3, 0x2B, [b"a", b"bc"])
    digits = DATA.replace(" ", "")
    assert frame.packets == [
        part(FrameType.DATA, "00 02", digits[:40], DATA),
        part(FrameType.DATA, "01 02", digits[40:], DATA),
    ]


def test_a_recovered_packet_has_these_bytes() -> None:
    old = CODEC.data(RingId(3, ME), 8, 1, 3, 0x2B, [b"a", b"bc"])
    head = "00000007 0102030405060708" + "0000000000000003 00000007" + "0000000000000008"
    assert CODEC.recovered(RING, 5, old).packets == [
        part(FrameType.RECOVERED, "00 01", head + DATA, head + DATA)
    ]


def test_a_join_has_these_bytes() -> None:
    join = Join(
        ME, LIFE, RING, 11, 4, False, frozenset({NodeId(2), ME}), frozenset({NodeId(5)}), mark=MARK
    )
    assert CODEC.join(join) == packet(FrameType.JOIN, JOIN)


def test_a_commit_token_has_these_bytes() -> None:
    entry = Entry(
        ME, True, RingId(1, ME), 10, 12, 9, RingId(3, NodeId(2)), 1, 2, frozenset({NodeId(4)})
    )
    commit = Commit(RING, 3, (Entry(NodeId(2)), entry))
    assert CODEC.commit(commit) == packet(FrameType.COMMIT, COMMIT)


def test_a_beacon_has_these_bytes() -> None:
    beacon = Beacon(ME, LIFE, RING, 9, frozenset({NodeId(1)}), MARK)
    assert CODEC.beacon(beacon) == packet(FrameType.BEACON, BEACON)


def test_terms_have_these_bytes() -> None:
    assert CODEC.terms(Terms(2, (b"abcdefgh",), (("hold_s", 0.5),))) == packet(
        FrameType.TERMS,
        "0000000000000002 01 6162636465666768 01 06 686f6c645f73 3fe0000000000000",
    )


def test_a_wake_has_these_bytes() -> None:
    assert CODEC.wake(Wake(RING)) == packet(FrameType.WAKE, RING_HEX)


def test_the_overhead_that_packing_counts_with_is_the_real_one() -> None:
    (whole,) = CODEC.data(RING, 1, 0, 0, 0, [b"x"]).packets
    assert len(whole) == PART_OVERHEAD_BYTES + DATA_HEAD_BYTES + 2 + 1
    (wrapped,) = CODEC.recovered(RING, 1, CODEC.data(RING, 1, 0, 0, 0, [b"x"])).packets
    assert len(wrapped) == len(whole) + RECOVERED_HEAD_BYTES

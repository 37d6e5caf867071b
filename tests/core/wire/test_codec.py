"""Frames come back as they went; the fast paths are the declarations; noise is refused."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.wire.frames import (
    CODEC,
    LIFE,
    ME,
    NETWORK,
    beacons,
    commits,
    joins,
    pieces,
    rings,
    seqs,
    tokens,
    uint64,
    wakes,
)
from vsync.errors import MalformedPacket
from vsync.vocabulary import NodeId, RingId
from vsync.wire import Beacon, Codec, Commit, Data, Join, Recovered, Token, Wake, network_of
from vsync.wire.data import DATA, RECOVERED
from vsync.wire.header import HEADER, HEADER_BYTES, seal
from vsync.wire.token import TOKEN

FLAGS = st.integers(0, 0x3F)


def body(packet: bytes | memoryview) -> bytes:
    return bytes(packet[HEADER_BYTES:])


def raw_ring(ring: RingId) -> dict[str, int]:
    return {"seq": ring.seq, "representative": ring.representative}


def decoded(packet: bytes | memoryview) -> Any:
    header, frame = CODEC.decode(packet)
    assert (header.sender, header.life) == (ME, LIFE)
    return frame


@given(tokens())
def test_a_token_comes_back_and_is_as_declared(token: Token) -> None:
    packet = CODEC.token(token)
    assert decoded(packet) == token
    raw = TOKEN.parse(body(packet))
    assert (raw.seq, raw.aru, list(raw.requests)) == (token.seq, token.aru, token.requests)
    assert TOKEN.build(
        {
            "ring": raw_ring(token.ring),
            "token_seq": token.token_seq,
            "seq": token.seq,
            "aru": token.aru,
            "aru_owner": token.aru_owner,
            "sent": token.sent,
            "backlog": token.backlog,
            "blocked_by": token.blocked_by,
            "recovering": int(token.recovering),
            "requests": token.requests,
        }
    ) == body(packet)


@given(rings, seqs, uint64, uint64, FLAGS, pieces)
def test_a_data_frame_comes_back_and_is_as_declared(
    ring: RingId, seq: int, index: int, counter: int, flags: int, pieces: list[bytes]
) -> None:
    made = CODEC.data(ring, seq, index, counter, flags, pieces)
    frame = decoded(made.packet)
    assert isinstance(frame, Data)
    for name in Data.__slots__:
        assert getattr(frame, name) == getattr(made, name)
    assert bytes(made.packet)[made.first_byte :] == b"".join(pieces)
    lengths = list(map(len, pieces))
    assert DATA.build(
        {
            "ring": raw_ring(ring),
            "seq": seq,
            "index": index,
            "counter": counter,
            "flags": flags,
            "lengths_count": len(lengths),
            "lengths": lengths,
            "pieces": b"".join(pieces),
        }
    ) == body(made.packet)
    assert list(DATA.parse(body(made.packet)).lengths) == lengths


@given(rings, seqs, st.binary(max_size=500))
def test_a_recovered_frame_comes_back_and_is_as_declared(
    ring: RingId, seq: int, inner: bytes
) -> None:
    packet = CODEC.recovered(ring, seq, inner).packet
    frame = decoded(packet)
    assert isinstance(frame, Recovered)
    assert (frame.ring, frame.seq, bytes(frame.inner)) == (ring, seq, inner)
    declared = RECOVERED.build({"ring": raw_ring(ring), "seq": seq, "packet": inner})
    assert declared == body(packet)


@given(joins())
def test_a_join_comes_back(join: Join) -> None:
    assert decoded(CODEC.join(join)) == join


@given(commits())
def test_a_commit_token_comes_back(commit: Commit) -> None:
    assert decoded(CODEC.commit(commit)) == commit


@given(beacons)
def test_a_beacon_comes_back(beacon: Beacon) -> None:
    assert decoded(CODEC.beacon(beacon)) == beacon


@given(wakes)
def test_a_wake_comes_back(wake: Wake) -> None:
    assert decoded(CODEC.wake(wake)) == wake


@given(st.integers(0, 6), st.binary(max_size=100))
def test_the_header_is_as_declared(kind: int, rest: bytes) -> None:
    packet = seal(kind, NETWORK, ME, LIFE, rest)
    raw = HEADER.parse(packet)
    assert (raw.type, raw.network, raw.sender, raw.life) == (kind, NETWORK, ME, LIFE)


GOOD = [
    CODEC.token(Token(RingId(1, ME), 1, 9, 3, requests=[4, 5])),
    bytes(CODEC.data(RingId(1, ME), 1, 0, 0, 0, [b"a", b"bcd"]).packet),
    bytes(CODEC.recovered(RingId(1, ME), 1, b"abc").packet),
    CODEC.join(Join(ME, LIFE, RingId(1, ME), 1, 1, False, frozenset({ME}), frozenset())),
    CODEC.beacon(Beacon(ME, LIFE, RingId(1, ME), 1, frozenset())),
    CODEC.wake(Wake(RingId(1, ME))),
]


def refused(packet: bytes) -> str:
    with pytest.raises(MalformedPacket) as caught:
        CODEC.decode(packet)
    return caught.value.reason


@given(st.binary(max_size=2000))
def test_noise_is_refused_and_nothing_else_happens(noise: bytes) -> None:
    refused(noise)


@given(st.integers(0, 255), st.binary(max_size=400))
def test_any_body_is_a_frame_or_refused(kind: int, noise: bytes) -> None:
    with contextlib.suppress(MalformedPacket):
        CODEC.decode(seal(kind, NETWORK, ME, LIFE, noise))


@given(st.sampled_from(GOOD), st.data())
def test_a_flipped_bit_is_refused(packet: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(packet) - 1))
    broken = bytearray(packet)
    broken[bit // 8] ^= 1 << bit % 8
    if bit // 8 == 3:  # the type is not covered by the checksum; another type has another form
        with contextlib.suppress(MalformedPacket):
            CODEC.decode(bytes(broken))
    else:
        assert refused(bytes(broken)) in {"garbage", "version", "checksum"}


@given(st.sampled_from(GOOD), st.data())
def test_a_cut_packet_is_refused(packet: bytes, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(packet) - 1))
    assert refused(packet[:size]) in {"truncated", "checksum"}


def test_a_packet_of_another_ring_is_told_apart() -> None:
    other = Codec(network_of("other"), ME, LIFE)
    assert refused(other.wake(Wake(RingId(1, ME)))) == "other_ring"


def test_another_version_is_told_apart() -> None:
    packet = bytearray(GOOD[0])
    packet[2] = 99
    assert refused(bytes(packet)) == "version"


RING_BYTES = bytes(7) + b"\1" + bytes(3) + b"\7"
LIES = {
    "a token with a huge count": (0, RING_BYTES + bytes(41) + b"\xff\xff"),
    "a token whose aru is beyond its seq": (0, RING_BYTES + bytes(23) + b"\2" + bytes(19)),
    "data without a piece": (1, RING_BYTES + b"\0" * 7 + b"\1" + bytes(17) + b"\0\0"),
    "data with a huge count": (1, RING_BYTES + b"\0" * 7 + b"\1" + bytes(17) + b"\xff\xff"),
    "data with sequence number 0": (1, RING_BYTES + bytes(25) + b"\0\1\0\1x"),
    "a join of a huge count": (3, RING_BYTES + bytes(17) + b"\xff\xff" + bytes(100)),
    "a join from nobody": (3, RING_BYTES + bytes(17) + bytes(6)),
    "a ring number that leaves no room": (2, b"\xff" * 8 + b"\0\0\0\1" + bytes(8) + b"\0\0"),
    "a commit token without members": (4, RING_BYTES + bytes(4) + b"\0\0"),
    "a commit token of endless visits": (4, RING_BYTES + b"\xff" * 4 + b"\0\1\0\0\0\1\0"),
    "a token that leaves no number": (0, RING_BYTES + b"\xff" * 16 + bytes(27)),
    "a type that does not exist": (77, b"x"),
}


@pytest.mark.parametrize(("kind", "lie"), LIES.values(), ids=LIES)
def test_a_lie_is_refused(kind: int, lie: bytes) -> None:
    assert refused(seal(kind, NETWORK, ME, LIFE, lie)) in {"malformed", "truncated"}


def test_a_packet_from_node_0_is_refused() -> None:
    assert refused(seal(5, NETWORK, NodeId(0), LIFE, RING_BYTES)) == "malformed"

"""Packets that lie with a good checksum; fast paths and declarations agree on them.

A frame of any kind is changed somewhere in its body and sealed anew, so that only the reader of
that kind of frame stands between the lie and the engine.
"""

import pytest
from construct import ConstructError
from hypothesis import given
from hypothesis import strategies as st

from tests.core.wire.frames import (
    CODEC,
    NETWORK,
    beacons,
    commits,
    counters,
    joins,
    pieces,
    rings,
    sealed,
    seqs,
    terms,
    tokens,
    wakes,
)
from vsync.errors import MalformedPacket
from vsync.vocabulary import NodeId, RingId
from vsync.wire import Data, Frame, FrameType, Part, Recovered, Token
from vsync.wire.data import CONTROL_LANE, COUNTER_MAX, DATA, PART, RECOVERED
from vsync.wire.header import HEADER, HEADER_BYTES, HEADER_FAST, unseal
from vsync.wire.token import TOKEN

packets = st.one_of(
    tokens().map(CODEC.token),
    st.builds(
        lambda ring, seq, index, flags, pieces: CODEC.data(
            ring, seq, index, index, flags, pieces
        ).packets[0],
        rings,
        seqs,
        counters,
        st.integers(0, 0x3F),
        pieces,
    ),
    st.builds(
        lambda ring, seq, index, flags, pieces: CODEC.recovered(
            ring, seq, CODEC.data(ring, seq, index, index, flags, pieces)
        ).packets[0],
        rings,
        seqs,
        counters,
        st.integers(0, 0x3F),
        pieces,
    ),
    joins().map(CODEC.join),
    commits().map(CODEC.commit),
    beacons.map(CODEC.beacon),
    wakes.map(CODEC.wake),
    terms.map(CODEC.terms),
)
"""A good packet of any kind."""


def read(packet: bytes) -> Frame | Part | None:
    """The frame; None if it is refused. Any other exception is a failure."""
    try:
        return CODEC.decode(packet)[1]
    except MalformedPacket as error:
        assert error.reason in {"malformed", "truncated"}
        return None


@given(packets, st.data())
def test_a_changed_body_is_a_frame_or_refused(packet: bytes, data: st.DataObject) -> None:
    body = bytearray(packet[HEADER_BYTES:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    agree(packet[3], bytes(body))


@given(packets, st.data())
def test_a_body_cut_short_and_sealed_anew_is_refused(packet: bytes, data: st.DataObject) -> None:
    kind, body = packet[3], packet[HEADER_BYTES:]
    size = data.draw(st.integers(0, len(body) - 1))
    assert read(sealed(kind, body[:size])) is None


@given(packets, st.binary(min_size=1, max_size=40))
def test_bytes_behind_the_end_are_refused(packet: bytes, more: bytes) -> None:
    assert read(sealed(packet[3], packet[HEADER_BYTES:] + more)) is None


@given(packets, st.sampled_from(FrameType))
def test_a_body_under_another_type_is_a_frame_or_refused(packet: bytes, kind: FrameType) -> None:
    agree(kind, packet[HEADER_BYTES:])


@given(packets)
def test_a_view_of_a_packet_is_read_like_its_bytes(packet: bytes) -> None:
    header, frame = CODEC.decode(memoryview(packet))
    assert header == CODEC.decode(packet)[0]
    assert type(frame) is type(CODEC.decode(packet)[1])


@pytest.mark.parametrize("beyond", [0, 1, 1024])
def test_a_counter_too_high_for_those_of_the_other_messages_is_refused(beyond: int) -> None:
    """No message that is let in has a counter of more than 64 bits."""
    frame = CODEC.data(RingId(4, NodeId(1)), 1, 0, COUNTER_MAX + beyond, 0x02, [b"one", b"other"])
    assert (read(bytes(frame.packets[0])) is None) == (beyond > 0)


def agree(kind: int, body: bytes) -> None:
    """What a fast path takes its declaration takes, with the same values."""
    frame = read(sealed(kind, body))
    if isinstance(frame, Token):
        raw = TOKEN.parse(body)
        assert (raw.ring.seq, raw.ring.representative) == frame.ring
        for name in ("token_seq", "seq", "aru", "aru_owner", "sent", "backlog", "blocked_by"):
            assert raw[name] == getattr(frame, name)
        assert bool(raw.recovering) is frame.recovering
        assert raw.resting == frame.resting
        assert {request.seq: request.parts for request in raw.requests} == frame.requests
        assert TOKEN.build(raw) == body
    elif isinstance(frame, Part):
        agree_part(frame, body)
    elif isinstance(frame, Data | Recovered):
        part = CODEC.decode_part(sealed(kind, body))
        agree_part(part, body)
        content = part.content
        if isinstance(frame, Recovered):
            raw = RECOVERED.parse(content)
            assert (raw.ring.seq, raw.ring.representative) == frame.inner.ring
            inner = frame.inner
            assert (raw.sender, raw.life, raw.seq) == (inner.sender, inner.life, inner.seq)
            assert RECOVERED.build(raw) == content
            frame, content = inner, raw.content
        assert frame.content == content
        raw = DATA.parse(content)
        assert (raw.index, raw.counter) == (frame.index, frame.counter)
        assert tuple(raw.lengths) == frame.lengths
        assert raw.pieces == bytes(frame.buffer)[frame.first_byte :]
        assert raw.flags == (
            frame.guarantee
            | (frame.lane & 3) << 2
            | frame.continues << 4
            | frame.unfinished << 5
            | (frame.lane == CONTROL_LANE) << 6
        )
        assert DATA.build(raw) == content


def agree_part(part: Part, body: bytes) -> None:
    raw = PART.parse(body)
    assert (raw.ring.seq, raw.ring.representative) == part.ring
    assert (raw.seq, raw.part, raw.parts) == (part.seq, part.part, part.parts)
    assert raw.content == part.content
    assert PART.build(raw) == body


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES), st.booleans())
def test_the_header_is_read_as_declared(noise: bytes, good: bool) -> None:
    packet = b"VS\1" + noise[3:] if good else noise
    try:
        raw = HEADER.parse(packet)
    except ConstructError:
        with pytest.raises(MalformedPacket):
            unseal(packet, NETWORK)
    else:
        fields = (b"VS", 1, raw.type, raw.checksum, raw.network, raw.sender, raw.life)
        assert HEADER_FAST.unpack(packet) == fields
        assert HEADER.build(raw) == packet


COUNTS = {
    "a token's requests": (FrameType.TOKEN, bytes(12 + 41)),
    "a data frame's pieces": (FrameType.DATA, bytes(19) + b"\1\0\1" + bytes(17)),
    "a join's processes": (FrameType.JOIN, bytes(12 + 17)),
    "a join's failed": (FrameType.JOIN, bytes(12 + 17 + 2)),
    "a join's refused": (FrameType.JOIN, bytes(12 + 17 + 4)),
    "a commit token's entries": (FrameType.COMMIT, bytes(12 + 4)),
    "a beacon's heard": (FrameType.BEACON, bytes(12 + 8)),
}


@pytest.mark.parametrize("count", [129, 1025, 2**15, 2**16 - 1])
@pytest.mark.parametrize(("kind", "before"), COUNTS.values(), ids=COUNTS)
def test_a_huge_count_is_refused_with_and_without_room_for_it(
    kind: FrameType, before: bytes, count: int
) -> None:
    lie = before + count.to_bytes(2)
    assert read(sealed(kind, lie)) is None
    assert read(sealed(kind, lie + bytes(60_000))) is None

"""Frames come back as they went; the fast paths are the declarations; noise is refused."""

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.wire.frames import (
    CODEC,
    LIFE,
    ME,
    NETWORK,
    PART_AT,
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
    uint64,
    wakes,
)
from vsync.engine.log import Log
from vsync.engine.streams import ControlReader, Reader
from vsync.errors import MalformedPacket
from vsync.transport import Train
from vsync.vocabulary import NodeId, RingId
from vsync.wire import (
    IN_PARTS,
    Beacon,
    Codec,
    Commit,
    Data,
    Join,
    Part,
    Recovered,
    Terms,
    Token,
    Wake,
    network_of,
)
from vsync.wire.data import (
    CONTENT_BYTES_MAX,
    DATA,
    PART,
    PART_OVERHEAD_BYTES,
    RECOVERED,
    Packets,
    parse_part,
)
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
    assert (raw.seq, raw.aru) == (token.seq, token.aru)
    assert {request.seq: request.parts for request in raw.requests} == token.requests
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
            "resting": token.resting,
            "requests": [{"seq": seq, "parts": parts} for seq, parts in token.requests.items()],
        }
    ) == body(packet)


def arrived(packets: Sequence[bytes | memoryview], order: Sequence[int] = ()) -> Any:
    """The frame that came in *packets*, in that order."""
    log = Log(decoded_part(packets[0]).ring, Reader(2**20), ControlReader())
    log.released = decoded_part(packets[0]).seq - 1
    for place in order or range(len(packets)):
        part = decoded_part(packets[place])
        if part.parts == 1:
            return CODEC.assemble(part, packets)
        came = log.add_part(part)
        if came is not None:
            assert list(came) == list(packets)
            return CODEC.assemble(part, came)
    return None


def decoded_part(packet: bytes | memoryview) -> Part:
    part = CODEC.decode_part(packet)
    assert part == parse_part(CODEC.decode(packet)[0], packet)
    assert (part.sender, part.life) == (ME, LIFE)
    return part


def in_one_go(packets: Packets) -> Part | None:
    assert isinstance(packets, Train)
    return CODEC.decode_train(packets)


def same(frame: Any, made: Data) -> None:
    assert isinstance(frame, Data)
    for name in (
        *("ring", "seq", "sender", "life", "index", "counter"),
        *("lane", "guarantee", "continues", "unfinished", "lengths"),
    ):
        assert getattr(frame, name) == getattr(made, name)
    assert frame.content == made.content


@given(rings, seqs, uint64, counters, FLAGS, pieces)
def test_a_data_frame_comes_back_and_is_as_declared(
    ring: RingId, seq: int, index: int, counter: int, flags: int, pieces: list[bytes]
) -> None:
    made = CODEC.data(ring, seq, index, counter, flags, pieces)
    (packet,) = made.packets
    same(decoded(packet), made)
    same(arrived([packet]), made)
    frame = decoded(packet)
    assert bytes(frame.buffer)[frame.first_byte :] == b"".join(pieces)
    lengths = list(map(len, pieces))
    content = DATA.build(
        {
            "index": index,
            "counter": counter,
            "flags": flags,
            "lengths_count": len(lengths),
            "lengths": lengths,
            "pieces": b"".join(pieces),
        }
    )
    assert content == made.content
    assert list(DATA.parse(content).lengths) == lengths
    declared = PART.build(
        {"ring": raw_ring(ring), "seq": seq, "part": 0, "parts": 1, "content": content}
    )
    assert declared == body(packet)


@given(rings, st.integers(1, 2**60), FLAGS, pieces, st.integers(1, 200), st.data())
def test_a_frame_comes_back_from_its_parts_in_any_order(
    ring: RingId, seq: int, flags: int, pieces: list[bytes], part_bytes: int, data: st.DataObject
) -> None:
    whole = CODEC.data(ring, seq, 5, 6, flags, pieces)
    size = max(part_bytes, -(-len(whole.content) // 64))
    made = Codec(NETWORK, ME, LIFE, PART_OVERHEAD_BYTES + size).data(ring, seq, 5, 6, flags, pieces)
    assert all(len(packet) <= PART_OVERHEAD_BYTES + size for packet in made.packets)
    assert len({len(packet) for packet in made.packets[:-1]}) <= 1
    order = data.draw(st.permutations(range(len(made.packets))))
    same(arrived(made.packets, order), made)
    assert arrived(made.packets, order[:-1]) is None or len(order) == 1
    if len(made.packets) > 1:
        part = in_one_go(made.packets)
        assert part is not None
        same(CODEC.assemble(part, part.packets), made)
    parsed = [PART.parse(body(packet)) for packet in made.packets]
    assert b"".join(raw.content for raw in parsed) == made.content
    assert [(raw.part, raw.parts) for raw in parsed] == [
        (place, len(parsed)) for place in range(len(parsed))
    ]


def test_only_a_train_of_all_parts_of_a_frame_is_read_in_one_go() -> None:
    codec = Codec(NETWORK, ME, LIFE, PART_OVERHEAD_BYTES + 20)
    packets = codec.data(RingId(1, ME), 7, 5, 6, 2, [bytes(120)]).packets
    assert isinstance(packets, Train)
    part = CODEC.decode_train(packets)
    assert part is not None
    assert part[:-1] == CODEC.decode_part(packets[0])[:-1]
    assert part.packets is packets
    for some in (packets[1:], packets[:-1], packets[:1]):
        assert CODEC.decode_train(some) is None
    for noise in (b"", b"VS", bytes(3000)):
        assert CODEC.decode_train(Train(noise, 1472)) is None


def test_a_train_of_parts_of_two_frames_is_no_frame() -> None:
    codec = Codec(NETWORK, ME, LIFE, PART_OVERHEAD_BYTES + 20)
    one = codec.data(RingId(1, ME), 7, 5, 6, 2, [bytes(120)]).packets
    two = codec.data(RingId(1, ME), 8, 6, 7, 2, [b"2" * 120]).packets
    mixed = Train(b"".join([*one[:2], *two[2:]]), PART_OVERHEAD_BYTES + 20)
    assert CODEC.decode_train(mixed) is None
    between = Train(b"".join([one[0], two[1], *one[2:]]), PART_OVERHEAD_BYTES + 20)
    part = CODEC.decode_train(between)
    assert part is not None
    with pytest.raises(MalformedPacket, match="damaged"):
        CODEC.assemble(part, part.packets)


def test_a_frame_that_is_longer_than_any_is_refused() -> None:
    size = CONTENT_BYTES_MAX // 3
    codec = Codec(NETWORK, ME, LIFE, PART_OVERHEAD_BYTES + size)
    lengths = [65_535, CONTENT_BYTES_MAX - 65_535]
    packets = codec.data(RingId(1, ME), 7, 5, 6, 2, [bytes(length) for length in lengths]).packets
    parts = [CODEC.decode_part(packet) for packet in packets[:-1]]
    with pytest.raises(MalformedPacket, match="too long"):
        CODEC.assemble(parts[0], packets)
    longer = Codec(NETWORK, ME, LIFE, PART_OVERHEAD_BYTES + 2 * size)
    packets = longer.data(RingId(1, ME), 7, 5, 6, 2, [bytes(60_000)] * 2).packets
    with pytest.raises(MalformedPacket, match="impossible"):
        CODEC.decode_part(packets[0])


@given(rings, seqs, rings, seqs, pieces, st.integers(40, 200))
def test_a_recovered_frame_comes_back_and_is_as_declared(
    ring: RingId, seq: int, old_ring: RingId, old_seq: int, pieces: list[bytes], part_bytes: int
) -> None:
    author = NodeId(9)
    old = Codec(NETWORK, author, 77).data(old_ring, old_seq, 1, 2, 2, pieces)
    size = max(part_bytes, -(-len(old.content) // 64) + 1)
    wrapped = Codec(NETWORK, ME, LIFE, PART_OVERHEAD_BYTES + size).recovered(ring, seq, old)
    frame = arrived(wrapped.packets)
    assert isinstance(frame, Recovered)
    assert (frame.ring, frame.seq) == (ring, seq)
    same(frame.inner, old)
    again = CODEC.recovered(ring, seq, frame.inner)  # by somebody who got it in a recovery
    content = RECOVERED.parse(PART.parse(body(again.packets[0])).content)
    assert (content.sender, content.life, content.seq) == (author, 77, old_seq)
    assert (content.ring.seq, content.ring.representative) == old_ring
    assert content.content == old.content


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


@given(terms)
def test_terms_come_back(sent: Terms) -> None:
    assert decoded(CODEC.terms(sent)) == sent


@given(st.integers(0, 7), st.binary(max_size=100))
def test_the_header_is_as_declared(kind: int, rest: bytes) -> None:
    packet = sealed(kind, rest)
    raw = HEADER.parse(packet)
    assert (raw.type, raw.network, raw.sender, raw.life) == (kind, NETWORK, ME, LIFE)


GOOD: list[Any] = [
    CODEC.token(Token(RingId(1, ME), 1, 9, 3, requests={4: 1, 5: 3})),
    CODEC.data(RingId(1, ME), 1, 0, 0, 0, [b"a", b"bcd"]).packets[0],
    CODEC.recovered(RingId(1, ME), 1, CODEC.data(RingId(1, ME), 1, 0, 0, 0, [b"a"])).packets[0],
    CODEC.join(Join(ME, LIFE, RingId(1, ME), 1, 1, False, frozenset({ME}), frozenset())),
    CODEC.beacon(Beacon(ME, LIFE, RingId(1, ME), 1, frozenset())),
    CODEC.wake(Wake(RingId(1, ME))),
    CODEC.terms(Terms(1, (), (("hold_s", 0.5),))),
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
        CODEC.decode(sealed(kind, noise))


@given(st.sampled_from(GOOD), st.data())
def test_a_flipped_bit_is_refused(packet: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(packet) - 1))
    broken = bytearray(packet)
    broken[bit // 8] ^= 1 << bit % 8
    if bit // 8 == 3:  # the type is not covered by the checksum; another type has another form
        with contextlib.suppress(MalformedPacket):
            CODEC.decode(bytes(broken))
    elif packet[3] in IN_PARTS and HEADER_BYTES + PART_AT <= bit // 8 < PART_OVERHEAD_BYTES:
        try:
            frame = CODEC.decode(bytes(broken))[1]
        except MalformedPacket as error:
            assert error.reason == "malformed"
        else:
            assert isinstance(frame, Part)  # of a frame of which the other parts will never come
    else:
        assert refused(bytes(broken)) in {
            "garbage",
            "version",
            "checksum",
            "other_ring",
            "malformed",
        }


@given(st.sampled_from(GOOD), st.data())
def test_a_cut_packet_is_refused(packet: bytes, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(packet) - 1))
    assert refused(packet[:size]) in {"truncated", "checksum"}


@given(st.data())
def test_a_frame_with_a_damaged_part_is_refused(data: st.DataObject) -> None:
    codec = Codec(NETWORK, ME, LIFE, PART_OVERHEAD_BYTES + 20)
    packets = list(map(bytes, codec.data(RingId(1, ME), 7, 5, 6, 2, [bytes(120)]).packets))
    place = data.draw(st.integers(0, len(packets) - 1))
    broken = bytearray(packets[place])
    at = data.draw(st.integers(PART_OVERHEAD_BYTES, len(broken) - 1))
    broken[at] ^= data.draw(st.integers(1, 255))
    packets[place] = bytes(broken)
    with pytest.raises(MalformedPacket, match="damaged"):
        arrived(packets)
    train = CODEC.decode_train(Train(b"".join(packets), PART_OVERHEAD_BYTES + 20))
    assert train is not None
    with pytest.raises(MalformedPacket, match="damaged"):
        CODEC.assemble(train, train.packets)


def test_a_packet_of_another_ring_is_told_apart() -> None:
    other = Codec(network_of("other"), ME, LIFE)
    assert refused(other.wake(Wake(RingId(1, ME)))) == "other_ring"


def test_another_version_is_told_apart() -> None:
    packet = bytearray(GOOD[0])
    packet[2] = 99
    assert refused(bytes(packet)) == "version"


RING_BYTES = bytes(7) + b"\1" + bytes(3) + b"\7"
PART_BYTES = RING_BYTES + bytes(7) + b"\1"  # and then: which part, of how many
WHOLE = PART_BYTES + b"\0\1"
LIES = {
    "a token with a huge count": (0, RING_BYTES + bytes(41) + b"\xff\xff"),
    "a token whose aru is beyond its seq": (0, RING_BYTES + bytes(23) + b"\2" + bytes(19)),
    "data without a piece": (1, WHOLE + bytes(17) + b"\0\0"),
    "data with a huge count": (1, WHOLE + bytes(17) + b"\xff\xff"),
    "data with sequence number 0": (1, RING_BYTES + bytes(8) + b"\0\1" + bytes(18) + b"\1\0\1x"),
    "a part behind the last": (1, PART_BYTES + b"\2\2x"),
    "a part of none": (1, PART_BYTES + b"\0\0x"),
    "a part of too many": (6, PART_BYTES + b"\0\x41x"),
    "an empty part": (1, PART_BYTES + b"\0\2"),
    "a recovered frame of nobody": (6, WHOLE + bytes(31) + b"\1" + bytes(18) + b"\1\0\1x"),
    "a recovered frame without a place": (6, WHOLE + bytes(3) + b"\1" + bytes(60)),
    "a join of a huge count": (3, RING_BYTES + bytes(17) + b"\xff\xff" + bytes(100)),
    "a join from nobody": (3, RING_BYTES + bytes(17) + bytes(6)),
    "a ring number that leaves no room": (2, b"\xff" * 8 + b"\0\0\0\1" + bytes(8) + b"\0\0"),
    "a commit token without members": (4, RING_BYTES + bytes(4) + b"\0\0"),
    "a commit token of endless visits": (4, RING_BYTES + b"\xff" * 4 + b"\0\1\0\0\0\1\0"),
    "a token that asks twice": (
        0,
        RING_BYTES + bytes(15) + b"\5" + bytes(25) + b"\0\2" + (bytes(7) + b"\4" + bytes(8)) * 2,
    ),
    "a token that leaves no number": (0, RING_BYTES + b"\xff" * 16 + bytes(27)),
    "a type that does not exist": (77, b"x"),
}


@pytest.mark.parametrize(("kind", "lie"), LIES.values(), ids=LIES)
def test_a_lie_is_refused(kind: int, lie: bytes) -> None:
    assert refused(sealed(kind, lie)) in {"malformed", "truncated"}


def test_a_packet_from_node_0_is_refused() -> None:
    assert refused(seal(5, NETWORK, NodeId(0), LIFE, RING_BYTES)) == "malformed"

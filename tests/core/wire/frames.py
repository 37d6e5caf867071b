"""Frames for tests, and strategies that make them."""

from zlib import crc32

from hypothesis import strategies as st

from vsync.vocabulary import NodeId, RingId
from vsync.wire import (
    IN_PARTS,
    REQUESTS_MAX,
    Beacon,
    Codec,
    Commit,
    Entry,
    Join,
    KeyNews,
    Mark,
    Terms,
    Token,
    Wake,
    network_of,
)
from vsync.wire.data import COUNTER_MAX
from vsync.wire.header import CHECKED_FROM, seal
from vsync.wire.rekey import Stand

NETWORK = network_of("test")
PART_AT = 20  # of a part's body: its number, and how many there are, which no checksum covers
ME, LIFE = NodeId(7), 0x0102030405060708
CODEC = Codec(NETWORK, ME, LIFE)


def sealed(kind: int, body: bytes) -> bytes:
    """A packet of that type with that body, whatever it is, and with the right checksum."""
    packet = seal(kind, NETWORK, ME, LIFE, body)
    if kind not in IN_PARTS:
        return packet
    checksum = crc32(packet[CHECKED_FROM:24] + body[:PART_AT] + body[PART_AT + 2 :])
    return packet[:4] + checksum.to_bytes(4) + packet[8:]


uint64 = st.integers(0, 2**64 - 1)
counters = st.integers(0, COUNTER_MAX)
uint32 = st.integers(0, 2**32 - 1)
ring_seqs = st.integers(0, 2**62)
node_ids = st.integers(1, 2**32 - 1).map(NodeId)
rings = st.builds(RingId, ring_seqs, node_ids)
nodes = st.frozensets(node_ids, max_size=20)
seqs = st.integers(1, 2**64 - 1)
pieces = st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20)


digests = st.binary(min_size=8, max_size=8)
marks = st.builds(Mark, st.integers(0, 2**62), digests)
values = st.dictionaries(
    st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=24),
    st.floats(allow_nan=False, allow_infinity=False),
    min_size=1,
    max_size=24,
).map(lambda given: tuple(sorted(given.items())))
terms = st.builds(Terms, st.integers(0, 2**62), st.lists(digests, max_size=16).map(tuple), values)
key_ids = st.binary(min_size=4, max_size=4)
key_news = st.builds(
    KeyNews,
    attempt=uint64,
    new=key_ids.map(lambda key: b"n" + key[1:]),
    old=key_ids.map(lambda key: b"o" + key[1:]),
    body=st.binary(max_size=128),
    begun=st.booleans(),
    ended=st.booleans(),
    stand=st.sampled_from(Stand),
    failure=st.text(st.characters(codec="utf-8", categories=("L", "N")), max_size=100),
    **dict.fromkeys(("members", "others", "without", "accepted", "used", "dropped"), nodes),
)


@st.composite
def tokens(draw: st.DrawFn) -> Token:
    """Any token that a node may send."""
    seq = draw(st.integers(0, 2**63))
    return Token(
        draw(rings),
        draw(st.integers(0, 2**63)),
        seq,
        draw(st.integers(0, seq)),
        draw(uint32),
        draw(uint32),
        draw(uint32),
        draw(uint32),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.dictionaries(st.integers(0, seq), uint64, max_size=REQUESTS_MAX)),
    )


@st.composite
def joins(draw: st.DrawFn) -> Join:
    """Any join or leave."""
    leaving = draw(st.booleans())
    processes, failed = draw(nodes), draw(nodes)
    if not leaving:
        processes, failed = processes | {ME}, failed - {ME}
    refused = frozenset(node for node in failed if draw(st.booleans()))
    return Join(
        ME,
        LIFE,
        draw(rings),
        draw(ring_seqs),
        draw(uint64),
        leaving,
        processes,
        failed,
        refused,
        draw(marks),
    )


@st.composite
def commits(draw: st.DrawFn) -> Commit:
    """Any commit token."""
    members = sorted(draw(st.sets(node_ids, min_size=1, max_size=12)))
    return Commit(
        draw(rings), draw(st.integers(0, 2**16)), tuple(draw(entries(node)) for node in members)
    )


@st.composite
def entries(draw: st.DrawFn, node: NodeId) -> Entry:
    """An entry of *node*, filled or not."""
    if not draw(st.booleans()):
        return Entry(node)
    attempt = draw(st.none() | rings)
    return Entry(
        node,
        True,
        draw(rings),
        draw(uint64),
        draw(uint64),
        draw(uint64),
        attempt,
        draw(uint64) if attempt else 0,
        draw(uint64) if attempt else 0,
        draw(nodes),
    )


beacons = st.builds(Beacon, st.just(ME), st.just(LIFE), rings, ring_seqs, nodes, marks)
wakes = st.builds(Wake, rings)

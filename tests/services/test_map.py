"""The map without a ring: its store, its messages, and whose map goes on."""

from collections.abc import Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsync.errors import MalformedPacket
from vsync.vocabulary import Member, NodeId, RingId
from vsync_services.kv.messages import (
    Chunk,
    Claim,
    Command,
    Done,
    Message,
    Operation,
    Record,
    Verdict,
    cut,
    decode,
    decode_records,
    encode,
    encode_records,
    read_records,
)
from vsync_services.kv.plan import Mode, Plan, plan
from vsync_services.kv.store import NO_HISTORY, Ahead, Behind, Change, Entry, Point, Store


def ring(seq: int, representative: int = 1) -> RingId:
    return RingId(seq, NodeId(representative))


def point(seq: int, revision: int) -> Point:
    return Point(ring(seq), revision)


def store(*values: tuple[str, bytes | None], changes_max: int = 100) -> Store:
    """A map with a history, that was changed so."""
    made = Store(changes_max, 10**6)
    made.begin(ring(1))
    for key, value in values:
        if value is None:
            made.delete(key)
        else:
            made.set(key, value)
    return made


# --- the store ----------------------------------------------------------------------------------


def test_every_change_has_a_revision_and_a_deletion_of_nothing_is_none() -> None:
    made = store()
    assert made.set("a", b"1") == 1
    assert made.set("a", b"2") == 2
    assert made.delete("b") is None
    assert made.delete("a") == 3
    assert made.revision == 3
    assert not made.entries
    assert made.size_bytes == 0
    assert made.digest == 0


def test_the_size_counts_keys_and_values_as_bytes() -> None:
    assert store(("\N{GREEK SMALL LETTER LAMDA}", b"123")).size_bytes == 5


PAIRS = st.lists(
    st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.binary(max_size=5))), max_size=20
)


@given(PAIRS)
def test_a_map_that_was_sent_is_the_same_map(changes: list[tuple[str, bytes | None]]) -> None:
    made = store(*changes)
    parts = list(cut(made.entries.items(), made.changes, 7))
    assert all(len(part) <= 7 for part in parts)
    assert max(map(len, parts)) == len(parts[0])
    entries, told = read_records(b"".join(parts))
    other = Store(100, 10**6).installed(entries, told, made.ancestry, made.point, made.compacted)
    assert (other.entries, other.digest, other.point) == (made.entries, made.digest, made.point)
    assert (other.changes, other.size_bytes) == (made.changes, made.size_bytes)
    assert other.live


@given(PAIRS, PAIRS)
def test_maps_that_differ_have_digests_that_differ(
    one: list[tuple[str, bytes | None]], other: list[tuple[str, bytes | None]]
) -> None:
    first, second = store(*one), store(*other)
    assert (first.entries == second.entries) == (first.digest == second.digest)


def test_changes_after_a_point_are_told_over_histories() -> None:
    made = store(("a", b"1"))
    made.begin(ring(5))
    made.set("a", b"2")
    assert list(made.changes_after(point(1, 0), until=2)) == [
        Change(1, "a", b"1"),
        Change(2, "a", b"2"),
    ]
    assert list(made.changes_after(point(5, 1), until=2)) == [Change(2, "a", b"2")]
    assert list(made.changes_after(point(1, 0), until=1)) == [Change(1, "a", b"1")]


def test_changes_that_were_given_up_or_are_unknown_or_gone_are_not_told() -> None:
    made = store(("a", b"1"), ("a", b"2"), changes_max=1)
    made.begin(ring(5))
    with pytest.raises(Behind, match=r"what led to 1\.1:3 was given up"):
        made.changes_after(point(1, 3), until=2)
    with pytest.raises(Behind, match="knows nothing of"):
        made.changes_after(point(2, 1), until=2)
    with pytest.raises(Behind, match="changes up to revision 1 are no longer kept"):
        made.changes_after(point(1, 0), until=2)
    with pytest.raises(Ahead, match="is not there yet"):
        made.changes_after(point(5, 9), until=2)


def test_what_two_maps_have_in_common_ends_where_they_parted() -> None:
    made = store(("a", b"1"), ("a", b"2"), ("a", b"3"))
    assert made.in_common([point(1, 2)], point(5, 9)) == 2
    assert made.in_common([point(1, 7)], point(5, 9)) == 3
    assert made.in_common([], point(5, 9)) == 0


def test_changes_are_kept_up_to_so_many_bytes() -> None:
    made = Store(100, 25)
    for number in range(5):
        made.set("k", bytes(9) + b"%d" % number)
    assert [change.revision for change in made.changes] == [4, 5]
    assert made.compacted == 3


# --- messages -----------------------------------------------------------------------------------

RINGS = st.builds(RingId, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1).map(NodeId))
REVISIONS = st.integers(0, 2**64 - 1)
POINTS = st.builds(Point, RINGS, REVISIONS)
RECORDS = st.builds(
    Record, RINGS, st.lists(st.integers(1, 2**32 - 1).map(NodeId), max_size=5).map(tuple)
)
TEXTS = st.text(max_size=20)
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Command, REVISIONS, st.sampled_from(Operation), TEXTS, REVISIONS, st.binary(max_size=50)
    ),
    st.builds(
        Claim,
        configuration=TEXTS,
        verdict=st.sampled_from(Verdict),
        reason=TEXTS,
        records=st.lists(RECORDS, max_size=3).map(tuple),
        live=st.booleans(),
        point=POINTS,
        digest=st.integers(0, 2**128 - 1),
        ancestry=st.lists(POINTS, max_size=3).map(tuple),
        compacted=REVISIONS,
        certain=REVISIONS,
    ),
    st.builds(Chunk, TEXTS, st.integers(0, 2**32 - 1), st.booleans(), st.binary(max_size=50)),
    st.builds(Done, TEXTS),
)


@given(MESSAGES)
def test_a_message_is_the_same_after_the_way(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.lists(RECORDS, max_size=5))
def test_records_are_the_same_after_the_disk(records: list[Record]) -> None:
    assert decode_records(encode_records(records)) == records


@given(st.binary(max_size=80))
def test_noise_is_no_message_and_nothing_worse(noise: bytes) -> None:
    for read in (decode, decode_records, read_records):
        try:
            read(noise)
        except MalformedPacket:
            continue


@given(MESSAGES, st.randoms(use_true_random=False))
def test_a_message_with_one_byte_changed_is_a_message_or_malformed(
    message: Message, dice: Random
) -> None:
    packet = bytearray(encode(message))
    packet[dice.randrange(len(packet))] ^= dice.randrange(1, 256)
    try:
        decode(bytes(packet))
    except MalformedPacket:
        return


# --- whose map goes on --------------------------------------------------------------------------


def claim(
    *records: Record,
    at: Point | None = None,
    verdict: Verdict = Verdict.PRIMARY,
    reason: str = "",
    digest: int = 0,
) -> Claim:
    """The claim of a node that has these records, and a map *at* a point, or none."""
    return Claim(
        configuration="99.1",
        verdict=verdict,
        reason=reason,
        records=records,
        live=at is not None,
        point=at or Point(NO_HISTORY, 0),
        digest=digest,
        ancestry=(),
        compacted=0,
        certain=0,
    )


def record(seq: int, *nodes: int) -> Record:
    return Record(ring(seq), tuple(map(NodeId, nodes)))


def planned(claims: Mapping[int, Claim]) -> Plan:
    """The plan for nodes with these claims."""
    members = {Member(NodeId(node), 1): each for node, each in claims.items()}
    return plan(list(map(NodeId, claims)), members)


def nodes_of(found: Plan) -> tuple[int | None, list[int]]:
    """The source, and who needs its map."""
    source = None if found.source is None else int(found.source.node)
    return source, sorted(member.node for member in found.needy)


def test_nobody_sends_where_all_have_the_same_map_or_none() -> None:
    same = claim(record(5, 1, 2), at=point(5, 3))
    assert nodes_of(planned({1: same, 2: same})) == (None, [])
    assert nodes_of(planned({1: claim(), 2: claim()})) == (None, [])
    assert planned({1: claim(), 2: claim()}).mode is Mode.PRIMARY


def test_the_map_of_the_newest_primary_configuration_goes_on_though_another_has_more() -> None:
    old = claim(record(5, 1, 2, 3), at=point(5, 90))
    new = claim(record(5, 1, 2, 3), record(8, 2, 3), at=point(8, 10))
    assert nodes_of(planned({1: old, 2: new, 3: new})) == (2, [1])


def test_of_one_configuration_the_map_with_the_highest_revision_goes_on() -> None:
    less = claim(record(5, 1, 2, 3), at=point(5, 9))
    more = claim(record(5, 1, 2, 3), at=point(5, 10))
    assert nodes_of(planned({1: less, 2: more, 3: less})) == (2, [1, 3])


def test_of_equal_revisions_one_map_goes_on_at_all() -> None:
    one = claim(record(5, 1, 2), at=point(5, 9), digest=7)
    other = claim(record(5, 1, 2), at=point(5, 9), digest=3)
    assert nodes_of(planned({1: one, 2: other})) == (2, [1])


def test_members_wait_for_the_nodes_that_may_have_the_newest_map() -> None:
    restarted = claim(record(8, 1, 2))
    old = claim(record(5, 1, 2, 3), at=point(5, 9))
    found = planned({1: restarted, 3: old})
    assert found.mode is Mode.REFUSED
    assert found.reason.endswith("waiting for node 2, with it or restarted")


def test_a_configuration_that_not_all_its_nodes_recorded_counts_for_nothing() -> None:
    restarted = claim(record(5, 1, 2, 3), record(8, 1, 3))
    old = claim(record(5, 1, 2, 3), at=point(5, 9))
    found = planned({1: restarted, 2: old, 3: old})
    assert (found.mode, nodes_of(found)) == (Mode.PRIMARY, (2, [1]))


def test_a_map_that_all_its_nodes_have_lost_is_given_up_with_a_sentence() -> None:
    restarted = claim(record(8, 1, 2))
    old = claim(record(5, 1, 2, 3), at=point(5, 9))
    found = planned({1: restarted, 2: restarted, 3: old})
    assert (found.mode, nodes_of(found)) == (Mode.PRIMARY, (3, [1, 2]))
    assert "is lost: all its nodes are here, nodes 1 and 2" in found.lost


def test_one_who_says_not_primary_is_enough() -> None:
    no = claim(verdict=Verdict.NOT_PRIMARY, reason="1 of 3 votes")
    found = planned({1: claim(), 2: no})
    assert (found.mode, found.reason) == (Mode.REFUSED, "1 of 3 votes")


def test_nodes_with_and_without_a_quorum_serve_nobody() -> None:
    found = planned({1: claim(), 2: claim(verdict=Verdict.UNDECIDED)})
    assert found.mode is Mode.REFUSED
    assert found.reason.startswith("node 2 is here without a service that decides")


def test_a_primary_configuration_with_a_node_without_kv_serves_nobody() -> None:
    members = {Member(NodeId(1), 1): claim(), Member(NodeId(2), 1): claim()}
    found = plan([NodeId(1), NodeId(2), NodeId(3)], members)
    assert found.mode is Mode.REFUSED
    assert found.reason.startswith("node 3 is here and without kv")


def test_without_a_quorum_the_highest_revision_goes_on_then_the_lowest_representative() -> None:
    def part(history: RingId, revision: int) -> Claim:
        return claim(at=Point(history, revision), verdict=Verdict.UNDECIDED)

    found = planned({1: part(ring(9, 1), 4), 2: part(ring(5, 2), 5), 3: part(ring(9, 1), 4)})
    assert (found.mode, nodes_of(found)) == (Mode.PART, (2, [1, 3]))
    assert nodes_of(planned({1: part(ring(9, 2), 5), 2: part(ring(5, 1), 5)})) == (2, [1])


CLAIMS = st.dictionaries(
    st.integers(1, 5),
    st.builds(
        lambda seqs, at, digest: claim(
            *(record(seq, 1, 2, 3) for seq in sorted(seqs)),
            at=None if at is None else point(*at),
            digest=digest,
        ),
        st.frozensets(st.integers(1, 6), max_size=3),
        st.one_of(st.none(), st.tuples(st.integers(1, 6), st.integers(0, 3))),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=300)
@given(CLAIMS, st.randoms(use_true_random=False))
def test_the_plan_is_the_same_in_whatever_order_claims_came(
    claims: dict[int, Claim], dice: Random
) -> None:
    shuffled = list(claims.items())
    dice.shuffle(shuffled)
    found = planned(claims)
    assert planned(dict(shuffled)) == found
    if found.source is not None:
        assert found.source not in found.needy
        assert claims[found.source.node].live


def test_a_point_is_text_and_back() -> None:
    assert Point.from_text(str(point(12, 345))) == point(12, 345)
    for text in ("", "1.1", "1.1:x", "1:1", "1.1:-1", "1.1:01", "a.b:1"):
        with pytest.raises(ValueError):
            Point.from_text(text)


def test_an_entry_is_told_from_another_by_all_it_has() -> None:
    digests = {
        store(("a", b"1")).digest,
        store(("b", b"1")).digest,
        store(("a", b"2")).digest,
        store(("a", b"1"), ("a", b"1")).digest,
    }
    assert len(digests) == 4
    assert store(("a", b"1")).entries["a"] == Entry(b"1", 1)

"""Guards: what one seals another opens, once; anything else changes nothing but counters."""

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from vsync.keys import Key, KeyRing
from vsync.seal import ENVELOPE_BYTES, OVERHEAD_BYTES, Envelope, Guard, Stamp, is_sealed
from vsync.seal.envelope import (
    ENVELOPE,
    PREFIX_BYTES,
    TAG_BYTES,
    build_prefix,
    read_prefix,
    stream_info,
)
from vsync.seal.guard import INSTANCES_MAX, SENDERS_MAX, STRANGERS_MAX, WINDOW
from vsync.train import Train
from vsync.transport import EVERYONE, Burst, Packet

KEY, OTHER = Key(bytes(range(32))), Key(bytes(32))
MINE, YOURS = Stamp(1, 11, 111, 1), Stamp(2, 22, 222, 1)


def guard(stamp: Stamp = YOURS, key: Key = KEY, *, network: int = 5, link: int = 0) -> Guard:
    return Guard(KeyRing(key), stamp, network=network, link=link)


def sealed_by(sealing: Guard, *packets: bytes) -> list[bytes]:
    return [bytes(each) for each in sealing.seal_burst(Burst(EVERYONE, packets)).packets]


def opened_by(opening: Guard, packets: Sequence[bytes | memoryview | Train]) -> list[bytes]:
    """What comes out, packet by packet."""
    arrivals = [
        (each, "there") if isinstance(each, Train) else Packet(each, "there") for each in packets
    ]
    found: list[bytes] = []
    for data, source in opening.open_arrivals(arrivals):
        assert source == "there"
        found += map(bytes, data) if isinstance(data, Train) else [bytes(data)]
    return found


uint32, uint64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
stamps = st.builds(Stamp, st.integers(1, 2**32 - 1), uint32, uint64, uint32)


# --- the envelope -------------------------------------------------------------------------------


@given(st.binary(min_size=4, max_size=4), stamps)
def test_a_prefix_is_read_as_it_was_built_and_as_declared(key_id: bytes, stamp: Stamp) -> None:
    prefix = build_prefix(key_id, stamp)
    assert read_prefix(prefix) == Envelope(key_id, stamp)
    declared = ENVELOPE.parse(prefix + (77).to_bytes(8) + b"sealed")
    assert (declared.key_id, declared.counter, declared.sealed) == (key_id, 77, b"sealed")
    fields = (declared.node, declared.instance, declared.life, declared.opening)
    assert fields == tuple(stamp)


def test_an_envelope_looks_like_this() -> None:
    (packet,) = sealed_by(guard(MINE), b"hello")
    assert packet[:ENVELOPE_BYTES].hex(" ", 4) == (
        "56450100 " + KEY.id.hex() + " 00000001 0000000b 00000000 0000006f 00000001 "
        "00000000 00000001"
    )
    assert len(packet) == len(b"hello") + OVERHEAD_BYTES == 5 + ENVELOPE_BYTES + TAG_BYTES
    assert is_sealed(packet)


@given(st.binary(min_size=PREFIX_BYTES, max_size=PREFIX_BYTES))
def test_any_prefix_is_read_or_refused(prefix: bytes) -> None:
    envelope = read_prefix(b"VE" + prefix[2:])
    assert envelope is None or build_prefix(*envelope) == b"VE" + prefix[2:]


@given(st.tuples(uint32, uint32, stamps), st.tuples(uint32, uint32, stamps))
def test_no_two_streams_share_a_key(
    one: tuple[int, int, Stamp], other: tuple[int, int, Stamp]
) -> None:
    assert (stream_info(*one) == stream_info(*other)) == (one == other)


# --- sealing and opening ------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=20))
def test_what_is_sealed_is_opened(packets: list[bytes]) -> None:
    sealing, opening = guard(MINE), guard()
    assert opened_by(opening, sealed_by(sealing, *packets)) == packets
    assert opening.counters == {}


@given(st.integers(1, 60), st.integers(1, 50), st.integers(1, 8))
def test_a_train_stays_a_train(size: int, count: int, last: int) -> None:
    train = Train(random.Random(size).randbytes(size * (count - 1) + min(last, size)), size)
    sealing, opening = guard(MINE), guard()
    (first,) = sealed_by(sealing, b"first")
    assert opened_by(opening, [first]) == [b"first"]
    sealed = sealing.seal_burst(Burst("there", train))
    assert sealed.destination == "there"
    assert isinstance(sealed.packets, Train)
    assert len(sealed.packets) == count
    ((opened, _),) = opening.open_arrivals([(sealed.packets, "here")])
    assert isinstance(opened, Train)
    assert opened == train
    assert opening.open_arrivals([(sealed.packets, "here")]) == []
    assert opening.counters == {"dropped_replay": count}


def test_a_train_after_a_gap_stays_one_and_what_is_missing_may_still_come() -> None:
    sealing, opening = guard(MINE), guard()
    first, late = sealed_by(sealing, b"first", b"late")
    train = sealing.seal_burst(Burst(EVERYONE, Train(b"abcdef", 2))).packets
    assert opened_by(opening, [first]) == [b"first"]
    assert isinstance(train, Train)
    ((opened, _),) = opening.open_arrivals([(train, "here")])
    assert isinstance(opened, Train)
    assert opened_by(opening, [late, late]) == [b"late"]


@given(st.data())
def test_of_a_train_with_bad_packets_the_good_ones_are_opened(data: st.DataObject) -> None:
    sealing, opening = guard(MINE), guard()
    opened_by(opening, sealed_by(sealing, b"first"))
    size, count = 30, 10
    train = Train(random.Random(1).randbytes(size * count), size)
    sealed = bytearray(b"".join(sealing.seal_burst(Burst(EVERYONE, train)).packets))
    bad = data.draw(st.sets(st.integers(0, count - 1), max_size=count))
    step = size + OVERHEAD_BYTES
    for place in bad:
        sealed[place * step + data.draw(st.integers(0, step - 1))] ^= 0x20
    good = [bytes(packet) for place, packet in enumerate(train) if place not in bad]
    assert opened_by(opening, [Train(bytes(sealed), step)]) == good
    assert sum(opening.counters.values()) == len(bad)


@given(st.data())
def test_each_packet_comes_once_in_whatever_order_and_however_often(data: st.DataObject) -> None:
    sealing, opening = guard(MINE), guard()
    (first,) = sealed_by(sealing, b"first")
    opened_by(opening, [first])
    packets = [b"%d" % number for number in range(30)]
    sealed = sealed_by(sealing, *packets)
    order = data.draw(st.lists(st.integers(0, 29), max_size=90))
    came = opened_by(opening, [sealed[place] for place in order])
    assert sorted(came) == sorted(packets[place] for place in set(order))


def test_a_packet_may_come_late_but_not_very_late() -> None:
    sealing, opening = guard(MINE), guard()
    sealed = sealed_by(sealing, *(b"%d" % number for number in range(WINDOW + 10)))
    opened_by(opening, sealed[:1])
    opened_by(opening, sealed[-1:])
    assert opened_by(opening, [sealed[20]]) == [b"20"]
    assert opened_by(opening, [sealed[3]]) == []
    assert opening.counters == {"dropped_replay": 1}


def test_many_losses_take_little_memory() -> None:
    sealing, opening = guard(MINE), guard()
    for _ in range(60):
        sealed = sealed_by(sealing, *([b""] * 500))
        opened_by(opening, sealed[:1])
    (instances,) = opening._streams.values()
    (stream,) = instances.values()
    assert len(stream.missing) <= WINDOW + 500


# --- what is not let in -------------------------------------------------------------------------


@given(st.binary(max_size=200), st.data())
def test_one_bit_changed_is_refused(packet: bytes, data: st.DataObject) -> None:
    sealing, opening = guard(MINE), guard()
    (sealed,) = sealed_by(sealing, packet)
    changed = bytearray(sealed)
    changed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert opened_by(opening, [bytes(changed)]) == []
    assert sum(opening.counters.values()) == 1
    assert opened_by(opening, [sealed]) == [packet], "it must not spoil the genuine one"


@given(st.binary(max_size=60), st.data())
def test_a_packet_that_was_cut_is_refused(packet: bytes, data: st.DataObject) -> None:
    sealing, opening = guard(MINE), guard()
    (sealed,) = sealed_by(sealing, packet)
    assert opened_by(opening, [sealed[: data.draw(st.integers(0, len(sealed) - 1))]]) == []
    assert sum(opening.counters.values()) == 1


@given(st.lists(st.binary(max_size=120)), st.booleans(), st.integers(1, 60))
def test_garbage_is_refused_and_raises_nothing(
    packets: list[bytes], marked: bool, size: int
) -> None:
    opening = guard()
    sealing = guard(MINE)
    opened_by(opening, sealed_by(sealing, b"first"))
    if marked:
        packets = [build_prefix(KEY.id, MINE) + packet for packet in packets]
    assert opened_by(opening, packets) == []
    joined = b"".join(packets)
    if joined:
        assert opened_by(opening, [Train(joined, size)]) == []
    assert opened_by(opening, sealed_by(sealing, b"second")) == [b"second"]


def test_who_has_another_key_is_known_by_it() -> None:
    opening = guard()
    assert opened_by(opening, sealed_by(guard(MINE, OTHER), b"x")) == []
    assert opening.counters == {"dropped_key": 1}
    assert opening.strangers == {OTHER.id: (1, "there")}
    for number in range(100):
        key = Key(number.to_bytes(32))
        opened_by(opening, sealed_by(guard(MINE, key), b"x"))
    assert len(opening.strangers) == STRANGERS_MAX


def test_who_seals_nothing_is_known_too() -> None:
    opening = guard()
    assert opened_by(opening, [b"VS\x01\x00 a token, perhaps"]) == []
    assert opening.counters == {"dropped_unsealed": 1}
    assert opening.unsealed_from == "there"


def test_a_packet_of_another_ring_or_link_is_not_genuine() -> None:
    opening = guard(network=5, link=1)
    assert opened_by(opening, sealed_by(guard(MINE, network=6, link=1), b"x")) == []
    assert opened_by(opening, sealed_by(guard(MINE, network=5, link=2), b"x")) == []
    assert opening.counters == {"dropped_seal": 2}


def test_what_was_recorded_of_a_former_life_or_opening_is_refused() -> None:
    opening = guard()
    for older, newer in (
        (Stamp(1, 11, 111, 1), Stamp(1, 11, 111, 2)),
        (Stamp(1, 11, 111, 9), Stamp(1, 11, 112, 1)),
    ):
        recorded = sealed_by(guard(older), b"a", b"b")
        assert opened_by(opening, recorded[:1]) == [b"a"]
        assert opened_by(opening, sealed_by(guard(newer), b"c")) == [b"c"]
        opening.counters.clear()
        assert opened_by(opening, recorded) == []
        assert opening.counters == {"dropped_replay": 2}


def test_a_node_that_lost_its_state_is_let_in_and_its_former_self_is_not() -> None:
    opening = guard()
    recorded = sealed_by(guard(Stamp(1, 11, 111, 1)), b"a", b"b")
    assert opened_by(opening, sealed_by(guard(Stamp(1, 12, 112, 1)), b"c")) == [b"c"]
    assert opened_by(opening, recorded) == []


def test_two_that_run_with_one_number_are_both_heard() -> None:
    """So that the ring can tell the younger to stop, and goes on with the older."""
    opening = guard()
    older, younger = guard(Stamp(1, 11, 111, 1)), guard(Stamp(1, 12, 112, 1))
    for _ in range(3):
        assert opened_by(opening, sealed_by(older, b"a")) == [b"a"]
        assert opened_by(opening, sealed_by(younger, b"b")) == [b"b"]


def test_the_younger_of_two_with_one_number_hears_the_older() -> None:
    younger = guard(Stamp(1, 12, 112, 1))
    assert opened_by(younger, sealed_by(guard(Stamp(1, 11, 111, 1)), b"a")) == [b"a"]


def test_a_node_does_not_hear_itself_nor_its_former_lives() -> None:
    opening = guard(Stamp(1, 11, 112, 3))
    for stamp in (Stamp(1, 11, 112, 3), Stamp(1, 11, 112, 2), Stamp(1, 11, 111, 1)):
        assert opened_by(opening, sealed_by(guard(stamp), b"x")) == []
    assert opening.counters == {"dropped_own": 3}


def test_what_is_known_of_others_is_bounded() -> None:
    opening = guard(Stamp(2**32 - 1, 1, 1, 1))
    for node in range(1, SENDERS_MAX + 50):
        opened_by(opening, sealed_by(guard(Stamp(node, 1, 1, 1)), b"x"))
    assert len(opening._streams) == SENDERS_MAX
    assert opening.counters == {"dropped_senders": 49}
    opening = guard()
    for instance in range(1, 50):
        assert opened_by(opening, sealed_by(guard(Stamp(1, instance, instance, 1)), b"x"))
    assert len(opening._streams[1]) == INSTANCES_MAX
    assert len(opening._sources) == INSTANCES_MAX


# --- keys ---------------------------------------------------------------------------------------


def test_a_key_is_changed_in_three_steps_and_nothing_is_lost() -> None:
    rings = [KeyRing(KEY) for _ in range(2)]
    one, two = (
        Guard(ring, stamp, network=5) for ring, stamp in zip(rings, (MINE, YOURS), strict=True)
    )

    def talk() -> None:
        assert opened_by(two, sealed_by(one, b"a", b"b")) == [b"a", b"b"]
        assert opened_by(one, sealed_by(two, b"c")) == [b"c"]

    talk()
    for ring in rings:
        ring.accept(OTHER)
        talk()
    late = sealed_by(one, b"late")
    for ring in rings:
        ring.use(OTHER.id)
        talk()
    assert opened_by(two, late) == [b"late"]
    old = sealed_by(Guard(KeyRing(KEY), Stamp(1, 11, 111, 2), network=5), b"x")
    for ring in rings:
        ring.drop(KEY.id)
        talk()
    assert opened_by(two, old) == []
    assert two.counters == {"dropped_key": 1}


def test_a_packet_sealed_before_a_key_was_changed_comes_once() -> None:
    ring = KeyRing(KEY, [OTHER])
    sealing = Guard(ring, MINE, network=5)
    opening = Guard(KeyRing(KEY, [OTHER]), YOURS, network=5)
    before = sealed_by(sealing, b"a")
    ring.use(OTHER.id)
    assert opened_by(opening, sealed_by(sealing, b"b")) == [b"b"]
    # Its counter is below the first one that came, so it may be anything.
    assert opened_by(opening, before) == []

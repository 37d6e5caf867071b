"""Control messages: their bytes, and that no bytes harm who reads them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.wire.frames import digests, key_news, terms
from vsync.errors import MalformedPacket
from vsync.vocabulary import Cause, GroupKey, NodeId, RingId
from vsync.wire import (
    Announce,
    ChangeTerms,
    ControlMessage,
    JoinGroups,
    KeyNews,
    LeaveGroups,
    Membership,
    Synchronized,
    Terms,
    build_control,
    parse_control,
)
from vsync.wire.group import CAUSES, CONTROL_BYTES_MAX, MEMBERSHIP, MEMBERSHIP_FAST
from vsync.wire.rekey import Stand

RING = RingId(9, NodeId(2))
G = GroupKey(b"g" * 32)
G_HEX = "67" * 32

SESSIONS = st.integers(1, 2**32 - 1)
KEYS = st.binary(min_size=32, max_size=32).map(GroupKey)
RINGS = st.builds(RingId, st.integers(0, 2**62), st.integers(1, 2**32 - 1).map(NodeId))
MESSAGES = st.one_of(
    st.builds(
        Announce,
        RINGS,
        st.booleans(),
        st.lists(st.builds(Membership, SESSIONS, st.booleans(), KEYS), max_size=9).map(tuple),
    ),
    st.builds(
        JoinGroups, SESSIONS, st.booleans(), st.lists(KEYS, min_size=1, max_size=5).map(tuple)
    ),
    st.builds(
        LeaveGroups, SESSIONS, st.sampled_from(CAUSES), st.lists(KEYS, max_size=5).map(tuple)
    ),
    st.builds(Synchronized, RINGS),
    st.builds(ChangeTerms, RINGS, digests, terms),
    key_news,
)


@pytest.mark.parametrize(
    ("message", "hexadecimal"),
    [
        (
            Announce(RING, True, (Membership(7, True, G),)),
            "00 0000000000000009 00000002 01 00000007 01" + G_HEX,
        ),
        (JoinGroups(7, False, (G,)), "01 00000007 00" + G_HEX),
        (LeaveGroups(7, Cause.DIED, ()), "02 00000007 01"),
        (Synchronized(RING), "03 0000000000000009 00000002"),
        (
            ChangeTerms(RING, b"12345678", Terms(3, (b"abcdefgh",), (("join_s", 0.5),))),
            "04 0000000000000009 00000002 3132333435363738 0000000000000003 01 6162636465666768"
            "01 06 6a6f696e5f73 3fe0000000000000",
        ),
        (
            KeyNews(
                6,
                b"new!",
                b"old!",
                b"body",
                members=frozenset({NodeId(1), NodeId(2)}),
                others=frozenset({NodeId(3)}),
                accepted=frozenset({NodeId(2)}),
                begun=True,
                stand=Stand.HOLDS,
                failure="no",
            ),
            "05 0000000000000006 6e657721 6f6c6421 04 626f6479 0002 00000001 00000002 0001 00000003"
            "0000 0001 00000002 0000 0000 01 00 01 0002 6e6f",
        ),
    ],
)
def test_the_bytes_are_these(message: ControlMessage, hexadecimal: str) -> None:
    assert build_control(message) == bytes.fromhex(hexadecimal)
    assert parse_control(bytes.fromhex(hexadecimal)) == message


@given(MESSAGES)
def test_what_was_built_is_what_is_read(message: ControlMessage) -> None:
    assert parse_control(build_control(message)) == message


@given(st.binary(max_size=300))
def test_noise_is_a_message_or_refused(noise: bytes) -> None:
    with contextlib.suppress(MalformedPacket):
        parse_control(noise)


@given(MESSAGES, st.data())
def test_a_spoiled_message_is_a_message_or_refused(
    message: ControlMessage, data: st.DataObject
) -> None:
    packet = bytearray(build_control(message))
    packet[data.draw(st.integers(0, len(packet) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MalformedPacket):
        parse_control(bytes(packet[: data.draw(st.integers(0, len(packet)))]))


def test_a_message_beyond_the_limit_is_refused_unread() -> None:
    with pytest.raises(MalformedPacket):
        parse_control(bytes(CONTROL_BYTES_MAX + 1))


@given(SESSIONS, st.booleans(), KEYS)
def test_the_fast_membership_is_the_declared_one(
    session: int, closed: bool, group: GroupKey
) -> None:
    fast = MEMBERSHIP_FAST.pack(session, closed, group.key)
    declared = {"session": session, "closed": closed, "group": group.key}
    assert MEMBERSHIP.build(declared) == fast
    raw = MEMBERSHIP.parse(fast)
    assert (raw.session, raw.closed, raw.group) == (session, closed, group.key)


@pytest.mark.parametrize(
    "message",
    [
        ChangeTerms(RING, bytes(8), Terms(2**62 + 1, (), (("join_s", 0.5),))),
        ChangeTerms(RING, bytes(8), Terms(1, (), ())),
        ChangeTerms(RING, bytes(8), Terms(1, (), (("join_s", 0.5), ("join_s", 0.6)))),
        ChangeTerms(RING, bytes(8), Terms(1, (), (("join_s", float("nan")),))),
        ChangeTerms(RING, bytes(8), Terms(1, (), (("join_s", float("inf")),))),
        ChangeTerms(RING, bytes(8), Terms(1, (), (("JOIN s", 0.5),))),
        ChangeTerms(RING, bytes(8), Terms(1, (bytes(8),) * 17, (("join_s", 0.5),))),
        ChangeTerms(RING, bytes(8), Terms(1, (), tuple(("a" * n, 1.0) for n in range(1, 26)))),
        KeyNews(1, b"same", b"same"),
        KeyNews(1, b"new!", b"old!", bytes(129)),
        KeyNews(1, b"new!", b"old!", members=frozenset({NodeId(0)})),
        KeyNews(1, b"new!", b"old!", used=frozenset(map(NodeId, range(1, 514)))),
        KeyNews(1, b"new!", b"old!", failure="x" * 601),
        KeyNews(1, b"new!", b"old!", failure="a bell\a"),
    ],
)
def test_what_makes_no_sense_is_refused(message: ControlMessage) -> None:
    with pytest.raises(MalformedPacket):
        parse_control(build_control(message))

"""Control messages: their bytes, and that no bytes harm who reads them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync.errors import MalformedPacket
from vsync.vocabulary import Cause, GroupKey, NodeId, RingId
from vsync.wire import (
    Announce,
    ControlMessage,
    JoinGroups,
    LeaveGroups,
    Membership,
    Synchronized,
    build_control,
    parse_control,
)
from vsync.wire.group import CAUSES, CONTROL_BYTES_MAX, MEMBERSHIP, MEMBERSHIP_FAST

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

"""What the nodes of a ring say to each other about groups and about itself, in control messages.

Control messages stand in the ring's total order like agreed messages, so every node reads them at
the same place. Rare: ``construct`` does the work, but for the long list in an announcement.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias

from construct import (
    Bytes,
    ConstructError,
    Flag,
    GreedyBytes,
    GreedyRange,
    Int8ub,
    Int32ub,
    Struct,
    Switch,
    Terminated,
    this,
)

from vsync.errors import MalformedPacket
from vsync.vocabulary import GROUP_KEY_BYTES, Cause, GroupKey, NodeId, RingId
from vsync.wire.header import RING
from vsync.wire.rekey import REKEY, KeyNews, raw_key_news, read_key_news
from vsync.wire.terms import DIGEST_BYTES, TERMS, ChangeTerms, raw_terms, read_terms

KEY = Bytes(GROUP_KEY_BYTES)

MEMBERSHIP = Struct("session" / Int32ub, "closed" / Flag, "group" / KEY)
"""That a session of the sender is in a group; ``MEMBERSHIP_FAST`` is its twin."""

MEMBERSHIP_FAST: Final = struct.Struct(f">IB{GROUP_KEY_BYTES}s")

MEMBERSHIPS_MAX: Final = 1024
"""In one announcement; who has more sends several."""

GROUPS_MAX: Final = 1024
"""Groups joined or left in one message."""


class ControlType(IntEnum):
    """The first byte of a control message."""

    ANNOUNCE = 0  #: all my sessions and their groups, for this configuration
    JOIN = 1  #: a session of mine joins groups
    LEAVE = 2  #: a session of mine leaves groups, or all of them
    SYNCHRONIZED = 3  #: my services are done with this configuration
    TERMS = 4  #: the settings that all nodes share are changed
    REKEY = 5  #: what I know of the change of the ring's key


CAUSES: Final = (Cause.LEFT, Cause.DIED, Cause.EVICTED)
"""Why a session leaves, by number."""

CONTROL = Struct(
    "type" / Int8ub,
    "body"
    / Switch(
        this.type,
        {
            ControlType.ANNOUNCE.value: Struct(
                "ring" / RING,  # the configuration that it is for; another one has its own
                "last" / Flag,  # no more follow for this configuration
                "memberships" / GreedyBytes,  # MEMBERSHIP, one after another
            ),
            ControlType.JOIN.value: Struct(
                "session" / Int32ub,
                "closed" / Flag,  # make new groups closed, and refuse to join open ones
                "groups" / GreedyRange(KEY),
            ),
            ControlType.LEAVE.value: Struct(
                "session" / Int32ub,
                "cause" / Int8ub,
                "groups" / GreedyRange(KEY),  # none: all that it is in
            ),
            ControlType.SYNCHRONIZED.value: Struct("ring" / RING),
            ControlType.TERMS.value: Struct(
                "ring" / RING,  # in another one it is void
                "base" / Bytes(DIGEST_BYTES),  # what is changed; zeros: no change, but news
                "terms" / TERMS,
            ),
            ControlType.REKEY.value: REKEY,
        },
    ),
    Terminated,
)

MEMBERSHIP_BYTES: Final = MEMBERSHIP_FAST.size
CONTROL_BYTES_MAX: Final = 64 + max(
    MEMBERSHIPS_MAX * MEMBERSHIP_BYTES, GROUPS_MAX * GROUP_KEY_BYTES
)
"""No control message is larger."""


@dataclass(frozen=True, slots=True)
class Membership:
    """A session of the announcing node is in a group; *closed* is how it knows the group."""

    session: int
    closed: bool
    group: GroupKey


@dataclass(frozen=True, slots=True)
class Announce:
    """The memberships of the sender's sessions, for the configuration of *ring*."""

    ring: RingId
    last: bool
    memberships: tuple[Membership, ...]


@dataclass(frozen=True, slots=True)
class JoinGroups:
    """A session of the sender joins groups."""

    session: int
    closed: bool
    groups: tuple[GroupKey, ...]


@dataclass(frozen=True, slots=True)
class LeaveGroups:
    """A session of the sender leaves these groups; all of them if none is named."""

    session: int
    cause: Cause
    groups: tuple[GroupKey, ...]


@dataclass(frozen=True, slots=True)
class Synchronized:
    """The sender's services are done with the configuration of *ring*."""

    ring: RingId


ControlMessage: TypeAlias = (
    Announce | JoinGroups | LeaveGroups | Synchronized | ChangeTerms | KeyNews
)


def build_control(message: ControlMessage) -> bytes:
    """The bytes of a control message."""
    match message:
        case Announce(ring, last, memberships):
            packed = b"".join(
                MEMBERSHIP_FAST.pack(each.session, each.closed, each.group.key)
                for each in memberships
            )
            return _build(ControlType.ANNOUNCE, ring=_ring(ring), last=last, memberships=packed)
        case JoinGroups(session, closed, groups):
            return _build(ControlType.JOIN, session=session, closed=closed, groups=_keys(groups))
        case LeaveGroups(session, cause, groups):
            return _build(
                ControlType.LEAVE,
                session=session,
                cause=CAUSES.index(cause),
                groups=_keys(groups),
            )
        case Synchronized(ring):
            return _build(ControlType.SYNCHRONIZED, ring=_ring(ring))
        case ChangeTerms(ring, base, terms):
            return _build(ControlType.TERMS, ring=_ring(ring), base=base, terms=raw_terms(terms))
        case KeyNews():
            return _build(ControlType.REKEY, **raw_key_news(message))


def parse_control(message: bytes | memoryview) -> ControlMessage:
    """Read a control message. Raises MalformedPacket, whatever the bytes are."""
    if len(message) > CONTROL_BYTES_MAX:
        raise MalformedPacket("malformed", f"a control message of {len(message)} bytes")
    try:
        raw = CONTROL.parse(bytes(message))
    except (ConstructError, ValueError, OverflowError) as error:
        raise MalformedPacket("malformed", str(error).replace("\n", " ")) from error
    body = raw.body
    match raw.type:
        case ControlType.ANNOUNCE:
            return Announce(_ring_id(body.ring), body.last, _memberships(body.memberships))
        case ControlType.JOIN if body.groups:
            return JoinGroups(body.session, body.closed, _group_keys(body.groups))
        case ControlType.LEAVE if body.cause < len(CAUSES):
            return LeaveGroups(body.session, CAUSES[body.cause], _group_keys(body.groups))
        case ControlType.SYNCHRONIZED:
            return Synchronized(_ring_id(body.ring))
        case ControlType.TERMS:
            return ChangeTerms(_ring_id(body.ring), body.base, read_terms(body.terms))
        case ControlType.REKEY:
            return read_key_news(body)
    raise MalformedPacket("malformed", f"a control message of type {raw.type} makes no sense")


def _memberships(packed: bytes) -> tuple[Membership, ...]:
    if len(packed) % MEMBERSHIP_BYTES:
        raise MalformedPacket("malformed", "an announcement ends within a membership")
    return tuple(
        Membership(session, closed != 0, GroupKey(group))
        for session, closed, group in MEMBERSHIP_FAST.iter_unpack(packed)
    )


def _build(kind: ControlType, **body: Any) -> bytes:
    return CONTROL.build({"type": kind.value, "body": body})


def _ring(ring: RingId) -> dict[str, int]:
    return {"seq": ring.seq, "representative": ring.representative}


def _ring_id(raw: Any) -> RingId:
    return RingId(raw.seq, NodeId(raw.representative))


def _keys(groups: Sequence[GroupKey]) -> list[bytes]:
    return [group.key for group in groups]


def _group_keys(raw: Sequence[bytes]) -> tuple[GroupKey, ...]:
    return tuple(map(GroupKey, raw))

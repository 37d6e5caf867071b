"""The frames of membership: join, commit, beacon, wake, terms.

Rare: ``construct`` does all the work.
"""

from dataclasses import dataclass
from typing import Any, Final

from construct import (
    ConstructError,
    Flag,
    If,
    Int16ub,
    Int32ub,
    Int64ub,
    PrefixedArray,
    Struct,
    Terminated,
    this,
)

from vsync.errors import MalformedPacket
from vsync.vocabulary import NodeId, RingId
from vsync.wire.header import HEADER_BYTES, RING, Header
from vsync.wire.terms import (
    MARK,
    NO_MARK,
    TERMS,
    Mark,
    Terms,
    raw_mark,
    raw_terms,
    read_mark,
    read_terms,
)

NODES = PrefixedArray(Int16ub, Int32ub)
RING_SEQ_MAX: Final = 2**62
"""No ring gets that far; a higher number would leave no room for the next ring."""

COMMIT_VISITS_MAX: Final = 2**16
"""A commit token visits each node twice."""

NODES_MAX: Final = 512
"""As many as a join may name; a longer list is refused before it is used."""

JOIN = Struct(
    "ring" / RING,  # the ring that the sender was in, or adopted last
    "ring_seq_max" / Int64ub,  # highest ring number that it knows: the next one is above
    "number" / Int64ub,  # the sender's count of its joins: an older one is out of date
    "leaving" / Flag,  # the sender is going away, on purpose
    "processes" / NODES,  # all that it has heard of
    "failed" / NODES,  # those of them that it does without
    "refused" / NODES,  # those of the failed that it does without only because they gave it up
    "mark" / MARK,  # of the sender's terms: with others there is no ring
    Terminated,
)

ENTRY = Struct(
    "node" / Int32ub,
    "filled" / Flag,  # the node has been visited on the first round
    "old"
    / If(
        this.filled,
        Struct(
            "ring" / RING,  # its last installed ring
            "aru" / Int64ub,  # it has all of that ring's frames up to here
            "high" / Int64ub,  # and none above this
            "delivered" / Int64ub,  # delivered up to here, safe ones included
            "has_attempt" / Flag,
            "attempt"
            / If(
                this.has_attempt,
                Struct("ring" / RING, "aru" / Int64ub, "high" / Int64ub),
            ),
            "owes" / NODES,  # lost senders whose messages must be delivered all the same
        ),
    ),
)

COMMIT = Struct(
    "ring" / RING,  # the ring being formed
    "token_seq" / Int32ub,  # one more at each visit
    "entries" / PrefixedArray(Int16ub, ENTRY),  # in ring order: ascending node ids
    Terminated,
)

BEACON = Struct(
    "ring" / RING,
    "ring_seq_max" / Int64ub,
    "heard" / NODES,  # representatives of other rings that the sender has heard of late
    "mark" / MARK,
    Terminated,
)

WAKE = Struct("ring" / RING, Terminated)

TERMS_FRAME = Struct("terms" / TERMS, Terminated)


@dataclass(frozen=True, slots=True)
class Join:
    """Who the sender thinks is here; or, *leaving*, its farewell."""

    sender: NodeId
    life: int
    ring: RingId
    ring_seq_max: int
    number: int
    leaving: bool
    processes: frozenset[NodeId]
    failed: frozenset[NodeId]
    refused: frozenset[NodeId] = frozenset()
    mark: Mark = NO_MARK


NO_RING: Final = RingId(0, NodeId(0))


@dataclass(frozen=True, slots=True)
class Entry:
    """What one member of the ring being formed brings along from its old ring."""

    node: NodeId
    filled: bool = False
    ring: RingId = NO_RING
    aru: int = 0
    high: int = 0
    delivered: int = 0
    attempt: RingId | None = None
    attempt_aru: int = 0
    attempt_high: int = 0
    owes: frozenset[NodeId] = frozenset()


@dataclass(frozen=True, slots=True)
class Commit:
    """The commit token: members fill their entries on its first round, and read them all on its
    second."""

    ring: RingId
    token_seq: int
    entries: tuple[Entry, ...]

    @property
    def members(self) -> tuple[NodeId, ...]:
        """The proposed membership, ascending."""
        return tuple(entry.node for entry in self.entries)

    @property
    def complete(self) -> bool:
        """Every member has filled its entry."""
        return all(entry.filled for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Beacon:
    """A representative says that its ring exists, and whom it hears."""

    sender: NodeId
    life: int
    ring: RingId
    ring_seq_max: int
    heard: frozenset[NodeId]
    mark: Mark = NO_MARK


@dataclass(frozen=True, slots=True)
class Wake:
    """Somebody on the ring has something to send."""

    ring: RingId


def _ring(value: RingId) -> dict[str, int]:
    return {"seq": value.seq, "representative": value.representative}


def _ring_seq(number: int) -> int:
    if number > RING_SEQ_MAX:
        raise MalformedPacket("malformed", f"no ring can have number {number}")
    return number


def _ring_id(raw: Any) -> RingId:
    _ring_seq(raw.seq)
    return RingId(raw.seq, NodeId(raw.representative))


def _nodes(raw: Any, name: str) -> frozenset[NodeId]:
    nodes = frozenset(map(NodeId, raw))
    if len(nodes) != len(raw) or 0 in nodes or len(nodes) > NODES_MAX:
        raise MalformedPacket("malformed", f"the list of {name} has repeated or impossible nodes")
    return nodes


def _parse(declaration: Any, packet: bytes | memoryview) -> Any:
    try:
        return declaration.parse(bytes(packet[HEADER_BYTES:]))
    except (ConstructError, OverflowError, ValueError) as error:
        raise MalformedPacket("malformed", str(error).replace("\n", " ")) from error


def build_join(join: Join) -> bytes:
    """The body of a join packet."""
    return JOIN.build(
        {
            "ring": _ring(join.ring),
            "ring_seq_max": join.ring_seq_max,
            "number": join.number,
            "leaving": join.leaving,
            "processes": sorted(join.processes),
            "failed": sorted(join.failed),
            "refused": sorted(join.refused),
            "mark": raw_mark(join.mark),
        }
    )


def parse_join(header: Header, packet: bytes | memoryview) -> Join:
    """Read a join packet whose header was checked. Raises MalformedPacket."""
    raw = _parse(JOIN, packet)
    join = Join(
        header.sender,
        header.life,
        _ring_id(raw.ring),
        _ring_seq(raw.ring_seq_max),
        raw.number,
        raw.leaving,
        _nodes(raw.processes, "processes"),
        _nodes(raw.failed, "failed processes"),
        _nodes(raw.refused, "refused processes"),
        read_mark(raw.mark),
    )
    if not join.leaving and join.sender not in join.processes - join.failed:
        raise MalformedPacket("malformed", "a join does not name its own sender")
    return join


def build_commit(commit: Commit) -> bytes:
    """The body of a commit packet."""
    return COMMIT.build(
        {
            "ring": _ring(commit.ring),
            "token_seq": commit.token_seq,
            "entries": [_raw_entry(entry) for entry in commit.entries],
        }
    )


def _raw_entry(entry: Entry) -> dict[str, Any]:
    if not entry.filled:
        return {"node": entry.node, "filled": False, "old": None}
    attempt = entry.attempt and {
        "ring": _ring(entry.attempt),
        "aru": entry.attempt_aru,
        "high": entry.attempt_high,
    }
    return {
        "node": entry.node,
        "filled": True,
        "old": {
            "ring": _ring(entry.ring),
            "aru": entry.aru,
            "high": entry.high,
            "delivered": entry.delivered,
            "has_attempt": attempt is not None,
            "attempt": attempt,
            "owes": sorted(entry.owes),
        },
    }


def parse_commit(header: Header, packet: bytes | memoryview) -> Commit:
    """Read a commit packet whose header was checked. Raises MalformedPacket."""
    raw = _parse(COMMIT, packet)
    entries = tuple(_entry(raw_entry) for raw_entry in raw.entries)
    if raw.token_seq > COMMIT_VISITS_MAX:
        raise MalformedPacket("malformed", f"a commit token claims {raw.token_seq} visits")
    nodes = [entry.node for entry in entries]
    if not nodes or nodes != sorted(set(nodes)) or nodes[0] == 0 or len(nodes) > NODES_MAX:
        raise MalformedPacket("malformed", "a commit token's members are not ascending")
    return Commit(_ring_id(raw.ring), raw.token_seq, entries)


def _entry(raw: Any) -> Entry:
    if not raw.filled:
        return Entry(NodeId(raw.node))
    old = raw.old
    return Entry(
        NodeId(raw.node),
        True,
        _ring_id(old.ring),
        old.aru,
        old.high,
        old.delivered,
        _ring_id(old.attempt.ring) if old.has_attempt else None,
        old.attempt.aru if old.has_attempt else 0,
        old.attempt.high if old.has_attempt else 0,
        _nodes(old.owes, "owed senders"),
    )


def build_beacon(beacon: Beacon) -> bytes:
    """The body of a beacon packet."""
    return BEACON.build(
        {
            "ring": _ring(beacon.ring),
            "ring_seq_max": beacon.ring_seq_max,
            "heard": sorted(beacon.heard),
            "mark": raw_mark(beacon.mark),
        }
    )


def parse_beacon(header: Header, packet: bytes | memoryview) -> Beacon:
    """Read a beacon packet whose header was checked. Raises MalformedPacket."""
    raw = _parse(BEACON, packet)
    return Beacon(
        header.sender,
        header.life,
        _ring_id(raw.ring),
        _ring_seq(raw.ring_seq_max),
        _nodes(raw.heard, "rings"),
        read_mark(raw.mark),
    )


def build_wake(wake: Wake) -> bytes:
    """The body of a wake packet."""
    return WAKE.build({"ring": _ring(wake.ring)})


def parse_wake(header: Header, packet: bytes | memoryview) -> Wake:
    """Read a wake packet whose header was checked. Raises MalformedPacket."""
    return Wake(_ring_id(_parse(WAKE, packet).ring))


def build_terms(terms: Terms) -> bytes:
    """The body of a terms packet."""
    return TERMS_FRAME.build({"terms": raw_terms(terms)})


def parse_terms(header: Header, packet: bytes | memoryview) -> Terms:
    """Read a terms packet whose header was checked. Raises MalformedPacket."""
    return read_terms(_parse(TERMS_FRAME, packet).terms)

"""The token: who may send, what everyone has, what is missing (Totem, TOCS 1995, section 4)."""

import struct
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from construct import Int8ub, Int16ub, Int32ub, Int64ub, PrefixedArray, Struct, Terminated

from vsync.errors import MalformedPacket
from vsync.vocabulary import NodeId, RingId
from vsync.wire.header import HEADER_BYTES, RING, Header

REQUESTS_MAX: Final = 64
"""Frames asked for at once; fewer where packets are short, since a token is one packet."""

REQUEST_BYTES: Final = 16

TOKEN = Struct(
    "ring" / RING,
    "token_seq" / Int64ub,  # one more at each visit: tells a resent token from a new one
    "seq" / Int64ub,  # highest sequence number given out on this ring
    "aru" / Int64ub,  # all received up to: lowest met since it was last raised
    "aru_owner" / Int32ub,  # the node that lowered aru and alone may raise it; 0: nobody
    "sent" / Int32ub,  # packets sent in the last rotation, repeated ones included
    "backlog" / Int32ub,  # packets waiting at all nodes together
    "blocked_by" / Int32ub,  # a node whose application is too slow for the ring; 0: nobody
    "recovering" / Int8ub,  # 1: someone still has old-ring messages to exchange
    "resting" / Int8ub,  # 1: the representative keeps it if it comes back so; 2: that ends
    "requests"
    / PrefixedArray(
        Int16ub,
        Struct(
            "seq" / Int64ub,  # of a frame that somebody misses
            "parts" / Int64ub,  # which of its parts: bit 0 for the first
        ),
    ),
    Terminated,
)
"""The declaration of the body of a token packet; ``TOKEN_FAST`` is its twin."""

TOKEN_FAST: Final = struct.Struct(">QIQQQIIIIBBH")
TOKEN_BYTES_MIN: Final = HEADER_BYTES + TOKEN_FAST.size
"""Of the packet, without requests."""
_REQUESTS: Final = [struct.Struct(f">{2 * count}Q") for count in range(REQUESTS_MAX + 1)]
SEQ_LIMIT: Final = 2**63
"""No ring counts that far; a token that claims it was made to break something."""

MOVING: Final = 0
RESTING: Final = 1
CLOSING: Final = 2

_UINT32_MAX: Final = 2**32 - 1


@dataclass(slots=True)
class Token:
    """The token as it is being worked on; its holder alone changes it."""

    ring: RingId
    token_seq: int = 0
    seq: int = 0
    aru: int = 0
    aru_owner: int = 0
    sent: int = 0
    backlog: int = 0
    blocked_by: int = 0
    recovering: bool = False
    resting: int = MOVING
    """RESTING: all that was sent is everywhere; the representative keeps the token if nothing new
    comes, and meanwhile each member has a number above ``seq``. CLOSING: they are to be filled."""
    requests: dict[int, int] = field(default_factory=dict)
    """Frames that somebody misses, and which parts of them: bit 0 for the first."""


def build_token(token: Token) -> bytes:
    """The body of a token packet."""
    return TOKEN_FAST.pack(
        token.ring[0],
        token.ring[1],
        token.token_seq,
        token.seq,
        token.aru,
        token.aru_owner,
        min(token.sent, _UINT32_MAX),
        min(token.backlog, _UINT32_MAX),
        token.blocked_by,
        token.recovering,
        token.resting,
        len(token.requests),
    ) + _REQUESTS[len(token.requests)].pack(*chain.from_iterable(token.requests.items()))


def parse_token(header: Header, packet: bytes | memoryview) -> Token:
    """Read a token packet whose header was checked. Raises MalformedPacket."""
    size = len(packet)
    if size < TOKEN_BYTES_MIN:
        raise MalformedPacket("truncated", "a token ends within its fixed part")
    (
        ring_seq,
        representative,
        token_seq,
        seq,
        aru,
        aru_owner,
        sent,
        backlog,
        blocked_by,
        recovering,
        resting,
        count,
    ) = TOKEN_FAST.unpack_from(packet, HEADER_BYTES)
    if count > REQUESTS_MAX or size != TOKEN_BYTES_MIN + REQUEST_BYTES * count:
        raise MalformedPacket("malformed", f"a token claims {count} requests in {size} bytes")
    if seq > SEQ_LIMIT or token_seq > SEQ_LIMIT:
        raise MalformedPacket("malformed", "a token's numbers leave no room for the next")
    if aru > seq or recovering > 1 or resting > CLOSING:
        raise MalformedPacket("malformed", f"a token has aru {aru} beyond seq {seq}, or no flag")
    requests = _read_requests(packet, count, seq) if count else {}
    return Token(
        RingId(ring_seq, NodeId(representative)),
        token_seq,
        seq,
        aru,
        aru_owner,
        sent,
        backlog,
        blocked_by,
        bool(recovering),
        resting,
        requests,
    )


def _read_requests(packet: bytes | memoryview, count: int, seq: int) -> dict[int, int]:
    asked = _REQUESTS[count].unpack_from(packet, TOKEN_BYTES_MIN)
    requests = dict(zip(asked[::2], asked[1::2], strict=True))
    if len(requests) < count or any(request > seq for request in requests):
        raise MalformedPacket("malformed", "a token asks twice, or beyond its own seq")
    return requests

"""Rekey: what the nodes of a ring tell each other while its key is changed.

Everything in it but *stand* is a fact that stays true: who has to take part, and who has durably
done which step. So facts may come late, twice, or from before and after a configuration change;
whoever hears them adds them to what it knows.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

from construct import (
    Bytes,
    Flag,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    PascalString,
    Prefixed,
    PrefixedArray,
    Struct,
)

from vsync.errors import MalformedPacket
from vsync.vocabulary import NodeId
from vsync.wire.control import NODES_MAX

KEY_ID_BYTES: Final = 4
BODY_BYTES_MAX: Final = 128
REASON_BYTES_MAX: Final = 600

_NODES: Final = PrefixedArray(Int16ub, Int32ub)

REKEY = Struct(
    "attempt" / Int64ub,  # tells it from others that bring the same key
    "new" / Bytes(KEY_ID_BYTES),  # the id of the key that comes
    "old" / Bytes(KEY_ID_BYTES),  # and of the one that goes
    "body" / Prefixed(Int8ub, GreedyBytes),  # the new key under the old one; empty: in files
    "members" / _NODES,  # who was there when it began: all of them must accept it first
    "others" / _NODES,  # who has come since, or is away
    "without" / _NODES,  # nodes that are not waited for while they are away
    "accepted" / _NODES,  # have the new key on disk, and accept it
    "used" / _NODES,  # seal with it, and will after a restart
    "dropped" / _NODES,  # accept the old one no more
    "begun" / Flag,  # somebody seals with it: from here on it is not given up
    "ended" / Flag,  # all have done all; or, if nobody has begun, all have given it up
    "stand" / Int8ub,  # what the sender stands for in this configuration and life
    "failure" / PascalString(Int16ub, "utf8"),  # why it is to be given up; empty: it is not
)


class Stand(IntEnum):
    """What the sender stands for."""

    TELLS = 0  #: it passes on what it knows
    HOLDS = 1  #: it has accepted the new key, and may come to seal with it
    GIVES_UP = 2  #: it will not seal with it, unless it learns that somebody does


@dataclass(frozen=True, slots=True)
class KeyNews:
    """What is known of a change of the key."""

    attempt: int
    new: bytes
    old: bytes
    body: bytes = b""
    members: frozenset[NodeId] = frozenset()
    others: frozenset[NodeId] = frozenset()
    without: frozenset[NodeId] = frozenset()
    accepted: frozenset[NodeId] = frozenset()
    used: frozenset[NodeId] = frozenset()
    dropped: frozenset[NodeId] = frozenset()
    begun: bool = False
    ended: bool = False
    stand: Stand = Stand.TELLS
    failure: str = ""

    @property
    def given_up_by_some(self) -> bool:
        """Somebody wants to give it up, and it is not too late for that."""
        return bool(self.failure) and not self.begun

    @property
    def given_up(self) -> bool:
        """It has ended, and nobody ever sealed with its key."""
        return self.ended and not self.begun

    @property
    def name(self) -> tuple[bytes, int]:
        """Tells this change from others."""
        return self.new, self.attempt

    def joined_with(self, news: "KeyNews") -> "KeyNews":
        """All that both know."""
        assert news.name == self.name
        return replace(
            self,
            body=self.body or news.body,
            members=self.members | news.members,
            others=self.others | news.others,
            without=self.without | news.without,
            accepted=self.accepted | news.accepted,
            used=self.used | news.used,
            dropped=self.dropped | news.dropped,
            begun=self.begun or news.begun,
            ended=self.ended or news.ended,
            failure=self.failure or news.failure,
        )


def readable(reason: str) -> str:
    """*reason* as ``KeyNews`` can carry it: nobody knows what is in a path, or how long it is."""
    text = "".join(each if each.isprintable() else "?" for each in reason)
    return text.encode("utf-8", "replace")[:REASON_BYTES_MAX].decode("utf-8", "ignore")


_SETS: Final = ("members", "others", "without", "accepted", "used", "dropped")


def raw_key_news(news: KeyNews) -> dict[str, Any]:
    """*news* as ``REKEY`` builds them."""
    return {
        "attempt": news.attempt,
        "new": news.new,
        "old": news.old,
        "body": news.body,
        **{name: sorted(getattr(news, name)) for name in _SETS},
        "begun": news.begun,
        "ended": news.ended,
        "stand": news.stand,
        "failure": news.failure,
    }


def read_key_news(raw: Any) -> KeyNews:
    """What ``REKEY`` has parsed. Raises MalformedPacket if it makes no sense."""
    if raw.new == raw.old or len(raw.body) > BODY_BYTES_MAX:
        raise MalformedPacket("malformed", "a change of the key makes no sense")
    if len(raw.failure.encode()) > REASON_BYTES_MAX or not raw.failure.isprintable():
        raise MalformedPacket("malformed", "a change of the key failed for no readable reason")
    if raw.stand > Stand.GIVES_UP:
        raise MalformedPacket("malformed", "a change of the key is said for no known purpose")
    sets: dict[str, frozenset[NodeId]] = {}
    for name in _SETS:
        listed = getattr(raw, name)
        sets[name] = frozenset(map(NodeId, listed))
        if len(sets[name]) != len(listed) or 0 in sets[name] or len(listed) > NODES_MAX:
            raise MalformedPacket("malformed", f"the list {name} has impossible nodes")
    return KeyNews(
        attempt=raw.attempt,
        new=raw.new,
        old=raw.old,
        body=bytes(raw.body),
        begun=raw.begun,
        ended=raw.ended,
        stand=Stand(raw.stand),
        failure=raw.failure,
        **sets,
    )

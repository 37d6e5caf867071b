"""Messages that check themselves: who sent them, which they are, and a checksum over all.

A payload is a head and a body. The head names the session that sent it and counts its messages from
0; the checksum covers body and head, so that a wrong byte anywhere is found, and so is a message
that comes as another's.
"""

import random
import struct
from enum import IntEnum
from typing import Final, NamedTuple

from vsync.checksum import crc32
from vsync.events import Delivery
from vsync.vocabulary import GroupKey, Member, NodeId

MAGIC: Final = b"vsm"
_HEAD: Final = struct.Struct("<3sBIQQ")
_CHECKSUM: Final = struct.Struct("<I")
_MEMBER: Final = struct.Struct("<IQ")

HEAD_BYTES: Final = _HEAD.size + _CHECKSUM.size
"""The smallest message that can check itself."""

ANSWER_BYTES_MIN: Final = HEAD_BYTES + _MEMBER.size


class Sort(IntEnum):
    """What a message is for."""

    DATA = 0  #: one of those that are measured
    END = 1  #: the last of its sender; its counter is how many there were before it
    ANSWER = 2  #: to the message of this counter, from the session that the body names


class Head(NamedTuple):
    """What a message says of itself."""

    sort: Sort
    member: Member
    counter: int


class Writer:
    """Makes the messages of one session; their body is the same, since only its bytes cost."""

    def __init__(self, member: Member, size: int) -> None:
        self._member = member
        self._body = random.randbytes(max(0, size - HEAD_BYTES))
        self._checksum = crc32(self._body)

    def data(self, counter: int) -> bytes:
        """The message of this number."""
        return _written(Sort.DATA, self._member, counter, self._body, self._checksum)


def end(member: Member, count: int) -> bytes:
    """What a sender says after its last message: there were *count*."""
    return _written(Sort.END, member, count, b"", 0)


def answer(member: Member, asked: Head, size: int) -> bytes:
    """The answer of *member* to a message of *size* bytes; of the same size, where that will do."""
    body = _MEMBER.pack(*asked.member).ljust(size - HEAD_BYTES, b".")
    return _written(Sort.ANSWER, member, asked.counter, body, crc32(body))


def _written(sort: Sort, member: Member, counter: int, body: bytes, checksum: int) -> bytes:
    head = _HEAD.pack(MAGIC, sort, member.node, member.session, counter)
    return head + _CHECKSUM.pack(crc32(head, checksum)) + body


def read(delivery: Delivery) -> Head | None:
    """What the message says of itself; None if that, or any other byte of it, is wrong."""
    payload = delivery.payload
    if len(payload) < HEAD_BYTES:
        return None
    magic, sort, node, session, counter = _HEAD.unpack_from(payload)
    (checksum,) = _CHECKSUM.unpack_from(payload, _HEAD.size)
    view = memoryview(payload)
    if (
        magic != MAGIC
        or sort > Sort.ANSWER
        or (node, session) != delivery.sender
        or crc32(view[: _HEAD.size], crc32(view[HEAD_BYTES:])) != checksum
    ):
        return None
    return Head(Sort(sort), Member(NodeId(node), session), counter)


def asked_by(payload: bytes) -> Member | None:
    """Whose message an answer answers."""
    if len(payload) < ANSWER_BYTES_MIN:
        return None
    node, session = _MEMBER.unpack_from(payload, HEAD_BYTES)
    return Member(NodeId(node), session)


def beside(group: GroupKey, purpose: str) -> GroupKey:
    """A second group of those who use *group*: another key, the same for all of them."""
    return GroupKey.from_name(f"{group.hex()} {purpose}")

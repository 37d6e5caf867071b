"""What a daemon and its clients say to each other.

A stream of frames: four bytes of length, a byte of type, a body. The client begins with HELLO, the
server answers WELCOME or ERROR. Requests are answered in their order. All numbers are big-endian.
"""

import json
import struct
from collections.abc import Generator, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

from construct import (
    Bytes,
    Const,
    Construct,
    ConstructError,
    GreedyBytes,
    GreedyString,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    PrefixedArray,
    Struct,
    Terminated,
)

from vsync.errors import DaemonError, MisuseError
from vsync.events import ConfigurationChanged, Delivery
from vsync.vocabulary import (
    GROUP_KEY_BYTES,
    GROUPS_PER_MESSAGE_MAX,
    Configuration,
    GroupKey,
    Guarantee,
    Kind,
    MessageId,
    NodeId,
    Priority,
)

DAEMON_PROTOCOL: Final = 1
"""Raised when older clients could no longer follow."""

GROUPS_MAX: Final = 4096
"""Groups that one session may join."""

FRAME_EXTRA_BYTES: Final = 4 + GROUPS_MAX * GROUP_KEY_BYTES
"""A frame may be larger than the largest message by this much."""

BATCH_BYTES: Final = 2**18
"""About how much a SEND carries at most, unless one message is larger."""


class Type(IntEnum):
    """The byte after a frame's length."""

    HELLO = 1
    WELCOME = 2
    ERROR = 3  #: the server says why, and closes
    GROUPS = 4  #: the client's joined groups are now these
    DONE = 5  #: the last GROUPS is in effect
    SEND = 6  #: one or more messages
    ACCEPTED = 7  #: the messages of one SEND were accepted
    STATUS = 8
    STATUS_IS = 9
    DELIVERY = 10
    CONFIGURATION = 11


KEY = Bytes(GROUP_KEY_BYTES)

HELLO = Struct("magic" / Const(b"vsync"), "protocol" / Int16ub, Terminated)
WELCOME = Struct(
    "protocol" / Int16ub,
    "node" / Int32ub,
    "life" / Int64ub,
    "message_bytes_max" / Int32ub,
    Terminated,
)
GROUPS = Struct("groups" / PrefixedArray(Int16ub, KEY), Terminated)
ERROR = Struct("text" / GreedyString("utf8"))
SEND = Struct(
    "guarantee" / Int8ub,
    "priority" / Int8ub,
    "groups" / PrefixedArray(Int8ub, KEY),
    "lengths" / PrefixedArray(Int32ub, Int32ub),
    "payloads" / GreedyBytes,  # one after another
)
ACCEPTED = Struct("priority" / Int8ub, "first" / Int64ub, "count" / Int32ub, Terminated)
DELIVERY = Struct(
    "sender" / Int32ub,
    "life" / Int64ub,
    "priority" / Int8ub,
    "counter" / Int64ub,
    "guarantee" / Int8ub,
    "groups" / PrefixedArray(Int8ub, KEY),
    "payload" / GreedyBytes,
)

_LENGTH: Final = struct.Struct(">I")
_FRAME: Final = struct.Struct(">IB")
_DELIVERY_FAST: Final = struct.Struct(">IQBQBB")
_SEND_FAST: Final = struct.Struct(">BBB")
_ACCEPTED_FAST: Final = struct.Struct(">BQI")


def frame(kind: Type, body: bytes = b"") -> bytes:
    """One frame."""
    return _FRAME.pack(len(body) + 1, kind) + body


def build(kind: Type, declaration: "Construct[Any, Any]", **fields: Any) -> bytes:
    """One frame, its body as *declaration* has it."""
    return frame(kind, declaration.build(fields))


def parse(declaration: "Construct[Any, Any]", body: bytes) -> Any:
    """A body's fields. Raises DaemonError if it is none of *declaration*."""
    try:
        return declaration.parse(body)
    except (ConstructError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[-1]
        raise DaemonError(f"the other side sent a frame that makes no sense: {reason}") from error


class Send(NamedTuple):
    """Messages that a client wants sent, all alike but for their payloads."""

    groups: tuple[GroupKey, ...]
    payloads: list[bytes]
    guarantee: Guarantee
    priority: Priority


class FrameReader:
    """Cuts a stream into frames, whatever pieces it comes in."""

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Generator[tuple[int, bytes], None, None]:
        """Add *data*; the frames that are complete now, as type and body.

        Frames that the caller does not ask for any more stay for the next call.
        Raises DaemonError for a length that no frame has.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        try:
            while len(buffer) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer, start)
                if not 1 <= length <= self.frame_bytes_max:
                    raise DaemonError(
                        f"the other side announces a frame of {length} bytes; "
                        f"1 to {self.frame_bytes_max} are possible"
                    )
                end = start + _LENGTH.size + length
                if len(buffer) < end:
                    break
                body = start + _FRAME.size
                start = end
                yield buffer[body - 1], bytes(memoryview(buffer)[body:end])
        finally:
            del buffer[:start]


def send_frame(
    groups: Sequence[GroupKey], payloads: Sequence[bytes], guarantee: Guarantee, priority: Priority
) -> bytes:
    """The frame that sends *payloads*, as ``SEND`` declares it."""
    count = len(payloads)
    body = b"".join(
        (
            _SEND_FAST.pack(guarantee, priority, len(groups)),
            *(group.key for group in groups),
            struct.pack(f">{count + 1}I", count, *map(len, payloads)),
            *payloads,
        )
    )
    return frame(Type.SEND, body)


def parse_send(body: bytes) -> Send:
    """Read a SEND."""
    try:
        guarantee, priority, groups_count = _SEND_FAST.unpack_from(body)
        start = _SEND_FAST.size + groups_count * GROUP_KEY_BYTES
        groups = _keys(body[_SEND_FAST.size : start])
        (count,) = _LENGTH.unpack_from(body, start)
        start += _LENGTH.size
        if not 1 <= groups_count <= GROUPS_PER_MESSAGE_MAX:
            raise DaemonError(f"a message goes to 1 to {GROUPS_PER_MESSAGE_MAX} groups")
        if not 1 <= count <= (len(body) - start) // _LENGTH.size:
            raise DaemonError(f"the client announces {count} messages in {len(body)} bytes")
        lengths = struct.unpack_from(f">{count}I", body, start)
        start += count * _LENGTH.size
        if sum(lengths) != len(body) - start:
            raise DaemonError("the client sent messages whose lengths do not add up")
        payloads = []
        for length in lengths:
            payloads.append(body[start : start + length])
            start += length
        return Send(groups, payloads, Guarantee(guarantee), Priority(priority))
    except (struct.error, ValueError, MisuseError) as error:
        raise DaemonError(f"the client sent messages that make no sense: {error}") from error


def accepted_frame(priority: Priority, first: int, count: int) -> bytes:
    """The frame that says which messages were accepted, as ``ACCEPTED`` declares it."""
    return frame(Type.ACCEPTED, _ACCEPTED_FAST.pack(priority, first, count))


def parse_accepted(body: bytes) -> tuple[int, int]:
    """Read an ACCEPTED: the counter of the first message, and how many."""
    try:
        _, first, count = _ACCEPTED_FAST.unpack(body)
    except struct.error as error:
        raise DaemonError(f"the daemon sent an answer that makes no sense: {error}") from error
    return first, count


@lru_cache(maxsize=1024)
def _keys(keys: bytes) -> tuple[GroupKey, ...]:
    """Group keys, one after another. Few differ, and making one costs more than finding it."""
    return tuple(
        GroupKey(keys[place : place + GROUP_KEY_BYTES])
        for place in range(0, len(keys), GROUP_KEY_BYTES)
    )


def event_frame(event: Delivery | ConfigurationChanged) -> bytes:
    """The frame that tells a client of *event*."""
    if isinstance(event, ConfigurationChanged):
        return frame(Type.CONFIGURATION, json.dumps(configuration_fields(event)).encode())
    message = event.message
    body = b"".join(
        (
            _DELIVERY_FAST.pack(
                message.node,
                message.life,
                message.priority,
                message.counter,
                event.guarantee,
                len(event.groups),
            ),
            *(group.key for group in event.groups),
            event.payload,
        )
    )
    return frame(Type.DELIVERY, body)


def configuration_fields(event: ConfigurationChanged) -> dict[str, Any]:
    """A configuration as JSON has it."""
    configuration = event.configuration
    return {
        "id": configuration.id,
        "kind": configuration.kind.value,
        "members": configuration.members,
        "joined": configuration.joined,
        "left": configuration.left,
        "next": configuration.next,
    }


def parse_configuration(body: bytes) -> Configuration:
    """Read a configuration."""
    try:
        fields = json.loads(body)
        return Configuration(
            id=str(fields["id"]),
            kind=Kind(fields["kind"]),
            members=tuple(map(NodeId, fields["members"])),
            joined=tuple(map(NodeId, fields["joined"])),
            left=tuple(map(NodeId, fields["left"])),
            next=fields["next"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DaemonError(
            f"the daemon sent a configuration that makes no sense: {error}"
        ) from error


def parse_delivery(body: bytes, configuration: Configuration) -> Delivery:
    """Read a delivery, which belongs to *configuration*."""
    try:
        sender, life, priority, counter, guarantee, count = _DELIVERY_FAST.unpack_from(body)
        start = _DELIVERY_FAST.size
        end = start + count * GROUP_KEY_BYTES
        return Delivery(
            MessageId(NodeId(sender), life, Priority(priority), counter),
            _keys(body[start:end]),
            body[end:],
            Guarantee(guarantee),
            configuration,
        )
    except (struct.error, ValueError, MisuseError) as error:
        raise DaemonError(f"the daemon sent a delivery that makes no sense: {error}") from error

"""What a daemon and its clients say to each other: every frame, declared.

A stream of frames: four bytes of length, a byte of type, a body. The client begins with HELLO, the
server answers WELCOME or END. From then on the client asks, and numbers what it asks; answers come
as they are ready, each with its number. Between them the server tells events, in their order. Each
side says in HELLO or WELCOME how many bytes it takes without having dealt with those before: events
in the one direction, messages to send in the other. So neither ever has to stop reading, and an
answer never waits behind events that nobody takes. All numbers are big-endian.

The frames of which there are many are built and read in ``vsync.daemon.frames``.
"""

import struct
from collections.abc import Generator, Sequence
from enum import IntEnum
from typing import Any, Final

from construct import (
    Bytes,
    Const,
    Construct,
    ConstructError,
    Flag,
    GreedyBytes,
    GreedyString,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    PascalString,
    PrefixedArray,
    Struct,
    Terminated,
)

from vsync.errors import (
    ChangeFailed,
    DaemonError,
    DaemonLost,
    DuplicateNode,
    Evicted,
    MessageTooLarge,
    MisuseError,
    NodeClosed,
    NotAllowed,
    NotMember,
    PriorityHeld,
    ServiceFailed,
    SettingsError,
    StateFailed,
    TraceFailed,
    TransportFailed,
    Undelivered,
    VsyncError,
)
from vsync.vocabulary import GROUP_KEY_BYTES, Cause, SlowPolicy

DAEMON_PROTOCOL: Final = 4
"""Raised when older clients could no longer follow."""

GROUPS_MAX: Final = 4096
"""Groups that one session may join, and that one JOIN or LEAVE may name."""

FRAME_EXTRA_BYTES: Final = 64 + GROUPS_MAX * GROUP_KEY_BYTES
"""A frame may be larger than the largest message by this much."""

HELLO_BYTES_MAX: Final = 512
"""Before its HELLO nobody needs a larger frame."""

NAME_BYTES_MAX: Final = 255


class Type(IntEnum):
    """The byte after a frame's length."""

    HELLO = 1  #: the client: what it speaks, and how its session is to be
    WELCOME = 2  #: the server: which session that is
    END = 3  #: the server says why, and closes
    BYE = 4  #: the client leaves; once its messages are accepted the server closes
    JOIN = 5
    LEAVE = 6
    STATUS = 7
    REQUEST = 8  #: of a service
    SEND = 9  #: one or more messages
    DONE = 10  #: a JOIN or LEAVE is in effect
    ANSWER = 11  #: to a STATUS (JSON) or a REQUEST
    ACCEPTED = 12  #: the messages of a SEND have their ids
    REFUSED = 13  #: what was asked cannot be; the session goes on
    WAITING = 14  #: a SEND waits for room
    TAKEN = 15  #: the client has dealt with so many bytes of events
    DELIVERIES = 16  #: messages in a row that have all in common but number and payload
    CONFIGURATION = 17
    VIEW = 18
    COMMAND = 19  #: to the node itself, from those who may administer it


ERRORS: Final[tuple[type[VsyncError], ...]] = (
    VsyncError,
    DaemonError,
    DaemonLost,
    MisuseError,
    MessageTooLarge,
    NotMember,
    PriorityHeld,
    NodeClosed,
    Undelivered,
    Evicted,
    ServiceFailed,
    DuplicateNode,
    TransportFailed,
    StateFailed,
    TraceFailed,
    NotAllowed,
    SettingsError,
    ChangeFailed,
)
"""The errors that cross the socket as what they are; their places here are their numbers."""

SLOW_POLICIES: Final = tuple(SlowPolicy)
CAUSES: Final = tuple(Cause)
"""Their places are their numbers, too."""

AS_THE_DAEMON_SAYS: Final = 2**64 - 1
"""In place of a number of bytes: what ``[daemon]`` in the node's settings says."""

KEY = Bytes(GROUP_KEY_BYTES)
MEMBER = Struct("node" / Int32ub, "session" / Int32ub)
MOVE = Struct("node" / Int32ub, "session" / Int32ub, "cause" / Int8ub)
FAILURE = Struct(
    "kind" / Int8ub,
    "numbers" / PrefixedArray(Int8ub, Int64ub),  # what the error is made of, if not of its text
    "text" / GreedyString("utf8"),
)

GREETING = Struct("magic" / Const(b"vsync"), "protocol" / Int16ub)
"""What every version's HELLO begins with."""

HELLO = Struct(
    "magic" / Const(b"vsync"),
    "protocol" / Int16ub,
    "slow" / Int8ub,  # 0: as the daemon says; else 1 more than the policy's place
    "queue_bytes" / Int64ub,
    "spill_bytes" / Int64ub,
    "primary" / Flag,
    "window_bytes" / Int32ub,  # of events
    "name" / PascalString(Int8ub, "utf8"),
    Terminated,
)
WELCOME = Struct(
    "protocol" / Int16ub,
    "node" / Int32ub,
    "session" / Int32ub,
    "life" / Int64ub,
    "message_bytes_max" / Int32ub,
    "window_bytes" / Int32ub,  # of SEND
    "requests_max" / Int16ub,  # JOIN, LEAVE, STATUS and REQUEST under way at a time
    Terminated,
)
END = Struct("failure" / FAILURE)
BYE = Struct(Terminated)
JOIN = Struct(
    "number" / Int32ub, "closed" / Flag, "groups" / PrefixedArray(Int16ub, KEY), Terminated
)
LEAVE = Struct("number" / Int32ub, "groups" / PrefixedArray(Int16ub, KEY), Terminated)
STATUS = Struct("number" / Int32ub, Terminated)
REQUEST = Struct("number" / Int32ub, "service" / PascalString(Int8ub, "utf8"), "body" / GreedyBytes)
COMMAND = Struct(
    "number" / Int32ub,
    "name" / PascalString(Int8ub, "utf8"),
    "arguments" / GreedyBytes,  # a JSON object
)
SEND = Struct(
    "number" / Int32ub,
    "guarantee" / Int8ub,
    "priority" / Int8ub,
    "groups" / PrefixedArray(Int8ub, KEY),
    "lengths" / PrefixedArray(Int32ub, Int32ub),
    "payloads" / GreedyBytes,  # one after another
)
DONE = Struct("number" / Int32ub, Terminated)
ANSWER = Struct("number" / Int32ub, "body" / GreedyBytes)
ACCEPTED = Struct("number" / Int32ub, "first" / Int64ub, "count" / Int32ub, Terminated)
REFUSED = Struct("number" / Int32ub, "failure" / FAILURE)
WAITING = Struct(
    "node" / Int32ub,  # whose application is too slow; 0: the ring is merely behind
    "waited_ms" / Int32ub,
    Terminated,
)
TAKEN = Struct("bytes" / Int32ub, Terminated)
DELIVERIES = Struct(
    "node" / Int32ub,
    "session" / Int32ub,
    "life" / Int64ub,
    "priority" / Int8ub,
    "guarantee" / Int8ub,
    "groups" / PrefixedArray(Int8ub, KEY),
    "counter" / Int64ub,  # of the first; the others' follow
    "head_bytes" / Int16ub,  # what each has before its payload, which is the ring's
    "lengths" / PrefixedArray(Int32ub, Int32ub),  # with the heads
    "messages" / GreedyBytes,  # one after another
)
CONFIGURATION = Struct(
    "id" / PascalString(Int16ub, "utf8"),
    "transitional" / Flag,
    "members" / PrefixedArray(Int32ub, Int32ub),
    "joined" / PrefixedArray(Int32ub, Int32ub),
    "left" / PrefixedArray(Int32ub, Int32ub),
    "next" / PascalString(Int16ub, "utf8"),  # empty: none
    "primary" / Int8ub,  # 0: not asked for; 1: no; 2: yes
    "reason" / PascalString(Int16ub, "utf8"),
    Terminated,
)
VIEW = Struct(
    "group" / KEY,
    "closed" / Flag,
    "members" / PrefixedArray(Int32ub, MEMBER),
    "joined" / PrefixedArray(Int32ub, MOVE),
    "left" / PrefixedArray(Int32ub, MOVE),
    Terminated,
)

DECLARATIONS: Final[dict[Type, "Construct[Any, Any]"]] = {
    Type.HELLO: HELLO,
    Type.WELCOME: WELCOME,
    Type.END: END,
    Type.BYE: BYE,
    Type.JOIN: JOIN,
    Type.LEAVE: LEAVE,
    Type.STATUS: STATUS,
    Type.REQUEST: REQUEST,
    Type.SEND: SEND,
    Type.DONE: DONE,
    Type.ANSWER: ANSWER,
    Type.ACCEPTED: ACCEPTED,
    Type.REFUSED: REFUSED,
    Type.WAITING: WAITING,
    Type.TAKEN: TAKEN,
    Type.DELIVERIES: DELIVERIES,
    Type.CONFIGURATION: CONFIGURATION,
    Type.VIEW: VIEW,
    Type.COMMAND: COMMAND,
}
"""The body of each frame."""

_LENGTH: Final = struct.Struct(">I")
_HEAD: Final = struct.Struct(">IB")
HEAD_BYTES: Final = _HEAD.size
"""What a frame has before its body."""


def frame(kind: Type, body: bytes = b"") -> bytes:
    """One frame."""
    return _HEAD.pack(len(body) + 1, kind) + body


def build(kind: Type, **fields: Any) -> bytes:
    """One frame, its body as declared."""
    return frame(kind, DECLARATIONS[kind].build(fields))


def parse(kind: Type, body: bytes | memoryview) -> Any:
    """The fields of a body. Raises DaemonError if they are not as declared."""
    return _parse(DECLARATIONS[kind], body)


def parse_protocol(body: bytes | memoryview) -> int:
    """Which protocol a HELLO of any version speaks. Raises DaemonError."""
    protocol: int = _parse(GREETING, body).protocol
    return protocol


def _parse(declaration: "Construct[Any, Any]", body: bytes | memoryview) -> Any:
    try:
        return declaration.parse(body)
    except (ConstructError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[-1]
        raise DaemonError(f"the other side sent a frame that makes no sense: {reason}") from error


def failure_fields(error: VsyncError) -> dict[str, Any]:
    """*error* as FAILURE declares it: as what it is, or what it is a kind of."""
    kind = next(place for place in map(_place, type(error).__mro__) if place is not None)
    numbers: Sequence[int] = ()
    match error:
        case MessageTooLarge():
            numbers = error.size_bytes, error.limit_bytes
        case Undelivered():
            numbers = (error.messages,)
    return {"kind": kind, "numbers": numbers, "text": str(error)}


def _place(kind: type) -> int | None:
    return ERRORS.index(kind) if kind in ERRORS else None


def failure(fields: Any) -> VsyncError:
    """The error that FAILURE tells of."""
    kind = ERRORS[fields.kind] if fields.kind < len(ERRORS) else DaemonError
    numbers = tuple(fields.numbers)
    if kind is MessageTooLarge and len(numbers) == 2:
        return MessageTooLarge(*numbers)
    if kind is Undelivered and len(numbers) == 1:
        return Undelivered(*numbers)
    if kind in (MessageTooLarge, Undelivered):
        return DaemonError(fields.text)
    return kind(fields.text)


class FrameReader:
    """Cuts a stream into frames, whatever pieces it comes in."""

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._cut = bytearray()
        """The beginning of a frame."""
        self._unread = b""
        """What was not asked for."""

    def feed(self, data: bytes | memoryview) -> Generator[tuple[int, memoryview], None, None]:
        """Add *data*; the frames that are complete now, as type and body.

        Bodies are parts of *data* where they can be. Frames that the caller does not ask for any
        more stay for the next call. Raises DaemonError for a length that no frame has.
        """
        if self._unread:
            data = self._unread + data
        view, cut = memoryview(data), self._cut
        place, end = 0, len(data)
        try:
            while place < end:
                if cut:
                    # Only the frame that was cut is put together; the others stay where they are.
                    place += self._go_on(view[place:])
                    if len(cut) < _LENGTH.size or len(cut) < self._size_of(cut, 0):
                        continue
                    whole, self._cut = cut, bytearray()
                    cut = self._cut
                    yield whole[HEAD_BYTES - 1], memoryview(whole)[HEAD_BYTES:]
                    continue
                start = place
                known = end - start >= _LENGTH.size
                if not known or end - start < (size := self._size_of(data, start)):
                    cut += view[start:]
                    place = end
                    break
                place = start + size
                yield data[start + HEAD_BYTES - 1], view[start + HEAD_BYTES : place]
        finally:
            self._unread = bytes(data[place:])

    def _go_on(self, view: memoryview) -> int:
        """Add to the frame that was cut what *view* has of it, or of its length; how much."""
        cut = self._cut
        size = _LENGTH.size if len(cut) < _LENGTH.size else self._size_of(cut, 0)
        missing = view[: size - len(cut)]
        cut += missing
        return len(missing)

    def _size_of(self, data: bytes | bytearray | memoryview, start: int) -> int:
        """How long the frame is that begins there."""
        (length,) = _LENGTH.unpack_from(data, start)
        if not 1 <= length <= self.frame_bytes_max:
            raise DaemonError(
                f"the other side announces a frame of {length} bytes; 1 to {self.frame_bytes_max} "
                "are possible"
            )
        size: int = _LENGTH.size + length
        return size

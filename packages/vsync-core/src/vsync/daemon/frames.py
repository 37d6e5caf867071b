"""The frames of which there are many, built and read fast; each is as ``protocol`` declares it.

What a test holds against the declarations: with ``construct`` alone, a message would cost a hundred
times as much.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from vsync.daemon import protocol
from vsync.daemon.protocol import CAUSES, Type
from vsync.engine.alike import payloads_in, read_alike
from vsync.engine.runs import Run
from vsync.errors import DaemonError, MisuseError
from vsync.events import ConfigurationChanged, Delivery, Envelope, Event, GroupChanged, Move
from vsync.vocabulary import (
    GROUP_KEY_BYTES,
    GROUPS_PER_MESSAGE_MAX,
    Configuration,
    GroupKey,
    Guarantee,
    Kind,
    Member,
    NodeId,
    Priority,
)

CACHED_BYTES: Final = 4 * 2**20
"""About how much ``EventFrames`` keeps, twice."""

JOINED_BYTES: Final = 4096
"""To copy so many bytes into a frame costs less than to write them as a piece of their own."""

_COUNT: Final = struct.Struct(">I")
_SEND: Final = struct.Struct(">IBBB")
_SEND_HEAD: Final = struct.Struct(">IBIBBB")
_ACCEPTED: Final = struct.Struct(">IQI")
_ACCEPTED_FRAME: Final = struct.Struct(">IBIQI")
_DELIVERIES: Final = struct.Struct(">IIQBBB")
_DELIVERIES_HEAD: Final = struct.Struct(">IBIIQBBB")
_RUN: Final = struct.Struct(">QHI")
_TAKEN: Final = struct.Struct(">I")
_TAKEN_FRAME: Final = struct.Struct(">IBI")
_MEMBER: Final = struct.Struct(">II")
_MOVE: Final = struct.Struct(">IIB")

_GUARANTEES: Final = tuple(Guarantee)
_PRIORITIES: Final = tuple(Priority)


class Send(NamedTuple):
    """Messages that a client wants sent, all alike but for their payloads."""

    number: int
    groups: tuple[GroupKey, ...]
    payloads: list[bytes]
    guarantee: Guarantee
    priority: Priority


def send_frame(
    number: int,
    groups: Sequence[GroupKey],
    payloads: Sequence[bytes],
    guarantee: Guarantee,
    priority: Priority,
) -> bytes:
    """The frame that sends *payloads*, as ``SEND`` declares it."""
    count = len(payloads)
    lengths = list(map(len, payloads))
    size = _SEND.size + len(groups) * GROUP_KEY_BYTES + _COUNT.size * (count + 1) + sum(lengths)
    return b"".join(
        (
            _SEND_HEAD.pack(size + 1, Type.SEND, number, guarantee, priority, len(groups)),
            *(group.key for group in groups),
            struct.pack(f">{count + 1}I", count, *lengths),
            *payloads,
        )
    )


def parse_send(body: bytes | memoryview) -> Send:
    """Read a SEND. Raises DaemonError."""
    try:
        number, guarantee, priority, groups_count = _SEND.unpack_from(body)
        start = _SEND.size + groups_count * GROUP_KEY_BYTES
        groups = _keys(bytes(body[_SEND.size : start]))
        (count,) = _COUNT.unpack_from(body, start)
        start += _COUNT.size
        if not 1 <= groups_count <= GROUPS_PER_MESSAGE_MAX:
            raise DaemonError(f"a message goes to 1 to {GROUPS_PER_MESSAGE_MAX} groups")
        lengths, start = _lengths(body, start, count, "client")
        payloads = payloads_in(body, start, 0, lengths)
        return Send(number, groups, payloads, Guarantee(guarantee), Priority(priority))
    except (struct.error, ValueError, MisuseError) as error:
        raise DaemonError(f"the client sent messages that make no sense: {error}") from error


def accepted_frame(number: int, first: int, count: int) -> bytes:
    """The frame that says which messages were accepted, as ``ACCEPTED`` declares it."""
    return _ACCEPTED_FRAME.pack(_ACCEPTED.size + 1, Type.ACCEPTED, number, first, count)


def parse_accepted(body: bytes | memoryview) -> tuple[int, int, int]:
    """Read an ACCEPTED: number, the counter of the first message, and how many there are."""
    try:
        number, first, count = _ACCEPTED.unpack(body)
    except struct.error as error:
        raise DaemonError(f"the daemon sent an answer that makes no sense: {error}") from error
    return number, first, count


def taken_frame(size_bytes: int) -> bytes:
    """The frame that says how many bytes of events were dealt with, as ``TAKEN`` declares it."""
    return _TAKEN_FRAME.pack(_TAKEN.size + 1, Type.TAKEN, size_bytes)


def parse_taken(body: bytes | memoryview) -> int:
    """Read a TAKEN. Raises DaemonError."""
    try:
        (size_bytes,) = _TAKEN.unpack(body)
    except struct.error as error:
        raise DaemonError(f"the client sent a TAKEN that makes no sense: {error}") from error
    taken: int = size_bytes
    return taken


@lru_cache(maxsize=1024)
def _keys(keys: bytes) -> tuple[GroupKey, ...]:
    """Group keys, one after another. Few differ, and making one costs more than finding it."""
    return tuple(
        GroupKey(keys[place : place + GROUP_KEY_BYTES])
        for place in range(0, len(keys), GROUP_KEY_BYTES)
    )


@lru_cache(maxsize=1024)
def _joined_keys(groups: tuple[GroupKey, ...]) -> bytes:
    return b"".join(group.key for group in groups)


def parts_of(event: Event | Run) -> list[bytes | memoryview]:
    """The frame that tells a client of a run of messages, or of one other event; in pieces."""
    if isinstance(event, Run):
        return _deliveries(event)
    if isinstance(event, GroupChanged):
        return [protocol.frame(Type.VIEW, _view_body(event))]
    assert isinstance(event, ConfigurationChanged)
    return [_configuration_frame(event)]


def _deliveries(run: Run) -> list[bytes | memoryview]:
    node, session, life, priority, guarantee, groups, _ = run.envelope
    keys = _joined_keys(groups)
    lengths, content = run.lengths, run.content
    messages = len(lengths)
    size = _DELIVERIES.size + len(keys) + _RUN.size + _COUNT.size * messages + len(content)
    head = _DELIVERIES_HEAD.pack(
        1 + size, Type.DELIVERIES, node, session, life, priority, guarantee, len(groups)
    )
    table = struct.pack(f">QHI{messages}I", run.counter, run.head_bytes, messages, *lengths)
    if len(content) <= JOINED_BYTES:
        return [b"".join((head, keys, table, content))]
    return [b"".join((head, keys, table)), content]


def parse_deliveries(body: bytes | memoryview, configuration: Configuration) -> list[Delivery]:
    """Read a DELIVERIES, which belongs to *configuration*. Raises DaemonError."""
    try:
        node, session, life, priority, guarantee, groups = _DELIVERIES.unpack_from(body)
        start = _DELIVERIES.size + groups * GROUP_KEY_BYTES
        envelope = Envelope(
            node,
            session,
            life,
            _PRIORITIES[priority],
            _GUARANTEES[guarantee],
            _keys(bytes(body[_DELIVERIES.size : start])),
            configuration,
        )
        counter, head_bytes, messages = _RUN.unpack_from(body, start)
        start += _RUN.size
        lengths, start = _lengths(body, start, messages, "daemon")
        if min(lengths) < head_bytes:
            raise DaemonError("the daemon sent messages that are shorter than their heads")
    except (struct.error, IndexError, MisuseError) as error:
        raise DaemonError(f"the daemon sent messages that make no sense: {error}") from error
    return read_alike(envelope, counter, body, start, head_bytes, lengths)


def _lengths(
    body: bytes | memoryview, start: int, messages: int, who: str
) -> tuple[tuple[int, ...], int]:
    """The lengths of so many messages, which are the rest of *body*; where the first begins."""
    if not 1 <= messages <= (len(body) - start) // _COUNT.size:
        raise DaemonError(f"the {who} announces {messages} messages in {len(body)} bytes")
    lengths = struct.unpack_from(f">{messages}I", body, start)
    start += messages * _COUNT.size
    if sum(lengths) != len(body) - start:
        raise DaemonError(f"the {who} sent messages whose lengths do not add up")
    return lengths, start


def _view_body(view: GroupChanged) -> bytes:
    return b"".join(
        (
            view.group.key,
            b"\1" if view.closed else b"\0",
            _COUNT.pack(len(view.members)),
            *(_MEMBER.pack(*member) for member in view.members),
            *_moves(view.joined),
            *_moves(view.left),
        )
    )


def _moves(moves: Sequence[Move]) -> Sequence[bytes]:
    return [
        _COUNT.pack(len(moves)),
        *(_MOVE.pack(*member, CAUSES.index(cause)) for member, cause in moves),
    ]


def parse_view(body: bytes | memoryview, configuration: Configuration) -> GroupChanged:
    """Read a VIEW, which belongs to *configuration*. Raises DaemonError."""
    try:
        group = GroupKey(bytes(body[:GROUP_KEY_BYTES]))
        closed = body[GROUP_KEY_BYTES] != 0
        place = GROUP_KEY_BYTES + 1
        members, place = _array(_MEMBER, body, place)
        joined, place = _array(_MOVE, body, place)
        left, place = _array(_MOVE, body, place)
        if place != len(body):
            raise DaemonError("the daemon sent a view that is too long")
        return GroupChanged(
            group,
            tuple(Member(NodeId(node), session) for node, session in members),
            tuple(_move(*fields) for fields in joined),
            tuple(_move(*fields) for fields in left),
            closed,
            configuration,
        )
    except (struct.error, IndexError, MisuseError) as error:
        raise DaemonError(f"the daemon sent a view that makes no sense: {error}") from error


def _array(
    element: struct.Struct, body: bytes | memoryview, place: int
) -> tuple[Sequence[Any], int]:
    (count,) = _COUNT.unpack_from(body, place)
    start = place + _COUNT.size
    end = start + count * element.size
    if end > len(body):
        raise DaemonError(f"the daemon announces {count} members in {len(body)} bytes")
    return tuple(element.iter_unpack(body[start:end])), end


def _move(node: int, session: int, cause: int) -> Move:
    return Move(Member(NodeId(node), session), CAUSES[cause])


def _configuration_frame(event: ConfigurationChanged) -> bytes:
    configuration = event.configuration
    return protocol.build(
        Type.CONFIGURATION,
        id=configuration.id,
        transitional=configuration.kind is Kind.TRANSITIONAL,
        members=configuration.members,
        joined=configuration.joined,
        left=configuration.left,
        next=configuration.next or "",
        primary=0 if event.primary is None else 1 + event.primary,
        reason=event.reason,
    )


def parse_configuration(body: bytes | memoryview) -> ConfigurationChanged:
    """Read a CONFIGURATION. Raises DaemonError."""
    fields = protocol.parse(Type.CONFIGURATION, body)
    return ConfigurationChanged(
        Configuration(
            id=fields.id,
            kind=Kind.TRANSITIONAL if fields.transitional else Kind.REGULAR,
            members=tuple(map(NodeId, fields.members)),
            joined=tuple(map(NodeId, fields.joined)),
            left=tuple(map(NodeId, fields.left)),
            next=fields.next or None,
        ),
        None if fields.primary == 0 else fields.primary == 2,
        fields.reason,
    )


class EventFrames:
    """Frames of events that go to many clients, each made once.

    All sessions of a node are given the same objects, so an event, or a run of messages, is known
    by its identity. What was made longest ago is forgotten, half of it at a time.
    """

    def __init__(self) -> None:
        self.readers = 0
        """How many clients there are; with one, nothing is kept."""
        self._young: dict[int, tuple[Event | Run, list[bytes | memoryview]]] = {}
        self._old: dict[int, tuple[Event | Run, list[bytes | memoryview]]] = {}
        self._young_bytes = 0

    def of(self, event: Event | Run) -> list[bytes | memoryview]:
        """The frame of *event*, in pieces."""
        if self.readers <= 1:
            return parts_of(event)
        # An event that is kept lives, so nothing else has its identity.
        key = id(event)
        made = self._young.get(key) or self._old.get(key)
        if made is None:
            made = event, parts_of(event)
            self._young[key] = made
            self._young_bytes += sum(map(len, made[1]))
            if self._young_bytes > CACHED_BYTES:
                self._old, self._young, self._young_bytes = self._young, {}, 0
        return made[1]

    def joined(self) -> None:
        """A client has come."""
        self.readers += 1

    def left(self) -> None:
        """A client has gone; with the last but one, what is kept is of no use."""
        self.readers -= 1
        if self.readers <= 1:
            self._young, self._old, self._young_bytes = {}, {}, 0

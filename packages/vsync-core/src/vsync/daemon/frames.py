"""The frames of which there are many, built and read fast; each is as ``protocol`` declares it.

What a test holds against the declarations: with ``construct`` alone, a message would cost a hundred
times as much.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from vsync.daemon import protocol
from vsync.daemon.protocol import CAUSES, Type
from vsync.engine.alike import read_alike
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

RUN_MESSAGES: Final = 64
"""A run of messages ends where its number can be divided by this, so that runs of several clients
are the same though they take what waits at different times."""

RUN_BYTES: Final = 2**16
"""Payloads of a run together, unless it is one message."""

_COUNT: Final = struct.Struct(">I")
_SEND: Final = struct.Struct(">IBBB")
_SEND_HEAD: Final = struct.Struct(">IBIBBB")
_ACCEPTED: Final = struct.Struct(">IQI")
_ACCEPTED_FRAME: Final = struct.Struct(">IBIQI")
_DELIVERIES: Final = struct.Struct(">IIQBBB")
_DELIVERIES_HEAD: Final = struct.Struct(">IBIIQBBB")
_RUN: Final = struct.Struct(">QI")
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


def parse_send(body: bytes) -> Send:
    """Read a SEND. Raises DaemonError."""
    try:
        number, guarantee, priority, groups_count = _SEND.unpack_from(body)
        start = _SEND.size + groups_count * GROUP_KEY_BYTES
        groups = _keys(body[_SEND.size : start])
        (count,) = _COUNT.unpack_from(body, start)
        start += _COUNT.size
        if not 1 <= groups_count <= GROUPS_PER_MESSAGE_MAX:
            raise DaemonError(f"a message goes to 1 to {GROUPS_PER_MESSAGE_MAX} groups")
        if not 1 <= count <= (len(body) - start) // _COUNT.size:
            raise DaemonError(f"the client announces {count} messages in {len(body)} bytes")
        lengths = struct.unpack_from(f">{count}I", body, start)
        start += count * _COUNT.size
        if sum(lengths) != len(body) - start:
            raise DaemonError("the client sent messages whose lengths do not add up")
        payloads = []
        for length in lengths:
            payloads.append(body[start : start + length])
            start += length
        return Send(number, groups, payloads, Guarantee(guarantee), Priority(priority))
    except (struct.error, ValueError, MisuseError) as error:
        raise DaemonError(f"the client sent messages that make no sense: {error}") from error


def accepted_frame(number: int, first: int, count: int) -> bytes:
    """The frame that says which messages were accepted, as ``ACCEPTED`` declares it."""
    return _ACCEPTED_FRAME.pack(_ACCEPTED.size + 1, Type.ACCEPTED, number, first, count)


def parse_accepted(body: bytes) -> tuple[int, int, int]:
    """Read an ACCEPTED: number, the counter of the first message, and how many there are."""
    try:
        number, first, count = _ACCEPTED.unpack(body)
    except struct.error as error:
        raise DaemonError(f"the daemon sent an answer that makes no sense: {error}") from error
    return number, first, count


def taken_frame(size_bytes: int) -> bytes:
    """The frame that says how many bytes of events were dealt with, as ``TAKEN`` declares it."""
    return _TAKEN_FRAME.pack(_TAKEN.size + 1, Type.TAKEN, size_bytes)


def parse_taken(body: bytes) -> int:
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


def runs(batch: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """*batch* in pieces that are a frame each: runs of messages that are alike, others alone."""
    start = size = 0
    envelope: Envelope | None = None
    following = -1
    for place, event in enumerate(batch):
        if type(event) is Delivery:
            size += len(event[2])
            if (
                event[0] is envelope
                and event[1] == following
                and following % RUN_MESSAGES
                and size <= RUN_BYTES
            ):
                following += 1
                continue
            envelope, following, size = event[0], event[1] + 1, len(event[2])
        else:
            envelope = None
        if place > start:
            yield batch[start:place]
        start = place
    if len(batch) > start:
        yield batch[start:]


def frame_of(run: Sequence[Event]) -> bytes:
    """The frame that tells a client of a run of messages, or of one other event."""
    event = run[0]
    if type(event) is Delivery:
        return _deliveries_frame(event, [each[2] for each in run if type(each) is Delivery])
    if isinstance(event, GroupChanged):
        return protocol.frame(Type.VIEW, _view_body(event))
    assert isinstance(event, ConfigurationChanged)
    return _configuration_frame(event)


def _deliveries_frame(first: Delivery, payloads: Sequence[bytes]) -> bytes:
    (node, session, life, priority, guarantee, groups, _), counter, _ = first
    keys = _joined_keys(groups)
    lengths = list(map(len, payloads))
    messages = len(lengths)
    size = _DELIVERIES.size + len(keys) + _RUN.size + _COUNT.size * messages + sum(lengths)
    head = _DELIVERIES_HEAD.pack(
        1 + size, Type.DELIVERIES, node, session, life, priority, guarantee, len(groups)
    )
    table = struct.pack(f">QI{messages}I", counter, messages, *lengths)
    return b"".join((head, keys, table, *payloads))


def parse_deliveries(body: bytes, configuration: Configuration) -> list[Event]:
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
            _keys(body[_DELIVERIES.size : start]),
            configuration,
        )
        counter, messages = _RUN.unpack_from(body, start)
        start += _RUN.size
        if not 1 <= messages <= (len(body) - start) // _COUNT.size:
            raise DaemonError(f"the daemon announces {messages} messages in {len(body)} bytes")
        lengths = struct.unpack_from(f">{messages}I", body, start)
        start += messages * _COUNT.size
        if sum(lengths) != len(body) - start:
            raise DaemonError("the daemon sent messages whose lengths do not add up")
    except (struct.error, IndexError, MisuseError) as error:
        raise DaemonError(f"the daemon sent messages that make no sense: {error}") from error
    deliveries = read_alike(envelope, counter, body, start, b"", lengths)
    assert deliveries is not None  # anything begins with nothing
    return list[Event](deliveries)


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


def parse_view(body: bytes, configuration: Configuration) -> GroupChanged:
    """Read a VIEW, which belongs to *configuration*. Raises DaemonError."""
    try:
        group = GroupKey(body[:GROUP_KEY_BYTES])
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


def _array(element: struct.Struct, body: bytes, place: int) -> tuple[Sequence[Any], int]:
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


def parse_configuration(body: bytes) -> ConfigurationChanged:
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

    All sessions of a node are given the same objects, so a run of messages is known by the identity
    of its first and by its length. What was made longest ago is forgotten, half of it at a time.
    """

    def __init__(self) -> None:
        self.readers = 0
        """How many clients there are; with one, nothing is kept."""
        self._young: dict[tuple[int, int], tuple[Event, bytes]] = {}
        self._old: dict[tuple[int, int], tuple[Event, bytes]] = {}
        self._young_bytes = 0

    def of(self, run: Sequence[Event]) -> bytes:
        """The frame of *run*, one of ``runs``."""
        if self.readers <= 1:
            return frame_of(run)
        # An event that is kept lives, so nothing else has its identity.
        key = id(run[0]), len(run)
        made = self._young.get(key) or self._old.get(key)
        if made is None:
            made = run[0], frame_of(run)
            self._young[key] = made
            self._young_bytes += len(made[1])
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

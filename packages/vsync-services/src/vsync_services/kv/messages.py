"""What the kv services of a ring tell each other, as bytes.

Every message begins with the version of this format and its kind. Snapshots have one record an
entry, cut by ``struct``: there may be many; the rest is declared with ``construct``.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeAlias

from construct import (
    Bytes,
    Const,
    ConstructError,
    Container,
    Enum,
    Flag,
    GreedyBytes,
    Int8ub,
    Int16ub,
    Int32ub,
    Int64ub,
    PascalString,
    PrefixedArray,
    Struct,
    Switch,
    Terminated,
    this,
)

from vsync.errors import MalformedPacket
from vsync.vocabulary import NodeId, RingId
from vsync_services.kv.store import DIGEST_BYTES, Change, Entry, Point

VERSION: Final = 1


class Operation(IntEnum):
    """What a command does."""

    READ = 0  #: nothing: it marks the place at which its sender reads
    SET = 1
    DELETE = 2
    COMPARE_AND_SET = 3  #: set, if the key is still of that revision (0: is not there)
    COMPARE_AND_DELETE = 4


@dataclass(frozen=True, slots=True)
class Command:
    """One request, at its place in the order. *number* is its sender's own."""

    number: int
    operation: Operation
    key: str = ""
    revision: int = 0
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class Record:
    """A configuration that a node synchronized in, by its ring, with the nodes that did."""

    ring: RingId
    nodes: tuple[NodeId, ...]


class Verdict(IntEnum):
    """What a node knows of a configuration."""

    UNDECIDED = 0  #: none of its services decides which configurations are primary
    PRIMARY = 1
    NOT_PRIMARY = 2


@dataclass(frozen=True, slots=True)
class Claim:
    """What one node has, told at the beginning of a configuration."""

    configuration: str
    verdict: Verdict
    reason: str
    records: tuple[Record, ...]
    live: bool
    point: Point
    digest: int
    ancestry: tuple[Point, ...]
    compacted: int
    certain: int
    """Up to which revision it knows that every map that may go on has the same."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a map, for those who lack it. Numbered from 0."""

    configuration: str
    number: int
    last: bool
    records: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The sender has all of the map, and has recorded the configuration."""

    configuration: str


Message: TypeAlias = Command | Claim | Chunk | Done

_RING: Final = Struct("seq" / Int64ub, "representative" / Int32ub)
_POINT: Final = Struct("history" / _RING, "revision" / Int64ub)
_TEXT: Final = PascalString(Int16ub, "utf8")
_BODIES: Final[dict[str, Any]] = {
    "command": Struct(
        "number" / Int64ub,
        "operation" / Int8ub,
        "key" / _TEXT,
        "revision" / Int64ub,
        "value" / GreedyBytes,
    ),
    "claim": Struct(
        "configuration" / _TEXT,
        "verdict" / Int8ub,
        "reason" / _TEXT,
        "records"
        / PrefixedArray(Int16ub, Struct("ring" / _RING, "nodes" / PrefixedArray(Int16ub, Int32ub))),
        "live" / Flag,
        "point" / _POINT,
        "digest" / Bytes(DIGEST_BYTES),
        "ancestry" / PrefixedArray(Int16ub, _POINT),
        "compacted" / Int64ub,
        "certain" / Int64ub,
        Terminated,
    ),
    "chunk": Struct(
        "configuration" / _TEXT, "number" / Int32ub, "last" / Flag, "records" / GreedyBytes
    ),
    "done": Struct("configuration" / _TEXT, Terminated),
}
_MESSAGE: Final = Struct(
    "version" / Const(VERSION, Int8ub),
    "kind" / Enum(Int8ub, command=1, claim=2, chunk=3, done=4),
    "body" / Switch(this.kind, _BODIES),
)
_RECORDS: Final = Struct(
    "version" / Const(VERSION, Int8ub),
    "records"
    / PrefixedArray(Int16ub, Struct("ring" / _RING, "nodes" / PrefixedArray(Int16ub, Int32ub))),
)

REASON_CHARACTERS_MAX: Final = 2000


def encode(message: Message) -> bytes:
    """*message* as bytes."""
    match message:
        case Command():
            fields: dict[str, Any] = {
                "number": message.number,
                "operation": message.operation,
                "key": message.key,
                "revision": message.revision,
                "value": message.value,
            }
            kind = "command"
        case Claim():
            fields = {
                "configuration": message.configuration,
                "verdict": message.verdict,
                "reason": message.reason[:REASON_CHARACTERS_MAX],
                "records": [_of_record(record) for record in message.records],
                "live": message.live,
                "point": _of_point(message.point),
                "digest": message.digest.to_bytes(DIGEST_BYTES, "big"),
                "ancestry": [_of_point(point) for point in message.ancestry],
                "compacted": message.compacted,
                "certain": message.certain,
            }
            kind = "claim"
        case Chunk():
            fields = {
                "configuration": message.configuration,
                "number": message.number,
                "last": message.last,
                "records": message.records,
            }
            kind = "chunk"
        case Done():
            fields, kind = {"configuration": message.configuration}, "done"
    return _MESSAGE.build({"kind": kind, "body": fields})


def decode(packet: bytes) -> Message:
    """The message in *packet*. Raises MalformedPacket."""
    try:
        parsed = _MESSAGE.parse(packet)
        body = parsed.body
        match str(parsed.kind):
            case "command":
                operation = Operation(body.operation)
                return Command(body.number, operation, body.key, body.revision, body.value)
            case "claim":
                return Claim(
                    body.configuration,
                    Verdict(body.verdict),
                    body.reason,
                    tuple(map(_to_record, body.records)),
                    body.live,
                    _to_point(body.point),
                    int.from_bytes(body.digest, "big"),
                    tuple(map(_to_point, body.ancestry)),
                    body.compacted,
                    body.certain,
                )
            case "chunk":
                return Chunk(body.configuration, body.number, body.last, body.records)
            case "done":
                return Done(body.configuration)
    except (ConstructError, ValueError) as error:
        raise MalformedPacket("kv message", str(error).strip()) from error
    raise MalformedPacket("kv message", f"its kind is {parsed.kind}")


def encode_records(records: Iterable[Record]) -> bytes:
    """*records* as they are kept on disk."""
    return _RECORDS.build({"records": [_of_record(record) for record in records]})


def decode_records(data: bytes) -> list[Record]:
    """What ``encode_records`` made *data* of. Raises MalformedPacket."""
    try:
        return [_to_record(record) for record in _RECORDS.parse(data).records]
    except ConstructError as error:
        raise MalformedPacket("kv records", str(error).strip()) from error


def _of_ring(ring: RingId) -> dict[str, int]:
    return {"seq": ring.seq, "representative": ring.representative}


def _to_ring(parsed: "Container[Any]") -> RingId:
    return RingId(parsed.seq, NodeId(parsed.representative))


def _of_point(point: Point) -> dict[str, Any]:
    return {"history": _of_ring(point.history), "revision": point.revision}


def _to_point(parsed: "Container[Any]") -> Point:
    return Point(_to_ring(parsed.history), parsed.revision)


def _of_record(record: Record) -> dict[str, Any]:
    return {"ring": _of_ring(record.ring), "nodes": list(record.nodes)}


def _to_record(parsed: "Container[Any]") -> Record:
    return Record(_to_ring(parsed.ring), tuple(map(NodeId, parsed.nodes)))


# --- snapshots ----------------------------------------------------------------------------------

_HEAD: Final = struct.Struct("!BQHI")
"""A record: whether it is an entry (0) or a change (1, a deletion 2), revision, length of the key
and of the value, which follow."""

_ENTRY, _CHANGE, _DELETION = range(3)


def cut(
    entries: Iterable[tuple[str, Entry]], changes: Iterable[Change], chunk_bytes: int
) -> Iterator[bytes]:
    """The records of a map, one after another, in parts of *chunk_bytes*, the last one of less.

    No part is larger than the first, so who may send that may send all.
    """
    part = bytearray()
    for record in _records(entries, changes):
        place = 0
        while len(part) + len(record) - place > chunk_bytes:
            end = place + chunk_bytes - len(part)
            part += record[place:end]
            yield bytes(part)
            part.clear()
            place = end
        part += record[place:]
    yield bytes(part)


def _records(entries: Iterable[tuple[str, Entry]], changes: Iterable[Change]) -> Iterator[bytes]:
    for key, entry in entries:
        name = key.encode()
        yield _HEAD.pack(_ENTRY, entry.revision, len(name), len(entry.value)) + name + entry.value
    for change in changes:
        name, value = change.key.encode(), change.value or b""
        kind = _DELETION if change.value is None else _CHANGE
        yield _HEAD.pack(kind, change.revision, len(name), len(value)) + name + value


def read_records(data: bytes) -> tuple[list[tuple[str, Entry]], list[Change]]:
    """What ``cut`` made *data* of, in parts. Raises MalformedPacket."""
    entries: list[tuple[str, Entry]] = []
    changes: list[Change] = []
    place = 0
    while place < len(data):
        try:
            kind, revision, key_size, value_size = _HEAD.unpack_from(data, place)
            place += _HEAD.size
            name = data[place : place + key_size].decode()
        except (struct.error, UnicodeDecodeError) as error:
            raise MalformedPacket("kv snapshot", str(error)) from error
        place += key_size
        value = data[place : place + value_size]
        place += value_size
        if place > len(data) or kind > _DELETION:
            raise MalformedPacket("kv snapshot", "a record is cut off, or of no known kind")
        if kind == _ENTRY:
            entries.append((name, Entry(value, revision)))
        else:
            changes.append(Change(revision, name, None if kind == _DELETION else value))
    return entries, changes

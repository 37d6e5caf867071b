"""Packets of rings, named: frames, hellos of links, and what stands before a sealed one."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final

from vsync.errors import MalformedPacket
from vsync.links.hello import MAGIC as HELLO_MAGIC
from vsync.links.hello import parse_hello
from vsync.seal.envelope import ENVELOPE_BYTES, PREFIX_BYTES, is_sealed, read_prefix
from vsync.vocabulary import NodeId, RingId
from vsync.wire import Codec, FrameType, Part
from vsync.wire.header import HEADER_BYTES, HEADER_FAST, MAGIC

UNTOLD: Final = frozenset(
    ("buffer", "packets", "own", "checksum", "type", "first_byte", "lengths", "inner")
)
"""Fields that are bytes, or of no use to a reader."""
LISTED_MAX: Final = 16


def named(packet: bytes) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """The layer that *packet* is, its name beginning with ``vsync``; none if it is no ring's."""
    start = packet[:2]
    if start == MAGIC and len(packet) >= HEADER_BYTES:
        return [_frame(packet)]
    if start == HELLO_MAGIC:
        try:
            return [("vsync link hello", told(parse_hello(packet)))]
        except MalformedPacket as error:
            return [("vsync link hello", {"broken": str(error)})]
    if is_sealed(packet) and len(packet) >= ENVELOPE_BYTES:
        envelope = read_prefix(packet[:PREFIX_BYTES])
        if envelope is not None:
            facts = {"key": envelope.key_id.hex(), **envelope.stamp._asdict()}
            return [("vsync sealed", facts)]
    return []


def _frame(packet: bytes) -> tuple[str, Mapping[str, Any]]:
    _, version, number, _, network, sender, life = HEADER_FAST.unpack_from(packet)
    name = f"vsync {FrameType(number).name.lower() if number in set(FrameType) else 'frame'}"
    facts: dict[str, Any] = {"ring_name": f"{network:08x}", "sender": sender, "life": life}
    try:
        _, frame = Codec(network, NodeId(1), 1).decode(packet)
    except MalformedPacket as error:
        return name, {**facts, "version": version, "broken": str(error)}
    if isinstance(frame, Part):
        facts |= told(frame)
    elif number == FrameType.RECOVERED:
        facts |= {**told(frame), **{f"old_{key}": each for key, each in told(frame.inner).items()}}  # type: ignore[union-attr]
    else:
        facts |= told(frame)
    if number == FrameType.DATA and not isinstance(frame, Part):
        facts["messages"] = len(frame.lengths)  # type: ignore[union-attr]
    return name, facts


def told(frame: Any) -> dict[str, Any]:
    """The fields of a frame, JSON-ready."""
    names: Sequence[str]
    if is_dataclass(frame):
        names = [each.name for each in fields(frame)]
    else:
        names = getattr(frame, "_fields", getattr(frame, "__slots__", ()))
    found = {name: getattr(frame, name, None) for name in names if name[0] != "_"}
    return {name: _plain(value) for name, value in found.items() if name not in UNTOLD}


def _plain(value: Any) -> Any:
    if isinstance(value, RingId):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in list(value.items())[:LISTED_MAX]}
    if isinstance(value, frozenset | set):
        return sorted(value)[:LISTED_MAX]
    if is_dataclass(value):
        return told(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value[:LISTED_MAX]]
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return value

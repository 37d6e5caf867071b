"""Terms: the settings that all nodes of a ring have in common, as they travel between nodes.

Joins and beacons carry a *mark* of their sender's terms; where marks differ, the terms themselves
are told, so that the difference can be said in words. Rare: ``construct`` does all the work.
"""

import hashlib
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from construct import (
    Bytes,
    Float64b,
    Int8ub,
    Int64ub,
    PascalString,
    PrefixedArray,
    Struct,
)

from vsync.errors import MalformedPacket
from vsync.vocabulary import RingId

DIGEST_BYTES: Final = 8
NAME_BYTES_MAX: Final = 24
VALUES_MAX: Final = 24
FORMER_MAX: Final = 16
"""So many former terms of a ring are known: who comes with one of them is merely out of date."""

REVISION_MAX: Final = 2**62
"""No ring changes its terms so often; a higher number would leave no room for the next change."""

MARK = Struct(
    "revision" / Int64ub,  # how often the ring's terms were changed while it ran
    "digest" / Bytes(DIGEST_BYTES),  # of the values; equal: they agree
)

TERMS = Struct(
    "revision" / Int64ub,
    "former" / PrefixedArray(Int8ub, Bytes(DIGEST_BYTES)),  # digests, the latest first
    "settings"
    / PrefixedArray(
        Int8ub, Struct("name" / PascalString(Int8ub, "ascii"), "value" / Float64b)
    ),  # ascending by name
)

Values: TypeAlias = tuple[tuple[str, float], ...]
"""Settings by name, ascending; whole numbers are exact up to 2 ** 53."""

_NAME: Final = re.compile(rf"[a-z_]{{1,{NAME_BYTES_MAX}}}")


class Mark(NamedTuple):
    """What tells terms from others."""

    revision: int
    digest: bytes


NO_MARK: Final = Mark(0, bytes(DIGEST_BYTES))
"""That of no terms."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The settings that the nodes of a ring share: how often and from what they were changed."""

    revision: int
    former: tuple[bytes, ...]
    values: Values
    mark: Mark = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mark", Mark(self.revision, digest_of(self.values)))

    def changed_to(self, values: Values) -> "Terms":
        """What follows these terms."""
        former = (self.mark.digest, *self.former)[:FORMER_MAX]
        return Terms(self.revision + 1, former, values)


@dataclass(frozen=True, slots=True)
class ChangeTerms:
    """In the order of *ring*: its terms are changed, if their digest is *base*; with no base, they
    are what the sender knows to be in effect."""

    ring: RingId
    base: bytes
    terms: Terms


NO_BASE: Final = bytes(DIGEST_BYTES)


def digest_of(values: Values) -> bytes:
    """What stands for *values* in a mark."""
    hashed = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"vsync terms")
    for name, value in values:
        hashed.update(name.encode() + b"\0" + struct.pack(">d", value))
    return hashed.digest()


def differences(one: Values, other: Values) -> Iterator[tuple[str, float | None, float | None]]:
    """What differs: each name, with its value in *one* and in *other*; None where it has none."""
    here, there = dict(one), dict(other)
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            yield name, here.get(name), there.get(name)


def raw_terms(terms: Terms) -> dict[str, Any]:
    """*terms* as ``TERMS`` builds them."""
    return {
        "revision": terms.revision,
        "former": list(terms.former),
        "settings": [{"name": name, "value": value} for name, value in terms.values],
    }


def read_terms(raw: Any) -> Terms:
    """What ``TERMS`` has parsed. Raises MalformedPacket if it makes no sense."""
    values = tuple((str(each.name), float(each.value)) for each in raw.settings)
    names = [name for name, _ in values]
    if not 1 <= len(values) <= VALUES_MAX or names != sorted(set(names)):
        raise MalformedPacket("malformed", "the names of shared settings are not ascending")
    if not all(map(_NAME.fullmatch, names)) or not all(math.isfinite(each) for _, each in values):
        raise MalformedPacket("malformed", "shared settings have names or values that none has")
    if len(raw.former) > FORMER_MAX:
        raise MalformedPacket("malformed", f"{len(raw.former)} former settings are too many")
    return Terms(_revision(raw.revision), tuple(raw.former), values)


def raw_mark(mark: Mark) -> dict[str, Any]:
    """*mark* as ``MARK`` builds it."""
    return mark._asdict()


def read_mark(raw: Any) -> Mark:
    """What ``MARK`` has parsed. Raises MalformedPacket if it makes no sense."""
    return Mark(_revision(raw.revision), raw.digest)


def _revision(number: int) -> int:
    if number > REVISION_MAX:
        raise MalformedPacket("malformed", f"no settings can have revision {number}")
    return number

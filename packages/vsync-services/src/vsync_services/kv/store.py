"""The map of one node, and how far its history goes.

A *revision* counts the changes that a map has seen. Maps part when configurations do, so a revision
alone does not say which change is meant: a *point* does, which is a revision within one *history*.
A history is named by the ring of the configuration that it began in; at most one map goes on from
there. *ancestry* are the points at which the histories before were left, oldest first.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from vsync.vocabulary import NodeId, RingId

NO_HISTORY: Final = RingId(0, NodeId(0))
"""That of a map which nobody has written to yet."""

ANCESTRY_MAX: Final = 64
"""Histories remembered. Older ones matter only to a watch that slept through as many changes."""

DIGEST_BYTES: Final = 16
_DIGEST_MASK: Final = (1 << 8 * DIGEST_BYTES) - 1


class Point(NamedTuple):
    """A place in the life of a map."""

    history: RingId
    revision: int

    def __str__(self) -> str:
        return f"{self.history}:{self.revision}"

    @classmethod
    def from_text(cls, text: str) -> "Point":
        """The point that ``str`` gave *text* for. Raises ValueError."""
        history, _, revision = text.partition(":")
        point = cls(RingId.from_text(history), int(revision))
        if str(point) != text or point.revision < 0:
            raise ValueError(f"{text!r} is no point of a map")
        return point


class Entry(NamedTuple):
    """A value, and the revision that it came with."""

    value: bytes
    revision: int


class Change(NamedTuple):
    """What one revision did: *key* has *value* now, or is gone (None)."""

    revision: int
    key: str
    value: bytes | None


class Behind(Exception):
    """The changes after a point cannot be told; the text is a sentence that says why."""


class Ahead(Behind):
    """They cannot be told yet: it is this map that is behind."""


def entry_digest(key: str, entry: Entry) -> int:
    """One entry's part of the digest of a map."""
    name = key.encode()
    head = b"%d %d " % (entry.revision, len(name))
    digest = hashlib.blake2b(head + name, digest_size=DIGEST_BYTES)
    digest.update(entry.value)
    return int.from_bytes(digest.digest(), "big")


@dataclass(slots=True)
class Store:
    """One map. *live*: it was brought up to date in some configuration of this node's life."""

    changes_max: int
    """Changes kept for watches."""
    changes_bytes_max: int
    live: bool = False
    history: RingId = NO_HISTORY
    revision: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    size_bytes: int = 0
    """Of all keys and values."""
    digest: int = 0
    """The sum of all entries' digests: the same map has the same, in whatever order it was made."""
    ancestry: list[Point] = field(default_factory=list)
    changes: deque[Change] = field(default_factory=deque)
    """The last ones, ascending: all after *compacted*."""
    compacted: int = 0
    _changes_bytes: int = 0

    @property
    def point(self) -> Point:
        """Where the map is."""
        return Point(self.history, self.revision)

    # --- changes --------------------------------------------------------------------------------

    def set(self, key: str, value: bytes) -> int:
        """Give *key* a *value*; the revision of that."""
        self._take_out(key)
        self.revision += 1
        self._put(key, Entry(value, self.revision))
        self._note(Change(self.revision, key, value))
        return self.revision

    def delete(self, key: str) -> int | None:
        """Take *key* out; the revision of that, None if it was not there."""
        if key not in self.entries:
            return None
        self._take_out(key)
        self.revision += 1
        self._note(Change(self.revision, key, None))
        return self.revision

    def _put(self, key: str, entry: Entry) -> None:
        self.entries[key] = entry
        self.size_bytes += size_of(key, entry.value)
        self.digest = (self.digest + entry_digest(key, entry)) & _DIGEST_MASK

    def _take_out(self, key: str) -> None:
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= size_of(key, entry.value)
            self.digest = (self.digest - entry_digest(key, entry)) & _DIGEST_MASK

    def _note(self, change: Change) -> None:
        self.changes.append(change)
        self._changes_bytes += size_of(change.key, change.value or b"")
        while len(self.changes) > self.changes_max or self._changes_bytes > self.changes_bytes_max:
            oldest = self.changes.popleft()
            self._changes_bytes -= size_of(oldest.key, oldest.value or b"")
            self.compacted = oldest.revision

    # --- histories ------------------------------------------------------------------------------

    def begin(self, history: RingId) -> None:
        """From here on, the map is of *history*."""
        if self.live or self.revision:
            self.ancestry.append(self.point)
            del self.ancestry[:-ANCESTRY_MAX]
        self.history = history
        self.live = True

    def in_common(self, ancestry: Sequence[Point], point: Point) -> int:
        """The last revision shared with a map that is at *point* and came over *ancestry*."""
        theirs = {each.history: each.revision for each in (*ancestry, point)}
        for mine in (self.point, *reversed(self.ancestry)):
            if mine.history in theirs:
                return min(mine.revision, theirs[mine.history])
        return 0

    def changes_after(self, point: Point, *, until: int) -> Iterator[Change]:
        """The changes after *point*, up to the revision *until*. Raises Behind."""
        if point.history != self.history:
            left = next((old for old in self.ancestry if old.history == point.history), None)
            if left is None:
                raise Behind(
                    f"this node's map knows nothing of {point}: it is of another part of the ring, "
                    "or too long ago; list the map again, and watch from there"
                )
            if left.revision < point.revision:
                raise Behind(
                    f"what led to {point} was given up when parts of the ring came together; list "
                    "the map again, and watch from there"
                )
        elif self.revision < point.revision:
            raise Ahead(f"{point} is not there yet: this node's map is at revision {self.revision}")
        if point.revision < self.compacted:
            raise Behind(
                f"{point} is too far behind: changes up to revision {self.compacted} are no longer "
                "kept; list the map again, and watch from there"
            )
        return (change for change in self.changes if point.revision < change.revision <= until)

    # --- as a whole -----------------------------------------------------------------------------

    def installed(
        self,
        entries: Iterable[tuple[str, Entry]],
        changes: Iterable[Change],
        ancestry: Sequence[Point],
        point: Point,
        compacted: int,
    ) -> "Store":
        """A map with this content, which keeps as many changes as this one."""
        made = Store(self.changes_max, self.changes_bytes_max, live=True)
        for key, entry in entries:
            made._take_out(key)
            made._put(key, entry)
        made.compacted = compacted
        for change in changes:
            made._note(change)
        made.history, made.revision = point
        made.ancestry = list(ancestry)
        return made


def size_of(key: str, value: bytes) -> int:
    """What an entry counts for, in bytes."""
    return len(key.encode()) + len(value)

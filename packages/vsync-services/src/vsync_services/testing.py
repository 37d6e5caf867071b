"""Is a map linearizable? A recorder of what clients saw, and a checker of what it recorded.

Every completed call must seem to have happened at one moment between its beginning and its end; a
call whose outcome is unknown at one moment after its beginning, or never. The checker looks for
such moments, key by key (a history is linearizable if that of each key is; Herlihy and Wing 1990,
theorem 1), with the search of Wing and Gong (1993), which does not look twice at the same calls and
the same state (Lowe 2017), and uses what revisions tell.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, NamedTuple, TypeAlias

from vsync_services.kv.client import KeyValue
from vsync_services.kv.errors import NoRoom, NotPrimary


@dataclass(frozen=True, slots=True)
class Get:
    """A read; it saw *value* at *revision* (None and 0: nothing there)."""

    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Set:
    """A write of *value*; *revision* is what it was told, None if its outcome is unknown."""

    value: bytes
    revision: int | None


@dataclass(frozen=True, slots=True)
class Delete:
    """A deletion; whether the key was there, None if its outcome is unknown."""

    deleted: bool | None


@dataclass(frozen=True, slots=True)
class CompareAndSet:
    """*value* (None: delete) in place of what was of revision *expected*.

    *swapped* and *revision* are what it was told; None if its outcome is unknown.
    """

    expected: int
    value: bytes | None
    swapped: bool | None
    revision: int | None


Action: TypeAlias = Get | Set | Delete | CompareAndSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What one client did with one key, from when to when, on any one clock.

    *end* is infinite if the outcome is unknown: it may take effect at any later time.
    """

    client: str
    key: str
    begin: float
    end: float
    action: Action

    def __str__(self) -> str:
        end = "…" if self.end == inf else f"{self.end:g}"
        return f"[{self.begin:g}, {end}] {self.client}: {self.key} {self.action}"


class Cell(NamedTuple):
    """The state of one key. *revision* is None where no answer has told it yet."""

    value: bytes | None
    revision: int | None
    above: int
    """The key's next revision is above this one."""


EMPTY: Final = Cell(None, 0, 0)
"""A key that is not there, and never was."""


def after(cell: Cell, action: Action) -> Cell | None:
    """The state after *action*, if it could have had its answer in the state *cell*; else None."""
    match action:
        case Get(value, revision):
            return _seen(cell, revision) if value == cell.value else None
        case Set(value, None):
            return Cell(value, None, cell.above)
        case Set(value, int(revision)):
            return Cell(value, revision, revision) if revision > cell.above else None
        case Delete(deleted):
            there = cell.value is not None
            return Cell(None, 0, cell.above) if deleted in (None, there) else None
        case CompareAndSet(expected, _, False, revision):
            return None if revision is None or revision == expected else _seen(cell, revision)
        case CompareAndSet(expected, value, _, revision):
            was = _seen(cell, expected)
            if was is None:
                return None
            if value is None:
                return Cell(None, 0, was.above)
            if revision is None:
                return Cell(value, None, was.above)
            return Cell(value, revision, revision) if revision > was.above else None
    return None


def _seen(cell: Cell, revision: int) -> Cell | None:
    """The state if the key is of *revision*; None if it cannot be."""
    if cell.revision is not None:
        return cell if cell.revision == revision else None
    return cell._replace(revision=revision, above=revision) if revision > cell.above else None


@dataclass(frozen=True, slots=True)
class NotLinearizable:
    """No moments explain the calls of *key*; *stuck* are those among which the search ended."""

    key: str
    explained: int
    stuck: tuple[Call, ...]
    cell: Cell

    def __str__(self) -> str:
        lines = [f"  {call}" for call in self.stuck]
        return (
            f"key {self.key!r}: after {self.explained} calls, at {self.cell}, none of these can be "
            "next:\n" + "\n".join(lines)
        )


def check_linearizable(calls: Iterable[Call], initial: Cell = EMPTY) -> list[NotLinearizable]:
    """The keys whose calls cannot be explained, each with where the search got stuck."""
    by_key: dict[str, list[Call]] = {}
    for call in calls:
        by_key.setdefault(call.key, []).append(call)
    found = (_check_key(key, by_key[key], initial) for key in sorted(by_key))
    return [violation for violation in found if violation is not None]


def _check_key(key: str, calls: Sequence[Call], initial: Cell) -> NotLinearizable | None:
    order = sorted(calls, key=lambda call: (call.begin, call.end))
    completed = sum(1 << place for place, call in enumerate(order) if call.end != inf)
    seen = {(0, initial)}
    waiting = [(0, initial)]
    furthest = (0, 0, initial)
    while waiting:
        done, cell = waiting.pop()
        if done & completed == completed:
            return None
        if done.bit_count() >= furthest[0]:
            furthest = (done.bit_count(), done, cell)
        for place, following in _choices(order, done, cell):
            step = (done | 1 << place, following)
            if step not in seen:
                seen.add(step)
                waiting.append(step)
    explained, done, cell = furthest
    stuck = tuple(order[place] for place in _next(order, done))
    return NotLinearizable(key, explained, stuck, cell)


def _choices(order: Sequence[Call], done: int, cell: Cell) -> list[tuple[int, Cell]]:
    """The calls that may be next, with the state after each; the most likely one last.

    Two rules leave out most, and never the only way. A completed call that changes nothing may as
    well be next at once: whatever order has it later is as good with it here. And since revisions
    only grow, of the writes whose revision is known the one with the lowest goes before all others.
    """
    rest = [place for place in range(len(order)) if not done >> place & 1]
    lowest = min((_revision(order[place].action) for place in rest), default=inf)
    choices: list[tuple[int, Cell]] = []
    for place in _next(order, done):
        call = order[place]
        following = after(cell, call.action)
        if following is None:
            continue
        if following == cell:
            if call.end != inf:
                return [(place, cell)]
            continue  # to take effect so is not to take effect
        if _revision(call.action) in (lowest, inf):
            choices.append((place, following))
    return sorted(choices, key=lambda choice: -order[choice[0]].end)


def _revision(action: Action) -> float:
    """The revision that a write is known to have made; infinite if there is none."""
    match action:
        case Set(_, int(revision)) | CompareAndSet(_, bytes(), True, int(revision)):
            return revision
    return inf


def _next(order: Sequence[Call], done: int) -> Iterator[int]:
    """The calls that may be next: those that began before any other of the rest had ended."""
    rest = [place for place in range(len(order)) if not done >> place & 1]
    first_end = min((order[place].end for place in rest), default=inf)
    return (place for place in rest if order[place].begin <= first_end)


class Recorder:
    """Calls the map for clients, and writes down what they saw.

    *clock* says when: without it, a counter, which tells more than any clock where all clients are
    in one process. Errors of kv come through to the caller, and so does the loss of a node.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        ticks = itertools.count(1)
        self._clock = clock or (lambda: next(ticks))
        self.calls: list[Call] = []

    async def get(self, client: str, values: KeyValue, key: str) -> Get:
        """Read. A read without an answer has seen nothing, and is not written down."""
        begin = self._clock()
        item = await values.get(key)
        seen = Get(None, 0) if item is None else Get(item.value, item.revision)
        self._note(client, key, begin, seen)
        return seen

    async def set(self, client: str, values: KeyValue, key: str, value: bytes) -> int:
        """Write."""
        with _Pending(self, client, key, Set(value, None)) as pending:
            revision = await values.set(key, value)
            pending.answered(Set(value, revision))
        return revision

    async def delete(self, client: str, values: KeyValue, key: str) -> bool:
        """Delete."""
        with _Pending(self, client, key, Delete(None)) as pending:
            deleted = await values.delete(key)
            pending.answered(Delete(deleted))
        return deleted

    async def compare_and_set(
        self, client: str, values: KeyValue, key: str, value: bytes | None, revision: int
    ) -> bool:
        """Compare and set."""
        unknown = CompareAndSet(revision, value, None, None)
        with _Pending(self, client, key, unknown) as pending:
            swap = await values.compare_and_set(key, value, revision=revision)
            pending.answered(CompareAndSet(revision, value, swap.swapped, swap.revision))
        return swap.swapped

    def _note(
        self, client: str, key: str, begin: float, action: Action, end: float | None = None
    ) -> None:
        end = self._clock() if end is None else end
        self.calls.append(Call(client=client, key=key, begin=begin, end=end, action=action))


class _Pending:
    """A write under way: written down when it ends, however it does."""

    def __init__(self, recorder: Recorder, client: str, key: str, unknown: Action) -> None:
        self._recorder = recorder
        self._client = client
        self._key = key
        self._action = unknown
        self._end: float | None = inf
        self._begin = recorder._clock()

    def answered(self, action: Action) -> None:
        self._action, self._end = action, None

    def __enter__(self) -> "_Pending":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, NotPrimary | NoRoom):  # those had no effect, and will have none
            self._recorder._note(self._client, self._key, self._begin, self._action, self._end)

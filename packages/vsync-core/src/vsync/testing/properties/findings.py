"""What a property finds, how it says so, and the list of all properties."""

import builtins
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from vsync.testing.history import History, Message, Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that is not as a property says."""

    property: str
    """The property's number, as ``6.3``."""
    text: str
    """What is wrong, in one sentence, naming processes, messages and configurations."""
    process: str = ""
    """Where it was seen, as ``node 2 (life 3f)``; empty if it concerns all alike."""
    lines: tuple[int, ...] = ()
    """Numbers of the lines concerned, from 0; ``History.place`` tells file and line."""
    messages: tuple[str, ...] = ()
    """Ids of the messages concerned."""
    undecidable: bool = False
    """No protocol that does not block can avoid it; a note, not a fault. See property 2.7."""

    @builtins.property
    def severity(self) -> str:
        """``violation``, or ``note`` if it is undecidable."""
        return "note" if self.undecidable else "violation"


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check found."""

    violations: tuple[Violation, ...]
    """Breaches of a property: something is wrong."""
    notes: tuple[Violation, ...]
    """Breaches that no protocol could have avoided."""

    @property
    def holds(self) -> bool:
        """Whether every property holds, notes aside."""
        return not self.violations


Predicate: TypeAlias = Callable[[History], Iterator[Violation]]


class Property(NamedTuple):
    """One numbered property: *breaches* finds what breaks it."""

    number: str
    statement: str
    breaches: Predicate
    quiet: bool
    """Makes sense only for a run that ended without faults and traffic for a settling time."""


STATED: Final[list[Property]] = []
"""Every property whose module was imported."""


def stated(number: str, statement: str, *, quiet: bool = False) -> Callable[[Predicate], Predicate]:
    """Enter the decorated function among the properties."""

    def register(function: Predicate) -> Predicate:
        STATED.append(Property(number, statement, function, quiet))
        return function

    return register


def named(ids: Iterable[object], *, most: int = 5) -> str:
    """A few of *ids* by name, and how many more there are."""
    names = [str(id) for id in ids]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def listed(history: History, indexes: Iterable[int]) -> list[Message]:
    """The messages of these indexes, in the order in which the history met them."""
    return [history.messages[index] for index in sorted(indexes)]


def ring_seq(id: str) -> int | None:
    """The ring sequence number in a regular configuration's id, as 12 in ``12.1``."""
    seq, dot, representative = id.partition(".")
    if dot and seq.isascii() and seq.isdigit() and representative.isascii():
        return int(seq) if representative.isdigit() else None
    return None


def may_have_entered(process: Process, id: str) -> bool:
    """Whether *process*, killed, may have entered regular configuration *id* untold.

    Its trace must end before; where ids have ring sequence numbers, that shows.
    """
    if process.stopped:
        return False
    if not process.stays:
        return True
    last, asked = ring_seq(process.stays[-1].id), ring_seq(id)
    return last is None or asked is None or last < asked


def breach(
    number: str,
    text: str,
    process: Process | None = None,
    events: Iterable[int] = (),
    messages: Iterable[object] = (),
    undecidable: bool = False,
) -> Violation:
    """A violation seen at *process*, in these of its events."""
    return Violation(
        property=number,
        text=text,
        process=str(process) if process is not None else "",
        lines=tuple(process.places[event] for event in events) if process is not None else (),
        messages=tuple(map(str, messages)),
        undecidable=undecidable,
    )

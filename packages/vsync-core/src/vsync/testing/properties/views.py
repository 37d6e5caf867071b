"""Properties V.1 to V.5, X.3 and X.4: group views.

A *view* is a ``group`` line: who is in a group from here on. Every process tells of the views of
all groups. Its *table* is what its last views say: the members of each group, and whether it is
closed. A view stands behind so many agreed and safe messages of its stay; that is its *place*.

Processes that come together from different sides have different tables, until all have announced
their sessions: then the tables are made equal, at one place, and stay so. A trace does not tell
where that was, but no view comes before it that is about anything else than nodes that are gone.
Here a configuration counts as *settled* from the first such view on.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias, cast
from weakref import WeakKeyDictionary

from vsync.testing.history import AGREED, History, Process, Span, Stay
from vsync.testing.properties.atomicity import together
from vsync.testing.properties.findings import Violation, breach, named, stated
from vsync.trace import GroupChanged, Session
from vsync.vocabulary import Cause

COMING: Final = (Cause.JOINED.value, Cause.MERGED.value)
MERGED: Final = Cause.MERGED.value
GONE: Final = Cause.NODE_GONE.value

ORDINARY: Final = ("medium", "low")
"""The priorities that wait until a configuration is synchronized."""


class Entry(NamedTuple):
    """One group in a table."""

    members: tuple[Session, ...]
    closed: bool


Table: TypeAlias = dict[str, Entry]
"""By group. Groups without members are left out."""


class View(NamedTuple):
    """One view that a process told of."""

    event: int
    place: int
    """How many agreed and safe messages of its stay were delivered before it."""
    line: GroupChanged

    @property
    def ordered(self) -> bool:
        """It is about more than nodes that are gone."""
        return any(cause != GONE for cause in self.line.causes)

    def joined(self) -> Iterator[tuple[Session, str]]:
        """Who joined, and the cause."""
        return zip(self.line.joined, self.line.causes, strict=False)

    def left(self) -> Iterator[tuple[Session, str]]:
        """Who left, and the cause."""
        return zip(self.line.left, self.line.causes[len(self.line.joined) :], strict=False)

    def told(self) -> tuple[object, ...]:
        """What must be equal for all, where all have the same table."""
        line = self.line
        return line.group, line.members, line.joined, line.left, line.causes, line.closed


@dataclass(slots=True)
class Course:
    """What one process told of groups in one stay."""

    stay: Stay
    before: Table
    """Its table when it came."""
    regular: list[View] = field(default_factory=list)
    transitional: list[View] = field(default_factory=list)
    places: int = 0
    """Agreed and safe messages that it delivered in the regular configuration."""
    past: int = 0
    """Equal numbers: they are sure to have come with equal tables, to which equal things led."""

    @property
    def process(self) -> Process:
        return self.stay.process

    @property
    def views(self) -> list[View]:
        return self.regular + self.transitional

    def table(self, views: Iterable[View]) -> Table:
        """The table after these of its views."""
        table = dict(self.before)
        for view in views:
            _enter(table, view.line)
        return table


def _enter(table: Table, line: GroupChanged) -> None:
    if line.members:
        table[line.group] = Entry(line.members, line.closed)
    else:
        table.pop(line.group, None)


def _settled_at(views: Iterable[View]) -> int | None:
    """The place of the first ordered view."""
    return next((view.place for view in views if view.ordered), None)


Courses: TypeAlias = Mapping[str, Sequence[Course]]

_READ: Final[WeakKeyDictionary[History, Courses]] = WeakKeyDictionary()


def _courses(history: History) -> Courses:
    """By regular configuration, the courses in it; empty if nobody tells of any view."""
    known = _READ.get(history)
    if known is None:
        told = any(span.views for process in history.processes for span in process.spans)
        known = _READ[history] = _read(history) if told else {}
    return known


def _read(history: History) -> Courses:
    by_configuration: dict[str, list[Course]] = {}
    for process in history.processes:
        table: Table = {}
        for stay in process.stays:
            course = Course(stay, table)
            course.regular, course.places = _views(history, process, stay.span, 0)
            if stay.transitional is not None:
                course.transitional, _ = _views(history, process, stay.transitional, course.places)
            table = course.table(course.views)
            by_configuration.setdefault(stay.id, []).append(course)
    _tell_pasts(by_configuration)
    return by_configuration


def _views(history: History, process: Process, span: Span, before: int) -> tuple[list[View], int]:
    """The views in *span*, and how many messages have places up to its end."""
    ordered = [
        event
        for event, index in zip(span.events, span.messages, strict=True)
        if history.messages[index].rank >= AGREED
    ]
    views = [
        View(event, before + bisect_left(ordered, event), cast(GroupChanged, process.lines[event]))
        for event in span.views
    ]
    return views, before + len(ordered)


def _tell_pasts(by_configuration: Mapping[str, Sequence[Course]]) -> None:
    """Who went through t after their tables were made equal comes with equal ones; others do only
    if they had before.
    """
    settled: set[str] = set()
    by_process: dict[int, list[Course]] = {}
    for courses in by_configuration.values():
        for course in courses:
            by_process.setdefault(course.process.index, []).append(course)
            if course.stay.transitional is not None and _settled_at(course.views) is not None:
                settled.add(course.stay.transitional.configuration.id)
    numbers: dict[tuple[object, ...], int] = {}
    for index, courses in by_process.items():
        past: tuple[object, ...] = ("life", index)
        for course in sorted(courses, key=lambda course: course.stay.span.ordinal):
            course.past = numbers.setdefault(past, len(numbers))
            if course.stay.transitional is not None:
                id = course.stay.transitional.configuration.id
                past = (id,) if id in settled else (id, course.past)


# --- one process alone ----------------------------------------------------------------------------


@stated("V.1", "A group view is the one before it, with who joined and without who left.")
def views_differ_by_who_joined_and_left(history: History) -> Iterator[Violation]:
    """Exactly, with one cause for each that fits: who comes has joined or was merged in."""
    for process in history.processes:
        table: dict[str, frozenset[Session]] = {}
        for span in process.spans:
            for event in span.views:
                line = cast(GroupChanged, process.lines[event])
                before = table.get(line.group, frozenset())
                for fault in _faults(line, before):
                    yield breach(
                        "V.1",
                        f"{process} tells of group {line.group} in "
                        f"{span.configuration.id} a view that {fault}",
                        process,
                        [event],
                    )
                table[line.group] = frozenset(line.members)


def _faults(line: GroupChanged, before: frozenset[Session]) -> Iterator[str]:
    joined, left = frozenset(line.joined), frozenset(line.left)
    if list(line.members) != sorted(set(line.members)):
        yield "does not name its members once each, ascending"
    if not joined and not left:
        yield "changes nothing"
    if joined & before:
        yield f"names as joined {_sessions(joined & before)}, who had been in it"
    if left - before:
        yield f"names as left {_sessions(left - before)}, who had not been in it"
    wrong = (before | joined) - left ^ frozenset(line.members)
    if wrong:
        yield f"is not the one before it with who joined and without who left: {_sessions(wrong)}"
    if len(line.causes) != len(line.joined) + len(line.left):
        yield f"has {len(line.causes)} causes for {len(line.joined) + len(line.left)} changes"
        return
    for word in line.causes[: len(line.joined)]:
        if word not in COMING:
            yield f"says that somebody came because of {word!r}"
    for word in line.causes[len(line.joined) :]:
        if word in COMING:
            yield f"says that somebody went because of {word!r}"


@stated("V.2", "With a node go all its sessions, at once, for that cause; and no others.")
def sessions_go_with_their_node(history: History) -> Iterator[Violation]:
    """Before anything else in the configuration that lost it, or that has it anew."""
    for process in history.processes:
        table: Table = {}
        for span in process.spans:
            yield from _gone(process, span, table)
            for event in span.views:
                _enter(table, cast(GroupChanged, process.lines[event]))


def _gone(process: Process, span: Span, table: Table) -> Iterator[Violation]:
    configuration = span.configuration
    here = set(configuration.members)
    if span.regular:
        here -= set(configuration.joined)
    owed = {
        group: lost
        for group, entry in table.items()
        if (lost := {session for session in entry.members if session[0] not in here})
    }
    following = span.event + 1
    for event in span.views:
        line = cast(GroupChanged, process.lines[event])
        gone = {
            session
            for session, cause in zip(line.left, line.causes[len(line.joined) :], strict=False)
            if cause == GONE
        }
        if event == following and owed.get(line.group) == gone and not line.joined:
            del owed[line.group]
        elif gone:
            yield breach(
                "V.2",
                f"{process} says that {_sessions(gone)} left group {line.group} with their node, "
                f"which {configuration.id} does not say, or not so",
                process,
                [event],
            )
        if owed and event != following:
            break
        following += 1
    last = following == len(process.lines)
    for group, lost in owed.items() if not last else ():
        yield breach(
            "V.2",
            f"{process} goes on in {configuration.id} with {_sessions(lost)} in group {group}, "
            "whose node is gone, or is another life now",
            process,
            [span.event],
        )


@stated("V.3", "Merged in are only sessions of nodes that were elsewhere before.")
def merged_sessions_were_elsewhere(history: History) -> Iterator[Violation]:
    """Not those of the node itself, nor of one that was with it since its views were settled."""
    for process in history.processes:
        with_us = {process.node}
        for span in process.spans:
            members = set(span.configuration.members)
            with_us &= members
            with_us -= set(span.configuration.joined) if span.regular else set()
            with_us.add(process.node)
            latest = -1
            for event in span.views:
                line = cast(GroupChanged, process.lines[event])
                if latest >= 0 and event > latest + 1:
                    with_us = members  # what was merged in has been told
                if any(cause != GONE for cause in line.causes):
                    latest = event
                here = {
                    session
                    for session, cause in zip(line.joined, line.causes, strict=False)
                    if cause == MERGED and session[0] in with_us
                }
                if here:
                    yield breach(
                        "V.3",
                        f"{process} tells of {_sessions(here)} as merged into group {line.group} "
                        f"in {span.configuration.id}, whose node had been with it before",
                        process,
                        [event],
                    )
            if latest >= 0:
                with_us = members


@stated("X.3", "What is of ordinary priority comes behind the views that bring sides together.")
def ordinary_messages_come_behind_merged_views(history: History) -> Iterator[Violation]:
    """In each configuration, messages of medium and low priority are held until it is synchronized,
    and it is not before it is settled. (Early messages are left out: who lacks frames may deliver
    them before a view that its sender had long seen. That the higher of two waiting priorities goes
    first is inside a node, and in no trace.)
    """
    for courses in _courses(history).values():
        for course in courses:
            merging = [view for view in course.views if MERGED in view.line.causes]
            if not merging:
                continue
            place = 0
            for index in course.stay.messages():
                message = history.messages[index]
                if message.rank < AGREED or place >= merging[-1].place:
                    continue
                place += 1
                if message.priority in ORDINARY:
                    yield breach(
                        "X.3",
                        f"{course.process} delivers {message.id}, of {message.priority} priority, "
                        f"before the views with which configuration {course.stay.id} begins",
                        course.process,
                        [course.process.delivered[index], merging[-1].event],
                        [message],
                    )
                    break


# --- several together -----------------------------------------------------------------------------


@stated("X.4", "A group view has one place in the order, and names sessions of members.")
def views_have_one_place(history: History) -> Iterator[Violation]:
    """In a regular configuration, once it is settled: at the same place all tell the same views.

    As far as their traces go. (Whether an application had joined when it was handed a message, a
    trace does not show.)
    """
    for process in history.processes:
        for span in process.spans:
            yield from _strange(process, span)
    for courses in _courses(history).values():
        places = [place for c in courses if (place := _settled_at(c.regular)) is not None]
        if places:
            longest = max(courses, key=lambda course: course.places)
            for course in courses:
                if course is not longest:
                    yield from _compare(longest, course, min(places))


def _strange(process: Process, span: Span) -> Iterator[Violation]:
    for event in span.views:
        line = cast(GroupChanged, process.lines[event])
        strangers = {node for node, _ in line.members} - set(span.configuration.members)
        if line.configuration != span.configuration.id:
            fault = f"as of configuration {line.configuration}, but in"
        elif strangers:
            fault = f"with sessions on {named(sorted(strangers))}, who are not members of"
        else:
            continue
        yield breach(
            "X.4",
            f"{process} tells of group {line.group} {fault} {span.configuration.id}",
            process,
            [event],
        )


def _compare(longest: Course, course: Course, settled: int) -> Iterator[Violation]:
    """Compare two in one regular configuration, from the place where it was settled."""
    if course.places < settled:
        return
    common = min(longest.places, course.places)
    first = settled if longest.past == course.past else settled + 1
    if common > settled:
        theirs = longest.table(view for view in longest.regular if view.place <= settled)
        ours = course.table(view for view in course.regular if view.place <= settled)
        if ours != theirs:
            yield _differ(longest, course, _one_of(ours, theirs), course.stay.span.event)
            return
    ours_told = [view for view in course.regular if view.ordered and first <= view.place <= common]
    theirs_told = [
        view for view in longest.regular if view.ordered and first <= view.place <= common
    ]
    for mine, other in zip(ours_told, theirs_told, strict=False):
        if mine.place != other.place or mine.told() != other.told():
            yield _differ(longest, course, mine.line.group, mine.event)
            return
    # Where one of them ends it need not have come to the last views of that place.
    count = min(len(ours_told), len(theirs_told))
    for mine in ours_told[count:]:
        if mine.place < common:
            yield _differ(longest, course, mine.line.group, mine.event)
            return
    for other in theirs_told[count:]:
        if other.place < common:
            yield _differ(longest, course, other.line.group, course.stay.span.event)
            return


def _differ(one: Course, other: Course, group: str, event: int) -> Violation:
    return breach(
        "X.4",
        f"{other.process} and {one.process} tell differently of group {group} in configuration "
        f"{one.stay.id}",
        other.process,
        [event],
    )


def _one_of(ours: Table, theirs: Table) -> str:
    """A group in which the tables differ."""
    return min(
        group for group in ours.keys() | theirs.keys() if ours.get(group) != theirs.get(group)
    )


@stated("V.4", "Those who go through the same configurations see the same group changes in them.")
def those_who_move_together_see_the_same_views(history: History) -> Iterator[Violation]:
    """For each (c, t, n): in the same order, at the same places, and they go with equal tables.

    Changes of sessions whose nodes were lost are left out: one process may see in c what another,
    for whom it would come in t, does not see at all. So are those with which sides came together;
    what they led to is compared.
    """
    courses = _courses(history)
    if not courses:
        return
    for id, stays in history.stays.items():
        by_stay = {course.stay: course for course in courses.get(id, ())}
        for (t, n), group in together(stays).items():
            if len(group) < 2:
                continue
            all_together = [by_stay[stay] for stay in group]
            places = [p for c in all_together if (p := _settled_at(c.views)) is not None]
            if places:
                for other in all_together[1:]:
                    yield from _compare_changes(all_together[0], other, min(places), (id, t, n))


def _compare_changes(
    first: Course, other: Course, settled: int, through: tuple[str, str, str]
) -> Iterator[Violation]:
    way = f"both go from {through[0]} through {through[1]} to {through[2]}"
    since = settled if first.past == other.past else settled + 1
    changes = [list(_changes(course, since)) for course in (first, other)]
    different = next(
        (
            (mine, theirs)
            for mine, theirs in _longest(changes[1], changes[0])
            if (mine and mine[1:]) != (theirs and theirs[1:])
        ),
        None,
    )
    if different is not None:
        mine, theirs = different
        change = mine or theirs
        assert change is not None
        yield breach(
            "V.4",
            f"{other.process} and {first.process} {way}, but see group {change[2]} change "
            "differently",
            other.process,
            [mine[0] if mine else other.stay.span.event],
        )
        return
    tables = [course.table(course.views) for course in (first, other)]
    if tables[0] != tables[1]:
        yield breach(
            "V.4",
            f"{other.process} and {first.process} {way}, but with different members of group "
            f"{_one_of(tables[0], tables[1])}",
            other.process,
            [other.stay.span.event],
        )


Change: TypeAlias = tuple[int, int, str, tuple[object, ...], tuple[object, ...]]
"""Event, place, group, who joined, who left."""


def _longest(
    ours: Sequence[Change], theirs: Sequence[Change]
) -> Iterator[tuple[Change | None, Change | None]]:
    for number in range(max(len(ours), len(theirs))):
        yield (
            ours[number] if number < len(ours) else None,
            theirs[number] if number < len(theirs) else None,
        )


def _changes(course: Course, since: int) -> Iterator[Change]:
    """The ordered changes from place *since* on, of sessions whose nodes go on."""
    assert course.stay.transitional is not None
    going = course.stay.transitional.configuration.members
    for view in course.views:
        if view.place < since or not view.ordered:
            continue
        joined = tuple(move for move in view.joined() if move[0][0] in going)
        left = tuple(move for move in view.left() if move[0][0] in going)
        if joined or left:
            yield view.event, view.place, view.line.group, joined, left


@stated("V.5", "After a quiet end, the members of a configuration agree on all groups.", quiet=True)
def all_agree_on_groups_at_the_end(history: History) -> Iterator[Violation]:
    """On the members of each, and on whether it is closed."""
    last: dict[str, list[Course]] = {}
    running = {process.index for process in history.running()}
    for id, courses in _courses(history).items():
        for course in courses:
            process = course.process
            if process.index in running and process.stays[-1] is course.stay:
                last.setdefault(id, []).append(course)
    for id, courses in last.items():
        for first, other in pairwise(courses):
            tables = [course.table(course.views) for course in (first, other)]
            if tables[0] != tables[1]:
                yield breach(
                    "V.5",
                    f"{other.process} and {first.process} end in configuration {id} with "
                    f"different members of group {_one_of(tables[0], tables[1])}",
                    other.process,
                    [other.stay.span.event],
                )


def _sessions(sessions: Iterable[Session]) -> str:
    return named(f"{node}/{session}" for node, session in sorted(sessions))

"""The properties of Extended Virtual Synchrony, each as one function over a history.

Source: Moser, Amir, Melliar-Smith, Agarwal, "Extended Virtual Synchrony", ICDCS 1994. Numbers 1.1
to 7.2 follow the grouping of that paper; those with an X are this project's own. Words (process,
stay, home …) are those of ``vsync.testing.history``.

    history = History.from_files(["1.trace", "2.trace", "3.trace"])
    findings = check(history)
    assert findings.holds, findings.violations

How truncated traces are read: a life without a ``stop`` line may have been killed, and its trace is
then a prefix of the truth. It owes nothing in the stay in which its trace ends. A ``send`` line is
written before the message is first transmitted, so every message that was delivered anywhere has
one.

A ``send`` line tells when a message was *accepted*; its place in the order it gets later. So a
message of higher priority may pass an earlier one of its own sender, and cause and effect between
messages (5, 6.1) is taken from what the sender had *delivered*, and from the order in which it
accepted messages of the same priority. Unordered and FIFO messages may be delivered early; they
pass on no causality.

X.3 (priorities are local) is about messages waiting inside a node, which a trace does not show.

Everything is near linear in the number of lines.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from operator import gt
from typing import Final, NamedTuple, TypeAlias, cast

from vsync.testing.history import (
    AGREED,
    CONFIGURE,
    DELIVER,
    FIFO,
    SAFE,
    SEND,
    UNORDERED,
    History,
    Message,
    Process,
    Span,
    Stay,
)
from vsync.testing.order import circle, replay
from vsync.trace import Configured, Delivered, GroupChanged, Sent, Started, Stopped


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check of trace files found, and how much it looked at."""

    violations: tuple[Violation, ...]
    notes: tuple[Violation, ...]
    lives: int
    messages: int
    deliveries: int
    configurations: int
    """Different configurations, transitional ones included."""
    history: History
    """For ``history.place(line)``, which tells file and line."""

    @property
    def holds(self) -> bool:
        return not self.violations


Predicate: TypeAlias = Callable[[History], Iterator[Violation]]


class Property(NamedTuple):
    """One numbered property: *breaches* finds what breaks it."""

    number: str
    statement: str
    breaches: Predicate
    quiet: bool
    """Makes sense only for a run that ended without faults and traffic for a settling time."""


PROPERTIES: Final[list[Property]] = []
"""Every property, in the order of the specification."""


def _property(
    number: str, statement: str, *, quiet: bool = False
) -> Callable[[Predicate], Predicate]:
    def register(function: Predicate) -> Predicate:
        PROPERTIES.append(Property(number, statement, function, quiet))
        return function

    return register


def check(history: History, *, quiet: bool = False) -> Findings:
    """Hold a history against every property.

    *quiet* says that the run ended without faults and without traffic for long enough to settle;
    only then are 2.1 and X.6, which promise progress, checked.
    """
    found = [
        violation
        for entry in PROPERTIES
        if quiet or not entry.quiet
        for violation in entry.breaches(history)
    ]
    return Findings(
        tuple(violation for violation in found if not violation.undecidable),
        tuple(violation for violation in found if violation.undecidable),
    )


def check_files(
    paths: Iterable[str | os.PathLike[str]],
    *,
    quiet: bool = False,
    running: Collection[tuple[int, str]] | None = None,
) -> Report:
    """Read traces and hold them against every property.

    A file may hold one life or several, of one node or several. *running*: see ``History``.
    Raises ``TraceFailed`` if a file cannot be read or is no trace.
    """
    history = History.from_files(paths, running=running)
    findings = check(history, quiet=quiet)
    return Report(
        violations=findings.violations,
        notes=findings.notes,
        lives=len(history.processes),
        messages=len(history.messages),
        deliveries=history.deliveries,
        configurations=len(history.configurations),
        history=history,
    )


# --- Shared by several properties -----------------------------------------------------------------


def _named(ids: Iterable[object], *, most: int = 5) -> str:
    """A few of *ids* by name, and how many more there are."""
    names = [str(id) for id in ids]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _ids(history: History, messages: Iterable[int]) -> tuple[str, ...]:
    return tuple(history.messages[index].id for index in sorted(messages))


def _ring_seq(id: str) -> int | None:
    """The ring sequence number in a regular configuration's id, as 12 in ``12.1``."""
    seq, dot, representative = id.partition(".")
    if dot and seq.isascii() and seq.isdigit() and representative.isascii():
        return int(seq) if representative.isdigit() else None
    return None


def _may_have_entered(process: Process, id: str) -> bool:
    """Whether *process*, killed, may have entered regular configuration *id* untold.

    Its trace must end before; where ids have ring sequence numbers, that shows.
    """
    if process.stopped:
        return False
    if not process.stays:
        return True
    last, asked = _ring_seq(process.stays[-1].id), _ring_seq(id)
    return last is None or asked is None or last < asked


def _together(stays: Iterable[Stay]) -> dict[tuple[str, str], list[Stay]]:
    """Those stays in one regular configuration that went on through the same t to the same n."""
    groups: dict[tuple[str, str], list[Stay]] = {}
    for stay in stays:
        if stay.transitional is not None and stay.following is not None:
            key = (stay.transitional.configuration.id, stay.following.configuration.id)
            groups.setdefault(key, []).append(stay)
    return groups


def _breach(
    number: str,
    text: str,
    process: Process | None = None,
    events: Iterable[int] = (),
    messages: Iterable[Message] = (),
) -> Violation:
    """A violation seen at *process*, in these of its events."""
    return Violation(
        property=number,
        text=text,
        process=str(process) if process is not None else "",
        lines=tuple(process.places[event] for event in events) if process is not None else (),
        messages=tuple(message.id for message in messages),
    )


# --- 1 Basic delivery -----------------------------------------------------------------------------


@_property("1.1", "No event precedes itself: cause and effect have no circle.")
def causes_have_no_circle(history: History) -> Iterator[Violation]:
    """Local order, and every send before its deliveries: a graph without circles."""
    result = replay(history)
    if result.stuck:
        yield Violation(
            property="1.1",
            text=f"cause and effect form a circle: {'; '.join(result.stuck)}",
            process=str(history.processes[result.processes[0]]),
        )


@_property("1.2", "The events of one life have one order, and time does not go back in it.")
def time_does_not_go_back(history: History) -> Iterator[Violation]:
    """``t`` never decreases within a life, ``start`` is its first event and ``stop`` its last."""
    for process in history.processes:
        before = process.lines[0].t
        for event, line in enumerate(process.lines):
            if line.t < before:
                yield Violation(
                    property="1.2",
                    text=f"at {process} time goes back, from {before} to {line.t}",
                    process=str(process),
                    lines=(process.places[event],),
                )
            before = line.t
            if process.kinds[event]:
                continue
            if isinstance(line, Stopped) and event + 1 < len(process.lines):
                yield Violation(
                    property="1.2",
                    text=f"{process} goes on after its stop",
                    process=str(process),
                    lines=(process.places[event + 1],),
                )
            elif isinstance(line, Started) and event > 0:
                yield Violation(
                    property="1.2",
                    text=f"{process} starts a second time; a restart must change the life",
                    process=str(process),
                    lines=(process.places[event],),
                )


@_property(
    "1.3", "What is delivered was sent, the same, in the configuration of its delivery or before."
)
def delivered_messages_were_sent(history: History) -> Iterator[Violation]:
    """Exactly one send exists (two: see 1.4), in a life of ``sender``, with equal contents.

    The sender was in the regular configuration of the delivery, and sent no later than its stay
    there. (A sender that was killed may have entered it without a trace, if it is a member.)
    """
    for message in history.messages:
        if not message.deliveries:
            continue
        if not message.sends:
            process, event, _ = message.deliveries[0]
            yield Violation(
                property="1.3",
                text=f"{process} delivers {message.id}, which nobody sent",
                process=str(process),
                lines=(process.places[event],),
                messages=(message.id,),
            )
            continue
        source, sending = message.sends[0]
        send = cast(Sent, source.lines[sending])
        homes: set[str] = set()
        for process, event, stay in message.deliveries:
            line = cast(Delivered, process.lines[event])
            if (
                line.digest != send.digest
                or line.size != send.size
                or line.groups != send.groups
                or line.guarantee != send.guarantee
                or line.sender != send.node
            ):
                wrong = ["sender"] if line.sender != send.node else []
                for name in ("size", "digest", "groups", "guarantee"):
                    if getattr(line, name) != getattr(send, name):
                        wrong.append(name)
                yield Violation(
                    property="1.3",
                    text=f"{process} delivers {message.id} with another {' and '.join(wrong)} than "
                    f"{source} sent it with",
                    process=str(process),
                    lines=(process.places[event], source.places[sending]),
                    messages=(message.id,),
                )
            if stay is None or stay.id in homes:
                continue
            homes.add(stay.id)
            yield from _wrong_home(message, process, event, stay, source, sending)


def _wrong_home(
    message: Message, process: Process, event: int, stay: Stay, source: Process, sending: int
) -> Iterator[Violation]:
    there = next((s for s in source.stays if s.id == stay.id), None)
    if there is not None:
        if there.following is None or sending < there.following.event:
            return
        why = f"{source} sent it only after it had left that configuration"
    elif source.node not in stay.span.configuration.members:
        why = f"its sender, node {source.node}, is not a member of that configuration"
    elif not source.stays or _may_have_entered(source, stay.id):
        return  # no configurations at all is for 2.2 to report
    else:
        why = f"its sender, {source}, was never in that configuration"
    yield Violation(
        property="1.3",
        text=f"{process} delivers {message.id} in the stay of configuration {stay.id}, but {why}",
        process=str(process),
        lines=(process.places[event], source.places[sending]),
        messages=(message.id,),
    )


@_property(
    "1.4",
    "A message is sent once, delivered at most once by each, in the same configuration by all.",
)
def messages_are_delivered_once(history: History) -> Iterator[Violation]:
    for message in history.messages:
        if len(message.sends) > 1:
            process, event = message.sends[1]
            yield Violation(
                property="1.4",
                text=f"{process} sends {message.id}, which {message.sends[0][0]} had sent already",
                process=str(process),
                lines=(process.places[event],),
                messages=(message.id,),
            )
        first: tuple[Process, str] | None = None
        for process, event, stay in message.deliveries:
            if process.delivered[message.index] != event:
                yield Violation(
                    property="1.4",
                    text=f"{process} delivers {message.id} a second time",
                    process=str(process),
                    lines=(process.places[process.delivered[message.index]], process.places[event]),
                    messages=(message.id,),
                )
                continue
            if stay is None:
                continue
            if first is None:
                first = process, stay.id
            elif first[1] != stay.id:
                yield Violation(
                    property="1.4",
                    text=f"{process} delivers {message.id} in the stay of configuration {stay.id}, "
                    f"{first[0]} in that of {first[1]}",
                    process=str(process),
                    lines=(process.places[event],),
                    messages=(message.id,),
                )


# --- 2 Configuration changes ----------------------------------------------------------------------


@_property(
    "2.1",
    "After a quiet end, the members of a configuration all have it as their last.",
    quiet=True,
)
def all_agree_at_the_end(history: History) -> Iterator[Violation]:
    """Every running process ends in a regular configuration, with all its members.

    Nodes without any trace here are not held against the others.
    """
    running = history.running()
    last = {process.node: process for process in running if process.spans}
    for process in running:
        if not process.spans:
            continue
        configuration = process.spans[-1].configuration
        line = (_span_line(process.spans[-1], process),)
        if configuration.kind != "regular":
            yield Violation(
                property="2.1",
                text=f"{process} ends in the transitional configuration {configuration.id}",
                process=str(process),
                lines=line,
            )
            continue
        for node in configuration.members:
            if not history.lives(node):
                continue
            other = last.get(node)
            if other is None:
                yield Violation(
                    property="2.1",
                    text=f"{process} ends in configuration {configuration.id}, but its member, "
                    f"node {node}, is not running",
                    process=str(process),
                    lines=line,
                )
            elif other.spans[-1].configuration.id != configuration.id:
                yield Violation(
                    property="2.1",
                    text=f"{process} ends in configuration {configuration.id}, but its member, "
                    f"{other}, in {other.spans[-1].configuration.id}",
                    process=str(process),
                    lines=line,
                )


@_property("2.2", "Nothing happens before the first configuration; all happens at its members.")
def events_lie_in_configurations(history: History) -> Iterator[Violation]:
    """Sends and deliveries follow a configuration, deliveries name it, only members deliver it."""
    for process in history.processes:
        for span in process.spans:
            if process.node not in span.configuration.members:
                yield Violation(
                    property="2.2",
                    text=f"{process} delivers configuration {span.configuration.id}, "
                    "of which it is not a member",
                    process=str(process),
                    lines=(_span_line(span, process),),
                )
        current: str | None = None
        for event, kind in enumerate(process.kinds):
            if kind == CONFIGURE:
                current = process.spans[process.references[event]].configuration.id
            elif kind == DELIVER:
                line = cast(Delivered, process.lines[event])
                if line.configuration != current:
                    where = f"in {current}" if current else "before its first configuration"
                    yield Violation(
                        property="2.2",
                        text=f"{process} delivers {line.message} as of configuration "
                        f"{line.configuration}, but {where}",
                        process=str(process),
                        lines=(process.places[event],),
                        messages=(line.message,),
                    )
            elif kind == SEND and current is None:
                sent = cast(Sent, process.lines[event])
                yield Violation(
                    property="2.2",
                    text=f"{process} sends {sent.message} before its first configuration",
                    process=str(process),
                    lines=(process.places[event],),
                    messages=(sent.message,),
                )


@_property(
    "2.3/2.4", "A configuration is a consistent cut: what precedes it at one precedes it at all."
)
def configurations_are_consistent_cuts(history: History) -> Iterator[Violation]:
    """With all deliveries of a configuration merged into one event, 1.1 still holds."""
    if replay(history).stuck:
        return  # 1.1 reports it
    result = replay(history, merge=True)
    if result.stuck:
        yield Violation(
            property="2.3/2.4",
            text=f"a configuration is not the same moment for all: {'; '.join(result.stuck)}",
            process=str(history.processes[result.processes[0]]),
        )


@_property("2.5", "One id is one configuration, for ever, and a life delivers it at most once.")
def configuration_ids_are_unique(history: History) -> Iterator[Violation]:
    """Equal ids have equal kind, members and next. Two lives of a node are two members."""
    lives: dict[tuple[int, str], Process] = {}
    for process in history.processes:
        seen: set[str] = set()
        for span in process.spans:
            configuration = span.configuration
            id = configuration.id
            line = (_span_line(span, process),)
            known = history.configurations[id]
            for name in ("kind", "members", "next"):
                ours, theirs = getattr(configuration, name), getattr(known, name)
                if ours != theirs:
                    yield Violation(
                        property="2.5",
                        text=f"configuration {id} has {name} {ours} at {process}, but {theirs} at "
                        f"node {known.node} (life {known.life})",
                        process=str(process),
                        lines=line,
                    )
            if id in seen:
                yield Violation(
                    property="2.5",
                    text=f"{process} delivers configuration {id} a second time",
                    process=str(process),
                    lines=line,
                )
            seen.add(id)
            other = lives.setdefault((process.node, id), process)
            if other is not process:
                yield Violation(
                    property="2.5",
                    text=f"{process} delivers configuration {id}, which {other} had delivered: "
                    "an id was used again after a restart",
                    process=str(process),
                    lines=line,
                )


@_property("2.6", "A transitional configuration leads from one regular configuration to the next.")
def transitional_configurations_link_regular_ones(history: History) -> Iterator[Violation]:
    """Kinds alternate after a life's first regular one, and members, joined and left agree.

    The regular configuration after a transitional one names in ``left`` nobody, or those whom the
    transitional one lost; the same choice everywhere.
    """
    named: tuple[bool, str] | None = None
    for process in history.processes:
        before: Configured | None = None
        regular: Configured | None = None
        for span in process.spans:
            now = span.configuration
            wrong: list[str] = []
            if now.kind == "transitional":
                if before is None or before.kind != "regular":
                    wrong.append("does not come directly after a regular one")
                if regular is not None:
                    wrong += _transition_faults(history, now, regular)
            else:
                if before is not None and before.kind == "regular":
                    wrong.append(f"comes after {before.id} without a transitional one in between")
                elif before is not None:
                    if before.next != now.id:
                        wrong.append(f"is not {before.next}, to which {before.id} leads")
                    joined = set(now.members) - set(before.members)
                    if set(now.joined) != joined:
                        wrong.append(f"names as joined {now.joined}, not {tuple(sorted(joined))}")
                    lost = set(regular.members) - set(before.members) if regular else set()
                    if now.left and set(now.left) != lost:
                        wrong.append(f"names as left {now.left}, not {tuple(sorted(lost))}")
                    elif lost and named is None:
                        named = bool(now.left), now.id
                    elif lost and named is not None and named[0] != bool(now.left):
                        wrong.append(f"names who left differently from configuration {named[1]}")
                regular = now
            before = now
            for fault in wrong:
                yield Violation(
                    property="2.6",
                    text=f"configuration {now.id} at {process} {fault}",
                    process=str(process),
                    lines=(_span_line(span, process),),
                )


def _transition_faults(history: History, now: Configured, regular: Configured) -> Iterator[str]:
    members = set(now.members)
    strange = members - set(regular.members)
    if strange:
        yield f"has members {tuple(sorted(strange))}, who are not in {regular.id} before it"
    following = history.configurations.get(now.next or "")
    if following is not None:
        strange = members - set(following.members)
        if strange:
            yield f"has members {tuple(sorted(strange))}, who are not in {following.id} after it"
    lost = set(regular.members) - members
    if set(now.left) != lost:
        yield f"names as left {now.left}, not {tuple(sorted(lost))}"
    if now.joined:
        yield f"names as joined {now.joined}; nobody joins in a transitional configuration"


@_property("2.7", "Those who move on together know it of each other; the others do not claim it.")
def those_who_move_together_know_it(history: History) -> Iterator[Violation]:
    """Every member of t that goes on from c delivers t; no other member of c does.

    One case is reported as a note (``undecidable``): q, a member of t, never installs next(t), but
    goes on from the same c through another transitional configuration that leads elsewhere. That
    happens when the network parts after the first process has installed next(t) and before q has.
    To exclude it, the last process to confirm would have to know that its confirmation arrived:
    the coordinated attack, which cannot be solved over a network that loses messages. A protocol
    could only wait, and a wait that ends at a partition blocks for as long as the partition lasts.
    Totem does not block, so p may have named q in t in good faith. Everything else that breaks 2.7
    (q goes directly to next(t), or through another t to it) is a violation.
    """
    for id, stays in history.stays.items():
        delivered: dict[str, list[Process]] = {}
        told: dict[str, tuple[Configured, Stay]] = {}
        for stay in stays:
            if stay.transitional is not None:
                now = stay.transitional.configuration
                told.setdefault(now.id, (now, stay))
                delivered.setdefault(now.id, []).append(stay.process)
        for t, (now, witness) in told.items():
            for stay in stays:
                process = stay.process
                has = process in delivered[t]
                if process.node in now.members and not has and stay.following is not None:
                    yield _not_together(id, now, witness, stay)
                elif process.node not in now.members and has:
                    yield Violation(
                        property="2.7",
                        text=f"{process} delivers the transitional configuration {t}, "
                        "of which it is not a member",
                        process=str(process),
                        lines=(_span_line(cast(Span, stay.transitional), process),),
                    )


def _not_together(id: str, now: Configured, witness: Stay, stay: Stay) -> Violation:
    process = stay.process
    other = stay.transitional.configuration if stay.transitional is not None else None
    elsewhere = (
        other is not None
        and other.next != now.next
        and all(span.configuration.id != now.next for span in process.spans)
    )
    goes = f"goes on from {id} " + (f"through {other.id}" if other is not None else "without any")
    after = cast(Span, stay.following)
    return Violation(
        property="2.7",
        text=f"{witness.process} names node {process.node} in the transitional configuration "
        f"{now.id}, but {process} {goes}"
        + (
            "; the network parted while they installed it, which nobody can rule out"
            if elsewhere
            else ""
        ),
        process=str(process),
        lines=(
            _span_line(cast(Span, witness.transitional), witness.process),
            _span_line(after, process),
        ),
        undecidable=elsewhere,
    )


# --- 3 Self-delivery ------------------------------------------------------------------------------


@_property("3", "A process delivers what it sent, unless it crashes first.")
def senders_deliver_their_own(history: History) -> Iterator[Violation]:
    """Before its ``stop``, and before it leaves the stay in which others delivered the message.

    The order of one's own messages is part of X.1.
    """
    for process in history.processes:
        stays = {stay.id: stay for stay in process.stays}
        for event, index in process.sends:
            if index in process.delivered:
                continue
            message = history.messages[index]
            stay = stays.get(message.home) if message.home is not None else None
            if stay is not None and stay.following is not None:
                why = f"left configuration {stay.id}, in which others delivered it"
            elif process.stopped:
                why = "stopped"
            else:
                continue
            yield Violation(
                property="3",
                text=f"{process} sent {message.id} and {why}, without delivering it",
                process=str(process),
                lines=(process.places[event],),
                messages=(message.id,),
            )


# --- 4 Failure atomicity --------------------------------------------------------------------------


@_property("4", "Those who go through the same configurations deliver the same messages in them.")
def those_who_move_together_deliver_the_same(history: History) -> Iterator[Violation]:
    """For each (c, t, n): the same set; and only safe messages may be in c here and in t there."""
    for id, stays in history.stays.items():
        for (t, n), together in _together(stays).items():
            first = together[0]
            regular = set(first.span.messages)
            for stay in together[1:]:
                if stay.delivered != first.delivered:
                    yield from _different_sets(history, (id, t, n), first, stay)
                ours = set(stay.span.messages)
                moved = {
                    index
                    for index in regular ^ ours
                    if index in stay.delivered
                    and index in first.delivered
                    and history.messages[index].rank != SAFE
                }
                if moved:
                    yield Violation(
                        property="4",
                        text=f"{stay.process} and {first.process} both go from {id} through {t} to "
                        f"{n}, but one delivers {_named(_ids(history, moved))} in {id} and the "
                        f"other in {t}; only safe messages may differ so",
                        process=str(stay.process),
                        lines=(_span_line(stay.span, stay.process),),
                        messages=_ids(history, moved),
                    )


def _different_sets(
    history: History, through: tuple[str, str, str], first: Stay, stay: Stay
) -> Iterator[Violation]:
    for has, lacks in ((first, stay), (stay, first)):
        missing = has.delivered - lacks.delivered
        if missing:
            yield Violation(
                property="4",
                text=f"{has.process} and {lacks.process} both go from {through[0]} through "
                f"{through[1]} to {through[2]}, but {lacks.process} does not deliver "
                f"{_named(_ids(history, missing))} there",
                process=str(lacks.process),
                lines=(_span_line(lacks.span, lacks.process),),
                messages=_ids(history, missing),
            )


# --- 5 Causal delivery ----------------------------------------------------------------------------


class _Chains:
    """For each home: the messages of one sender and priority, ranks FIFO and above, in order."""

    def __init__(self, history: History) -> None:
        self.items: dict[str, list[list[int]]] = {}
        self.chain = [-1] * len(history.messages)
        self.step = [0] * len(history.messages)
        """The message's place in its chain, from 1."""
        for process in history.processes:
            numbers: dict[tuple[str, str], int] = {}
            for event, index in process.sends:
                message = history.messages[index]
                home = message.home
                if home is None or message.rank < FIFO or message.sends[0] != (process, event):
                    continue
                items = self.items.setdefault(home, [])
                number = numbers.get((home, message.priority))
                if number is None:
                    number = numbers[home, message.priority] = len(items)
                    items.append([])
                items[number].append(index)
                self.chain[index] = number
                self.step[index] = len(items[number])


class _Progress:
    """What one process has delivered and knows of in one stay, a number a chain."""

    def __init__(self, stay: Stay | None, chains: _Chains) -> None:
        self.home = stay.id if stay is not None else None
        self.delivered = stay.delivered if stay is not None else set()
        self.items = chains.items.get(self.home, []) if self.home is not None else []
        self.have = [0] * len(self.items)
        """So many from the chain's beginning, without a hole, were delivered."""
        self.known = [0] * len(self.items)
        """So many the ordered messages delivered here tell of."""
        self.snapshot: tuple[int, ...] | None = None
        self.ahead: set[int] = set()
        self.reported: set[int] = set()


@_property("5", "A message is not delivered before, or without, what caused it.")
def causes_are_delivered_first(history: History) -> Iterator[Violation]:
    """Among messages of one home, at every process that delivers the effect.

    For ranks FIFO and above: everything of those ranks that its sender had accepted before at the
    same priority. For agreed and safe ones also every agreed or safe one that its sender had
    delivered, and so on from there.
    """
    chains = _Chains(history)
    vectors: list[tuple[int, ...] | None] = [None] * len(history.messages)
    progress = {process.index: _Progress(None, chains) for process in history.processes}
    messages = history.messages
    for run in replay(history).runs:
        process = history.processes[run.process]
        kinds, references = process.kinds, process.references
        state = progress[run.process]
        for event in range(run.start, run.end):
            kind = kinds[event]
            if kind == CONFIGURE:
                span = process.spans[references[event]]
                if span.regular:
                    state = progress[run.process] = _Progress(span.stay, chains)
                continue
            if kind != SEND and kind != DELIVER:
                continue
            index = references[event]
            message = messages[index]
            number = chains.chain[index]
            if number < 0 or message.home != state.home:
                continue
            if kind == SEND:
                if message.rank >= AGREED:
                    if state.snapshot is None:
                        state.snapshot = tuple(state.known)
                    vectors[index] = state.snapshot
                continue
            step = chains.step[index]
            vector = vectors[index] if message.rank >= AGREED else None
            lacking = -1
            if vector is not None:
                if any(map(gt, vector, state.have)):
                    short = next(k for k, v in enumerate(vector) if v > state.have[k])
                    lacking = state.items[short][state.have[short]]
                if any(map(gt, vector, state.known)):
                    state.known = list(map(max, state.known, vector))
                    state.snapshot = None
            if message.rank >= AGREED and step > state.known[number]:
                state.known[number] = step
                state.snapshot = None
            if step == state.have[number] + 1:
                state.have[number] = step
                items = state.items[number]
                while step < len(items) and items[step] in state.ahead:
                    step += 1
                    state.have[number] = step
            elif step > state.have[number]:
                state.ahead.add(index)
                if lacking < 0:
                    lacking = state.items[number][state.have[number]]
            if lacking >= 0 and lacking not in state.reported:
                state.reported.add(lacking)
                cause = messages[lacking]
                how = "before" if lacking in state.delivered else "without"
                yield Violation(
                    property="5",
                    text=f"{process} delivers {message.id} {how} {cause.id}, which its sender had "
                    f"{'sent' if cause.sender == message.sender else 'seen'} first",
                    process=str(process),
                    lines=(process.places[event],),
                    messages=(message.id, cause.id),
                )


# --- 6 Totally ordered delivery -------------------------------------------------------------------


@_property("6.1/6.2", "Configurations and agreed and safe messages have one order for all.")
def one_order_for_all(history: History) -> Iterator[Violation]:
    """The orders in which processes deliver them, united, have no circle.

    A safe message may be in the regular configuration at one process and in the transitional one at
    another, so it is not ordered after the transitional one. A message is also ordered after what
    its sender had delivered when it sent it (6.1).
    """
    count = len(history.messages)
    names = list(history.configurations)
    vertices = {id: count + number for number, id in enumerate(names)}
    successors: list[list[int]] = [[] for _ in range(count + len(names))]
    ranks = [message.rank for message in history.messages]
    for process in history.processes:
        previous = -1  # the message before this event, if in the same stay
        current = -1  # the configuration before this event
        entered = True  # whether the configuration is already linked to what follows it
        after_transitional = False
        for event, kind in enumerate(process.kinds):
            reference = process.references[event]
            if kind == DELIVER:
                if ranks[reference] < AGREED or reference == previous:
                    continue
                if process.delivered[reference] != event:
                    continue  # a second delivery is for 1.4 to report
                if previous >= 0:
                    successors[previous].append(reference)
                if not entered and not (after_transitional and ranks[reference] == SAFE):
                    successors[current].append(reference)
                    entered = True
                previous = reference
            elif kind == SEND:
                if ranks[reference] < AGREED or history.messages[reference].home is None:
                    continue
                if previous >= 0 and previous != reference:
                    successors[previous].append(reference)
                if current >= 0 and not entered:
                    successors[current].append(reference)
            elif kind == CONFIGURE:
                span = process.spans[reference]
                vertex = vertices[span.configuration.id]
                if current >= 0 and current != vertex:
                    successors[current].append(vertex)
                if previous >= 0:
                    successors[previous].append(vertex)
                after_transitional = not span.regular
                if span.regular:
                    previous = -1
                current = vertex
                entered = False
    found = circle(successors)
    if found:
        ids = [
            history.messages[v].id if v < count else f"configuration {names[v - count]}"
            for v in found
        ]
        yield Violation(
            property="6.1/6.2",
            text=f"there is no one order for all: {_named([*ids, ids[0]], most=12)} "
            "each come before the next, somewhere",
            messages=tuple(history.messages[v].id for v in found if v < count),
        )


@_property(
    "6.3", "Who delivers a message delivers everything ordered before it, but for lost senders'."
)
def deliveries_have_no_holes(history: History) -> Iterator[Violation]:
    """In one home, a message that q misses must fit into the order behind what q delivered.

    So: in the regular configuration q delivers a prefix of one order. In the transitional one it
    misses nothing but messages from senders who are not members of it. The order is not given; what
    is checked is that one exists. The search is a graph: what processes delivered one after the
    other, and every missing message behind what it must not precede.
    """
    ordered: dict[str, list[int]] = {}
    for message in history.messages:
        if message.home is not None and message.rank >= AGREED:
            ordered.setdefault(message.home, []).append(message.index)
    for home, indexes in ordered.items():
        stays = history.stays[home]
        numbers = {index: number for number, index in enumerate(indexes)}
        whole = set(indexes)
        plain: list[list[int]] = [[] for _ in indexes]
        for stay in stays:
            _link_deliveries(history, stay, numbers, plain)
        bounds: list[tuple[int, set[int], Stay]] = []
        for stay in stays:
            missing = whole - stay.delivered
            if not missing:
                continue
            for span in (stay.span, stay.transitional):
                if span is None:
                    continue
                last = next((m for m in reversed(span.messages) if m in numbers), None)
                if last is None:
                    continue
                if not span.regular:
                    members = span.configuration.members
                    missing = {m for m in missing if history.messages[m].sender in members}
                bounds.append((last, missing, stay))
        if not bounds:
            continue
        successors = [list(following) for following in plain]
        for last, missing, _stay in bounds:
            successors[numbers[last]].append(len(successors))
            successors.append([numbers[index] for index in missing])
        found = circle(successors)
        if not found or circle(plain):
            continue  # without any order, 6.2 has reported it
        for place, vertex in enumerate(found):
            if vertex >= len(indexes):
                last, _missing, stay = bounds[vertex - len(indexes)]
                lacks = history.messages[indexes[found[(place + 1) % len(found)]]]
                has = history.messages[last]
                yield Violation(
                    property="6.3",
                    text=f"{stay.process} delivers {has.id} but not {lacks.id}, which is ordered "
                    f"before it in configuration {home}",
                    process=str(stay.process),
                    lines=(stay.process.places[stay.process.delivered[last]],),
                    messages=(has.id, lacks.id),
                )


def _link_deliveries(
    history: History, stay: Stay, numbers: dict[int, int], successors: list[list[int]]
) -> None:
    """Link what one process delivered in one stay, and what it sent there, to what came before."""
    process = stay.process
    end = stay.following.event if stay.following is not None else len(process.kinds)
    previous = -1
    for event in range(stay.span.event, end):
        kind = process.kinds[event]
        if kind != DELIVER and kind != SEND:
            continue
        number = numbers.get(process.references[event], -1)
        if number < 0:
            continue
        if previous >= 0 and previous != number:
            successors[previous].append(number)
        if kind == DELIVER and process.delivered[process.references[event]] == event:
            previous = number


# --- 7 Safe delivery ------------------------------------------------------------------------------


def _safe_by_configuration(
    history: History, stays: Iterable[Stay]
) -> dict[str, tuple[Span, Process, set[int]]]:
    """Per configuration of these stays: the safe messages that anybody delivered in it."""
    safe: dict[str, tuple[Span, Process, set[int]]] = {}
    for stay in stays:
        for span in (stay.span, stay.transitional):
            if span is None:
                continue
            here = {index for index in span.messages if history.messages[index].rank == SAFE}
            if here:
                entry = safe.setdefault(span.configuration.id, (span, stay.process, set()))
                entry[2].update(here)
    return safe


@_property("7.1", "A safe message delivered in a configuration is delivered by all its members.")
def safe_messages_reach_all_members(history: History) -> Iterator[Violation]:
    """By every member, in its stay in the home, unless its trace ends in that stay."""
    for home, stays in history.stays.items():
        for id, (span, witness, messages) in _safe_by_configuration(history, stays).items():
            for stay in stays:
                if stay.following is None or stay.process.node not in span.configuration.members:
                    continue
                missing = messages - stay.delivered
                if missing:
                    yield Violation(
                        property="7.1",
                        text=f"{witness}, or another, delivered safe "
                        f"{_named(_ids(history, missing))} in configuration {id}, but its member "
                        f"{stay.process} left {home} without it",
                        process=str(stay.process),
                        lines=(_span_line(stay.following, stay.process),),
                        messages=_ids(history, missing),
                    )


@_property(
    "7.2", "A safe message delivered in a regular configuration means that all installed it."
)
def safe_messages_mean_that_all_installed(history: History) -> Iterator[Violation]:
    """Every member delivered the configuration, unless it was killed before it could tell.

    Nodes without any trace here are not held against the others.
    """
    for home, stays in history.stays.items():
        entry = _safe_by_configuration(history, stays).get(home)
        if entry is None:
            continue
        span, witness, messages = entry
        for node in span.configuration.members:
            lives = history.lives(node)
            if not lives or history.stay_of(node, home) is not None:
                continue
            if any(_may_have_entered(process, home) for process in lives):
                continue
            yield Violation(
                property="7.2",
                text=f"{witness} delivers safe {_named(_ids(history, messages), most=1)} in "
                f"configuration {home}, which its member, node {node}, never delivered",
                process=str(lives[-1]),
                lines=(_span_line(span, witness),),
                messages=_ids(history, messages)[:1],
            )


# --- X Project properties -------------------------------------------------------------------------


@_property("X.1", "Messages of one sender and one priority, not unordered ones, come in order.")
def senders_order_is_kept(history: History) -> Iterator[Violation]:
    """In the order in which their sender's life accepted them, at every process."""
    for process in history.processes:
        latest: dict[tuple[int, str], Message] = {}
        for index, event in process.delivered.items():
            message = history.messages[index]
            if message.rank == UNORDERED or message.turn < 0:
                continue
            key = (message.sends[0][0].index, message.priority)
            before = latest.get(key)
            if before is not None and before.turn > message.turn:
                yield Violation(
                    property="X.1",
                    text=f"{process} delivers {message.id} after {before.id}, "
                    f"but {message.sends[0][0]} sent it before",
                    process=str(process),
                    lines=(process.places[event],),
                    messages=(message.id, before.id),
                )
            else:
                latest[key] = message


@_property("X.2", "Unordered messages keep 1, 3 and 4; no order is promised of them.")
def unordered_messages_are_reliable(history: History) -> Iterator[Violation]:
    """Nothing of its own: 1.1 to 1.4, 3 and 4 take unordered messages in, 5 and 6 do not."""
    del history
    return iter(())


@_property("X.4", "Group changes have one place in the order, and concern sessions of members.")
def group_changes_have_one_place(history: History) -> Iterator[Violation]:
    """For those who came into a configuration together: the same changes, each behind the same
    agreed or safe message of it, as far as both traces go. (Whether an application had joined when
    it was handed a message, a trace does not show.)
    """
    reference: dict[tuple[str, str], tuple[Process, list[tuple[object, ...]]]] = {}
    for process in history.processes:
        if not any(isinstance(line, GroupChanged) for line in process.lines):
            continue
        for span in process.spans:
            changes = list(_group_changes(history, process, span))
            for line, number, _key in changes:
                strange = {node for node, _ in line.members} - set(span.configuration.members)
                if line.configuration != span.configuration.id:
                    fault = f"as of configuration {line.configuration}, but in"
                elif strange:
                    fault = f"with sessions on {tuple(sorted(strange))}, who are not members of"
                else:
                    continue
                yield Violation(
                    property="X.4",
                    text=f"{process} tells of group {line.group} {fault} {span.configuration.id}",
                    process=str(process),
                    lines=(process.places[number],),
                )
            if not span.regular or span.ordinal == 0:
                continue
            came_by = process.spans[span.ordinal - 1].configuration.id
            keys = [key for _line, _number, key in changes]
            first = reference.setdefault((span.configuration.id, came_by), (process, keys))
            for ours, theirs, change in zip(keys, first[1], changes, strict=False):
                if ours != theirs:
                    yield Violation(
                        property="X.4",
                        text=f"{process} and {first[0]} tell differently of group "
                        f"{change[0].group} in configuration {span.configuration.id}",
                        process=str(process),
                        lines=(process.places[change[1]],),
                    )
                    break


def _group_changes(
    history: History, process: Process, span: Span
) -> Iterator[tuple[GroupChanged, int, tuple[object, ...]]]:
    """The group changes in a span: line, event, and what must be equal for all."""
    last: str | None = None
    for event in range(span.event + 1, len(process.lines)):
        kind = process.kinds[event]
        if kind == CONFIGURE:
            return
        if kind == DELIVER:
            message = history.messages[process.references[event]]
            if message.rank >= AGREED:
                last = message.id
            continue
        line = process.lines[event]
        if isinstance(line, GroupChanged):
            yield line, event, (line.group, line.members, line.joined, line.left, last)


@_property("X.5", "The ring sequence number grows from one regular configuration to the next.")
def ring_sequence_numbers_grow(history: History) -> Iterator[Violation]:
    """Where both ids have the form ``SEQ.REPRESENTATIVE``; other ids are opaque."""
    for process in history.processes:
        for before, after in zip(process.stays, process.stays[1:], strict=False):
            old, new = _ring_seq(before.id), _ring_seq(after.id)
            if old is not None and new is not None and new <= old:
                yield Violation(
                    property="X.5",
                    text=f"{process} goes from configuration {before.id} to {after.id}, "
                    "whose ring sequence number is not higher",
                    process=str(process),
                    lines=(_span_line(after.span, process),),
                )


@_property(
    "X.6", "After a quiet end, everything accepted by a running process is delivered.", quiet=True
)
def everything_accepted_is_delivered(history: History) -> Iterator[Violation]:
    """At its sender; and what has its home in the last configuration, at all its running members.

    (What has an earlier home is for 4, 6.3 and 7.1 to judge.)
    """
    running = history.running()
    for process in running:
        for event, index in process.sends:
            message = history.messages[index]
            if index not in process.delivered:
                yield Violation(
                    property="X.6",
                    text=f"{process} sent {message.id} and never delivered it",
                    process=str(process),
                    lines=(process.places[event],),
                    messages=(message.id,),
                )
    last: dict[str, list[Stay]] = {}
    for process in running:
        if process.stays:
            last.setdefault(process.stays[-1].id, []).append(process.stays[-1])
    for id, stays in last.items():
        for stay in stays:
            missing = set().union(*(other.delivered for other in stays)) - stay.delivered
            if missing:
                yield Violation(
                    property="X.6",
                    text=f"{stay.process} ends in configuration {id} without delivering "
                    f"{_named(_ids(history, missing))}, which other members delivered",
                    process=str(stay.process),
                    lines=(_span_line(stay.span, stay.process),),
                    messages=_ids(history, missing),
                )

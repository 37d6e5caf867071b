"""Properties 1 and 2: basic delivery, and configuration changes."""

from collections.abc import Iterator
from typing import cast

from vsync.testing.history import CONFIGURE, DELIVER, SEND, History, Message, Process, Span, Stay
from vsync.testing.order import replay
from vsync.testing.properties.findings import Violation, breach, may_have_entered, stated
from vsync.trace import Configured, Delivered, Sent, Started, Stopped

# --- 1 Basic delivery -----------------------------------------------------------------------------


@stated("1.1", "No event precedes itself: cause and effect have no circle.")
def causes_have_no_circle(history: History) -> Iterator[Violation]:
    """Local order, and every send before its deliveries: a graph without circles."""
    result = replay(history)
    if result.stuck:
        yield breach(
            "1.1",
            f"cause and effect form a circle: {'; '.join(result.stuck)}",
            history.processes[result.processes[0]],
        )


@stated("1.2", "The events of one life have one order, and time does not go back in it.")
def time_does_not_go_back(history: History) -> Iterator[Violation]:
    """``t`` never decreases within a life, ``start`` is its first event and ``stop`` its last."""
    for process in history.processes:
        before = process.lines[0].t
        for event, line in enumerate(process.lines):
            if line.t < before:
                yield breach(
                    "1.2",
                    f"at {process} time goes back, from {before} to {line.t}",
                    process,
                    [event],
                )
            before = line.t
            if process.kinds[event]:
                continue
            if isinstance(line, Stopped) and event + 1 < len(process.lines):
                yield breach("1.2", f"{process} goes on after its stop", process, [event + 1])
            elif isinstance(line, Started) and event > 0:
                yield breach(
                    "1.2",
                    f"{process} starts a second time; a restart must change the life",
                    process,
                    [event],
                )


@stated(
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
            yield breach(
                "1.3",
                f"{process} delivers {message.id}, which nobody sent",
                process,
                [event],
                [message],
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
                yield breach(
                    "1.3",
                    f"{process} delivers {message.id} with another {' and '.join(wrong)} than "
                    f"{source} sent it with",
                    process,
                    [event],
                    [message],
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
    elif not source.stays or may_have_entered(source, stay.id):
        return  # no configurations at all is for 2.2 to report
    else:
        why = f"its sender, {source}, was never in that configuration"
    yield breach(
        "1.3",
        f"{process} delivers {message.id} in the stay of configuration {stay.id}, but {why}",
        process,
        [event],
        [message],
    )


@stated(
    "1.4",
    "A message is sent once, delivered at most once by each, in the same configuration by all.",
)
def messages_are_delivered_once(history: History) -> Iterator[Violation]:
    """Over all lives, of all nodes. Where: in the stay of the same regular configuration."""
    for message in history.messages:
        if len(message.sends) > 1:
            process, event = message.sends[1]
            yield breach(
                "1.4",
                f"{process} sends {message.id}, which {message.sends[0][0]} had sent already",
                process,
                [event],
                [message],
            )
        first: tuple[Process, str] | None = None
        for process, event, stay in message.deliveries:
            if process.delivered[message.index] != event:
                yield breach(
                    "1.4",
                    f"{process} delivers {message.id} a second time",
                    process,
                    [process.delivered[message.index], event],
                    [message],
                )
                continue
            if stay is None:
                continue
            if first is None:
                first = process, stay.id
            elif first[1] != stay.id:
                yield breach(
                    "1.4",
                    f"{process} delivers {message.id} in the stay of configuration {stay.id}, "
                    f"{first[0]} in that of {first[1]}",
                    process,
                    [event],
                    [message],
                )


# --- 2 Configuration changes ----------------------------------------------------------------------


@stated(
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
        line = (process.spans[-1].event,)
        if configuration.kind != "regular":
            yield breach(
                "2.1",
                f"{process} ends in the transitional configuration {configuration.id}",
                process,
                line,
            )
            continue
        for node in configuration.members:
            if not history.lives(node):
                continue
            other = last.get(node)
            if other is None:
                yield breach(
                    "2.1",
                    f"{process} ends in configuration {configuration.id}, but its member, "
                    f"node {node}, is not running",
                    process,
                    line,
                )
            elif other.spans[-1].configuration.id != configuration.id:
                yield breach(
                    "2.1",
                    f"{process} ends in configuration {configuration.id}, but its member, "
                    f"{other}, in {other.spans[-1].configuration.id}",
                    process,
                    line,
                )


@stated("2.2", "Nothing happens before the first configuration; all happens at its members.")
def events_lie_in_configurations(history: History) -> Iterator[Violation]:
    """Sends and deliveries follow a configuration, deliveries name it, only members deliver it."""
    for process in history.processes:
        for span in process.spans:
            if process.node not in span.configuration.members:
                yield breach(
                    "2.2",
                    f"{process} delivers configuration {span.configuration.id}, "
                    "of which it is not a member",
                    process,
                    [span.event],
                )
        current: str | None = None
        for event, kind in enumerate(process.kinds):
            if kind == CONFIGURE:
                current = process.spans[process.references[event]].configuration.id
            elif kind == DELIVER:
                line = cast(Delivered, process.lines[event])
                if line.configuration != current:
                    where = f"in {current}" if current else "before its first configuration"
                    yield breach(
                        "2.2",
                        f"{process} delivers {line.message} as of configuration "
                        f"{line.configuration}, but {where}",
                        process,
                        [event],
                        [line.message],
                    )
            elif kind == SEND and current is None:
                sent = cast(Sent, process.lines[event])
                yield breach(
                    "2.2",
                    f"{process} sends {sent.message} before its first configuration",
                    process,
                    [event],
                    [sent.message],
                )


@stated(
    "2.3/2.4", "A configuration is a consistent cut: what precedes it at one precedes it at all."
)
def configurations_are_consistent_cuts(history: History) -> Iterator[Violation]:
    """With all deliveries of a configuration merged into one event, 1.1 still holds."""
    if replay(history).stuck:
        return  # 1.1 reports it
    result = replay(history, merge=True)
    if result.stuck:
        yield breach(
            "2.3/2.4",
            f"a configuration is not the same moment for all: {'; '.join(result.stuck)}",
            history.processes[result.processes[0]],
        )


@stated("2.5", "One id is one configuration, for ever, and a life delivers it at most once.")
def configuration_ids_are_unique(history: History) -> Iterator[Violation]:
    """Equal ids have equal kind, members and next. Two lives of a node are two members."""
    lives: dict[tuple[int, str], Process] = {}
    for process in history.processes:
        seen: set[str] = set()
        for span in process.spans:
            configuration = span.configuration
            id = configuration.id
            line = (span.event,)
            known = history.configurations[id]
            for name in ("kind", "members", "next"):
                ours, theirs = getattr(configuration, name), getattr(known, name)
                if ours != theirs:
                    yield breach(
                        "2.5",
                        f"configuration {id} has {name} {ours} at {process}, but {theirs} at "
                        f"node {known.node} (life {known.life})",
                        process,
                        line,
                    )
            if id in seen:
                yield breach(
                    "2.5", f"{process} delivers configuration {id} a second time", process, line
                )
            seen.add(id)
            other = lives.setdefault((process.node, id), process)
            if other is not process:
                yield breach(
                    "2.5",
                    f"{process} delivers configuration {id}, which {other} had delivered: "
                    "an id was used again after a restart",
                    process,
                    line,
                )


@stated("2.6", "A transitional configuration leads from one regular configuration to the next.")
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
                yield breach(
                    "2.6", f"configuration {now.id} at {process} {fault}", process, [span.event]
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


@stated("2.7", "Those who move on together know it of each other; the others do not claim it.")
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
                    yield breach(
                        "2.7",
                        f"{process} delivers the transitional configuration {t}, "
                        "of which it is not a member",
                        process,
                        [cast(Span, stay.transitional).event],
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
    return breach(
        "2.7",
        f"{witness.process} names node {process.node} in the transitional configuration "
        f"{now.id}, but {process} {goes}"
        + (
            "; the network parted while they installed it, which nobody can rule out"
            if elsewhere
            else ""
        ),
        process,
        [after.event],
        undecidable=elsewhere,
    )

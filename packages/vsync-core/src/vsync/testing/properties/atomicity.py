"""Properties 3, 4 and 7: who delivers what, whoever fails."""

from collections.abc import Iterable, Iterator

from vsync.testing.history import SAFE, History, Process, Span, Stay
from vsync.testing.properties.findings import (
    Violation,
    breach,
    listed,
    may_have_entered,
    named,
    stated,
)


@stated("3", "A process delivers what it sent, unless it crashes first.")
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
            yield breach(
                "3",
                f"{process} sent {message.id} and {why}, without delivering it",
                process,
                [event],
                [message],
            )


def together(stays: Iterable[Stay]) -> dict[tuple[str, str], list[Stay]]:
    """Those stays in one regular configuration that went on through the same t to the same n."""
    groups: dict[tuple[str, str], list[Stay]] = {}
    for stay in stays:
        if stay.transitional is not None and stay.following is not None:
            key = (stay.transitional.configuration.id, stay.following.configuration.id)
            groups.setdefault(key, []).append(stay)
    return groups


@stated("4", "Those who go through the same configurations deliver the same messages in them.")
def those_who_move_together_deliver_the_same(history: History) -> Iterator[Violation]:
    """For each (c, t, n): the same set; and only safe messages may be in c here and in t there."""
    for id, stays in history.stays.items():
        for (t, n), moving in together(stays).items():
            first = moving[0]
            regular = set(first.span.messages)
            for stay in moving[1:]:
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
                    yield breach(
                        "4",
                        f"{stay.process} and {first.process} both go from {id} through {t} to "
                        f"{n}, but one delivers {named(listed(history, moved))} in {id} and "
                        f"the other in {t}; only safe messages may differ so",
                        stay.process,
                        [stay.span.event],
                        listed(history, moved),
                    )


def _different_sets(
    history: History, through: tuple[str, str, str], first: Stay, stay: Stay
) -> Iterator[Violation]:
    for has, lacks in ((first, stay), (stay, first)):
        missing = has.delivered - lacks.delivered
        if missing:
            yield breach(
                "4",
                f"{has.process} and {lacks.process} both go from {through[0]} through "
                f"{through[1]} to {through[2]}, but {lacks.process} does not deliver "
                f"{named(listed(history, missing))} there",
                lacks.process,
                [lacks.span.event],
                listed(history, missing),
            )


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


@stated("7.1", "A safe message delivered in a configuration is delivered by all its members.")
def safe_messages_reach_all_members(history: History) -> Iterator[Violation]:
    """By every member, in its stay in the home, unless its trace ends in that stay."""
    for home, stays in history.stays.items():
        for id, (span, witness, messages) in _safe_by_configuration(history, stays).items():
            for stay in stays:
                if stay.following is None or stay.process.node not in span.configuration.members:
                    continue
                missing = messages - stay.delivered
                if missing:
                    yield breach(
                        "7.1",
                        f"{witness}, or another, delivered safe "
                        f"{named(listed(history, missing))} in configuration {id}, but its "
                        f"member {stay.process} left {home} without it",
                        stay.process,
                        [stay.following.event],
                        listed(history, missing),
                    )


@stated("7.2", "A safe message delivered in a regular configuration means that all installed it.")
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
            if any(may_have_entered(process, home) for process in lives):
                continue
            yield breach(
                "7.2",
                f"{witness} delivers safe {named(listed(history, messages), most=1)} in "
                f"configuration {home}, which its member, node {node}, never delivered",
                lives[-1],
                [],
                listed(history, messages)[:1],
            )

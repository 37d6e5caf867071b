"""The properties X.1, X.2, X.5 and X.6: this project's own."""

from collections.abc import Iterator

from vsync.testing.history import (
    UNORDERED,
    History,
    Message,
    Stay,
)
from vsync.testing.properties.findings import Violation, breach, listed, named, ring_seq, stated


@stated("X.1", "Messages of one sender and one priority, not unordered ones, come in order.")
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
                yield breach(
                    "X.1",
                    f"{process} delivers {message.id} after {before.id}, "
                    f"but {message.sends[0][0]} sent it before",
                    process,
                    [event],
                    [message, before],
                )
            else:
                latest[key] = message


@stated("X.2", "Unordered messages keep 1, 3 and 4; no order is promised of them.")
def unordered_messages_are_reliable(history: History) -> Iterator[Violation]:
    """Nothing of its own: 1.1 to 1.4, 3 and 4 take unordered messages in, 5 and 6 do not."""
    del history
    return iter(())


@stated("X.5", "The ring sequence number grows from one regular configuration to the next.")
def ring_sequence_numbers_grow(history: History) -> Iterator[Violation]:
    """Where both ids have the form ``SEQ.REPRESENTATIVE``; other ids are opaque."""
    for process in history.processes:
        for before, after in zip(process.stays, process.stays[1:], strict=False):
            old, new = ring_seq(before.id), ring_seq(after.id)
            if old is not None and new is not None and new <= old:
                yield breach(
                    "X.5",
                    f"{process} goes from configuration {before.id} to {after.id}, "
                    "whose ring sequence number is not higher",
                    process,
                    [after.span.event],
                )


@stated(
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
                yield breach(
                    "X.6",
                    f"{process} sent {message.id} and never delivered it",
                    process,
                    [event],
                    [message],
                )
    last: dict[str, list[Stay]] = {}
    for process in running:
        if process.stays:
            last.setdefault(process.stays[-1].id, []).append(process.stays[-1])
    for id, stays in last.items():
        for stay in stays:
            missing = set().union(*(other.delivered for other in stays)) - stay.delivered
            if missing:
                yield breach(
                    "X.6",
                    f"{stay.process} ends in configuration {id} without delivering "
                    f"{named(listed(history, missing))}, which other members delivered",
                    stay.process,
                    [stay.span.event],
                    listed(history, missing),
                )

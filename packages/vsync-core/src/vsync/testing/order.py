"""Orders of events: replaying a history by cause and effect, and sorting a graph topologically.

Everything here is linear in the number of events or edges.
"""

from collections.abc import Sequence
from typing import NamedTuple

from vsync.testing.history import CONFIGURE, DELIVER, SEND, History


class Run(NamedTuple):
    """Events *start* up to, not including, *end* of one process."""

    process: int
    start: int
    end: int


class Replay(NamedTuple):
    """All events in an order in which each follows its causes, as far as there is one."""

    runs: list[Run]
    stuck: list[str]
    """The links of one circle of causes, as half sentences; empty: there is none."""
    processes: list[int]
    """The processes in that circle."""


def replay(history: History, *, merge: bool = False) -> Replay:
    """Let every process go on until it would deliver what nobody has sent yet.

    With *merge*, all deliveries of one configuration count as a single event: no process passes it
    before all that deliver it have come to it. A message that nobody ever sent holds up nobody.
    """
    processes = history.processes
    position = [0] * len(processes)
    sent = bytearray(len(history.messages))
    for message in history.messages:
        if not message.sends:
            sent[message.index] = 1
    missing: dict[str, int] = {}
    first: set[tuple[int, int]] = set()
    if merge:
        for process in processes:
            for id, ordinal in {
                span.configuration.id: span.ordinal for span in reversed(process.spans)
            }.items():
                missing[id] = missing.get(id, 0) + 1
                first.add((process.index, ordinal))
    waiting: dict[int, list[int]] = {}
    gathered: dict[str, list[int]] = {}
    arrived: set[tuple[int, int]] = set()
    runs: list[Run] = []
    ready = [process.index for process in reversed(processes)]
    while ready:
        index = ready.pop()
        process = processes[index]
        kinds, references = process.kinds, process.references
        start = event = position[index]
        end = len(kinds)
        while event < end:
            kind = kinds[event]
            if kind == DELIVER:
                message_index = references[event]
                if not sent[message_index]:
                    waiting.setdefault(message_index, []).append(index)
                    break
            elif kind == SEND:
                message_index = references[event]
                if not sent[message_index]:
                    sent[message_index] = 1
                    ready.extend(waiting.pop(message_index, ()))
            elif kind == CONFIGURE and merge:
                key = (index, references[event])
                if key in first:
                    id = process.spans[key[1]].configuration.id
                    if key not in arrived:
                        arrived.add(key)
                        missing[id] -= 1
                    if missing[id]:
                        gathered.setdefault(id, []).append(index)
                        break
                    ready.extend(gathered.pop(id, ()))
            event += 1
        position[index] = event
        if event > start:
            runs.append(Run(index, start, event))
    stuck, circle = _circle(history, position, arrived)
    return Replay(runs, stuck, circle)


def _circle(
    history: History, position: Sequence[int], arrived: set[tuple[int, int]]
) -> tuple[list[str], list[int]]:
    """Follow who waits for whom from any process that cannot go on, until it closes."""
    processes = history.processes
    held = [p.index for p in processes if position[p.index] < len(p.kinds)]
    if not held:
        return [], []
    index = held[0]
    links: list[str] = []
    path: list[int] = []
    while index not in path:
        path.append(index)
        process = processes[index]
        event = position[index]
        if process.kinds[event] == DELIVER:
            message = history.messages[process.references[event]]
            source = message.sends[0][0]
            links.append(f"{process} delivers {message.id}, which {source} sends only later")
            index = source.index
        else:
            id = process.spans[process.references[event]].configuration.id
            late = next(
                p
                for p in processes
                if position[p.index] < len(p.kinds)
                and any(
                    span.configuration.id == id
                    and span.event >= position[p.index]
                    and (p.index, span.ordinal) not in arrived
                    for span in p.spans
                )
            )
            links.append(f"{process} delivers configuration {id}, which {late} delivers only later")
            index = late.index
    start = path.index(index)
    return links[start:], path[start:]


def circle(successors: Sequence[Sequence[int]]) -> list[int]:
    """Vertices of one circle in a graph, in order; empty if the graph has none (Kahn)."""
    indegree = [0] * len(successors)
    for following in successors:
        for vertex in following:
            indegree[vertex] += 1
    ready = [vertex for vertex, degree in enumerate(indegree) if not degree]
    sorted_count = 0
    while ready:
        vertex = ready.pop()
        sorted_count += 1
        for after in successors[vertex]:
            indegree[after] -= 1
            if not indegree[after]:
                ready.append(after)
    if sorted_count == len(successors):
        return []
    # What is left lies on a circle or behind one, so going backwards never ends: it must close.
    before: dict[int, int] = {}
    for vertex, following in enumerate(successors):
        if indegree[vertex]:
            for after in following:
                if indegree[after]:
                    before.setdefault(after, vertex)
    vertex = next(iter(before))
    seen: dict[int, int] = {}
    path: list[int] = []
    while vertex not in seen:
        seen[vertex] = len(path)
        path.append(vertex)
        vertex = before[vertex]
    return path[seen[vertex] :][::-1]

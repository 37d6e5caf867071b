"""Properties 5 and 6: causal order, and one order for all."""

from collections.abc import Iterator
from operator import gt

from vsync.testing.history import AGREED, CONFIGURE, DELIVER, FIFO, SAFE, SEND, History, Stay
from vsync.testing.order import circle, replay
from vsync.testing.properties.findings import Violation, breach, named, stated


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


@stated("5", "A message is not delivered before, or without, what caused it.")
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
                yield breach(
                    "5",
                    f"{process} delivers {message.id} {how} {cause.id}, which its sender had "
                    f"{'sent' if cause.sender == message.sender else 'seen'} first",
                    process,
                    [event],
                    [message, cause],
                )


@stated("6.1/6.2", "Configurations and agreed and safe messages have one order for all.")
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
        yield breach(
            "6.1/6.2",
            f"there is no one order for all: {named([*ids, ids[0]], most=12)} "
            "each come before the next, somewhere",
            messages=[history.messages[v] for v in found if v < count],
        )


@stated(
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
                yield breach(
                    "6.3",
                    f"{stay.process} delivers {has.id} but not {lacks.id}, which is ordered "
                    f"before it in configuration {home}",
                    stay.process,
                    [stay.process.delivered[last]],
                    [has, lacks],
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

"""Those who ask and those who answer when latency is measured.

An asker sends messages to the group at times that are fixed beforehand, whatever became of those
before (an *open loop*), and counts each from the time at which it was *due*: a stall that delays
the sending is part of what it does to the messages that wait. Answerers are members of the group,
too, and answer to a second group, in which only askers are.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from vsync.api.session import Session
from vsync.errors import WouldBlock
from vsync.events import ConfigurationChanged, Delivery, Event, GroupChanged
from vsync.vocabulary import GroupKey, Guarantee, Member, Priority
from vsync_cli.measure.figures import Times
from vsync_cli.measure.inspection import Inspection
from vsync_cli.measure.load import Changes
from vsync_cli.measure.payloads import Head, Sort, Writer, answer, asked_by, beside, end, read

ANSWERS = "answers"

PATIENCE_S = 2.0
"""How long after the last answer an asker waits for the next, when all its own have come."""


def _times() -> "array[float]":
    return array("d")


@dataclass(slots=True)
class Answers:
    """Those of one session."""

    next: int = 0
    times: "array[float]" = field(default_factory=_times)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probing:
    """What an asker does."""

    group: GroupKey
    rate: float
    """Messages a second."""

    seconds: float
    size: int
    guarantee: Guarantee
    priority: Priority

    @property
    def messages(self) -> int:
        """How many that makes; one at least."""
        return max(1, round(self.rate * self.seconds))


class Asker:
    """One session that sends, and times what it is given."""

    def __init__(
        self,
        session: Session,
        probing: Probing,
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._probing = probing
        self._clock = clock
        self._answers = beside(probing.group, ANSWERS)
        self._began: float | None = None
        self._complete = anyio.Event()
        self.sent = 0
        self.own = _times()
        self.answers: dict[Member, Answers] = {}
        self.inspection = Inspection()
        self.changes = Changes()
        self.repeated_answers = 0
        self.blocked = 0
        """How many messages found no room and had to wait."""

        self.members: frozenset[Member] = frozenset()

    @property
    def began(self) -> bool:
        """Whether anything was sent."""
        return self._began is not None

    async def prepare(self) -> None:
        """Join the group, and where the answers come."""
        await self._session.join(self._probing.group, self._answers)

    async def run(self) -> None:
        """Send all, and wait for all."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen)
            await self._send()
            await self._complete.wait()
            await self._wait_for_answers()
            tasks.cancel_scope.cancel()

    async def _send(self) -> None:
        probing = self._probing
        writer = Writer(self._session.member, probing.size)
        self._began = self._clock()
        for counter in range(probing.messages):
            wait = self._due(counter) - self._clock()
            if wait > 0:
                await anyio.sleep(wait)
            elif counter % 100 == 0:
                await anyio.lowlevel.checkpoint()  # behind, but others want to work, too
            self.sent += 1
            self.blocked += not await hand_over(
                self._session,
                writer.data(counter),
                probing.group,
                probing.guarantee,
                probing.priority,
            )
        await self._session.send(
            end(self._session.member, self.sent), probing.group, priority=probing.priority
        )

    def _due(self, counter: int) -> float:
        assert self._began is not None
        return self._began + counter / self._probing.rate

    async def _listen(self) -> None:
        async for batch in self._session.batches():
            now = self._clock()
            for event in batch:
                self._take(event, now)

    def _take(self, event: Event, now: float) -> None:
        if isinstance(event, Delivery):
            if self._answers in event.groups:
                self._take_answer(event, now)
            elif event.sender == self._session.member:
                head = read(event)
                measured = self.inspection.take(event, now) is not None
                if head is not None and measured:
                    self.own.append(now - self._due(head.counter))
                elif head is not None and head.sort is Sort.END:
                    self._complete.set()
        elif isinstance(event, GroupChanged):
            if event.group == self._probing.group:
                self.members = frozenset(event.members)
        elif isinstance(event, ConfigurationChanged):
            self.changes.take(event.configuration, measuring=self._began is not None)

    def _take_answer(self, event: Delivery, now: float) -> None:
        head = read(event)
        if head is None or head.sort is not Sort.ANSWER:
            self.inspection.damaged += 1
            return
        if asked_by(event.payload) != self._session.member:
            return
        answers = self.answers.setdefault(head.member, Answers())
        if event.guarantee is not Guarantee.UNORDERED and head.counter < answers.next:
            self.repeated_answers += 1
            return
        answers.next = head.counter + 1
        answers.times.append(now - self._due(head.counter))

    async def _wait_for_answers(self) -> None:
        """Until all who have answered have answered everything, or nothing comes any more."""
        came, at = -1, self._clock()
        while self._clock() - at < PATIENCE_S:
            waits = [
                answers
                for member, answers in self.answers.items()
                if member in self.members and len(answers.times) < self._probing.messages
            ]
            if not waits and (self.answers or len(self.members) < 2):
                return
            now_came = sum(len(answers.times) for answers in waits)
            if now_came != came:
                came, at = now_came, self._clock()
            await anyio.sleep(0.01)

    def faults(self) -> dict[str, int]:
        """How many messages were wrong, by what was wrong."""
        faults = self.inspection.faults
        return {**faults, "repeated": faults["repeated"] + self.repeated_answers}

    def own_times(self) -> Times:
        """From when a message was due to its delivery here."""
        return Times.of(self.own)

    def answer_times(self) -> dict[Member, Times]:
        """From when a message was due to the delivery of an answer to it here, by who answered."""
        return {member: Times.of(answers.times) for member, answers in sorted(self.answers.items())}


class Answerer:
    """One session that answers every message of the group that asks."""

    def __init__(self, session: Session, group: GroupKey) -> None:
        self._session = session
        self._group = group
        self.answered = 0

    async def prepare(self) -> None:
        """Join the group: from now on messages are answered."""
        await self._session.join(self._group)

    async def run(self) -> None:
        """Answer, without an end."""
        async for batch in self._session.batches():
            asked = [
                (event, head)
                for event in batch
                if isinstance(event, Delivery)
                and event.sender != self._session.member
                and (head := read(event)) is not None
                and head.sort is Sort.DATA
            ]
            for event, head in asked:
                await self._answer(event, head)

    async def _answer(self, event: Delivery, head: Head) -> None:
        await hand_over(
            self._session,
            answer(self._session.member, head, len(event.payload)),
            beside(self._group, ANSWERS),
            event.guarantee,
            event.envelope.priority,
        )
        self.answered += 1


async def hand_over(
    session: Session, payload: bytes, group: GroupKey, guarantee: Guarantee, priority: Priority
) -> bool:
    """Send at once, or wait for room; whether it was at once."""
    try:
        session.send_nowait(payload, group, guarantee=guarantee, priority=priority)
    except WouldBlock:
        await session.send(payload, group, guarantee=guarantee, priority=priority)
        return False
    return True

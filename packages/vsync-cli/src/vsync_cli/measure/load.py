"""Senders and receivers of a bench: each a session; those of one run may be on many nodes.

Receivers are members of the run's group. All, senders too, are members of a second group beside it:
its views tell receivers which senders have still to come to their end, and which will not. A sender
ends by a message to both groups, so it knows when all before it was delivered at its own node.
"""

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from vsync.api.session import Session
from vsync.events import ConfigurationChanged, Delivery, Event, GroupChanged
from vsync.vocabulary import Configuration, GroupKey, Guarantee, Kind, Member, Priority
from vsync_cli.measure.figures import Rate
from vsync_cli.measure.inspection import Inspection
from vsync_cli.measure.payloads import Sort, Writer, beside, end, read
from vsync_cli.render import configuration_line

ALL_MEMBERS = "all members"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run's senders do."""

    group: GroupKey
    messages: int | None
    """Of each sender; None: as many as there are in *seconds*."""

    seconds: float
    size: int
    guarantee: Guarantee
    priority: Priority
    batch: int
    """How many are handed over at once."""


class Changes:
    """The configurations that came while somebody measured."""

    def __init__(self) -> None:
        self._begun = False
        self._seen: list[Configuration] = []

    def take(self, configuration: Configuration, *, measuring: bool) -> None:
        """Remember a configuration, but for the one with which the stream begins.

        Transitional ones say nothing that the next does not.
        """
        if self._begun and measuring and configuration.kind is Kind.REGULAR:
            self._seen.append(configuration)
        self._begun = True

    def notes(self) -> list[str]:
        """A sentence for each."""
        return [
            f"The configuration changed during the run: {configuration_line(configuration)}."
            for configuration in self._seen
        ]


class Sender:
    """One session that sends."""

    def __init__(self, session: Session, plan: Plan, clock: Callable[[], float]) -> None:
        self._session = session
        self._plan = plan
        self._clock = clock
        self._ended = anyio.Event()
        self._began: float | None = None
        self._last = 0.0
        self.messages = 0
        self.changes = Changes()

    @property
    def member(self) -> Member:
        """Who sends."""
        return self._session.member

    @property
    def rate(self) -> Rate:
        """What it has sent so far; in the end, in the time until all was delivered at its node."""
        seconds = 0.0 if self._began is None else self._last - self._began
        return Rate(messages=self.messages, bytes=self.messages * self._plan.size, seconds=seconds)

    async def prepare(self) -> None:
        """Be known to the receivers."""
        await self._session.join(beside(self._plan.group, ALL_MEMBERS))

    async def run(self) -> None:
        """Send everything, and wait until all of it was delivered at this node."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen)
            await self._send()
            await self._ended.wait()
            tasks.cancel_scope.cancel()

    async def _send(self) -> None:
        plan = self._plan
        writer = Writer(self.member, plan.size)
        self._began = self._last = self._clock()
        until = self._began + plan.seconds
        while plan.messages is None or self.messages < plan.messages:
            if plan.messages is None and self._last >= until:
                break
            count = plan.batch
            if plan.messages is not None:
                count = min(count, plan.messages - self.messages)
            batch = [writer.data(self.messages + place) for place in range(count)]
            await self._session.send_batch(
                batch, plan.group, guarantee=plan.guarantee, priority=plan.priority
            )
            self.messages += count
            self._last = self._clock()
        # Agreed, whatever the others are: so it comes after all of them, everywhere.
        await self._session.send(
            end(self.member, self.messages),
            plan.group,
            beside(plan.group, ALL_MEMBERS),
            guarantee=Guarantee.AGREED,
            priority=plan.priority,
        )

    async def _listen(self) -> None:
        async for batch in self._session.batches():
            for event in batch:
                if isinstance(event, ConfigurationChanged):
                    self.changes.take(event.configuration, measuring=self._began is not None)
                elif isinstance(event, Delivery) and event.sender == self.member:
                    head = read(event)
                    if head is not None and head.sort is Sort.END:
                        self._last = self._clock()
                        self._ended.set()


class Receiver:
    """One session that receives, and holds what it gets against what was sent."""

    def __init__(self, session: Session, group: GroupKey, clock: Callable[[], float]) -> None:
        self._session = session
        self._group = group
        self._all = beside(group, ALL_MEMBERS)
        self._clock = clock
        self._views: dict[GroupKey, frozenset[Member]] = {}
        self._first: float | None = None
        self._last = 0.0
        self.began: float | None = None
        """When its senders began, where that is known; else its time begins with a message."""

        self.messages = 0
        self.bytes = 0
        self.longest_pause_s = 0.0
        self.guarantees: set[Guarantee] = set()
        self.sizes: set[int] = set()
        self.inspection = Inspection()
        self.changes = Changes()
        self.gone: set[Member] = set()
        """Senders that went before they had said how many they had sent."""

    @property
    def member(self) -> Member:
        """Who receives."""
        return self._session.member

    @property
    def rate(self) -> Rate:
        """What came so far."""
        began = self._first if self.began is None else self.began
        seconds = 0.0 if self._first is None or began is None else self._last - began
        return Rate(messages=self.messages, bytes=self.bytes, seconds=seconds)

    async def prepare(self) -> None:
        """Join; what is sent from now on comes."""
        await self._session.join(self._group, self._all)

    async def run(self) -> None:
        """Receive until all senders have come to their end, or are gone."""
        async for batch in self._session.batches():
            now = self._clock()
            for event in batch:
                self._take(event, now)
            if self._complete():
                return

    def _take(self, event: Event, now: float) -> None:
        if isinstance(event, Delivery):
            track = self.inspection.take(event, now)
            if track is None:
                return
            if self._first is None:
                self._first = now
            else:
                self.longest_pause_s = max(self.longest_pause_s, now - self._last)
            self._last = now
            self.messages += 1
            self.bytes += len(event.payload)
            self.guarantees.add(event.guarantee)
            self.sizes.add(len(event.payload))
        elif isinstance(event, GroupChanged):
            self._see(event)
        elif isinstance(event, ConfigurationChanged):
            self.inspection.configuration(event.configuration)
            self.changes.take(event.configuration, measuring=self._first is not None)

    def _see(self, view: GroupChanged) -> None:
        first = view.group not in self._views
        self._views[view.group] = frozenset(view.members)
        if view.group != self._all:
            return
        if first:
            # Those who were there before may have sent before.
            self.inspection.expect_late(set(view.members) - {self.member})
        for move in view.left:
            track = self.inspection.tracks.get(move.member)
            if track is not None and track.begun and track.total is None:
                self.gone.add(move.member)

    def _complete(self) -> bool:
        if self._first is None and not any(
            track.total is not None for track in self.inspection.tracks.values()
        ):
            return False
        pending = self._views.get(self._all, frozenset()) - self._views.get(
            self._group, frozenset()
        )
        tracks = self.inspection.tracks
        return all(
            member in tracks and tracks[member].total is not None for member in pending
        ) and all(
            track.total is not None or member in self.gone
            for member, track in tracks.items()
            if track.begun
        )

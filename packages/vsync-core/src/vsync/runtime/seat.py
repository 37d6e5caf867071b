"""Seats: where the sessions of a node sit, and which events go to which of them.

Used by whichever thread runs the engine, one at a time. What a session has joined is changed here
exactly where the stream says so, which is what makes its first view and its first message agree.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import Future
from typing import Any, Final

from vsync.engine.runs import Run
from vsync.errors import MisuseError, NodeClosed
from vsync.events import Delivery, GroupChanged
from vsync.runtime.mailbox import EVENT_BYTES, Mailbox
from vsync.vocabulary import GroupKey, NodeId

ROUTES_MAX: Final = 4096
"""Lists of groups whose readers are remembered; forgotten all at once beyond this."""


class Change:
    """A join or a leave that is under way: the groups that are still to come, and the answer."""

    __slots__ = ("answer", "groups", "refusals")

    def __init__(self, groups: Collection[GroupKey], answer: "Future[None]") -> None:
        self.groups = set(groups)
        self.answer = answer
        self.refusals: list[str] = []

    def came(self, group: GroupKey) -> bool:
        """One of the groups has come; True if it was the last."""
        self.groups.discard(group)
        return not self.groups

    def finish(self) -> None:
        """Give the answer: all groups have come."""
        if self.refusals:
            self.answer.set_exception(MisuseError("; ".join(self.refusals)))
        else:
            self.answer.set_result(None)


class Seat:
    """One session as the ring's thread knows it. *serves*: it belongs to a service.

    With *in_runs*, its mailbox is given messages as they come from the ring, and not one by one.
    """

    __slots__ = (
        "batch",
        "groups",
        "in_runs",
        "joining",
        "leaving",
        "mailbox",
        "payload_bytes",
        "serves",
        "session",
    )

    def __init__(
        self, session: int, mailbox: Mailbox, *, serves: bool = False, in_runs: bool = False
    ) -> None:
        self.session = session
        self.mailbox = mailbox
        self.serves = serves
        self.in_runs = in_runs
        self.groups: set[GroupKey] = set()
        """The groups that its last views put it into."""
        self.joining: list[Change] = []
        self.leaving: list[Change] = []
        self.batch: list[Any] = []
        """What the turn under way has for it."""
        self.payload_bytes = 0
        """Of the messages among that."""

    def deliver(self) -> None:
        """Put what the turn has for it into its mailbox."""
        # Runs are few enough to be looked at once more.
        size = None if self.in_runs else EVENT_BYTES * len(self.batch) + self.payload_bytes
        self.mailbox.put(self.batch, size)
        self.batch, self.payload_bytes = [], 0


class Route:
    """Which seats an event goes to."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._by_session: dict[int, Seat] = {}
        self._targets: dict[tuple[GroupKey, ...], tuple[Seat, ...]] = {}
        self._finished: list[Change] = []

    @property
    def seats(self) -> Collection[Seat]:
        """All seats, in the order in which they were added."""
        return self._by_session.values()

    def add(self, seat: Seat) -> None:
        """A session begins."""
        self._by_session[seat.session] = seat

    def remove(self, seat: Seat) -> bool:
        """A session ends; False if it had ended before."""
        if self._by_session.pop(seat.session, None) is None:
            return False
        self._targets.clear()
        self._fail_changes(seat, _closed(seat))
        return True

    def targets(self, groups: tuple[GroupKey, ...]) -> Sequence[Seat]:
        """The seats that have joined one of *groups*."""
        targets = self._targets.get(groups)
        if targets is None:
            targets = tuple(
                seat for seat in self._by_session.values() if not seat.groups.isdisjoint(groups)
            )
            if len(self._targets) >= ROUTES_MAX:
                self._targets.clear()
            self._targets[groups] = targets
        return targets

    def deliver(self, run: Run) -> None:
        """Messages: to those who have joined one of their groups."""
        deliveries: list[Delivery] | None = None
        for seat in self.targets(run.envelope.groups):
            if seat.in_runs:
                seat.batch.append(run)
            else:
                if deliveries is None:
                    deliveries = run.deliveries
                seat.batch += deliveries
                seat.payload_bytes += run.payload_bytes

    def join(self, seat: Seat, groups: Collection[GroupKey], answer: "Future[None]") -> bool:
        """A join begins; False if there is nothing to join."""
        change = Change([group for group in groups if group not in seat.groups], answer)
        return self._begin(seat, change, seat.joining)

    def leave(self, seat: Seat, groups: Collection[GroupKey], answer: "Future[None]") -> bool:
        """A leave begins; False if there is nothing to leave."""
        change = Change([group for group in groups if group in seat.groups], answer)
        return self._begin(seat, change, seat.leaving)

    def _begin(self, seat: Seat, change: Change, changes: list[Change]) -> bool:
        if seat.session not in self._by_session:
            change.answer.set_exception(_closed(seat))
            return False
        if not change.groups:
            change.answer.set_result(None)
            return False
        changes.append(change)
        return True

    def change(self, view: GroupChanged) -> None:
        """A view: to those who are in the group, those who join and those who leave with it."""
        group = view.group
        for seat in self._moved(view.joined):
            seat.groups.add(group)
        for seat in self._by_session.values():
            if group in seat.groups:
                seat.batch.append(view)
        for seat in self._moved(view.left):
            seat.groups.discard(group)
            seat.leaving = self._go_on(seat.leaving, group)
        for seat in self._moved(view.joined):
            seat.joining = self._go_on(seat.joining, group)

    def _go_on(self, changes: list[Change], group: GroupKey) -> list[Change]:
        """*group* has come; those of *changes* that are not finished by that."""
        finished = [change for change in changes if change.came(group)]
        self._finished += finished
        return [change for change in changes if change not in finished]

    def answer(self) -> None:
        """Answer the joins and leaves whose views are in the mailboxes by now."""
        finished, self._finished = self._finished, []
        for change in finished:
            change.finish()

    def _moved(self, moves: Sequence[Any]) -> list[Seat]:
        """The seats on this node among *moves*."""
        moved = []
        for member, _ in moves:
            seat = self._by_session.get(member.session) if member.node == self._node else None
            if seat is not None:
                moved.append(seat)
        if moved:
            self._targets.clear()
        return moved

    def refuse(self, session: int, group: GroupKey, reason: str) -> None:
        """A join of *group* was refused."""
        seat = self._by_session.get(session)
        if seat is not None:
            for change in seat.joining:
                if group in change.groups:
                    change.refusals.append(reason)
            seat.joining = self._go_on(seat.joining, group)

    def fail(self, error: BaseException) -> None:
        """Nothing will come any more: let nobody wait."""
        self.answer()
        for seat in self._by_session.values():
            self._fail_changes(seat, error)

    @staticmethod
    def _fail_changes(seat: Seat, error: BaseException) -> None:
        for change in (*seat.joining, *seat.leaving):
            if not change.answer.done():
                change.answer.set_exception(error)
        seat.joining, seat.leaving = [], []


def _closed(seat: Seat) -> BaseException:
    """What to raise where a session has ended."""
    return seat.mailbox.evicted or NodeClosed("the session is closed")

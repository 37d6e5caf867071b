"""Membership: who is on the ring. Gather, commit and recovery (Totem, TOCS 1995, section 5), and
how rings find each other.

The middle one of the engine's three layers.
"""

from abc import abstractmethod
from collections import deque
from typing import Final

from vsync.engine.agreement import Verdict
from vsync.engine.neighbours import Meeting
from vsync.engine.ordering import Ordering
from vsync.engine.recovery import Attempt, Plan
from vsync.engine.rest import Rest
from vsync.engine.rotation import Rotation
from vsync.engine.state import State, Trigger
from vsync.engine.timers import Timer
from vsync.errors import (
    DuplicateNode,
    VsyncError,
)
from vsync.events import ConfigurationChanged
from vsync.transport import EVERYONE, Address, Burst
from vsync.vocabulary import (
    NodeId,
    RingId,
)
from vsync.wire import (
    Beacon,
    Commit,
    Entry,
    Join,
    Mark,
    Recovered,
    Terms,
    Token,
)
from vsync.wire.header import Header

LEAVE_COPIES: Final = 3
"""A leave message is not repeated later, so it goes out several times at once."""


class Membership(Ordering):
    """One node's part in forming rings."""

    # --- joining and leaving --------------------------------------------------------------------

    def leave(self, now: float) -> None:
        """Say farewell and stop. What is not stable may be lost: look at ``unstable`` before."""
        if self.state is State.LEFT:
            return
        farewell = Join(
            self.node,
            self.life,
            self._ring,
            self._ring_seq_max,
            self._next_join_number(),
            True,
            frozenset(self._gathering.processes - {self.node}),
            frozenset({self.node}),
        )
        self._emit_deliveries()
        self._become(Trigger.LEAVE)
        self._timers.stop_all()
        self._to_self.clear()
        self._held = None
        self._rest.forget()
        self._transmit.append(Burst(EVERYONE, [self._codec.join(farewell)] * LEAVE_COPIES))

    def _fail(self, failure: VsyncError, now: float) -> None:
        self.failure = failure
        self.leave(now)

    def _give_up_receiving(self, now: float) -> None:
        """A message that all others have cannot reach us: leave them, rather than hold them up."""
        self.counters.add("receive_failed")
        self._gathering.failed |= set(self._members) - {self.node}
        farewell = Join(
            self.node,
            self.life,
            self._ring,
            self._ring_seq_max,
            self._next_join_number(),
            True,
            frozenset(self._members) - {self.node},
            frozenset({self.node}),
        )
        self._become(Trigger.RECEIVE_FAILED)
        self._send([self._codec.join(farewell)] * LEAVE_COPIES)
        self._gather(now)

    def _on_own_number(self, header: Header, now: float) -> None:
        """A frame of control with our node id that we did not send."""
        if self._neighbours.duplicate(header.life, now):
            self._fail(
                DuplicateNode(
                    f"another running node on this ring also has id {self.node}; this one stops. "
                    "Give each node an id of its own ([node] id)"
                ),
                now,
            )
        else:
            self.counters.add("dropped_own_number")

    # --- gather ---------------------------------------------------------------------------------

    def _gather(self, now: float) -> None:
        """Look for others; the state is GATHER already."""
        self._begin_gathering()
        self._gather_again(now)

    def _begin_gathering(self) -> None:
        assert self.state is State.GATHER
        self._emit_deliveries()
        self._timers.stop_all()
        self._to_self.clear()
        self._held = self._saved_token = self._commit = None
        self._resting = False
        self._rest.forget()
        self._gathering.begin()

    def _gather_again(self, now: float, heard: NodeId | None = None) -> None:
        """Tell the others what we think now, and give them their time to agree."""
        self._gathering.restart_hearing(heard)
        self._send_join(now)
        patience_s = self.health.patience_s(self._settings.consensus_s, now)
        self._timers.start(Timer.CONSENSUS, now + patience_s)
        self._try_to_form(now)

    def _next_join_number(self) -> int:
        self._joins_sent += 1
        return self._joins_sent

    def _send_join(self, now: float) -> None:
        gathering = self._gathering
        join = Join(
            self.node,
            self.life,
            self._ring,
            self._ring_seq_max,
            self._next_join_number(),
            False,
            frozenset(gathering.processes),
            frozenset(gathering.failed | gathering.refused),
            frozenset(gathering.refused - gathering.failed),
            self.agreement.mark,
        )
        self._send([self._codec.join(join)])
        self._timers.start(Timer.JOIN, now + self._settings.join_s)

    def _on_join(self, join: Join, header: Header, source: Address, now: float) -> None:
        sender = join.sender
        if not (join.leaving or self._agrees(sender, join.mark, now)):
            return
        self._learn_ring_seq(join.ring_seq_max, join.ring.seq)
        met = self._neighbours.meet(sender, join.life, source, now)
        if met is Meeting.FORMER_LIFE:
            self.counters.add("dropped_former_life")
            return
        if met is Meeting.NEW_LIFE:
            self._gathering.reborn(sender)
        if not self._neighbours.is_latest(sender, join.number):
            self.counters.add("dropped_old_join")
        elif join.leaving:
            self._neighbours.left(sender, join.life)
            self._on_leave(sender, now)
        elif not self._join_is_stale(join, now):
            if self.state is not State.GATHER:
                self._become(Trigger.JOIN_ACCEPTED)
                self._begin_gathering()
                self._hear(join)
                self._gather_again(now, heard=sender)
            elif self._hear(join):
                self._gather_again(now, heard=sender)
            else:
                self._try_to_form(now)

    def _learn_ring_seq(self, *heard: int) -> None:
        """Remember the highest ring number heard of: the next ring's is above it."""
        self._ring_seq_max = max(self._ring_seq_max, *heard)

    def _hear(self, join: Join) -> bool:
        return self._gathering.hear(join, of_my_ring=join.sender in self._members)

    def _join_is_stale(self, join: Join, now: float) -> bool:
        """The join tells nothing that matters in this state (or any more)."""
        sender, ring_seq = join.sender, join.ring.seq
        match self.state:
            case State.OPERATIONAL:
                if self.node in join.failed:
                    return True  # else two halves that gave each other up would never rest
                if self._neighbours.avoided(sender, now):
                    return True  # else paths that are cut one way only would leave no ring in peace
                return self._member_lives.get(sender) == join.life and ring_seq < self._ring.seq
            case State.GATHER:
                return self._member_lives.get(sender) == join.life and ring_seq < self._log.ring.seq
            case State.COMMIT | State.RECOVERY:
                assert self._commit is not None
                members = self._commit.members
                if sender not in members:
                    return True  # its turn comes when this ring is formed
                if self._commit_lives.get(sender) != join.life or ring_seq >= self._ring.seq:
                    return False
                # It has not seen the commit token yet. If it no longer agrees, it never will.
                agrees = join.processes - join.failed == frozenset(members)
                return agrees or self.state is State.RECOVERY
            case _:
                return True

    def _on_leave(self, sender: NodeId, now: float) -> None:
        match self.state:
            case State.OPERATIONAL:
                if sender in self._members:
                    self._gathering.left(sender)
                    self._become(Trigger.JOIN_ACCEPTED)
                    self._gather(now)
            case State.GATHER:
                if self._gathering.left(sender):
                    self._gather_again(now)
            case State.COMMIT | State.RECOVERY:
                assert self._commit is not None
                if sender in self._commit.members:
                    self._gathering.left(sender)
                    self._become(Trigger.JOIN_ACCEPTED)
                    self._gather(now)

    def _on_consensus_expired(self, now: float) -> None:
        gathering = self._gathering
        if gathering.may_form:
            gathering.forget_opinions()  # agreed, but the representative made no ring
        else:
            self.counters.add("nodes_accused", gathering.expire())
        self._become(Trigger.CONSENSUS_EXPIRED)
        self._gather_again(now)

    def _try_to_form(self, now: float) -> None:
        gathering = self._gathering
        if not gathering.may_form:
            return
        candidates = tuple(sorted(gathering.candidates))
        if candidates[0] == self.node:
            ring = RingId(max(self._ring_seq_max, self._ring.seq) + 1, self.node)
            self._accept_commit(Commit(ring, 0, tuple(map(Entry, candidates))), now)

    # --- commit ---------------------------------------------------------------------------------

    def _on_commit(self, commit: Commit, header: Header, source: Address, now: float) -> None:
        self._take_commit(commit, now)

    def _take_commit(self, commit: Commit, now: float) -> None:
        self._learn_ring_seq(commit.ring.seq)
        match self.state:
            case State.GATHER:
                mine = [entry for entry in commit.entries if entry.node == self.node]
                if (
                    mine
                    and not mine[0].filled
                    and commit.ring.seq > self._ring.seq
                    and frozenset(commit.members) == self._gathering.candidates
                    and self._can_reach_successor(commit)
                ):
                    self._accept_commit(commit, now)
                else:
                    self.counters.add("dropped_commit")
            case State.COMMIT if self._is_next_commit(commit) and commit.complete:
                self._recover(commit, now)
            case State.RECOVERY if self._is_next_commit(commit) and commit.complete:
                attempt = self._attempt
                assert attempt is not None
                if commit.ring.representative == self.node and not attempt.started:
                    attempt.started = True
                    self._timers.stop(Timer.COMMIT_RESEND)
                    self._take_token(Token(commit.ring), now)
            case _:
                self.counters.add("dropped_commit")

    def _is_next_commit(self, commit: Commit) -> bool:
        """Not a copy, and of the ring and the members that we agreed to."""
        assert self._commit is not None
        if commit.ring != self._ring or commit.members != self._commit.members:
            return False
        # What stands there of us may be another node's that has our id, and made a ring of the same
        # number: the others would take us for it, and believe that we have what it has.
        place = commit.members.index(self.node)
        if commit.entries[place] != self._commit.entries[place]:
            return False
        alone = len(commit.members) == 1  # passed to ourselves, it cannot be a copy
        return alone or commit.token_seq > self._commit.token_seq

    def _accept_commit(self, commit: Commit, now: float) -> None:
        """First round: adopt the ring's number, fill our entry, pass it on."""
        ring_seq = commit.ring.seq
        try:
            self._store.save(ring_seq)  # before anyone can see that we are part of it
        except VsyncError as error:
            self._fail(error, now)
            return
        self._become(Trigger.COMMIT_ACCEPTED)
        self._timers.stop_all()
        self._ring = commit.ring
        self._ring_seq_max = max(self._ring_seq_max, ring_seq)
        self._commit_lives = self._neighbours.lives(commit.members)
        # What we hold of the old ring is now told to others, so it must not change any more.
        self._open_log = None
        self._pass_commit(
            Commit(
                commit.ring,
                commit.token_seq,
                tuple(
                    self._entry() if entry.node == self.node else entry for entry in commit.entries
                ),
            ),
            now,
        )

    def _can_reach_successor(self, commit: Commit) -> bool:
        """We may know of it by hearsay only; its own join, and a resent commit token, will come."""
        successor = self._successor(commit.members)
        return successor == self.node or self._neighbours.address(successor) is not None

    def _entry(self) -> Entry:
        log, attempt = self._log, self._attempt
        if attempt is None:
            return Entry(
                self.node, True, log.ring, log.aru, log.high, log.delivered, owes=self._owes
            )
        return Entry(
            self.node,
            True,
            log.ring,
            log.aru,
            log.high,
            log.delivered,
            attempt.log.ring,
            attempt.log.aru,
            attempt.log.high,
            self._owes,
        )

    def _pass_commit(self, commit: Commit, now: float) -> None:
        self._commit = Commit(commit.ring, commit.token_seq + 1, commit.entries)
        patience_s = self.health.patience_s(self._settings.token_lost_s, now)
        self._timers.start(Timer.TOKEN_LOST, now + patience_s)
        self._resend_commit(now)

    def _resend_commit(self, now: float) -> None:
        commit = self._commit
        assert commit is not None
        successor = self._successor(commit.members)
        if successor == self.node:
            self._pass_to_self(commit, now)
            return
        self._send_to(successor, self._codec.commit(commit))
        self._timers.start(Timer.COMMIT_RESEND, now + self._settings.join_s)

    # --- recovery -------------------------------------------------------------------------------

    def _recover(self, commit: Commit, now: float) -> None:
        """Second round: every entry is filled; exchange what the old ring owes."""
        self._become(Trigger.COMMIT_COMPLETE)
        plan = Plan.read(commit, self.node)
        former = self._attempt
        if former is not None and plan.old_ring == former.log.ring:
            self._install(former)  # another member had installed it, we were a moment short
            self.counters.add("installed_late")
        log = self._new_log(commit.ring)
        queue = self._log.held_above(plan.exchange_above) if plan.exchange_above is not None else ()
        self._attempt = Attempt(plan, log, deque(queue))
        self._open_log = log
        self._flow.restart()
        self._rotation = Rotation(self.node, log, self._flow, self.counters)
        self._pass_commit(commit, now)

    def _unwrap(self, frame: Recovered) -> None:
        """An old frame came in its wrapper: it joins the log of the old ring, if that is ours."""
        attempt, inner = self._attempt, frame.inner
        if attempt is not None and inner.ring == self._log.ring:
            attempt.seen.add(inner.seq)
            self._log.add(inner)

    def _install(self, attempt: Attempt) -> None:
        """Deliver what is left of the old ring, the transitional configuration and the new one."""
        plan = attempt.plan
        old = self.configuration
        self._emit_deliveries()
        if old is not None:
            log = self._log
            self._events += log.deliver_rest(old, plan.delivered_by_any)
            transitional = plan.transitional(old)
            self._events.append(ConfigurationChanged(transitional))
            self._events += log.deliver_transitional(transitional, plan.owed)
        self._changed = True
        self.configuration = plan.regular()
        self._events.append(ConfigurationChanged(self.configuration))
        self._log = attempt.log
        self._members = plan.members
        self._owes = frozenset()
        self._attempt = None
        self._packer.restart()
        self.synchronizing = True
        self._open_lanes()
        self._numbered.clear()
        self._numbered_messages = 0

    def _enter_operational(self, now: float) -> None:
        attempt = self._attempt
        assert attempt is not None
        self._become(Trigger.RECOVERED)
        self._install(attempt)
        gathering = self._gathering
        self._neighbours.installed(
            self._members,
            given_up=(gathering.failed | gathering.refused) & gathering.heard_of_late,
            now=now,
        )
        gathering.installed(self._members)
        self._member_lives = self._commit_lives
        self._rest = Rest(len(self._members), self._members.index(self.node))
        self.blocked_by = None
        self.blocked_since = now
        self._open_lanes()
        self._timers.stop(Timer.COMMIT_RESEND)
        self._commit = None
        if self._is_representative:
            self._send_beacon(now)

    # --- rings that find each other -------------------------------------------------------------

    def _send_beacon(self, now: float) -> None:
        if self.state is not State.OPERATIONAL or not self._is_representative:
            return
        heard = frozenset(self._neighbours.representatives_heard(now))
        beacon = Beacon(
            self.node, self.life, self._ring, self._ring_seq_max, heard, self.agreement.mark
        )
        self._send([self._codec.beacon(beacon)])
        self._neighbours.beacon_sent(now)
        self._timers.start(Timer.BEACON, now + self._settings.beacon_s)

    def _on_beacon(self, beacon: Beacon, header: Header, source: Address, now: float) -> None:
        sender = beacon.sender
        if not self._agrees(sender, beacon.mark, now):
            return
        self._learn_ring_seq(beacon.ring_seq_max, beacon.ring.seq)
        if self.state is not State.OPERATIONAL or beacon.ring == self._ring:
            return
        if self._neighbours.meet(sender, beacon.life, source, now) is Meeting.FORMER_LIFE:
            self.counters.add("dropped_former_life")
        elif sender in self._members:
            same_life = self._member_lives.get(sender) == beacon.life
            if beacon.ring.seq > self._ring.seq or not same_life:  # it has gone on without us
                self._become(Trigger.RING_FOUND)
                self._gather(now)
        elif self._is_representative and not self._neighbours.avoided(sender, now):
            self._neighbours.hear_representative(sender, now)
            if self.node in beacon.heard:  # they hear us as well: a ring of both can work
                self._become(Trigger.RING_FOUND)
                self._gathering.add(sender)
                self._gather(now)
            elif self._neighbours.may_answer(now):
                self._send_beacon(now)

    # --- nodes with other settings --------------------------------------------------------------

    def _agrees(self, sender: NodeId, mark: Mark, now: float) -> bool:
        """Whether *sender* has our settings. If not there is no ring with it, and it is told what
        ours are."""
        if self.agreement.agrees(sender, mark, now):
            return True
        self.counters.add("dropped_other_settings")
        operational = self.state is State.OPERATIONAL
        if self.state is not State.LEFT and (self._is_representative or not operational):
            settings = self._settings
            interval_s = settings.beacon_s if operational else settings.join_s
            if self.agreement.may_tell(sender, interval_s, now):
                self._send([self._codec.terms(self.agreement.terms)])
        return False

    def _on_terms(self, terms: Terms, header: Header, source: Address, now: float) -> None:
        match self.agreement.weigh(terms):
            case Verdict.NEWER:
                self._take_newer(terms, header.sender, now)
            case Verdict.OTHER if self.agreement.note(header.sender, terms, now):
                self._tell_differing(header.sender, terms)

    @abstractmethod
    def _take_newer(self, terms: Terms, sender: NodeId, now: float) -> None:
        """*terms* are what ours were changed to."""

    @abstractmethod
    def _tell_differing(self, sender: NodeId, terms: Terms) -> None:
        """*sender* has other terms."""

"""Engine: one node's view of its ring.

The papers are its documentation: Amir, Moser, Melliar-Smith, Agarwal, Ciarfella, "The Totem
Single-Ring Ordering and Membership Protocol", TOCS 1995; Moser, Amir, Melliar-Smith, Agarwal,
"Extended Virtual Synchrony", ICDCS 1994.

Methods come in four kinds: *inputs* (``receive``, ``handle_timeout``), *commands* (``start``,
``submit``, ``set_blocked``, ``leave``), *outputs* (``poll_transmit``, ``poll_timeout``,
``take_events``) and observables. After any batch of inputs and commands, take the outputs in the
order in which they are named here.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vsync.engine.counters import Counters
from vsync.engine.flow import Flow
from vsync.engine.gather import Gathering
from vsync.engine.log import Log
from vsync.engine.neighbours import Meeting, Neighbours
from vsync.engine.packing import Packer
from vsync.engine.recovery import Attempt, Plan
from vsync.engine.rotation import Rotation
from vsync.engine.state import TRANSITIONS, State, Trigger
from vsync.engine.store import RingStore
from vsync.engine.streams import Reader
from vsync.engine.timers import Timer, Timers
from vsync.errors import (
    DuplicateNode,
    MalformedPacket,
    MessageTooLarge,
    MisuseError,
    NodeClosed,
    VsyncError,
)
from vsync.events import ConfigurationChanged, Event
from vsync.settings import RingSettings
from vsync.transport import EVERYONE, Address, Burst, Packet
from vsync.vocabulary import (
    GROUP_KEY_BYTES,
    GROUPS_PER_MESSAGE_MAX,
    Configuration,
    GroupKey,
    Guarantee,
    MessageId,
    NodeId,
    Priority,
    RingId,
)
from vsync.wire import (
    DATA_OVERHEAD_BYTES,
    RECOVERED_OVERHEAD_BYTES,
    Beacon,
    Codec,
    Commit,
    Data,
    Entry,
    Join,
    Recovered,
    Token,
    Wake,
    network_of,
)
from vsync.wire.header import Header

IDLE_VISITS_BEFORE_HOLD: Final = 4
"""Rotations without anything new before the representative holds the token: enough for the last
message to become safe everywhere."""

IDLE_VISITS_BEFORE_WAKE: Final = 2
"""Rotations without anything new after which a node with something to send wakes the token; below
the limit for holding, since not all nodes count alike."""

PAUSE_SHARE: Final = 0.25
"""A node that is late for its own deadlines by this share of ``token_lost_s`` was stopped, and
suspects itself before it suspects others."""

LEAVE_COPIES: Final = 3
"""A leave message is not repeated later, so it goes out several times at once."""


class Engine:
    """One node's view of its ring: no sockets, no clock, no dice.

    *life* tells this life of the node from its others and grows from one to the next. *now* is, in
    all methods, seconds of one monotonic clock. *packet_bytes_max* and *receive_buffer_bytes* are
    the transport's.
    """

    def __init__(
        self,
        node: NodeId,
        life: int,
        settings: RingSettings,
        *,
        now: float,
        packet_bytes_max: int,
        receive_buffer_bytes: int,
        store: RingStore,
    ) -> None:
        self.node = node
        self.life = life
        self.state = State.GATHER
        self.configuration: Configuration | None = None
        """The configuration delivered last."""
        self.failure: VsyncError | None = None
        """Why this node had to stop, if it had to."""
        self.counters = Counters()
        self._settings = settings
        self._store = store
        self._codec = Codec(network_of(settings.name), node, life)
        frame_bytes = packet_bytes_max - DATA_OVERHEAD_BYTES - RECOVERED_OVERHEAD_BYTES
        self._packer = Packer(frame_bytes)
        self._flow = Flow.of(settings, packet_bytes_max, receive_buffer_bytes)
        head_bytes_max = 1 + GROUPS_PER_MESSAGE_MAX * GROUP_KEY_BYTES
        self._reader = Reader(settings.message_bytes_max + head_bytes_max)
        self._timers = Timers()
        self._neighbours = Neighbours(node, life, now, settings.join_s, settings.beacon_s)
        self._gathering = Gathering(node)

        # A restarted node is on a ring of its own, with a number that it never used before.
        self._ring = RingId(store.load() + 1, node)
        self._ring_seq_max = self._ring.seq
        self._log = Log(self._ring, self._reader)
        self._open_log: Log | None = None
        self._members: tuple[NodeId, ...] = (node,)
        self._member_lives: Mapping[NodeId, int] = {node: life}
        self._commit_lives: Mapping[NodeId, int] = {}
        self._owes: frozenset[NodeId] = frozenset()
        self._attempt: Attempt | None = None
        self._commit: Commit | None = None
        self._rotation = Rotation(node, self._log, self._flow, self.counters)

        self._saved_token: tuple[Address, bytes] | None = None
        self._resend_s = settings.token_resend_s
        self._held: Token | None = None
        self._to_self: deque[Token | Commit] = deque()
        self._to_self_at = now
        self._woken = False
        self._blocked = False
        self.blocked_by: NodeId | None = None
        """The node whose application is too slow, so that the ring takes no new messages."""
        self._numbered: deque[tuple[int, int]] = deque()
        self._numbered_messages = 0
        self._transmit: deque[Burst] = deque()
        self._events: list[Event] = []
        self._handlers: Mapping[type, Callable[[Any, Header, Address, float], None]] = {
            Data: self._on_data,
            Recovered: self._on_recovered,
            Join: self._on_join,
            Commit: self._on_commit,
            Beacon: self._on_beacon,
            Wake: self._on_wake,
        }

    # --- inputs ---------------------------------------------------------------------------------

    def receive(self, packets: Sequence[Packet], now: float) -> None:
        """Take in what the transport received, oldest first."""
        stopped = self._notice_pause(now)
        tokens: list[tuple[Header, Token]] = []
        decode = self._codec.decode
        for data, source in packets:
            if self.state is State.LEFT:
                return
            try:
                header, frame = decode(data)
            except MalformedPacket as error:
                self.counters.add(f"dropped_{error.reason}")
                continue
            if type(frame) is Token:
                # Data first, though it came later: it may be what the token would ask for.
                tokens.append((header, frame))
            elif stopped and type(frame) in (Join, Commit, Beacon):
                self.counters.add("dropped_history")  # it waited while we were stopped
            elif header.sender == self.node and type(frame) not in (Data, Recovered):
                self._on_own_number(header, now)
            else:
                self._handlers[type(frame)](frame, header, source, now)
        for header, token in tokens:
            self._on_token(token, header, now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Call it whenever ``poll_timeout`` has passed."""
        self._notice_pause(now)
        for _ in range(len(self._to_self)):
            frame = self._to_self.popleft()
            if isinstance(frame, Token):
                self._take_token(frame, now)
            else:
                self._take_commit(frame, now)
        while (timer := self._timers.due(now)) is not None:
            self._on_timer(timer, now)

    # --- commands -------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin to look for others."""
        self._gather(now)

    def submit(
        self,
        groups: Sequence[GroupKey],
        payload: bytes,
        guarantee: Guarantee,
        priority: Priority,
        now: float,
    ) -> MessageId:
        """Accept a message for all members of *groups*; the id that it will be delivered with.

        Never blocks: look at ``pending_bytes`` before. Raises MessageTooLarge, MisuseError for no
        or too many groups, NodeClosed after ``leave``.
        """
        if self.state is State.LEFT:
            raise NodeClosed("the node has left its ring; open it again to send")
        if len(payload) > self._settings.message_bytes_max:
            raise MessageTooLarge(len(payload), self._settings.message_bytes_max)
        if not 1 <= len(groups) <= GROUPS_PER_MESSAGE_MAX:
            raise MisuseError(
                f"a message goes to 1 to {GROUPS_PER_MESSAGE_MAX} groups, not {len(groups)}; "
                "join a group, or name one in send()"
            )
        counter = self._packer.submit(groups, payload, guarantee, priority)
        self._want_token(now)
        return MessageId(self.node, self.life, priority, counter)

    def set_blocked(self, blocked: bool, now: float) -> None:
        """Ask the ring to take no new messages, since our application is too slow; or no more."""
        if blocked != self._blocked:
            self._blocked = blocked
            self._want_token(now)

    def leave(self, now: float) -> None:
        """Say farewell and stop. What is not stable may be lost: look at ``unstable`` before."""
        if self.state is State.LEFT:
            return
        farewell = Join(
            self.node,
            self.life,
            self._ring,
            self._ring_seq_max,
            True,
            frozenset(self._gathering.processes - {self.node}),
            frozenset({self.node}),
        )
        self._emit_deliveries()
        self._become(Trigger.LEAVE)
        self._timers.stop_all()
        self._to_self.clear()
        self._transmit.append(Burst(EVERYONE, [self._codec.join(farewell)] * LEAVE_COPIES))

    # --- outputs --------------------------------------------------------------------------------

    def poll_transmit(self) -> Burst | None:
        """The next burst to be sent, in order; None when there is none."""
        return self._transmit.popleft() if self._transmit else None

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` is to be called; None: not before something else happens."""
        if self._to_self:
            return self._to_self_at
        return self._timers.next()

    def take_events(self) -> list[Event]:
        """All that the application is to see, in order, since the last call."""
        self._emit_deliveries()
        events, self._events = self._events, []
        return events

    # --- observables ----------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """Bytes of accepted messages that have no place in the order yet."""
        return self._packer.pending_bytes

    @property
    def unstable(self) -> int:
        """Own messages not yet known to be at every member; at 0 one may leave without loss."""
        return self._packer.pending_messages + self._numbered_messages

    @property
    def members(self) -> tuple[NodeId, ...]:
        """The members of the installed ring, ascending."""
        return self._members

    @property
    def window_frames(self) -> int:
        """New frames of all nodes in one rotation, as settings and receive buffer allow."""
        return self._flow.window

    # --- state ----------------------------------------------------------------------------------

    def _become(self, trigger: Trigger) -> bool:
        state = TRANSITIONS[self.state][trigger]
        if state is None:
            return False
        self.state = state
        self.counters.add(f"entered_{state.name.lower()}")
        return True

    def _notice_pause(self, now: float) -> bool:
        """True if this node was stopped: it is late for its own deadline."""
        deadline = self.poll_timeout()
        late_max = PAUSE_SHARE * self._settings.token_lost_s
        if deadline is None or now - deadline < late_max:
            return False
        self.counters.add("pauses_noticed")
        self._timers.postpone(now + self._settings.token_resend_s)
        return True

    def _fail(self, failure: VsyncError, now: float) -> None:
        self.failure = failure
        self.leave(now)

    def _send(self, packets: Sequence[bytes | memoryview]) -> None:
        if packets:
            self._transmit.append(Burst(EVERYONE, packets))

    def _successor(self, members: tuple[NodeId, ...]) -> NodeId:
        return members[(members.index(self.node) + 1) % len(members)]

    def _on_timer(self, timer: Timer, now: float) -> None:
        match timer:
            case Timer.TOKEN_LOST:
                self.counters.add("tokens_lost")
                if self._become(Trigger.TOKEN_LOST):
                    self._gather(now)
            case Timer.TOKEN_RESEND:
                self.counters.add("tokens_resent")
                self._resend_token(now)
            case Timer.HOLD:
                self._release_held(now)
            case Timer.JOIN:
                self._send_join(now)
            case Timer.CONSENSUS:
                self._on_consensus_expired(now)
            case Timer.COMMIT_RESEND:
                self._resend_commit(now)
            case Timer.BEACON:
                self._send_beacon(now)

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
        self._gathering.begin()

    def _gather_again(self, now: float, heard: NodeId | None = None) -> None:
        """Tell the others what we think now, and give them their time to agree."""
        self._gathering.restart_hearing(heard)
        self._send_join(now)
        self._timers.start(Timer.CONSENSUS, now + self._settings.consensus_s)
        self._try_to_form(now)

    def _send_join(self, now: float) -> None:
        gathering = self._gathering
        join = Join(
            self.node,
            self.life,
            self._ring,
            self._ring_seq_max,
            False,
            frozenset(gathering.processes),
            frozenset(gathering.failed),
        )
        self._send([self._codec.join(join)])
        self._timers.start(Timer.JOIN, now + self._settings.join_s)

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

    def _on_join(self, join: Join, header: Header, source: Address, now: float) -> None:
        sender = join.sender
        self._ring_seq_max = max(self._ring_seq_max, join.ring_seq_max, join.ring.seq)
        met = self._neighbours.meet(sender, join.life, source)
        if met is Meeting.FORMER_LIFE:
            self.counters.add("dropped_former_life")
            return
        if met is Meeting.NEW_LIFE:
            self._gathering.reborn(sender)
        if join.leaving:
            self._on_leave(sender, now)
        elif not self._join_is_stale(join):
            if self.state is not State.GATHER:
                self._become(Trigger.JOIN_ACCEPTED)
                self._begin_gathering()
                self._hear(join)
                self._gather_again(now, heard=sender)
            elif self._hear(join):
                self._gather_again(now, heard=sender)
            else:
                self._try_to_form(now)

    def _hear(self, join: Join) -> bool:
        return self._gathering.hear(join, of_my_ring=join.sender in self._members)

    def _join_is_stale(self, join: Join) -> bool:
        """The join tells nothing that matters in this state (or any more)."""
        sender, ring_seq = join.sender, join.ring.seq
        match self.state:
            case State.OPERATIONAL:
                if self.node in join.failed:
                    return True  # else two halves that gave each other up would never rest
                return self._member_lives.get(sender) == join.life and ring_seq < self._ring.seq
            case State.GATHER:
                return self._member_lives.get(sender) == join.life and ring_seq < self._log.ring.seq
            case State.COMMIT | State.RECOVERY:
                assert self._commit is not None
                if sender not in self._commit.members:
                    return True  # its turn comes when this ring is formed
                return self._commit_lives.get(sender) == join.life and ring_seq < self._ring.seq
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
            gathering.expire()
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
        self._ring_seq_max = max(self._ring_seq_max, commit.ring.seq)
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
        """Not a copy, and of the ring that we agreed to."""
        assert self._commit is not None
        alone = len(commit.members) == 1  # passed to ourselves, it cannot be a copy
        return commit.ring == self._ring and (alone or commit.token_seq > self._commit.token_seq)

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
        self._timers.start(Timer.TOKEN_LOST, now + self._settings.token_lost_s)
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

    def _pass_to_self(self, frame: Token | Commit, now: float) -> None:
        self._to_self.append(frame)
        self._to_self_at = now

    def _send_to(self, node: NodeId, packet: bytes) -> None:
        address = self._neighbours.address(node)
        assert address is not None  # we agreed with it, so its join came
        self._transmit.append(Burst(address, [packet]))

    # --- recovery -------------------------------------------------------------------------------

    def _recover(self, commit: Commit, now: float) -> None:
        """Second round: every entry is filled; exchange what the old ring owes."""
        self._become(Trigger.COMMIT_COMPLETE)
        plan = Plan.read(commit, self.node)
        former = self._attempt
        if former is not None and plan.old_ring == former.log.ring:
            self._install(former)  # another member had installed it, we were a moment short
            self.counters.add("installed_late")
        log = Log(commit.ring, self._reader)
        queue = self._log.held_above(plan.exchange_above) if plan.exchange_above is not None else ()
        self._attempt = Attempt(plan, log, deque(queue))
        self._open_log = log
        self._flow.restart()
        self._rotation = Rotation(self.node, log, self._flow, self.counters)
        self._pass_commit(commit, now)

    def _on_recovered(self, frame: Recovered, header: Header, source: Address, now: float) -> None:
        log = self._open_log
        if log is None or log.ring != frame.ring or not log.add(frame):
            self.counters.add("dropped_repeated" if log is not None else "dropped_foreign")
            return
        self._unwrap(frame)

    def _unwrap(self, frame: Recovered) -> None:
        """An old frame came in its wrapper: it joins the log of the old ring, if that is ours."""
        attempt = self._attempt
        if attempt is None:
            return
        try:
            _, inner = self._codec.decode(frame.inner)
        except MalformedPacket as error:
            self.counters.add(f"dropped_{error.reason}")
            return
        if isinstance(inner, Data) and inner.ring == self._log.ring:
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
        self.configuration = plan.regular()
        self._events.append(ConfigurationChanged(self.configuration))
        self._log = attempt.log
        self._members = plan.members
        self._owes = frozenset()
        self._attempt = None
        self._packer.restart()
        self._numbered.clear()
        self._numbered_messages = 0

    def _enter_operational(self, now: float) -> None:
        attempt = self._attempt
        assert attempt is not None
        self._become(Trigger.RECOVERED)
        self._install(attempt)
        gathering = self._gathering
        self._neighbours.installed(
            self._members, given_up=gathering.failed & gathering.heard_of_late, now=now
        )
        gathering.installed(self._members)
        self._member_lives = self._commit_lives
        self.blocked_by = None
        self._timers.stop(Timer.COMMIT_RESEND)
        self._commit = None
        if self._is_representative:
            self._send_beacon(now)

    # --- operational ----------------------------------------------------------------------------

    def _on_data(self, frame: Data, header: Header, source: Address, now: float) -> None:
        log = self._open_log
        if log is None or log.ring != frame.ring:
            self.counters.add("dropped_foreign")
        elif log.add(frame):
            self.counters.add("frames_received")
        else:
            self.counters.add("dropped_repeated")

    def _emit_deliveries(self) -> None:
        """Deliver what the installed ring's log has ripe."""
        if self._open_log is self._log and self.configuration is not None and self._log.undelivered:
            self._events += self._log.deliver(self.configuration)
            self._log.release()

    def _on_token(self, token: Token, header: Header, now: float) -> None:
        if self.state not in (State.OPERATIONAL, State.RECOVERY):
            self.counters.add("dropped_token")
            return
        members = self._commit.members if self._commit is not None else self._members
        predecessor = members[members.index(self.node) - 1]
        if header.sender != predecessor or token.ring != self._ring:
            self.counters.add("dropped_token")
            return
        self._take_token(token, now)

    def _take_token(self, token: Token, now: float) -> None:
        rotation = self._rotation
        log = self._open_log
        if log is None or token.ring != log.ring or token.token_seq <= rotation.token_seq:
            self.counters.add("dropped_token")
            return
        rotation.arrive(token, now)
        self._woken = False
        self._timers.stop(Timer.TOKEN_RESEND, Timer.COMMIT_RESEND)
        self._timers.start(
            Timer.TOKEN_LOST, now + rotation.token_lost_s(self._settings.token_lost_s)
        )
        if self.state is State.OPERATIONAL and self._may_hold(token):
            self._held = token
            self._timers.start(Timer.HOLD, now + self._settings.hold_s)
        else:
            self._visit(token, now)

    @property
    def _is_representative(self) -> bool:
        return self._members[0] == self.node

    def _may_hold(self, token: Token) -> bool:
        """Nothing new for a while, nothing to send, and nothing to say about being blocked."""
        must_unblock = token.blocked_by == self.node and not self._blocked
        return (
            self._is_representative
            and self._rotation.idle_visits >= IDLE_VISITS_BEFORE_HOLD
            and not must_unblock
            and (self._packer.pending_messages == 0 or token.blocked_by != 0)
        )

    def _release_held(self, now: float) -> None:
        token = self._held
        if token is not None:
            self._held = None
            self._timers.stop(Timer.HOLD)
            self._visit(token, now)

    def _visit(self, token: Token, now: float) -> None:
        """All that this node does with the token, and the token's way on."""
        recovering = self._attempt if self.state is State.RECOVERY else None
        if recovering is not None:
            visit = self._rotation.work(
                token,
                self._next_recovered,
                len(recovering.queue),
                accelerated=0,
                may_send=True,
                now=now,
            )
            token.recovering, done = recovering.visit(token.recovering, token.seq, token.aru)
            if recovering.received_all:
                self._owes = recovering.plan.owed
            if done:
                self._enter_operational(now)
        else:
            self._mark_blocked(token)
            visit = self._rotation.work(
                token,
                self._next_data,
                self._packer.backlog_frames,
                accelerated=self._settings.accelerated_frames,
                may_send=token.blocked_by == 0,
                now=now,
            )
            self._log.release()
        self._forget_stable()
        self._send(visit.before)
        self._pass_token(token, now)
        self._send(visit.after)
        stuck = self._rotation.stuck_since
        if stuck is not None and now - stuck > self._settings.receive_failed_s:
            self._give_up_receiving(now)

    def _mark_blocked(self, token: Token) -> None:
        if self._blocked and token.blocked_by == 0:
            token.blocked_by = self.node
        elif token.blocked_by == self.node and not self._blocked:
            token.blocked_by = 0
        self.blocked_by = NodeId(token.blocked_by) if token.blocked_by else None

    def _pass_token(self, token: Token, now: float) -> None:
        members = self._commit.members if self._commit is not None else self._members
        successor = self._successor(members)
        if successor == self.node:
            self._pass_to_self(token, now)
            return
        packet = self._codec.token(token)
        self._saved_token = (self._neighbours.address(successor), packet)
        self._send_to(successor, packet)
        self._resend_s = self._rotation.resend_s(self._settings.token_resend_s)
        self._timers.start(Timer.TOKEN_RESEND, now + self._resend_s)

    def _resend_token(self, now: float) -> None:
        if self._saved_token is not None:
            address, packet = self._saved_token
            self._transmit.append(Burst(address, [packet]))
            self._resend_s = min(2 * self._resend_s, self._settings.token_resend_s)
            self._timers.start(Timer.TOKEN_RESEND, now + self._resend_s)

    def _next_data(self, seq: int) -> bytes | memoryview | None:
        packed = self._packer.take()
        if packed is None:
            return None
        log = self._log
        frame = self._codec.data(
            log.ring, seq, packed.frame_index, packed.counter, packed.flags, packed.pieces
        )
        log.add(frame)
        if packed.messages_finished:
            self._numbered.append((seq, packed.messages_finished))
            self._numbered_messages += packed.messages_finished
        return frame.packet

    def _next_recovered(self, seq: int) -> bytes | memoryview | None:
        attempt = self._attempt
        assert attempt is not None
        old = attempt.next_frame()
        if old is None:
            return None
        frame = self._codec.recovered(attempt.log.ring, seq, old.packet)
        attempt.log.add(frame)
        return frame.packet

    def _forget_stable(self) -> None:
        stable = self._log.stable
        while self._numbered and self._numbered[0][0] <= stable:
            self._numbered_messages -= self._numbered.popleft()[1]

    def _give_up_receiving(self, now: float) -> None:
        """A message that all others have cannot reach us: leave them, rather than hold them up."""
        self.counters.add("receive_failed")
        self._gathering.failed |= set(self._members) - {self.node}
        farewell = Join(
            self.node,
            self.life,
            self._ring,
            self._ring_seq_max,
            True,
            frozenset(self._members) - {self.node},
            frozenset({self.node}),
        )
        self._become(Trigger.RECEIVE_FAILED)
        self._send([self._codec.join(farewell)] * LEAVE_COPIES)
        self._gather(now)

    # --- idle rings, and rings that find each other ---------------------------------------------

    def _want_token(self, now: float) -> None:
        """There is something to do at the next visit: see that it comes soon."""
        if self._held is not None:
            self._release_held(now)
        elif (
            self.state is State.OPERATIONAL
            and not self._woken
            and self._rotation.idle_visits >= IDLE_VISITS_BEFORE_WAKE
            and not self._is_representative
        ):
            self._woken = True
            self._send([self._codec.wake(Wake(self._ring))])

    def _on_wake(self, wake: Wake, header: Header, source: Address, now: float) -> None:
        if self.state is State.OPERATIONAL and wake.ring == self._ring:
            self._rotation.idle_visits = 0
            self._release_held(now)

    def _send_beacon(self, now: float) -> None:
        if self.state is not State.OPERATIONAL or not self._is_representative:
            return
        heard = frozenset(self._neighbours.representatives_heard(now))
        beacon = Beacon(self.node, self.life, self._ring, self._ring_seq_max, heard)
        self._send([self._codec.beacon(beacon)])
        self._neighbours.beacon_sent(now)
        self._timers.start(Timer.BEACON, now + self._settings.beacon_s)

    def _on_beacon(self, beacon: Beacon, header: Header, source: Address, now: float) -> None:
        sender = beacon.sender
        self._ring_seq_max = max(self._ring_seq_max, beacon.ring_seq_max, beacon.ring.seq)
        if self.state is not State.OPERATIONAL or beacon.ring == self._ring:
            return
        if self._neighbours.meet(sender, beacon.life, source) is Meeting.FORMER_LIFE:
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

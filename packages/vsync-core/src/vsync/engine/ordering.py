"""The ring at work: data frames in, deliveries out, and the token from hand to hand.

The lowest of the engine's three layers. It holds the state of one node and moves the token, on a
ring that is OPERATIONAL and, for the exchange of old messages, on one that is in RECOVERY. Which
ring that is, ``membership`` decides.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Final

from vsync.engine.agreement import Agreement
from vsync.engine.counters import Counters
from vsync.engine.flow import Flow
from vsync.engine.gather import Gathering
from vsync.engine.health import Health
from vsync.engine.log import Log
from vsync.engine.neighbours import Neighbours
from vsync.engine.packing import (
    LANES_ALL,
    LANES_BLOCKED,
    LANES_BLOCKED_SYNCHRONIZING,
    LANES_SYNCHRONIZING,
    PackedFrame,
    Packer,
)
from vsync.engine.recovery import Attempt
from vsync.engine.rest import Rest
from vsync.engine.rotation import FEW_PACKETS, Rotation, Visit
from vsync.engine.state import TRANSITIONS, State, Trigger
from vsync.engine.store import RingStore
from vsync.engine.streams import ControlReader, Ordered, Reader
from vsync.engine.timers import Timer, Timers
from vsync.errors import (
    VsyncError,
)
from vsync.events import ConfigurationChanged
from vsync.settings import RingSettings
from vsync.transport import EVERYONE, Address, Burst
from vsync.vocabulary import (
    Configuration,
    NodeId,
    RingId,
)
from vsync.wire import (
    CLOSING,
    CONTROL_LANE,
    HEAD_BYTES_MAX,
    MOVING,
    RESTING,
    Codec,
    Commit,
    Packets,
    Part,
    Recovered,
    Token,
    Wake,
    network_of,
)
from vsync.wire.header import Header

REST_USED_S: Final = 0.001
"""How long a rest goes on after the first message in it: a few come together, or as an answer."""


class Ordering(ABC):
    """One node's part in the order of its ring."""

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
        self.agreement = Agreement(settings)
        """The settings that all nodes share, and who has others."""
        self.health = Health(settings.token_lost_s)
        self._settings = settings
        self._store = store
        self._packet_bytes_max = packet_bytes_max
        self._receive_buffer_bytes = receive_buffer_bytes
        self._codec = Codec(network_of(settings.name), node, life, packet_bytes_max)
        self._packer = Packer(self._codec.part_bytes, self._codec.parts_max)
        self._flow = Flow.of(settings, packet_bytes_max, receive_buffer_bytes)
        self._reader = Reader(settings.message_bytes_max + HEAD_BYTES_MAX)
        self._control_reader = ControlReader()
        self._timers = Timers()
        self._neighbours = Neighbours(node, life, now, settings.join_s, settings.beacon_s)
        self._gathering = Gathering(node)

        # A restarted node is on a ring of its own, with a number that it never used before.
        self._ring = RingId(store.load() + 1, node)
        self._ring_seq_max = self._ring.seq
        self._log = self._new_log(self._ring)
        self._open_log: Log | None = None
        self._members: tuple[NodeId, ...] = (node,)
        self._member_lives: Mapping[NodeId, int] = {node: life}
        self._commit_lives: Mapping[NodeId, int] = {}
        self._owes: frozenset[NodeId] = frozenset()
        self._attempt: Attempt | None = None
        self._commit: Commit | None = None
        self._rotation = Rotation(node, self._log, self._flow, self.counters)

        self._joins_sent = 0
        self._history_until = now
        self._saved_token: tuple[Address, bytes] | None = None
        self._resend_s = settings.token_resend_s
        self._held: Token | None = None
        self._resting = False
        """The token was passed on as one that the representative keeps if nothing new comes."""
        self._rest = Rest(1, 0)
        self._to_self: deque[Token | Commit] = deque()
        self._to_self_at = now
        self._woken = False
        self._wanted_at = now
        """When something was there to send or to tell, at last."""
        self._blocked = False
        self.blocked_by: NodeId | None = None
        """The node whose application is too slow, so that the ring takes no new messages."""
        self.blocked_since = now
        """Since when that has been so, or has not."""
        self.synchronizing = False
        """A regular configuration was delivered in which not all nodes are synchronized yet."""
        self._numbered: deque[tuple[int, int, bool]] = deque()
        """Own frames that are not stable: number, messages that end there, whether control."""
        self._numbered_messages = 0
        self._transmit: deque[Burst] = deque()
        self._events: list[Ordered | ConfigurationChanged] = []
        """Not yet read by ``groups``."""
        self._changed = False
        """There is a configuration among them."""

    def _new_log(self, ring: RingId) -> Log:
        return Log(ring, self._reader, self._control_reader)

    def _use_settings(self, settings: RingSettings) -> None:
        """Go on with these settings; what is under way ends as it began."""
        self._settings = settings
        self.health.retime(settings.token_lost_s)
        self._neighbours.retime(settings.join_s, settings.beacon_s)
        self._flow.resize(Flow.of(settings, self._packet_bytes_max, self._receive_buffer_bytes))

    # --- what membership does for the ring ------------------------------------------------------

    @abstractmethod
    def _enter_operational(self, now: float) -> None:
        """The exchange is complete: install the ring."""

    @abstractmethod
    def _unwrap(self, frame: Recovered) -> None:
        """A frame of an old ring came."""

    @abstractmethod
    def _give_up_receiving(self, now: float) -> None:
        """A message that all others have cannot reach us."""

    # --- sending --------------------------------------------------------------------------------

    def _become(self, trigger: Trigger) -> bool:
        state = TRANSITIONS[self.state][trigger]
        if state is None:
            return False
        self.state = state
        self.counters.add(f"entered_{state.name.lower()}")
        return True

    def _send(self, packets: Packets) -> None:
        if packets:
            self._transmit.append(Burst(EVERYONE, packets))

    def _successor(self, members: tuple[NodeId, ...]) -> NodeId:
        return members[(members.index(self.node) + 1) % len(members)]

    def _send_to(self, node: NodeId, packet: bytes) -> None:
        address = self._neighbours.address(node)
        if address is None:  # more strangers came meanwhile than can be remembered
            self.counters.add("dropped_no_address")
            return
        self._transmit.append(Burst(address, [packet]))

    def _pass_to_self(self, frame: Token | Commit, now: float) -> None:
        self._to_self.append(frame)
        self._to_self_at = now

    # --- receiving and delivering ---------------------------------------------------------------

    def _take_part(self, part: Part) -> bool:
        """Take in parts of a frame; whether with them a frame is here that was missing."""
        log = self._open_log
        if log is None or log.ring != part.ring:
            self.counters.add("dropped_foreign")
            return False
        packets = log.add_part(part) if part.parts > 1 else part.packets
        if packets is None:
            return False
        frame = self._codec.assemble(part, packets)
        if not log.add(frame):
            self.counters.add("dropped_repeated")
            return False
        if type(frame) is Recovered:
            self._unwrap(frame)
        return True

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
        if header.sender != predecessor:
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
        self._timers.stop(Timer.TOKEN_RESEND, Timer.COMMIT_RESEND, Timer.WAKE)
        usual_s = self._settings.token_lost_s
        patience_s = max(rotation.token_lost_s(usual_s), self.health.patience_s(usual_s, now))
        self._timers.start(Timer.TOKEN_LOST, now + patience_s)
        if self.state is State.OPERATIONAL and self._may_hold(token):
            self._held = token
            self._timers.start(Timer.HOLD, now + self._settings.hold_s)
        else:
            self._visit(token, now)

    @property
    def _is_representative(self) -> bool:
        return self._members[0] == self.node

    def _may_hold(self, token: Token) -> bool:
        """It came back as it was, and we have nothing to send or to say about being blocked."""
        must_unblock = token.blocked_by == self.node and not self._blocked
        return (
            self._resting
            and token.resting == RESTING
            and self._is_representative
            and self._log.high == token.seq
            and self._rotation.idle_visits > 0
            # Who was blocked has not heard yet that nobody is any more, and may have much to send.
            and (token.blocked_by or None) == self.blocked_by
            and not must_unblock
            and not self._packer.may_send
        )

    def _release_held(self, now: float) -> None:
        token = self._held
        if token is not None:
            self._held = None
            self._timers.stop(Timer.HOLD)
            self._visit(token, now)

    def _visit(self, token: Token, now: float) -> None:
        """All that this node does with the token, and the token's way on."""
        settings = self._settings
        recovering = self._attempt if self.state is State.RECOVERY else None
        if recovering is not None:
            visit = self._rotation.work(
                token,
                self._next_recovered,
                recovering.backlog_packets,
                accelerated=0,
                now=now,
            )
            token.recovering, done = recovering.visit(token.recovering, token.seq, token.aru)
            if recovering.received_all:
                self._owes = recovering.plan.owed
            if done:
                self._enter_operational(now)
        else:
            self._mark_blocked(token, now)
            filling = self._end_rest(token)
            visit = self._rotation.work(
                token,
                self._next_data,
                self._packer.backlog_packets,
                accelerated=settings.accelerated_packets,
                now=now,
            )
            if filling:
                visit.before.insert(0, filling)
            self._log.release()
            self._mark_rest(token, visit)
        self._forget_stable()
        for packets in visit.before:
            self._send(packets)
        # While rings form nobody holds the token, so a silence is a loss sooner.
        longest_s = settings.join_s
        if recovering is None:
            longest_s = settings.token_resend_s
            if token.resting == RESTING and not self._is_representative:
                longest_s += settings.hold_s  # the representative may keep it
        self._pass_token(token, longest_s, now)
        for packets in visit.after:
            self._send(packets)
        stuck = self._rotation.stuck_since
        if stuck is not None and now - stuck > settings.receive_failed_s:
            self._give_up_receiving(now)

    def _end_rest(self, token: Token) -> Packets:
        """End the rest of *token* if there is a reason; what fills our number, if it is to be now.

        Not there yet is what others ended; see ``rest``.
        """
        if token.resting == MOVING:
            self._rest.moves()
            return ()
        woken = self._is_representative and not self._resting
        if token.resting == RESTING and not (
            woken or self._packer.may_send or self._log.high > token.seq or token.requests
        ):
            return ()
        number = self._rest.close(token, self._rotation.seq_passed)
        return self._fill(number) if number else ()

    def _mark_rest(self, token: Token, visit: Visit) -> None:
        """Say of the token whether the representative keeps it if it comes back as it is now.

        It may if it has seen that everyone has everything: when the token is back, everyone has
        seen so, and has delivered the last safe message.
        """
        if self._is_representative:
            if token.resting == CLOSING:
                self._rest.closed(token)
            elif token.resting == MOVING and not (visit.before or visit.after or token.requests):
                idle = self._rotation.idle_visits > 0 and self._log.stable == token.seq
                token.resting = RESTING if idle else MOVING
        self._resting = token.resting == RESTING
        if self._resting:
            self._rest.begin(token.seq)

    def _mark_blocked(self, token: Token, now: float) -> None:
        if self._blocked and token.blocked_by == 0:
            token.blocked_by = self.node
        elif token.blocked_by == self.node and not self._blocked:
            token.blocked_by = 0
        blocked_by = NodeId(token.blocked_by) if token.blocked_by else None
        if blocked_by != self.blocked_by:
            self.blocked_by = blocked_by
            self.blocked_since = now
            self._open_lanes()

    def _open_lanes(self) -> None:
        """Say which messages may be sent now."""
        if self.blocked_by is None:
            lanes = LANES_SYNCHRONIZING if self.synchronizing else LANES_ALL
        else:
            lanes = LANES_BLOCKED_SYNCHRONIZING if self.synchronizing else LANES_BLOCKED
        self._packer.lanes_open = lanes

    def _pass_token(self, token: Token, resend_longest_s: float, now: float) -> None:
        members = self._commit.members if self._commit is not None else self._members
        successor = self._successor(members)
        if successor == self.node:
            self._pass_to_self(token, now)
            return
        packet = self._codec.token(token)
        address = self._neighbours.address(successor)
        self._saved_token = None if address is None else (address, packet)
        self._send_to(successor, packet)
        self._resend_s = self._rotation.resend_s(resend_longest_s)
        self._timers.start(Timer.TOKEN_RESEND, now + self._resend_s)

    def _resend_token(self, now: float) -> None:
        if self._saved_token is not None:
            address, packet = self._saved_token
            self._transmit.append(Burst(address, [packet]))
            self._resend_s = min(2 * self._resend_s, self._settings.token_resend_s)
            self._timers.start(Timer.TOKEN_RESEND, now + self._resend_s)

    def _next_data(self, seq: int, packets_max: int) -> Packets:
        packed = self._packer.take(packets_max)
        return () if packed is None else self._number(seq, packed)

    def _fill(self, seq: int) -> Packets:
        """Use our reserved number: for what waits, or for nothing."""
        self.counters.add("frames_sent", 1)
        return self._number(seq, self._packer.take(FEW_PACKETS) or self._packer.nothing())

    def _number(self, seq: int, packed: PackedFrame) -> Packets:
        log = self._log
        frame = self._codec.data(
            log.ring,
            seq,
            packed.frame_index,
            packed.counter,
            packed.flags,
            packed.pieces,
            packed.lengths,
            packed.own,
        )
        log.add(frame)
        if packed.messages_finished:
            self._numbered.append((seq, packed.messages_finished, frame.lane == CONTROL_LANE))
            self._numbered_messages += packed.messages_finished
        return frame.packets

    def _forget_stable(self) -> None:
        stable = self._log.stable
        while self._numbered and self._numbered[0][0] <= stable:
            self._numbered_messages -= self._numbered.popleft()[1]

    def _next_recovered(self, seq: int, packets_max: int) -> Packets:
        attempt = self._attempt
        assert attempt is not None
        old = attempt.next_frame()
        if old is None:
            return ()
        frame = self._codec.recovered(attempt.log.ring, seq, old)
        attempt.log.add(frame)
        return frame.packets

    # --- an idle ring ---------------------------------------------------------------------------

    def _want_token(self, now: float) -> None:
        """There is something to send or to tell: see that it goes soon."""
        self._wanted_at = now
        if self._rest.own and self._packer.fits(FEW_PACKETS) and self._packer.may_send:
            self._use_rest(now)
            if not self._packer.may_send:
                return
        if self._held is not None:
            self._release_held(now)
        elif not (self._woken or self._is_representative):
            self._wake_again(now)

    def _wake_again(self, now: float) -> None:
        """Wake the token, unless it is on its way."""
        if self.state is State.OPERATIONAL and self._resting:
            self._woken = True
            self._send([self._codec.wake(Wake(self._ring))])
            self._watch_for_token(now)

    def _watch_for_token(self, now: float) -> None:
        patience_s = self._rotation.answer_s(self._settings.token_resend_s)
        self._timers.start(Timer.WAKE, now + patience_s)

    def _use_rest(self, now: float) -> None:
        """Fill our reserved number; see that the token comes and looks after what was lost."""
        number, self._rest.own = self._rest.own, 0
        self._send(self._fill(number))
        if not self._is_representative:
            self._watch_for_token(now)
        elif self._held is not None:
            self._end_hold(now)

    def _follow_rest(self, now: float) -> None:
        """Numbers that are reserved may have been used by others."""
        rest, log = self._rest, self._log
        assert rest.base is not None
        if rest.own and rest.own < log.high:
            self._use_rest(now)
        if self._held is not None and log.high > rest.base:
            self._end_hold(now)

    def _end_hold(self, now: float) -> None:
        """Let the held token go round soon; at once if a message waits for that."""
        base = self._rest.base
        safe = base is not None and self._log.safe_above(base)
        self._timers.hasten(Timer.HOLD, now if safe else now + REST_USED_S)

    def _on_wake(self, wake: Wake, header: Header, source: Address, now: float) -> None:
        if self.state is not State.OPERATIONAL or wake.ring != self._ring:
            return
        if self._is_representative:
            self._resting = False
            self._release_held(now)
        elif self._resting:  # ours is not needed, unless that one did not get there
            self._woken = True
            self._watch_for_token(now)

"""Engine: one node's view of its ring.

It has three layers: ``ordering`` moves the token, ``membership`` forms rings, and this module is
the face of both; ``groups`` reads what they have ordered. The papers are its documentation: Amir,
Moser, Melliar-Smith, Agarwal, Ciarfella, "The Totem Single-Ring Ordering and Membership Protocol",
TOCS 1995; Moser, Amir, Melliar-Smith, Agarwal, "Extended Virtual Synchrony", ICDCS 1994.

Methods come in four kinds: *inputs* (``receive``, ``handle_timeout``), *commands* (``start``,
``submit``, ``join_groups``, ``synchronized``, ``set_blocked``, ``leave`` and their like), *outputs*
(``poll_transmit``, ``poll_timeout``, ``take_events``) and observables. After any batch of inputs
and commands, take the outputs in the order in which they are named here, and ``poll_transmit``
again if there were events.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from vsync.engine.changes import RingChanges
from vsync.engine.groups import (
    EngineEvent,
    EngineOutput,
    Groups,
    Notice,
    SettingsChanged,
    SettingsDiffer,
    Settled,
    SynchronizeLate,
    events_of,
)
from vsync.engine.membership import Membership
from vsync.engine.rekeying import Name, Step
from vsync.engine.state import State, Trigger
from vsync.engine.store import RingStore
from vsync.engine.timers import Timer
from vsync.errors import (
    MalformedPacket,
    MessageTooLarge,
    MisuseError,
    NodeClosed,
)
from vsync.events import ConfigurationChanged
from vsync.settings import RingSettings
from vsync.train import LateTrain, Train
from vsync.transport import Address, Arrival, Burst, Packet
from vsync.vocabulary import (
    GROUPS_PER_MESSAGE_MAX,
    Cause,
    Configuration,
    GroupKey,
    Guarantee,
    MessageId,
    NodeId,
    Priority,
)
from vsync.wire import (
    IN_PARTS,
    Beacon,
    Commit,
    Frame,
    Join,
    KeyNews,
    Part,
    Terms,
    Token,
    Wake,
    build_control,
)
from vsync.wire.header import Header

TYPE_AT: Final = 3
"""Where a packet has its type; see ``wire.header``."""

PAUSE_SHARE: Final = 0.25
"""A node that is late for its own deadlines by this share of ``token_lost_s`` was stopped."""

LATE_SHARE: Final = 0.04
"""Who is late by this share of it suspects itself before it suspects others. Less is usual."""


class Engine(Membership):
    """One node's view of its ring: no sockets, no clock, no dice.

    *life* tells this life of the node from its others and grows from one to the next. *now* is, in
    all methods, seconds of one monotonic clock. *packet_bytes_max* and *receive_buffer_bytes* are
    the transport's. *synchronize_s* is what a service may take after a configuration change.
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
        synchronize_s: float = 30.0,
    ) -> None:
        super().__init__(
            node,
            life,
            settings,
            now=now,
            packet_bytes_max=packet_bytes_max,
            receive_buffer_bytes=receive_buffer_bytes,
            store=store,
        )
        self.groups = Groups(node)
        self.changes = RingChanges(node, self.agreement)
        self._synchronize_s = synchronize_s
        self._services: set[str] = set()
        self._synchronizing: set[str] = set()
        """The services that this configuration waits for, on this node."""
        self._settled_id = ""
        """The configuration in which all have announced their groups; empty: not yet."""
        self._notices: list[Notice] = []
        self._touched_at = now
        self._handlers: Mapping[type, Callable[[Any, Header, Address, float], None]] = {
            Join: self._on_join,
            Commit: self._on_commit,
            Beacon: self._on_beacon,
            Wake: self._on_wake,
            Terms: self._on_terms,
        }

    # --- inputs ---------------------------------------------------------------------------------

    def receive(self, arrivals: Sequence[Arrival], now: float) -> None:
        """Take in what the transport received, oldest first."""
        self._notice_pause(now)
        self._touched_at = now
        history = now < self._history_until
        tokens: list[tuple[Header, Token]] = []
        codec, take_part = self._codec, self._take_part
        decode, decode_part, decode_train = codec.decode, codec.decode_part, codec.decode_train
        frames = 0
        left = State.LEFT  # to look up a member of an enum is slow before Python 3.12
        for data, source in arrivals:
            if self.state is left:
                return
            try:
                if type(data) is Train:
                    part = decode_train(data)
                    if part is not None:
                        try:
                            frames += take_part(part)
                            continue
                        except MalformedPacket:
                            pass  # parts of several frames, or damaged: each for itself
                    self.receive([Packet(packet, source) for packet in data], now)
                    continue
                if len(data) > TYPE_AT and data[TYPE_AT] in IN_PARTS:
                    frames += take_part(decode_part(data))
                    continue
                header, frame = decode(data)
            except MalformedPacket as error:
                self.counters.add(f"dropped_{error.reason}")
                continue
            if type(frame) is Token:
                # Data first, though it came later: it may be what the token would ask for.
                tokens.append((header, frame))
            elif history and _out_of_date(frame):
                self.counters.add("dropped_history")  # it waited while we were stopped
            elif header.sender == self.node:
                self._on_own_number(header, now)
            else:
                self._handlers[type(frame)](frame, header, source, now)
        if frames:
            self.counters.add("frames_received", frames)
            if self._rest.base is not None:
                self._follow_rest(now)
        for header, token in tokens:
            self._on_token(token, header, now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due. Call it whenever ``poll_timeout`` has passed."""
        self._notice_pause(now)
        self._touched_at = now
        for _ in range(len(self._to_self)):
            frame = self._to_self.popleft()
            if isinstance(frame, Token):
                self._take_token(frame, now)
            else:
                self._take_commit(frame, now)
        while (timer := self._timers.due(now)) is not None:
            self._on_timer(timer, now)
            if timer is Timer.BEACON and self._held is not None:
                # The two have about the same time. Together they wake everybody once, and idle
                # processors are slow to wake.
                self._release_held(now)

    def _notice_pause(self, now: float) -> None:
        """If this node is late for its own deadline, it suspects itself first: others get the time
        that it was away. If it is very late, it was stopped, and takes what waited for it as the
        history that it is."""
        deadline = self.poll_timeout()
        if deadline is None:
            return
        # Once for each pause: whoever asked us after the deadline has noticed it.
        late_s = now - max(deadline, self._touched_at)
        settings = self._settings
        if late_s < LATE_SHARE * settings.token_lost_s:
            return
        self.health.late(late_s, now)
        self._timers.postpone(now + min(late_s, settings.token_resend_s))
        if late_s >= PAUSE_SHARE * settings.token_lost_s:
            self.counters.add("pauses_noticed")
            self._history_until = now + settings.join_s

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
            case Timer.WAKE:
                self._wake_again(now)
            case Timer.JOIN:
                self._send_join(now)
            case Timer.CONSENSUS:
                self._on_consensus_expired(now)
            case Timer.COMMIT_RESEND:
                self._resend_commit(now)
            case Timer.BEACON:
                self._send_beacon(now)
            case Timer.SYNCHRONIZE:
                self._on_synchronize_late(now)

    # --- commands -------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin to look for others."""
        self._gather(now)

    def submit(
        self,
        session: int,
        groups: Sequence[GroupKey],
        payload: bytes,
        guarantee: Guarantee,
        priority: Priority,
        now: float,
    ) -> MessageId:
        """Accept a message of *session* for all members of *groups*; the id that it will have.

        As ``submit_all``, for one.
        """
        counter = self.submit_all(session, groups, [payload], guarantee, priority, now)
        return MessageId(self.node, self.life, priority, counter)

    def submit_all(
        self,
        session: int,
        groups: Sequence[GroupKey],
        payloads: Sequence[bytes],
        guarantee: Guarantee,
        priority: Priority,
        now: float,
    ) -> int:
        """Accept messages that are alike but for their payloads; the counter of the first one.

        Never blocks: look at ``pending_bytes`` before. Raises MessageTooLarge, MisuseError for no
        or too many groups or before the first configuration (EVS 2.2), NodeClosed after ``leave``;
        then none is accepted.
        """
        if self.state is State.LEFT:
            raise NodeClosed("the node has left its ring; open it again to send")
        if self.configuration is None:
            raise MisuseError("no configuration yet: send after the first ConfigurationChanged")
        largest = max(map(len, payloads), default=0)
        if largest > self._settings.message_bytes_max:
            raise MessageTooLarge(largest, self._settings.message_bytes_max)
        if not 1 <= len(groups) <= GROUPS_PER_MESSAGE_MAX:
            raise MisuseError(
                f"a message goes to 1 to {GROUPS_PER_MESSAGE_MAX} groups, not {len(groups)}; "
                "join a group, or name one in send()"
            )
        counter = self._packer.submit(session, groups, payloads, guarantee, priority)
        if self._packer.may_send:
            self._want_token(now)
        return counter

    def join_groups(
        self, session: int, groups: Collection[GroupKey], *, closed: bool, now: float
    ) -> None:
        """Let *session* of this node join *groups*; the ``GroupChanged`` with it comes in order.

        With *closed*, a new group is closed, and an open one gives ``JoinRefused`` in its place.
        """
        self.groups.join(session, groups, closed)
        self._send_control(now)

    def leave_groups(self, session: int, groups: Collection[GroupKey], now: float) -> None:
        """Let *session* of this node leave *groups*; the views without it come in order."""
        self.groups.leave(session, groups)
        self._send_control(now)

    def close_session(self, session: int, cause: Cause, now: float) -> None:
        """*session* of this node has ended: it leaves all its groups, for that *cause*."""
        self.groups.close(session, cause)
        self._send_control(now)

    def close_sessions(self, now: float) -> None:
        """All sessions of this node end, since the node is about to leave."""
        self.groups.close_all()
        self._send_control(now)

    def expect(self, service: str) -> None:
        """From the next configuration on, wait for ``synchronized`` of *service* in each."""
        self._services.add(service)

    def synchronized(self, service: str, configuration: Configuration, now: float) -> None:
        """*service* is done with *configuration*, if that is still the current one."""
        if configuration.id == self._settled_id:
            self._synchronizing.discard(service)
            self._synchronize_if_done()
            self._send_control(now)

    def dismiss(self, service: str, now: float) -> None:
        """*service* has ended on this node: wait for it no more."""
        self._services.discard(service)
        if service in self._synchronizing:
            self._synchronizing.discard(service)
            self._synchronize_if_done()
            self._send_control(now)

    def _synchronize_if_done(self) -> None:
        if not self._synchronizing:
            self._timers.stop(Timer.SYNCHRONIZE)
            self.groups.synchronize()

    def _on_synchronize_late(self, now: float) -> None:
        for service in sorted(self._synchronizing):
            self.counters.add("services_late")
            self._notices.append(SynchronizeLate(service))
            self.dismiss(service, now)

    def _send_control(self, now: float) -> None:
        """Queue what the groups have to say to the other nodes."""
        outgoing = self.groups.outgoing
        if outgoing and self.state is not State.LEFT:
            for message in outgoing:
                self._packer.submit_control(build_control(message))
            self._want_token(now)
        outgoing.clear()

    def change_settings(self, settings: RingSettings, now: float) -> None:
        """Have the whole ring use *settings*, from one place in its order on.

        A ``SettingsWishEnded`` says what came of it. Raises MisuseError for what cannot change.
        """
        self.changes.wish(settings)
        self._pursue_changes(now)

    def set_synchronize_s(self, synchronize_s: float) -> None:
        """Give services so long to synchronize, from the next configuration on."""
        self._synchronize_s = synchronize_s

    def change_key(self, news: KeyNews, now: float) -> None:
        """Begin to change the ring's key; a ``KeyChangeEnded`` says what came of it.

        Raises MisuseError if nodes are away that would come back without it.
        """
        if self.configuration is None:
            raise MisuseError("the node is on no ring yet; try again when it is")
        present = frozenset(self._members)
        if named := sorted(news.without & present):
            raise MisuseError(f"node {named[0]} is on the ring; only nodes that are away may miss")
        if missing := sorted(self.changes.rekeying.away - news.without):
            listed = ", ".join(map(str, missing))
            raise MisuseError(
                f"node {listed} was on this ring and is away: it would come back with the old key. "
                f"Start it first; or go on with --without {missing[0]}, and copy the new key file "
                "to it before it is started"
            )
        self.changes.rekeying.say(replace(news, members=news.members | present))
        self._pursue_changes(now)

    def key_step_done(self, name: Name, step: Step, failure: str, used: bytes, now: float) -> None:
        """That *step* of a change is durably done; or it could not be, for the reason *failure*.

        *used* is the id of the key that this node seals with.
        """
        self.changes.rekeying.step_done(name, step, failure, used, self._members)
        self._pursue_changes(now)

    def _pursue_changes(self, now: float) -> None:
        """Say what is to be said about changes of the ring itself."""
        changes = self.changes
        changes.pursue(self.groups.ring, settled=self.groups.settled)
        changes.collect()
        self._notices += changes.notices
        changes.notices.clear()
        if self.configuration is not None:
            self.groups.outgoing += changes.outgoing
            changes.outgoing.clear()
            self._send_control(now)

    def _take_newer(self, terms: Terms, sender: NodeId, now: float) -> None:
        if self.state is not State.OPERATIONAL:
            old = self._settings
            if self.agreement.adopt(terms):
                self._use_settings(self.agreement.settings)
                self._notices.append(SettingsChanged(sender, old, self._settings))
        elif self._is_representative:
            self.changes.pass_on(self.groups.ring, terms)
            self._pursue_changes(now)

    def _tell_differing(self, sender: NodeId, terms: Terms) -> None:
        self._notices.append(SettingsDiffer(sender, terms))

    def set_blocked(self, blocked: bool, now: float) -> None:
        """Ask the ring to take no new messages, since our application is too slow; or no more."""
        if blocked != self._blocked:
            self._blocked = blocked
            self._want_token(now)

    # --- outputs --------------------------------------------------------------------------------

    def poll_transmit(self) -> Burst | None:
        """The next burst to be sent, in order; None when there is none.

        Packets of new frames are made here, so that the first are on their way, and the token that
        stands between them too, while the next are made.
        """
        if not self._transmit:
            return None
        burst = self._transmit.popleft()
        if type(burst.packets) is LateTrain:
            return Burst(burst.destination, burst.packets.train)
        return burst

    def poll_timeout(self) -> float | None:
        """When ``handle_timeout`` is to be called; None: not before something else happens."""
        if self._to_self:
            return self._to_self_at
        return self._timers.next()

    def take_events(self) -> list[EngineEvent]:
        """All that the application and the runtime are to see, in order, since the last call."""
        return events_of(self.take_runs())

    def take_runs(self) -> list[EngineOutput]:
        """As ``take_events``, with all deliveries in runs."""
        self._emit_deliveries()
        ordered, self._events = self._events, []
        if not (self._changed or self._control_reader.news or self._notices):
            # Deliveries alone: the groups have nothing to read in them.
            return cast(list[EngineOutput], ordered)
        self._changed = self._control_reader.news = False
        events = self.changes.read(self.groups.read(ordered), self._members)
        if self.agreement.settings is not self._settings:
            self._use_settings(self.agreement.settings)
        self._follow(events)
        notices, self._notices = self._notices, []
        return [*events, *notices]

    def _follow(self, events: Sequence[EngineOutput]) -> None:
        """Go on where a configuration came, settled or was synchronized."""
        now = max(self._touched_at, self._wanted_at)
        kinds = set(map(type, events))
        if ConfigurationChanged in kinds:
            self._settled_id = ""
            self._synchronizing.clear()
            self._timers.stop(Timer.SYNCHRONIZE)
            assert self.groups.ring is not None
            # In a new configuration, before all else, to those who may not know.
            self.groups.outgoing[:0] = self.changes.announcements(self.groups.ring)
        if Settled in kinds and self.groups.settled:  # and no other configuration after it
            assert self.configuration is not None
            self._settled_id = self.configuration.id
            self._synchronizing = set(self._services)
            self._timers.start(Timer.SYNCHRONIZE, now + self._synchronize_s)
            self._synchronize_if_done()
        self._pursue_changes(now)
        self._send_control(now)
        if self.synchronizing and self.groups.synchronized:
            self.synchronizing = False
            self._open_lanes()
            if self._packer.may_send:
                self._want_token(now)

    # --- observables ----------------------------------------------------------------------------

    @property
    def pending_bytes(self) -> int:
        """Bytes of accepted messages that have no place in the order yet."""
        return self._packer.pending_bytes

    def pending_bytes_of(self, priority: Priority) -> int:
        """Those of one *priority*."""
        return self._packer.pending_bytes_of(priority)

    @property
    def unstable(self) -> int:
        """Own messages, the ring's own too, not yet known to be at every member; at 0 one may leave
        without loss."""
        return self._packer.pending_messages + self._numbered_messages

    @property
    def undelivered(self) -> int:
        """Messages accepted from sessions and not yet known to be at every member."""
        numbered = sum(count for _, count, control in self._numbered if not control)
        return numbered + self._packer.pending_messages - self._packer.pending_control

    @property
    def members(self) -> tuple[NodeId, ...]:
        """The members of the installed ring, ascending."""
        return self._members

    @property
    def window_packets(self) -> int:
        """New packets of all nodes in one rotation, as settings and receive buffer allow."""
        return self._flow.window


def _out_of_date(frame: Frame | Part) -> bool:
    """Whether a frame that waited while we were stopped is mere history. A leave is not."""
    return isinstance(frame, Commit | Beacon) or (isinstance(frame, Join) and not frame.leaving)

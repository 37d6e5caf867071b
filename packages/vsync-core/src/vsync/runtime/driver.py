"""Driver: the thread that owns a node's engine and transport.

It waits for packets, commands and deadlines, takes everything in, and lets everything out: send
lines of the trace reach the kernel before the packets that they tell of, deliveries before the
application. No event loop is involved, so an application that blocks its own does not stop the
ring. While it waits, a thread that submits a message takes its turn instead: that is sooner.
"""

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from vsync.engine import Engine, State
from vsync.engine.groups import EngineOutput, JoinRefused, Settled, SynchronizeLate
from vsync.engine.rekeying import Name, Step
from vsync.engine.runs import Run
from vsync.errors import NodeClosed, Undelivered, VsyncError
from vsync.events import ConfigurationChanged, GroupChanged
from vsync.runtime import tracing
from vsync.runtime.changes import RingDesk
from vsync.runtime.mailbox import Mailbox
from vsync.runtime.process import prepare_process
from vsync.runtime.seat import Route, Seat
from vsync.runtime.turn import Turn
from vsync.settings import RingSettings
from vsync.trace import TraceWriter
from vsync.transport import Transport
from vsync.vocabulary import (
    Cause,
    Configuration,
    GroupKey,
    Guarantee,
    Kind,
    MessageIds,
    Priority,
)
from vsync.wire import KeyNews

BATCHES_PER_TURN: Final = 32
"""Batches taken from the transport before commands and deliveries get their turn."""

MESSAGES_PER_TURN: Final = 1024
"""Messages accepted before packets, token and deliveries get their turn. Without a bound, one large
batch would keep the thread from the token for so long that the others give this node up."""

SUBMISSION_MESSAGES: Final = 3
"""To accept a submission takes as long as to accept so many messages more."""

MESSAGE_BYTES: Final = 64
"""About what a waiting message takes besides its payload."""

INFINITY: Final = float("inf")

Result = TypeVar("Result")
Command = Callable[[float], object]


class Submission:
    """Messages on their way to the engine, all alike but for their payloads.

    They are accepted in one go: no more than ``MESSAGES_PER_TURN``, if the token is not to wait.
    """

    __slots__ = ("first", "groups", "guarantee", "payloads", "priority", "session", "size")

    def __init__(
        self,
        session: int,
        groups: Sequence[GroupKey],
        payloads: Sequence[bytes],
        guarantee: Guarantee,
        priority: Priority,
    ) -> None:
        self.session = session
        self.groups = groups
        self.payloads = payloads
        self.guarantee = guarantee
        self.priority = priority
        self.size = sum(map(len, payloads)) + MESSAGE_BYTES * len(payloads)
        self.first = 0


class Driver:
    """Runs one node. All methods but ``run`` may be called from any thread of its process.

    *notify* is called from the ring's thread or from one that submits, at most once for all news
    until ``seen``: there are events in a mailbox, room to send, or an end.
    """

    def __init__(
        self,
        engine: Engine,
        transport: Transport,
        *,
        notify: Callable[[], None],
        trace: TraceWriter | None = None,
        drain_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self._transport = transport
        self._notify = notify
        self._trace = trace
        self._drain_s = drain_s
        self._clock = clock
        self._route = Route(engine.node)
        self.desk = RingDesk(engine)
        """Where changes of the ring itself are asked for, and answered."""
        self._primary: tuple[str, bool, str] | None = None
        """What was said last of a configuration: its id, whether it is primary, and why."""
        self._no_primary: str | None = None
        """Why nobody says any more which configuration is primary."""
        self.late_services: set[str] = set()
        """Services that did not synchronize in time; they are to be ended."""
        self._submissions: deque[Submission] = deque()
        self._calls: deque[Command] = deque()
        """Apart from the submissions, since a status or a join is not to wait for all of them."""
        self._accepting = threading.Lock()
        self._counters = [0] * len(Priority)
        self._submitted_bytes = [0] * len(Priority)
        self._taken_bytes = [0] * len(Priority)
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_receiver.setblocking(False)
        self._wake_sender.setblocking(False)
        self._turn = Turn()
        self._waits_until = 0.0
        """When the ring's thread takes its next turn, if nothing happens before."""
        self._awake = False
        self._news = False
        self._room_wanted: dict[Priority, int] = {}
        self._closing_by: float | None = None
        self.failure: BaseException | None = None
        """Why the thread ended, if not because it was told to."""
        self._failed_at: TracebackType | None = None
        self._deaf = False
        self._closed_sessions = False
        self.ended = False
        """Nothing will happen any more; set before the last notification."""
        self.ready = False
        """The first configuration was delivered; messages are accepted."""
        self._ring_thread = threading.Thread(target=self._run, name="vsync ring", daemon=True)

    # --- from other threads ---------------------------------------------------------------------

    def start(self) -> None:
        """Let the thread run, in a process that is prepared for it."""
        prepare_process()
        try:
            self._ring_thread.start()
        except BaseException:  # the system has no more threads
            self.discard()
            raise

    def discard(self) -> None:
        """End what was never started: nothing stays open."""
        self._end()

    def submit(self, submission: Submission) -> MessageIds:
        """Hand messages to the ring; their ids. Look at ``unsent_bytes`` before.

        Raises NodeClosed if the node is, or in a process that was forked from the node's.
        """
        self._turn.check_process()
        engine = self.engine
        with self._accepting:
            if self._closing_by is not None or self._deaf:
                raise self.end_error()
            first = submission.first = self._counters[submission.priority]
            count = len(submission.payloads)
            self._counters[submission.priority] += count
            self._submitted_bytes[submission.priority] += submission.size
            self._submissions.append(submission)
        done = False
        try:
            # To wake the ring's thread takes longer than the engine does.
            done = self._turn.take(self._accept_here)
        finally:
            if not done:  # it runs already, and then it will; or it is to learn what went wrong
                self._wake()
        counters = range(first, first + count)
        return MessageIds(engine.node, engine.life, submission.priority, counters)

    def call(self, command: Callable[[float], Result]) -> "Future[Result]":
        """Have *command* called with the time in the ring's thread; its result to come.

        Raises NodeClosed in a process that was forked from the node's.
        """
        self._turn.check_process()
        future: Future[Result] = Future()

        def run(now: float) -> None:
            try:
                future.set_result(command(now))
            except BaseException as error:  # whoever waits for the future gets it
                future.set_exception(error)

        with self._accepting:
            if self._deaf:
                future.set_exception(self.end_error())
            else:
                self._calls.append(run)
        self._wake()
        return future

    def close(self) -> None:
        """Take no more messages, wait for what was accepted, leave the ring, end the thread."""
        with self._accepting:
            if self._closing_by is None:
                self._closing_by = self._clock() + self._drain_s
        self._wake()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the thread's end; False if it has not come in time."""
        if self._ring_thread.ident is not None:
            self._ring_thread.join(timeout_s)
        return not self._ring_thread.is_alive()

    def end_error(self) -> BaseException:
        """What to raise where the node is closed or closing."""
        if self.failure is None:
            return NodeClosed("the node is closed; open it again to use it")
        # It may be raised many times; each time with where it came from, and no more.
        return self.failure.with_traceback(self._failed_at)

    def unsent_bytes(self, priority: Priority) -> int:
        """Bytes submitted at that *priority* that have no place in the ring's order yet."""
        submitted = self._submitted_bytes[priority] - self._taken_bytes[priority]
        return submitted + self.engine.pending_bytes_of(priority)

    def want_room(self, priority: Priority, unsent_bytes_max: int) -> None:
        """Ask to be notified when ``unsent_bytes`` is down to *unsent_bytes_max*."""
        self._room_wanted[priority] = unsent_bytes_max
        self._wake()

    def taken(self, mailbox: Mailbox) -> None:
        """Tell that events were taken from *mailbox*; the ring may have waited for that.

        Or they could not be, and the session is to leave its groups.
        """
        if mailbox.evicted is not None or (mailbox.full_since is not None and mailbox.roomy):
            self._wake()

    def seen(self) -> None:
        """All news up to now was noticed; the next is to be notified again."""
        self._news = False

    def attach(self, seat: Seat) -> "Future[None]":
        """Let *seat* have all events from now on, the current configuration first."""

        def command(now: float) -> None:
            self._let_out()  # what came before is for those who were here before
            self._route.add(seat)
            if self.engine.configuration is not None:
                seat.mailbox.put([ConfigurationChanged(self.engine.configuration)])
                self._settle_primary(seat.mailbox, self.engine.configuration)
                self._tell()

        return self.call(command)

    def detach(self, seat: Seat, cause: Cause) -> None:
        """Let *seat* have nothing any more; its session leaves its groups for that *cause*."""

        def command(now: float) -> None:
            if self._route.remove(seat):
                self.engine.close_session(seat.session, cause, now)

        self.call(command)

    def join_groups(
        self, seat: Seat, groups: Collection[GroupKey], *, closed: bool
    ) -> "Future[None]":
        """Let the session join *groups*; done when the views with it are in its mailbox.

        The future raises MisuseError if a group was refused.
        """
        joining: Future[None] = Future()

        def command(now: float) -> None:
            if self._route.join(seat, groups, joining):
                self.engine.join_groups(seat.session, groups, closed=closed, now=now)

        self._relay(self.call(command), joining)
        return joining

    def leave_groups(self, seat: Seat, groups: Collection[GroupKey]) -> "Future[None]":
        """Let the session leave *groups*; done when the views without it are in its mailbox."""
        leaving: Future[None] = Future()

        def command(now: float) -> None:
            if self._route.leave(seat, groups, leaving):
                self.engine.leave_groups(seat.session, groups, now)

        self._relay(self.call(command), leaving)
        return leaving

    @staticmethod
    def _relay(called: "Future[None]", answer: "Future[None]") -> None:
        """Let *answer* fail as *called* does."""

        def relay(called: "Future[None]") -> None:
            error = called.exception()
            if error is not None and not answer.done():
                answer.set_exception(error)

        called.add_done_callback(relay)

    def primary_of(self, configuration: Configuration) -> tuple[bool, str] | None:
        """Whether *configuration* is primary, and why; None: not decided yet."""
        if self._no_primary is not None:
            return False, self._no_primary
        said, current = self._primary, self.engine.configuration
        if said is not None and said[0] == configuration.id:
            return said[1:]
        if current is not None and current.id != configuration.id:
            return False, "the configuration changed before that was decided"
        return None

    def expect(self, service: str) -> None:
        """From the next configuration on, wait for ``synchronized`` of *service* in each."""
        self.call(lambda now: self.engine.expect(service))

    def synchronized(self, service: str, configuration: Configuration) -> None:
        """*service* is done with *configuration*."""
        self.call(lambda now: self.engine.synchronized(service, configuration, now))

    def dismiss(self, service: str, *, decides_primary: bool) -> None:
        """*service* has ended on this node; the ring waits for it no more."""

        def command(now: float) -> None:
            self.engine.dismiss(service, now)
            if decides_primary:
                self._no_primary = f"the service {service} has failed on this node"
                if self.engine.configuration is not None:
                    self._say_primary(self.engine.configuration.id, False, self._no_primary)

        self.call(command)

    def set_primary(self, configuration: Configuration, primary: bool, reason: str) -> None:
        """Say whether *configuration* is primary; sessions that asked go on behind it."""
        self.call(lambda now: self._say_primary(configuration.id, primary, reason))

    # --- changes of the ring itself -------------------------------------------------------------

    def change_settings(self, settings: RingSettings) -> "Future[None]":
        """Have the whole ring use *settings*; done when it does.

        The future raises ChangeFailed, or MisuseError for what cannot change.
        """
        changing: Future[None] = Future()
        self._relay(
            self.call(lambda now: self.desk.change_settings(settings, changing, now)), changing
        )
        return changing

    def give_up_settings(self) -> None:
        """Wait no more for ``change_settings``, if the ring has not been asked yet."""
        self.call(lambda now: self.desk.give_up_settings())

    def change_key(self, news: KeyNews) -> "tuple[Future[KeyNews], Future[None]]":
        """Change the ring's key: which change it is, and when it has been made.

        The futures raise MisuseError, and the second ChangeFailed.
        """
        changing: Future[None] = Future()
        began = self.call(lambda now: self.desk.change_key(news, changing, now))
        return began, changing

    def key_step_done(self, name: Name, step: Step, failure: str, used: bytes) -> None:
        """This node has durably done a step of the change of the key; or it cannot."""
        self.call(lambda now: self.engine.key_step_done(name, step, failure, used, now))

    def retime(self, drain_s: float, synchronize_s: float) -> None:
        """Have other settings of the node from now on."""
        self._drain_s = drain_s
        self.call(lambda now: self.engine.set_synchronize_s(synchronize_s))

    def reload_transport(self, settings: BaseModel) -> "Future[None]":
        """Have the transport go on with other settings. The future raises TransportFailed."""
        return self.call(lambda now: self._transport.reload(settings))

    def restore_transport(self, settings: BaseModel) -> "Future[None]":
        """Have the transport go back to settings that it had. The future raises TransportFailed."""
        return self.call(lambda now: self._transport.restore(settings))

    def _wake(self) -> None:
        if not self._awake:
            self._awake = True
            with contextlib.suppress(OSError):  # full: it will wake; closed: nobody is there
                self._wake_sender.send(b"\0")

    def _accept_here(self) -> None:
        """Let the engine have what was submitted, in this thread: a turn of its own."""
        self._accept_waiting(self._clock())
        self._let_out()
        deadline = self.engine.poll_timeout()
        if self.to_do or (deadline is not None and deadline < self._waits_until):
            self._wake()

    # --- in the ring's thread -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            # Whatever ends the thread is raised where the node is used.
            self.failure = error
            self._failed_at = error.__traceback__
            with contextlib.suppress(Exception):  # what failed may fail again
                self._say_farewell()
        finally:
            self._end()

    def _loop(self) -> None:
        engine, transport, clock = self.engine, self._transport, self._clock
        wake = self._wake_receiver.fileno()
        with select.epoll() as waiting:
            for descriptor in (wake, *transport.descriptors()):
                waiting.register(descriptor, select.EPOLLIN)
            engine.start(clock())
            self._let_out()
            while not self._finished():
                patience = self._patience()
                self._turn.give()
                try:
                    ready = waiting.poll(patience)
                finally:
                    self._turn.resume()
                readable = [descriptor for descriptor, _ in ready]
                if wake in readable:
                    self._wake_receiver.recv(64)
                packets = transport.receive_readable(readable)
                for _ in range(BATCHES_PER_TURN):
                    if not packets:
                        break
                    engine.receive(packets, clock())
                    self._transmit()
                    if len(packets) == 1:  # little is going on: no need to ask for more at once
                        break
                    packets = transport.receive_trains()
                now = clock()
                self._take_commands(now)
                deadline = engine.poll_timeout()
                if deadline is not None and deadline <= now:
                    engine.handle_timeout(now)
                self._let_out()
        if engine.failure is not None:
            raise engine.failure

    def _patience(self) -> float | None:
        """How long to wait for packets and commands, in seconds."""
        deadline = self.engine.poll_timeout()
        if self._closing_by is not None:
            deadline = self._closing_by if deadline is None else min(deadline, self._closing_by)
        self._waits_until = INFINITY if deadline is None else deadline
        if self.to_do:
            return 0
        return None if deadline is None else max(0.0, deadline - self._clock())

    @property
    def to_do(self) -> bool:
        """There are commands, or messages that the engine takes now."""
        return bool(self._calls or (self._submissions and self._accepts))

    @property
    def _accepts(self) -> bool:
        """The engine takes messages: services may send some before it does."""
        return self.engine.configuration is not None and self.engine.state is not State.LEFT

    def _finished(self) -> bool:
        """Closed and drained, or past its time, or failed."""
        engine = self.engine
        if engine.failure is not None:
            return True
        if self._closing_by is None:
            return False
        if not self._closed_sessions:
            self._closed_sessions = True
            engine.close_sessions(self._clock())
            self._let_out()
        unaccepted = self._unaccepted()
        if (engine.unstable or unaccepted) and self._clock() < self._closing_by:
            return False
        undelivered = engine.undelivered + unaccepted
        self._say_farewell()
        if undelivered:
            self.failure = Undelivered(undelivered)
        else:
            self._trace_stop("left")
        return True

    def _unaccepted(self) -> int:
        """Messages submitted that the engine has not seen. Closing, so there will be no more."""
        return sum(len(submission.payloads) for submission in tuple(self._submissions))

    def _say_farewell(self) -> None:
        with contextlib.suppress(VsyncError, OSError):
            if self.engine.state is not State.LEFT:
                self.engine.leave(self._clock())
            self._let_out()

    def _take_commands(self, now: float) -> None:
        if not (self._awake or self._submissions or self._calls):
            return
        # First this, then what waits: whoever adds from now on wakes the thread again. (A byte that
        # comes late costs one more turn; the loop takes it when it shows.)
        self._awake = False
        for _ in range(len(self._calls)):
            self._calls.popleft()(now)
            self._tell()
        self._accept_waiting(now)
        self._watch_mailboxes(now)

    def _accept_waiting(self, now: float) -> None:
        messages = 0
        while self._submissions and messages < MESSAGES_PER_TURN and self._accepts:
            submission = self._submissions.popleft()
            self._accept(submission, now)
            messages += SUBMISSION_MESSAGES + len(submission.payloads)

    def _accept(self, submission: Submission, now: float) -> None:
        engine, trace = self.engine, self._trace
        self._taken_bytes[submission.priority] += submission.size
        first = engine.submit_all(
            submission.session,
            submission.groups,
            submission.payloads,
            submission.guarantee,
            submission.priority,
            now,
        )
        assert first == submission.first
        if trace is not None:
            tracing.trace_submission(trace, engine, submission)

    def _transmit(self) -> None:
        if self._trace is not None:
            self._trace.flush()
        send, poll = self._transport.send, self.engine.poll_transmit
        while (burst := poll()) is not None:
            send(burst)

    def _let_out(self) -> None:
        self._transmit()
        events = self.engine.take_runs()
        if events:
            if self._trace is not None:
                tracing.trace_events(self._trace, events)
            self._hand_over(events)
            self._transmit()
        self._tell_room()

    def _tell_room(self) -> None:
        """Tell of the room that was asked for, if there is some now."""
        if not self._room_wanted:
            return
        for priority, wanted in tuple(self._room_wanted.items()):
            if self.unsent_bytes(priority) <= wanted:
                self._room_wanted.pop(priority, None)
                self._tell()

    def _hand_over(self, events: Sequence[EngineOutput]) -> None:
        """Give each session what it is to see of *events*."""
        self.ready = True
        route = self._route
        for event in events:
            if type(event) is Run:
                route.deliver(event)
            else:
                self._hand_over_change(event)
        for seat in route.seats:
            if seat.batch:
                seat.deliver()
        route.answer()
        for event in events:
            if type(event) is ConfigurationChanged:
                for seat in route.seats:
                    self._settle_primary(seat.mailbox, event.configuration)
        self._tell()
        self._watch_mailboxes(self._clock())

    def _hand_over_change(self, event: EngineOutput) -> None:
        match event:
            case ConfigurationChanged():
                for seat in self._route.seats:
                    seat.batch.append(event)
            case GroupChanged():
                self._route.change(event)
            case JoinRefused(session, group, reason):
                self._route.refuse(session, group, reason)
            case Settled():
                for seat in self._route.seats:
                    if seat.serves:
                        seat.batch.append(event)
            case SynchronizeLate(name):
                self.late_services.add(name)
            case Run():
                raise AssertionError("messages go another way")
            case _:
                self.desk.handle(event)

    def _say_primary(self, configuration_id: str, primary: bool, reason: str) -> None:
        current = self.engine.configuration
        if current is not None and current.id == configuration_id:  # else it comes too late
            self._primary = (configuration_id, primary, reason)
        for seat in self._route.seats:
            seat.mailbox.settle_primary(configuration_id, primary, reason)
        self._tell()

    def _settle_primary(self, mailbox: Mailbox, configuration: Configuration) -> None:
        """Settle what is known already of *configuration*, which *mailbox* was just given."""
        if configuration.kind is Kind.REGULAR:
            if self._no_primary is not None:
                mailbox.settle_primary(configuration.id, False, self._no_primary)
            elif self._primary is not None and self._primary[0] == configuration.id:
                mailbox.settle_primary(*self._primary)

    def _watch_mailboxes(self, now: float) -> None:
        """Ask the ring to wait while a session has not taken what it was given, and end those that
        are to be evicted."""
        blocked = False
        for seat in tuple(self._route.seats):
            mailbox = seat.mailbox
            if mailbox.evicted is not None:
                self._route.remove(seat)
                self.engine.close_session(seat.session, Cause.EVICTED, now)
                self._tell()
                continue
            if mailbox.full_since is None:
                if not mailbox.full:
                    continue
                mailbox.full_since = now
            # Looked at after it was marked: a reader that emptied it before saw no mark, and so did
            # not wake this thread.
            if mailbox.roomy:
                mailbox.full_since = None
            blocked = blocked or mailbox.full_since is not None
        self.engine.set_blocked(blocked, now)

    def _tell(self) -> None:
        if not self._news:
            self._news = True
            self._notify()

    def _trace_stop(self, reason: str) -> None:
        if self._trace is not None:
            self._trace.stop(time.monotonic_ns(), reason=reason)
            self._trace.flush()

    def _end(self) -> None:
        with self._accepting:
            self._deaf = True
        now = self._clock()
        try:
            for call in self._calls:
                call(now)
            self._route.fail(self.end_error())
            self.desk.fail(self.end_error())
            self._transport.close()
            if self._trace is not None:
                with contextlib.suppress(VsyncError):
                    self._trace.close()
        finally:
            self._wake_receiver.close()
            self._wake_sender.close()
            self.ended = True
            self._news = False
            self._tell()

    def status(self, now: float) -> dict[str, Any]:
        """What ``vsync status`` shows of the ring; call it in the ring's thread."""
        engine = self.engine
        configuration = engine.configuration
        transport = dict(self._transport.status)
        warnings = [*transport.pop("warnings", ()), *self.desk.warnings(now)]
        warnings += [
            f"session {seat.mailbox.name} has been too slow for {now - since:.1f} s, "
            "and the ring waits for it"
            for seat in self._route.seats
            if (since := seat.mailbox.full_since) is not None
        ]
        warnings += [
            f"session {mailbox.name} is too slow: {mailbox.spilled_bytes} bytes of its events are "
            f"on disk, and beyond {mailbox.spill_bytes_max} it is evicted"
            for mailbox in (seat.mailbox for seat in self._route.seats)
            if mailbox.spilled_bytes
        ]
        return {
            "node": engine.node,
            "life": f"{engine.life:x}",
            "state": engine.state.name.lower(),
            "configuration": None
            if configuration is None
            else {
                "id": configuration.id,
                "kind": configuration.kind.value,
                "members": list(configuration.members),
                "joined": list(configuration.joined),
                "left": list(configuration.left),
            },
            "transport": {"scheme": self._transport.SCHEME, **transport},
            "window_packets": engine.window_packets,
            "pending_bytes": engine.pending_bytes,
            "unstable": engine.unstable,
            "late_s": round(engine.health.lateness_s(now), 4),
            "blocked_by": engine.blocked_by,
            "synchronizing": engine.synchronizing,
            **self.desk.status(),
            "sessions": len(self._route.seats),
            "groups": {
                str(group): [list(member) for member in members]
                for group, members in engine.groups.members().items()
            },
            "counters": engine.counters.as_dict(),
            "warnings": warnings,
        }

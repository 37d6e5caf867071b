"""Inbox: what came for a handle, from the event loop's thread to the threads that dispatch."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

from vsync.errors import VsyncError
from vsync.events import ConfigurationChanged, Delivery, Event
from vsync.evs.errors import translated
from vsync.evs.readiness import Readiness
from vsync.vocabulary import Configuration, Kind, NodeId, RingId

INBOX_BYTES: Final = 2**20
"""Bytes of messages that wait here before no more are taken from the session. Those wait in the
daemon then, where the session's policy for slow readers holds."""

EVENT_BYTES: Final = 64
"""What an event counts beside its payload, so that empty messages are bounded too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of configuration, as a callback is told of it."""

    transitional: bool
    members: tuple[NodeId, ...]
    left: tuple[NodeId, ...]
    joined: tuple[NodeId, ...]
    ring: RingId


Waiting: TypeAlias = Delivery | Change


class Inbox:
    """Events that wait for a callback, and who is in a callback just now."""

    def __init__(self, *, messages: bool, changes: bool, transitional: bool) -> None:
        self._wanted = (messages, changes, transitional)
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._events: deque[Waiting] = deque()
        self._size = 0
        self._room = Readiness()
        self._lifted = 0
        self._left: list[NodeId] = []
        self._current: Change | None = None
        self._calling: dict[int, int] = {}
        self._end: VsyncError | None = None
        self._closed = False
        self.ready = Readiness()

    # --- in the event loop's thread ---------------------------------------------------------------

    def put(self, events: Sequence[Event]) -> None:
        """Have *events* dispatched, as far as there is a callback for them."""
        messages, changes, transitional = self._wanted
        kept: list[Waiting] = []
        size = 0
        for event in events:
            if isinstance(event, Delivery):
                if messages:
                    kept.append(event)
                    size += len(event.payload) + EVENT_BYTES
            elif isinstance(event, ConfigurationChanged):
                change = self._changed(event.configuration)
                if transitional if change.transitional else changes:
                    kept.append(change)
                    size += EVENT_BYTES
        with self._lock:
            if kept and not self._closed:
                self._events += kept
                self._size += size
                self.ready.set()
                self._news.notify_all()

    def _changed(self, configuration: Configuration) -> Change:
        if configuration.kind is Kind.TRANSITIONAL:
            self._left += configuration.left
            old, _, _ = configuration.id.partition(">")
            return Change(
                transitional=True,
                members=configuration.members,
                left=configuration.left,
                joined=(),
                ring=RingId.from_text(old),
            )
        first = self._current is None
        change = Change(
            transitional=False,
            members=configuration.members,
            left=() if first else tuple(sorted({*self._left, *configuration.left})),
            joined=configuration.members if first else configuration.joined,
            ring=RingId.from_text(configuration.id),
        )
        self._left.clear()
        self._current = change
        return change

    def end(self, error: VsyncError) -> None:
        """Nothing more will come; who has taken all that is here is told why."""
        with self._lock:
            if self._end is None and not self._closed:
                self._end = error
                self.ready.set()
                self._news.notify_all()

    async def room(self) -> None:
        """Wait until more may be put here."""
        while True:
            with self._lock:
                if self._size < INBOX_BYTES or self._lifted or self._closed:
                    return
                self._room.clear()
            await self._room.wait()

    # --- in any other thread ----------------------------------------------------------------------

    @property
    def current(self) -> Change | None:
        """The newest regular configuration that came, dispatched or not."""
        return self._current

    def __len__(self) -> int:
        """How many callbacks can be made now."""
        return len(self._events)

    def next(self, *, wait: bool) -> Waiting | None:
        """The next event, for this thread to call back with; then it calls ``called``.

        None if the inbox is closed, or if there is none and this is not to *wait*. Raises why
        nothing more will come, once all was taken.
        """
        with self._lock:
            while not self._events:
                if self._closed:
                    return None
                if self._end is not None:
                    raise translated(self._end)
                if not wait:
                    return None
                self._news.wait()
            event = self._events.popleft()
            self._size -= EVENT_BYTES
            if isinstance(event, Delivery):
                self._size -= len(event.payload)
            if not self._events and self._end is None:
                self.ready.clear()
            if self._size < INBOX_BYTES // 2:
                self._room.set()
            thread = threading.get_ident()
            self._calling[thread] = self._calling.get(thread, 0) + 1
            return event

    def called(self) -> None:
        """This thread's callback has returned."""
        with self._lock:
            thread = threading.get_ident()
            self._calling[thread] -= 1
            if not self._calling[thread]:
                del self._calling[thread]
                if self._closed:
                    self._news.notify_all()

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Take all that comes, for now: what this thread waits for may be behind it."""
        with self._lock:
            self._lifted += 1
            self._room.set()
        try:
            yield
        finally:
            with self._lock:
                self._lifted -= 1

    def close(self) -> bool:
        """Forget what is here, and let nobody wait; whether nobody had closed it before."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            self._events.clear()
            self._room.set()
            self._news.notify_all()
            return True

    def wait_for_callbacks(self) -> None:
        """Wait until no other thread is in a callback. The inbox is closed."""
        thread = threading.get_ident()
        with self._lock:
            while self._calling.keys() - {thread}:
                self._news.wait()

    def release(self) -> None:
        """Give back the descriptors; the event loop has no more to do with this."""
        with self._lock:
            self.ready.close()
            self._room.close()

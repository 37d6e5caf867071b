"""Mailbox: one session's events on their way from the ring's thread to the caller's event loop.

The ring's thread puts, the loop takes; neither waits for the other. What was put and what was taken
are counted apart, each by one side only, so no lock is needed. There is one queue, and so one
order: what is on disk has its place in it as what is in memory.
"""

import threading
from collections import deque
from typing import Final, TypeAlias

from vsync.errors import Evicted
from vsync.events import ConfigurationChanged, Delivery, Event
from vsync.runtime.spill import Piece, Spill
from vsync.vocabulary import Kind, SlowPolicy

EVENT_BYTES: Final = 200
"""About what an event takes besides its payload."""

SPILL_BYTES_MAX: Final = 2**30
"""What may go to disk, unless the caller says else."""

PIECE_BYTES: Final = 2**20
"""How much goes to disk at a time, and is read back at a time."""

CHANGED_BEFORE: Final = "the configuration changed before it was settled"
TRANSITIONAL: Final = "a transitional configuration is never primary"
EVICTED_BEFORE: Final = "the session was evicted before it was settled"

_Batch: TypeAlias = tuple[list[Event] | Piece, int]
"""Events, or where they are on disk; and what they count."""


class Mailbox:
    """Events of one session that wait to be taken: *bytes_max* in memory, and one batch more.

    What happens beyond that, *slow* says: the ring is asked to wait (BLOCK), the session is evicted
    (EVICT), or up to *spill_bytes_max* go to disk, and only then it is evicted (SPILL).

    With *wants_primary*, a regular configuration and all behind it is held back until
    ``settle_primary`` says whether it is primary. What is held counts as what waits.
    """

    def __init__(
        self,
        name: str,
        bytes_max: int,
        *,
        slow: SlowPolicy = SlowPolicy.BLOCK,
        spill_bytes_max: int = SPILL_BYTES_MAX,
        wants_primary: bool = False,
    ) -> None:
        self.name = name
        self.bytes_max = bytes_max
        self.slow = slow
        self.full_since: float | None = None
        """Since when this mailbox holds up the ring; kept by the ring's thread."""
        self.evicted: Evicted | None = None
        """Why nothing comes behind what waits; set once. Read it before ``take``."""
        self._wants_primary = wants_primary
        self._batches: deque[_Batch] = deque()
        self._unsettled: ConfigurationChanged | None = None
        self._held: list[_Batch] = []
        """What came behind the unsettled configuration; the ring's thread's alone."""
        self._spill = Spill(spill_bytes_max)
        self._piece_bytes = min(PIECE_BYTES, bytes_max)
        self._tail: list[Event] = []
        """Behind all batches: what is being gathered to go to disk in one piece. It may be taken
        before it does, hence the lock, which the two sides need for nothing else."""
        self._tail_bytes = 0
        self._tail_lock = threading.Lock()
        self._over = False
        """Nothing is given any more."""
        self._put_bytes = 0
        self._taken_bytes = 0
        # Of those, what is in memory.
        self._kept_bytes = 0
        self._given_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes put and not taken, in memory and on disk."""
        return self._put_bytes - self._taken_bytes

    @property
    def memory_bytes(self) -> int:
        """Bytes put and not taken, in memory."""
        return self._kept_bytes - self._given_bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of disk in use."""
        return self._spill.disk_bytes

    @property
    def full(self) -> bool:
        """More waits than may, and the ring is to wait for it."""
        return self.slow is SlowPolicy.BLOCK and self.waiting_bytes > self.bytes_max

    @property
    def roomy(self) -> bool:
        """Half of what may wait has been taken; the ring may go on."""
        return self.slow is not SlowPolicy.BLOCK or self.waiting_bytes <= self.bytes_max // 2

    # --- the ring's thread ----------------------------------------------------------------------

    def put(self, events: list[Event]) -> None:
        """Add a batch. Look at ``evicted`` afterwards; once it is set, nothing is added."""
        if self.evicted is not None or self._over:
            return
        if self.slow is SlowPolicy.EVICT and self.memory_bytes > self.bytes_max:
            self._evict(
                f"it did not take its events in time: {self.memory_bytes} bytes waited, and its "
                f"queue_bytes is {self.bytes_max}; take them sooner, let more wait, or choose "
                "another policy for slow readers (block, spill)"
            )
        elif self._wants_primary:
            self._put_holding(events)
        else:
            self._add(events)

    def settle_primary(self, configuration_id: str, primary: bool, reason: str) -> None:
        """Say whether a configuration is primary, and why; let go of it and of all behind it.

        Nothing happens unless it is the one that is held.
        """
        unsettled = self._unsettled
        if unsettled is not None and unsettled.configuration.id == configuration_id:
            self._release(primary, reason)

    def _put_holding(self, events: list[Event]) -> None:
        """As ``_add``, but hold at each configuration that is to be settled."""
        first = 0
        for index, event in enumerate(events):
            if type(event) is ConfigurationChanged:
                self._add(events[first:index])
                first = index + 1
                self._release(False, CHANGED_BEFORE)
                if event.configuration.kind is Kind.REGULAR:
                    self._hold(event)
                else:
                    self._add([ConfigurationChanged(event.configuration, False, TRANSITIONAL)])
        self._add(events[first:])

    def _hold(self, configuration: ConfigurationChanged) -> None:
        if self.evicted is None:
            self._close_tail()
            self._count(EVENT_BYTES)
            with self._tail_lock:
                self._unsettled = configuration

    def _release(self, primary: bool, reason: str) -> None:
        """Give what is held to the taker."""
        unsettled = self._unsettled
        if unsettled is None:
            return
        settled = ConfigurationChanged(unsettled.configuration, primary, reason)
        with self._tail_lock:  # the tail may be taken when all before it can
            self._batches.append(([settled], EVENT_BYTES))
            self._batches.extend(self._held)
            self._unsettled = None
        self._held = []

    def _add(self, events: list[Event]) -> None:
        """Add a batch to what waits, or to what is held."""
        if not events or self.evicted is not None:
            return
        size = sum(
            EVENT_BYTES + (len(event.payload) if type(event) is Delivery else 0) for event in events
        )
        if self._tail or (
            self.slow is SlowPolicy.SPILL and self.memory_bytes + size > self.bytes_max
        ):
            self._add_to_tail(events)
        else:
            self._count(size)
            self._append((events, size))

    def _append(self, batch: _Batch) -> None:
        if self._unsettled is None:
            self._batches.append(batch)
        else:
            self._held.append(batch)

    def _count(self, size: int) -> None:
        self._put_bytes += size
        self._kept_bytes += size

    def _add_to_tail(self, events: list[Event]) -> None:
        first = size = 0
        for end, event in enumerate(events, 1):
            size += EVENT_BYTES + (len(event.payload) if type(event) is Delivery else 0)
            if end < len(events) and self._tail_bytes + size < self._piece_bytes:
                continue
            self._count(size)
            with self._tail_lock:
                self._tail += events[first:end]
                self._tail_bytes += size
                filled = self._tail_bytes >= self._piece_bytes
            first, size = end, 0
            if filled:
                self._close_tail()
                if self.evicted is not None:
                    return

    def _close_tail(self) -> None:
        """Make the tail a batch: in memory if there is room by now, else on disk."""
        with self._tail_lock:
            events, size = self._tail, self._tail_bytes
            self._tail, self._tail_bytes = [], 0
        if not events:
            return
        if self.memory_bytes <= self.bytes_max:
            self._append((events, size))
            return
        try:
            place = self._spill.write(events)
        except OSError as error:
            refusal = (
                f"its events cannot go to disk ({error}); make room in the directory for temporary "
                "files, or name one that has room in TMPDIR"
            )
        else:
            if place is not None:
                self._kept_bytes -= size
                self._append((place, size))
                return
            refusal = (
                f"it did not take its events in time: {self._spill.waiting_bytes} bytes of them "
                f"are on disk, and its spill_bytes is {self._spill.bytes_max}; take them sooner, "
                "or let more go to disk"
            )
        self._append((events, size))
        self._evict(refusal)

    def _evict(self, reason: str) -> None:
        self._release(False, EVICTED_BEFORE)
        self.evicted = Evicted(f"session {self.name} was evicted: {reason}")

    # --- the loop -------------------------------------------------------------------------------

    def take(self) -> list[Event]:
        """What waits, oldest first: all that is in memory; about *bytes_max* where some is on disk.

        Empty only if nothing waits, or all that does is held.
        """
        taken: list[Event] = []
        taken_bytes = 0
        while not self._over:
            if not self._batches:
                if not (self._tail and self._release_tail()):
                    break
                continue
            events, size = self._batches[0]
            if type(events) is Piece:
                if taken and taken_bytes + size > self.bytes_max:
                    break
                try:
                    taken += self._spill.read(events)
                except OSError as error:
                    self._give_up(error)
                    break
            else:
                assert type(events) is list
                taken += events
                self._given_bytes += size
            self._batches.popleft()
            self._taken_bytes += size
            taken_bytes += size
        return taken

    def _release_tail(self) -> bool:
        """Make the tail a batch before it goes to disk, if all before it was taken."""
        with self._tail_lock:
            if self._batches or self._unsettled is not None:
                return bool(self._batches)
            if self._tail:
                self._batches.append((self._tail, self._tail_bytes))
                self._tail, self._tail_bytes = [], 0
            return bool(self._batches)

    def _give_up(self, error: OSError) -> None:
        self._over = True
        self._batches.clear()
        self.evicted = Evicted(
            f"session {self.name} was evicted: its events cannot be read back from disk ({error})"
        )

    def close(self) -> None:
        """Let go of everything; nothing can be taken or put any more."""
        self._over = True
        self._batches.clear()
        self._spill.close()

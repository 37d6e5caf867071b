"""Mailbox: one session's events on their way from the ring's thread to the caller's event loop.

The ring's thread puts, the loop takes; neither waits for the other. What was put and what was taken
are counted apart, each by one side only, so no lock is needed but where events go to disk, and none
is held while they do. There is one queue, and so one order: what is on disk has its place in it as
what is in memory.
"""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from vsync.engine.runs import Run
from vsync.errors import Evicted
from vsync.events import ConfigurationChanged, Delivery, Event
from vsync.runtime.spill import Piece, Spill, Worker
from vsync.vocabulary import Kind, SlowPolicy

EVENT_BYTES: Final = 200
"""About what an event takes besides its payload."""

SPILL_BYTES_MAX: Final = 2**30
"""What may go to disk, unless the caller says else."""

PIECE_BYTES: Final = 2**20
"""How much goes to disk at a time, and is read back at a time."""

UNWRITTEN_BYTES_MIN: Final = 16 * 2**20
"""So much may be on its way to disk at least; as much as in memory, if that is more."""

CHANGED_BEFORE: Final = "the configuration changed before it was settled"
TRANSITIONAL: Final = "a transitional configuration is never primary"
EVICTED_BEFORE: Final = "the session was evicted before it was settled"


Item: TypeAlias = Event | Run
"""What waits: events, or messages in runs for a session that takes them so."""


def bytes_of(item: Item) -> int:
    """What *item* counts."""
    if type(item) is Run:
        return EVENT_BYTES * len(item) + item.payload_bytes
    return EVENT_BYTES + (len(item.payload) if type(item) is Delivery else 0)


class _Batch:
    """Events that were put, or where they are on disk; and what they count."""

    __slots__ = ("events", "piece", "size", "taken")

    def __init__(self, events: Sequence[Item], size: int) -> None:
        self.events: Sequence[Item] | None = events
        self.size = size
        self.piece: Piece | None = None
        self.taken = False


class Mailbox:
    """Events of one session that wait to be taken.

    Up to *bytes_max* wait in memory. What happens beyond that, *slow* says: the ring is asked to
    wait (BLOCK), the session is evicted (EVICT), or up to *spill_bytes_max* go to disk, and only
    then it is evicted (SPILL). The batch that goes beyond a bound is still taken in, since a reader
    can do nothing about its size.

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
        self._over = False
        """Nothing is given any more."""
        self._put_bytes = 0
        self._taken_bytes = 0

        # Only for SPILL; the lock guards what goes to disk from being taken while it does.
        self.spill_bytes_max = spill_bytes_max
        self._lock = threading.Lock()
        self._tail: list[Item] = []
        """Behind all batches: what is being gathered to go to disk in one piece."""
        self._tail_bytes = 0
        self._piece_bytes = min(PIECE_BYTES, bytes_max)
        self._spill = Spill()
        self._writer = Worker(f"vsync spill {name}", self._write)
        self._refusal = ""
        """Why nothing more can go to disk; the writing thread's."""
        # Each written by one thread: the ring's, the writing one, and for what is read the loop.
        self._sent_bytes = 0
        self._handled_bytes = 0
        self._on_disk_bytes = 0
        self._read_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes put and not taken, in memory and on disk."""
        return self._put_bytes - self._taken_bytes

    @property
    def memory_bytes(self) -> int:
        """Bytes put and not taken, in memory."""
        return self.waiting_bytes - self.spilled_bytes

    @property
    def spilled_bytes(self) -> int:
        """Bytes put and not taken, on disk."""
        return self._on_disk_bytes - self._read_bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of disk in use: how much what waits there takes, and what was read is not given
        back yet."""
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

    def put(self, events: Sequence[Item], size: int | None = None) -> None:
        """Add a batch. Look at ``evicted`` afterwards; once it is set, nothing is added.

        *size* is what they count; without it, that is found out.
        """
        if self.evicted is not None or self._over:
            return
        reason = self._reason_to_evict() if self.slow is not SlowPolicy.BLOCK else ""
        if reason:
            self._release(False, EVICTED_BEFORE)
            self.evicted = Evicted(f"session {self.name} was evicted: {reason}")
        elif self._wants_primary:
            self._put_holding(events)
        else:
            self._add(events, size)

    def _reason_to_evict(self) -> str:
        """Why there must not be more, as part of a sentence."""
        if self.slow is SlowPolicy.EVICT:
            if self.waiting_bytes > self.bytes_max:
                return (
                    f"it did not take its events in time: {self.waiting_bytes} bytes waited, and "
                    f"its queue_bytes is {self.bytes_max}; take them sooner, let more wait, or "
                    "choose another policy for slow readers (block, spill)"
                )
            return ""
        if self._refusal:
            return self._refusal
        if self.waiting_bytes > self.bytes_max + self.spill_bytes_max:
            return (
                f"it did not take its events in time: {self.waiting_bytes} bytes waited, and its "
                f"queue_bytes is {self.bytes_max}, its spill_bytes {self.spill_bytes_max}; take "
                "them sooner, or let more go to disk"
            )
        unwritten = self._sent_bytes - self._handled_bytes
        if unwritten > max(self.bytes_max, UNWRITTEN_BYTES_MIN):
            return (
                f"it did not take its events in time, and the disk is too slow: {unwritten} bytes "
                "are still to be written; name a directory on a faster disk in TMPDIR"
            )
        return ""

    def settle_primary(self, configuration_id: str, primary: bool, reason: str) -> None:
        """Say whether a configuration is primary, and why; let go of it and of all behind it.

        Nothing happens unless it is the one that is held.
        """
        unsettled = self._unsettled
        if unsettled is not None and unsettled.configuration.id == configuration_id:
            self._release(primary, reason)

    def _put_holding(self, events: Sequence[Item]) -> None:
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
        self._close_tail()
        self._put_bytes += EVENT_BYTES
        with self._lock:
            self._unsettled = configuration

    def _release(self, primary: bool, reason: str) -> None:
        """Give what is held to the taker."""
        unsettled = self._unsettled
        if unsettled is None:
            return
        settled = ConfigurationChanged(unsettled.configuration, primary, reason)
        with self._lock:  # what is behind may be taken when all before it can
            self._batches.append(_Batch([settled], EVENT_BYTES))
            self._batches.extend(self._held)
            self._unsettled = None
        self._held = []

    def _add(self, events: Sequence[Item], size: int | None = None) -> None:
        """Add a batch to what waits, or to what is held."""
        if not events:
            return
        if size is None:
            size = sum(map(bytes_of, events))
        if self._tail or (
            self.slow is SlowPolicy.SPILL and self.memory_bytes + size > self.bytes_max
        ):
            self._add_to_tail(events)
        else:
            self._put_bytes += size
            self._append(_Batch(events, size))

    def _append(self, batch: _Batch) -> None:
        if self._unsettled is None:
            self._batches.append(batch)
        else:
            self._held.append(batch)

    def _add_to_tail(self, events: Sequence[Item]) -> None:
        first = size = 0
        for end, event in enumerate(events, 1):
            size += bytes_of(event)
            if end < len(events) and self._tail_bytes + size < self._piece_bytes:
                continue
            self._put_bytes += size
            with self._lock:
                self._tail += events[first:end]
                self._tail_bytes += size
                filled = self._tail_bytes >= self._piece_bytes
            first, size = end, 0
            if filled:
                self._close_tail()

    def _close_tail(self) -> None:
        """Make the tail a batch, which goes to disk unless there is room in memory by now."""
        with self._lock:
            events, size = self._tail, self._tail_bytes
            self._tail, self._tail_bytes = [], 0
        if not events:
            return
        batch = _Batch(events, size)
        self._append(batch)
        if self.memory_bytes > self.bytes_max:
            self._sent_bytes += size
            try:
                self._writer.submit(batch)
            except RuntimeError as error:
                self._refusal = f"nothing can write its events to disk ({error})"

    # --- the writing thread ---------------------------------------------------------------------

    def _write(self, batch: _Batch) -> None:
        """Bring *batch* to disk, unless it was taken by then."""
        events = batch.events
        assert events is not None
        try:
            if not (batch.taken or self._refusal or self._over):
                self._put_on_disk(batch, self._spill.write(events))
        except OSError as error:
            self._refusal = (
                f"its events cannot go to disk ({error.strerror or error}); make room in the "
                "directory for temporary files, or name one that has room in TMPDIR"
            )
        self._handled_bytes += batch.size

    def _put_on_disk(self, batch: _Batch, piece: Piece) -> None:
        with self._lock:
            if not batch.taken:
                batch.events, batch.piece = None, piece
                self._on_disk_bytes += batch.size
                return
        self._spill.forget(piece)

    # --- the loop -------------------------------------------------------------------------------

    def take(self) -> list[Item]:
        """What waits, oldest first: all that is in memory; about *bytes_max* where some is on disk.

        Empty only if nothing waits, or all that does is held.
        """
        taken: list[Item] = []
        taken_bytes = 0
        while not self._over:
            if not self._batches and not (self._tail and self._release_tail()):
                break
            batch = self._batches[0]
            if batch.piece is not None and taken and taken_bytes + batch.size > self.bytes_max:
                break
            if self.slow is SlowPolicy.SPILL:
                with self._lock:
                    batch.taken = True
            if batch.piece is not None:
                try:
                    taken += self._spill.read(batch.piece)
                except OSError as error:
                    self._give_up(error)
                    break
                self._read_bytes += batch.size
            else:
                assert batch.events is not None
                taken += batch.events
            self._batches.popleft()
            self._taken_bytes += batch.size
            taken_bytes += batch.size
        return taken

    def _release_tail(self) -> bool:
        """Make the tail a batch before it goes to disk; False if there is none to take."""
        with self._lock:
            if self._tail and self._unsettled is None:
                self._batches.append(_Batch(self._tail, self._tail_bytes))
                self._tail, self._tail_bytes = [], 0
            return bool(self._batches)

    def _give_up(self, error: OSError) -> None:
        self._over = True
        self._batches.clear()
        self.evicted = Evicted(
            f"session {self.name} was evicted: its events cannot be read back from disk "
            f"({error.strerror or error})"
        )

    def close(self) -> None:
        """Let go of everything; nothing can be taken or put any more."""
        self._over = True
        self._batches.clear()
        self._writer.close()
        self._spill.close()

"""Mailbox: one session's events on their way from the ring's thread to the caller's event loop.

The ring's thread puts, the loop takes; neither waits for the other. What was put and what was taken
are counted apart, each by one side only, so no lock is needed.
"""

from collections import deque
from typing import Final

from vsync.errors import Evicted
from vsync.events import Delivery, Event
from vsync.vocabulary import GroupKey, SlowPolicy

EVENT_BYTES: Final = 200
"""About what an event takes besides its payload."""


class Mailbox:
    """Events of one session, bounded by *bytes_max* (the ring is asked to wait beyond it)."""

    def __init__(
        self,
        name: str,
        bytes_max: int,
        *,
        slow: SlowPolicy = SlowPolicy.BLOCK,
        spill_bytes_max: int = 2**30,
        wants_primary: bool = False,
    ) -> None:
        self.evicted: Evicted | None = None
        self.name = name
        self.bytes_max = bytes_max
        self.groups: frozenset[GroupKey] = frozenset()
        """The joined groups; changed by the ring's thread alone."""
        self._batches: deque[tuple[list[Event], int]] = deque()
        self._put_bytes = 0
        self._taken_bytes = 0
        self.full_since: float | None = None
        """Since when this mailbox holds up the ring; kept by the ring's thread."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes put and not taken."""
        return self._put_bytes - self._taken_bytes

    @property
    def full(self) -> bool:
        """More waits than may."""
        return self.waiting_bytes > self.bytes_max

    @property
    def roomy(self) -> bool:
        """Half of what may wait has been taken; the ring may go on."""
        return self.waiting_bytes <= self.bytes_max // 2

    def put(self, events: list[Event]) -> None:
        """Add a batch, from the ring's thread."""
        size = sum(
            EVENT_BYTES + (len(event.payload) if type(event) is Delivery else 0) for event in events
        )
        self._put_bytes += size
        self._batches.append((events, size))

    def settle_primary(self, configuration_id: str, primary: bool, reason: str) -> None:
        """Say whether a configuration that was put is primary."""

    def close(self) -> None:
        """Let go of everything."""

    def take(self) -> list[Event]:
        """All that waits, oldest first, from the loop."""
        taken: list[Event] = []
        while self._batches:
            events, size = self._batches.popleft()
            taken += events
            self._taken_bytes += size
        return taken

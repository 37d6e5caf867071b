"""What must outlive a crash: the highest ring number ever adopted."""

from typing import Protocol


class RingStore(Protocol):
    """Keeps a ring's number, so that no ring id is ever used for two memberships.

    The engine calls ``save`` before it takes part in a ring of that number. This is its one
    effect outside; it must be durable when it returns. Raises StateFailed if it cannot be.
    """

    def load(self) -> int:
        """The highest number ever saved; 0 if there is none."""

    def save(self, ring_seq: int) -> None:
        """Make *ring_seq* durable."""


class MemoryStore:
    """A store for tests and simulations: as durable as the object."""

    def __init__(self, ring_seq: int = 0) -> None:
        self.ring_seq = ring_seq
        self.services: dict[str, bytes] = {}
        """What services of the node kept, by name."""

    def load(self) -> int:
        """The highest number ever saved."""
        return self.ring_seq

    def save(self, ring_seq: int) -> None:
        """Keep *ring_seq*."""
        self.ring_seq = max(self.ring_seq, ring_seq)

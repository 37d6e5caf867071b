"""Quality: how one link is to one other node, and what follows for the link."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from vsync.transport import Address

LOSS_GAIN: Final = 1 / 64
"""What one packet changes in the measured loss."""

ROUND_GAIN: Final = 1 / 8
"""What one echo changes in the measured round trip."""

MISSED_MAX: Final = 32
"""A gap in a node's counters tells of no more losses than this: it may have been away."""


class LinkState(StrEnum):
    """How a link is."""

    GOOD = "good"  #: it carries its share
    FAULTY = "faulty"  #: it carries hellos only, until it is good again
    IDLE = "idle"  #: nobody is heard on any link, so nothing is known of it


@dataclass(slots=True)
class Hearing:
    """How a node is heard on one link."""

    address: Address
    life: int
    counter: int
    heard_at: float
    echo_us: int = 0
    """The time stamp of its last hello, to be returned."""
    loss: float = 0.0
    """Between 0 and 1: which part of what it sends does not arrive."""
    round_s: float = 0.0
    """How long an echo takes; 0 until there was one."""

    def count(self, came: int, missed: int) -> None:
        """Note that packets came, or should have come and did not."""
        for _ in range(min(missed, MISSED_MAX)):
            self.loss += (1.0 - self.loss) * LOSS_GAIN
        for _ in range(min(came, MISSED_MAX)):
            self.loss -= self.loss * LOSS_GAIN

    def measure(self, round_s: float) -> None:
        """Note how long an echo took."""
        if not self.round_s:
            self.round_s = round_s
        self.round_s += (round_s - self.round_s) * ROUND_GAIN


@dataclass(slots=True)
class Quality:
    """What is known of one link."""

    number: int
    state: LinkState = LinkState.IDLE
    reason: str = ""
    """Why it is faulty."""
    since: float = 0.0
    """Since when it is in its state."""
    hearing: dict[int, Hearing] = field(default_factory=dict)
    """By node."""
    counter: int = 0
    """Of our own hellos."""
    well_since: float | None = None
    """Since when a faulty link has had no fault."""
    patience_s: float = 0.0
    """How long it must have none before it is good again: longer after each relapse."""
    faults: int = 0
    """How often it became faulty."""

    @property
    def mask(self) -> int:
        """Its bit."""
        return 1 << self.number - 1

    @property
    def loss(self) -> float:
        """Of the node that is heard worst."""
        return max((hearing.loss for hearing in self.hearing.values()), default=0.0)

    @property
    def round_s(self) -> float:
        """To the node that is furthest; 0 if none is known."""
        return max((hearing.round_s for hearing in self.hearing.values()), default=0.0)

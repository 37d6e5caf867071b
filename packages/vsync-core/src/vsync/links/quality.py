"""Quality: how other nodes are heard on one link, and what follows for the link."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from vsync.transport import Address

HELLO_LOSS_GAIN: Final = 1 / 64
"""What one hello changes in the measured loss of hellos."""

COPY_LOSS_GAIN: Final = 1 / 8
"""What one interval changes in the measured loss of copies."""

COPIES_MIN: Final = 20
"""Fewer packets say nothing about loss; they are counted on."""

COPY_LOSS_FADES: Final = 0.95
"""What is left of the measured loss of copies after an interval that says nothing."""

ROUND_GAIN: Final = 1 / 8
"""What one echo changes in the measured round trip."""

MISSED_MAX: Final = 3
"""A longer gap in a node's counters was silence, and says nothing about loss."""


class LinkState(StrEnum):
    """How a link is."""

    GOOD = "good"  #: it carries its share
    FAULTY = "faulty"  #: it carries hellos only, until it is good again
    IDLE = "idle"  #: nobody is heard on any link, so nothing is known of it


@dataclass(slots=True)
class Hearing:
    """How one node is heard on one link."""

    address: Address
    counter: int
    """Of its last hello on this link."""
    heard_at: float
    """When anything of it came on this link."""
    echo_us: int = 0
    """The time stamp of its last hello, to be returned."""
    echo_at: float = 0.0
    """When that came."""
    elsewhere: int = 0
    """Packets sent on all links that came on others since anything came on this one."""
    came: int = 0
    """Packets sent on all links that came on this one, since loss was measured."""
    hello_loss: float = 0.0
    copy_loss: float = 0.0
    """Between 0 and 1: which part of what it sends does not arrive."""
    round_s: float = 0.0
    """How long an echo takes; 0 until there was one."""

    @property
    def loss(self) -> float:
        """The higher of both."""
        return max(self.hello_loss, self.copy_loss)

    def count_hello(self, counter: int, *, trusted: bool) -> None:
        """Note a hello and, if gaps are to be *trusted*, those that are missing before it."""
        missed = counter - self.counter - 1
        for _ in range(missed if trusted and missed <= MISSED_MAX else 0):
            self.hello_loss += (1.0 - self.hello_loss) * HELLO_LOSS_GAIN
        self.hello_loss -= self.hello_loss * HELLO_LOSS_GAIN
        self.counter = max(counter, self.counter)

    def count_copies(self, sent: int) -> None:
        """Note that *sent* packets came on some link; once they are enough, begin anew."""
        if sent >= COPIES_MIN:
            loss = max(0.0, 1.0 - self.came / sent)
            self.copy_loss += (loss - self.copy_loss) * COPY_LOSS_GAIN
            self.came = 0
        else:
            self.copy_loss *= COPY_LOSS_FADES

    def measure(self, round_s: float) -> None:
        """Note how long an echo took."""
        if not self.round_s:
            self.round_s = round_s
        self.round_s += (round_s - self.round_s) * ROUND_GAIN


@dataclass(slots=True)
class Peer:
    """What is known of one node, whatever the link."""

    life: int
    since: float
    """Since when it is here; it was not heard on any link before."""
    heard_at: float
    """When it was last heard, on whatever link."""
    reached: int = 0
    """Mask of the links on which it hears us well; 0: none, or it has just come."""
    sent: int = 0
    """Packets sent on all links that came on any of them, since loss was measured."""


@dataclass(slots=True)
class Quality:
    """What is known of one link."""

    number: int
    added_at: float = 0.0
    state: LinkState = LinkState.IDLE
    reason: str = ""
    """Why it is faulty."""
    since: float = 0.0
    """Since when it is in its state."""
    hearing: dict[int, Hearing] = field(default_factory=dict)
    """By node."""
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

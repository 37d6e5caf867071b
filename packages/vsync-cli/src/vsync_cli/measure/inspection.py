"""Holds what a receiver is given against what was sent: nothing lost, repeated, in disorder."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from vsync.events import Delivery
from vsync.vocabulary import Configuration, Guarantee, Kind, Member
from vsync_cli.measure.payloads import HEAD_BYTES, Sort, read


@dataclass(slots=True)
class Track:
    """The messages of one sender, as one receiver got them."""

    next: int = 0
    """The counter that comes next."""

    messages: int = 0
    bytes: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    total: int | None = None
    """How many it has sent, once it has said so."""

    missing: set[int] = field(default_factory=set)
    """Those that were passed over, and may still come."""

    away: bool = False
    """Whether its node was not in the configuration since its last message."""

    not_ours: int = 0
    """Those it sent while it or this receiver was elsewhere."""

    begun: bool = False
    late: bool = False
    """Whether it was sending already when this receiver came."""

    ordered: bool = True

    @property
    def lost(self) -> int:
        """How many are known not to come any more."""
        if self.total is not None:
            return len(self.missing) + max(0, self.total - self.next)
        return len(self.missing) if self.ordered else 0


@dataclass(slots=True)
class Inspection:
    """All messages of one receiver."""

    tracks: dict[Member, Track] = field(default_factory=dict)
    damaged: int = 0
    repeated: int = 0
    reordered: int = 0
    order: int = 0
    """A checksum over the order of all messages: where it is the same, so was the order."""

    @property
    def lost(self) -> int:
        """How many messages are known not to come any more."""
        return sum(track.lost for track in self.tracks.values())

    @property
    def faults(self) -> dict[str, int]:
        """How many messages were wrong, by what was wrong."""
        return {
            "damaged": self.damaged,
            "lost": self.lost,
            "repeated": self.repeated,
            "reordered": self.reordered,
        }

    def take(self, delivery: Delivery, now: float) -> Track | None:
        """Look at a message. Gives its sender's track if it is one of those that are measured."""
        head = read(delivery)
        if head is None or head.sort is Sort.ANSWER:
            self.damaged += 1
            return None
        track = self.tracks.get(head.member)
        if track is None:
            track = self.tracks[head.member] = Track()
        counter = head.counter
        if head.sort is Sort.END:
            if track.away or (track.late and not track.begun):
                track.not_ours += max(0, counter - track.next)
                track.next = max(track.next, counter)
            track.total = counter
            return None
        if not track.begun:
            track.begun = True
            track.first_at = now
            if track.late:
                track.next = counter
        track.ordered = delivery.guarantee is not Guarantee.UNORDERED
        if counter != track.next:
            self._out_of_turn(track, counter)
        else:
            track.next += 1
        if (
            track.away
            and delivery.configuration.kind is Kind.REGULAR
            and head.member.node in delivery.configuration.members
        ):
            track.away = False
        track.messages += 1
        track.bytes += len(delivery.payload)
        track.last_at = now
        self.order = zlib.crc32(delivery.payload[:HEAD_BYTES], self.order)
        return track

    def _out_of_turn(self, track: Track, counter: int) -> None:
        if counter > track.next:
            if track.away:
                track.not_ours += counter - track.next
            else:
                track.missing.update(range(track.next, counter))
            track.next = counter + 1
        elif counter in track.missing:
            track.missing.discard(counter)
            self.reordered += track.ordered
        elif not (track.late and not track.ordered):
            # Of unordered ones, those before the first that a latecomer saw may come after it.
            self.repeated += 1

    def expect_late(self, members: Iterable[Member]) -> None:
        """Of these, messages before the first that comes need not come."""
        for member in members:
            self.tracks.setdefault(member, Track()).late = True

    def configuration(self, configuration: Configuration) -> None:
        """Remember who is elsewhere: what they send there is not for this receiver."""
        for member, track in self.tracks.items():
            if member.node not in configuration.members:
                track.away = True


def fault_sentence(faults: dict[str, int]) -> str:
    """What was wrong, in words; empty if nothing was."""
    found = [f"{count:,} {name}" for name, count in faults.items() if count]
    return f"messages were not delivered as they were sent: {', '.join(found)}" if found else ""

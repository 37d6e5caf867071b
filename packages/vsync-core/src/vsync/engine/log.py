"""The log of one ring: its frames by sequence number, and what of them may be delivered.

Totem's sort queue (TOCS 1995, section 4), with all four guarantees. Agreed and safe messages share
one order; a safe message that is not known to be everywhere holds back all that stands behind it.
Unordered and FIFO messages overtake.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from vsync.engine.streams import ControlReader, Ordered, Reader, Stream, stream_key
from vsync.vocabulary import Configuration, Guarantee, NodeId, RingId
from vsync.wire.data import CONTROL_LANE, Data, Packets, Part, Recovered

AHEAD_MAX: Final = 2**16
"""A sequence number further than this beyond what was released is not believed."""

PARTIALS_MAX: Final = 1024
"""Frames of which some parts are here and some are not, at most; those of the highest ones are
dropped if there are more."""

ALL_PARTS: Final = 2**64 - 1
"""Asks for a frame of which nothing is here."""


# Numbers, not members of the enum, where every frame is compared.
_AGREED: Final = int(Guarantee.AGREED)
_SAFE: Final = int(Guarantee.SAFE)


@dataclass(slots=True)
class Partial:
    """A frame of which some parts are here."""

    packets: list[bytes | memoryview | None]
    like: tuple[int, int, int, int, int]  #: type, checksum, sender, life and number of parts
    missing: int  #: how many parts are not here


class Log:
    """Frames of one ring, received or sent; what was delivered of them and what all have."""

    def __init__(self, ring: RingId, reader: Reader, control_reader: ControlReader) -> None:
        self.ring = ring
        self._frames: dict[int, Data | Recovered] = {}
        self._partials: dict[int, Partial] = {}
        self._streams: dict[int, Stream] = {}
        self._fresh: list[Data] = []
        self._reader = reader
        self._control_reader = control_reader
        self.aru = 0
        """All frames up to this number were received."""
        self.high = 0
        """The highest number received."""
        self.delivered = 0
        """The ring's order was delivered up to this number."""
        self.stable = 0
        """Every member has all frames up to this number."""
        self.released = 0
        """Frames up to this number were forgotten."""
        self.held_packets = 0
        """Packets of the frames that were not."""

    def add_part(self, part: Part) -> Packets | None:
        """Take in a part of a frame of this ring; all packets of the frame if none is missing now.

        None: others are missing, or it is known already or beyond belief.
        """
        seq = part.seq
        if not self._wants(seq):
            return None
        if len(part.packets) == part.parts:
            return part.packets
        like = (part.type, part.checksum, part.sender, part.life, part.parts)
        partial = self._partials.get(seq)
        if partial is None or partial.like != like:  # the newer is right, should they be at odds
            if partial is None and len(self._partials) >= PARTIALS_MAX:
                # The lowest are what all others wait for.
                highest = max(self._partials)
                if seq > highest:
                    return None
                del self._partials[highest]
            partial = self._partials[seq] = Partial([None] * part.parts, like, part.parts)
        elif partial.packets[part.part] is not None:
            return None
        partial.packets[part.part] = part.packets[0]
        partial.missing -= 1
        if partial.missing:
            return None
        del self._partials[seq]
        return [packet for packet in partial.packets if packet is not None]

    def _wants(self, seq: int) -> bool:
        """A frame of that number is not here, and may be believed."""
        return self.released < seq <= self.released + AHEAD_MAX and seq not in self._frames

    def add(self, frame: Data | Recovered) -> bool:
        """Take in a frame of this ring; False if it is known already or beyond belief."""
        seq = frame.seq
        if not self._wants(seq):
            return False
        self._frames[seq] = frame
        self.held_packets += len(frame.packets)
        if self._partials:
            self._partials.pop(seq, None)
        if type(frame) is Data and frame.guarantee < _AGREED:
            self._fresh.append(frame)
        if seq > self.high:
            self.high = seq
        if seq == self.aru + 1:
            frames = self._frames
            while seq + 1 in frames:
                seq += 1
            self.aru = seq
        return True

    def held_packets_to(self, seq: int) -> int:
        """Packets of the frames up to *seq* that were not forgotten.

        Those beyond what the token has counted were made up by somebody, and keep nobody waiting.
        """
        if self.high <= seq:
            return self.held_packets
        frames = self._frames
        return self.held_packets - sum(
            len(frames[beyond].packets)
            for beyond in range(max(seq, self.released) + 1, self.high + 1)
            if beyond in frames
        )

    def safe_above(self, seq: int) -> bool:
        """A frame above *seq* is safe."""
        frames = self._frames
        return any(
            type(frame := frames.get(number)) is Data and frame.guarantee == _SAFE
            for number in range(seq + 1, self.high + 1)
        )

    def packets(self, seq: int) -> Packets:
        """The packets of that frame, to be sent again; empty if it is not here."""
        frame = self._frames.get(seq)
        return () if frame is None else frame.packets

    def missing(self, up_to: int, count_max: int) -> dict[int, int]:
        """Frames up to *up_to* that were not received: the lowest *count_max* of them.

        With each, which of its parts: bit 0 for the first.
        """
        missing: dict[int, int] = {}
        for seq in range(self.aru + 1, up_to + 1):
            if seq not in self._frames:
                if len(missing) == count_max:
                    break
                missing[seq] = self._missing_parts(seq)
        return missing

    def _missing_parts(self, seq: int) -> int:
        partial = self._partials.get(seq)
        if partial is None:
            return ALL_PARTS
        return sum(1 << part for part, packet in enumerate(partial.packets) if packet is None)

    def held_above(self, seq: int) -> list[Data]:
        """The data frames held above *seq*, in order: what recovery exchanges."""
        return [
            frame
            for number in range(seq + 1, self.high + 1)
            if type(frame := self._frames.get(number)) is Data
        ]

    def settle(self, stable: int) -> None:
        """Every member has all frames up to *stable*."""
        self.stable = max(self.stable, min(stable, self.aru))

    def release(self) -> None:
        """Forget what everyone has and was delivered here."""
        upto = min(self.stable, self.delivered)
        if upto <= self.released:
            return
        frames = self._frames
        for seq in range(self.released + 1, upto + 1):
            self.held_packets -= len(frames.pop(seq).packets)
        self.released = upto

    @property
    def undelivered(self) -> bool:
        """There may be something to deliver."""
        return bool(self._fresh) or self.delivered < self.aru

    def deliver(self, configuration: Configuration) -> list[Ordered]:
        """All that may be delivered now, in a regular configuration."""
        out: list[Ordered] = []
        self._deliver_early(configuration, out)
        self._deliver_ordered(configuration, self.stable, out)
        return out

    def deliver_rest(self, configuration: Configuration, delivered_by_any: int) -> list[Ordered]:
        """After the exchange: what still belongs to the old regular configuration.

        That is everything up to the first gap, and up to the first safe message that nobody can
        have delivered (*delivered_by_any* is the highest number that anyone delivered).
        """
        out: list[Ordered] = []
        self._deliver_early(configuration, out)
        self._deliver_ordered(configuration, delivered_by_any, out)
        return out

    def deliver_transitional(
        self, configuration: Configuration, owed: AbstractSet[NodeId]
    ) -> list[Ordered]:
        """What is left, in the transitional configuration.

        Beyond the first gap, messages of senders outside *owed* are dropped, since they may depend
        on one that is lost.
        """
        out: list[Ordered] = []
        for seq in range(self.delivered + 1, self.high + 1):
            frame = self._frames.get(seq)
            if type(frame) is not Data or frame.guarantee < Guarantee.AGREED:
                continue
            if seq <= self.aru or frame.sender in owed:
                self._stream(frame).ordered(frame, configuration, out)
        self.delivered = self.high
        return out

    def _deliver_early(self, configuration: Configuration, out: list[Ordered]) -> None:
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            for frame in fresh:
                self._stream(frame).arrived(frame, configuration, out)

    def _deliver_ordered(
        self, configuration: Configuration, safe_up_to: int, out: list[Ordered]
    ) -> None:
        frames, streams = self._frames, self._streams
        seq, aru = self.delivered, self.aru
        while seq < aru:
            frame = frames[seq + 1]
            if type(frame) is Data and frame.guarantee >= _AGREED:
                if frame.guarantee == _SAFE and seq >= safe_up_to:
                    break
                stream = streams.get(stream_key(frame.sender, frame.lane)) or self._stream(frame)
                stream.ordered(frame, configuration, out)
            seq += 1
        self.delivered = seq

    def _stream(self, frame: Data) -> Stream:
        key = stream_key(frame.sender, frame.lane)
        stream = self._streams.get(key)
        if stream is None:
            reader = self._control_reader if frame.lane == CONTROL_LANE else self._reader
            stream = self._streams[key] = Stream(reader)
        return stream

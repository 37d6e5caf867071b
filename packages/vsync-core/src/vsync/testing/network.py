"""A network in virtual time: it loses, repeats, delays and reorders packets, all from one seed.

Addresses are host numbers; where hosts are wired (see ``wiring``), a ``Link``. What every path
does to packets is in ``Conditions``; which paths carry nothing is in ``cuts``; and ``Rule`` picks
single frames out, by the type byte of their header.
"""

import heapq
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from vsync.transport import Arrival, Burst, Packet, Train
from vsync.wire.header import FrameType

if TYPE_CHECKING:
    from vsync.testing.wiring import Sending

TYPE_OFFSET: Final = 3
"""Where a packet's header has its frame type."""

PACKET_OVERHEAD_BYTES: Final = 256
"""What a waiting packet takes of a receive buffer beyond its own bytes, as kernels count."""

RECORDED_SHARE: Final = 0.02
RECORDED_MAX: Final = 500
"""What somebody who attacks records of all packets, and sends again."""

NEVER: Final = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What every path does to packets. Times in seconds, shares from 0 to 1."""

    latency_min_s: float = 0.0001
    latency_max_s: float = 0.0004
    """Drawn for each packet, so that packets overtake each other."""
    loss: float = 0.0
    duplication: float = 0.0
    spikes: float = 0.0
    """Share of packets that take up to ``spike_s`` longer."""
    spike_s: float = 0.02


class Link(NamedTuple):
    """The address of a host on one of several networks, which are all in one ``Network``."""

    number: int
    host: int
    port: int = 0
    """Another one each time the link is opened."""


class Action(Enum):
    """What a rule does with the packets it picks."""

    DROP = auto()
    REPEAT = auto()  #: deliver it, and a second time a little later
    DELAY = auto()  #: deliver it ``delay_s`` later


@dataclass(slots=True, kw_only=True)
class Rule:
    """Picks the next *count* packets that fit; ``None`` fits all."""

    action: Action
    frame: FrameType | None = None
    sender: int | None = None
    receiver: int | None = None
    count: int = 1
    delay_s: float = 0.01

    def fits(self, packet: bytes, sender: int, receiver: int) -> bool:
        """Whether this rule is about that packet."""
        return (
            (self.frame is None or packet[TYPE_OFFSET] == self.frame)
            and self.sender in (None, sender)
            and self.receiver in (None, receiver)
        )


@dataclass(slots=True)
class Inbox:
    """One host's receive buffer."""

    bytes_max: int
    packets: deque[Packet] = field(default_factory=deque)
    held_bytes: int = 0
    overflowed: int = 0

    def put(self, packet: Packet) -> None:
        """Queue it, or lose it if the buffer is full."""
        size = len(packet.data) + PACKET_OVERHEAD_BYTES
        if self.held_bytes + size > self.bytes_max:
            self.overflowed += 1
            return
        self.held_bytes += size
        self.packets.append(packet)

    def take(self, most: int) -> list[Packet]:
        """The oldest packets."""
        taken = [self.packets.popleft() for _ in range(min(most, len(self.packets)))]
        self.held_bytes -= sum(len(packet.data) + PACKET_OVERHEAD_BYTES for packet in taken)
        return taken

    def take_joined(self, most: int) -> list[Arrival]:
        """The oldest packets, those of one source and size in one piece, as a kernel gives them.

        A shorter one may end a piece. What is in a piece is not looked at.
        """
        pieces: list[list[Packet]] = []
        for packet in self.take(most):
            piece = pieces[-1] if pieces else None
            if (
                piece is not None
                and packet.source == piece[0].source
                and len(packet.data) <= len(piece[0].data) == len(piece[-1].data)
            ):
                piece.append(packet)
            else:
                pieces.append([packet])
        return [
            piece[0]
            if len(piece) == 1
            else (
                Train(b"".join([packet.data for packet in piece]), len(piece[0].data)),
                piece[0].source,
            )
            for piece in pieces
        ]

    def clear(self) -> None:
        """Lose all that waits: the host died."""
        self.packets.clear()
        self.held_bytes = 0


class Network:
    """Carries packets between hosts. All times are virtual seconds."""

    def __init__(self, random: Random, receive_buffer_bytes: int) -> None:
        self.conditions = Conditions()
        self.cuts: set[tuple[int, int]] = set()
        """Paths that carry nothing, each as (from, to)."""
        self.lossy: dict[int, float] = {}
        """Links that lose packets besides, and which share of them."""
        self.ports: dict[tuple[int, int], int | None] = {}
        """By link and host, where a link was closed: None, or the port it has since."""
        self.attacked = False
        """Somebody records packets and sends them again, whole or spoiled; for sealed ones."""
        self.rules: list[Rule] = []
        self.inboxes: dict[int, Inbox] = {}
        self.latest: dict[tuple[int, FrameType], bytes] = {}
        """The last packet of each type that each host sent."""
        self._random = random
        self._receive_buffer_bytes = receive_buffer_bytes
        self._flying: list[tuple[float, int, Link, int, bytes]] = []
        self._recorded: deque[tuple[bytes, Link]] = deque(maxlen=RECORDED_MAX)
        self._sent = 0

    def attach(self, host: int) -> Inbox:
        """Give *host* a place on the network."""
        self.inboxes[host] = inbox = Inbox(self._receive_buffer_bytes)
        return inbox

    # --- faults ---------------------------------------------------------------------------------

    def cut(self, sender: int, receiver: int) -> None:
        """From now on nothing that *sender* sends reaches *receiver*."""
        self.cuts.add((sender, receiver))

    def partition(self, *sides: Collection[int]) -> None:
        """Cut every path between different sides; hosts on no side are one more side.

        Paths that were cut before stay cut, so partitions overlap.
        """
        side_of = {host: number for number, side in enumerate(sides, 1) for host in side}
        for sender in self.inboxes:
            for receiver in self.inboxes:
                if side_of.get(sender, 0) != side_of.get(receiver, 0):
                    self.cuts.add((sender, receiver))

    def heal(self) -> None:
        """Every path carries everything again; conditions and rules are gone."""
        self.cuts.clear()
        self.lossy.clear()
        self.rules.clear()
        self.conditions = Conditions()

    # --- packets --------------------------------------------------------------------------------

    def send(self, sender: int, burst: Burst, now: float) -> None:
        """Take a burst over; packets to everyone do not come back to their sender."""
        receivers: Iterable[int]
        if burst.destination is None:
            receivers = [host for host in self.inboxes if host != sender]
        else:
            assert isinstance(burst.destination, int)
            receivers = [burst.destination]
        for data in burst.packets:
            packet = bytes(data)
            self.latest[sender, FrameType(packet[TYPE_OFFSET])] = packet
            for receiver in receivers:
                if (sender, receiver) not in self.cuts:
                    self._carry(packet, packet, Link(0, sender), receiver, now)

    def send_wired(self, sender: int, sending: "Sending", now: float) -> None:
        """As ``send``, for a host that is wired."""
        link, burst, seen = sending
        receivers: Iterable[int]
        if burst.destination is None:
            receivers = [host for host in self.inboxes if host != sender]
        else:
            to = burst.destination
            assert isinstance(to, Link)
            receivers = [to.host] if self.ports.get((link, to.host), 0) == to.port else []
        source = Link(link, sender, self.ports.get((link, sender), 0) or 0)
        for data, shown in zip(burst.packets, seen, strict=True):
            plain, packet = bytes(data), bytes(shown)
            if self.attacked:
                self._attack(packet, source, now)
            for receiver in receivers:
                loss = self.lossy.get(link, 0.0)
                if (sender, receiver) in self.cuts or (loss and self._random.random() < loss):
                    continue
                self._carry(plain, packet, source, receiver, now)

    def _attack(self, packet: bytes, source: Link, now: float) -> None:
        """Record a packet; or send one that was recorded to somebody, as it was or spoiled."""
        dice = self._random.random()
        if dice < RECORDED_SHARE:
            self._recorded.append((packet, source))
        elif dice < 2 * RECORDED_SHARE and self._recorded:
            packet, source = self._random.choice(self._recorded)
            place = self._random.randrange(len(packet))
            match self._random.randrange(3):
                case 0:
                    packet = packet[:place] + bytes([packet[place] ^ 0x10]) + packet[place + 1 :]
                case 1:
                    packet = packet[:place]
            receiver = self._random.choice(list(self.inboxes))
            number = self._random.choice((source.number, 3 - source.number))
            self._fly(packet, Link(max(number, 1), source.host), receiver, now)

    def inject(self, packet: bytes, sender: int, receiver: int, now: float) -> None:
        """Send any bytes, past all faults."""
        self._fly(packet, Link(0, sender), receiver, now + self.conditions.latency_min_s)

    def next_arrival(self) -> float:
        """When the next packet arrives; infinity if none flies."""
        return self._flying[0][0] if self._flying else NEVER

    def arrive(self, now: float) -> list[int]:
        """Put what has arrived by *now* into the receive buffers; whose."""
        receivers: list[int] = []
        while self._flying and self._flying[0][0] <= now:
            _, _, source, receiver, packet = heapq.heappop(self._flying)
            inbox = self.inboxes.get(receiver)
            if inbox is not None:
                inbox.put(Packet(packet, source if source.number else source.host))
                receivers.append(receiver)
        return receivers

    def _carry(self, plain: bytes, packet: bytes, source: Link, receiver: int, now: float) -> None:
        """Carry *packet*, which rules see as *plain*."""
        random, conditions = self._random, self.conditions
        copies = 1
        delay_s = 0.0
        rule = next((rule for rule in self.rules if rule.fits(plain, source.host, receiver)), None)
        if rule is not None:
            rule.count -= 1
            if rule.count <= 0:
                self.rules.remove(rule)
            match rule.action:
                case Action.DROP:
                    return
                case Action.REPEAT:
                    copies = 2
                case Action.DELAY:
                    delay_s = rule.delay_s
        if conditions.loss and random.random() < conditions.loss:
            return
        if conditions.duplication and random.random() < conditions.duplication:
            copies += 1
        for _ in range(copies):
            latency_s = delay_s + random.uniform(conditions.latency_min_s, conditions.latency_max_s)
            if conditions.spikes and random.random() < conditions.spikes:
                latency_s += random.uniform(0, conditions.spike_s)
            self._fly(packet, source, receiver, now + latency_s)

    def _fly(self, packet: bytes, source: Link, receiver: int, arrives_at: float) -> None:
        self._sent += 1
        heapq.heappush(self._flying, (arrives_at, self._sent, source, receiver, packet))

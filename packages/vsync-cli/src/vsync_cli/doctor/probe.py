"""Probes: what doctors on several hosts say to each other, and what they learn by it. Sans-IO.

Everyone says hello to everyone some times a second, now and then in a long packet, and
answers each other one alone. Both tell what was heard of whom, so that each knows both directions.
Nodes of rings on the same network drop and count such packets as garbage.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any, Final

from vsync.transport import EVERYONE, Address, Burst, Packet
from vsync.vocabulary import NodeId

MAGIC: Final = b"VD1 "
INTERVAL_S: Final = 0.05
LONG_EVERY: Final = 4
LENGTHS: Final = (8972, 4072, 1472, 1422, 1392, 1252, 1004, 548)
"""What UDP over IPv4 carries at the MTUs of jumbo frames, Ethernet, VXLAN, WireGuard and the least
of IPv6 and IPv4, and some between."""
PEERS_MAX: Final = 64
ROUNDS_MAX: Final = 10_000
TEXT_BYTES_MAX: Final = 60_000


def shorts(number: int) -> int:
    """How many of the probes 1 to *number* are short."""
    return number - number // LONG_EVERY


def length(number: int, most: int) -> int:
    """How long a long probe is: every other one as long as the ring's packets, the others as long
    as what may still pass where those do not."""
    turn, other = divmod(number // LONG_EVERY, 2)
    shorter = [each for each in LENGTHS if each < most]
    return shorter[turn % len(shorter)] if other == 0 and shorter else most


@dataclass(slots=True)
class Way:
    """What came of one peer, to everyone or to us alone. Only short probes are counted: that long
    ones do not come says something of lengths, not of losses."""

    first: int = 0
    last: int = 0
    came: int = 0

    def count(self, number: int) -> None:
        """Note the probe of that number."""
        if number % LONG_EVERY == 0:
            return
        if not self.came:
            self.first = number
        self.last = max(self.last, number)
        self.came += 1

    @property
    def loss(self) -> float | None:
        """Which part did not come; None if too little came to say."""
        sent = shorts(self.last) - shorts(self.first - 1)
        return None if self.came < 5 else max(0.0, 1.0 - self.came / sent)


@dataclass(slots=True)
class Peer:
    """Another doctor."""

    node: int
    run: str
    address: Address
    ring: Mapping[str, Any] = field(default_factory=dict)
    to_all: Way = field(default_factory=Way)
    to_us: Way = field(default_factory=Way)
    longest: int = 0
    """The longest packet that came."""
    rounds_s: list[float] = field(default_factory=list)
    echo: tuple[float, float] | None = None
    """Its last time stamp, and when that came."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """What it heard of us."""
    skew_s: float | None = None
    """How far its wall clock is ahead of ours, about."""

    def report(self) -> dict[str, Any]:
        """What it is told of what we heard of it."""
        return {
            "all": self.to_all.loss,
            "all_came": self.to_all.came,
            "us": self.to_us.loss,
            "us_came": self.to_us.came,
            "longest": self.longest,
        }

    def round_trips(self) -> tuple[float, float, float] | None:
        """Median, 99 % and maximum, in seconds."""
        if len(self.rounds_s) < 2:
            return None
        cuts = quantiles(self.rounds_s, n=100, method="inclusive")
        return cuts[49], cuts[98], max(self.rounds_s)


class Prober:
    """One doctor's side. *now* is monotonic, *clock* the time of day, both in seconds."""

    def __init__(
        self, node: NodeId, run: str, name: str, ring: Mapping[str, Any], packet_bytes_max: int
    ) -> None:
        self.peers: dict[str, Peer] = {}
        """By their runs."""
        self.dropped = 0
        self.others: set[str] = set()
        """Names of other rings whose doctors were heard."""
        self.node = node
        self._run = run
        self._name = name
        self._ring = ring
        self.packet_bytes_max = packet_bytes_max
        self._number = 0

    def speak(self, now: float, clock: float) -> Iterator[Burst]:
        """What is to be sent now."""
        self._number += 1
        yield Burst(EVERYONE, [self._build(True, None, now, clock)])
        for peer in self.peers.values():
            yield Burst(peer.address, [self._build(False, peer, now, clock)])

    def _build(self, to_all: bool, peer: Peer | None, now: float, clock: float) -> bytes:
        heard = self.peers.values() if peer is None else [peer]
        fields: dict[str, Any] = {
            "node": self.node,
            "run": self._run,
            "name": self._name,
            "number": self._number,
            "to_all": to_all,
            "sent": now,
            "clock": clock,
            "heard": {each.run: each.report() for each in heard},
            "echoes": {each.run: [each.echo[0], now - each.echo[1]] for each in heard if each.echo},
        }
        if self._number % 2:
            fields["ring"] = self._ring
        packet = seal(fields)
        for name in ("ring", "echoes", "heard"):
            if len(packet) > self.packet_bytes_max:  # rather say less than not at all
                fields.pop(name, None)
                packet = seal(fields)
        if self._number % LONG_EVERY == 0:
            packet += b" " * (length(self._number, self.packet_bytes_max) - len(packet))
        return packet

    def hear(self, packets: Sequence[Packet], now: float, clock: float) -> None:
        """Take in what came. Never raises, whatever it is."""
        for packet in packets:
            fields = opened(packet.data)
            if fields is None:
                self.dropped += 1
                continue
            if fields["run"] == self._run:
                continue
            if fields["name"] != self._name:
                if len(self.others) < PEERS_MAX:
                    self.others.add(fields["name"])
                continue
            self._take(fields, packet, now, clock)

    def _take(self, fields: Mapping[str, Any], packet: Packet, now: float, clock: float) -> None:
        run = fields["run"]
        peer = self.peers.get(run)
        if peer is None:
            if len(self.peers) >= PEERS_MAX:
                return
            peer = self.peers[run] = Peer(fields["node"], run, packet.source)
        peer.address = packet.source
        (peer.to_all if fields["to_all"] else peer.to_us).count(fields["number"])
        peer.longest = max(peer.longest, len(packet.data))
        peer.echo = (fields["sent"], now)
        peer.ring = fields.get("ring") or peer.ring
        peer.said = fields["heard"].get(self._run) or peer.said
        echo = fields["echoes"].get(self._run)
        if echo is not None and len(peer.rounds_s) < ROUNDS_MAX:
            round_s = now - echo[0] - echo[1]
            if round_s > 0:
                peer.rounds_s.append(round_s)
                peer.skew_s = fields["clock"] + round_s / 2 - clock


def seal(fields: Mapping[str, Any]) -> bytes:
    """The packet of *fields*."""
    body = json.dumps(fields, separators=(",", ":")).encode()
    return MAGIC + zlib.crc32(body).to_bytes(4) + len(body).to_bytes(4) + body


def opened(packet: bytes | memoryview) -> dict[str, Any] | None:
    """What a packet says; None if it is no probe."""
    data = bytes(packet)
    size = int.from_bytes(data[8:12])
    body = data[12 : 12 + size]
    if data[:4] != MAGIC or size > TEXT_BYTES_MAX or len(body) != size:
        return None
    if zlib.crc32(body) != int.from_bytes(data[4:8]):
        return None
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    fields.setdefault("heard", {})
    fields.setdefault("echoes", {})
    return fields if _sound(fields) else None


def _sound(fields: Mapping[str, Any]) -> bool:
    """Whether all fields are what they should be: anyone may have sent them."""
    numbers = all(_is_number(fields.get(name)) for name in ("sent", "clock"))
    texts = all(
        isinstance(fields.get(name), str) and len(fields[name]) <= 200 for name in ("run", "name")
    )
    return (
        numbers
        and texts
        and isinstance(fields.get("to_all"), bool)
        and all(
            type(fields.get(name)) is int and 0 < fields[name] < 2**32
            for name in ("node", "number")
        )
        and isinstance(fields.get("ring", {}), dict)
        and isinstance(fields["heard"], dict)
        and all(_is_report(report) for report in fields["heard"].values())
        and isinstance(fields["echoes"], dict)
        and all(
            isinstance(echo, list) and len(echo) == 2 and all(map(_is_number, echo))
            for echo in fields["echoes"].values()
        )
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _is_report(report: object) -> bool:
    return (
        isinstance(report, dict)
        and all(report.get(name) is None or _is_number(report[name]) for name in ("all", "us"))
        and all(_is_number(report.get(name)) for name in ("all_came", "us_came", "longest"))
    )

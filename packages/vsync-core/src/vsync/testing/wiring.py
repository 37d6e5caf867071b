"""Wiring: what stands between a simulated node's engine and the network: seals, several links."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from vsync.keys import Key, KeyRing
from vsync.links import Links, Manner, Mode
from vsync.seal import OVERHEAD_BYTES, Guard, Stamp
from vsync.testing.network import Link
from vsync.transport import Arrival, Burst, Station

KEY: Final = Key(bytes(range(32)))
"""That of all simulated rings that have one; nobody else needs it."""


class Wires(NamedTuple):
    """How the nodes of a cluster are connected."""

    links: int = 1
    mode: Mode = Mode.PASSIVE
    sealed: bool = False

    @property
    def plain(self) -> bool:
        """Engines are on the network as they are."""
        return self.links == 1 and not self.sealed


PLAIN: Final = Wires()


class Sending(NamedTuple):
    """A burst on its way onto one link: as it is, and as it is seen there."""

    link: int
    burst: Burst
    seen: Sequence[bytes | memoryview]


class Wiring:
    """That of one life of one node. Addresses are ``Link``."""

    def __init__(
        self,
        wires: Wires,
        station: Station,
        packet_bytes_max: int,
        now: float,
        keys: KeyRing | None = None,
    ) -> None:
        self.packet_bytes_max = packet_bytes_max - (OVERHEAD_BYTES if wires.sealed else 0)
        self._links: Links | None = None
        numbers = range(1, wires.links + 1)
        if wires.links > 1:
            manner = replace(Manner(), mode=wires.mode)
            self._links = Links(station, manner=manner, now=now)
            self._links.packet_bytes_max = self.packet_bytes_max
            for number in numbers:
                self._links.add(number, now)
        self._station = station
        self._keys = (keys or KeyRing(KEY)) if wires.sealed else None
        self._guards: dict[int, Guard] = {}
        self._openings = 0
        for link in numbers:
            self._guard(link)

    def _guard(self, link: int) -> None:
        """Begin another stream of sealed packets on *link*, if there are seals."""
        station = self._station
        if self._keys is not None:
            self._openings += 1
            stamp = Stamp(station.node, station.instance, station.life, self._openings)
            self._guards[link] = Guard(self._keys, stamp, link=link)

    def close(self, link: int) -> bool:
        """Use *link* no more; False: it is the last one, and goes on."""
        if self._links is None or link not in self._links.links or len(self._links.links) < 2:
            return False
        self._links.remove(link)
        return True

    def open(self, link: int, now: float) -> None:
        """Use *link* again, which was closed."""
        assert self._links is not None
        self._guard(link)
        self._links.add(link, now)

    def send(self, burst: Burst) -> Iterator[Sending]:
        """What *burst* becomes on the links."""
        parts = [(1, burst)] if self._links is None else self._links.send(burst)
        for link, part in parts:
            yield self._sealed(link, part)

    def hellos(self, now: float) -> Iterator[Sending]:
        """What the links themselves have to say."""
        if self._links is not None:
            self._links.handle_timeout(now)
            for link, hello in self._links.take_hellos():
                yield self._sealed(link, hello)

    def _sealed(self, link: int, burst: Burst) -> Sending:
        guard = self._guards.get(link)
        seen = burst.packets if guard is None else guard.seal_burst(burst).packets
        return Sending(link, burst, seen)

    def arrived(self, arrivals: Sequence[Arrival], now: float) -> Sequence[Arrival]:
        """What of *arrivals* the engine is to see."""
        found: list[Arrival] = []
        for arrival in arrivals:
            _, source = arrival
            assert isinstance(source, Link)
            number = source.number
            if self._links is not None and number not in self._links.links:
                continue  # it is closed
            guard = self._guards.get(number)
            opened = [arrival] if guard is None else guard.open_arrivals([arrival])
            if self._links is not None:
                opened = self._links.arrived(number, opened, now)
            found += opened
        if self._links is not None:
            self._links.look(now)
        return found

    def poll_timeout(self) -> float:
        """When ``hellos`` is to be called."""
        return float("inf") if self._links is None else self._links.poll_timeout()

"""Links: what goes on which link, and what came twice.

As the Totem Redundant Ring Protocol (Koch, Moser, Melliar-Smith, ICDCS 2002), with two changes.
Everything but data goes on *all* good links in every mode: tokens are few and small, and one that
does not depend on a single link needs no timer. And a link's faults are not guessed from counts of
tokens: nodes say hello on each link and tell whom they hear, so both directions are known.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from vsync.errors import MalformedPacket
from vsync.links.hello import (
    Heard,
    Hello,
    build_hello,
    is_hello,
    parse_hello,
)
from vsync.links.quality import Hearing, LinkState, Quality
from vsync.train import Train
from vsync.transport import EVERYONE, Address, Arrival, Burst, Packet, Station
from vsync.vocabulary import NodeId
from vsync.wire.header import IN_PARTS

TYPE_AT: Final = 3
"""Where a packet of the ring has its type; see ``wire.header``."""

COPIES_KEPT: Final = 512
"""Packets that are remembered to know their copies by."""

NODES_MAX: Final = 255
"""Other nodes that are followed; of more, hellos are ignored."""

HELLOS_MISSED: Final = 3
"""A node is not heard any more after so many intervals without its hello."""

RELAPSE_S: Final = 10.0
"""A link that becomes faulty again within this time has to wait longer the next time."""

PATIENCE_MAX_S: Final = 60.0


class Mode(StrEnum):
    """What becomes of data on several good links. The rest goes on all of them."""

    ACTIVE = "active"  #: on every link: losses of one link are not noticed
    PASSIVE = "passive"  #: on one link after the other: their capacities add up
    ACTIVE_PASSIVE = "active-passive"  #: on some links, others with each burst
    FASTEST = "fastest"  #: on the link with the shortest round trip


class Path(NamedTuple):
    """Where a packet came from: the address that one link gave it."""

    link: int
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How links are used. *copies* is for ``ACTIVE_PASSIVE``."""

    mode: Mode = Mode.PASSIVE
    copies: int = 2
    hello_s: float = 0.1
    loss_max: float = 0.1
    recover_s: float = 0.5


class Links:
    """All links of one node. *now* is seconds of one monotonic clock, in every method."""

    def __init__(
        self,
        station: Station,
        *,
        manner: Manner,
        now: float,
    ) -> None:
        self._node, self._life, self._network = station
        self._manner = manner
        self.links: dict[int, Quality] = {}
        self._nodes_of: dict[Path, NodeId] = {}
        """Who was heard at an address."""
        self._reaches: dict[NodeId, tuple[float, int, int]] = {}
        """What each node said last: when, on which links it hears us, which it uses."""
        self._turn = 0
        self._copies: OrderedDict[bytes, dict[int, int]] = OrderedDict()
        self._outgoing: list[tuple[int, Burst]] = []
        self._hello_at = now
        self._news: list[str] = []
        self.counters: dict[str, int] = {}

    # --- links come and go ----------------------------------------------------------------------

    def add(self, number: int, now: float) -> None:
        """There is a link of that number from now on."""
        self.links[number] = Quality(number, since=now, patience_s=self._manner.recover_s)

    def remove(self, number: int) -> None:
        """There is no such link any more."""
        del self.links[number]
        self._nodes_of = {
            path: node for path, node in self._nodes_of.items() if path.link != number
        }

    # --- sending --------------------------------------------------------------------------------

    def send(self, burst: Burst) -> list[tuple[int, Burst]]:
        """Which links *burst* goes on, and as what."""
        links = self._usable()
        if not links:
            return []
        if _is_data(burst.packets):
            links = self._share(links)
        if burst.destination is EVERYONE:
            return [(link.number, burst) for link in links]
        return self._to_one(burst, links)

    def _usable(self) -> list[Quality]:
        """All good links; if there are none, all, since there is nothing to lose."""
        links = list(self.links.values())
        good = [link for link in links if link.state is not LinkState.FAULTY]
        return good or links

    def _share(self, links: list[Quality]) -> list[Quality]:
        """Those of *links* that carry the next burst of data."""
        match self._manner.mode:
            case Mode.ACTIVE:
                return links
            case Mode.FASTEST:
                # Who is not measured yet comes last; the number decides between equals.
                return [min(links, key=lambda link: (link.round_s or 1e9, link.number))]
            case Mode.PASSIVE:
                count = 1
            case Mode.ACTIVE_PASSIVE:
                count = min(self._manner.copies, len(links))
        self._turn += 1
        first = self._turn % len(links)
        return [*links[first:], *links[:first]][:count]

    def _to_one(self, burst: Burst, links: list[Quality]) -> list[tuple[int, Burst]]:
        path = burst.destination
        assert isinstance(path, Path)
        node = self._nodes_of.get(path)
        sent = []
        if node is not None:
            for link in links:
                hearing = link.hearing.get(node)
                if hearing is not None:
                    sent.append((link.number, Burst(hearing.address, burst.packets)))
        if not sent and path.link in self.links:  # it has not said hello yet
            sent.append((path.link, Burst(path.address, burst.packets)))
        return sent

    # --- receiving ------------------------------------------------------------------------------

    def arrived(
        self, number: int, arrivals: Sequence[Packet | Arrival], now: float
    ) -> list[Packet | Arrival]:
        """What of that which came on a link the ring is to see."""
        seen: list[Packet | Arrival] = []
        for arrival in arrivals:
            data = arrival.data
            if not isinstance(data, Train):
                if is_hello(data):
                    self._hear(number, data, arrival.source, now)
                    continue
                if not _is_part(data) and not self._is_first(number, bytes(data)):
                    self._count("copies_dropped")
                    continue
            seen.append(arrival._replace(source=Path(number, arrival.source)))
        return seen

    def _is_first(self, number: int, packet: bytes) -> bool:
        """Whether *packet* came on no other link before; sent again on one, it is new again."""
        counts = self._copies.get(packet)
        if counts is None:
            counts = self._copies[packet] = {}
            if len(self._copies) > COPIES_KEPT:
                self._copies.popitem(last=False)
        most = max(counts.values(), default=0)
        counts[number] = counts.get(number, 0) + 1
        return counts[number] > most

    def _hear(self, number: int, packet: bytes | memoryview, source: Address, now: float) -> None:
        try:
            hello = parse_hello(packet)
        except MalformedPacket as error:
            self._count(f"hellos_dropped_{error.reason}")
            return
        if hello.network != self._network:
            self._count("hellos_dropped_other_ring")
            return
        if hello.node == self._node:
            return
        if hello.link != number:
            self._count("hellos_on_another_link")
            return
        link = self.links[number]
        hearing = link.hearing.get(hello.node)
        if hearing is None or hearing.life != hello.life:
            if hearing is None and len(link.hearing) >= NODES_MAX:
                self._count("hellos_dropped_too_many")
                return
            hearing = Hearing(source, hello.life, hello.counter, now)
            link.hearing[hello.node] = hearing
        elif hello.counter <= hearing.counter:
            self._count("hellos_dropped_repeated")
            return
        else:
            hearing.count(1, hello.counter - hearing.counter - 1)
        if hearing.address != source:
            self._nodes_of.pop(Path(number, hearing.address), None)
        hearing.address, hearing.counter = source, hello.counter
        hearing.heard_at, hearing.echo_us = now, hello.sent_us
        self._nodes_of[Path(number, source)] = hello.node
        ours = hello.heard.get(self._node)
        self._reaches[hello.node] = (now, 0 if ours is None else ours.links, hello.used)
        if ours is not None and ours.echo_us:
            round_us = _us(now) - ours.echo_us - ours.held_us
            if round_us > 0:
                hearing.measure(round_us / 1e6)

    # --- time -----------------------------------------------------------------------------------

    def poll_timeout(self) -> float:
        """When ``handle_timeout`` is to be called."""
        return self._hello_at

    def handle_timeout(self, now: float) -> None:
        """Look at all links, and say hello on each."""
        if now < self._hello_at:
            return
        self._hello_at = max(self._hello_at + self._manner.hello_s, now)
        self._forget(now)
        self._judge(now)
        used = sum(link.mask for link in self._usable())
        heard_on = self._heard_on(now)
        for link in self.links.values():
            link.counter += 1
            heard = {
                node: Heard(
                    mask,
                    *(
                        (hearing.echo_us, _us(now - hearing.heard_at))
                        if (hearing := link.hearing.get(node)) is not None
                        else (0, 0)
                    ),
                )
                for node, mask in heard_on.items()
            }
            hello = Hello(
                link=link.number,
                network=self._network,
                node=self._node,
                life=self._life,
                counter=link.counter,
                sent_us=_us(now),
                used=used,
                heard=heard,
            )
            self._outgoing.append((link.number, Burst(EVERYONE, [build_hello(hello)])))

    def take_hellos(self) -> list[tuple[int, Burst]]:
        """What is to be sent of our own, and on which link."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def take_news(self) -> list[str]:
        """Sentences about links that have changed since the last call."""
        news, self._news = self._news, []
        return news

    @property
    def _silence_s(self) -> float:
        return self._manner.hello_s * (HELLOS_MISSED + 0.5)

    def _heard_on(self, now: float) -> dict[NodeId, int]:
        """On which links each node is heard."""
        since = now - self._silence_s
        masks: dict[NodeId, int] = {}
        for link in self.links.values():
            for node, hearing in link.hearing.items():
                if hearing.heard_at >= since:
                    masks[NodeId(node)] = masks.get(NodeId(node), 0) | link.mask
        return masks

    def _forget(self, now: float) -> None:
        """Nodes that are silent on all links are gone, and say nothing about a link."""
        present = self._heard_on(now)
        for link in self.links.values():
            for node in [node for node in link.hearing if node not in present]:
                self._nodes_of.pop(Path(link.number, link.hearing.pop(node).address), None)
        self._reaches = {node: said for node, said in self._reaches.items() if node in present}

    def _judge(self, now: float) -> None:
        """Say of each link whether it is good."""
        heard_on = self._heard_on(now)
        for link in self.links.values():
            if not heard_on:
                self._become(link, LinkState.IDLE, "", now)
                continue
            fault = self._fault(link, heard_on)
            if fault:
                link.well_since = None
                self._become(link, LinkState.FAULTY, fault, now)
            elif link.state is not LinkState.FAULTY:
                self._become(link, LinkState.GOOD, "", now)
            elif link.well_since is None:
                link.well_since = now
            elif now - link.well_since >= link.patience_s:
                self._become(link, LinkState.GOOD, "", now)

    def _fault(self, link: Quality, heard_on: dict[NodeId, int]) -> str:
        """What is wrong with *link*, as a sentence; empty if nothing is."""
        deaf = [node for node, mask in heard_on.items() if not mask & link.mask]
        if deaf:
            return f"{_named(deaf)} not heard on it, but on another link"
        # Who hears us on no link has just come, or is cut off altogether.
        mute = [
            node
            for node in heard_on
            if (reached := self._reaches[node][1]) and not reached & link.mask
        ]
        if mute:
            return f"{_named(mute)} not reached on it"
        loss = link.loss
        # A link that is faulty has to be clearly better before it is good.
        limit = self._manner.loss_max / (2 if link.state is LinkState.FAULTY else 1)
        if loss > limit:
            return f"it loses {loss:.0%} of its packets"
        return ""

    def _become(self, link: Quality, state: LinkState, reason: str, now: float) -> None:
        link.reason = reason
        if link.state is state:
            return
        if state is LinkState.FAULTY:
            link.faults += 1
            relapsed = link.faults > 1 and now - link.since < RELAPSE_S
            link.patience_s = (
                min(2 * link.patience_s, PATIENCE_MAX_S) if relapsed else self._manner.recover_s
            )
            self._news.append(f"link {link.number} is faulty: {reason}")
        elif link.state is LinkState.FAULTY:
            self._news.append(f"link {link.number} is {state.value} again")
        link.state, link.since, link.well_since = state, now, None

    # --- facts ----------------------------------------------------------------------------------

    def status(self, now: float) -> dict[str, Any]:
        """Each link's state, by number."""
        return {
            str(link.number): {
                "state": link.state.value,
                "reason": link.reason,
                "since_s": round(now - link.since, 3),
                "faults": link.faults,
                "loss": round(link.loss, 4),
                "round_trip_us": round(1e6 * link.round_s),
                "nodes": sorted(link.hearing),
            }
            for link in self.links.values()
        }

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1


def _is_part(packet: bytes | memoryview) -> bool:
    return len(packet) > TYPE_AT and packet[TYPE_AT] in IN_PARTS


def _is_data(packets: Sequence[bytes | memoryview]) -> bool:
    return isinstance(packets, Train) or any(map(_is_part, packets))


def _us(seconds: float) -> int:
    return max(0, round(seconds * 1e6))


def _named(nodes: Sequence[NodeId]) -> str:
    numbers = ", ".join(map(str, sorted(nodes)))
    return f"node {numbers} is" if len(nodes) == 1 else f"nodes {numbers} are"

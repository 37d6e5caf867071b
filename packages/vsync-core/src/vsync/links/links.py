"""Links: what goes on which link, what came twice, and which link is to be relied on.

As the Totem Redundant Ring Protocol (Koch, Moser, Melliar-Smith, ICDCS 2002), with two changes.
Everything but data goes on *all* links in every mode, good or not: tokens are few and small, and
one that does not depend on a single link needs no timer. And nodes say hello on each link and tell
whom they hear well on it, so both directions are known, also of a ring at rest. Under load the
copies of tokens tell it sooner: what came on one link and not on another, as the paper's problem
counters do.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from vsync.errors import MalformedPacket
from vsync.links.hello import (
    HEARD_MAX,
    LINKS_MAX,
    Heard,
    Hello,
    build_hello,
    is_hello,
    parse_hello,
)
from vsync.links.quality import COPIES_MIN, Hearing, LinkState, Peer, Quality
from vsync.train import Train
from vsync.transport import EVERYONE, Address, Arrival, Burst, Station
from vsync.vocabulary import NodeId
from vsync.wire.header import IN_PARTS

TYPE_AT: Final = 3
"""Where a packet of the ring has its type; see ``wire.header``."""

COPIES_KEPT: Final = 512
"""Packets that are remembered to know their copies by."""

NODES_MAX: Final = 255
"""Other nodes that are followed; of more, hellos are ignored."""

ADDRESSES_MAX: Final = 2 * NODES_MAX * LINKS_MAX
"""Addresses that are remembered, of all nodes on all links; then the one heard longest ago goes."""

HELLOS_MISSED: Final = 3.5
"""After so many intervals without its hello a node is not heard any more."""

HELLOS_ELSEWHERE: Final = 2
"""If it was heard elsewhere so many intervals later: it says hello on all links at a time, so then
it did."""

ELSEWHERE_MAX: Final = 3
SILENT_MIN_S: Final = 0.04
"""Nor is it after so many tokens and the like that came on other links only, and so much time. Of
tokens only one comes in each rotation, which may be 10 ms at full load; and a kernel that is short
of processors may leave the packets of one interface lying for 20 ms while it hands up another's."""

LONG_EVERY: Final = 5
"""Every so many hellos one is as long as a packet may be, to see that such packets pass."""

RELAPSE_S: Final = 10.0
"""A link that becomes faulty again within this time has to wait longer the next time."""

PATIENCE_MAX_S: Final = 60.0


class Mode(StrEnum):
    """What becomes of data on several good links. The rest goes on all of them."""

    ACTIVE = "active"  #: on every link: losses of one link are not noticed
    PASSIVE = "passive"  #: on one link or the other: their capacities add up
    ACTIVE_PASSIVE = "active-passive"  #: on some links, others with each burst
    FASTEST = "fastest"  #: on the link with the shortest round trip


class Path(NamedTuple):
    """Where a packet came from: the address that a link gave it; or, on link 0, the node."""

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
    """All links of one node. *now* is seconds of one monotonic clock, in every method.

    *packet_bytes_max* is how long the ring's packets may be; set it before the first hello.
    """

    def __init__(self, station: Station, *, manner: Manner, now: float) -> None:
        self._station = station
        self._manner = manner
        self.packet_bytes_max = 0
        self.links: dict[int, Quality] = {}
        self._peers: dict[NodeId, Peer] = {}
        self._nodes_of: OrderedDict[tuple[int, Address], NodeId] = OrderedDict()
        """Who said hello on a link at an address, now or earlier: the ring goes on sending where it
        heard a node first, though that link may be gone or the address may be another."""
        self._turn = 0
        self._hellos = 0
        self._copies: OrderedDict[bytes, dict[int, int]] = OrderedDict()
        self._outgoing: list[tuple[int, Burst]] = []
        self._hello_at = now
        self._doubted_until = now + 2 * manner.hello_s
        """Losses are not trusted before: we were stopped ourselves, or have just begun."""
        self._news: list[str] = []
        self.counters: dict[str, int] = {}

    # --- links come and go ----------------------------------------------------------------------

    def add(self, number: int, now: float) -> None:
        """There is a link of that number from now on."""
        self.links[number] = Quality(
            number, added_at=now, since=now, patience_s=self._manner.recover_s
        )

    def remove(self, number: int) -> None:
        """There is no such link any more."""
        del self.links[number]

    def use(self, manner: Manner) -> None:
        """Use the links in another manner from now on."""
        self._manner = manner

    # --- sending --------------------------------------------------------------------------------

    def send(self, burst: Burst) -> list[tuple[int, Burst]]:
        """Which links *burst* goes on, and as what."""
        links = list(self.links.values())
        if _is_data(burst.packets):
            links = self._share([link for link in links if link.state is not LinkState.FAULTY])
        if burst.destination is EVERYONE:
            return [(link.number, burst) for link in links]
        return self._to_one(burst, links)

    def _share(self, links: list[Quality]) -> list[Quality]:
        """Those of the good *links* that carry the next burst of data; if there are none, all."""
        if not links:
            return list(self.links.values())
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
        # Not strictly in turn: what is lost on one link must not meet the same link again and again
        # because each rotation has an even number of bursts.
        self._turn = (self._turn * 1_103_515_245 + 12_345) % 2**31
        first = (self._turn >> 16) % len(links)
        return [*links[first:], *links[:first]][:count]

    def _to_one(self, burst: Burst, links: list[Quality]) -> list[tuple[int, Burst]]:
        path = burst.destination
        assert isinstance(path, Path)
        if path.link:  # it had not said hello when it was heard
            node = self._nodes_of.get(path)
            if node is None:
                known = path.link in self.links
                return [(path.link, Burst(path.address, burst.packets))] if known else []
        else:
            assert isinstance(path.address, int)
            node = NodeId(path.address)
        return [
            (link.number, Burst(hearing.address, burst.packets))
            for link in links
            if (hearing := link.hearing.get(node)) is not None
        ]

    # --- receiving ------------------------------------------------------------------------------

    def arrived(self, number: int, arrivals: Sequence[Arrival], now: float) -> list[Arrival]:
        """What of that which came on a link the ring is to see.

        Call ``look`` when all links have given what they had.
        """
        self._notice_pause(now)
        seen: list[Arrival] = []
        link = self.links[number]
        for data, source in arrivals:
            packet = None if type(data) is Train else data
            if packet is not None and is_hello(packet):
                self._hear(link, packet, source, now)
                continue
            node = self._nodes_of.get((number, source))
            hearing = None if node is None else link.hearing.get(node)
            if hearing is not None:
                self._hear_anything(NodeId(node or 0), hearing, now)
            if packet is not None and not _is_part(packet):
                first = self._is_first(number, bytes(packet))
                if hearing is not None:
                    hearing.came += 1
                    if first:
                        self._count_elsewhere(NodeId(node or 0), link)
                if not first:
                    self._count("copies_dropped")
                    continue
            path = Path(number, source) if node is None else Path(0, node)
            seen.append((data, path))
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

    def _count_elsewhere(self, node: NodeId, link: Quality) -> None:
        self._peers[node].sent += 1
        for other in self.links.values():
            if other is not link and (hearing := other.hearing.get(node)) is not None:
                hearing.elsewhere += 1

    def _hear_anything(self, node: NodeId, hearing: Hearing, now: float) -> None:
        hearing.heard_at = now
        hearing.elsewhere = 0
        peer = self._peers[node]
        if now - peer.heard_at > self._manner.hello_s * HELLOS_MISSED:
            peer.since = now
        peer.heard_at = now

    def _hear(self, link: Quality, packet: bytes | memoryview, source: Address, now: float) -> None:
        try:
            hello = parse_hello(packet)
        except MalformedPacket as error:
            self._count(f"hellos_dropped_{error.reason}")
            return
        if hello.network != self._station.network:
            self._count("hellos_dropped_other_ring")
            return
        if hello.node == self._station.node:
            return  # our own, or of one who has our number: the ring sees to that
        if hello.link != link.number:
            self._count("hellos_on_another_link")
            return
        peer = self._peers.get(hello.node)
        if peer is not None and hello.life < peer.life:
            self._count("hellos_dropped_old_life")
            return
        if peer is None or peer.life != hello.life:
            if peer is None and len(self._peers) >= NODES_MAX:
                self._count("hellos_dropped_too_many")
                return
            self._forget_node(hello.node)
            peer = self._peers[hello.node] = Peer(hello.life, now, now)
        hearing = link.hearing.get(hello.node)
        if hearing is None:
            hearing = link.hearing[hello.node] = Hearing(source, hello.counter - 1, now)
            peer.sent = 0  # count from here on, on all links alike
            for other in self.links.values():
                if hello.node in other.hearing:
                    other.hearing[hello.node].came = 0
        elif hello.counter <= hearing.counter:
            return  # it was overtaken by a later one
        hearing.count_hello(hello.counter, trusted=now >= self._doubted_until)
        hearing.address = source
        self._nodes_of[link.number, source] = hello.node
        self._nodes_of.move_to_end((link.number, source))
        if len(self._nodes_of) > ADDRESSES_MAX:
            self._nodes_of.popitem(last=False)
        self._hear_anything(hello.node, hearing, now)
        hearing.echo_at = now
        hearing.echo_us = hello.sent_us
        ours = hello.heard.get(self._station.node)
        if ours is not None:
            peer.reached = ours.links
            round_us = _us(now) - ours.echo_us - ours.held_us
            if ours.echo_us and round_us > 0:
                hearing.measure(round_us / 1e6)
        elif len(hello.heard) < HEARD_MAX:
            peer.reached = 0

    def look(self, now: float) -> None:
        """See whether a link has fallen silent under load; call it after ``arrived``."""
        for link in self.links.values():
            if link.state is LinkState.GOOD and any(
                hearing.elsewhere > ELSEWHERE_MAX
                and self._is_silent(hearing, NodeId(node), now)
                and not self._is_new(link, NodeId(node), now)
                for node, hearing in link.hearing.items()
            ):
                self._say_hello(now)
                return

    # --- time -----------------------------------------------------------------------------------

    def poll_timeout(self) -> float:
        """When ``handle_timeout`` is to be called."""
        return self._hello_at

    def handle_timeout(self, now: float) -> None:
        """Look at all links, and say hello on each."""
        if now < self._hello_at:
            return
        self._notice_pause(now)
        self._hello_at = max(self._hello_at + self._manner.hello_s, now)
        # What was lost meanwhile was lost in our own buffers, here more and there less.
        doubted = now < self._doubted_until
        for node, peer in self._peers.items():
            for link in self.links.values():
                hearing = link.hearing.get(node)
                if hearing is not None and doubted:
                    hearing.came = 0
                elif hearing is not None:
                    hearing.count_copies(peer.sent)
            if doubted or peer.sent >= COPIES_MIN:
                peer.sent = 0
        self._say_hello(now)

    def _notice_pause(self, now: float) -> None:
        if now >= self._hello_at + self._manner.hello_s:
            self._doubted_until = now + 2 * self._manner.hello_s

    def _say_hello(self, now: float) -> None:
        """Judge the links, and tell the others."""
        self._forget(now)
        heard_on = self._heard_on(now)
        self._judge(heard_on, now)
        self._hellos += 1
        nodes = sorted(heard_on)
        if len(nodes) > HEARD_MAX:  # tell of all of them in turn
            first = self._hellos * HEARD_MAX % len(nodes)
            nodes = [*nodes[first:], *nodes[:first]][:HEARD_MAX]
        for link in self.links.values():
            heard = {}
            for node in nodes:
                hearing = link.hearing.get(node)
                echo = (0, 0) if hearing is None else (hearing.echo_us, _us(now - hearing.echo_at))
                heard[node] = Heard(heard_on[node], *echo)
            hello = Hello(
                link=link.number,
                network=self._station.network,
                node=self._station.node,
                life=self._station.life,
                counter=self._hellos,  # goes on when a link is closed and opened again
                sent_us=_us(now),
                heard=heard,
            )
            size = self.packet_bytes_max if self._hellos % LONG_EVERY == 0 else 0
            self._outgoing.append((link.number, Burst(EVERYONE, [build_hello(hello, size)])))

    def take_hellos(self) -> list[tuple[int, Burst]]:
        """What is to be sent of our own, and on which link."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def take_news(self) -> list[str]:
        """Sentences about links that have changed since the last call."""
        news, self._news = self._news, []
        return news

    # --- how links are --------------------------------------------------------------------------

    def _is_silent(self, hearing: Hearing, node: NodeId, now: float) -> bool:
        """Whether nothing of *node* comes there, though it is heard on another link: what it does
        not say while it says nothing at all is no fault of a link."""
        silent_s = now - hearing.heard_at
        elsewhere_s = self._peers[node].heard_at - hearing.heard_at
        hello_s = self._manner.hello_s
        missed = silent_s > hello_s * HELLOS_MISSED and elsewhere_s > hello_s * HELLOS_ELSEWHERE
        return missed or (hearing.elsewhere > ELSEWHERE_MAX and elsewhere_s > SILENT_MIN_S)

    def _is_new(self, link: Quality, node: NodeId, now: float) -> bool:
        """Whether *node* may just not have been heard on *link* yet: one of them has come, or come
        back; or we have."""
        if link.state is LinkState.FAULTY:
            return False
        since = max(link.added_at, self._peers[node].since)
        return now < max(since + self._manner.hello_s * HELLOS_MISSED, self._doubted_until)

    def _heard_on(self, now: float) -> dict[NodeId, int]:
        """On which links each node is heard well; nodes that are heard on any."""
        masks: dict[NodeId, int] = {}
        for link in self.links.values():
            limit = self._loss_limit(link)
            for number, hearing in link.hearing.items():
                node = NodeId(number)
                if not self._is_silent(hearing, node, now):
                    well = link.mask if hearing.loss <= limit else 0
                    masks[node] = masks.get(node, 0) | well
        for node in masks:
            for link in self.links.values():
                if self._is_new(link, node, now):
                    masks[node] |= link.mask
        return masks

    def _loss_limit(self, link: Quality) -> float:
        # A link that is faulty has to be clearly better before it is good.
        return self._manner.loss_max / (2 if link.state is LinkState.FAULTY else 1)

    def _forget(self, now: float) -> None:
        """Nodes that are silent on all links are gone, and say nothing about a link."""
        present = {
            number
            for link in self.links.values()
            for number, hearing in link.hearing.items()
            if now - hearing.heard_at <= self._manner.hello_s * HELLOS_MISSED
        }
        for node in [node for node in self._peers if node not in present]:
            self._forget_node(node)
            del self._peers[node]

    def _forget_node(self, node: NodeId) -> None:
        for link in self.links.values():
            link.hearing.pop(node, None)
        for at in [at for at, known in self._nodes_of.items() if known == node]:
            del self._nodes_of[at]

    def _judge(self, heard_on: dict[NodeId, int], now: float) -> None:
        """Say of each link whether it is good."""
        for link in self.links.values():
            if not heard_on:
                if link.state is not LinkState.FAULTY:  # that stays so, until somebody is heard
                    self._become(link, LinkState.IDLE, "", now)
                link.well_since = None
                continue
            fault = self._fault(link, heard_on, now)
            if fault:
                link.well_since = None
                self._become(link, LinkState.FAULTY, fault, now)
            elif link.state is not LinkState.FAULTY:
                self._become(link, LinkState.GOOD, "", now)
            elif link.well_since is None:
                link.well_since = now
            elif now - link.well_since >= link.patience_s:
                self._become(link, LinkState.GOOD, "", now)

    def _fault(self, link: Quality, heard_on: dict[NodeId, int], now: float) -> str:
        """What is wrong with *link*, as a sentence; empty if nothing is."""
        deaf = []
        lost = {}
        for node, mask in heard_on.items():
            if mask & link.mask:
                continue
            hearing = link.hearing.get(node)
            if hearing is None or self._is_silent(hearing, node, now):
                deaf.append(node)
            else:
                lost[node] = hearing.loss
        if deaf:
            return f"{_named(deaf)} not heard on it, but on another link"
        if lost:
            worst = max(lost, key=lost.__getitem__)
            return f"it loses {lost[worst]:.0%} of what comes from node {worst}"
        # Who hears us on no link has just come, or is cut off altogether.
        mute = [
            node
            for node in heard_on
            if (reached := self._peers[node].reached) and not reached & link.mask
        ]
        return f"{_named(mute)} not reached on it, or badly" if mute else ""

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

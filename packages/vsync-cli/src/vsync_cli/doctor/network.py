"""The way to other hosts: probes through the ring's own transport, and what follows from them."""

import os
import select
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from vsync.errors import TransportFailed
from vsync.plugins import load_transport
from vsync.settings import NodeSettings, RingSettings
from vsync.transport import Address, Transport
from vsync.transports.redundant import RedundantSettings, TransportRedundant, numbered
from vsync.vocabulary import NodeId
from vsync_cli.doctor.findings import Finding, Level, fine, problem, warning
from vsync_cli.doctor.host import facts_of
from vsync_cli.doctor.probe import INTERVAL_S, Peer, Prober
from vsync_cli.extensions import hosts_of

LOSS_WARNING: Final = 0.005
LOSS_PROBLEM: Final = 0.05
ROUND_SHARE: Final = 0.05
"""Of ``token_lost_s``: what a round trip may take, that the token gets around in time."""
SKEW_S: Final = 1.0


class Network(NamedTuple):
    """One way to the other hosts; of a redundant ring, one of its links."""

    name: str
    """Empty if there is one only."""
    kind: type[Transport]
    settings: BaseModel


class Opened(NamedTuple):
    """One that could be opened."""

    network: Network
    transport: Transport
    prober: Prober


def networks_of(settings: NodeSettings) -> list[Network]:
    """The networks of a ring. Those of a redundant one are looked at one by one, since nodes take
    hellos for those of the node itself."""
    kind = load_transport(settings.ring.transport)
    section = kind.SETTINGS.model_validate(settings.transport.get(settings.ring.transport, {}))
    if kind is not TransportRedundant:
        return [Network("", kind, section)]
    assert isinstance(section, RedundantSettings)
    found = []
    for number, link in numbered(section.links).items():
        inner = load_transport(link.transport)
        given = inner.SETTINGS.model_validate(link.settings)
        found.append(Network(f"link {number}: ", inner, given))
    return found


def probe(
    settings: NodeSettings, seconds: float, stopped: Callable[[], bool]
) -> tuple[list[Finding], list[dict[str, Any]]]:
    """Talk to the doctors of other hosts for a while; what follows, and who was there."""
    node = NodeId(settings.node.id)
    ring = settings.ring.model_dump(mode="json")
    findings: list[Finding] = []
    opened: list[Opened] = []
    for network in networks_of(settings):
        findings += [
            each._replace(about=network.name + each.about)
            for each in examined(network.kind.SCHEME, network.settings)
        ]
        make: Any = network.kind
        transport: Transport = make(network.settings, node=node)
        try:
            transport.open()
        except TransportFailed as error:
            said, _, advice = str(error).partition("; ")
            advice = advice or "if the node runs here, stop it for the examination"
            findings.append(problem(f"{network.name}transport", said, advice))
            continue
        run = os.urandom(8).hex()
        prober = Prober(node, run, settings.ring.name, ring, transport.packet_bytes_max)
        opened.append(Opened(network, transport, prober))
        facts = facts_of({"packet_bytes_max": transport.packet_bytes_max, **transport.status})
        findings += [each._replace(about=network.name + each.about) for each in facts]
    try:
        _talk(opened, seconds, stopped)
    finally:
        for each in opened:
            each.transport.close()
    people: list[dict[str, Any]] = []
    for each in opened:
        findings += judge(each.network.name, each.prober, settings.ring, seconds)
        people += [
            {"network": each.network.name.removesuffix(": "), **describe(peer)}
            for peer in each.prober.peers.values()
        ]
    return findings, people


def examined(scheme: str, section: BaseModel) -> Iterator[Finding]:
    """What plugins have to say of a transport."""
    for host in hosts_of("vsync_examine"):
        for findings in host.vsync_examine(scheme=scheme, settings=section):
            for level, about, text, advice in findings:
                yield Finding(Level[level.upper()], about, text, advice)


def _talk(opened: list[Opened], seconds: float, stopped: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    speak_at = time.monotonic()
    while (now := time.monotonic()) < end and opened and not stopped():
        if now >= speak_at:
            speak_at = max(speak_at + INTERVAL_S, now)
            for _, transport, prober in opened:
                for burst in prober.speak(now, time.time()):
                    transport.send(burst)
        descriptors = [fd for each in opened for fd in each.transport.descriptors()]
        select.select(descriptors, [], [], max(0.0, min(speak_at, end) - time.monotonic()))
        for _, transport, prober in opened:
            while packets := transport.receive():
                prober.hear(packets, time.monotonic(), time.time())


def describe(peer: Peer) -> dict[str, Any]:
    """What is known of another doctor, JSON-ready."""
    trips = peer.round_trips()
    return {
        "node": peer.node,
        "address": place(peer.address),
        "loss_to_everyone_in": peer.to_all.loss,
        "loss_to_everyone_out": peer.said.get("all"),
        "loss_alone_in": peer.to_us.loss,
        "loss_alone_out": peer.said.get("us"),
        "round_trip_ms": None if trips is None else [round(each * 1000, 3) for each in trips],
        "longest_in": peer.longest,
        "longest_out": peer.said.get("longest"),
        "clock_ahead_s": None if peer.skew_s is None else round(peer.skew_s, 3),
    }


def place(address: Address) -> str:
    """An address for people."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = str(address[0]), address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address)


def judge(name: str, prober: Prober, ring: RingSettings, seconds: float) -> Iterator[Finding]:
    """What follows from what was heard on one network."""
    for other in sorted(prober.others):
        yield warning(
            f"{name}ring",
            f'the doctor of a ring named "{other}" is on this network, too',
            "if that is to be this ring: [ring] name must be the same on all nodes",
        )
    if not prober.peers:
        yield warning(
            f"{name}others",
            f"no doctor of another host was heard in {seconds:g} s",
            "run `vsync doctor` on two or more hosts at the same time; if it runs there: look for "
            "firewalls (UDP), for the interface that bind names, and for switches that keep "
            "multicast to themselves (IGMP snooping without a querier); udpu needs no multicast",
        )
    for peer in sorted(prober.peers.values(), key=lambda peer: peer.node):
        who = f"{name}node {peer.node}"
        yield from _numbers(who, prober, peer)
        yield from _ways(who, peer)
        yield from _lengths(who, peer, prober)
        yield from _times(who, peer, ring)
        yield from _settings(who, peer, ring)


def _numbers(who: str, prober: Prober, peer: Peer) -> Iterator[Finding]:
    others = [each for each in prober.peers.values() if each.run != peer.run]
    if peer.node == prober.node or any(each.node == peer.node for each in others):
        yield problem(
            who,
            f"two doctors say that they are of node {peer.node}",
            "give each node an id of its own ([node] id)",
        )


def _ways(who: str, peer: Peer) -> Iterator[Finding]:
    """Which way packets go, and how many do not arrive."""
    ways = (
        ("what it sends to everyone", peer.to_all.came, peer.to_all.loss),
        ("what it sends to this host alone", peer.to_us.came, peer.to_us.loss),
        ("what this host sends to everyone", peer.said.get("all_came", 0), peer.said.get("all")),
        ("what this host sends to it alone", peer.said.get("us_came", 0), peer.said.get("us")),
    )
    bad = False
    for what, came, loss in ways:
        if not came:
            bad = True
            advice = (
                "multicast passes one way only: look at IGMP snooping on the switch and at "
                "firewalls, or use udpu"
                if "everyone" in what
                else "unicast is refused: look at firewalls (UDP, all ports of the host)"
            )
            yield problem(who, f"{what} does not arrive", advice)
        elif loss is not None and loss > LOSS_WARNING:
            bad = True
            make = problem if loss > LOSS_PROBLEM else warning
            yield make(
                who,
                f"{loss:.1%} of {what} is lost",
                "look at cables, at the counters of switches and interfaces (ip -s link), and at "
                "receive buffers",
            )
    if not bad:
        yield fine(who, f"is heard and hears, at {place(peer.address)}; nothing much is lost")


def _lengths(who: str, peer: Peer, prober: Prober) -> Iterator[Finding]:
    size = prober.packet_bytes_max
    out = int(peer.said.get("longest", size))
    if peer.to_all.came + peer.to_us.came < 5 * 4:
        return
    theirs = peer.longest
    if out < size:
        yield problem(
            who,
            f"packets of {size} bytes do not arrive there; the longest had {out}",
            f"the network's MTU is smaller than the interface's: set it right on all hosts, or "
            f"packet_bytes_max = {max(out, 512)} in the transport's section",
        )
    if theirs < min(size, 512):
        yield problem(
            who,
            f"no packet longer than {theirs} bytes comes from it",
            "the network's MTU is smaller than its interface's: set it right on all hosts",
        )


def _times(who: str, peer: Peer, ring: RingSettings) -> Iterator[Finding]:
    trips = peer.round_trips()
    if trips is not None:
        usual, late, worst = (each * 1000 for each in trips)
        seen = f"round trip {usual:.2f} ms, 99 % {late:.2f} ms, at most {worst:.2f} ms"
        most_s = ROUND_SHARE * ring.token_lost_s
        if trips[0] > most_s:
            yield warning(
                who,
                f"{seen}: long for token_lost_s = {ring.token_lost_s:g} s",
                'take a preset for longer ways on all nodes (preset = "wan" in [ring])',
            )
        elif trips[1] > most_s:
            yield warning(
                who,
                f"{seen}: short, but at times long for token_lost_s = {ring.token_lost_s:g} s",
                "one of the two hosts is busy (see scheduling, on both), or the network between "
                "them is: give the ring's process its processor, or raise token_lost_s",
            )
        else:
            yield fine(who, seen)
    if peer.skew_s is not None and abs(peer.skew_s) > SKEW_S:
        ahead = "ahead" if peer.skew_s > 0 else "behind"
        yield warning(
            who,
            f"its clock is {abs(peer.skew_s):.1f} s {ahead}; rings do not mind, readers of logs do",
            "run chrony or systemd-timesyncd on both",
        )


def _settings(who: str, peer: Peer, ring: RingSettings) -> Iterator[Finding]:
    ours: Mapping[str, Any] = ring.model_dump(mode="json")
    differing = sorted(name for name in ours if name in peer.ring and peer.ring[name] != ours[name])
    if differing:
        told = ", ".join(
            f"{name} ({peer.ring[name]} there, {ours[name]} here)" for name in differing
        )
        yield problem(
            who,
            f"its settings of the ring differ: {told[:500]}",
            "make [ring] the same on all nodes",
        )

"""Parsers of what programs, services and doctors say."""

import json
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from tests.core.wire.frames import ME
from tests.fuzz.feeding import GROUP, PLACES, RING, Target, joined, pieces
from vsync.daemon import client, protocol
from vsync.daemon import frames as daemon_frames
from vsync.daemon.protocol import FrameReader, Type
from vsync.daemon.server import _Wishes
from vsync.engine.runs import Run
from vsync.errors import DaemonError, MalformedPacket, MessageTooLarge
from vsync.events import ConfigurationChanged, Envelope
from vsync.settings import DaemonSection
from vsync.transport import Packet
from vsync.vocabulary import (
    Cause,
    Configuration,
    Guarantee,
    Kind,
    NodeId,
    Priority,
    SlowPolicy,
)
from vsync.wire import (
    Announce,
    JoinGroups,
    LeaveGroups,
    Membership,
    Synchronized,
    build_control,
    parse_control,
)
from vsync_cli.doctor import probe
from vsync_services.kv import messages as kv
from vsync_services.kv.store import Change, Entry, Point
from vsync_services.quorum import ballots
from vsync_services.quorum.decision import Ballot, Terms

# --- messages of groups and services ------------------------------------------------------------

CONTROL_SEEDS: Final = [
    build_control(message)
    for message in (
        Announce(RING, True, (Membership(1, False, GROUP), Membership(2, True, GROUP))),
        JoinGroups(1, False, (GROUP,)),
        LeaveGroups(1, Cause.LEFT, (GROUP,)),
        Synchronized(RING),
    )
]


def refused(parse: Callable[[bytes], Any], data: bytes) -> None:
    """*parse* gives something, or refuses in its own way."""
    with suppress(MalformedPacket):
        parse(data)


TERMS: Final = Terms(expected_votes=3, two_node=False, wait_for_all=False, auto_tie_breaker="none")
BALLOT: Final = ballots.encode(
    "3.1",
    Ballot(
        node=NodeId(1),
        votes=1,
        terms=TERMS,
        waiting=False,
        roster=None,
        released=False,
        most_votes=1,
        differing=((NodeId(2), TERMS),),
    ),
)
POINT: Final = Point(RING, 5)
KV_SEEDS: Final = [
    kv.encode(kv.Command(1, kv.Operation.SET, "key", 0, b"value")),
    kv.encode(kv.Done("3.1")),
    kv.encode(kv.Chunk("3.1", 0, True, b"records")),
    kv.encode(
        kv.Claim(
            "3.1",
            kv.Verdict.PRIMARY,
            "all are here",
            (kv.Record(RING, (ME, NodeId(1))),),
            True,
            POINT,
            5,
            (POINT,),
            2,
            3,
        )
    ),
]
KV_RECORDS: Final = list(
    kv.cut(
        {"key": Entry(b"value", 4)}.items(),
        [Change(5, "key", None), Change(6, "k", b"v")],
        1000,
    )
)

# --- the daemon and the doctor ------------------------------------------------------------------

CONFIGURATION: Final = Configuration(id="4.1", kind=Kind.REGULAR, members=(NodeId(1),))
ENVELOPE: Final = Envelope(NodeId(1), 1, 2, Priority.LOW, Guarantee.SAFE, (GROUP,), CONFIGURATION)
DAEMON_PARSERS: Final[dict[int, Callable[[memoryview], Any]]] = {
    Type.SEND: daemon_frames.parse_send,
    Type.ACCEPTED: daemon_frames.parse_accepted,
    Type.TAKEN: daemon_frames.parse_taken,
    Type.DELIVERIES: partial(daemon_frames.parse_deliveries, configuration=CONFIGURATION),
    Type.VIEW: partial(daemon_frames.parse_view, configuration=CONFIGURATION),
    Type.CONFIGURATION: daemon_frames.parse_configuration,
    Type.HELLO: lambda body: _Wishes.from_hello(body, DaemonSection()),
}
DECLARED: Final = frozenset(map(int, Type))
DAEMON_SEEDS: Final = [
    daemon_frames.send_frame(1, [GROUP], [b"one", b"two"], Guarantee.SAFE, Priority.LOW),
    daemon_frames.accepted_frame(1, 2, 3) + daemon_frames.taken_frame(77),
    b"".join(daemon_frames.parts_of(ConfigurationChanged(CONFIGURATION))),
    b"".join(daemon_frames.parts_of(Run.in_frame(ENVELOPE, 1, b"head+payload", 0, 4, [7, 5]))),
    protocol.build(Type.JOIN, number=1, closed=False, groups=[GROUP.key]),
    protocol.build(Type.REQUEST, number=1, service="kv", body=b"request"),
    protocol.build(Type.REFUSED, number=1, failure=protocol.failure_fields(MessageTooLarge(9, 8))),
    client._hello("name", SlowPolicy.EVICT, 1000, 1000, False, 2**20),
    protocol.frame(Type.BYE),
]


def feed_daemon(data: bytes) -> None:
    """A stream of bytes is cut into frames, and each is read or refused."""
    reader = FrameReader(2**20)
    half = len(data) // 2
    with suppress(DaemonError):
        for part in (data[:half], data[half:]):
            for kind, body in reader.feed(part):
                with suppress(DaemonError):
                    protocol.parse_protocol(body)
                if kind in DAEMON_PARSERS:
                    with suppress(DaemonError):
                        DAEMON_PARSERS[kind](body)
                if kind in DECLARED:
                    with suppress(DaemonError):
                        fields = protocol.parse(Type(kind), body)
                        if kind in (Type.REFUSED, Type.END):
                            protocol.failure(fields.failure)


def probes() -> list[bytes]:
    """What two doctors say to each other, without magic and checksum."""
    one, other = (
        probe.Prober(NodeId(node), f"run {node}", "ring", {"preset": "lan"}, 1472)
        for node in (1, 2)
    )
    said = []
    for second in (1.0, 2.0, 3.0):
        for speaking, hearing in ((one, other), (other, one)):
            for burst in speaking.speak(second, 1e9 + second):
                packets = [Packet(packet, PLACES[0]) for packet in burst.packets]
                hearing.hear(packets, second + 0.001, 1e9 + second)
                said += [bytes(packet.data)[PROBE_BEGIN:] for packet in packets]
    return said


PROBE_BEGIN: Final = len(probe.MAGIC) + 8


def feed_doctor(data: bytes) -> None:
    """Doctors hear probes from anybody."""
    prober = probe.Prober(NodeId(1), "run 1", "ring", {}, 1472)
    now = 100.0
    for count, text in enumerate(pieces(data)):
        packet = probe.MAGIC + zlib.crc32(text).to_bytes(4) + len(text).to_bytes(4) + text
        assert len(packet) == PROBE_BEGIN + len(text)
        prober.hear([Packet(packet, PLACES[count % 3]), Packet(text, PLACES[0])], now, 1e9 + now)
        for burst in prober.speak(now, 1e9 + now):
            assert all(len(packet) <= 1472 for packet in burst.packets)
        now += 0.1
    json.dumps([peer.report() for peer in prober.peers.values()])


TARGETS: Final[dict[str, Target]] = {
    "groups": Target(partial(refused, parse_control), CONTROL_SEEDS),
    "quorum": Target(partial(refused, ballots.decode), [BALLOT]),
    "kv": Target(partial(refused, kv.decode), KV_SEEDS),
    "kv-snapshot": Target(partial(refused, kv.read_records), KV_RECORDS),
    "daemon": Target(feed_daemon, DAEMON_SEEDS),
    "doctor": Target(feed_doctor, [joined(*probes()), *map(joined, probes())]),
}

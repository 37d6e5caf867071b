"""Parsers of what comes from the network before a seal, or without one."""

import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from tests.core.wire.frames import CODEC, LIFE, ME, sealed
from tests.fuzz.feeding import GROUP, PLACES, RING, Target, joined, pieces
from vsync.engine import Engine, MemoryStore
from vsync.errors import MalformedPacket
from vsync.ip.interfaces import InterfaceAddress
from vsync.keys import Key, KeyRing
from vsync.links import Hello, Links, Manner, build_hello
from vsync.links.hello import Heard
from vsync.seal import Guard, Stamp
from vsync.settings import RingSettings
from vsync.train import Train
from vsync.transport import EVERYONE, Burst, Packet, Station
from vsync.vocabulary import Guarantee, NodeId, RingId
from vsync.wire import IN_PARTS, Beacon, Commit, Entry, Join, Token, Wake
from vsync.wire.header import HEADER_BYTES
from vsync_transport_udp import fanout, hello, peers

# --- the seal -----------------------------------------------------------------------------------

KEY: Final = Key(bytes(range(32)))
PAYLOADS: Final = [b"first", b"second", b"", b"the fourth is longer than they are"]


def sealing(key: Key = KEY, node: int = 1, life: int = 111) -> Guard:
    return Guard(KeyRing(key), Stamp(node, 11, life, 1), network=5)


def seal_all(guard: Guard, payloads: Sequence[bytes] | Train) -> list[bytes]:
    return [bytes(each) for each in guard.seal_burst(Burst(EVERYONE, payloads)).packets]


GENUINE: Final = seal_all(sealing(), PAYLOADS)
FOREIGN: Final = b"of a life to come"


def feed_guard(data: bytes) -> None:
    """A guard lets in what was sealed, once, whatever comes with it."""
    opening = Guard(KeyRing(KEY), Stamp(2, 22, 222, 1), network=5)
    once = {*PAYLOADS, FOREIGN}
    packets = [GENUINE[0], *pieces(data)]
    opened = opening.open_arrivals([Packet(packet, "there") for packet in packets])
    for plain, _ in opened:
        assert not isinstance(plain, Train)
        once.remove(bytes(plain))  # KeyError: forged, or twice
    assert len(opened) + sum(opening.counters.values()) == len(packets)


def feed_guard_train(data: bytes) -> None:
    """The same for packets that came in one piece, cut by a length that says nothing."""
    opening = Guard(KeyRing(KEY), Stamp(2, 22, 222, 1), network=5)
    opening.open_arrivals([Packet(GENUINE[0], "there")])
    once = {*PAYLOADS[1:]}
    size, body = 1 + int.from_bytes(data[:1]), data[1:]
    if body:
        for plain, _ in opening.open_arrivals([(Train(body, size), "there")]):
            for each in plain if isinstance(plain, Train) else [plain]:
                once.remove(bytes(each))


# --- links and udpu -----------------------------------------------------------------------------

LINK_HELLO: Final = build_hello(
    Hello(
        link=1,
        network=5,
        node=NodeId(2),
        life=9,
        counter=4,
        sent_us=1_000_000,
        heard={NodeId(1): Heard(3, 999_000, 100), NodeId(3): Heard(1, 0, 0)},
    )
)


def with_checksum(packet: bytes) -> bytes:
    """A hello of ``vsync.links`` with the right checksum."""
    return packet[:4] + zlib.crc32(packet[8:]).to_bytes(4) + packet[8:]


def feed_links(data: bytes) -> None:
    """Links take hellos and packets from anybody, on each link, as time goes on."""
    links = Links(Station(NodeId(1), 1, 5), manner=Manner(), now=1.0)
    links.packet_bytes_max = 1472
    for number in (1, 2):
        links.add(number, 1.0)
    now = 1.0
    for count, packet in enumerate(pieces(data)):
        now += 0.05
        damaged = count % 7 == 6
        number = 1 + count % 2
        arrival = Packet(packet if damaged else with_checksum(packet), PLACES[count % 3])
        links.arrived(number, [arrival], now)
        links.look(now)
        if now >= links.poll_timeout():
            links.handle_timeout(now)
        links.take_hellos()
        links.take_news()
    json.dumps(links.status(now))


UDPU_HELLO: Final = hello.Hello(
    instance=b"instance",
    challenge=b"challeng",
    response=bytes(8),
    wants_answer=True,
    told=hello.tell(PLACES[1:]),
).encode()
LOCAL: Final = InterfaceAddress(
    name="eth0", index=2, address=IPv4Address("10.0.0.1"), network=IPv4Network("10.0.0.0/24")
)


def feed_udpu(data: bytes) -> None:
    """Peers take hellos from any address."""
    node = peers.Peers(
        own=("10.0.0.1", 5405),
        place_of=lambda host, port: fanout.place_of(LOCAL, host, port),
        instance=b"ours....",
        secret=b"secret",
        learning=True,
        forget_s=10.0,
        now=1.0,
    )
    node.add(PLACES[0], peers.Origin.SEED, "a seed", 1.0)
    now = 1.0
    for count, packet in enumerate(pieces(data)):
        now += 0.3
        answer = node.receive(packet, PLACES[count % 3], now)
        assert answer is None or len(answer) <= len(packet), "an answer must not amplify"
        for _, asked in node.due(now):
            assert len(asked) <= hello.HELLO_BYTES_MAX
    assert len(node.targets) <= peers.LEARNT_MAX
    json.dumps([node.facts(now), node.counters, node.warnings])


# --- the ring's own packets ---------------------------------------------------------------------

DATA: Final = CODEC.data(RING, 4, 0, 0, Guarantee.AGREED, [b"\1" + GROUP.key + b"hello", b"more"])
NODES: Final = frozenset({ME, NodeId(1)})
RING_PACKETS: Final = [
    CODEC.token(Token(RING, 9, 5, 3, 0, 1, 2, 0, False, False, {4: 1})),
    *DATA.packets,
    *CODEC.data(RING, 5, 1, 1, Guarantee.SAFE, [bytes(3000)]).packets,
    *CODEC.recovered(RING, 2, DATA).packets,
    CODEC.join(Join(ME, LIFE, RING, 3, 1, False, NODES, frozenset(), frozenset())),
    CODEC.join(Join(ME, LIFE, RING, 3, 2, True, frozenset(), NODES, frozenset())),
    CODEC.commit(Commit(RingId(7, NodeId(1)), 1, (Entry(NodeId(1)), Entry(ME)))),
    CODEC.commit(
        Commit(RingId(7, NodeId(1)), 3, (Entry(NodeId(1)), Entry(ME, True, RING, 3, 3, 3)))
    ),
    CODEC.beacon(Beacon(ME, LIFE, RING, 3, frozenset({NodeId(1)}))),
    CODEC.wake(Wake(RING)),
]
RING_SEEDS: Final = [
    bytes([packet[3]]) + packet[HEADER_BYTES:] for packet in map(bytes, RING_PACKETS)
]


def feed_codec(data: bytes) -> None:
    """Any bytes are a packet or are refused."""
    with suppress(MalformedPacket):
        CODEC.decode(data)


def feed_frames(data: bytes) -> None:
    """So is any body under a good checksum, as a packet, as a part, and several in one piece."""
    packet = sealed(data[0] if data else 0, data[1:])
    with suppress(MalformedPacket):
        CODEC.decode(packet)
    if packet[3] in IN_PARTS:
        with suppress(MalformedPacket):
            CODEC.decode_part(packet)
        for size in (len(packet), len(packet) // 2 + 1, 64):
            with suppress(MalformedPacket):
                CODEC.decode_train(Train(packet + packet, size))


def feed_engine(data: bytes) -> None:
    """A node hears anything with a good checksum, and goes on."""
    engine = Engine(
        NodeId(1),
        1,
        RingSettings(name="test"),
        now=0.0,
        packet_bytes_max=1472,
        receive_buffer_bytes=2**20,
        store=MemoryStore(),
    )
    now = 0.0
    engine.start(now)
    alone = data[:1] > b"\x40"  # else it is still looking for others
    while alone and engine.configuration is None:
        now = engine.poll_timeout() or now
        engine.handle_timeout(now)
        drain(engine)
    for packet in pieces(data[1:]):
        now += 0.01
        whole = sealed(packet[0] if packet else 0, packet[1:])
        engine.receive([Packet(whole, PLACES[0])], now)
        drain(engine)
        if (engine.poll_timeout() or now + 1) <= now:
            engine.handle_timeout(now)
            drain(engine)


def drain(engine: Engine) -> None:
    """Take what an engine has to say."""
    for _ in range(2):  # events may have something to say
        while engine.poll_transmit() is not None:
            pass
        engine.take_events()


TARGETS: Final[dict[str, Target]] = {
    "seal": Target(
        feed_guard,
        [
            joined(*GENUINE[1:]),
            joined(GENUINE[2], *seal_all(sealing(life=112), [FOREIGN]), GENUINE[3]),
            joined(*seal_all(sealing(Key(bytes(32))), PAYLOADS)),
            joined(b"VS\1\1", GENUINE[1][:50], b""),
        ],
    ),
    "seal-train": Target(
        feed_guard_train,
        [bytes([len(GENUINE[1]) - 1]) + b"".join(GENUINE[1:])],
    ),
    "links": Target(
        feed_links, [joined(*[LINK_HELLO] * 9), joined(LINK_HELLO, bytes(DATA.packets[0]))]
    ),
    "udpu": Target(feed_udpu, [joined(UDPU_HELLO), joined(*[UDPU_HELLO] * 4)]),
    "packets": Target(feed_codec, [bytes(packet) for packet in RING_PACKETS]),
    "frames": Target(feed_frames, RING_SEEDS),
    "engine": Target(
        feed_engine,
        [b"\xff" + joined(*RING_SEEDS), *(b"\0" + joined(seed, seed) for seed in RING_SEEDS)],
    ),
}

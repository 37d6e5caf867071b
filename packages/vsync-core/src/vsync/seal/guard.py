"""Guard: seals what leaves a node, and lets in what is genuine and new.

AES-256-GCM, NIST SP 800-38D. Each stream has a key of its own, derived from the ring's with HKDF
(RFC 5869), and counts its packets: so a nonce never repeats under a key, whatever happens to clocks
and disks. Nothing of a packet is looked at before its seal is found to be good, but the envelope.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vsync.errors import TransportFailed
from vsync.keys import KEY_BYTES, Key, KeyRing
from vsync.seal.envelope import (
    COUNTER_MAX,
    ENVELOPE_BYTES,
    PREFIX_BYTES,
    TAG_BYTES,
    Envelope,
    Stamp,
    build_prefix,
    is_sealed,
    read_prefix,
    stream_info,
)
from vsync.train import Train
from vsync.transport import Address, Arrival, Burst, Packet

OVERHEAD_BYTES: Final = ENVELOPE_BYTES + TAG_BYTES
"""What a seal adds to a packet."""

WINDOW: Final = 4096
"""A packet may come so many packets late."""

SENDERS_MAX: Final = 1024
INSTANCES_MAX: Final = 4
"""Of one node number: more than one is a mistake, or a node that lost its state."""

CIPHERS_MAX: Final = 256
"""Ciphers of prefixes under which nothing genuine has come yet; forged ones end here."""

STRANGERS_MAX: Final = 16
"""Others that are remembered by name."""

SHAPES_KNOWN_MAX: Final = 64
"""So many shapes of trains are remembered."""

_NONCE_START: Final = bytes(4)


class _Stream:
    """What was let in of one stream."""

    __slots__ = ("highest", "life", "missing", "opening")

    def __init__(self, stamp: Stamp, highest: int) -> None:
        self.life = stamp.life
        self.opening = stamp.opening
        self.highest = highest
        self.missing: set[int] = set()
        """Counters below ``highest`` that may still come."""

    def is_new(self, counter: int) -> bool:
        return counter > self.highest or counter in self.missing

    def take(self, counter: int) -> None:
        """Let nothing of that counter in again."""
        highest = self.highest
        if counter == highest:  # the first one
            return
        if counter == highest + 1:
            self.highest = counter
        elif counter > highest:
            self.missing.update(range(max(highest + 1, counter - WINDOW), counter))
            self.highest = counter
            if len(self.missing) > WINDOW:
                self.missing = {each for each in self.missing if each >= counter - WINDOW}
        else:
            self.missing.discard(counter)


class _Source(NamedTuple):
    """How to open what begins with a known prefix."""

    cipher: AESGCM
    stream: _Stream


class Guard:
    """Seals and opens the packets of one transport of one node.

    *network* and *link* say which ring and which of its links they are for: packets of another are
    not genuine here.
    """

    def __init__(self, keys: KeyRing, stamp: Stamp, *, network: int = 0, link: int = 0) -> None:
        self.counters: dict[str, int] = {}
        self.strangers: dict[bytes, tuple[int, Address]] = {}
        """Ids of keys that are not ours: who sealed with them, by his own word, and from where."""
        self.unsealed_from: Address | None = None
        """Where something came from that has no seal."""
        self._keys = keys
        self._stamp = stamp
        self._place = (network, link)
        self._counter = 0
        self._sealer: tuple[Key, bytes, AESGCM] | None = None
        self._streams: dict[int, dict[int, _Stream]] = {}
        """By node and instance."""
        self._sources: dict[bytes, _Source] = {}
        """By prefix."""
        self._tried: OrderedDict[bytes, AESGCM] = OrderedDict()
        """Ciphers of prefixes under which nothing genuine has come."""
        self._known_keys = keys.keys

    # --- sealing --------------------------------------------------------------------------------

    def seal_burst(self, burst: Burst) -> Burst:
        """*burst*, sealed packet by packet; a train stays one."""
        key = self._keys.used
        if self._sealer is None or self._sealer[0] is not key:
            self._sealer = (key, build_prefix(key.id, self._stamp), self._cipher(key, self._stamp))
        _, prefix, cipher = self._sealer
        packets = burst.packets
        first = self._counter + 1
        self._counter += len(packets)
        if self._counter > COUNTER_MAX:
            raise TransportFailed("this node has sealed as many packets as it may; restart it")
        if type(packets) is Train:
            return Burst(burst.destination, _seal_train(cipher, prefix, first, packets))
        sealed = []
        for counter, packet in enumerate(packets, first):
            number = counter.to_bytes(8)
            head = prefix + number
            sealed.append(head + cipher.encrypt(_NONCE_START + number, packet, head))
        return Burst(burst.destination, sealed)

    def _cipher(self, key: Key, stamp: Stamp) -> AESGCM:
        info = stream_info(*self._place, stamp)
        return AESGCM(HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(key.secret))

    # --- opening --------------------------------------------------------------------------------

    def open_arrivals(self, arrivals: Sequence[Packet | Arrival]) -> list[Packet | Arrival]:
        """What of *arrivals* is genuine and new, without its seals. Never raises."""
        if self._keys.keys != self._known_keys:
            self._follow_keys()
        opened: list[Packet | Arrival] = []
        for data, source in arrivals:
            if isinstance(data, Train):
                whole = self._open_train(data)
                if whole is not None:
                    opened.append(Arrival(whole, source))
                    continue
                packets: Iterable[bytes | memoryview] = data
            else:
                packets = (data,)
            for packet in packets:
                plain = self._open(packet, source)
                if plain is not None:
                    opened.append(Packet(plain, source))
        return opened

    def _open(self, packet: bytes | memoryview, source: Address) -> bytes | None:
        """What is within a packet; None if it is not to be let in."""
        if len(packet) < OVERHEAD_BYTES or not is_sealed(packet):
            if is_sealed(packet):
                self._count("dropped_truncated")
            else:
                self._count("dropped_unsealed")
                self.unsealed_from = source
            return None
        head = bytes(packet[:ENVELOPE_BYTES])
        prefix, number = head[:PREFIX_BYTES], head[PREFIX_BYTES:]
        counter = int.from_bytes(number)
        known = self._sources.get(prefix)
        envelope = None
        if known is not None:
            if not known.stream.is_new(counter):
                self._count("dropped_replay")
                return None
            cipher = known.cipher
        else:
            envelope = self._examine(prefix, counter, source)
            if envelope is None:
                return None
            cipher = self._try(prefix, envelope)
        try:
            plain = cipher.decrypt(_NONCE_START + number, packet[ENVELOPE_BYTES:], head)
        except InvalidTag:
            self._count("dropped_seal")
            return None
        if known is None:
            assert envelope is not None
            known = self._let_in(prefix, envelope.stamp, counter, cipher)
        known.stream.take(counter)
        return plain

    def _open_train(self, train: Train) -> Train | None:
        """What is within a train of one known stream, if all of it is genuine and new; else None,
        and its packets are to be looked at one by one."""
        view, size = train.view, train.packet_bytes
        prefix = bytes(view[:PREFIX_BYTES])
        known = self._sources.get(prefix)
        if known is None or size <= OVERHEAD_BYTES or len(view) % size == OVERHEAD_BYTES:
            return None  # nor is there a train of empty packets, or with one at its end
        cipher, stream = known
        count = len(train)
        first = int.from_bytes(view[PREFIX_BYTES:ENVELOPE_BYTES])
        end = first + count
        if first <= stream.highest or end > COUNTER_MAX:
            return None
        # Each of these is one call for all packets: a loop costs more than the seals do.
        rest = (len(view) - 1) % size + 1 - ENVELOPE_BYTES
        if rest < TAG_BYTES:
            return None
        columns = _envelopes(count, size - ENVELOPE_BYTES, rest).unpack(view)
        numbers = _numbers(first, end)
        heads = [prefix + number for number in numbers]
        if list(columns[::2]) != heads:
            return None
        nonces = [_NONCE_START + number for number in numbers]
        try:
            plain = b"".join(map(cipher.decrypt, nonces, columns[1::2], heads))
        except InvalidTag:
            return None
        stream.take(first)
        stream.highest = end - 1
        return Train(plain, size - OVERHEAD_BYTES)

    def _examine(self, prefix: bytes, counter: int, source: Address) -> Envelope | None:
        """Whether a prefix that is not known may be one that is worth trying; None if not."""
        envelope = read_prefix(prefix)
        if envelope is None:
            self._count("dropped_version")
            return None
        stamp = envelope.stamp
        if self._keys.find(envelope.key_id) is None:
            self._count("dropped_key")
            if envelope.key_id in self.strangers or len(self.strangers) < STRANGERS_MAX:
                self.strangers[envelope.key_id] = (stamp.node, source)
            return None
        if (stamp.node, stamp.instance) == self._stamp[:2]:
            self._count("dropped_own")  # of this life or a former one
            return None
        instances = self._streams.get(stamp.node)
        if instances is None:
            if len(self._streams) >= SENDERS_MAX:
                self._count("dropped_senders")
                return None
            return envelope
        stream = instances.get(stamp.instance)
        if stream is None:
            # Who is met for the first time is no older than those who were met before: what was
            # recorded of a former instance must not be taken for another that runs.
            late = stamp.life < max(each.life for each in instances.values())
        else:
            age = (stamp.life, stamp.opening)
            known = (stream.life, stream.opening)
            late = age < known or (age == known and not stream.is_new(counter))
        if late:
            self._count("dropped_replay")
            return None
        return envelope

    def _try(self, prefix: bytes, envelope: Envelope) -> AESGCM:
        """The cipher of a prefix under which nothing genuine has come."""
        cipher = self._tried.get(prefix)
        if cipher is None:
            key = self._keys.find(envelope.key_id)
            assert key is not None
            cipher = self._tried[prefix] = self._cipher(key, envelope.stamp)
            if len(self._tried) > CIPHERS_MAX:
                self._tried.popitem(last=False)
        return cipher

    def _let_in(self, prefix: bytes, stamp: Stamp, counter: int, cipher: AESGCM) -> _Source:
        """Know the stream from now on; its first genuine packet has come."""
        self._tried.pop(prefix, None)
        instances = self._streams.setdefault(stamp.node, {})
        stream = instances.get(stamp.instance)
        if stream is None or (stream.life, stream.opening) != (stamp.life, stamp.opening):
            stream = instances[stamp.instance] = _Stream(stamp, counter)
            if len(instances) > INSTANCES_MAX:
                del instances[min(instances, key=lambda each: instances[each].life)]
            current = {id(each) for them in self._streams.values() for each in them.values()}
            self._sources = {
                each: source
                for each, source in self._sources.items()
                if id(source.stream) in current
            }
        known = self._sources[prefix] = _Source(cipher, stream)
        return known

    def _follow_keys(self) -> None:
        self._known_keys = self._keys.keys
        self._tried.clear()
        self._sources = {
            prefix: source
            for prefix, source in self._sources.items()
            if (envelope := read_prefix(prefix)) is not None
            and self._keys.find(envelope.key_id) is not None
        }
        for key in self._known_keys:
            self.strangers.pop(key.id, None)

    def _count(self, name: str) -> None:
        self.counters[name] = self.counters.get(name, 0) + 1


def _seal_train(cipher: AESGCM, prefix: bytes, first: int, train: Train) -> Train:
    size, count = train.packet_bytes, len(train)
    # Each of these is one call for all packets: a loop costs as much as the seals do.
    last = len(train.view) - (count - 1) * size
    packets = _packets(count, size, last).unpack(train.view)
    numbers = _numbers(first, first + count)
    heads = [prefix + number for number in numbers]
    nonces = [_NONCE_START + number for number in numbers]
    pieces = [b""] * (2 * len(heads))
    pieces[::2] = heads
    pieces[1::2] = map(cipher.encrypt, nonces, packets, heads)
    return Train(b"".join(pieces), size + OVERHEAD_BYTES)


def _numbers(first: int, end: int) -> tuple[bytes, ...]:
    """The counters from *first* up to *end*, as they stand in envelopes."""
    count = end - first
    packed = struct.pack(f">{count}Q", *range(first, end))
    return struct.unpack("8s" * count, packed)


@lru_cache(SHAPES_KNOWN_MAX)
def _packets(count: int, packet_bytes: int, last_bytes: int) -> struct.Struct:
    """Reads a train of so many packets."""
    return struct.Struct(f"{packet_bytes}s" * (count - 1) + f"{last_bytes}s")


@lru_cache(SHAPES_KNOWN_MAX)
def _envelopes(count: int, sealed_bytes: int, last_bytes: int) -> struct.Struct:
    """Reads a train of so many packets: of each the envelope, and what is sealed."""
    each = f"{ENVELOPE_BYTES}s{sealed_bytes}s"
    return struct.Struct(each * (count - 1) + f"{ENVELOPE_BYTES}s{last_bytes}s")

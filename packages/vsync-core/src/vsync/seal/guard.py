"""Guard: seals what leaves a node, and lets in what is genuine and new.

AES-256-GCM, NIST SP 800-38D. Each stream has a key of its own, derived from the ring's with HKDF
(RFC 5869), and counts its packets: so a nonce never repeats under a key, whatever happens to clocks
and disks. Nothing of a packet is looked at before its seal is found to be good, but the envelope.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vsync.errors import TransportFailed
from vsync.keys import KEY_BYTES, Key, KeyRing
from vsync.seal.cipher import OVERHEAD_BYTES, Cipher
from vsync.seal.envelope import (
    COUNTER_MAX,
    ENVELOPE_BYTES,
    PREFIX_BYTES,
    Envelope,
    Stamp,
    build_prefix,
    is_sealed,
    read_prefix,
    stream_info,
)
from vsync.train import Train
from vsync.transport import Address, Arrival, Burst, Packet

WINDOW: Final = 4096
"""A packet may come so many packets late."""

SENDERS_MAX: Final = 1024
INSTANCES_MAX: Final = 4
"""Of one node number: more than one is a mistake, or a node that lost its state."""

CIPHERS_MAX: Final = 256
"""Ciphers of prefixes under which nothing genuine has come yet; forged ones end here."""

STRANGERS_MAX: Final = 16
"""Others that are remembered by name."""


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

    cipher: Cipher
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
        self._sealer: tuple[Key, bytes, Cipher] | None = None
        self._streams: dict[int, dict[int, _Stream]] = {}
        """By node and instance."""
        self._sources: dict[bytes, _Source] = {}
        """By prefix."""
        self._tried: OrderedDict[bytes, Cipher] = OrderedDict()
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
            size = packets.packet_bytes
            whole = cipher.seal_train(prefix, first, packets.buffer, size)
            return Burst(burst.destination, Train(whole, size + OVERHEAD_BYTES))
        sealed = [cipher.seal(prefix, *each) for each in enumerate(packets, first)]
        return Burst(burst.destination, sealed)

    def _cipher(self, key: Key, stamp: Stamp) -> Cipher:
        info = stream_info(*self._place, stamp)
        return Cipher(HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(key.secret))

    # --- opening --------------------------------------------------------------------------------

    def open_arrivals(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        """What of *arrivals* is genuine and new, without its seals. Never raises."""
        if self._keys.keys != self._known_keys:
            self._follow_keys()
        opened: list[Arrival] = []
        for data, source in arrivals:
            if type(data) is Train:
                whole = self._open_train(data)
                if whole is not None:
                    opened.append((whole, source))
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
        prefix = bytes(packet[:PREFIX_BYTES])
        counter = int.from_bytes(packet[PREFIX_BYTES:ENVELOPE_BYTES])
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
        plain = cipher.open(packet)
        if plain is None:
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
        if known is None:
            return None
        cipher, stream = known
        first = int.from_bytes(view[PREFIX_BYTES:ENVELOPE_BYTES])
        end = first + len(train)
        if first <= stream.highest or end > COUNTER_MAX:
            return None
        plain = cipher.open_train(prefix, first, train.buffer, size)
        if plain is None:
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

    def _try(self, prefix: bytes, envelope: Envelope) -> Cipher:
        """The cipher of a prefix under which nothing genuine has come."""
        cipher = self._tried.get(prefix)
        if cipher is None:
            key = self._keys.find(envelope.key_id)
            assert key is not None
            cipher = self._tried[prefix] = self._cipher(key, envelope.stamp)
            if len(self._tried) > CIPHERS_MAX:
                self._tried.popitem(last=False)
        return cipher

    def _let_in(self, prefix: bytes, stamp: Stamp, counter: int, cipher: Cipher) -> _Source:
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

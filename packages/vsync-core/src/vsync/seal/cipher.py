"""Cipher: AES-256-GCM under the key of one stream, a packet or a whole train at a time.

Who calls it sees to it that no counter is used twice. ``vsync-speedups`` has the same over
IPsec-MB or OpenSSL: one call and one buffer for a train.
"""

import struct
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vsync.seal.envelope import ENVELOPE_BYTES, PREFIX_BYTES, TAG_BYTES

LIBRARY: Final = "cryptography"
"""What has AES-GCM here."""

OVERHEAD_BYTES: Final = ENVELOPE_BYTES + TAG_BYTES
"""What a seal adds to a packet."""

SHAPES_KNOWN_MAX: Final = 64
"""So many shapes of trains are remembered."""

_NONCE_START: Final = bytes(4)


class Cipher:
    """Seals and opens what belongs to the stream whose key is *secret*, 32 bytes."""

    __slots__ = ("_decrypt", "_encrypt")

    def __init__(self, secret: bytes) -> None:
        cipher = AESGCM(secret)
        self._encrypt, self._decrypt = cipher.encrypt, cipher.decrypt

    def seal(self, prefix: bytes, counter: int, packet: bytes | memoryview) -> bytes:
        """*packet*, sealed, behind its envelope: *prefix* and *counter*."""
        number = counter.to_bytes(8)
        head = prefix + number
        return head + self._encrypt(_NONCE_START + number, packet, head)

    def open(self, packet: bytes | memoryview) -> bytes | None:
        """What is within a sealed packet; None if it is not genuine."""
        if len(packet) < OVERHEAD_BYTES:
            return None
        head = bytes(packet[:ENVELOPE_BYTES])
        nonce = _NONCE_START + head[PREFIX_BYTES:]
        try:
            return self._decrypt(nonce, packet[ENVELOPE_BYTES:], head)
        except InvalidTag:
            return None

    def seal_train(
        self, prefix: bytes, first: int, packets: bytes | memoryview, packet_bytes: int
    ) -> bytes:
        """*packets* of that size, one behind the other, each sealed; counted from *first* on.

        The last one may be shorter; there is one at least.
        """
        # Each of these is one call for all packets: a loop costs as much as the seals do.
        count = -(-len(packets) // packet_bytes)
        last = len(packets) - (count - 1) * packet_bytes
        texts = _packets(count, packet_bytes, last).unpack(packets)
        numbers = _numbers(first, first + count)
        heads = [prefix + number for number in numbers]
        nonces = [_NONCE_START + number for number in numbers]
        pieces = [b""] * (2 * count)
        pieces[::2] = heads
        pieces[1::2] = map(self._encrypt, nonces, texts, heads)
        return b"".join(pieces)

    def open_train(
        self, prefix: bytes, first: int, packets: bytes | memoryview, packet_bytes: int
    ) -> bytes | None:
        """What is within sealed packets of that size, one behind the other.

        None if one of them is not genuine, is not counted as its place says, or has less than a
        byte within.
        """
        last = (len(packets) - 1) % packet_bytes + 1
        if packet_bytes <= OVERHEAD_BYTES or last <= OVERHEAD_BYTES:
            return None
        count = -(-len(packets) // packet_bytes)
        columns = _envelopes(count, packet_bytes, last).unpack(packets)
        numbers = _numbers(first, first + count)
        heads = [prefix + number for number in numbers]
        if list(columns[::2]) != heads:
            return None
        nonces = [_NONCE_START + number for number in numbers]
        try:
            return b"".join(map(self._decrypt, nonces, columns[1::2], heads))
        except InvalidTag:
            return None


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
def _envelopes(count: int, packet_bytes: int, last_bytes: int) -> struct.Struct:
    """Reads a train of so many sealed packets: of each the envelope, and what is sealed."""
    each = f"{ENVELOPE_BYTES}s{packet_bytes - ENVELOPE_BYTES}s"
    return struct.Struct(each * (count - 1) + f"{ENVELOPE_BYTES}s{last_bytes - ENVELOPE_BYTES}s")

"""The messages that all peers send here, and how a receiver sees that each is the right one.

A message is filling, then a trailer: sender, kind, counter, time of sending, and the CRC-32 of all
before. ``cpg_peer.c`` has the same in C.
"""

import os
import struct
import zlib
from array import array
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final

from vsync import checksum

TRAILER: Final = struct.Struct("<IIQQ")
CRC: Final = struct.Struct("<I")
TRAILER_BYTES: Final = TRAILER.size + CRC.size
PROBE_BYTES: Final = 64
LARGE_BYTES: Final = 1024
RESIDUE: Final = 0x2144DF1C
"""The CRC-32 of anything with its own CRC-32 behind it."""


class Kind(IntEnum):
    """What a message is for."""

    BULK = 0
    PROBE = 1


class WrongMessage(Exception):
    """What was delivered is not what was sent."""


def checksum_for(size: int) -> Callable[[bytes], int]:
    """CRC-32 for messages of that size: that of ``vsync-speedups`` is quick, but starts late."""
    return checksum.crc32 if size >= LARGE_BYTES else zlib.crc32


class Maker:
    """Makes the messages of one sender and kind, in order."""

    def __init__(self, sender: int, kind: Kind, size: int) -> None:
        self._counter = 0
        self._sender = sender
        self._kind = int(kind)
        self._filling = os.urandom(size - TRAILER_BYTES)
        self._filled_crc = zlib.crc32(self._filling)

    def make(self, sent_ns: int = 0) -> bytes:
        trailer = TRAILER.pack(self._sender, self._kind, self._counter, sent_ns)
        self._counter += 1
        # One copy of the filling a message, and no checksum over it: as in C.
        crc = CRC.pack(zlib.crc32(trailer, self._filled_crc))
        return b"".join((self._filling, trailer, crc))

    def make_all(self, count: int) -> list[bytes]:
        """The next *count* messages: what ``make`` gives, without a call for each."""
        pack, pack_crc, crc32, join = TRAILER.pack, CRC.pack, zlib.crc32, b"".join
        sender, kind, filling, filled = self._sender, self._kind, self._filling, self._filled_crc
        first, self._counter = self._counter, self._counter + count
        trailers = [pack(sender, kind, counter, 0) for counter in range(first, first + count)]
        return [join((filling, trailer, pack_crc(crc32(trailer, filled)))) for trailer in trailers]


class Checker:
    """Sees that every message is whole, of the right length, and the next of its sender."""

    def __init__(self, size: int) -> None:
        self._sizes = (size, PROBE_BYTES)
        self._checksum = checksum_for(size)
        self._expected: dict[int, int] = {}

    def check(self, payload: bytes, node: int) -> int:
        """When *node* sent this probe, or 0 if it is none. Raises WrongMessage."""
        if zlib.crc32(payload) != RESIDUE:
            raise WrongMessage(f"a message with a wrong checksum, from node {node}")
        sender, kind, counter, sent_ns = TRAILER.unpack_from(payload, len(payload) - TRAILER_BYTES)
        stream = sender << 1 | kind
        expected = self._expected.get(stream, 0)
        if counter != expected or sender != node:
            raise WrongMessage(
                f"message {counter} of node {sender} came from node {node} instead of {expected}: "
                "lost, repeated or out of order"
            )
        if len(payload) != self._sizes[kind]:
            raise WrongMessage(f"a message of {len(payload)} bytes, from node {node}")
        self._expected[stream] = counter + 1
        return int(sent_ns)

    def check_all(self, payloads: Sequence[bytes], node: int) -> None:
        """As ``check``, for messages of one node that came together, and are no probes."""
        stream = node << 1 | Kind.BULK
        count, first = len(payloads), self._expected.get(stream, 0)
        trailers = [payload[-TRAILER_BYTES : -CRC.size] for payload in payloads]
        found = array("Q", b"".join(trailers))  # sender and kind, counter, time: of each
        expected = array("Q", bytes(found.itemsize * len(found)))
        expected[::3] = array("Q", TRAILER.pack(node, Kind.BULK, 0, 0)[: expected.itemsize]) * count
        expected[1::3] = array("Q", range(first, first + count))
        if (
            found == expected
            and set(map(len, payloads)) == {self._sizes[Kind.BULK]}
            and set(map(self._checksum, payloads)) == {RESIDUE}
        ):
            self._expected[stream] = first + count
            return
        for payload in payloads:  # one of them is wrong, and will say how
            self.check(payload, node)

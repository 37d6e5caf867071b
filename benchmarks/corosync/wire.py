"""The messages that all peers send here, and how a receiver sees that each is the right one.

A message is filling, then a trailer: sender, kind, counter, time of sending, and the CRC-32 of all
before. ``cpg_peer.c`` has the same in C.
"""

import os
import struct
import zlib
from enum import IntEnum
from typing import Final

TRAILER: Final = struct.Struct("<IIQQ")
CRC: Final = struct.Struct("<I")
TRAILER_BYTES: Final = TRAILER.size + CRC.size
PROBE_BYTES: Final = 64
RESIDUE: Final = 0x2144DF1C
"""The CRC-32 of anything with its own CRC-32 behind it."""


class Kind(IntEnum):
    """What a message is for."""

    BULK = 0
    PROBE = 1


class WrongMessage(Exception):
    """What was delivered is not what was sent."""


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


class Checker:
    """Sees that every message is whole, of the right length, and the next of its sender."""

    def __init__(self, size: int) -> None:
        self._sizes = (size, PROBE_BYTES)
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

"""Sealed packets: only who has the ring's key can read, write, change or repeat them.

Sans-IO: keys come from ``vsync.key_file``; and ``vsync.transports.sealed`` has the packets.
"""

from vsync.seal.cipher import OVERHEAD_BYTES
from vsync.seal.envelope import ENVELOPE_BYTES, Envelope, Stamp, is_sealed
from vsync.seal.guard import Guard

__all__ = [
    "ENVELOPE_BYTES",
    "OVERHEAD_BYTES",
    "Envelope",
    "Guard",
    "Stamp",
    "is_sealed",
]

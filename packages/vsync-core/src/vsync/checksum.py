"""The checksum of packets: CRC-32.

That of ``isal`` has the processor's own instructions do it, and takes a twentieth of the time that
zlib's does. It comes with the core where there is a wheel of it; elsewhere zlib's gives the same.
"""

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]

"""The checksum of packets: CRC-32, as of zlib; ``vsync-speedups`` brings a faster one of the same."""

from zlib import crc32

__all__ = ["crc32"]

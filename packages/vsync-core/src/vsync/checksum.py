"""The checksum of packets: CRC-32. ``vsync-speedups`` brings a function that is faster at it."""

from zlib import crc32

__all__ = ["crc32"]

"""The checksum of packets: CRC-32, with the instructions that processors have for it."""

from isal.isal_zlib import crc32

__all__ = ["crc32"]

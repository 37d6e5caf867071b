"""The checksum of packets is CRC-32, whichever library it comes from."""

import subprocess
import sys
import zlib

import isal.isal_zlib
from hypothesis import given
from hypothesis import strategies as st

from vsync import checksum

ASK_WITHOUT = """
import sys
sys.modules["isal"] = None
from vsync import checksum
print(checksum.crc32.__module__, checksum.crc32(b"123456789"))
"""


@given(st.binary(max_size=3000), st.integers(0, 2**32 - 1))
def test_checksums_are_those_of_zlib(data: bytes, start: int) -> None:
    assert checksum.crc32(data) == zlib.crc32(data)
    assert checksum.crc32(memoryview(data), start) == zlib.crc32(data, start)


def test_the_faster_one_is_in_use() -> None:
    assert checksum.crc32 is isal.isal_zlib.crc32


def test_where_the_faster_one_is_missing_zlib_takes_its_place() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK_WITHOUT], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["zlib", str(zlib.crc32(b"123456789"))]

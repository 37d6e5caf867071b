"""The checksum of packets is CRC-32, whichever library it comes from."""

import os
import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync import checksum

ASK = """
from vsync import checksum
print(checksum.crc32.__module__, checksum.crc32(b"123456789"))
"""
HIDE = """
import sys
sys.modules["isal"] = None
"""


def ask(question: str) -> list[str]:
    """What a program says that has no compiled modules."""
    done = subprocess.run(
        [sys.executable, "-c", question],
        env={**os.environ, "VSYNC_PURE": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.split()


@given(st.binary(max_size=3000), st.integers(0, 2**32 - 1))
def test_checksums_are_those_of_zlib(data: bytes, start: int) -> None:
    assert checksum.crc32(data) == zlib.crc32(data)
    assert checksum.crc32(memoryview(data), start) == zlib.crc32(data, start)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 63, 64, 65, 79, 80, 127, 128, 1472, 65_536, 65_551])
def test_so_they_are_at_the_sizes_where_the_way_of_it_changes(size: int) -> None:
    data = bytes(number * number % 251 for number in range(size))
    assert checksum.crc32(data) == zlib.crc32(data)
    assert checksum.crc32(data, 2**32 - 1) == zlib.crc32(data, 2**32 - 1)


def test_the_faster_one_is_in_use() -> None:
    assert ask(ASK) == ["isal.isal_zlib", str(zlib.crc32(b"123456789"))]


def test_where_the_faster_one_is_missing_zlib_takes_its_place() -> None:
    assert ask(HIDE + ASK) == ["zlib", str(zlib.crc32(b"123456789"))]

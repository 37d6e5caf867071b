"""A frame's content in packets, and out of them again."""

import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync.checksum import crc32
from vsync.copying import content_of, joined, packets_of, view_of

NUMBERS = [b"0", b"1", b"2"]


def test_what_is_cut_stands_behind_heads_and_numbers() -> None:
    for begin, rest in (
        (b"abcdefgh", b""),
        (b"", b"abcdefgh"),
        (b"abcd", b"efgh"),
        (b"a", b"bcdefgh"),
    ):
        assert packets_of(b"<>", NUMBERS, begin, rest, 3) == b"<>0abc<>1def<>2gh"


@pytest.mark.parametrize("begin", range(13))
def test_it_makes_no_difference_where_the_content_is_split(begin: int) -> None:
    content = b"all of this."
    made = packets_of(b"", NUMBERS, content[:begin], memoryview(content)[begin:], 4)
    assert made == b"0all 1of t2his."


@given(st.binary(max_size=5), st.binary(min_size=1, max_size=300), st.integers(1, 50))
def test_what_was_cut_is_put_together_again(head: bytes, content: bytes, size: int) -> None:
    numbers = [b"%03d" % number for number in range(-(-len(content) // size))]
    packets = packets_of(head, numbers, content, b"", size)
    found = content_of(packets, len(head) + 3 + size, len(head) + 3)
    assert len(found) == len(content)
    assert bytes(found) == content


@given(
    st.binary(min_size=1, max_size=300),
    st.integers(0, 5),
    st.integers(1, 50),
    st.lists(st.integers(0, 300), max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_a_content_is_cut_summed_up_and_joined_as_bytes_are(
    packets: bytes, head: int, size: int, cuts: list[int], start: int
) -> None:
    """Whatever came; so the last packet may end within its head."""
    content = content_of(packets, head + size, head)
    places = range(0, len(packets), head + size)
    plain = b"".join(packets[place : place + head + size][head:] for place in places)
    del packets
    view = view_of(content)
    borders = sorted({0, len(plain), *(cut % (len(plain) + 1) for cut in cuts)})
    pieces = [view[one:other] for one, other in pairwise(borders)]
    for piece, (one, other) in zip(pieces, pairwise(borders), strict=True):
        assert len(piece) == other - one
        assert crc32(piece, start) == zlib.crc32(plain[one:other], start)
        assert [piece[at] for at in range(len(piece))] == list(plain[one:other])
        assert bytes(piece[1:][:-1]) == plain[one:other][1:-1]
    assert joined(pieces) == plain
    assert crc32(content, start) == zlib.crc32(plain, start)
    assert bytes(content) == plain == joined(pieces)
    for outside in (len(plain), -len(plain) - 1):
        with pytest.raises(IndexError):
            view[outside]


@pytest.mark.parametrize("size", [*range(1, 70), 127, 128, 129, 1414])
def test_the_checksum_goes_on_over_the_borders_of_packets(size: int) -> None:
    content = bytes(number * 7 % 251 for number in range(5000))
    numbers = [b"#"] * -(-len(content) // size)
    packets = packets_of(b"head", numbers, content, b"", size)
    assert crc32(content_of(packets, 5 + size, 5)) == zlib.crc32(content)

"""A frame's content in packets, and out of them again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync.copying import content_of, packets_of

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
    assert content_of(packets, len(head) + 3 + size, len(head) + 3) == content

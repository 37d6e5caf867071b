"""Batches that are too large to be accepted in one go."""

from itertools import pairwise

import hypothesis.strategies as some
from hypothesis import given

from vsync.api.parts import parts_of
from vsync.runtime.driver import MESSAGES_PER_TURN

SIZES = some.integers(0, 40).map(bytes)


@given(some.lists(SIZES), some.integers(1, 100))
def test_parts_are_the_batch_in_order_and_as_large_as_they_may_be(
    payloads: list[bytes], size_max: int
) -> None:
    parts = list(parts_of(payloads, size_max))
    assert [payload for part in parts for payload in part] == payloads
    assert all(parts)
    for part in parts:
        assert sum(map(len, part)) <= size_max or len(part) == 1
    for part, following in pairwise(parts):
        assert sum(map(len, [*part, following[0]])) > size_max


def test_no_part_has_more_messages_than_a_turn_of_the_ring_takes() -> None:
    parts = parts_of([b""] * (2 * MESSAGES_PER_TURN + 1), 1000)
    assert list(map(len, parts)) == [MESSAGES_PER_TURN, MESSAGES_PER_TURN, 1]

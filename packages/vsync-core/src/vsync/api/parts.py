"""Parts: a batch of messages, cut into what the ring accepts in one go."""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate

from vsync.runtime.driver import MESSAGES_PER_TURN


def parts_of(payloads: list[bytes], size_max: int) -> Iterator[list[bytes]]:
    """*payloads* in parts of at most *size_max* bytes; a larger payload is one by itself."""
    ends = list(accumulate(map(len, payloads)))
    first = size_before = 0
    while first < len(payloads):
        fitting = bisect_right(ends, size_before + size_max)
        end = min(max(first + 1, fitting), first + MESSAGES_PER_TURN)
        yield payloads[first:end]
        first, size_before = end, ends[end - 1]

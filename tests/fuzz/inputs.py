"""Bytes to try: noise, and sensible bytes with changes."""

from collections.abc import Sequence

from hypothesis import strategies as st

LIKELY = (0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF)


def inputs(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Noise; or one of *seeds*, changed in some places, cut short, or with another behind it."""
    edits = st.lists(
        st.tuples(st.integers(0, 2**16), st.sampled_from(LIKELY) | st.integers(0, 255)), max_size=6
    )
    seed = st.sampled_from(list(seeds))
    changed = st.builds(change, seed, edits, st.none() | st.integers(0, 400), st.just(b"") | seed)
    return st.one_of(changed, changed, st.binary(max_size=400))


def change(seed: bytes, edits: Sequence[tuple[int, int]], size: int | None, behind: bytes) -> bytes:
    """*seed* with some bytes replaced, cut to *size*, and *behind* it another."""
    data = bytearray(seed)
    for place, value in edits:
        if data:
            data[place % len(data)] = value
    return bytes(data[:size]) + behind

"""A train is the sequence of its packets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync.transport import Train

trains = st.builds(Train, st.binary(max_size=300), st.integers(1, 310))


def cut(train: Train) -> list[bytes]:
    data, size = bytes(train.buffer), train.packet_bytes
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(trains)
def test_a_train_is_the_sequence_of_its_packets(train: Train) -> None:
    packets = cut(train)
    assert train == packets
    assert len(train) == len(packets)
    assert [train[place] for place in range(-len(packets), len(packets))] == packets * 2
    assert list(reversed(train)) == packets[::-1]
    for place in (len(packets), -len(packets) - 1):
        with pytest.raises(IndexError):
            train[place]


@given(trains, st.integers(-20, 20) | st.none(), st.integers(-20, 20) | st.none())
def test_a_part_of_a_train_is_a_train(train: Train, start: int | None, stop: int | None) -> None:
    part = train[start:stop]
    assert isinstance(part, Train)
    assert part == cut(train)[start:stop]


def test_a_train_has_no_gaps() -> None:
    with pytest.raises(ValueError, match="one behind the other"):
        Train(b"abc", 1)[::2]

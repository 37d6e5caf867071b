"""Work requests point where a device should look, and are chained as a batch."""

import ctypes
import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync_transport_ib.rdma_core import RECEIVE_WR, SEND_SIGNALED, SEND_WR, SGE, Pointer
from vsync_transport_ib.verbs import GRH_BYTES
from vsync_transport_ib.work import Work

RECEIVES, SENDS, SIZE = 8, 6, 100
KEY = 77


@pytest.fixture(scope="module")
def work() -> Iterator[Work]:
    made = Work(RECEIVES, SENDS, SIZE)
    made.write_requests(KEY)
    yield made
    made.close()


def element(address: Pointer) -> tuple[Pointer, int, int]:
    """Where a list of one element points, how long that is, and its key."""
    at, length, key = SGE.unpack(ctypes.string_at(address, SGE.size))
    return at, length, key


def sends(first: Pointer) -> list[tuple[int, bytes, int, int, int, int]]:
    """What a device would send: slot, bytes, flags, handle, queue pair, Q_Key."""
    found, address = [], first
    while address:
        raw = ctypes.string_at(address, SEND_WR.size)
        slot, address, listed, count, _, flags, _, handle, qpn, qkey = SEND_WR.unpack(raw)
        assert count == 1
        at, length, key = element(listed)
        assert key == KEY
        found.append((slot, ctypes.string_at(at, length), flags, handle, qpn, qkey))
    return found


def receives(first: Pointer) -> list[tuple[int, Pointer, int]]:
    """What a device would receive into: slot, place, room."""
    found, address = [], first
    while address:
        slot, address, listed, count = RECEIVE_WR.unpack(ctypes.string_at(address, RECEIVE_WR.size))
        assert count == 1
        at, length, key = element(listed)
        assert key == KEY
        found.append((slot, at, length))
    return found


@given(
    first=st.integers(0, SENDS - 1),
    messages=st.lists(st.binary(max_size=SIZE), min_size=1, max_size=SENDS),
)
def test_a_batch_is_a_chain_around_the_end_and_only_its_last_is_signalled(
    work: Work, first: int, messages: list[bytes]
) -> None:
    address, last = work.chain_sends(first, messages, 5, 6, 7)
    slots = [(first + index) % SENDS for index in range(len(messages))]
    flags = [0] * (len(messages) - 1) + [SEND_SIGNALED]
    assert last == slots[-1]
    assert sends(address) == [
        (slot, message, flag, 5, 6, 7)
        for slot, message, flag in zip(slots, messages, flags, strict=True)
    ]


@given(slots=st.permutations(range(RECEIVES)).flatmap(lambda p: st.just(p[: 1 + p[0]])))
def test_receives_are_chained_in_the_order_given(work: Work, slots: list[int]) -> None:
    found = receives(work.chain_receives(slots))
    assert [slot for slot, _, _ in found] == slots
    assert all(room == GRH_BYTES + SIZE for _, _, room in found)
    places = sorted(at for _, at, _ in found)
    assert all(b - a >= GRH_BYTES + SIZE for a, b in itertools.pairwise(places))
    assert places[0] >= work.base
    assert places[-1] + GRH_BYTES + SIZE <= work.base + work.bytes


def test_what_a_device_wrote_is_copied_without_its_header(work: Work) -> None:
    ((_, at, _),) = receives(work.chain_receives([3]))
    written = b"H" * GRH_BYTES + b"message"
    ctypes.memmove(at, written, len(written))
    header, data = work.received(3, len(written))
    assert (header, data) == (b"H" * GRH_BYTES, b"message")
    ctypes.memmove(at, bytes(60), 60)
    assert data == b"message"


def test_sends_never_lie_where_is_received() -> None:
    work = Work(RECEIVES, SENDS, SIZE)
    work.write_requests(KEY)
    work.chain_sends(0, [b"x" * SIZE] * SENDS, 1, 2, 3)
    for slot in range(RECEIVES):
        assert work.received(slot, GRH_BYTES + SIZE) == (bytes(GRH_BYTES), bytes(SIZE))
    work.close()
    work.close()

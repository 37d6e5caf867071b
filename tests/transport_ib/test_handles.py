"""Address handles: kept, bounded, and never waited for longer than a moment."""

import threading
import time
from collections.abc import Iterator

import pytest

from tests.network.nodes import eventually
from vsync_transport_ib import handles
from vsync_transport_ib.handles import AddressHandles
from vsync_transport_ib.rdma_core import Pointer
from vsync_transport_ib.verbs import Peer


def peer(number: int) -> Peer:
    return Peer(number.to_bytes(16, "big"), number)


class Device:
    """Makes handles, which are the numbers of peers; some peers answer only when they may."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.destroyed: list[Pointer] = []
        self.may_answer = threading.Event()
        self.slow: set[int] = set()
        self.gone: set[int] = set()

    def create(self, peer: Peer) -> Pointer | None:
        if peer.qpn in self.slow:
            self.may_answer.wait(10)
        if peer.qpn in self.gone:
            return None
        self.made.append(peer.qpn)
        return peer.qpn


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.may_answer.set()


def test_a_handle_is_made_once(device: Device) -> None:
    found = AddressHandles(device.create, device.destroyed.append, slow=False)
    assert [found.find(peer(1)), found.find(peer(2)), found.find(peer(1))] == [1, 2, 1]
    assert device.made == [1, 2]
    found.close()
    assert sorted(device.destroyed) == [1, 2]


def test_a_peer_that_does_not_answer_holds_up_nobody(device: Device) -> None:
    device.slow.add(1)
    found = AddressHandles(device.create, device.destroyed.append, slow=True)
    before = time.monotonic()
    assert found.find(peer(1)) is None
    for _ in range(100):
        assert found.find(peer(1)) is None
    assert time.monotonic() - before < 5, "it waited each time"
    eventually(lambda: found.find(peer(2)) == 2, "another peer's handle")
    device.may_answer.set()
    eventually(lambda: found.find(peer(1)) == 1, "the handle, once the peer answered")
    found.close()
    assert sorted(device.destroyed) == [1, 2]


def test_a_peer_that_cannot_be_reached_is_tried_again(device: Device) -> None:
    device.gone.add(1)
    found = AddressHandles(device.create, device.destroyed.append, slow=True)
    for _ in range(20):
        assert found.find(peer(1)) is None
    device.gone.clear()
    eventually(lambda: found.find(peer(1)) == 1, "the handle, once there is a way")
    found.close()


def test_handles_are_bounded_and_the_oldest_goes(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "HANDLES_MAX", 3)
    found = AddressHandles(device.create, device.destroyed.append, slow=False)
    for number in (1, 2, 3, 1, 4):
        assert found.find(peer(number)) == number
    assert device.destroyed == [2]
    found.close()
    assert sorted(device.destroyed) == [1, 2, 3, 4]


def test_a_peer_that_was_heard_has_its_handle_in_the_making(device: Device) -> None:
    device.slow.add(1)
    found = AddressHandles(device.create, device.destroyed.append, slow=True)
    found.prepare(peer(1))
    found.prepare(peer(1))
    device.may_answer.set()
    eventually(lambda: device.made == [1], "the handle made")
    assert found.find(peer(1)) == 1
    found.prepare(peer(1))
    found.close()
    assert device.made == device.destroyed == [1]


def test_who_makes_himself_heard_under_many_names_costs_little(device: Device) -> None:
    device.slow.update(range(1, 1001))
    found = AddressHandles(device.create, device.destroyed.append, slow=True)
    for number in range(1, 1001):
        found.prepare(peer(number))
    assert len(found._coming) == handles.PREPARED_MAX
    device.may_answer.set()
    eventually(lambda: found.find(peer(2000)) == 2000, "the handle of one who is sent to")
    found.close()
    assert sorted(device.destroyed) == sorted(device.made)


def test_closing_destroys_what_was_still_coming(device: Device) -> None:
    device.slow.add(1)
    found = AddressHandles(device.create, device.destroyed.append, slow=True)
    assert found.find(peer(1)) is None
    device.may_answer.set()
    found.close()
    assert device.destroyed == device.made == [1]

"""What is run in the guest: the contract of transports over a kernel's verbs, and devices' ways.

Its name is none that pytest collects by itself; ``test_guest.py`` runs it there, on the devices
that ``add_devices`` of ``tests/guest/nodes.py`` makes: rxe0 to rxe2.
"""

import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address

import pytest

from vsync.testing.contracts import MakeTransport, TransportContract
from vsync.vocabulary import NodeId
from vsync_transport_ib import rdma
from vsync_transport_ib.settings import SettingsIB
from vsync_transport_ib.transport import TransportIB
from vsync_transport_ib.verbs import (
    DEFAULT_QKEY,
    Device,
    Endpoint,
    EventKind,
    ReceiveCompletion,
    Verbs,
)

GROUP = "239.192.77.9"
SLOTS = 64


def shell(command: str) -> None:
    subprocess.run(["/bin/sh", "-c", command], check=True)


class TestIBOverVerbs(TransportContract):
    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        def make(node: NodeId) -> TransportIB:
            settings = SettingsIB(device=f"rxe{node - 1}", group=GROUP, receive_depth=512)
            return TransportIB(settings, node=node)

        return make


@pytest.fixture(scope="module")
def devices() -> dict[str, Device]:
    return {device.name: device for device in rdma.devices()}


Open = Callable[..., Verbs]


@pytest.fixture
def opened(devices: dict[str, Device]) -> Iterator[Open]:
    """Open a device, with all receives posted and the wake-up asked for."""
    made: list[Verbs] = []

    def open_verbs(name: str, *, qkey: int = DEFAULT_QKEY, group: str = GROUP) -> Verbs:
        wanted = ip_address(group)
        (entry,) = [
            entry
            for entry in devices[name].ports[0].gids
            if entry.ip.version == wanted.version and not entry.ip.is_link_local
        ]
        verbs = rdma.open_verbs(
            Endpoint(
                device=name,
                port=1,
                gid_index=entry.index,
                gid=entry.gid,
                group=wanted,
                message_bytes_max=1024,
                receive_slots=SLOTS,
                send_slots=SLOTS,
                qkey=qkey,
            )
        )
        made.append(verbs)
        verbs.post_receives(range(SLOTS))
        verbs.arm()
        return verbs

    yield open_verbs
    for verbs in made:
        verbs.close()


def received(verbs: Verbs, count: int, within_s: float = 5.0) -> Sequence[ReceiveCompletion]:
    """What comes, until there are so many."""
    found: list[ReceiveCompletion] = []
    end = time.monotonic() + within_s
    while len(found) < count and time.monotonic() < end:
        verbs.arm()
        found += verbs.poll_receives(SLOTS)
        if len(found) < count:
            select.select(verbs.descriptors(), [], [], 0.2)
    return found


def awaited(verbs: Verbs, kind: EventKind) -> str:
    """The text of the first event of this kind."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        for event in verbs.events():
            if event.kind is kind:
                return event.text
        select.select(verbs.descriptors(), [], [], 0.1)
    raise AssertionError(f"{kind} never came")


def test_devices_are_described_as_the_kernel_has_them(devices: dict[str, Device]) -> None:
    assert sorted(devices) == ["rxe0", "rxe1", "rxe2"]
    assert list(devices["rxe1"].interfaces) == ["eth1"]
    (port,) = devices["rxe1"].ports
    assert (port.mtu_bytes, port.mtu_bytes_max) == (1024, 4096)
    assert list(port.pkeys) == [0xFFFF]
    assert {entry.kind for entry in port.gids} == {"RoCE v2"}


def test_slots_come_back_in_the_order_in_which_they_went(opened: Open) -> None:
    one, two = opened("rxe0"), opened("rxe1")
    messages = [bytes([number]) * (number + 1) for number in range(SLOTS)]
    one.post_sends(40, messages, two.own)
    found = received(two, SLOTS)
    assert [each.slot for each in found] == list(range(SLOTS))
    assert [each.data for each in found] == messages
    assert {each.source for each in found} == {one.own}
    assert [(each.slot, each.status) for each in one.poll_sends()] == [(39, 0)]


def test_ipv6_carries_to_all_and_to_one(opened: Open) -> None:
    one, two = (opened(name, group="ff15::77:9") for name in ("rxe0", "rxe1"))
    one.post_sends(0, [b"to all"], None)
    (found,) = received(two, 1)
    assert (found.data, found.source) == (b"to all", one.own)
    two.post_sends(0, [b"to one"], found.source)
    answers = [each.data for each in received(one, 2, 2.0)]
    assert b"to one" in answers


def test_a_stranger_with_another_qkey_is_not_heard(opened: Open) -> None:
    one, two = opened("rxe0", qkey=0x11111111), opened("rxe1")
    one.post_sends(0, [b"wrong"], two.own)
    one.post_sends(1, [b"wrong"], None)
    friend = opened("rxe2")
    two.post_sends(0, [b"here I am"], None)
    assert [each.data for each in received(friend, 1)] == [b"here I am"]
    friend.post_sends(0, [b"right"], two.own)
    heard = [each.data for each in received(two, 2) if each.source != two.own]
    assert heard == [b"right"]


def test_a_batch_to_nobody_completes_and_is_counted(opened: Open) -> None:
    one = opened("rxe0")
    nobody = one.own._replace(gid=one.own.gid[:-1] + b"\xc8")
    one.post_sends(0, [b"lost"] * 3, nobody)
    one.post_sends(3, [b"sent"] * 2, None)
    end = time.monotonic() + 5
    done = list(one.poll_sends())
    while len(done) < 2 and time.monotonic() < end:
        done += one.poll_sends()
    assert [each.slot for each in done] == [2, 4]
    assert [bool(each.status) for each in done] == [True, False]
    assert one.status()["counters"]["sends_unreachable"] == 3


def test_a_link_that_goes_down_and_up_is_told_and_carries_again(opened: Open) -> None:
    one, two = opened("rxe0"), opened("rxe1")
    shell("ip link set eth1 down")
    try:
        assert awaited(two, EventKind.PORT_DOWN) == "port 1 of rxe1 went down"
        two.post_sends(0, [b"lost"], None)
        assert [each.slot for each in two.poll_sends()] == [0]
    finally:
        shell("ip link set eth1 up; ip route replace 10.77.0.0/24 dev eth1 table 112")
        shell("ip route replace 224.0.0.0/4 dev eth1 table 112")
    awaited(two, EventKind.PORT_ACTIVE)
    end = time.monotonic() + 20
    found: Sequence[ReceiveCompletion] = ()
    while not found and time.monotonic() < end:
        two.post_sends(1, [b"again"], None)
        two.poll_sends()
        found = received(one, 1, 0.3)
    assert found[0].data == b"again"


def test_an_address_that_goes_ends_the_queue_pair(opened: Open) -> None:
    two = opened("rxe2")
    shell("ip address del 10.77.0.13/24 dev eth2")
    try:
        text = awaited(two, EventKind.FATAL)
        assert text == "port 1 of rxe2 has the address 10.77.0.13 no more"
    finally:
        shell("ip address add 10.77.0.13/24 dev eth2")
        shell("ip route replace 10.77.0.0/24 dev eth2 table 113")
        shell("ip route replace 224.0.0.0/4 dev eth2 table 113")


def test_everything_is_given_back(devices: dict[str, Device], opened: Open) -> None:
    def held() -> str:
        told = subprocess.run(["rdma", "resource"], capture_output=True, text=True, check=True)
        return told.stdout

    before = held()
    for _ in range(3):
        verbs = opened("rxe0")
        assert held() != before
        verbs.close()
        verbs.close()
    assert held() == before

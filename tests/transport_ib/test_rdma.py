"""The provider ``verbs`` over a device that is a fake: accounts, addresses, errors and events.

Real devices are in the guest; what they seldom do is here.
"""

import ctypes
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from types import SimpleNamespace
from typing import Any

import pytest

from vsync.errors import TransportFailed
from vsync_transport_ib import rdma, rdma_events
from vsync_transport_ib.membership import JOINED, LOST, REMOVED, Notice
from vsync_transport_ib.rdma import RdmaVerbs, open_verbs
from vsync_transport_ib.rdma_core import (
    RECEIVE_WR,
    SEND_WR,
    SGE,
    WC,
    AddressAttributes,
    AsyncEvent,
    Pointer,
)
from vsync_transport_ib.verbs import (
    MULTICAST_QPN,
    Endpoint,
    EventKind,
    LinkLayer,
    Peer,
)
from vsync_transport_ib.work import Work

RECEIVES, SENDS, SIZE = 8, 6, 64
RECEIVE_QUEUE, SEND_QUEUE = 1, 2
GROUP_HANDLE, PEER_HANDLE = 501, 502
GENERAL_ERROR, FLUSHED, QP_ERROR = 21, 5, 2


class Device:
    """Stands in for library, queue pair and membership: a device that does what a test says."""

    def __init__(self, layer: LinkLayer = LinkLayer.ETHERNET) -> None:
        self.where = "port 1 of mlx5_0"
        self.layer = layer
        self.lid = 0 if layer is LinkLayer.ETHERNET else 3
        self.qpn = 70
        self.at = self.context = self.protection = 1
        self.receive_queue, self.send_queue = RECEIVE_QUEUE, SEND_QUEUE
        self.channel = SimpleNamespace(contents=SimpleNamespace(fd=10))
        self.port_is_active = True
        self.work = Work(RECEIVES, SENDS, SIZE)
        self.operations = self
        self.async_fd, self.fd = 11, 12
        self.posted: list[int] = []
        self.sent: list[tuple[bytes, Pointer, int]] = []
        self.signalled: list[int] = []
        self.completions: dict[int, list[bytes]] = {RECEIVE_QUEUE: [], SEND_QUEUE: []}
        self.notices: list[Notice] = []
        self.happening: list[tuple[int, int]] = []
        self.attached: list[tuple[bytes, int]] = []
        self.handles: dict[Pointer, AddressAttributes] = {}
        self.gone: set[bytes] = set()
        self.starts = 0
        self.joins = 0
        self.wakeups = 0
        self.notifications = 0
        self.refuse_sends = False
        self.gid_there = True
        self.closed = False

    # Queue pair

    def open(self) -> None:
        self.work.write_requests(9)

    def start(self) -> None:
        self.starts += 1
        self.posted.clear()
        self.signalled.clear()

    def gid_is_there(self) -> bool:
        return self.gid_there

    def close(self) -> None:
        self.closed = True
        self.work.close()

    # Operations

    def poll_cq(self, queue: int, most: int, at: Pointer) -> int:
        taken, self.completions[queue] = (
            self.completions[queue][:most],
            self.completions[queue][most:],
        )
        ctypes.memmove(at, b"".join(taken), WC.size * len(taken))
        return len(taken)

    def post_receive(self, pair: int, first: Pointer, refused: Pointer) -> int:
        while first:
            slot, first, _, _ = RECEIVE_WR.unpack(ctypes.string_at(first, RECEIVE_WR.size))
            self.posted.append(slot)
        return 0

    def post_send(self, pair: int, first: Pointer, refused: Pointer) -> int:
        if self.refuse_sends:
            return 12
        while first:
            found = SEND_WR.unpack(ctypes.string_at(first, SEND_WR.size))
            slot, first, element, _, _, flags, _, handle, qpn, _ = found
            at, length, _ = SGE.unpack(ctypes.string_at(element, SGE.size))
            self.sent.append((ctypes.string_at(at, length), handle, qpn))
            if flags:
                self.signalled.append(slot)
        return 0

    def request_notification(self, queue: int, solicited: int) -> int:
        self.notifications += 1
        return 0

    # Library

    def ibv_create_ah(self, protection: int, asked: Any) -> Pointer | None:
        attributes = AddressAttributes.from_buffer_copy(asked._obj)
        if bytes(attributes.dgid) in self.gone:
            return None
        handle = GROUP_HANDLE + len(self.handles)
        self.handles[handle] = attributes
        return handle

    def ibv_destroy_ah(self, handle: Pointer) -> None:
        self.handles[handle] = AddressAttributes()

    def ibv_attach_mcast(self, pair: int, gid: bytes, lid: int) -> int:
        self.attached.append((gid, lid))
        return 0

    def ibv_detach_mcast(self, pair: int, gid: bytes, lid: int) -> int:
        self.attached.remove((gid, lid))
        return 0

    def ibv_get_cq_event(self, channel: Any, queue: Any, context: Any) -> int:
        self.wakeups -= 1
        return 0 if self.wakeups >= 0 else -1

    def ibv_ack_cq_events(self, queue: int, count: int) -> None:
        pass

    def ibv_get_async_event(self, context: int, raw: Any) -> int:
        if not self.happening:
            return -1
        event = AsyncEvent.from_address(ctypes.addressof(raw._obj))
        event.event_type, event.element = self.happening.pop(0)
        return 0

    def ibv_ack_async_event(self, raw: Any) -> None:
        pass

    def ibv_event_type_str(self, kind: int) -> bytes:
        return b"event %d" % kind

    # Membership

    def join(self) -> None:
        self.joins += 1

    def wait(self, within_s: float) -> AddressAttributes:
        return AddressAttributes(dlid=0xC001, sl=2)

    def take(self) -> Sequence[Notice]:
        notices, self.notices = self.notices, []
        return notices

    # What a test does

    def complete(self, queue: int, slot: int, status: int = 0, **more: int) -> None:
        """Let a request complete."""
        self.completions[queue].append(
            WC.pack(
                *(slot, status, 0, 0, more.get("size", 0), 0, self.qpn, more.get("qpn", 0), 1, 0),
                *(more.get("lid", 0), 0, 0),
            )
        )

    def deliver(self, header: bytes, message: bytes, *, qpn: int = 80, lid: int = 0) -> None:
        """Let a message arrive in the first slot that was posted."""
        slot = self.posted.pop(0)
        stride = -(-(40 + SIZE) // 64) * 64
        ctypes.memmove(self.work.base + slot * stride, header + message, 40 + len(message))
        self.complete(RECEIVE_QUEUE, slot, size=40 + len(message), qpn=qpn, lid=lid)


def ipv4(address: str) -> bytes:
    """The room for the route header, as RoCE over IPv4 leaves it."""
    head = bytearray(40)
    head[20], head[32:36] = 0x45, IPv4Address(address).packed
    return bytes(head)


def ipv6(address: str) -> bytes:
    """A route header; that of InfiniBand and of RoCE over IPv6."""
    return b"\x60" + bytes(7) + IPv6Address(address).packed + bytes(16)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    yield install(monkeypatch, Device())


def install(monkeypatch: pytest.MonkeyPatch, made: Device) -> Device:
    monkeypatch.setattr(rdma, "libibverbs", lambda: made)
    monkeypatch.setattr(rdma_events, "libibverbs", lambda: made)
    monkeypatch.setattr(rdma, "QueuePair", lambda endpoint: made)
    monkeypatch.setattr(rdma, "find_source", lambda endpoint: IPv4Address("192.0.2.7"))
    monkeypatch.setattr(rdma, "Membership", lambda source, group: made)
    monkeypatch.setattr(rdma, "REVIVE_INTERVAL_S", 0.0)
    return made


def opened(gid: str = "::ffff:192.0.2.7") -> RdmaVerbs:
    verbs = open_verbs(
        Endpoint(
            device="mlx5_0",
            port=1,
            gid_index=1,
            gid=IPv6Address(gid),
            group=IPv4Address("239.192.77.1"),
            message_bytes_max=SIZE,
            receive_slots=RECEIVES,
            send_slots=SENDS,
            hop_limit=3,
            traffic_class=0x20,
        )
    )
    assert isinstance(verbs, RdmaVerbs)
    verbs.post_receives(range(RECEIVES))
    return verbs


def peer(address: str = "192.0.2.8", qpn: int = 80) -> Peer:
    return Peer(IPv6Address(f"::ffff:{address}").packed, qpn)


def test_a_source_is_read_from_the_header_that_roce_over_ipv4_leaves(device: Device) -> None:
    verbs = opened()
    device.deliver(ipv4("192.0.2.8"), b"one", qpn=80)
    device.deliver(ipv4("192.0.2.8"), b"two", qpn=80, lid=9)
    one, two = verbs.poll_receives(8)
    assert (one.data, one.source) == (b"one", peer())
    assert (two.data, two.source) == (b"two", peer())


def test_a_source_is_read_from_a_route_header(device: Device) -> None:
    verbs = opened("fd77::7")
    device.deliver(ipv6("fd77::8"), b"one")
    (one,) = verbs.poll_receives(8)
    assert one.source == Peer(IPv6Address("fd77::8").packed, 80)


def test_with_infiniband_a_source_has_a_lid_and_the_group_is_what_the_join_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = install(monkeypatch, Device(LinkLayer.INFINIBAND))
    verbs = opened("fe80::7")
    device.deliver(ipv6("fe80::8"), b"one", lid=12)
    (one,) = verbs.poll_receives(8)
    assert one.source == Peer(IPv6Address("fe80::8").packed, 80, 12)
    assert verbs.own.lid == 3
    assert device.attached == [(bytes(16), 0xC001)]
    assert (device.handles[GROUP_HANDLE].sl, device.handles[GROUP_HANDLE].dlid) == (2, 0xC001)
    verbs.post_sends(0, [b"answer"], one.source)
    assert device.handles[device.sent[0][1]].dlid == 12


def test_with_roce_the_group_s_address_is_its_gid(device: Device) -> None:
    opened()
    gid = IPv6Address("::ffff:239.192.77.1").packed
    assert device.attached == [(gid, 0)]
    made = device.handles[GROUP_HANDLE]
    assert bytes(made.dgid) == gid
    assert (made.sgid_index, made.hop_limit, made.traffic_class) == (1, 3, 0x20)


def test_a_batch_goes_to_the_group_or_to_a_peer(device: Device) -> None:
    verbs = opened()
    verbs.post_sends(0, [b"a", b"b"], None)
    verbs.post_sends(2, [b"c"], peer())
    assert device.sent == [
        (b"a", GROUP_HANDLE, MULTICAST_QPN),
        (b"b", GROUP_HANDLE, MULTICAST_QPN),
        (b"c", PEER_HANDLE, 80),
    ]
    assert device.signalled == [1, 2]


def test_batches_complete_in_order_also_those_that_were_never_sent(device: Device) -> None:
    verbs = opened()
    device.gone.add(peer("192.0.2.200").gid)
    verbs.post_sends(0, [b"a"] * 2, None)
    verbs.post_sends(2, [b"b"], peer("192.0.2.200"))
    verbs.post_sends(3, [b"c"], None)
    assert verbs.poll_sends() == []
    device.complete(SEND_QUEUE, 1)
    assert [tuple(each) for each in verbs.poll_sends()] == [(1, 0), (2, GENERAL_ERROR)]
    device.complete(SEND_QUEUE, 3)
    assert [tuple(each) for each in verbs.poll_sends()] == [(3, 0)]
    assert verbs.status()["counters"]["sends_unreachable"] == 1


def test_an_error_that_stops_the_queue_pair_costs_what_was_under_way_and_no_more(
    device: Device,
) -> None:
    verbs = opened()
    device.deliver(ipv4("192.0.2.8"), b"before")
    assert len(verbs.poll_receives(8)) == 1
    verbs.post_sends(0, [b"a"] * 3, None)
    device.complete(SEND_QUEUE, 2, QP_ERROR)
    for slot in device.posted:
        device.complete(RECEIVE_QUEUE, slot, FLUSHED)
    still = list(device.posted)
    done = list(verbs.poll_sends())
    assert verbs.poll_receives(8) == ()
    assert [tuple(each) for each in done] == [(2, GENERAL_ERROR)]
    assert device.starts == 1
    assert device.posted == still, "what it had to receive into was not given to it again"
    verbs.post_receives([0])
    device.deliver(ipv4("192.0.2.8"), b"after")
    assert [each.data for each in verbs.poll_receives(8)] == [b"after"]
    verbs.post_sends(3, [b"d"], None)
    assert device.sent[-1][0] == b"d"
    assert verbs.status()["counters"]["restarts"] == 1


def test_a_batch_that_the_device_refuses_is_lost(device: Device) -> None:
    verbs = opened()
    device.refuse_sends = True
    verbs.post_sends(0, [b"a"], None)
    device.refuse_sends = False
    assert [tuple(each) for each in verbs.poll_sends()] == [(0, GENERAL_ERROR)]
    verbs.post_sends(1, [b"b"], None)
    assert [each[0] for each in device.sent] == [b"b"]


def test_nothing_is_sent_while_the_port_is_down(device: Device) -> None:
    verbs = opened()
    device.happening.append((rdma_events.PORT_ERROR, 1))
    (event,) = verbs.events()
    assert (event.kind, event.text) == (EventKind.PORT_DOWN, "port 1 of mlx5_0 went down")
    verbs.post_sends(0, [b"lost"], None)
    assert device.sent == []
    assert [each.slot for each in verbs.poll_sends()] == [0]
    device.happening.append((rdma_events.PORT_ACTIVE, 1))
    assert [each.kind for each in verbs.events()] == [EventKind.PORT_ACTIVE]
    verbs.post_sends(1, [b"sent"], None)
    assert len(device.sent) == 1


@pytest.mark.parametrize(
    ("kind", "element", "gid_there", "meant"),
    [
        (rdma_events.PORT_ERROR, 2, True, None),  # another port
        (rdma_events.GID_CHANGE, 1, True, EventKind.GID_CHANGE),
        (rdma_events.GID_CHANGE, 1, False, EventKind.FATAL),
        (rdma_events.LID_CHANGE, 1, True, EventKind.FATAL),
        (rdma_events.LID_CHANGE, 2, True, None),
        (rdma_events.DEVICE_FATAL, 0, True, EventKind.FATAL),
        (rdma_events.CQ_ERROR, 77, True, EventKind.FATAL),
        (rdma_events.SM_CHANGE, 1, True, EventKind.MEMBERSHIP_LOST),
        (rdma_events.CLIENT_REREGISTER, 1, True, EventKind.MEMBERSHIP_LOST),
        (rdma_events.PKEY_CHANGE, 1, True, EventKind.OTHER),
        (5, 0, True, EventKind.OTHER),
    ],
)
def test_events_of_the_device_are_understood(
    device: Device, kind: int, element: int, gid_there: bool, meant: EventKind | None
) -> None:
    verbs = opened()
    device.gid_there = gid_there
    device.happening.append((kind, element))
    assert [event.kind for event in verbs.events()] == ([] if meant is None else [meant])
    assert verbs.events() == []


def test_a_membership_that_is_lost_is_told_and_renewed_without_waiting(device: Device) -> None:
    verbs = opened()
    device.notices.append(Notice(LOST, "multicast error", -5, None))
    assert [event.kind for event in verbs.events()] == [EventKind.MEMBERSHIP_LOST]
    verbs.join()
    assert device.joins == 2
    device.notices.append(Notice(JOINED, "joined", 0, AddressAttributes(dlid=0xC002)))
    assert [event.kind for event in verbs.events()] == [EventKind.OTHER]
    assert len(device.attached) == 1
    device.notices.append(Notice(REMOVED, "removed", 0, None))
    assert [event.kind for event in verbs.events()] == [EventKind.FATAL]


def test_a_wake_up_is_asked_for_once_and_again_after_it_came(device: Device) -> None:
    verbs = opened()
    for _ in range(3):
        device.wakeups = 0
        verbs.arm()
    assert device.notifications == 1
    device.wakeups = 2
    verbs.arm()
    assert device.notifications == 2
    assert verbs.descriptors() == [10, 11, 12]


def test_a_group_that_cannot_be_sent_to_is_said_and_everything_given_back(device: Device) -> None:
    device.gone.add(IPv6Address("::ffff:239.192.77.1").packed)
    with pytest.raises(TransportFailed, match=r"port 1 of mlx5_0 can send nothing to the group"):
        opened()
    assert device.closed
    assert device.attached == []


def test_closing_leaves_the_group_and_destroys_every_handle(device: Device) -> None:
    verbs = opened()
    verbs.post_sends(0, [b"a"], peer())
    verbs.close()
    verbs.close()
    assert device.closed
    assert device.attached == []
    assert [bytes(each.dgid) for each in device.handles.values()] == [bytes(16)] * 2

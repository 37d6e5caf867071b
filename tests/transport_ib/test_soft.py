"""The provider in user space, on this machine's loopback: what an HCA would drop is dropped."""

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.transport_ib.places import loopback_addresses, unused_group
from vsync.errors import TransportFailed
from vsync.ip import offload
from vsync_transport_ib.choice import choose
from vsync_transport_ib.datagrams import Sender
from vsync_transport_ib.icrc import ROCE_PORT, Flow
from vsync_transport_ib.settings import SettingsIB
from vsync_transport_ib.soft import SoftVerbs, devices, open_verbs, roce_mtu_bytes
from vsync_transport_ib.verbs import MULTICAST_QPN, Peer

WITHIN_S = 5.0
Make = Callable[..., SoftVerbs]


@pytest.fixture
def make() -> Iterator[Make]:
    addresses, group = loopback_addresses(), unused_group()
    with ExitStack() as stack:

        def made(number: int, **settings: Any) -> SoftVerbs:
            given = SettingsIB(provider="soft", device=addresses[number], group=group, **settings)
            verbs = open_verbs(choose(given, devices()).endpoint)
            stack.callback(verbs.close)
            verbs.post_receives(range(1000))
            return verbs

        yield made


def received(verbs: SoftVerbs, count: int) -> list[tuple[bytes, Peer]]:
    found: list[tuple[bytes, Peer]] = []
    while len(found) < count:
        ready, _, _ = select.select(verbs.descriptors(), [], [], WITHIN_S)
        assert ready, f"only {len(found)} of {count} came: {verbs.status()}"
        found += [(bytes(done.data), done.source) for done in verbs.poll_receives(100)]
    return found


def test_what_is_sent_to_a_peer_or_to_the_group_has_the_sender_s_address(make: Make) -> None:
    one, two = make(1), make(2)
    one.post_sends(0, [b"to all"], None)
    assert received(two, 1) == [(b"to all", one.own)]
    two.post_sends(0, [b"to one"], one.own)
    assert received(one, 1) == [(b"to one", two.own)]


def test_a_long_burst_arrives_with_and_without_offload(make: Make) -> None:
    one, two = make(1), make(2)
    messages = [bytes([number % 256]) * (1000 - number % 3) for number in range(300)]
    for gso in (True, False):
        one.gso = gso
        one.post_sends(0, messages, None)
        assert sorted(data for data, _ in received(two, len(messages))) == sorted(messages)
    assert not [name for name in two.status()["counters"] if name.startswith("dropped")]


def test_a_kernel_that_refuses_offload_when_sending_is_sent_to_without(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make(1), make(2)
    monkeypatch.setattr(offload, "segment_ancillary", lambda size: [(17, 103, b"\1\0")])
    one.post_sends(0, [b"a" * 100] * 3, None)
    assert [data for data, _ in received(two, 3)] == [b"a" * 100] * 3
    assert not one.gso


def test_without_posted_receives_messages_wait(make: Make) -> None:
    one, two = make(1), make(2)
    two._posted.clear()
    one.post_sends(0, [b"%d" % number for number in range(5)], two.own)
    select.select(two.descriptors(), [], [], WITHIN_S)
    assert list(two.poll_receives(10)) == []
    two.post_receives([7, 3])
    assert [(done.slot, bytes(done.data)) for done in two.poll_receives(10)] == [
        (7, b"0"),
        (3, b"1"),
    ]


@pytest.mark.parametrize(
    ("reason", "settings", "changed"),
    [
        ("qkey", {"qkey": 5}, {}),
        ("pkey", {}, {"pkey": 0x8001}),
        ("qpn", {}, {"destination_qpn": 77}),
    ],
)
def test_what_is_not_for_it_is_counted_by_the_reason(
    make: Make, reason: str, settings: dict[str, Any], changed: dict[str, int]
) -> None:
    two = make(2, **settings)
    there = (two.status()["gid"], ROCE_PORT)
    with socket.socket(type=socket.SOCK_DGRAM) as stranger:
        stranger.bind((there[0].rsplit(".", 1)[0] + ".9", 0))
        fields = {
            "destination_qpn": two.own.qpn,
            "source_qpn": 1,
            "qkey": 0x01234567,
            "pkey": 0xFFFF,
        }
        sender = Sender(Flow(stranger.getsockname(), there), **{**fields, **changed})
        stranger.sendto(b"".join(sender.pack([b"x"], 0, numbered=False)), there)
    select.select(two.descriptors(), [], [], WITHIN_S)
    assert list(two.poll_receives(10)) == []
    assert two.status()["counters"][f"dropped_{reason}"] == 1


def test_damage_is_counted_and_harms_nothing(make: Make) -> None:
    one, two = make(1), make(2)
    there = (two.status()["gid"], ROCE_PORT)
    with socket.socket(type=socket.SOCK_DGRAM) as stranger:
        stranger.bind((there[0].rsplit(".", 1)[0] + ".9", 0))
        sender = Sender(
            Flow(stranger.getsockname(), there),
            destination_qpn=two.own.qpn,
            source_qpn=1,
            qkey=0x01234567,
            pkey=0xFFFF,
        )
        whole = b"".join(sender.pack([b"a message"], 0, numbered=False))
        for damaged in (b"", b"\0", whole[:23], whole[:-1] + bytes([whole[-1] ^ 0x10])):
            stranger.sendto(damaged, there)
    one.post_sends(0, [b"good"], two.own)
    assert received(two, 1) == [(b"good", one.own)]
    counters = two.status()["counters"]
    assert (counters["dropped_short"], counters["dropped_icrc"]) == (3, 1)


def test_two_nodes_of_one_address_are_told(make: Make) -> None:
    make(1)
    with pytest.raises(TransportFailed, match="address of its own"):
        make(1)


def test_a_peer_that_is_not_ipv4_is_counted_as_lost(make: Make) -> None:
    one = make(1)
    one.post_sends(0, [b"x"], Peer(bytes(16), MULTICAST_QPN))
    assert one.status()["counters"]["packets_lost_sending"] == 1
    assert [done.slot for done in one.poll_sends()] == [0]


def test_messages_are_as_large_as_the_kernel_takes_them_for_roce() -> None:
    assert [roce_mtu_bytes(mtu) for mtu in (576, 1500, 2200, 4192, 9000, 65536)] == [
        256,
        1024,
        2048,
        4096,
        4096,
        4096,
    ]


def test_every_interface_with_an_ipv4_address_is_a_device() -> None:
    lo = next(device for device in devices() if device.name == "lo")
    assert str(lo.ports[0].gids[0].ip) == "127.0.0.1"

"""What is particular to ``udp``, as far as it shows on loopback, without root."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from tests.transport_udp.ports import unused_port
from vsync.errors import TransportFailed
from vsync.ip import interfaces, offload, sockets
from vsync.testing.contracts import SILENCE_S, address_of, data_of, receive_within
from vsync.transport import EVERYONE, Burst
from vsync.vocabulary import NodeId
from vsync_transport_udp.settings import SettingsUDP
from vsync_transport_udp.transport import TransportUDP

Make = Callable[..., TransportUDP]


@pytest.fixture
def port() -> int:
    return unused_port()


@pytest.fixture
def make(port: int) -> Iterator[Make]:
    """Make open transports on loopback, on one port unless told otherwise."""
    with ExitStack() as stack:

        def opened(**settings: Any) -> TransportUDP:
            made = TransportUDP(SettingsUDP(**{"port": port, **settings}), node=NodeId(1))
            stack.enter_context(closing(made))
            made.open()
            return made

        yield opened


class Refusing:
    """A socket whose ``sendmsg`` and ``sendto`` fail with given errors."""

    def __init__(self, real: socket.socket, **errors: int) -> None:
        self._real = real
        self._errors = errors
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        if name not in self._errors:
            return getattr(self._real, name)

        def refuse(*_: Any) -> None:
            self.refused += 1
            raise OSError(self._errors[name], "refused")

        return refuse


# Opening


def test_bind_takes_an_address_a_name_or_a_network(make: Make) -> None:
    opened = [make(bind=bind) for bind in ("127.0.0.1", "lo", "127.0.0.0/8", "127.0.0.9")]
    assert [each.status["interface"] for each in opened] == ["lo"] * 4
    opened[0].send(Burst(EVERYONE, [b"x"]))
    for other in opened[1:]:
        assert data_of(receive_within(other, 1)) == [b"x"]


def test_an_interface_that_does_not_exist_is_told_with_those_that_do(make: Make) -> None:
    with pytest.raises(TransportFailed, match=r'bind "eth77": there is no interface .* lo'):
        make(bind="eth77")


def test_an_address_that_is_not_here_is_told_and_loopback_is_no_substitute(make: Make) -> None:
    with pytest.raises(TransportFailed, match=r"bind 203\.0\.113\.9: no interface here has that"):
        make(bind="203.0.113.9")


def test_a_network_that_no_interface_is_in_is_told_with_the_addresses(make: Make) -> None:
    with pytest.raises(TransportFailed, match=r"address of that network; .*127\.0\.0\.1 \(lo\)"):
        make(bind="203.0.113.0/24")


def test_a_network_of_several_interfaces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (lo,) = (each for each in interfaces.interface_addresses() if str(each.address) == "127.0.0.1")
    other = interfaces.InterfaceAddress(
        name="eth9", index=99, address=lo.address, network=lo.network
    )
    monkeypatch.setattr(interfaces, "interface_addresses", lambda: [lo, other])
    with pytest.raises(TransportFailed, match=r"fits more than one interface: .*lo.*eth9"):
        interfaces.resolve_bind("127.0.0.0/8", 4)


def test_an_address_that_is_still_being_checked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = interfaces.InterfaceAddress(
        name="eth9",
        index=99,
        address=IPv6Address("2001:db8::1"),
        network=IPv6Network("2001:db8::/64"),
        usable=False,
    )
    monkeypatch.setattr(interfaces, "interface_addresses", lambda: [checked])
    with pytest.raises(TransportFailed, match="duplicate address detection"):
        interfaces.resolve_bind("2001:db8::/64", 6)


def test_a_taken_multicast_port_is_told(make: Make, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taker:
        taker.bind(("", port))
        with pytest.raises(TransportFailed) as caught:
            make()
    assert f"UDP 239.192.77.1:{port} is taken" in str(caught.value)
    assert "choose another port in [transport.udp] on every node" in str(caught.value)


def test_a_taken_unicast_port_is_told(make: Make) -> None:
    taken = unused_port()
    make(unicast_port=taken)
    with pytest.raises(TransportFailed, match=f"127.0.0.1:{taken} is taken: .*unicast_port"):
        make(unicast_port=taken)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EACCES, "this user may not open UDP 127.0.0.1:0; ports below 1024 need root"),
        (errno.EADDRNOTAVAIL, "is not on this machine"),
        (errno.ENODEV, "the interface is gone"),
        (errno.ENOBUFS, "net.ipv4.igmp_max_memberships"),
        (errno.EPROTO, "cannot be opened: Protocol error"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    make: Make, monkeypatch: pytest.MonkeyPatch, code: int, said: str
) -> None:
    class Stubborn(socket.socket):
        def bind(self, _: Any) -> None:
            raise OSError(code, "refused")

    monkeypatch.setattr(socket, "socket", Stubborn)
    with pytest.raises(TransportFailed) as caught:
        make()
    assert said in str(caught.value)


def test_a_failed_opening_leaves_nothing_open(make: Make, port: int) -> None:
    made = TransportUDP(SettingsUDP(port=port, bind="203.0.113.9"), node=NodeId(1))
    with pytest.raises(TransportFailed):
        made.open()
    assert list(made.descriptors()) == []
    made.close()


def test_an_ipv6_group_on_an_interface_without_ipv6_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only_ipv4 = [each for each in interfaces.interface_addresses() if each.version == 4]
    monkeypatch.setattr(interfaces, "interface_addresses", lambda: only_ipv4)
    with pytest.raises(TransportFailed, match="bind lo: the interface has no IPv6 address"):
        interfaces.resolve_bind("lo", 6)


def test_ipv6_on_loopback_works_or_says_what_it_lacks(port: int) -> None:
    """Most machines have no route for IPv6 multicast on loopback."""
    made = [TransportUDP(SettingsUDP(bind="::1", port=port), node=NodeId(1)) for _ in range(2)]
    with closing(made[0]), closing(made[1]):
        try:
            for each in made:
                each.open()
        except TransportFailed as failed:
            text = str(failed)
            assert "ip -6 route add local ff15::77:1 dev lo" in text or "no interface" in text
            return
        made[0].send(Burst(EVERYONE, [b"x"]))
        assert data_of(receive_within(made[1], 1)) == [b"x"]


# Sizes, options and what status says of them


def test_packets_on_loopback_are_as_on_ethernet_unless_set(make: Make) -> None:
    assert make().packet_bytes_max == 1472
    assert make(packet_bytes_max=9000).packet_bytes_max == 9000


def test_large_packets_arrive_whole(make: Make) -> None:
    one, two = make(packet_bytes_max=65_487), make(packet_bytes_max=65_487)
    packets = [bytes([number]) * 65_487 for number in range(3)]
    one.send(Burst(EVERYONE, packets))
    assert sorted(data_of(receive_within(two, 3))) == packets


def test_packets_are_no_larger_than_the_interface_carries(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interfaces, "mtu_bytes", lambda _: 1400)
    assert make().packet_bytes_max == 1372
    capped = make(packet_bytes_max=1472)
    assert capped.packet_bytes_max == 1372
    assert any("packet_bytes_max 1472 is more than lo" in w for w in capped.status["warnings"])


def test_a_clamped_receive_buffer_is_reported_and_warned_of(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "set_receive_buffer", lambda *_: 212_992)
    made = make(receive_buffer_bytes=2**22)
    assert made.receive_buffer_bytes == 212_992
    assert made.status["receive_buffer_bytes"] == {"asked": 2**22, "given": 212_992}
    assert any("net.core.rmem_max" in warning for warning in made.status["warnings"])


def test_buffers_are_read_back(make: Make) -> None:
    made = make(receive_buffer_bytes=100_000, send_buffer_bytes=120_000)
    assert made.receive_buffer_bytes == 100_000
    assert made.status["send_buffer_bytes"] == {"asked": 120_000, "given": 120_000}


def test_without_root_the_systems_limit_holds(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_SO_RCVBUFFORCE", 9999)
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    made = make(receive_buffer_bytes=2**29)
    assert made.receive_buffer_bytes == min(2**29, limit)
    assert any("net.core.rmem_max" in warning for warning in made.status["warnings"])


def test_a_bind_that_nobody_chose_is_warned_of(make: Make) -> None:
    assert any("bind is not set" in warning for warning in make().status["warnings"])
    assert make(bind="127.0.0.1").status["warnings"] == []


def test_ttl_dscp_and_loop_reach_the_sending_socket(make: Make) -> None:
    made = make(ttl=3, dscp=46, multicast_loop=False)
    sender = socket.socket(fileno=os.dup(made.descriptors()[0]))
    with sender:
        assert sender.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL) == 3
        assert sender.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 46 << 2
        assert sender.getsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP) == 0


def test_the_address_in_status_is_the_one_that_others_see(make: Make) -> None:
    one, two = make(), make()
    address = address_of(one, seen_by=two)
    assert isinstance(address, tuple)
    assert one.status["address"] == list(address)[:2]


# Separation


def test_groups_on_one_port_do_not_hear_each_other(make: Make) -> None:
    one, two = make(group="239.192.77.1"), make(group="239.192.77.2")
    one.send(Burst(EVERYONE, [b"x"]))
    assert receive_within(two, 1, SILENCE_S) == []


def test_unicast_to_the_groups_port_is_not_heard(make: Make, port: int) -> None:
    made = make()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"x", ("127.0.0.1", port))
    assert receive_within(made, 1, SILENCE_S) == []


def test_own_packets_are_dropped_and_counted(make: Make) -> None:
    made = make()
    made.send(Burst(EVERYONE, [bytes(800)] * 30))
    made.send(Burst(EVERYONE, [b"one"]))
    assert receive_within(made, 1, SILENCE_S) == []
    assert made.status["counters"]["packets_own"] == 31


# Offload


def test_a_burst_takes_few_system_calls_where_the_kernel_joins(make: Make) -> None:
    one, two = make(), make()
    if not (one.status["gso"] and two.status["gro"]):
        pytest.skip("this kernel has no UDP_SEGMENT or no UDP_GRO")
    one.send(Burst(EVERYONE, [bytes(1472)] * 88))
    assert len(receive_within(two, 88)) == 88
    assert one.status["counters"]["send_calls"] == 2
    assert two.status["counters"]["receive_calls"] == 2


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP])
def test_gso_that_fails_is_turned_off_and_nothing_is_lost(make: Make, code: int) -> None:
    one, two = make(), make()
    real = one._datagrams.sender
    assert real is not None
    one._datagrams.gso = True
    refusing: Any = Refusing(real, sendmsg=code)
    one._datagrams.sender = refusing
    packets = [bytes([number]) * 100 for number in range(100)]
    one.send(Burst(EVERYONE, packets))
    assert sorted(data_of(receive_within(two, 100))) == packets
    assert one.status["gso"] is False
    assert any("GSO" in warning for warning in one.status["warnings"])
    refused = refusing.refused
    one.send(Burst(EVERYONE, packets))
    assert refusing.refused == refused


def test_a_kernel_that_takes_64_segments_gets_no_more(make: Make) -> None:
    one, two = make(), make()
    assert one._datagrams.sender is not None
    real: socket.socket = one._datagrams.sender

    class Old:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def sendmsg(self, run: list[bytes], *rest: Any) -> int:
            if len(run) > offload.SEGMENTS_SAFE:
                raise OSError(errno.EINVAL, "too many")
            return real.sendmsg(run, *rest)

    if not one.status["gso"]:
        pytest.skip("this kernel has no UDP_SEGMENT")
    old: Any = Old()
    one._datagrams.sender = old
    packets = [bytes([number]) * 100 for number in range(200)]
    for _ in range(2):
        one.send(Burst(EVERYONE, packets))
        assert sorted(data_of(receive_within(two, 200))) == packets
    assert one.status["gso"] is True
    assert one.status["counters"]["packets_sent"] == 400


def test_a_kernel_without_either_is_no_obstacle(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "UDP_SEGMENT", 99)
    monkeypatch.setattr(offload, "UDP_GRO", 98)
    one, two = make(), make()
    assert (one.status["gso"], two.status["gro"]) == (False, False)
    packets = [bytes(500)] * 10
    one.send(Burst(EVERYONE, packets))
    assert sorted(data_of(receive_within(two, 10))) == packets


# Trouble


@pytest.mark.parametrize(
    "code", [errno.EAGAIN, errno.ENOBUFS, errno.EPERM, errno.ENETUNREACH, errno.ENETDOWN]
)
def test_a_passing_error_is_a_loss_and_counted(make: Make, code: int) -> None:
    one, two = make(), make()
    real = one._datagrams.sender
    assert real is not None
    refusing: Any = Refusing(real, sendmsg=code, sendto=code)
    one._datagrams.sender = refusing
    one.send(Burst(EVERYONE, [b"x" * 100] * 5))
    one.send(Burst(EVERYONE, [b"x"]))
    assert one.status["counters"]["packets_lost_sending"] == 6
    assert one.status["errors"] == {errno.errorcode[code]: 6}
    one._datagrams.sender = real
    one.send(Burst(EVERYONE, [b"again"]))
    assert data_of(receive_within(two, 1)) == [b"again"]


def test_an_icmp_answer_to_an_earlier_packet_is_ignored(make: Make) -> None:
    one, two = make(), make()
    sender = socket.socket(fileno=os.dup(one.descriptors()[0]))
    with sender:
        sender.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR: errors are reported at once
    one.send(Burst(("127.0.0.1", unused_port()), [b"nobody"]))
    assert list(one.receive()) == []
    two.send(Burst(EVERYONE, [b"x"]))
    assert data_of(receive_within(one, 1)) == [b"x"]


def test_a_truncated_packet_is_dropped_and_counted(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "RECEIVE_BYTES", 100)
    one, two = make(), make()
    one.send(Burst(EVERYONE, [bytes(101)]))
    one.send(Burst(EVERYONE, [bytes(100)]))
    assert data_of(receive_within(two, 1)) == [bytes(100)]
    assert two.status["counters"]["packets_truncated"] == 1


def test_what_the_kernel_drops_at_a_full_buffer_shows_in_status(make: Make) -> None:
    one, two = make(), make(receive_buffer_bytes=2**16)
    for _ in range(20):
        one.send(Burst(EVERYONE, [bytes(1472)] * 44))
    while two.receive():
        pass
    assert two.status["counters"]["packets_lost_receive_buffer"] > 0

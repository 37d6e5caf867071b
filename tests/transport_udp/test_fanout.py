"""What is particular to ``udpu``, as far as it shows on loopback, without root."""

import errno
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.network.nodes import Ring, eventually
from tests.transport_udp.ports import unused_port, unused_ports
from vsync.errors import TransportFailed
from vsync.ip import interfaces, offload, sockets
from vsync.ip.interfaces import InterfaceAddress
from vsync.testing.contracts import SILENCE_S, WITHIN_S, data_of, receive_within
from vsync.transport import EVERYONE, Burst
from vsync.vocabulary import NodeId
from vsync_transport_udp.fanout import TransportUDPU
from vsync_transport_udp.hello import Hello
from vsync_transport_udp.peers import Origin
from vsync_transport_udp.settings import SettingsUDPU, parse_peer

Make = Callable[..., TransportUDPU]


def loopback(*ports: int) -> tuple[str, ...]:
    return tuple(f"127.0.0.1:{port}" for port in ports)


@pytest.fixture
def make() -> Iterator[Make]:
    """Make open transports on loopback."""
    with ExitStack() as stack:

        def opened(port: int, **settings: Any) -> TransportUDPU:
            made = TransportUDPU(
                SettingsUDPU(**{"bind": "127.0.0.1", "port": port, **settings}), node=NodeId(1)
            )
            stack.enter_context(closing(made))
            made.open()
            return made

        yield opened


def pump(transports: Sequence[TransportUDPU], until: Callable[[], bool]) -> None:
    """Let all of them work until it is so."""
    deadline = time.monotonic() + WITHIN_S
    while not until():
        assert time.monotonic() < deadline, [each.status["peers"] for each in transports]
        for each in transports:
            assert list(each.receive()) == []
        time.sleep(0.005)


def up(transport: TransportUDPU) -> int:
    return sum(fact["state"] == "up" for fact in transport.status["peers"])


# Settings


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("192.0.2.7:99", ("192.0.2.7", 99)),
        ("192.0.2.7", ("192.0.2.7", 5405)),
        ("[2001:db8::7]:99", ("2001:db8::7", 99)),
        ("[2001:db8::7]", ("2001:db8::7", 5405)),
        ("node7.example:99", ("node7.example", 99)),
        ("node_7", ("node_7", 5405)),
    ],
)
def test_a_peer_is_an_address_or_a_name_with_a_port_or_without(
    text: str, meaning: tuple[str, int]
) -> None:
    assert parse_peer(text, 5405) == meaning


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "no node is named: name all in peers, or a few in seeds"),
        ({"peers": []}, "no node is named"),
        ({"peers": ["192.0.2.7:x"]}, "the port is a number from 1 to 65535, not"),
        ({"peers": ["192.0.2.7:0"]}, "the port is a number from 1 to 65535"),
        ({"peers": ["192.0.2.7:65536"]}, "the port is a number from 1 to 65535"),
        ({"peers": ["192.0.2.7:"]}, "the port is a number from 1 to 65535"),
        ({"peers": ["2001:db8::7"]}, "an IPv6 address stands in brackets"),
        ({"peers": ["2001:db8::7:5405"]}, "an IPv6 address stands in brackets"),
        ({"peers": ["192.0.2.700:5405"]}, "is no address and no name of a host"),
        ({"peers": ["a b:5405"]}, "is no address and no name of a host"),
        ({"peers": [""]}, "is no address and no name of a host"),
        ({"peers": ["x" * 254]}, "is no address and no name of a host"),
        ({"peers": ["[node7]:5405"]}, "is no address and no name of a host"),
        ({"seeds": ["239.192.77.1:5405"]}, "is not the address of one node"),
        ({"seeds": ["0.0.0.0:5405"]}, "is not the address of one node"),
        ({"peers": ["192.0.2.7"] * 257}, "these are 257 addresses; 256 may be named"),
        (
            {"peers": ["[::1]:5405"], "bind": "127.0.0.1"},
            'is IPv4 and "[::1]:5405" in peers is IPv6',
        ),
        ({"peers": ["192.0.2.7"], "seeds": ["[::1]"], "bind": "eth0"}, "must be of one family"),
        ({"peers": ["192.0.2.7"], "port": 0}, "port"),
        ({"peers": ["192.0.2.7"], "forget_s": 1}, "forget_s"),
        ({"peers": ["192.0.2.7"], "bind": "0.0.0.0"}, "bind 0.0.0.0 names no interface"),
        ({"peers": ["192.0.2.7"], "group": "239.192.77.1"}, "group"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SettingsUDPU.model_validate(settings)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "version"),
    [
        ({"bind": "192.0.2.0/24", "peers": ["node1"]}, 4),
        ({"bind": "2001:db8::/64", "peers": ["node1"]}, 6),
        ({"bind": "eth0", "peers": ["node1"]}, 4),
        ({"bind": "eth0", "peers": ["node1", "[2001:db8::1]:5405"]}, 6),
    ],
)
def test_the_family_is_that_of_the_addresses_given(settings: dict[str, Any], version: int) -> None:
    assert SettingsUDPU(**settings).version == version


# Opening


def test_a_name_that_cannot_be_looked_up_is_told(make: Make) -> None:
    with pytest.raises(TransportFailed) as caught:
        make(unused_port(), peers=("no-such-host.invalid:5405",))
    assert str(caught.value).startswith(
        '"no-such-host.invalid:5405" in peers of [transport.udpu] has no IPv4 address: '
    )
    assert "getent ahosts no-such-host.invalid" in str(caught.value)


def test_a_name_is_looked_up(make: Make) -> None:
    ports = unused_ports(2)
    one, two = (make(port, peers=[f"localhost:{each}" for each in ports]) for port in ports)
    one.send(Burst(EVERYONE, [b"x"]))
    assert data_of(receive_within(two, 1)) == [b"x"]
    assert {fact["name"] for fact in one.status["peers"]} == {f"localhost:{p}" for p in ports}


def test_a_loopback_address_of_an_own_name_is_left_out(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Debian's /etc/hosts has it: 127.0.1.1 for the own name."""
    local = InterfaceAddress(
        name="lo", index=1, address=IPv4Address("192.0.2.1"), network=IPv4Network("192.0.2.0/24")
    )
    monkeypatch.setattr(interfaces, "resolve_bind", lambda *_, **__: local)
    monkeypatch.setattr(sockets, "open_unicast", lambda *_, **__: socket.socket(type=2))
    found = [(2, 2, 17, "", ("127.0.1.1", 5405))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    made = make(5405, bind="192.0.2.1", peers=("node1.example",))
    assert (made.status["peers"], made.status["warnings"]) == ([], [])


def test_a_peer_that_cannot_be_reached_from_here_is_warned_of(make: Make) -> None:
    made = make(unused_port(), peers=("192.0.2.7:5405",))
    assert (
        '"192.0.2.7:5405" in peers of [transport.udpu] is not sent to' in made.status["warnings"][0]
    )


def test_a_taken_port_is_told(make: Make) -> None:
    port = unused_port()
    make(port, peers=loopback(port))
    with pytest.raises(TransportFailed) as caught:
        make(port, peers=loopback(port))
    assert f"UDP 127.0.0.1:{port} is taken" in str(caught.value)
    assert "choose another port in [transport.udpu]" in str(caught.value)


def test_a_port_that_needs_root_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(socket.socket):
        def bind(self, _: Any) -> None:
            raise OSError(errno.EACCES, "refused")

    monkeypatch.setattr(socket, "socket", Stubborn)
    with pytest.raises(TransportFailed, match=r"choose a higher port in \[transport\.udpu\]"):
        make(5405, peers=("127.0.0.1:5406",))


def test_an_interface_that_does_not_exist_is_told(make: Make) -> None:
    with pytest.raises(TransportFailed, match=r'bind "eth77": there is no interface'):
        make(5405, bind="eth77", peers=("127.0.0.1:5406",))


def test_a_failed_opening_leaves_nothing_open(make: Make) -> None:
    settings = SettingsUDPU(port=unused_port(), peers=("no-such-host.invalid",))
    made = TransportUDPU(settings, node=NodeId(1))
    with pytest.raises(TransportFailed):
        made.open()
    assert list(made.descriptors()) == []


def test_a_bind_that_nobody_chose_is_warned_of() -> None:
    port = unused_port()
    with closing(
        TransportUDPU(SettingsUDPU(port=port, peers=loopback(port)), node=NodeId(1))
    ) as made:
        made.open()
        assert any("bind is not set in [transport.udpu]" in w for w in made.status["warnings"])


# Peers


def test_three_from_a_list_hear_each_other_and_know_it(make: Make) -> None:
    ports = unused_ports(3)
    three = [make(port, peers=loopback(*ports)) for port in ports]
    three[0].send(Burst(EVERYONE, [b"x"]))
    for other in three[1:]:
        assert data_of(receive_within(other, 1)) == [b"x"]
    pump(three, lambda: all(up(each) == 2 for each in three))
    assert all(each.status["warnings"] == [] for each in three)


def test_three_from_a_seed_find_each_other_and_then_get_one_copy_each(make: Make) -> None:
    ports = unused_ports(3)
    three = [make(port, seeds=loopback(ports[0])) for port in ports]
    pump(three, lambda: all(up(each) == 2 for each in three))
    for sender in three:
        sender.send(Burst(EVERYONE, [b"x", b"y"]))
        for other in three:
            if other is not sender:
                assert data_of(receive_within(other, 2)) == [b"x", b"y"]
                assert receive_within(other, 1, SILENCE_S) == []
        assert receive_within(sender, 1, SILENCE_S) == []


def test_one_that_comes_later_is_served_as_soon_as_it_has_answered(make: Make) -> None:
    ports = unused_ports(3)
    first = [make(port, seeds=loopback(ports[0])) for port in ports[:2]]
    pump(first, lambda: all(up(each) == 1 for each in first))
    late = make(ports[2], seeds=loopback(ports[0]))
    everyone = [*first, late]
    pump(everyone, lambda: all(up(each) == 2 for each in everyone))
    first[1].send(Burst(EVERYONE, [b"welcome"]))
    assert data_of(receive_within(late, 1)) == [b"welcome"]


def test_a_stranger_who_does_not_prove_itself_gets_nothing_but_small_answers(make: Make) -> None:
    ports = unused_ports(2)
    two = [make(port, seeds=loopback(*ports)) for port in ports]
    pump(two, lambda: all(up(each) == 1 for each in two))
    forged = Hello(instance=b"stranger", challenge=b"whatever", wants_answer=True).encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))
        for _ in range(1000):
            stranger.sendto(forged, ("127.0.0.1", ports[0]))
            two[0].receive()
        for _ in range(10):
            two[0].send(Burst(EVERYONE, [bytes(1000)] * 10))
        stranger.setblocking(False)
        came = []
        while True:
            try:
                came.append(stranger.recv(2**16))
            except BlockingIOError:
                break
    assert 0 < len(came) < 200
    assert {len(packet) for packet in came} == {len(forged)}
    assert len(receive_within(two[1], 100)) == 100


def test_a_flood_of_hellos_does_not_hold_up_a_call_and_no_packet_is_lost_by_it(make: Make) -> None:
    ports = unused_ports(2)
    one, two = (make(port, peers=loopback(*ports)) for port in ports)
    noise = Hello(instance=b"stranger", challenge=b"whatever").encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        for _ in range(300):
            stranger.sendto(noise, ("127.0.0.1", ports[1]))
    one.send(Burst(EVERYONE, [b"x"]))
    assert data_of(receive_within(two, 1)) == [b"x"]
    counters = two.status["counters"]
    assert counters["hellos_received"] <= 70
    assert counters["hellos_dropped"] >= 200


def test_packets_are_told_from_hellos_within_one_joined_piece(make: Make) -> None:
    """GRO joins packets of one size and sender, whatever they are."""
    ports = unused_ports(2)
    one, two = (make(port, peers=loopback(*ports)) for port in ports)
    hello = Hello(instance=b"stranger", challenge=b"whatever").encode()
    same = bytes(len(hello))
    one.send(Burst(EVERYONE, [same, hello, same, hello]))
    assert data_of(receive_within(two, 2)) == [same, same]
    assert two.status["counters"]["hellos_received"] >= 2


# Sending


def test_a_burst_takes_few_system_calls_a_peer_where_the_kernel_joins(make: Make) -> None:
    ports = unused_ports(3)
    three = [make(port, peers=loopback(*ports)) for port in ports]
    pump(three, lambda: all(up(each) == 2 for each in three))
    if not (three[0].status["gso"] and three[1].status["gro"]):
        pytest.skip("this kernel has no UDP_SEGMENT or no UDP_GRO")
    before = three[0].status["counters"]["send_calls"]
    hellos = three[0].status["counters"]["hellos_sent"]
    three[0].send(Burst(EVERYONE, [bytes(1472)] * 88))
    counters = three[0].status["counters"]
    assert counters["send_calls"] - before - (counters["hellos_sent"] - hellos) == 2 * 2
    for other in three[1:]:
        assert len(receive_within(other, 88)) == 88


def test_one_peer_that_cannot_be_reached_does_not_keep_the_others_from_theirs(make: Make) -> None:
    ports = unused_ports(2)
    one, two = (make(port, peers=loopback(*ports)) for port in ports)
    assert one._datagrams.sender is not None
    real: socket.socket = one._datagrams.sender
    dead = ("127.0.0.2", 9)
    assert one._peers is not None
    one._peers.add(dead, Origin.LISTED, "dead", 0.0)

    class Parted:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def sendto(self, packet: bytes, to: Any) -> int:
            if to == dead:
                raise OSError(errno.ENETUNREACH, "no way there")
            return real.sendto(packet, to)

        def sendmsg(self, run: list[bytes], ancillary: Any, flags: int, to: Any) -> int:
            if to == dead:
                raise OSError(errno.ENETUNREACH, "no way there")
            return real.sendmsg(run, ancillary, flags, to)

    parted: Any = Parted()
    one._datagrams.sender = parted
    one.send(Burst(EVERYONE, [bytes(100)] * 20))
    assert len(receive_within(two, 20)) == 20
    assert one.status["errors"]["ENETUNREACH"] >= 20


def test_a_kernel_without_offload_is_no_obstacle(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "UDP_SEGMENT", 99)
    monkeypatch.setattr(offload, "UDP_GRO", 98)
    ports = unused_ports(2)
    one, two = (make(port, peers=loopback(*ports)) for port in ports)
    assert (one.status["gso"], two.status["gro"]) == (False, False)
    one.send(Burst(EVERYONE, [bytes(500)] * 10))
    assert len(receive_within(two, 10)) == 10


# Real nodes


@pytest.mark.parametrize("key", ["peers", "seeds"])
def test_a_ring_of_three_processes_forms_and_takes_back_one_that_was_killed(
    tmp_path: Path, key: str
) -> None:
    ports = unused_ports(3)

    def section(number: int) -> str:
        known = loopback(*(ports if key == "peers" else ports[:1]))
        return f'bind = "127.0.0.1"\nport = {ports[number - 1]}\n{key} = {list(known)}\n'

    with Ring(tmp_path, 3, housed=False, transport="udpu", section=section) as ring:
        ring.start()
        ring.wait_for()
        load = ring.load()
        ring.wait_for_messages(300)
        ring[2].kill()
        ring.wait_for(1, 3)
        ring.start(2)
        ring.wait_for()
        ring.wait_for_messages(300)
        ring.finish(load, messages=300)
        transport = ring[3].status()["transport"]
        eventually(
            lambda: sum(f["state"] == "up" for f in ring[3].status()["transport"]["peers"]) == 2,
            f"both others known: {transport['peers']}",
        )
        ring.leave()

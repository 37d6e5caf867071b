"""One object for each sender, and a bound on how many strangers are remembered."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from vsync_transport_ib import sources
from vsync_transport_ib.sources import Sources
from vsync_transport_ib.verbs import Peer


def header(address: str) -> bytes:
    """The room for the route header, as a message from that address leaves it."""
    if ":" in address:
        return b"\x60" + bytes(7) + IPv6Address(address).packed + bytes(16)
    return bytes(20) + b"\x45" + bytes(11) + IPv4Address(address).packed + bytes(4)


def test_a_sender_is_one_object_whatever_it_sends() -> None:
    met: list[Peer] = []
    found = Sources(met.append, with_lid=False)
    first = found.find(header("192.0.2.8"), 80, 0)
    assert found.find(header("192.0.2.8"), 80, 0) is first
    assert first == Peer(IPv6Address("::ffff:192.0.2.8").packed, 80)
    assert found.find(header("192.0.2.9"), 80, 0) != first
    assert found.find(header("192.0.2.8"), 81, 0) != first
    assert [peer.qpn for peer in met] == [80, 80, 81]


def test_a_route_header_that_holds_the_bytes_of_an_ip_header_is_a_route_header() -> None:
    """The 21st byte of a route header belongs to the address of its source."""
    address = "fd77::45:0:0:8"
    assert header(address)[20] != 0x45
    tricky = "fd77:0:0:0:0:0:4500:8"
    assert header(tricky)[20] == 0x45
    for each in (address, tricky):
        found = Sources(id, with_lid=False).find(header(each), 80, 0)
        assert found == Peer(IPv6Address(each).packed, 80)


def test_strangers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PEERS_MAX", 10)
    found = Sources(id, with_lid=True)
    for number in range(100):
        found.find(header("192.0.2.8"), number, 0)
    assert len(found._known) <= 10
    assert found.find(header("192.0.2.8"), 5, 7) == Peer(
        IPv6Address("::ffff:192.0.2.8").packed, 5, 7
    )

"""``[transport.udp]``: what may stand in it, and what is said when something else does."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vsync.ip.interfaces import parse_bind
from vsync_transport_udp.settings import SettingsUDP


def test_nothing_need_be_set() -> None:
    settings = SettingsUDP()
    assert (settings.bind, settings.group, settings.port) == ("127.0.0.1", "239.192.77.1", 5405)
    assert (settings.ttl, settings.unicast_port) == (1, 0)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("192.0.2.7", ip_address("192.0.2.7")),
        ("2001:db8::7", ip_address("2001:db8::7")),
        ("fe80::1%eth0", ip_address("fe80::1%eth0")),
        ("192.0.2.0/24", ip_network("192.0.2.0/24")),
        ("192.0.2.7/24", ip_network("192.0.2.0/24")),
        ("2001:db8::/64", ip_network("2001:db8::/64")),
        ("eth0", "eth0"),
        ("br-3f.100", "br-3f.100"),
    ],
)
def test_bind_is_an_address_a_network_or_a_name(text: str, meaning: Any) -> None:
    assert parse_bind(text) == meaning


@given(st.text())
def test_bind_is_understood_or_refused_with_a_sentence(text: str) -> None:
    try:
        parse_bind(text)
    except ValueError as error:
        assert str(error).startswith("bind ")


@pytest.mark.parametrize("bind", ["::1", "2001:db8::/64", "fe80::1%eth0"])
def test_an_ipv6_bind_brings_an_ipv6_group(bind: str) -> None:
    assert SettingsUDP(bind=bind).group == "ff15::77:1"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bind": "192.0.2.0/33"}, 'bind "192.0.2.0/33" is no network; one looks like'),
        ({"bind": ""}, "is no address, no network and no name of an interface"),
        ({"bind": "an interface"}, "is no address, no network and no name of an interface"),
        ({"bind": "a-very-long-interface-name"}, "no name of an interface"),
        ({"bind": "0.0.0.0"}, "bind 0.0.0.0 names no interface"),
        ({"bind": "::"}, "bind :: names no interface"),
        ({"bind": "239.192.77.1"}, "bind 239.192.77.1 is a multicast address"),
        ({"group": "192.0.2.1"}, "group 192.0.2.1 is not a multicast address; use one of"),
        ({"group": "everyone"}, 'group "everyone" is no IP address'),
        ({"bind": "127.0.0.1", "group": "ff15::1"}, "both must be of one family"),
        ({"bind": "::1", "group": "239.192.77.1"}, "both must be of one family"),
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"ttl": 256}, "ttl"),
        ({"dscp": 64}, "dscp"),
        ({"packet_bytes_max": 100}, "packet_bytes_max"),
        ({"gso": "on"}, "gso"),
        ({"bnd": "eth0"}, "bnd"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SettingsUDP.model_validate(settings)
    assert said in str(caught.value)

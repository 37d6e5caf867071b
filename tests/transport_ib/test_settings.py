"""``[transport.ib]``: what may stand in it, and what is said when something else does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vsync_transport_ib.settings import DeviceName, SettingsIB, parse_device


def test_nothing_need_be_set() -> None:
    settings = SettingsIB()
    assert (settings.provider, settings.fallback, settings.device) == ("verbs", "none", None)
    assert settings.group == "239.192.77.1"


@pytest.mark.parametrize(
    ("text", "meant"),
    [("rxe0", DeviceName("rxe0", None)), ("mlx5_0:1", DeviceName("mlx5_0", 1))],
)
def test_a_device_may_have_a_port(text: str, meant: DeviceName) -> None:
    assert parse_device(text) == meant


@pytest.mark.parametrize(
    ("given_settings", "said"),
    [
        ({"device": ""}, "no name of a device"),
        ({"device": "two words"}, "no name of a device"),
        ({"device": "mlx5_0:0"}, "numbered from 1"),
        ({"device": "mlx5_0:999"}, "numbered from 1"),
        ({"device": "10.0.0.0/99"}, "no network"),
        ({"device": "239.1.1.1"}, "no address of one interface"),
        ({"device": "mlx5_0:1", "port": 2}, "contradict"),
        ({"device": "2001:db8::1"}, "must be of one family"),
        ({"group": "10.0.0.1"}, "not a multicast address"),
        ({"group": "everyone"}, "no IP address"),
        ({"qkey": 0x80000000}, "2147483647"),
        ({"fallback": "soft"}, "needs a device that is an address"),
        ({"fallback": "soft", "device": "rxe0"}, "needs a device that is an address"),
        ({"fallback": "soft", "provider": "soft", "device": "10.0.0.1"}, "for provider verbs"),
        ({"fallback": "udp"}, "soft"),
    ],
)
def test_what_cannot_be_is_refused(given_settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        SettingsIB(**given_settings)
    assert said in str(refused.value)


@given(st.text(max_size=80))
def test_any_text_is_a_device_or_refused(text: str) -> None:
    try:
        parse_device(text)
    except ValueError as error:
        assert "device" in str(error)

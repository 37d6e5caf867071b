"""What the settings mean among the devices that there are; each refusal says what to do."""

from typing import Any

import pytest

from tests.transport_ib.fake import device, gid, port
from vsync.errors import TransportFailed
from vsync_transport_ib.choice import Choice, choose
from vsync_transport_ib.settings import SettingsIB
from vsync_transport_ib.verbs import Device, LinkLayer, PortState

RXE = device("rxe0")
MLX = device(
    "mlx5_0",
    port(1, state=PortState.DOWN, gids=[gid(0, "fe80::2"), gid(3, "10.1.0.5")]),
    port(2, mtu_bytes=4096, gids=[gid(0, "fe80::3"), gid(5, "10.2.0.5"), gid(6, "10.2.0.6")]),
    interfaces=["ens1", "ens2"],
)
HCA = device(
    "ibp1s0",
    port(link_layer=LinkLayer.INFINIBAND, mtu_bytes=4096, gids=[gid(0, "fe80::9", "IB")], lid=4),
    interfaces=["ib0"],
)


def chosen(*devices: Device, **settings: Any) -> Choice:
    return choose(SettingsIB(**settings), devices)


def place(*devices: Device, **settings: Any) -> tuple[str, int, int]:
    endpoint = chosen(*devices, **settings).endpoint
    return endpoint.device, endpoint.port, endpoint.gid_index


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"device": "rxe0"}, ("rxe0", 1, 2)),
        ({"device": "eth0"}, ("rxe0", 1, 2)),
        ({"device": "10.0.0.1"}, ("rxe0", 1, 2)),
        ({"device": "10.0.0.0/24"}, ("rxe0", 1, 2)),
        ({"device": "rxe0", "gid_index": 1}, ("rxe0", 1, 1)),
        ({"device": "mlx5_0"}, ("mlx5_0", 2, 5)),
        ({"device": "mlx5_0:2"}, ("mlx5_0", 2, 5)),
        ({"device": "mlx5_0", "port": 2}, ("mlx5_0", 2, 5)),
        ({"device": "10.2.0.6"}, ("mlx5_0", 2, 6)),
        ({"device": "ibp1s0"}, ("ibp1s0", 1, 0)),
    ],
)
def test_a_device_is_found_by_any_name_that_users_have_for_it(
    settings: dict[str, Any], expected: tuple[str, int, int]
) -> None:
    assert place(RXE, MLX, HCA, **settings) == expected


def test_without_a_name_the_only_active_port_is_used() -> None:
    assert place(RXE) == ("rxe0", 1, 2)
    assert place(MLX) == ("mlx5_0", 2, 5)


def test_packets_are_as_large_as_the_port_carries_or_as_the_settings_say() -> None:
    assert chosen(RXE).endpoint.message_bytes_max == 1024
    assert chosen(HCA).endpoint.message_bytes_max == 4096
    assert chosen(HCA, packet_bytes_max=2048).endpoint.message_bytes_max == 2048
    choice = chosen(RXE, packet_bytes_max=2048)
    assert choice.endpoint.message_bytes_max == 1024
    assert "1024 is used" in choice.warnings[0]


def test_queues_are_as_deep_as_the_device_can() -> None:
    choice = chosen(device("small", queue_depth_max=128), send_depth=64)
    assert (choice.endpoint.receive_slots, choice.endpoint.send_slots) == (128, 64)
    assert choice.warnings == ["receive_depth 4096 is more than small can do; 128 is used"]


def test_a_partition_is_found_whatever_the_membership_in_it() -> None:
    limited = device("hca", port(pkeys=[0xFFFF, 0x0005]))
    assert chosen(limited, pkey=0x8005).endpoint.pkey == 0x0005


@pytest.mark.parametrize(
    ("devices", "settings", "said"),
    [
        ([], {}, ["no InfiniBand or RoCE device", "rdma link add", 'provider = "soft"']),
        ([RXE], {"device": "rxe1"}, ['no device "rxe1"', "rxe0"]),
        ([MLX], {"device": "mlx5_0:1"}, ["port 1 of mlx5_0 is DOWN", "cable"]),
        ([MLX], {"device": "10.1.0.5"}, ["port 1 of mlx5_0 is DOWN", "cable"]),
        ([MLX], {"device": "mlx5_0:3"}, ["has no port 3", "1, 2"]),
        ([RXE], {"gid_index": 7}, ["has no GID 7", "2 (10.0.0.1, RoCE v2)", "gid_index"]),
        ([RXE], {"device": "10.9.9.9"}, ["no port here has the address 10.9.9.9", "10.0.0.1"]),
        ([MLX], {"device": "10.0.0.0/8"}, ["fits several ports", "mlx5_0:1", "mlx5_0:2"]),
        ([RXE, HCA], {}, ["several ports are active", "rxe0:1", "ibp1s0:1"]),
        ([device("a", port(state=PortState.INIT))], {}, ["INIT", "opensm"]),
        ([RXE], {"pkey": 0x8123}, ["no partition key 0x8123", "0xffff", "subnet manager"]),
        ([device("a", port(mtu_bytes=256))], {}, ["256 bytes", "raise the MTU"]),
        ([device("a", port(gids=[]))], {}, ["no GID at all", "IP address"]),
        ([device("a", port(gids=[gid(0, "fe80::1")]))], {}, ["no RoCE v2 GID with an IPv4"]),
        ([RXE, device("rxe9")], {"device": "eth0"}, ["an interface of rxe0, rxe9"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence_that_says_what_to_do(
    devices: list[Device], settings: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(TransportFailed) as refused:
        chosen(*devices, **settings)
    for part in said:
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)

"""What stands between a user and a device is said in a sentence, with what to do.

A library that fails on purpose stands in for libibverbs; real ones are in the guest.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from vsync.errors import TransportFailed
from vsync_transport_ib import rdma_core, rdma_devices
from vsync_transport_ib.rdma_devices import devices, find_pkey, find_source, opened
from vsync_transport_ib.verbs import Endpoint


class Library:
    """libibverbs of a machine that has the devices *names*, each of which may not be opened."""

    def __init__(self, *names: str, listing: int = 0, opening: int = 0) -> None:
        self.names = names
        self.listing = listing
        self.opening = opening
        self.pkeys: list[int] = [0xFFFF]
        self.freed = 0

    def ibv_get_device_list(self, count: Any) -> Any:
        if self.listing:
            ctypes.set_errno(self.listing)
            return None
        count._obj.value = len(self.names)
        return [*range(1, len(self.names) + 1), 0]

    def ibv_free_device_list(self, listed: Any) -> None:
        self.freed += 1

    def ibv_get_device_name(self, device: int) -> bytes:
        return self.names[device - 1].encode()

    def ibv_open_device(self, device: int) -> None:
        ctypes.set_errno(self.opening)

    def ibv_query_pkey(self, context: int, port: int, index: int, found: Any) -> int:
        if index >= len(self.pkeys):
            return -1
        found._obj.value = int.from_bytes(self.pkeys[index].to_bytes(2, "big"), "little")
        return 0


Install = Callable[[Library], Library]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Make this the library, on a machine whose kernel has the devices in a directory."""

    def installed(library: Library) -> Library:
        monkeypatch.setattr(rdma_devices, "libibverbs", lambda: library)
        monkeypatch.setattr(rdma_devices, "SYSFS", tmp_path)
        monkeypatch.setattr(rdma_devices, "NODES", tmp_path / "nodes")
        monkeypatch.setattr(rdma_devices, "_node_of", lambda name: "uverbs3")
        return library

    return installed


def endpoint(gid: str = "::ffff:192.0.2.7", pkey: int = 0xFFFF) -> Endpoint:
    return Endpoint(
        device="mlx5_0",
        port=1,
        gid_index=0,
        gid=IPv6Address(gid),
        group=IPv4Address("239.192.77.1"),
        message_bytes_max=1024,
        receive_slots=8,
        send_slots=8,
        pkey=pkey,
    )


def test_a_machine_without_devices_has_none(install: Install) -> None:
    library = install(Library())
    assert devices() == []
    assert library.freed == 1


@pytest.mark.parametrize(
    ("library", "sentence"),
    [
        (
            Library(listing=errno.ENOSYS),
            "the module ib_uverbs is not loaded (`modprobe ib_uverbs`)",
        ),
        (Library(listing=errno.EPERM), "cannot be listed: Operation not permitted"),
        (Library("mlx5_0", opening=errno.ENOENT), "the device mlx5_0 has no node "),
    ],
    ids=["no kernel", "no listing", "no node"],
)
def test_what_stands_between_is_said(install: Install, library: Library, sentence: str) -> None:
    install(library)
    with pytest.raises(TransportFailed) as failed:
        devices()
    assert sentence in str(failed.value)


def test_whether_it_is_permission_is_looked_at_not_believed(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(Library("mlx5_0", opening=errno.ENOENT))
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "uverbs3").touch()
    with pytest.raises(TransportFailed, match="mlx5_0 cannot be opened: No such file"):
        devices()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(TransportFailed, match=r"no permission on .*/uverbs3; let the user into"):
        devices()


def test_a_device_without_a_driver_in_user_space_is_named(install: Install, tmp_path: Path) -> None:
    install(Library())
    (tmp_path / "irdma0").mkdir()
    with pytest.raises(TransportFailed, match=r"irdma0.*apt install ibverbs-providers"):
        devices()


def test_a_device_that_went_away_is_named(install: Install) -> None:
    library = install(Library("mlx5_1"))
    with pytest.raises(TransportFailed, match="no InfiniBand device mlx5_0"), opened("mlx5_0"):
        pass
    assert library.freed == 1


@pytest.mark.parametrize(
    ("table", "wanted", "index"),
    [
        ([0xFFFF], 0xFFFF, 0),
        ([0xFFFF, 0, 0x8001], 0x8001, 2),
        ([0xFFFF, 0x0001], 0x8001, 1),  # a limited member of the same partition
        ([0x7FFF, 0xFFFF], 0xFFFF, 1),  # a full member comes first
    ],
)
def test_a_partition_key_is_found_whatever_its_kind_of_membership(
    install: Install, table: list[int], wanted: int, index: int
) -> None:
    install(Library()).pkeys = table
    assert find_pkey(1, endpoint(pkey=wanted), 8, where="port 1 of mlx5_0") == index


def test_a_partition_key_that_is_not_there_is_told_with_those_that_are(install: Install) -> None:
    install(Library()).pkeys = [0xFFFF, 0x8002]
    with pytest.raises(TransportFailed, match=r"no partition key 0x8001; it has 0xffff, 0x8002"):
        find_pkey(1, endpoint(pkey=0x8001), 8, where="port 1 of mlx5_0")


def test_the_source_of_a_join_is_the_gid_with_roce(install: Install, tmp_path: Path) -> None:
    install(Library())
    assert find_source(endpoint()) == IPv4Address("192.0.2.7")
    port = tmp_path / "mlx5_0" / "ports" / "1"
    port.mkdir(parents=True)
    (port / "link_layer").write_text("Ethernet\n")
    assert find_source(endpoint("fd77::7")) == IPv6Address("fd77::7")


def test_the_source_of_a_join_is_an_address_of_ipoib_with_infiniband(
    install: Install, tmp_path: Path
) -> None:
    install(Library())
    port = tmp_path / "mlx5_0" / "ports" / "1"
    port.mkdir(parents=True)
    (port / "link_layer").write_text("InfiniBand\n")
    with pytest.raises(TransportFailed, match="ib0, after modprobe ib_ipoib"):
        find_source(endpoint("fe80::1"))
    # The loopback interface stands in for IPoIB's: it has an address on every machine.
    for name, number in (("other0", 1), ("lo", 0)):
        interface = tmp_path / "mlx5_0" / "device" / "net" / name
        interface.mkdir(parents=True)
        (interface / "dev_port").write_text(f"{number}\n")
    assert find_source(endpoint("fe80::1")) == IPv4Address("127.0.0.1")


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdma_core, "LIBIBVERBS", "libibverbs-that-is-not-there.so.1")
    with pytest.raises(TransportFailed, match=r"not installed.*apt install libibverbs1"):
        rdma_core.libibverbs.__wrapped__()


def test_a_library_that_lacks_something_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rdma_core, "LIBIBVERBS", None)  # this process itself
    with pytest.raises(TransportFailed, match=r"too old.*ibv_get_device_list"):
        rdma_core.libibverbs.__wrapped__()

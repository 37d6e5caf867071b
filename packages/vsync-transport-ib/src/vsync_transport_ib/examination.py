"""What ``vsync doctor`` looks at for this transport: devices, port, GID, MTU, locked memory, and
whether a message to oneself arrives."""

import os
import resource
import select
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from vsync.errors import TransportFailed
from vsync_transport_ib.choice import Choice, choose, choose_place
from vsync_transport_ib.settings import SettingsIB
from vsync_transport_ib.transport import provider
from vsync_transport_ib.verbs import GRH_BYTES, Device, Endpoint, Port, Provider, Verbs

Finding = tuple[str, str, str, str]
"""Level (``fine``, ``warning``, ``problem``), about what, what is found, what to do."""

SELF_TEST_S: Final = 2.0
SEND_AGAIN_S: Final = 0.2
ROCE_HEADERS_BYTES: Final = 104
"""What an interface must carry besides a message, and a little more."""

LARGE_BYTES: Final = 2048


def examine(settings: SettingsIB, load: Callable[[str], Provider] = provider) -> Iterator[Finding]:
    """Findings about *settings* on this machine, until one makes the next pointless."""
    try:
        module = load(settings.provider)
        devices = module.devices()
    except TransportFailed as error:
        yield _refused("InfiniBand", error)
        return
    if devices:
        yield "fine", "devices", "; ".join(map(_described, devices)), ""
    try:
        device, port, entry = choose_place(settings, devices)
        choice = choose(settings, devices)
    except TransportFailed as error:
        yield _refused("device", error)
        return
    yield (
        "fine",
        "port",
        f"port {port.number} of {device.name} is {port.state.name}, with GID {entry.index} "
        f"({entry.ip}, {entry.kind})",
        "",
    )
    yield from _sizes(device, port, choice)
    if settings.provider == "verbs":
        yield locked_memory(choice.endpoint, resource.getrlimit(resource.RLIMIT_MEMLOCK)[0])
    yield self_test(module, choice.endpoint)


def _refused(about: str, error: TransportFailed) -> Finding:
    said, mark, advice = str(error).partition("; ")
    if not mark:
        said, _, advice = str(error).partition(": ")
    return "problem", about, said, advice or "see [transport.ib]"


def _described(device: Device) -> str:
    ports = ", ".join(f"port {port.number} {port.state.name}" for port in device.ports)
    return f"{device.name} ({ports or 'no ports'})"


def _sizes(device: Device, port: Port, choice: Choice) -> Iterator[Finding]:
    for sentence in choice.warnings:
        yield "warning", "settings", sentence, "see [transport.ib]"
    carried = f"port {port.number} of {device.name} carries messages of {port.mtu_bytes} bytes"
    if port.mtu_bytes < LARGE_BYTES <= port.mtu_bytes_max:
        yield (
            "warning",
            "MTU",
            f"{carried}, and the device could do {port.mtu_bytes_max}",
            "large messages go faster in larger packets: with RoCE, raise the MTU of the interface "
            f"to {port.mtu_bytes_max + ROCE_HEADERS_BYTES} on all hosts and switches",
        )
    else:
        yield "fine", "MTU", carried, ""


def locked_memory(endpoint: Endpoint, limit_bytes: int) -> Finding:
    """Whether the queues' memory may be locked. *limit_bytes* is ``RLIMIT_MEMLOCK``."""
    needed = endpoint.receive_slots * (endpoint.message_bytes_max + GRH_BYTES)
    needed += endpoint.send_slots * endpoint.message_bytes_max
    if os.geteuid() == 0:
        return "fine", "locked memory", f"{needed} bytes are locked, and root may lock all", ""
    if limit_bytes == resource.RLIM_INFINITY or limit_bytes >= needed:
        return "fine", "locked memory", f"{needed} bytes are needed and may be locked", ""
    return (
        "problem",
        "locked memory",
        f"{needed} bytes are needed, and this user may lock {limit_bytes} (RLIMIT_MEMLOCK)",
        "raise it (LimitMEMLOCK=infinity in systemd; memlock in /etc/security/limits.conf), or "
        "lower receive_depth and send_depth in [transport.ib]",
    )


def self_test(module: Provider, endpoint: Endpoint) -> Finding:
    """Whether a message to this queue pair itself arrives."""
    try:
        verbs = module.open_verbs(endpoint)
    except TransportFailed as error:
        return _refused("self-test", error)
    try:
        began = time.monotonic()
        verbs.post_receives(range(min(64, endpoint.receive_slots)))
        verbs.arm()
        message = os.urandom(endpoint.message_bytes_max)
        came = None
        # The first ones may be lost: a handle takes its time, where an address is asked for.
        for slot in range(endpoint.send_slots):
            verbs.post_sends(slot, [message], verbs.own)
            until_s = min(time.monotonic() + SEND_AGAIN_S, began + SELF_TEST_S)
            came = _wait_for(verbs, message, until_s)
            if came is not None or until_s == began + SELF_TEST_S:
                break
    except TransportFailed as error:
        return _refused("self-test", error)
    finally:
        verbs.close()
    if came is None:
        return (
            "problem",
            "self-test",
            f"a message of {len(message)} bytes to this node itself did not arrive within "
            f"{SELF_TEST_S:g} s",
            "see the device's counters (`rdma statistic`, `vsync status` of a node), firewalls "
            "(UDP 4791 with RoCE) and the kernel's log",
        )
    took_ms = (came - began) * 1000
    return "fine", "self-test", f"a message to this node itself arrives in {took_ms:.1f} ms", ""


def _wait_for(verbs: Verbs, message: bytes, until_s: float) -> float | None:
    """When *message* came; None if it has not by then."""
    while (now := time.monotonic()) < until_s:
        for completion in verbs.poll_receives(64):
            if completion.data == message:
                return time.monotonic()
        select.select(verbs.descriptors(), [], [], min(0.05, until_s - now))
        verbs.arm()
    return None


def examined(settings: object) -> Sequence[Finding]:
    """For the hook ``vsync_examine``."""
    assert isinstance(settings, SettingsIB)
    return list(examine(settings))

"""This host: what it gives a node, whoever else there may be."""

import ctypes
import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from vsync import speedups
from vsync.errors import DaemonError, SettingsError, StateFailed
from vsync.key_file import key_ring_of
from vsync.runtime import StateStore
from vsync.runtime.store import state_directory
from vsync.settings import PRESETS, NodeSettings, RingSettings
from vsync.vocabulary import NodeId
from vsync_cli.doctor.findings import Finding, fine, problem, warning
from vsync_cli.sockets import choose_socket

JITTER_SHARE: Final = 0.25
"""Of ``token_lost_s``: a node that is as late as that suspects itself."""

LOST_MIN_S: Final = 0.03
"""``token_lost_s`` may not be less."""

SLEEP_S: Final = 0.001
FILES_SPARE: Final = 64
"""Open files of a node besides its clients."""

STA_UNSYNC: Final = 0x40  # linux/timex.h
TIMEX_BYTES: Final = 208


def look_at(settings: NodeSettings, jitter_seconds: float, *, own: bool) -> Iterator[Finding]:
    """Everything but the network. *own*: the settings are a node's own, not just the defaults."""
    yield from jitter(settings.ring, lateness(jitter_seconds))
    yield from processors(os.cpu_count() or 1)
    yield from files(resource.getrlimit(resource.RLIMIT_NOFILE)[1], settings.daemon.clients_max)
    if own:
        yield from state(settings)
        yield from socket_place(settings)
    yield from key(settings)
    yield from clock(clock_synchronized())
    yield compiled(speedups.in_use)


def lateness(seconds: float) -> list[float]:
    """How much too late a thread wakes that sleeps a millisecond again and again; ascending."""
    late = []
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        time.sleep(SLEEP_S)
        late.append(max(0.0, time.monotonic() - began - SLEEP_S))
    return sorted(late)


def jitter(ring: RingSettings, late: Sequence[float]) -> Iterator[Finding]:
    """Whether threads run when they should, by what ``lateness`` found."""
    worst, usual = late[-1], late[int(len(late) * 0.99)]
    seen = f"threads wake up to {worst * 1000:.1f} ms late (99 %: {usual * 1000:.1f} ms)"
    allowed = JITTER_SHARE * ring.token_lost_s
    if worst <= allowed:
        least = max(LOST_MIN_S, worst / JITTER_SHARE)
        allows = f"token_lost_s = {ring.token_lost_s:g} allows it, as {least:.2g} or more would"
        yield fine("scheduling", f"{seen}; {allows}")
        return
    wanted = worst / JITTER_SHARE
    presets = {name: RingSettings(preset=name).token_lost_s for name in PRESETS}
    enough = [name for name, lost_s in sorted(presets.items(), key=_second) if lost_s >= wanted]
    advice = f'preset = "{enough[0]}"' if enough else f"token_lost_s = {wanted:.1f} or more"
    yield problem(
        "scheduling",
        f"{seen}, and token_lost_s = {ring.token_lost_s:g} s allows {allowed * 1000:.0f} ms",
        f"give the ring more time ({advice} in [ring], on all nodes), or this machine less to do",
    )


def _second(item: tuple[str, float]) -> float:
    return item[1]


def processors(count: int) -> Iterator[Finding]:
    """Whether there are processors enough."""
    if count > 1:
        yield fine("processors", f"{count} processors")
    else:
        yield warning(
            "processors",
            "one processor, which the ring and its applications have to share",
            "expect pauses under load; more than one is better",
        )


def files(limit: int, clients_max: int) -> Iterator[Finding]:
    """Whether a node may open as many files as it has clients. *limit* is the hard one."""
    wanted = clients_max + FILES_SPARE
    if limit == resource.RLIM_INFINITY or limit >= wanted:
        yield fine("open files", f"up to {limit}, enough for {clients_max} local programs")
    else:
        yield warning(
            "open files",
            f"up to {limit}, and {clients_max} local programs may connect (clients_max)",
            f"raise the limit (LimitNOFILE={wanted} in systemd, ulimit -n), or lower clients_max",
        )


def state(settings: NodeSettings) -> Iterator[Finding]:
    """Whether the node can keep its state, and whether it runs already."""
    directory = state_directory(settings.node.state_dir)
    try:
        StateStore(directory, settings.ring.name, NodeId(settings.node.id)).close()
    except StateFailed as error:
        if "is already running here" in str(error):
            yield fine("state", f"node {settings.node.id} runs here and has its state")
        else:
            said, _, advice = str(error).partition("; ")
            yield problem("state", said, advice or "see state_dir in [node]")
    else:
        yield fine("state", f"{directory} can be written")


def socket_place(settings: NodeSettings) -> Iterator[Finding]:
    """Whether the node can offer its socket to local programs."""
    try:
        path = choose_socket(settings, None)
    except DaemonError as error:
        said, _, advice = str(error).partition("; ")
        yield problem("socket", said, advice or "see socket in [daemon]")
        return
    if os.access(path.parent, os.W_OK | os.X_OK):
        yield fine("socket", f"local programs connect at {path}")
    else:
        yield problem(
            "socket",
            f"this user may not make {path}",
            "make its directory, writable for this user, or name another place with socket in "
            "[daemon]",
        )


def key(settings: NodeSettings) -> Iterator[Finding]:
    """Whether there is a key."""
    try:
        keys = key_ring_of(settings.security)
    except SettingsError as error:
        said, _, advice = str(error).partition("; ")
        yield problem("key", said, advice or "see key_file in [security]")
        return
    if keys is None:
        yield warning(
            "key",
            "no key: anyone on this network can read and forge packets",
            "`vsync keygen FILE`, and key_file in [security] on all nodes",
        )
    else:
        yield fine("key", f"packets are sealed with key {keys.used}")


def clock_synchronized() -> bool | None:
    """Whether the system's clock follows another; None if that cannot be known. adjtimex(2)."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        timex = ctypes.create_string_buffer(TIMEX_BYTES)
        if libc.adjtimex(timex) < 0:
            return None
    except (OSError, AttributeError):
        return None
    # modes, then long offset, freq, maxerror, esterror; then int status
    word = ctypes.sizeof(ctypes.c_long)
    at = 5 * word
    status = int.from_bytes(timex.raw[at : at + 4], "little")
    return not status & STA_UNSYNC


def clock(synchronized: bool | None) -> Iterator[Finding]:
    """Whether log lines of several hosts can be compared."""
    if synchronized is None:
        return
    if synchronized:
        yield fine("clock", "the system's clock is synchronized")
    else:
        yield warning(
            "clock",
            "the system's clock is not synchronized; rings do not need it, but log lines of "
            "several hosts cannot be compared",
            "run chrony or systemd-timesyncd",
        )


def compiled(in_use: str) -> Finding:
    """Whether the hot modules run compiled."""
    if in_use == speedups.COMPILED:
        return fine("speedups", "the hot modules are compiled")
    if in_use.startswith(speedups.COMPILED):
        return fine("speedups", f"the hot modules are {in_use}")
    return fine("speedups", f"{in_use}; vsync-speedups makes rings faster")


def facts_of(status: Mapping[str, Any]) -> Iterator[Finding]:
    """What an open transport says of itself."""
    for sentence in status.get("warnings", ()):
        said, _, advice = str(sentence).partition(": ")
        yield warning("transport", said if advice else sentence, advice or "see above")
    buffer = status.get("receive_buffer_bytes")
    if isinstance(buffer, Mapping) and buffer["given"] >= buffer["asked"]:
        yield fine("receive buffer", f"{buffer['given']} bytes, as asked for")
    size = status.get("packet_bytes_max")
    if size:
        yield fine("packets", f"up to {size} bytes")

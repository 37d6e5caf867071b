"""Telling systemd how a service is: the protocol of sd_notify(3), which is a datagram.

Without systemd (no ``NOTIFY_SOCKET``) nothing is sent. systemd restarts a service that was told to
say ``WATCHDOG=1`` and does not; so that is said only while the ring's thread answers.
"""

import contextlib
import os
import socket
from collections.abc import Mapping

import anyio

import vsync


class Notifier:
    """Sends notices to systemd, if it started this process as a service."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        place = environment.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is one of the abstract namespace, written \0 there (unix(7)).
        self._address = "\0" + place[1:] if place.startswith("@") else place
        self.watchdog_s = _watchdog_s(environment)
        """Within which time systemd wants to hear of us again; None if it does not care."""

    def tell(self, *lines: str) -> None:
        """Send *lines*, such as ``READY=1``. A systemd that does not listen is no failure."""
        if self._address:
            with (
                contextlib.suppress(OSError),
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
            ):
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), self._address)


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    try:
        microseconds = int(environment.get("WATCHDOG_USEC", ""))
        meant = int(environment.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 and meant == os.getpid() else None


async def keep_watchdog_quiet(notifier: Notifier, node: vsync.Node) -> None:
    """Say ``WATCHDOG=1`` twice as often as needed, while the ring's thread answers in time."""
    if notifier.watchdog_s is None:
        return
    pause_s = notifier.watchdog_s / 2
    while True:
        with anyio.move_on_after(pause_s) as answering:
            await node.status()
        if not answering.cancelled_caught:
            notifier.tell("WATCHDOG=1")
            await anyio.sleep(pause_s)

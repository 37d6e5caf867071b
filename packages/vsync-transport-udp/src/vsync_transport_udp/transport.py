"""TransportUDP: packets to everyone by multicast, answers by unicast.

Two sockets. One, bound to the node's own address, sends *everything* and receives what is sent to
this node alone (the token). So its address is the node's address, as others see it, whatever a
packet's destination; and a packet from it, heard back on the other socket, is one's own and
dropped. The other socket is bound to the group and only receives.
"""

import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

from pydantic import BaseModel

from vsync.errors import TransportFailed
from vsync.ip import interfaces, sockets
from vsync.ip.interfaces import InterfaceAddress
from vsync.transport import Arrival, Burst, Packet, Transport, flat
from vsync.vocabulary import NodeId
from vsync_transport_udp.datagrams import Datagrams
from vsync_transport_udp.settings import SettingsUDP

REPAIR_INTERVAL_S: Final = 0.25
"""How often, while sending fails, the interface is looked for again."""


class TransportUDP(Transport):
    """A ring over UDP multicast in one network, IPv4 or IPv6."""

    SCHEME: ClassVar[str] = "udp"
    SETTINGS: ClassVar[type[BaseModel]] = SettingsUDP

    def __init__(
        self,
        settings: SettingsUDP,
        *,
        node: NodeId,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._node = node
        self._clock = clock
        self._version = 6 if ":" in settings.group else 4
        self._datagrams = Datagrams(settings)
        self._local: InterfaceAddress | None = None
        self._unicast: socket.socket | None = None
        self._multicast: socket.socket | None = None
        self._group: Any = None
        self._repaired_at = float("-inf")
        self._repairs = 0

    # Opening and closing

    def open(self) -> None:
        """Find the interface, bind both sockets, join the group. Raises TransportFailed."""
        settings = self._settings
        try:
            local = interfaces.resolve_bind(settings.bind, self._version)
            self._unicast = sockets.open_unicast(
                local,
                settings.unicast_port,
                setting="unicast_port",
                advice="choose another unicast_port in [transport.udp], or 0 for any free one",
                section="transport.udp",
            )
            self._multicast = sockets.open_multicast(
                local,
                settings.group,
                settings.port,
                setting="port",
                advice="stop that program, or choose another port in [transport.udp] on every node",
                section="transport.udp",
            )
            self._local = local
            self._datagrams.attach(local, self._unicast, self._multicast)
            self._group = sockets.socket_address(local, settings.group, settings.port)
            sockets.send_through(self._unicast, local)
            sockets.set_multicast(self._unicast, ttl=settings.ttl, loop=settings.multicast_loop)
            self._warn(local)
        except OSError as error:
            self.close()
            raise TransportFailed(
                f"the transport udp cannot open with bind {settings.bind}, group "
                f"{settings.group}, port {settings.port}: {error.strerror or error}"
            ) from error
        except TransportFailed:
            self.close()
            raise

    def close(self) -> None:
        """Close both sockets, which leaves the group too."""
        for opened in (self._unicast, self._multicast):
            if opened is not None:
                opened.close()
        self._unicast = self._multicast = None
        self._datagrams.detach()

    def descriptors(self) -> Sequence[int]:
        """Both sockets."""
        return [opened.fileno() for opened in (self._unicast, self._multicast) if opened]

    def send(self, burst: Burst) -> None:
        """Send as many packets in one system call as the kernel takes; count what is lost."""
        if self._unicast is None:
            raise TransportFailed("the transport udp is closed and can send nothing")
        if self._datagrams.in_trouble:
            self._repair()
        destination = self._group if burst.destination is None else burst.destination
        self._datagrams.send(burst.packets, destination)

    def receive(self) -> Sequence[Packet]:
        """What waits on both sockets, multicast first."""
        return flat(self.receive_trains())

    def receive_trains(self) -> Sequence[Arrival]:
        """The same, with packets that the kernel gave in one piece left in it.

        The token is read before the frames and handed over after them: all that its sender had
        sent before it is then in the same batch, and not asked for again.
        """
        if self._unicast is None or self._multicast is None:
            return ()
        alone: list[Arrival] = []
        batch: list[Arrival] = []
        self._datagrams.drain(self._unicast, alone)
        self._datagrams.drain(self._multicast, batch)
        batch += alone
        return batch

    def receive_readable(self, readable: Collection[int]) -> Sequence[Arrival]:
        """The same, from the sockets that are *readable*: to ask in vain is as dear as to get."""
        unicast, multicast = self._unicast, self._multicast
        if unicast is None or multicast is None:
            return ()
        alone: list[Arrival] = []
        batch: list[Arrival] = []
        if unicast.fileno() in readable:
            self._datagrams.drain(unicast, alone)
        if multicast.fileno() in readable:
            self._datagrams.drain(multicast, batch)
        batch += alone
        return batch

    # Facts

    @property
    def packet_bytes_max(self) -> int:
        """What fits into the interface's MTU, or less if the settings say so."""
        return self._datagrams.packet_bytes_max

    @property
    def receive_buffer_bytes(self) -> int:
        """The smaller buffer of the two sockets, as granted."""
        return self._datagrams.receive_buffer_bytes

    @property
    def status(self) -> Mapping[str, Any]:
        """Interface, addresses, sizes, offloads, counters and warnings."""
        settings = self._settings
        return {
            "interface": self._local.name if self._local else None,
            "address": self._datagrams.address,
            "group": settings.group,
            "port": settings.port,
            **self._datagrams.sizes(),
            "multicast_loop": settings.multicast_loop,
            "counters": {**self._datagrams.counters(), "repairs": self._repairs},
            "errors": dict(self._datagrams.errors),
            "warnings": list(self._datagrams.warnings),
        }

    # Below: what may be wrong, and mending

    def _warn(self, local: InterfaceAddress) -> None:
        settings, warnings = self._settings, self._datagrams.warnings
        if "bind" not in settings.model_fields_set:
            warnings.append(
                f"bind is not set in [transport.udp]: only nodes on this machine can be reached, "
                f"through {settings.bind}"
            )
        if sockets.reaches(local, settings.group, settings.port):
            return
        if self._version == 6 and interfaces.is_loopback(local.name):
            raise TransportFailed(
                f"this machine sends no IPv6 multicast on {local.name}; use an IPv4 bind and group "
                "(127.0.0.1), or give the group a route, as root: "
                f"ip -6 route add local {settings.group} dev {local.name}"
            )
        warnings.append(
            f"when the node started, nothing could be sent to {settings.group} through "
            f"{local.name}; it is tried again with every packet (see `ip link show {local.name}`)"
        )

    def _repair(self) -> None:
        """After trouble: find the interface again and join on it, should it be a new one.

        The kernel itself mends an interface that only went down and up. One that was removed and
        made anew has another index; the sockets stay, only what points at the index is renewed.
        """
        now = self._clock()
        if now - self._repaired_at < REPAIR_INTERVAL_S:
            return
        self._repaired_at = now
        self._datagrams.in_trouble = False
        assert self._local is not None and self._unicast is not None
        assert self._multicast is not None
        with suppress(OSError):
            for found in interfaces.interface_addresses():
                if found.address == self._local.address and found.usable:
                    sockets.join(self._multicast, found, self._settings.group)
                    sockets.send_through(self._unicast, found)
                    self._group = sockets.socket_address(
                        found, self._settings.group, self._settings.port
                    )
                    if found != self._local:
                        self._repairs += 1
                        self._local = found
                    return

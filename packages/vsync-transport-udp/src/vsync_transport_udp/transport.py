"""TransportUDP: packets to everyone by multicast, answers by unicast.

Two sockets. One, bound to the node's own address, sends *everything* and receives what is sent to
this node alone (the token). So its address is the node's address, as others see it, whatever a
packet's destination; and a packet from it, heard back on the other socket, is one's own and
dropped. The other socket is bound to the group and only receives.
"""

import errno
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

from pydantic import BaseModel

from vsync.errors import TransportFailed
from vsync.transport import Address, Burst, Packet, Transport
from vsync.vocabulary import NodeId
from vsync_transport_udp import interfaces, offload, sockets
from vsync_transport_udp.interfaces import InterfaceAddress
from vsync_transport_udp.settings import SettingsUDP

LOOPBACK_PACKET_BYTES: Final = 1472
"""Loopback would carry 65,507 bytes in one piece; packets there are as on Ethernet instead."""

OVERHEAD_BYTES: Final = {4: 20 + 8, 6: 40 + 8}
"""IP and UDP headers, by IP version."""

BATCH_PACKETS_MAX: Final = 1024
"""About what one call of ``receive`` returns at most: so that no flood keeps the caller waiting."""

REPAIR_INTERVAL_S: Final = 0.25
"""How often, while sending fails, the interface is looked for again."""

_BUFFER_TOLERANCE: Final = 0.9
_INTERFACE_TROUBLE: Final = frozenset(
    (
        errno.ENODEV,
        errno.ENXIO,
        errno.EADDRNOTAVAIL,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EHOSTUNREACH,
        errno.EINVAL,  # what Linux says when the source address is gone
    )
)
_MSG_TRUNC: Final = socket.MSG_TRUNC


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
        self._local: InterfaceAddress | None = None
        self._unicast: socket.socket | None = None
        self._multicast: socket.socket | None = None
        self._own: Address = None
        self._group: Any = None
        self._packet_bytes_max = 0
        self._receive_buffer_bytes = 0
        self._send_buffer_bytes = 0
        self._gso = False
        self._gro = False
        self._segments_max = offload.SEGMENTS_MAX
        self._in_trouble = False
        self._repaired_at = float("-inf")
        self._warnings: list[str] = []
        self._lost: Counter[str] = Counter()
        self._packets_sent = 0
        self._packets_lost = 0
        self._packets_received = 0
        self._packets_own = 0
        self._packets_truncated = 0
        self._sends = 0
        self._receives = 0
        self._repairs = 0

    # Opening and closing

    def open(self) -> None:
        """Find the interface, bind both sockets, join the group. Raises TransportFailed."""
        settings = self._settings
        try:
            local = interfaces.resolve_bind(settings.bind, self._version)
            self._packet_bytes_max = self._choose_packet_bytes(local)
            self._unicast = sockets.open_unicast(local, settings.unicast_port)
            self._multicast = sockets.open_multicast(local, settings.group, settings.port)
            self._local = local
            self._prepare(local, self._unicast, self._multicast)
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

    def descriptors(self) -> Sequence[int]:
        """Both sockets."""
        return [opened.fileno() for opened in (self._unicast, self._multicast) if opened]

    # Sending

    def send(self, burst: Burst) -> None:
        """Send as many packets in one system call as the kernel takes; count what is lost."""
        if self._unicast is None:
            raise TransportFailed("the transport udp is closed and can send nothing")
        if self._in_trouble:
            self._repair()
        destination = self._group if burst.destination is None else burst.destination
        packets = burst.packets
        if len(packets) > 1 and self._gso:
            self._send_joined(packets, destination)
        else:
            self._send_each(packets, destination)

    def _send_joined(self, packets: Sequence[bytes | memoryview], destination: Any) -> None:
        assert self._unicast is not None
        runs = offload.joined(
            packets,
            bytes_max=offload.GSO_BYTES_MAX[self._version],
            segments_max=self._segments_max,
        )
        for run in runs:
            if len(run) == 1 or not self._gso:
                self._send_each(run, destination)
                continue
            try:
                self._unicast.sendmsg(run, offload.segment_ancillary(len(run[0])), 0, destination)
            except OSError as error:
                if error.errno in (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP):
                    self._send_refused(run, destination)
                else:
                    self._count_lost(error, len(run))
            else:
                self._sends += 1
                self._packets_sent += len(run)

    def _send_refused(self, run: Sequence[bytes | memoryview], destination: Any) -> None:
        """Send *run* without GSO. If that works, it was GSO that the kernel or device refused."""
        if len(run) > offload.SEGMENTS_SAFE:
            self._segments_max = offload.SEGMENTS_SAFE
            self._send_joined(run, destination)
            return
        if self._send_each(run, destination):
            self._gso = False
            self._warnings.append(
                "segmentation offload (GSO) failed when sending and is off; sending costs more"
            )

    def _send_each(self, packets: Sequence[bytes | memoryview], destination: Any) -> bool:
        """One call a packet; whether the last was sent."""
        assert self._unicast is not None
        sendto = self._unicast.sendto
        sent = False
        for packet in packets:
            try:
                sendto(packet, destination)
            except OSError as error:
                self._count_lost(error, 1)
                sent = False
            else:
                self._sends += 1
                self._packets_sent += 1
                sent = True
        return sent

    def _count_lost(self, error: OSError, packets: int) -> None:
        self._packets_lost += packets
        self._lost[errno.errorcode.get(error.errno or 0, "unknown")] += packets
        if error.errno in _INTERFACE_TROUBLE:
            self._in_trouble = True

    # Receiving

    def receive(self) -> Sequence[Packet]:
        """What waits on both sockets, multicast first.

        The token is read before the frames and handed over after them: all that its sender had
        sent before it is then in the same batch, and not asked for again.
        """
        if self._unicast is None or self._multicast is None:
            return ()
        alone: list[Packet] = []
        batch: list[Packet] = []
        self._drain(self._unicast, alone)
        self._drain(self._multicast, batch)
        batch += alone
        return batch

    def _drain(self, receiver: socket.socket, batch: list[Packet]) -> None:
        recvmsg = receiver.recvmsg
        own = self._own
        while len(batch) < BATCH_PACKETS_MAX:
            try:
                data, ancillary, flags, source = recvmsg(
                    offload.RECEIVE_BYTES, offload.ANCILLARY_BYTES
                )
            except BlockingIOError:
                return
            except ConnectionRefusedError:
                continue  # an ICMP answer to something sent earlier: no news of any packet here
            except OSError as error:
                self._count_receive_error(error)
                return
            self._receives += 1
            segment_bytes = offload.segment_bytes_of(ancillary) if ancillary else 0
            if source == own:
                self._packets_own += -(-len(data) // segment_bytes) if segment_bytes else 1
            elif flags & _MSG_TRUNC:
                self._packets_truncated += 1
            elif segment_bytes:
                pieces = offload.split(data, segment_bytes)
                self._packets_received += len(pieces)
                batch.extend([Packet(piece, source) for piece in pieces])
            else:
                self._packets_received += 1
                batch.append(Packet(data, source))

    def _count_receive_error(self, error: OSError) -> None:
        self._lost["receive " + errno.errorcode.get(error.errno or 0, "unknown")] += 1
        if error.errno in _INTERFACE_TROUBLE:
            self._in_trouble = True

    # Facts

    @property
    def packet_bytes_max(self) -> int:
        """What fits into the interface's MTU, or less if the settings say so."""
        return self._packet_bytes_max

    @property
    def receive_buffer_bytes(self) -> int:
        """The smaller buffer of the two sockets, as granted."""
        return self._receive_buffer_bytes

    @property
    def status(self) -> Mapping[str, Any]:
        """Interface, addresses, sizes, offloads, counters and warnings."""
        local = self._local
        settings = self._settings
        return {
            "interface": local.name if local else None,
            "address": list(self._own)[:2] if isinstance(self._own, tuple) else None,
            "group": settings.group,
            "port": settings.port,
            "packet_bytes_max": self._packet_bytes_max,
            "receive_buffer_bytes": {
                "asked": settings.receive_buffer_bytes,
                "given": self._receive_buffer_bytes,
            },
            "send_buffer_bytes": {
                "asked": settings.send_buffer_bytes,
                "given": self._send_buffer_bytes,
            },
            "gso": self._gso,
            "gro": self._gro,
            "multicast_loop": settings.multicast_loop,
            "counters": {
                "packets_sent": self._packets_sent,
                "packets_received": self._packets_received,
                "packets_own": self._packets_own,
                "packets_truncated": self._packets_truncated,
                "packets_lost_sending": self._packets_lost,
                "packets_lost_receive_buffer": sum(
                    sockets.dropped_by_kernel(receiver)
                    for receiver in (self._unicast, self._multicast)
                    if receiver
                ),
                "send_calls": self._sends,
                "receive_calls": self._receives,
                "repairs": self._repairs,
            },
            "errors": dict(self._lost),
            "warnings": list(self._warnings),
        }

    # Below: opening in detail, and mending

    def _choose_packet_bytes(self, local: InterfaceAddress) -> int:
        carried = interfaces.mtu_bytes(local.name) - OVERHEAD_BYTES[self._version]
        asked = self._settings.packet_bytes_max
        if asked is None:
            loopback = interfaces.is_loopback(local.name)
            return min(carried, LOOPBACK_PACKET_BYTES) if loopback else min(carried, 65_487)
        if asked > carried:
            self._warnings.append(
                f"packet_bytes_max {asked} is more than {local.name} carries in one piece; "
                f"{carried} is used"
            )
        return min(asked, carried)

    def _prepare(
        self, local: InterfaceAddress, unicast: socket.socket, multicast: socket.socket
    ) -> None:
        settings = self._settings
        self._own = unicast.getsockname()
        self._group = sockets.group_address(local, settings.group, settings.port)
        sockets.send_through(unicast, local)
        sockets.set_multicast(unicast, ttl=settings.ttl, loop=settings.multicast_loop)
        if settings.dscp is not None:
            sockets.set_dscp(unicast, settings.dscp)
        self._receive_buffer_bytes = min(
            sockets.set_receive_buffer(receiver, settings.receive_buffer_bytes)
            for receiver in (unicast, multicast)
        )
        self._send_buffer_bytes = sockets.set_send_buffer(unicast, settings.send_buffer_bytes)
        self._gso = settings.gso == "auto" and offload.gso_present(unicast)
        self._gro = (
            settings.gro == "auto" and offload.enable_gro(multicast) and offload.enable_gro(unicast)
        )
        self._warn(local)

    def _warn(self, local: InterfaceAddress) -> None:
        settings = self._settings
        if self._receive_buffer_bytes < settings.receive_buffer_bytes * _BUFFER_TOLERANCE:
            self._warnings.append(
                f"the system gave a receive buffer of {self._receive_buffer_bytes} bytes where "
                f"{settings.receive_buffer_bytes} were asked; raise net.core.rmem_max "
                f"(sysctl -w net.core.rmem_max={settings.receive_buffer_bytes}), or fewer packets "
                "can be in flight"
            )
        if "bind" not in settings.model_fields_set:
            self._warnings.append(
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
        self._warnings.append(
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
        self._in_trouble = False
        assert self._local is not None and self._unicast is not None
        assert self._multicast is not None
        with suppress(OSError):
            for found in interfaces.interface_addresses():
                if found.address == self._local.address and found.usable:
                    sockets.join(self._multicast, found, self._settings.group)
                    sockets.send_through(self._unicast, found)
                    self._group = sockets.group_address(
                        found, self._settings.group, self._settings.port
                    )
                    if found != self._local:
                        self._repairs += 1
                        self._local = found
                    return

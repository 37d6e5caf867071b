"""Datagrams: bursts into a socket and batches out of sockets, with offload where there is any.

What ``udp`` and ``udpu`` have in common: how packets are sent and received, what is counted, how
large packets may be, and what is said of buffers that are too small.
"""

import errno
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from vsync.ip import interfaces, offload, sockets
from vsync.ip.interfaces import InterfaceAddress
from vsync.ip.offload import DATAGRAMS_AT_ONCE, Received
from vsync.ip.receiving import receive
from vsync.transport import Address, Arrival, Train
from vsync_transport_udp.settings import SettingsSockets

LOOPBACK_PACKET_BYTES: Final = 1472
"""Loopback would carry 65,507 bytes in one piece; packets there are as on Ethernet instead."""

OVERHEAD_BYTES: Final = {4: 20 + 8, 6: 40 + 8}
"""IP and UDP headers, by IP version."""

BATCH_PACKETS_MAX: Final = 1024
"""About what one call of ``receive`` returns at most: so that no flood keeps the caller waiting."""

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


class Datagrams:
    """Sends from one socket, receives from it and maybe others, and counts.

    ``attach`` it to open sockets; what it counted stays after ``detach``.
    """

    def __init__(self, settings: SettingsSockets) -> None:
        self._settings = settings
        self.sender: socket.socket | None = None
        self.own: Address = None
        """The address of ``sender``: where packets come from, and so whose are one's own."""
        self.gso = False
        self.gro = False
        self.in_trouble = False
        """Something failed in a way that an interface that is gone would explain."""
        self.packet_bytes_max = 0
        self.receive_buffer_bytes = 0
        self.send_buffer_bytes = 0
        self.warnings: list[str] = []
        self._receivers: Sequence[socket.socket] = ()
        self._version = 4
        self._segments_max = offload.SEGMENTS_MAX
        self._lost: Counter[str] = Counter()
        self._packets_sent = 0
        self._packets_lost = 0
        self._packets_received = 0
        self._packets_own = 0
        self._packets_truncated = 0
        self._sends = 0
        self._receives = 0

    # Sockets

    def attach(self, local: InterfaceAddress, *receivers: socket.socket) -> None:
        """Use these sockets, the first one for sending too; set buffers, offload, code point.

        Raises OSError.
        """
        settings = self._settings
        sender = receivers[0]
        self.sender = sender
        self.own = sender.getsockname()
        self._receivers = receivers
        self._version = local.version
        self.packet_bytes_max = self._choose_packet_bytes(local)
        if settings.dscp is not None:
            sockets.set_dscp(sender, settings.dscp)
        self.receive_buffer_bytes = min(
            sockets.set_receive_buffer(receiver, settings.receive_buffer_bytes)
            for receiver in receivers
        )
        self.send_buffer_bytes = sockets.set_send_buffer(sender, settings.send_buffer_bytes)
        self.gso = settings.gso == "auto" and offload.gso_present(sender)
        self.gro = settings.gro == "auto" and all(map(offload.enable_gro, receivers))
        if self.receive_buffer_bytes < settings.receive_buffer_bytes * _BUFFER_TOLERANCE:
            self.warnings.append(
                f"the system gave a receive buffer of {self.receive_buffer_bytes} bytes where "
                f"{settings.receive_buffer_bytes} were asked; raise net.core.rmem_max "
                f"(sysctl -w net.core.rmem_max={settings.receive_buffer_bytes}), or fewer packets "
                "can be in flight"
            )

    def detach(self) -> None:
        """Use no socket any more. Closing them is their owner's business."""
        self.sender = None
        self._receivers = ()

    def _choose_packet_bytes(self, local: InterfaceAddress) -> int:
        carried = interfaces.mtu_bytes(local.name) - OVERHEAD_BYTES[self._version]
        asked = self._settings.packet_bytes_max
        if asked is None:
            loopback = interfaces.is_loopback(local.name)
            return min(carried, LOOPBACK_PACKET_BYTES) if loopback else min(carried, 65_487)
        if asked > carried:
            self.warnings.append(
                f"packet_bytes_max {asked} is more than {local.name} carries in one piece; "
                f"{carried} is used"
            )
        return min(asked, carried)

    # Sending

    def send(self, packets: Sequence[bytes | memoryview], destination: Any) -> None:
        """Send as many packets in one system call as the kernel takes; count what is lost."""
        if len(packets) > 1 and self.gso:
            self._send_joined(packets, destination)
        else:
            self._send_each(packets, destination)

    def _send_joined(self, packets: Sequence[bytes | memoryview], destination: Any) -> None:
        assert self.sender is not None
        bytes_max, segments_max = offload.GSO_BYTES_MAX[self._version], self._segments_max
        runs: Iterable[Sequence[bytes | memoryview]]
        if (
            type(packets) is Train
            and len(packets.buffer) <= bytes_max
            and len(packets) <= segments_max
        ):
            runs = (packets,)
        else:
            runs = offload.joined(packets, bytes_max=bytes_max, segments_max=segments_max)
        for run in runs:
            count = len(run)
            if count == 1 or not self.gso:
                self._send_each(run, destination)
                continue
            buffers: Sequence[bytes | memoryview]
            if type(run) is Train:
                buffers, size = (run.buffer,), run.packet_bytes
            else:
                buffers, size = run, len(run[0])
            try:
                self.sender.sendmsg(buffers, offload.segment_ancillary(size), 0, destination)
            except OSError as error:
                if error.errno in (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP):
                    self._send_refused(run, destination)
                else:
                    self._count_lost(error, count)
            else:
                self._sends += 1
                self._packets_sent += count

    def _send_refused(self, run: Sequence[bytes | memoryview], destination: Any) -> None:
        """Send *run* without GSO. If that works, it was GSO that the kernel or device refused."""
        if len(run) > offload.SEGMENTS_SAFE:
            self._segments_max = offload.SEGMENTS_SAFE
            self._send_joined(run, destination)
            return
        if self._send_each(run, destination):
            self.gso = False
            self.warnings.append(
                "segmentation offload (GSO) failed when sending and is off; sending costs more"
            )

    def _send_each(self, packets: Sequence[bytes | memoryview], destination: Any) -> bool:
        """One call a packet; whether the last was sent."""
        assert self.sender is not None
        sendto = self.sender.sendto
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
            self.in_trouble = True

    # Receiving

    def drain(self, receiver: socket.socket, batch: list[Arrival]) -> None:
        """Add what waits in *receiver* to *batch*, up to a bound; leave out what is one's own."""
        own = self.own
        packets = 0
        for _ in range(BATCH_PACKETS_MAX // DATAGRAMS_AT_ONCE):
            came: list[Received] = []
            more = False
            try:
                more = receive(receiver, DATAGRAMS_AT_ONCE, offload.RECEIVE_BYTES, came)
            except OSError as error:
                self._count_receive_error(error)
            for data, segment_bytes, truncated, source in came:
                if source == own:
                    self._packets_own += -(-len(data) // segment_bytes) if segment_bytes else 1
                elif truncated:
                    self._packets_truncated += 1
                elif segment_bytes and len(data) > segment_bytes:
                    train = Train(data, segment_bytes)
                    packets += len(train)
                    batch.append((train, source))
                else:
                    packets += 1
                    batch.append((data, source))
            self._receives += len(came)
            if not more or packets >= BATCH_PACKETS_MAX:
                break
        self._packets_received += packets

    def _count_receive_error(self, error: OSError) -> None:
        self._lost["receive " + errno.errorcode.get(error.errno or 0, "unknown")] += 1
        if error.errno in _INTERFACE_TROUBLE:
            self.in_trouble = True

    # Facts

    def sizes(self) -> dict[str, Any]:
        """Sizes and offloads, for a status."""
        settings = self._settings
        return {
            "packet_bytes_max": self.packet_bytes_max,
            "receive_buffer_bytes": {
                "asked": settings.receive_buffer_bytes,
                "given": self.receive_buffer_bytes,
            },
            "send_buffer_bytes": {
                "asked": settings.send_buffer_bytes,
                "given": self.send_buffer_bytes,
            },
            "gso": self.gso,
            "gro": self.gro,
        }

    def counters(self) -> dict[str, int]:
        """What was counted, for a status."""
        return {
            "packets_sent": self._packets_sent,
            "packets_received": self._packets_received,
            "packets_own": self._packets_own,
            "packets_truncated": self._packets_truncated,
            "packets_lost_sending": self._packets_lost,
            "packets_lost_receive_buffer": sum(map(sockets.dropped_by_kernel, self._receivers)),
            "send_calls": self._sends,
            "receive_calls": self._receives,
        }

    @property
    def errors(self) -> Mapping[str, int]:
        """Packets lost to errors of the system, by the error's name."""
        return dict(self._lost)

    @property
    def address(self) -> list[Any] | None:
        """``own`` for a status: host and port."""
        return list(self.own)[:2] if isinstance(self.own, tuple) else None

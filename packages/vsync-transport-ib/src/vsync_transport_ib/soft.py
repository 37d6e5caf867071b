"""Verbs in user space: RoCE v2 over an ordinary UDP socket, where there is no device.

The packets are those of an HCA, so it talks to one, and to the kernel's ``rdma_rxe``; what is not
for this queue pair, or damaged, is dropped and counted, as an HCA would. The network interfaces
with an IPv4 address stand in the place of devices. Nothing needs a privilege.

Two sockets, as with ``udp``: one has the interface's address, sends, and receives what is for this
node alone; the other is bound to the group. Bursts go through segmentation offload both ways, for
each packet of RoCE is complete in itself.
"""

import contextlib
import errno
import os
import random
import socket
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from vsync.errors import TransportFailed
from vsync.ip import interfaces, offload, sockets
from vsync.ip.interfaces import InterfaceAddress
from vsync.ip.offload import DATAGRAMS_AT_ONCE, Received
from vsync.ip.receiving import receive
from vsync_transport_ib.datagrams import PSN_MASK, Receiver, Sender, wire_bytes
from vsync_transport_ib.icrc import ROCE_PORT, Flow
from vsync_transport_ib.verbs import (
    MULTICAST_QPN,
    Device,
    Endpoint,
    Event,
    EventKind,
    GidEntry,
    LinkLayer,
    Peer,
    Port,
    PortState,
    ReceiveCompletion,
    SendCompletion,
)

IP_MTU_DISCOVER: Final = 10  # linux/in.h
IP_PMTUDISC_DO: Final = 2

MTUS_BYTES: Final = (4096, 2048, 1024, 512, 256)
HEADERS_BYTES_MAX: Final = 40 + 8 + 12 + 4 + 28 + 4
"""What the kernel takes off an interface's MTU for RoCE, whatever is used of it: GRH, UDP, BTH,
extended headers, ICRC (``iboe_get_mtu``, rdma/ib_addr.h)."""

FIRST_QPN: Final = 0x100  # 0 and 1 are for management; low ones are the first that devices give
PEERS_MAX: Final = 1024
"""Peers, and places that packets came from, of which something is remembered."""

_MAPPED: Final = b"\0" * 10 + b"\xff\xff"
_NO_OFFLOAD: Final = (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP)
_PORT: Final = 1


def devices() -> Sequence[Device]:
    """The network interfaces that have an IPv4 address. Raises TransportFailed."""
    try:
        found: dict[str, list[InterfaceAddress]] = {}
        for address in interfaces.interface_addresses():
            if address.version == 4:
                found.setdefault(address.name, []).append(address)
        return [_device(name, addresses) for name, addresses in found.items()]
    except OSError as error:
        raise TransportFailed(
            f"cannot list the network interfaces: {os.strerror(error.errno or 0)}"
        ) from error


def _device(name: str, addresses: Sequence[InterfaceAddress]) -> Device:
    mtu_bytes = roce_mtu_bytes(interfaces.mtu_bytes(name))
    port = Port(
        number=_PORT,
        state=PortState.ACTIVE if interfaces.carries(name) else PortState.DOWN,
        link_layer=LinkLayer.ETHERNET,
        mtu_bytes=mtu_bytes,
        mtu_bytes_max=MTUS_BYTES[0],
        gids=[
            GidEntry(
                index=index,
                gid=IPv6Address(_MAPPED + address.address.packed),
                kind="RoCE v2",
                interface=name,
                stands_for_loopback=interfaces.is_loopback(name) and address.address.is_loopback,
            )
            for index, address in enumerate(addresses)
        ],
    )
    return Device(name=name, ports=[port], interfaces=[name])


def roce_mtu_bytes(mtu_bytes: int) -> int:
    """The largest message on an interface of that MTU, as the kernel counts it; at least 256."""
    carried = mtu_bytes - HEADERS_BYTES_MAX
    return next((size for size in MTUS_BYTES if size <= carried), MTUS_BYTES[-1])


def open_verbs(endpoint: Endpoint) -> "SoftVerbs":
    """Bind the sockets and join the group. Raises TransportFailed."""
    return SoftVerbs(endpoint)


class SoftVerbs:
    """A queue pair that is two UDP sockets."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._stack = contextlib.ExitStack()
        address = endpoint.gid.ipv4_mapped
        group = endpoint.group
        if address is None or not isinstance(group, IPv4Address):
            raise TransportFailed(
                f"the provider soft speaks IPv4, and {endpoint.gid.ipv4_mapped or endpoint.gid} "
                f"with group {group} is not; choose an IPv4 address for device and group"
            )
        local = interfaces.resolve_bind(str(address), 4)
        if local.name != endpoint.device:
            raise TransportFailed(
                f"{address} has moved from {endpoint.device} to {local.name}; open the node again"
            )
        self._local = local
        self._qpn = random.SystemRandom().randrange(FIRST_QPN, MULTICAST_QPN)
        self._own = Peer(endpoint.gid.packed, self._qpn)
        self._own_socket = (str(address), ROCE_PORT)
        self._group_socket = (str(group), ROCE_PORT)
        self._receiver = Receiver(qpn=self._qpn, qkey=endpoint.qkey, pkey=endpoint.pkey)
        self._posted: deque[int] = deque()
        self._waiting: deque[tuple[Peer, memoryview]] = deque()
        self._completed: list[SendCompletion] = []
        self._psn = 0
        self._senders: dict[Peer | None, tuple[Sender, tuple[str, int]]] = {}
        self._flows: dict[tuple[Any, Any], Flow] = {}
        self._peers: dict[tuple[str, int], Peer] = {}
        self._carries = True
        self._counters: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self.gso = False
        self.gro = False
        try:
            self._open()
        except OSError as error:
            self.close()
            raise TransportFailed(
                f"the transport ib (soft) cannot open {address} on {local.name} with group "
                f"{group}: {error.strerror or error}; see `ip address` and `ip route`"
            ) from error
        except TransportFailed:
            self.close()
            raise

    def _open(self) -> None:
        endpoint = self._endpoint
        told = {"setting": "device", "section": "transport.ib"}
        self._unicast = self._stack.enter_context(
            sockets.open_unicast(
                self._local,
                ROCE_PORT,
                advice="the kernel's RoCE uses it where rdma_rxe is loaded (then use provider = "
                '"verbs"), and each node with provider soft needs an address of its own',
                **told,
            )
        )
        self._multicast = self._stack.enter_context(
            sockets.open_multicast(
                self._local,
                str(endpoint.group),
                ROCE_PORT,
                advice='stop that program; where rdma_rxe is loaded, use provider = "verbs"',
                **told,
            )
        )
        self._watch = self._stack.enter_context(interfaces.watch())
        sender = self._unicast
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sockets.send_through(sender, self._local)
        sockets.set_multicast(sender, ttl=endpoint.hop_limit, loop=endpoint.multicast_loop)
        if endpoint.traffic_class:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, endpoint.traffic_class)
        if endpoint.service_level:
            with contextlib.suppress(OSError):  # above 6 it needs CAP_NET_ADMIN
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, endpoint.service_level)
        both = (self._unicast, self._multicast)
        self._receive_buffer_bytes = min(
            sockets.set_receive_buffer(each, endpoint.receive_buffer_bytes) for each in both
        )
        sockets.set_send_buffer(sender, endpoint.send_buffer_bytes)
        self.gso = offload.gso_present(sender)
        self.gro = all(map(offload.enable_gro, both))
        self._carries = interfaces.carries(self._local.name)

    # --- facts ----------------------------------------------------------------------------------

    @property
    def own(self) -> Peer:
        """The interface's address, mapped, and a queue pair number that is new each time."""
        return self._own

    @property
    def message_bytes_max(self) -> int:
        """As the endpoint says."""
        return self._endpoint.message_bytes_max

    @property
    def receive_buffer_bytes(self) -> int:
        """The smaller buffer of the two sockets, as granted."""
        return self._receive_buffer_bytes

    def status(self) -> Mapping[str, Any]:
        """See ``Verbs``; ``dropped`` tells what was not for this queue pair, by the reason."""
        endpoint = self._endpoint
        lost = sum(map(sockets.dropped_by_kernel, (self._unicast, self._multicast)))
        return {
            "device": endpoint.device,
            "port": endpoint.port,
            "gid": str(endpoint.gid.ipv4_mapped),
            "gid_index": endpoint.gid_index,
            "qpn": self._qpn,
            "link_layer": LinkLayer.ETHERNET.value,
            "mtu_bytes": self._endpoint.message_bytes_max,
            "gso": self.gso,
            "gro": self.gro,
            "counters": {
                **self._counters,
                "packets_lost_receive_buffer": lost,
                **{f"dropped_{reason}": n for reason, n in self._receiver.dropped.items()},
                **{f"errors_{name}": count for name, count in self._errors.items()},
            },
        }

    # --- receiving ------------------------------------------------------------------------------

    def post_receives(self, slots: Sequence[int]) -> None:
        """The kernel's socket buffer holds what comes; a slot is the right to be given it."""
        self._posted += slots

    def poll_receives(self, most: int) -> Sequence[ReceiveCompletion]:
        """What waits; to the group first, since the token is to come after what went before it."""
        waiting, posted = self._waiting, self._posted
        most = min(most, len(posted))
        if len(waiting) < most:
            alone = self._drain(self._unicast, self._own_socket, most)
            waiting += self._drain(self._multicast, self._group_socket, most)
            waiting += alone
        new, done = tuple.__new__, ReceiveCompletion
        found = []
        for _ in range(min(most, len(waiting))):
            source, data = waiting.popleft()
            found.append(new(done, (posted.popleft(), 0, data, source)))
        return found

    def _drain(
        self, receiver: socket.socket, destination: tuple[str, int], most: int
    ) -> list[tuple[Peer, memoryview]]:
        """What waits in one socket, up to about *most* messages; one's own are left out."""
        found: list[tuple[Peer, memoryview]] = []
        own = self._own_socket
        more, asked = True, 0
        while more and len(found) < most and asked < most:
            came: list[Received] = []
            more = False
            asked += DATAGRAMS_AT_ONCE
            try:
                more = receive(receiver, DATAGRAMS_AT_ONCE, offload.RECEIVE_BYTES, came)
            except OSError as error:
                self._errors["receive_" + errno.errorcode.get(error.errno or 0, "unknown")] += 1
            for data, segment_bytes, truncated, source in came:
                if source == own and receiver is self._multicast:
                    self._counters["packets_own"] += 1
                    continue
                if truncated or not data:
                    self._receiver.dropped["short"] += 1
                    continue
                flow = self._flows.get((source, destination))
                if flow is None:
                    flow = self._new_flow(source, destination)
                host = source[0]
                for qpn, message in self._receiver.read(data, segment_bytes or len(data), flow):
                    peer = self._peers.get((host, qpn)) or self._new_peer(host, qpn)
                    found.append((peer, message))
        return found

    def _new_flow(self, source: tuple[str, int], destination: tuple[str, int]) -> Flow:
        if len(self._flows) >= PEERS_MAX:
            self._flows.clear()
        flow = self._flows[source, destination] = Flow(source, destination)
        return flow

    def _new_peer(self, host: str, qpn: int) -> Peer:
        if len(self._peers) >= PEERS_MAX:
            self._peers.clear()
        peer = self._peers[host, qpn] = Peer(_MAPPED + IPv4Address(host).packed, qpn)
        return peer

    # --- sending --------------------------------------------------------------------------------

    def post_sends(
        self,
        first_slot: int,
        messages: Sequence[bytes | memoryview],
        destination: Peer | None,
    ) -> None:
        """Send at once, in as few system calls as the kernel takes."""
        last = (first_slot + len(messages) - 1) % self._endpoint.send_slots
        self._completed.append(SendCompletion(last, 0))
        known = self._senders.get(destination)
        if known is None:
            known = self._new_sender(destination)
            if known is None:
                self._count_lost("no_ipv4", len(messages))
                return
        sender, address = known
        if not self.gso or len(messages) == 1:
            self._send_each(sender, messages, address)
            return
        start = 0
        while start < len(messages):
            end = self._run_from(messages, start)
            run = messages[start:end]
            start = end
            if len(run) == 1 or not self.gso:
                self._send_each(sender, run, address)
                continue
            pieces = sender.pack(run, self._psn, numbered=True)
            control = offload.segment_ancillary(wire_bytes(len(run[0])))
            try:
                self._unicast.sendmsg(pieces, control, 0, address)
            except OSError as error:
                if error.errno not in _NO_OFFLOAD:
                    self._count_error(error, len(run))
                elif self._send_each(sender, run, address):
                    self.gso = False
            else:
                self._psn = self._psn + len(run) & PSN_MASK

    @staticmethod
    def _run_from(messages: Sequence[bytes | memoryview], start: int) -> int:
        """Where the run ends that one call can send: of one size, but for a shorter last one."""
        size = len(messages[start])
        most = min(offload.SEGMENTS_SAFE, offload.GSO_BYTES_MAX[4] // wire_bytes(size))
        limit = min(len(messages), start + most)
        end = start + 1
        while end < limit and len(messages[end]) == size:
            end += 1
        if end < limit and len(messages[end]) < size:
            end += 1
        return end

    def _send_each(
        self, sender: Sender, messages: Sequence[bytes | memoryview], address: tuple[str, int]
    ) -> bool:
        """One call a message; whether the last was sent."""
        sent = False
        for message in messages:
            try:
                self._unicast.sendmsg(
                    sender.pack((message,), self._psn, numbered=False), (), 0, address
                )
            except OSError as error:
                self._count_error(error, 1)
                sent = False
            else:
                self._psn = self._psn + 1 & PSN_MASK
                sent = True
        return sent

    def _new_sender(self, destination: Peer | None) -> tuple[Sender, tuple[str, int]] | None:
        if destination is None:
            address, qpn = self._group_socket, MULTICAST_QPN
        elif destination.gid[:12] != _MAPPED:
            return None
        else:
            address = (str(IPv4Address(destination.gid[12:])), ROCE_PORT)
            qpn = destination.qpn
        if len(self._senders) >= PEERS_MAX:
            self._senders.clear()
        sender = Sender(
            Flow(self._own_socket, address),
            destination_qpn=qpn,
            source_qpn=self._qpn,
            qkey=self._endpoint.qkey,
            pkey=self._endpoint.pkey,
        )
        self._senders[destination] = (sender, address)
        return sender, address

    def _count_error(self, error: OSError, messages: int) -> None:
        self._count_lost(errno.errorcode.get(error.errno or 0, "unknown"), messages)

    def _count_lost(self, why: str, messages: int) -> None:
        self._counters["packets_lost_sending"] += messages
        self._errors[why] += messages

    def poll_sends(self) -> Sequence[SendCompletion]:
        """All that was posted: it is sent when it is posted."""
        completed, self._completed = self._completed, []
        return completed

    # --- the group, descriptors and events ------------------------------------------------------

    def join(self) -> None:
        """Join by IGMP. Raises TransportFailed."""
        try:
            sockets.join(self._multicast, self._local, self._group_socket[0])
        except OSError as error:
            raise TransportFailed(
                f"cannot join {self._group_socket[0]} on {self._local.name}: "
                f"{error.strerror or error}; see `ip address show {self._local.name}`"
            ) from error

    def descriptors(self) -> Sequence[int]:
        """Both sockets, and one that tells of changes of interfaces."""
        return [self._unicast.fileno(), self._multicast.fileno(), self._watch.fileno()]

    def arm(self) -> None:
        """Nothing to do: sockets are readable while something waits in them."""

    def events(self) -> Sequence[Event]:
        """What became of the interface and its address."""
        if not interfaces.changed(self._watch):
            return ()
        name, address = self._local.name, self._local.address
        try:
            carries = interfaces.carries(name)
            present = address.is_loopback or any(
                each.address == address and each.index == self._local.index
                for each in interfaces.interface_addresses()
            )
        except OSError:
            present = False
        if not present:
            return [Event(EventKind.FATAL, f"{address} is no longer an address of {name}")]
        if carries == self._carries:
            return [Event(EventKind.OTHER, "something changed on this machine's interfaces")]
        self._carries = carries
        if carries:
            return [Event(EventKind.PORT_ACTIVE, f"{name} is up again")]
        return [Event(EventKind.PORT_DOWN, f"{name} went down")]

    def close(self) -> None:
        """Close the sockets, which leaves the group too."""
        self._stack.close()

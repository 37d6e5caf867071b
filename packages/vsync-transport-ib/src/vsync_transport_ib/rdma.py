"""Verbs over rdma-core: a device of the kernel, through libibverbs and librdmacm.

One unreliable datagram queue pair, with a completion queue for each direction. See ``verbs`` for
what is promised, ``work`` for the memory.
"""

import contextlib
import ctypes
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from typing import Any, Final

from vsync.errors import TransportFailed
from vsync_transport_ib import rdma_core as core
from vsync_transport_ib.handles import AddressHandles
from vsync_transport_ib.membership import JOINED, LOST, REMOVED, Membership, MembershipIPv6, Notice
from vsync_transport_ib.queue_pair import QueuePair
from vsync_transport_ib.rdma_core import WC, Pointer, error_text, libibverbs
from vsync_transport_ib.rdma_devices import devices as devices
from vsync_transport_ib.rdma_devices import find_source
from vsync_transport_ib.rdma_events import take_events
from vsync_transport_ib.sources import Sources
from vsync_transport_ib.verbs import (
    MULTICAST_QPN,
    Endpoint,
    Event,
    EventKind,
    LinkLayer,
    Peer,
    ReceiveCompletion,
    SendCompletion,
    Verbs,
)

JOIN_WITHIN_S: Final = 5.0
REVIVE_INTERVAL_S: Final = 0.05
"""How often, at most, a queue pair that an error stopped is started again."""

UNICAST_HOPS: Final = 64
POLL_MAX: Final = 1024
"""Completions that are taken from the device in one call."""

FAILED: Final = 21
"""The status of what was never sent: IBV_WC_GENERAL_ERR."""

FLUSHED: Final = 5
"""The status of what was given back because the queue pair stopped: IBV_WC_WR_FLUSH_ERR."""


def open_verbs(endpoint: Endpoint) -> Verbs:
    """Open the device, make the queue pair, register memory, join the group.

    Raises TransportFailed, with what to do.
    """
    verbs = RdmaVerbs(endpoint)
    try:
        verbs.open()
    except BaseException:
        verbs.close()
        raise
    return verbs


class RdmaVerbs:
    """``Verbs`` of one device and port; see there."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._lib = libibverbs()
        self._pair = QueuePair(endpoint)
        self._stack = contextlib.ExitStack()
        self._counters: Counter[str] = Counter()
        self._completions = ctypes.create_string_buffer(WC.size * POLL_MAX)
        self._completed = memoryview(self._completions).cast("B")
        self._completions_at = ctypes.addressof(self._completions)
        self._refused = ctypes.c_void_p()
        self._refused_at = ctypes.addressof(self._refused)
        self._posted: deque[int] = deque()
        """Receive slots that the device has, in its order."""
        self._batches: deque[tuple[int, bool]] = deque()
        """The last slot of each batch of sends, and whether the device has it."""
        self._armed = False
        self._stopped = False
        """Whether an error stopped the queue pair."""
        self._revived_at = float("-inf")
        self._port_down = False
        self._group_handle: Pointer | None = None
        self._attached: tuple[bytes, int] | None = None
        """GID and LID of the group that the queue pair is attached to."""

    # --- opening and closing --------------------------------------------------------------------

    def open(self) -> None:
        """Make the queue pair, and join the group. Raises TransportFailed."""
        pair, stack = self._pair, self._stack
        stack.callback(pair.close)
        pair.open()
        self._port_down = not pair.port_is_active
        self._own = Peer(self._endpoint.gid.packed, pair.qpn, pair.lid)
        self._handles = AddressHandles(
            self._create_handle,
            self._lib.ibv_destroy_ah,
            slow=pair.layer is LinkLayer.ETHERNET,
        )
        self._sources = Sources(self._handles.prepare, with_lid=pair.layer is LinkLayer.INFINIBAND)
        stack.callback(self._handles.close)
        stack.callback(self._forget_route)
        self._membership = self._open_membership()
        stack.callback(self._membership.close)
        self.join()

    def close(self) -> None:
        """Leave the group, release everything, in the opposite order."""
        self._stack.close()

    # --- the group, and peers -------------------------------------------------------------------

    def _open_membership(self) -> Membership | MembershipIPv6:
        source, group = find_source(self._endpoint), self._endpoint.group
        if isinstance(source, IPv6Address) and isinstance(group, IPv6Address):
            return MembershipIPv6(source, group)
        return Membership(source, group)

    def join(self) -> None:
        """Become a member; to become one again is only begun here, and ends in ``events``."""
        self._membership.join()
        if self._group_handle is None:
            self._take_route(self._membership.wait(JOIN_WITHIN_S))

    def _take_route(self, found: core.AddressAttributes) -> None:
        """Attach the queue pair to the group, and make the handle that sends to it."""
        endpoint, lib = self._endpoint, self._lib
        self._forget_route()
        if self._pair.layer is LinkLayer.ETHERNET:
            group = endpoint.group
            gid = group if isinstance(group, IPv6Address) else IPv6Address(f"::ffff:{group}")
            route = self._attributes(gid.packed, 0)
        else:
            route = found  # the subnet administrator has decided
            route.sgid_index = endpoint.gid_index
            route.port_num = endpoint.port
        gid_bytes, lid = bytes(route.dgid), route.dlid
        if failed := lib.ibv_attach_mcast(self._pair.at, gid_bytes, lid):
            raise TransportFailed(
                f"the queue pair of {self._pair.where} cannot be attached to the group "
                f"{endpoint.group}: {error_text(failed)}"
            )
        self._attached = gid_bytes, lid
        self._group_handle = lib.ibv_create_ah(self._pair.protection, ctypes.byref(route))
        if not self._group_handle:
            why = error_text()
            raise TransportFailed(
                f"{self._pair.where} can send nothing to the group {endpoint.group}: {why}"
            )

    def _forget_route(self) -> None:
        if self._attached is not None:
            self._lib.ibv_detach_mcast(self._pair.at, *self._attached)
            self._attached = None
        if self._group_handle:
            self._lib.ibv_destroy_ah(self._group_handle)
            self._group_handle = None

    def _attributes(self, gid: bytes, lid: int) -> core.AddressAttributes:
        endpoint = self._endpoint
        attributes = core.AddressAttributes(
            sgid_index=endpoint.gid_index,
            hop_limit=endpoint.hop_limit,
            traffic_class=endpoint.traffic_class,
            dlid=lid,
            sl=endpoint.service_level,
            is_global=1,
            port_num=endpoint.port,
        )
        ctypes.memmove(attributes.dgid, gid, 16)
        return attributes

    def _create_handle(self, peer: Peer) -> Pointer | None:
        attributes = self._attributes(peer.gid, peer.lid)
        attributes.hop_limit = UNICAST_HOPS
        handle: Pointer | None = self._lib.ibv_create_ah(
            self._pair.protection, ctypes.byref(attributes)
        )
        return handle

    # --- receiving ------------------------------------------------------------------------------

    def post_receives(self, slots: Sequence[int]) -> None:
        """Give slots to the device."""
        if not slots:
            return
        self._posted.extend(slots)
        if self._stopped:
            return  # they are posted when it starts again
        first = self._pair.work.chain_receives(slots)
        if self._pair.operations.post_receive(self._pair.at, first, self._refused_at):
            self._stop()

    def poll_receives(self, most: int) -> Sequence[ReceiveCompletion]:
        """Take filled slots back."""
        count = self._pair.operations.poll_cq(
            self._pair.receive_queue, min(most, POLL_MAX), self._completions_at
        )
        if count <= 0:
            if self._stopped:
                self._revive()
            return ()
        batch = []
        received, posted, source = self._pair.work.received, self._posted, self._sources.find
        completions = WC.iter_unpack(self._completed[: count * WC.size])
        for slot, status, _, _, size, _, _, qpn, _, _, lid, _, _ in completions:
            if status == FLUSHED:
                self._stop()
                continue  # it stays posted, and is so again when the queue pair starts again
            posted.popleft()
            if status:
                self._counters["receive_errors"] += 1
                batch.append(ReceiveCompletion(slot, status, b"", self._own))
                continue
            header, data = received(slot, size)
            batch.append(ReceiveCompletion(slot, 0, data, source(header, qpn, lid)))
        self._counters["received"] += len(batch)
        return batch

    # --- sending --------------------------------------------------------------------------------

    def post_sends(
        self,
        first_slot: int,
        messages: Sequence[bytes | memoryview],
        destination: Peer | None,
    ) -> None:
        """Send as one batch."""
        if not messages:
            return
        if self._stopped:
            self._revive()
        if destination is None:
            handle, qpn = self._group_handle, MULTICAST_QPN
        else:
            handle, qpn = self._handles.find(destination), destination.qpn
        if handle is None or self._stopped or self._port_down:
            reason = "unreachable" if handle is None else "not_carried"
            self._counters[f"sends_{reason}"] += len(messages)
            last = (first_slot + len(messages) - 1) % self._endpoint.send_slots
            self._batches.append((last, False))
            return
        first, last = self._pair.work.chain_sends(
            first_slot, messages, handle, qpn, self._endpoint.qkey
        )
        self._batches.append((last, True))
        if self._pair.operations.post_send(self._pair.at, first, self._refused_at):
            self._stop()
            self._counters["sends_refused"] += len(messages)
        else:
            self._counters["sent"] += len(messages)

    def poll_sends(self) -> Sequence[SendCompletion]:
        """The batches that are done, those that were never sent among them."""
        if not self._batches:
            return ()
        count = self._pair.operations.poll_cq(self._pair.send_queue, POLL_MAX, self._completions_at)
        done: list[SendCompletion] = []
        for completion in WC.iter_unpack(self._completed[: max(count, 0) * WC.size]):
            status = completion[1]
            if status:
                self._counters["send_errors"] += 1
                self._stop()
                continue  # it comes back when the queue pair starts again
            self._pass_over(done)
            if self._batches:
                done.append(SendCompletion(self._batches.popleft()[0], 0))
        self._pass_over(done)
        if self._stopped:
            self._revive()
            self._pass_over(done)
        return done

    def _pass_over(self, done: list[SendCompletion]) -> None:
        """Take batches that the device does not have, up to one that it has."""
        while self._batches and not self._batches[0][1]:
            done.append(SendCompletion(self._batches.popleft()[0], FAILED))

    # --- errors ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Learn that the queue pair stands still.

        A send that cannot leave does that to it, as when an interface has lost its address.
        """
        self._stopped = True

    def _revive(self) -> None:
        """Start the queue pair again, at the same number, with all that it had to receive."""
        now = time.monotonic()
        if now - self._revived_at < REVIVE_INTERVAL_S:
            return
        self._revived_at = now
        self._pair.start()
        self._counters["restarts"] += 1
        # What was posted is gone with the reset, and what completed of it too.
        for queue in (self._pair.receive_queue, self._pair.send_queue):
            while self._pair.operations.poll_cq(queue, POLL_MAX, self._completions_at) > 0:
                pass
        self._batches = deque((slot, False) for slot, _ in self._batches)
        self._stopped = False
        slots = list(self._posted)
        self._posted.clear()
        self.post_receives(slots)

    # --- waiting, and what happens to the device ------------------------------------------------

    def descriptors(self) -> Sequence[int]:
        """Completion channel, events of the device, events of the membership."""
        return [self._pair.channel.contents.fd, self._pair.operations.async_fd, self._membership.fd]

    def arm(self) -> None:
        """Ask for a wake-up at the next receive."""
        queue, context = ctypes.c_void_p(), ctypes.c_void_p()
        taken = 0
        while (
            self._lib.ibv_get_cq_event(
                self._pair.channel, ctypes.byref(queue), ctypes.byref(context)
            )
            == 0
        ):
            taken += 1
        if taken:
            self._lib.ibv_ack_cq_events(self._pair.receive_queue, taken)
        if taken or not self._armed:
            self._pair.operations.request_notification(self._pair.receive_queue, 0)
            self._armed = True

    def events(self) -> Sequence[Event]:
        """What happened since the last call."""
        happened = list(take_events(self._pair, self._endpoint))
        for event in happened:
            if event.kind in (EventKind.PORT_DOWN, EventKind.PORT_ACTIVE):
                self._port_down = event.kind is EventKind.PORT_DOWN
        happened += map(self._told, self._membership.take())
        return happened

    def _told(self, notice: Notice) -> Event:
        """What librdmacm tells of the membership."""
        group = self._endpoint.group
        if notice.kind == JOINED and notice.status == 0 and notice.route is not None:
            try:
                self._take_route(notice.route)
            except TransportFailed as error:
                return Event(EventKind.FATAL, str(error))
            return Event(EventKind.OTHER, f"joined the group {group} again")
        if notice.kind in (JOINED, LOST):
            return Event(
                EventKind.MEMBERSHIP_LOST, f"{self._pair.where} is out of the group {group}"
            )
        if notice.kind == REMOVED:
            return Event(EventKind.FATAL, f"the device {self._endpoint.device} was removed")
        return Event(EventKind.OTHER, f"{self._pair.where}: {notice.text}")

    # --- facts ----------------------------------------------------------------------------------

    @property
    def own(self) -> Peer:
        """This queue pair."""
        return self._own

    @property
    def message_bytes_max(self) -> int:
        """What the endpoint asked."""
        return self._endpoint.message_bytes_max

    @property
    def receive_buffer_bytes(self) -> int:
        """All receive slots, each of them full."""
        return self._endpoint.receive_slots * self._endpoint.message_bytes_max

    def status(self) -> Mapping[str, Any]:
        """Facts for ``vsync status``."""
        endpoint = self._endpoint
        return {
            "device": endpoint.device,
            "port": endpoint.port,
            "gid": str(endpoint.gid.ipv4_mapped or endpoint.gid),
            "gid_index": endpoint.gid_index,
            "qpn": self._own.qpn,
            "lid": self._pair.lid,
            "link_layer": self._pair.layer.value,
            "port_down": self._port_down,
            "mtu_bytes": endpoint.message_bytes_max,
            "locked_bytes": self._pair.work.bytes,
            "counters": dict(self._counters),
        }

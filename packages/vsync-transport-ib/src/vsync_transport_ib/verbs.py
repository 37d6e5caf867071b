"""Verbs: the few operations that the transport needs of an InfiniBand device, as a Protocol.

A *provider* is a module with two functions, ``devices`` and ``open_verbs`` (see ``Provider``).
There are two: ``rdma`` goes through libibverbs to a device of the kernel, ``soft`` speaks RoCEv2
over an ordinary UDP socket. What is opened is one unreliable datagram queue pair.

**Shape.** Work moves in batches, and a message is named by its *slot*: a small number that stands
for one place in memory. Slots ``0`` to ``receive_slots - 1`` are for receiving, and apart from
them ``0`` to ``send_slots - 1`` for sending. Where a slot's memory is, and whether there is any, is
the provider's own business: ``rdma`` has all of them in one registered region, ``soft`` needs none.
Whoever calls (``link``) keeps account of which slots are free, so a provider need not::

    link                              provider
    post_receives([0, 1, 2, …])   →   the slots belong to the provider …
    poll_receives(64)             ←   … until a completion gives them back, with a copy of the data
    post_sends(5, packets, peer)  →   copies packets[i] into send slot (5 + i) % send_slots
    poll_sends()                  ←   one completion a batch, that of its last slot

A provider never blocks, starts no thread, is used by one thread, and keeps order: receive
completions come in the order in which the receives were posted, send completions in the order of
the sends. It may lose messages, as a network does; it never alters, cuts or joins one.

**Errors.** ``open_verbs`` raises TransportFailed with one sentence that says what to do. While
open, a provider raises TransportFailed only if the queue pair is of no more use; what passes (no
route to a peer, no buffer) is a lost message, counted in ``status()["counters"]``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, NamedTuple, Protocol

GRH_BYTES: Final = 40
"""Room for the global route header, which a device writes before every received datagram.

``rdma`` makes each receive slot that much larger; it is never part of ``ReceiveCompletion.data``.
"""

MULTICAST_QPN: Final = 0xFFFFFF
"""The queue pair number that multicast messages are addressed to (InfiniBand 1.4, 10.5.2)."""

DEFAULT_QKEY: Final = 0x01234567
"""What librdmacm uses for datagrams (``RDMA_UDP_QKEY``, rdma/rdma_cma.h)."""

DEFAULT_PKEY: Final = 0xFFFF
"""The default partition, as a full member."""


class LinkLayer(Enum):
    """What carries the packets."""

    INFINIBAND = "InfiniBand"
    ETHERNET = "Ethernet"  #: RoCE


class PortState(Enum):
    """``enum ibv_port_state``; by its numbers."""

    NOP = 0
    DOWN = 1
    INIT = 2
    ARMED = 3
    ACTIVE = 4
    ACTIVE_DEFER = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class GidEntry:
    """One line of a port's table of global identifiers. Empty lines are left out."""

    index: int
    gid: IPv6Address
    kind: str
    """``IB``, ``RoCE v1`` or ``RoCE v2``, as the kernel names it (sysfs, ``gid_attrs/types``)."""
    interface: str | None = None
    """The network interface that the entry belongs to, with RoCE."""
    stands_for_loopback: bool = False
    """Whether any other address of 127.0.0.0/8 would do as well."""

    @property
    def ip(self) -> IPv4Address | IPv6Address:
        """The address as users write it: IPv4 where the GID is a mapped one."""
        return self.gid.ipv4_mapped or self.gid


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One port of a device, as found."""

    number: int
    state: PortState
    link_layer: LinkLayer
    mtu_bytes: int
    """``active_mtu`` in bytes: the largest unreliable datagram. 256, 512, 1024, 2048 or 4096."""
    mtu_bytes_max: int
    """``max_mtu`` in bytes: what the device could do if the network could."""
    lid: int = 0
    gids: Sequence[GidEntry] = ()
    pkeys: Sequence[int] = (DEFAULT_PKEY,)
    """The table of partition keys, without empty lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of this machine, and its ports."""

    name: str
    ports: Sequence[Port]
    interfaces: Sequence[str] = ()
    """Network interfaces that belong to it: other names that users know it by."""
    queue_depth_max: int = 16_384
    """The most receives, and the most sends, that its queue pairs hold (``max_qp_wr``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What to open. All of it is decided; a provider chooses nothing."""

    device: str
    port: int
    gid_index: int
    gid: IPv6Address
    """The GID at that index, as found when it was chosen. ``open_verbs`` raises TransportFailed if
    it has changed since."""
    group: IPv4Address | IPv6Address
    """The multicast group, as an IP address. The provider makes a multicast GID of it: with RoCEv2
    the (mapped) address itself, with InfiniBand what librdmacm makes of it."""
    message_bytes_max: int
    """The largest message that will be sent or received; at most the port's ``mtu_bytes``."""
    receive_slots: int
    send_slots: int
    qkey: int = DEFAULT_QKEY
    pkey: int = DEFAULT_PKEY
    """The value, not the index."""
    service_level: int = 0
    traffic_class: int = 0
    hop_limit: int = 1
    """Routers that multicast may cross, plus one: the GRH's hop limit, the TTL of RoCEv2."""
    multicast_loop: bool = True
    """Whether other queue pairs of this host and port hear what this one multicasts. A provider
    that cannot choose ignores it; one's own messages may or may not come back in any case."""
    receive_buffer_bytes: int = field(default=4 * 2**20)
    """For ``soft``, which has the kernel's socket buffer in the place of posted receives."""
    send_buffer_bytes: int = field(default=4 * 2**20)


class Peer(NamedTuple):
    """A queue pair as a sender sees it, and so where an answer goes. Hashable, equal by value.

    Providers keep one object (and its address handle) for each peer, in a bounded cache, and so
    need not make one for each message.
    """

    gid: bytes
    """16 bytes. ``::ffff:a.b.c.d`` with RoCEv2 over IPv4."""
    qpn: int
    """24 bits."""
    lid: int = 0
    """With InfiniBand the peer's local identifier; 0 with RoCE."""


class ReceiveCompletion(NamedTuple):
    """A receive slot comes back."""

    slot: int
    status: int
    """0 is success; else an ``enum ibv_wc_status``, and ``data`` is empty."""
    data: bytes | memoryview
    """The message, without GRH. It belongs to the receiver: nothing ever overwrites it."""
    source: Peer


class SendCompletion(NamedTuple):
    """A send slot comes back, and with it all that were posted before it."""

    slot: int
    status: int
    """0 is success; else an ``enum ibv_wc_status``."""


class EventKind(Enum):
    """What can happen to a device while it is open (``enum ibv_event_type``, in groups)."""

    PORT_DOWN = "port down"
    """Nothing is carried until PORT_ACTIVE. The queue pair stays."""
    PORT_ACTIVE = "port active"
    GID_CHANGE = "GID change"
    """The table changed; the provider has looked, and the endpoint's own GID is still there."""
    MEMBERSHIP_LOST = "membership lost"
    """The network forgot who is in which group (``CLIENT_REREGISTER``, ``SM_CHANGE``,
    ``RDMA_CM_EVENT_MULTICAST_ERROR``): ``join`` again."""
    FATAL = "fatal"
    """The queue pair is of no more use: device or queue pair error, the endpoint's GID, LID or
    partition key is gone. Close, and open anew when it can be."""
    OTHER = "other"
    """Worth counting, nothing to do."""


class Event(NamedTuple):
    """Something happened to the device."""

    kind: EventKind
    text: str
    """A clause for people, as in ``port 1 of rxe0 went down``."""


class Verbs(Protocol):
    """One unreliable datagram queue pair, ready to send and to receive. See the module."""

    @property
    def own(self) -> Peer:
        """This queue pair, as its peers see it."""

    @property
    def message_bytes_max(self) -> int:
        """The largest message; what the endpoint asked, or less if the path carries less."""

    @property
    def receive_buffer_bytes(self) -> int:
        """Bytes of messages that can wait to be polled: what is there, not what was asked."""

    def post_receives(self, slots: Sequence[int]) -> None:
        """Give *slots* to the device, to receive into: one call for all of them.

        A message for which no slot is posted is lost.
        """

    def poll_receives(self, most: int) -> Sequence[ReceiveCompletion]:
        """Take back up to *most* receive slots that were filled; empty if none was.

        Other queue pairs' messages never appear. One's own, sent to the group, may.
        """

    def post_sends(
        self,
        first_slot: int,
        messages: Sequence[bytes | memoryview],
        destination: Peer | None,
    ) -> None:
        """Send *messages*, in order, to one peer, or to the group (None), as one batch.

        They take the slots from *first_slot* on, around the end to 0; the caller has seen to it
        that these are free, and that no message is over ``message_bytes_max``. The messages are
        copied or sent when this returns. Only the last one is signalled. To a peer that cannot be
        reached nothing is sent; the batch completes all the same, and is counted.
        """

    def poll_sends(self) -> Sequence[SendCompletion]:
        """The batches that were sent since the last call, each by its last slot."""

    def join(self) -> None:
        """Become a member of the endpoint's group, again if need be (see MEMBERSHIP_LOST).

        Called once by ``open_verbs``. Raises TransportFailed if it cannot be.
        """

    def descriptors(self) -> Sequence[int]:
        """File descriptors that become readable when ``poll_receives`` may have something, after
        ``arm``, or when ``events`` has something. The same while open."""

    def arm(self) -> None:
        """Ask that a descriptor becomes readable at the next receive, and make it unreadable now.

        Takes (and acknowledges) what the completion channel holds. What completed before this call
        gives no wake-up, so: ``arm``, then poll until empty. Cheap if nothing is to be done.
        """

    def events(self) -> Sequence[Event]:
        """What happened to the device since the last call. Cheap if nothing did."""

    def status(self) -> Mapping[str, Any]:
        """Facts for ``vsync status``, JSON-ready: device, port, gid, gid_index, qpn, link_layer,
        mtu_bytes and ``counters`` (numbers by name) at least."""

    def close(self) -> None:
        """Leave the group, release everything. May be called twice."""


class Provider(Protocol):
    """What a provider's module has at its top level.

    The module itself may be imported only when a ring opens or ``vsync doctor`` asks.
    """

    def devices(self) -> Sequence[Device]:
        """All devices of this machine, whether they can be used or not; none is no error.

        Raises TransportFailed, with what to do, if nobody could know: a library is not installed,
        the kernel has no InfiniBand, ``/dev/infiniband`` may not be opened.
        """

    def open_verbs(self, endpoint: Endpoint) -> Verbs:
        """Open the device, make the queue pair, register memory, join the group.

        Raises TransportFailed, with what to do: the locked memory limit is too small (name
        RLIMIT_MEMLOCK's value and the bytes needed), permission, the device is gone.
        """

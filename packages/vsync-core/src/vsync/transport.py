"""Transport: the interface that carries packets, and its promises.

A transport may lose, repeat and reorder packets. It may not alter, cut or join them. It is
synchronous and never blocks: the ring's thread waits on its file descriptors, then calls it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

from pydantic import BaseModel

from vsync.errors import TransportFailed
from vsync.keys import KeyRing
from vsync.train import Train as Train
from vsync.vocabulary import NodeId

Address: TypeAlias = Hashable
"""Where a packet came from, and so where an answer goes. Opaque to all but its transport."""

EVERYONE: Final = None
"""The destination that means all nodes of the ring, the sender itself excepted."""

TRANSPORT_API: Final = 1
"""Raised when this interface changes so that older plugins no longer fit."""


class Packet(NamedTuple):
    """Bytes as received, and the address that an answer to them would have."""

    data: bytes | memoryview
    source: Address


Arrival: TypeAlias = tuple[bytes | memoryview | Train, Address]
"""A packet, or a train of them, as received, and where an answer goes. A ``Packet`` is one."""


def flat(batch: Sequence[Arrival]) -> list[Packet]:
    """The packets of *batch* one by one: ``receive`` from ``receive_trains``."""
    packets: list[Packet] = []
    for data, source in batch:
        if type(data) is Train:
            packets += [Packet(piece, source) for piece in data]
        else:
            packets.append(Packet(data, source))
    return packets


class Burst(NamedTuple):
    """Packets to one destination, in order: an address, or ``EVERYONE``.

    They may be a ``Train``, which a transport may carry as the sequence that it is, or in one go.
    """

    destination: Address | None
    packets: Sequence[bytes | memoryview]


class Station(NamedTuple):
    """Whom a transport serves: one life of one node, on the ring of one name."""

    node: NodeId
    life: int
    network: int
    """The number that stands for the ring's name on the wire."""
    instance: int = 0
    """Of the node's state on disk: another one, if that was lost."""
    keys: KeyRing | None = None
    """What packets are sealed with; none: they are not."""
    link: int = 0
    """Which link of the ring, if it has several."""


class Transport(ABC):
    """One node's way to the others. Opened once, closed once, used by one thread at a time.

    A transport is made with its own settings (an instance of ``SETTINGS``), which no I/O may
    precede; ``open`` acquires what it needs.
    """

    SCHEME: ClassVar[str]
    """What users write as ``transport = "…"`` in ``[ring]``."""

    SETTINGS: ClassVar[type[BaseModel]]
    """The model of ``[transport.SCHEME]``; unknown keys are refused."""

    API: ClassVar[int] = TRANSPORT_API

    def serve(self, station: Station) -> None:
        """Learn whom to serve; called at most once, before ``open``.

        A transport that is made of others passes it on to them.
        """
        del station  # most have no use for it

    @classmethod
    def looking_up(cls, settings: BaseModel) -> Callable[[], None] | None:
        """What ``open`` with *settings* would wait for long, like looking up names.

        While a ring runs it is called in another thread before ``open``. It raises nothing: what
        is wrong, ``open`` says. None: nothing takes long.
        """
        del settings  # most have no use for it
        return None

    @abstractmethod
    def open(self) -> None:
        """Acquire sockets or devices. Raises TransportFailed: a sentence that says what to do."""

    @abstractmethod
    def close(self) -> None:
        """Release everything; may be called twice, and after a failed ``open``."""

    @abstractmethod
    def descriptors(self) -> Sequence[int]:
        """File descriptors that become readable when ``receive`` has something."""

    @abstractmethod
    def send(self, burst: Burst) -> None:
        """Hand all packets of *burst* to the network, or lose some; never block.

        Packets to ``EVERYONE`` do not come back to the sender. Raises TransportFailed only if
        nothing can ever be sent again; a passing error (no buffer, no route) is a lost packet and
        is counted.
        """

    @abstractmethod
    def receive(self) -> Sequence[Packet]:
        """All packets that wait now, up to some bounded batch; an empty sequence if none do.

        Packet data belongs to the caller and is never overwritten.
        """

    def receive_trains(self) -> Sequence[Arrival]:
        """As ``receive``; packets that came in one piece may stay in it. The ring calls this."""
        return self.receive()

    def receive_readable(self, readable: Collection[int]) -> Sequence[Arrival]:
        """As ``receive_trains``, when those of ``descriptors`` have just become readable.

        A transport may leave out the others. The ring calls it first after each wait.
        """
        del readable
        return self.receive_trains()

    def reload(self, settings: BaseModel) -> None:
        """Go on with other settings, while it is open.

        Asked for only if all fields that differ are marked as changeable (``"change": "node"`` in
        their ``json_schema_extra``). Raises TransportFailed if it cannot; then nothing has changed.
        """
        raise TransportFailed(f"the transport {self.SCHEME} cannot change while it is open")

    def restore(self, settings: BaseModel) -> None:
        """Go back to *settings*, which it had before a ``reload``.

        What cannot be had any more must be tried again later, rather than fail. Raises
        TransportFailed if it must all the same.
        """
        self.reload(settings)

    @property
    def composed(self) -> bool:
        """Whether it is made of several transports, which seal their packets each for itself."""
        return False

    @property
    @abstractmethod
    def packet_bytes_max(self) -> int:
        """The largest packet that ``send`` takes, in bytes. Constant while open."""

    @property
    @abstractmethod
    def receive_buffer_bytes(self) -> int:
        """What the system really gave as receive buffer, in bytes. Bounds the ring's window."""

    @property
    def status(self) -> Mapping[str, Any]:
        """Facts for ``vsync status``: plain values by name, JSON-ready."""
        return {}

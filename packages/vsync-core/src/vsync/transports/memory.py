"""Packets between nodes of one process: for tests, and for trying things out.

Networks have names; nodes on networks of different names do not meet. Safe across threads.
"""

import itertools
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from pydantic import BaseModel, Field

from vsync.errors import TransportFailed
from vsync.hookspecs import hookimpl
from vsync.settings import Strict
from vsync.transport import Address, Burst, Packet, Transport
from vsync.vocabulary import NodeId

BATCH_PACKETS_MAX: Final = 1024
"""What one call of ``receive`` returns at most."""

PACKET_CHARGE_BYTES: Final = 64
"""What a waiting packet costs beyond its bytes, so that empty ones are bounded too."""


class MemorySettings(Strict):
    """``[transport.memory]``."""

    network: str = "vsync"
    """Nodes of this process meet on the network of this name."""

    packet_bytes_max: int = Field(default=1472, ge=512, le=65_487)
    """The largest packet."""

    receive_buffer_bytes: int = Field(default=4 * 2**20, ge=2**17, le=2**30)
    """What may wait at one node; packets beyond it are lost, as in a kernel's buffer."""


class _Network:
    """Who is on one network. Its lock guards every member's queue as well."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.members: dict[Address, TransportMemory] = {}


_networks: dict[str, _Network] = {}
_networks_lock = threading.Lock()
_numbers = itertools.count(1)


class TransportMemory(Transport):
    """A ring inside one process."""

    SCHEME: ClassVar[str] = "memory"
    SETTINGS: ClassVar[type[BaseModel]] = MemorySettings

    def __init__(self, settings: MemorySettings, *, node: NodeId) -> None:
        self._settings = settings
        self._node = node
        self._address: Address = None
        self._network: _Network | None = None
        self._wakeup = -1
        self._queue: deque[Packet] = deque()
        self._queued_bytes = 0
        self._packets_sent = 0
        self._packets_received = 0
        self._packets_lost = 0

    def open(self) -> None:
        """Join the network, making it if nobody is there."""
        if self._network is not None:
            raise TransportFailed("the transport memory is open already")
        try:
            self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError as error:
            raise TransportFailed(
                f"the transport memory gets no file descriptor: {error.strerror}; "
                "see the limit with ulimit -n"
            ) from error
        self._address = next(_numbers)
        with _networks_lock:
            network = _networks.setdefault(self._settings.network, _Network())
            with network.lock:
                network.members[self._address] = self
        self._network = network

    def close(self) -> None:
        """Leave the network; what waits is lost."""
        network, self._network = self._network, None
        if network is None:
            return
        with _networks_lock, network.lock:
            del network.members[self._address]
            if not network.members and _networks.get(self._settings.network) is network:
                del _networks[self._settings.network]
            os.close(self._wakeup)
            self._queue.clear()
            self._queued_bytes = 0

    def descriptors(self) -> Sequence[int]:
        """One eventfd, readable while packets wait."""
        return [self._wakeup] if self._network is not None else []

    def send(self, burst: Burst) -> None:
        """Put the packets into the queues of those they are for."""
        if self._network is None:
            raise TransportFailed("the transport memory is closed and can send nothing")
        packets = [Packet(bytes(packet), self._address) for packet in burst.packets]
        with self._network.lock:
            self._packets_sent += len(packets)
            if burst.destination is None:
                for address, member in self._network.members.items():
                    if address != self._address:
                        member._put(packets)
            elif burst.destination in self._network.members:
                self._network.members[burst.destination]._put(packets)

    def _put(self, packets: Sequence[Packet]) -> None:
        """Queue what there is room for. The caller holds the network's lock."""
        silent = not self._queue
        for packet in packets:
            charged = len(packet.data) + PACKET_CHARGE_BYTES
            if self._queued_bytes + charged > self._settings.receive_buffer_bytes:
                self._packets_lost += 1
                continue
            self._queued_bytes += charged
            self._queue.append(packet)
        if silent and self._queue:
            os.eventfd_write(self._wakeup, 1)

    def receive(self) -> Sequence[Packet]:
        """What waits, in the order in which it was sent."""
        if self._network is None:
            return ()
        with self._network.lock:
            if not self._queue:
                return ()
            count = min(len(self._queue), BATCH_PACKETS_MAX)
            batch = [self._queue.popleft() for _ in range(count)]
            self._queued_bytes -= sum(len(packet.data) + PACKET_CHARGE_BYTES for packet in batch)
            if not self._queue:
                os.eventfd_read(self._wakeup)
            self._packets_received += len(batch)
        return batch

    @property
    def packet_bytes_max(self) -> int:
        """As the settings say."""
        return self._settings.packet_bytes_max

    @property
    def receive_buffer_bytes(self) -> int:
        """As the settings say."""
        return self._settings.receive_buffer_bytes

    @property
    def status(self) -> Mapping[str, Any]:
        """The network, this node's address on it, sizes and counters."""
        return {
            "network": self._settings.network,
            "address": self._address,
            "packet_bytes_max": self.packet_bytes_max,
            "receive_buffer_bytes": {
                "asked": self.receive_buffer_bytes,
                "given": self.receive_buffer_bytes,
            },
            "counters": {
                "packets_sent": self._packets_sent,
                "packets_received": self._packets_received,
                "packets_lost_receive_buffer": self._packets_lost,
            },
            "warnings": [],
        }


@hookimpl
def vsync_register_transports() -> Sequence[type[Transport]]:
    """Offer ``memory``."""
    return [TransportMemory]

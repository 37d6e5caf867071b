"""UDP from each node to each: what is for everyone is sent to all in turn."""

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from vsync import EVERYONE, Address, Burst, NodeId, Packet, Transport, TransportFailed

BUFFER_BYTES = 2**20
BATCH_PACKETS_MAX = 1024
PACKET_BYTES_MAX = 1472
"""What an Ethernet frame has room for, after the headers of IPv4 and UDP."""


class ExampleSettings(BaseModel):
    """``[transport.example]``"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    addresses: dict[str, str]
    """The address HOST:PORT of every node that may ever be on the ring, by node id."""

    @field_validator("addresses")
    @classmethod
    def _check(cls, addresses: dict[str, str]) -> dict[str, str]:
        for node, address in addresses.items():
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 2**16:
                raise ValueError(f"node {node} has address {address!r}; write it as HOST:PORT")
        return addresses


def parsed(address: str) -> tuple[str, int]:
    """Host and port."""
    host, _, port = address.rpartition(":")
    return host, int(port)


class TransportExample(Transport):
    """One node's socket, and where the others are."""

    SCHEME = "example"
    SETTINGS = ExampleSettings

    def __init__(self, settings: ExampleSettings, *, node: NodeId) -> None:
        # No I/O here: what can fail, fails in open().
        addresses = dict(settings.addresses)
        self._own = addresses.pop(str(node), None)
        self._others = [parsed(address) for address in addresses.values()]
        self._node = node
        self._socket: socket.socket | None = None
        self._lost = 0

    def open(self) -> None:
        """Bind this node's address."""
        if self._own is None:
            raise TransportFailed(
                f"node {self._node} has no address; name it in addresses of [transport.example]"
            )
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            made.bind(parsed(self._own))
        except OSError as error:
            made.close()
            raise TransportFailed(
                f"node {self._node} cannot listen at {self._own}: {error.strerror}; "
                "give it an address of this machine, with a port that is free"
            ) from error
        self._socket = made

    def close(self) -> None:
        """Close the socket."""
        opened, self._socket = self._socket, None
        if opened is not None:
            opened.close()

    def descriptors(self) -> Sequence[int]:
        """The socket's, while it is open."""
        return [] if self._socket is None else [self._socket.fileno()]

    def send(self, burst: Burst) -> None:
        """Send each packet to its destination, or to all others in turn."""
        if self._socket is None:
            raise TransportFailed("the transport example is closed and can send nothing")
        targets: Sequence[Any] = [burst.destination]
        if burst.destination is EVERYONE:
            targets = self._others
        for target in targets:
            for packet in burst.packets:
                try:
                    self._socket.sendto(packet, target)
                except OSError:  # no room, no route, nobody there: lost, which is no error
                    self._lost += 1

    def receive(self) -> Sequence[Packet]:
        """What has come, up to a batch."""
        packets: list[Packet] = []
        while self._socket is not None and len(packets) < BATCH_PACKETS_MAX:
            try:
                data, source = self._socket.recvfrom(2**16)
            except BlockingIOError:
                break
            except OSError:  # a peer's machine said that nobody listens there
                continue
            address: Address = source
            packets.append(Packet(data, address))
        return packets

    @property
    def packet_bytes_max(self) -> int:
        """One datagram in one Ethernet frame."""
        return PACKET_BYTES_MAX

    @property
    def receive_buffer_bytes(self) -> int:
        """What was really given: the ring's window is made to fit it."""
        if self._socket is None:
            return BUFFER_BYTES
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    @property
    def status(self) -> Mapping[str, Any]:
        """For ``vsync status``."""
        return {"address": self._own, "counters": {"packets_lost_sending": self._lost}}

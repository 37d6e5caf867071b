"""TransportUDPU: packets to everyone go to each peer, where the network has no multicast.

One socket, bound to the node's own address, sends and receives everything; so that is the node's
address for all others. Who the others are, ``peers`` knows.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, ClassVar, Final

from pydantic import BaseModel

from vsync.errors import TransportFailed
from vsync.ip import interfaces, sockets
from vsync.ip.interfaces import InterfaceAddress
from vsync.transport import Arrival, Burst, Packet, Train, Transport, flat
from vsync.vocabulary import NodeId
from vsync_transport_udp import hello, names
from vsync_transport_udp.datagrams import Datagrams
from vsync_transport_udp.peers import Origin, Peers, Place
from vsync_transport_udp.settings import SettingsUDPU, parse_peer

HELLOS_PER_CALL: Final = 64
"""Hellos that one call of ``receive`` looks at; a flood of them must not keep the caller waiting.
What is too much is dropped: who means it says hello again."""

SECRET_BYTES: Final = 32


class TransportUDPU(Transport):
    """A ring over UDP unicast: peers from a list, or learnt from seeds; IPv4 or IPv6."""

    SCHEME: ClassVar[str] = "udpu"
    SETTINGS: ClassVar[type[BaseModel]] = SettingsUDPU

    def __init__(
        self,
        settings: SettingsUDPU,
        *,
        node: NodeId,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._node = node
        self._clock = clock
        self._datagrams = Datagrams(settings)
        self._local: InterfaceAddress | None = None
        self._socket: socket.socket | None = None
        self._peers: Peers | None = None
        self._hellos_dropped = 0
        self._warnings: list[str] = []

    # Opening and closing

    @classmethod
    def looking_up(cls, settings: BaseModel) -> Callable[[], None] | None:
        """Look up the names among the peers and seeds, if there are any."""
        assert isinstance(settings, SettingsUDPU)
        places = [parse_peer(text, settings.port) for text in (*settings.peers, *settings.seeds)]
        named = [(host, port) for host, port in places if not _is_address(host)]

        def look_up() -> None:
            try:
                local = interfaces.resolve_bind(
                    settings.bind, settings.version, asked_for_by="peers"
                )
            except (OSError, TransportFailed):
                return  # as ``open`` will say
            for host, port in named:
                names.look_up_before(names.Wanted(host, port, local.family))

        return look_up if named else None

    def open(self) -> None:
        """Find the interface, look up the peers' names, bind. Raises TransportFailed."""
        settings = self._settings
        try:
            local = interfaces.resolve_bind(settings.bind, settings.version, asked_for_by="peers")
            self._socket = sockets.open_unicast(
                local,
                settings.port,
                setting="port",
                advice="stop that program, or choose another port in [transport.udpu], and name "
                "it where this node is among the peers or seeds of others",
                section="transport.udpu",
            )
            self._local = local
            self._datagrams.attach(local, self._socket)
            self._peers = self._meet(local)
        except OSError as error:
            self.close()
            raise TransportFailed(
                f"the transport udpu cannot open with bind {settings.bind}, port "
                f"{settings.port}: {error.strerror or error}"
            ) from error
        except TransportFailed:
            self.close()
            raise
        if "bind" not in settings.model_fields_set:
            self._warnings.append(
                f"bind is not set in [transport.udpu]: only nodes on this machine can be reached, "
                f"through {settings.bind}"
            )

    def _meet(self, local: InterfaceAddress) -> Peers:
        """Make the peers of those in the settings. Raises TransportFailed."""
        settings, now = self._settings, self._clock()
        peers = Peers(
            own=self._datagrams.own,  # type: ignore[arg-type]
            place_of=lambda host, port: place_of(local, host, port),
            instance=os.urandom(hello.WORD_BYTES),
            secret=os.urandom(SECRET_BYTES),
            learning=bool(settings.seeds),
            forget_s=settings.forget_s,
            now=now,
        )
        for key, origin in (("peers", Origin.LISTED), ("seeds", Origin.SEED)):
            for text in getattr(settings, key):
                for place in self._look_up(local, key, text):
                    peers.add(place, origin, text, now)
        return peers

    def _look_up(self, local: InterfaceAddress, key: str, text: str) -> Iterator[Place]:
        host, port = parse_peer(text, self._settings.port)
        try:
            found = names.addresses(names.Wanted(host, port, local.family))
        except (OSError, UnicodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "this is no name"
            raise TransportFailed(
                f'"{text}" in {key} of [transport.udpu] has no IPv{local.version} address: {said}; '
                "see whether the name is right and can be looked up here (`getent ahosts "
                f"{host}`), or give the address itself"
            ) from error
        for *_, address in found:
            place = place_of(local, str(address[0]).partition("%")[0], port)
            if place is not None:
                yield place
            elif host == address[0]:
                self._warnings.append(
                    f'"{text}" in {key} of [transport.udpu] is not sent to: no other node can be '
                    f"there for one at {local.address}"
                )
            # Else it is the own name: /etc/hosts gives many machines 127.0.1.1 for theirs.

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._datagrams.detach()

    def descriptors(self) -> Sequence[int]:
        """The socket."""
        return [self._socket.fileno()] if self._socket else []

    # Sending and receiving

    def send(self, burst: Burst) -> None:
        """Send to each peer, or to one address; count what is lost. Says hello when it is time."""
        if self._socket is None or self._peers is None:
            raise TransportFailed("the transport udpu is closed and can send nothing")
        self._say_hello(self._peers)
        destination, packets = burst
        if destination is not None:
            self._datagrams.send(packets, destination)
            return
        for place in self._peers.targets:
            self._datagrams.send(packets, place)

    def receive(self) -> Sequence[Packet]:
        """What waits, less the hellos, which are answered."""
        return flat(self.receive_trains())

    def receive_trains(self) -> Sequence[Arrival]:
        """The same, with packets that the kernel gave in one piece left in it."""
        if self._socket is None or self._peers is None:
            return ()
        batch: list[Arrival] = []
        self._datagrams.drain(self._socket, batch)
        mark, length = hello.MARK, len(hello.MARK)
        plain: list[Arrival] = []
        hellos: list[Packet] = []
        for arrival in batch:
            data, _ = arrival
            if type(data) is Train and mark not in bytes(data.buffer):
                plain.append(arrival)
                continue
            for packet in flat([arrival]):
                (hellos if packet.data[:length] == mark else plain).append(packet)
        if hellos:
            self._hear(self._peers, hellos)
        self._say_hello(self._peers)
        return plain

    def _hear(self, peers: Peers, hellos: Sequence[Packet]) -> None:
        now = self._clock()
        for packet in hellos[:HELLOS_PER_CALL]:
            source: Any = packet.source
            answer = peers.receive(bytes(packet.data), source, now)
            if answer is not None:
                self._datagrams.send([answer], source)
        self._hellos_dropped += max(0, len(hellos) - HELLOS_PER_CALL)

    def _say_hello(self, peers: Peers) -> None:
        for place, packet in peers.due(self._clock()):
            self._datagrams.send([packet], place)

    # Facts

    @property
    def packet_bytes_max(self) -> int:
        """What fits into the interface's MTU, or less if the settings say so."""
        return self._datagrams.packet_bytes_max

    @property
    def receive_buffer_bytes(self) -> int:
        """The socket's buffer, as granted."""
        return self._datagrams.receive_buffer_bytes

    @property
    def status(self) -> Mapping[str, Any]:
        """Interface, address, peers with their states, sizes, offloads, counters, warnings."""
        peers = self._peers
        return {
            "interface": self._local.name if self._local else None,
            "address": self._datagrams.address,
            "learning": bool(self._settings.seeds),
            "peers": peers.facts(self._clock()) if peers else [],
            **self._datagrams.sizes(),
            "counters": {
                **self._datagrams.counters(),
                **(peers.counters if peers else {}),
                "hellos_dropped": self._hellos_dropped,
            },
            "errors": dict(self._datagrams.errors),
            "warnings": [
                *self._datagrams.warnings,
                *self._warnings,
                *(peers.warnings if peers else ()),
            ],
        }


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def place_of(local: InterfaceAddress, host: str, port: int) -> Place | None:
    """An address to send to, if another node can be there for one that is bound to *local*."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if (
        address.version != local.version
        or address.is_multicast
        or address.is_unspecified
        or (address.version == 4 and address.is_reserved)  # 240.0.0.0/4, broadcast among them
        or address.is_loopback != local.address.is_loopback
        or not 1 <= port <= 65535
    ):
        return None
    return sockets.socket_address(local, str(address), port)

"""Providers without devices: what is sent is kept, or reaches others; what happens is given."""

import itertools
import os
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Any

from vsync.errors import TransportFailed
from vsync_transport_ib.verbs import (
    Device,
    Endpoint,
    Event,
    GidEntry,
    LinkLayer,
    Peer,
    Port,
    PortState,
    ReceiveCompletion,
    SendCompletion,
    Verbs,
)

OWN = Peer(IPv6Address("::ffff:10.0.0.1").packed, 17)
OTHER = Peer(IPv6Address("::ffff:10.0.0.2").packed, 99)


def gid(index: int, address: str, kind: str = "RoCE v2") -> GidEntry:
    text = f"::ffff:{address}" if "." in address else address
    return GidEntry(index=index, gid=IPv6Address(text), kind=kind, interface="eth0")


def port(number: int = 1, **changed: Any) -> Port:
    given: dict[str, Any] = {
        "state": PortState.ACTIVE,
        "link_layer": LinkLayer.ETHERNET,
        "mtu_bytes": 1024,
        "mtu_bytes_max": 4096,
        "gids": [gid(0, "fe80::1"), gid(1, "10.0.0.1", "RoCE v1"), gid(2, "10.0.0.1")],
    }
    return Port(number=number, **{**given, **changed})


def device(name: str = "rxe0", *ports: Port, **changed: Any) -> Device:
    return Device(name=name, ports=ports or [port()], **{"interfaces": ["eth0"], **changed})


class FakeVerbs:
    """Keeps account as a device does: a slot is the caller's, or posted, or waits to be taken."""

    def __init__(self, *, receive_slots: int = 8, send_slots: int = 8) -> None:
        self.receive_slots = receive_slots
        self.send_slots = send_slots
        self.posted: deque[int] = deque()
        self.sent: list[tuple[Peer | None, bytes]] = []
        self.batches: list[int] = []
        self.sending: deque[tuple[int, int]] = deque()
        """The last slot of each batch that was not reported yet, and how many it has."""
        self.completes = True
        """Whether sends are done as soon as they are asked for."""
        self.arriving: deque[tuple[int, bytes, Peer]] = deque()
        self.at_arm: list[bytes] = []
        """What arrives just when ``arm`` is called."""
        self.happening: list[Event] = []
        self.joins = 1
        self.arms = 0
        self.closed = False
        self.broken = ""
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    own: Peer = OWN
    message_bytes_max = 1024
    receive_buffer_bytes = 8 * 1024

    def arrive(self, *messages: bytes, source: Peer = OTHER, status: int = 0) -> None:
        self.arriving += [(status, message, source) for message in messages]

    def post_receives(self, slots: Sequence[int]) -> None:
        self._check()
        assert not set(slots) & set(self.posted), "a slot was posted twice"
        assert all(0 <= slot < self.receive_slots for slot in slots)
        self.posted += slots

    def poll_receives(self, most: int) -> Sequence[ReceiveCompletion]:
        self._check()
        found: list[ReceiveCompletion] = []
        while self.arriving and self.posted and len(found) < most:
            status, data, source = self.arriving.popleft()
            found.append(ReceiveCompletion(self.posted.popleft(), status, data, source))
        return found

    def post_sends(
        self, first_slot: int, messages: Sequence[bytes | memoryview], destination: Peer | None
    ) -> None:
        self._check()
        slots = [(first_slot + at) % self.send_slots for at in range(len(messages))]
        busy = {
            (last - back) % self.send_slots for last, count in self.sending for back in range(count)
        }
        assert messages and len(slots) == len(set(slots)), "more than there are slots"
        assert not busy & set(slots), "a slot was used while it was being sent from"
        self.sending.append((slots[-1], len(slots)))
        self.batches.append(len(messages))
        self.sent += [(destination, bytes(message)) for message in messages]

    def poll_sends(self) -> Sequence[SendCompletion]:
        self._check()
        if not self.completes:
            return ()
        done = [SendCompletion(last, 0) for last, _ in self.sending]
        self.sending.clear()
        return done

    def join(self) -> None:
        self.joins += 1

    def descriptors(self) -> Sequence[int]:
        return [self._wakeup]

    def arm(self) -> None:
        self.arms += 1
        arrived, self.at_arm = self.at_arm, []
        self.arrive(*arrived)

    def events(self) -> Sequence[Event]:
        happened, self.happening = self.happening, []
        return happened

    def status(self) -> Mapping[str, Any]:
        return {"device": "rxe0", "counters": {"dropped_qkey": 3}}

    def close(self) -> None:
        if not self.closed:
            os.close(self._wakeup)
        self.closed = True

    def _check(self) -> None:
        if self.broken:
            raise TransportFailed(self.broken)


class FakeProvider:
    """Opens ``FakeVerbs``, the last of which is ``verbs``, unless it is to fail."""

    def __init__(self, *devices: Device, fails: str = "") -> None:
        self.found = list(devices or [device()])
        self.fails = fails
        self.opened: list[FakeVerbs] = []
        self.endpoints: list[Endpoint] = []

    @property
    def verbs(self) -> FakeVerbs:
        return self.opened[-1]

    def devices(self) -> Sequence[Device]:
        return self.found

    def open_verbs(self, endpoint: Endpoint) -> Verbs:
        if self.fails:
            raise TransportFailed(self.fails)
        self.endpoints.append(endpoint)
        self.opened.append(
            FakeVerbs(receive_slots=endpoint.receive_slots, send_slots=endpoint.send_slots)
        )
        return self.verbs


class NetworkVerbs(FakeVerbs):
    """A queue pair on a network with others, its own multicast heard back as HCAs may do."""

    def __init__(self, network: "FakeNetwork", endpoint: Endpoint) -> None:
        super().__init__(receive_slots=endpoint.receive_slots, send_slots=endpoint.send_slots)
        self.own = Peer(OWN.gid, next(network.numbers))
        self._network = network
        network.members.append(self)

    def arrive(self, *messages: bytes, source: Peer = OTHER, status: int = 0) -> None:
        super().arrive(*messages, source=source, status=status)
        os.eventfd_write(self._wakeup, 1)

    def post_sends(
        self, first_slot: int, messages: Sequence[bytes | memoryview], destination: Peer | None
    ) -> None:
        super().post_sends(first_slot, messages, destination)
        for member in self._network.members:
            if destination is None or member.own == destination:
                member.arrive(*map(bytes, messages), source=self.own)

    def arm(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wakeup)

    def close(self) -> None:
        if not self.closed:
            self._network.members.remove(self)
        super().close()


class FakeNetwork(FakeProvider):
    """Opens queue pairs that hear each other."""

    def __init__(self) -> None:
        super().__init__()
        self.members: list[NetworkVerbs] = []
        self.numbers = itertools.count(100)

    def open_verbs(self, endpoint: Endpoint) -> Verbs:
        return NetworkVerbs(self, endpoint)

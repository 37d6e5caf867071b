"""TransportIB: a ring over unreliable datagrams, multicast for all and unicast for one.

What opens the queue pair is a provider, ``verbs`` (``rdma``) or ``soft``, imported when it opens.
All descriptors are behind one epoll, so that the queue pair can be made anew while the ring's
thread waits on it.

What happens to the device: as a link of ``redundant`` this transport fails when its port goes down,
so that the link is left at once, and opened again as soon as that works. A ring that has nothing
else waits for the port, and makes the queue pair anew when it must.
"""

import logging
import select
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, ClassVar, Final

from pydantic import BaseModel

from vsync.errors import TransportFailed
from vsync.transport import Arrival, Burst, Packet, Station, Transport
from vsync.vocabulary import NodeId
from vsync_transport_ib.choice import choose
from vsync_transport_ib.link import Link
from vsync_transport_ib.settings import SettingsIB
from vsync_transport_ib.verbs import Endpoint, Event, EventKind, Provider, Verbs

logger = logging.getLogger(__name__)

REOPEN_S: Final = 0.25
"""How often, while there is no queue pair, another is tried."""

PROVIDERS: Final = {"verbs": "vsync_transport_ib.rdma", "soft": "vsync_transport_ib.soft"}
"""The modules; imported only when needed."""


def provider(name: str) -> Provider:
    """The module of that name. Raises TransportFailed if what it needs is not installed."""
    try:
        module: Any = import_module(PROVIDERS[name])
    except ImportError as error:
        raise TransportFailed(
            f"the provider {name} of the transport ib cannot be used: {error}; set provider in "
            "[transport.ib] to another"
        ) from error
    found: Provider = module
    return found


class TransportIB(Transport):
    """A ring over InfiniBand or RoCE."""

    SCHEME: ClassVar[str] = "ib"
    SETTINGS: ClassVar[type[BaseModel]] = SettingsIB

    def __init__(
        self,
        settings: SettingsIB,
        *,
        node: NodeId,
        clock: Callable[[], float] = time.monotonic,
        load: Callable[[str], Provider] = provider,
    ) -> None:
        self._settings = settings
        self._node = node
        self._clock = clock
        self._load = load
        self._is_link = False
        self._epoll: select.epoll | None = None
        self._provider: str = settings.provider
        self._endpoint: Endpoint | None = None
        self._verbs: Verbs | None = None
        self._link: Link | None = None
        self._packet_bytes_max = 0
        self._receive_buffer_bytes = 0
        self._warnings: list[str] = []
        self._port_is_down = ""
        self._broken = ""
        """Why there is no queue pair, though the transport is open."""
        self._reopen_at = 0.0
        self._counters: Counter[str] = Counter()

    def serve(self, station: Station) -> None:
        """Learn whether this is one of several links."""
        self._is_link = station.link != 0

    # --- opening and closing --------------------------------------------------------------------

    def open(self) -> None:
        """Choose a device, open it, join the group. Raises TransportFailed."""
        try:
            self._epoll = select.epoll()
        except OSError as error:
            raise TransportFailed(
                f"the transport ib gets no epoll: {error.strerror or error}; see the limit of file "
                "descriptors with ulimit -n"
            ) from error
        try:
            self._open_some()
        except TransportFailed:
            self.close()
            raise
        assert self._verbs is not None
        self._packet_bytes_max = self._verbs.message_bytes_max
        self._receive_buffer_bytes = self._verbs.receive_buffer_bytes

    def _open_some(self) -> None:
        """With the provider that is set, or else the one to fall back to."""
        try:
            self._open_with(self._settings.provider)
        except TransportFailed as error:
            if self._settings.fallback == "none":
                raise
            try:
                self._open_with(self._settings.fallback)
            except TransportFailed as other:
                raise TransportFailed(
                    f"{error}; and what to fall back to does not work: {other}"
                ) from other
            self._warnings.append(
                f"provider {self._settings.fallback} is used, as fallback says, because "
                f"{self._settings.provider} does not work: {error}"
            )
            logger.warning("node %d: %s", self._node, self._warnings[-1])

    def _open_with(self, name: str) -> None:
        module = self._load(name)
        endpoint, warnings = choose(self._settings, module.devices())
        verbs = module.open_verbs(endpoint)
        if self._packet_bytes_max and verbs.message_bytes_max < self._packet_bytes_max:
            verbs.close()
            raise TransportFailed(
                f"packets were up to {self._packet_bytes_max} bytes, and {endpoint.device} carries "
                f"{verbs.message_bytes_max} now; restart the node, or restore its MTU"
            )
        link = Link(verbs, receive_slots=endpoint.receive_slots, send_slots=endpoint.send_slots)
        try:
            assert self._epoll is not None
            for descriptor in verbs.descriptors():
                self._epoll.register(descriptor, select.EPOLLIN)
            link.start()
        except (TransportFailed, OSError) as error:
            verbs.close()
            raise TransportFailed(f"{endpoint.device} cannot be used: {error}") from error
        self._provider, self._endpoint = name, endpoint
        self._verbs, self._link = verbs, link
        self._warnings = list(warnings)
        self._port_is_down = self._broken = ""

    def close(self) -> None:
        """Close the queue pair, which leaves the group."""
        self._shut()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    def _shut(self) -> None:
        verbs, link = self._verbs, self._link
        self._verbs = self._link = None
        if link is not None:
            self._counters += link.counters
        if verbs is None:
            return
        if self._epoll is not None:
            for descriptor in verbs.descriptors():
                with suppress(OSError):
                    self._epoll.unregister(descriptor)
        verbs.close()

    def descriptors(self) -> Sequence[int]:
        """One, whatever the provider waits on."""
        return [] if self._epoll is None else [self._epoll.fileno()]

    # --- packets --------------------------------------------------------------------------------

    def send(self, burst: Burst) -> None:
        """Post all packets, or count those that there is no room or no device for."""
        if self._epoll is None:
            raise TransportFailed("the transport ib is closed and can send nothing")
        link = self._working()
        if link is None:
            self._counters["packets_lost_sending"] += len(burst.packets)
            return
        try:
            link.send(burst)
        except TransportFailed as error:
            self._break(str(error))

    def receive(self) -> Sequence[Packet]:
        """What has come, up to some bound."""
        link = self._working() if self._epoll is not None else None
        if link is None:
            return ()
        assert self._verbs is not None
        try:
            packets = link.receive()
            for event in self._verbs.events():
                self._happened(event)
        except TransportFailed as error:
            self._break(str(error))
            return ()
        return packets

    def receive_trains(self) -> Sequence[Arrival]:
        """The same: packets come one by one."""
        return self.receive()

    def _working(self) -> Link | None:
        """The link; made anew if it broke and it is time to try."""
        if self._link is None and self._clock() >= self._reopen_at:
            self._reopen_at = self._clock() + REOPEN_S
            try:
                self._open_some()
            except TransportFailed as error:
                self._broken = str(error)
            else:
                self._counters["reopened"] += 1
        return self._link

    # --- what happens to the device -------------------------------------------------------------

    def _happened(self, event: Event) -> None:
        self._counters[f"events_{event.kind.value.replace(' ', '_').lower()}"] += 1
        match event.kind:
            case EventKind.PORT_DOWN:
                if self._is_link:
                    raise TransportFailed(event.text)
                self._port_is_down = event.text
                logger.warning("node %d: %s", self._node, event.text)
            case EventKind.PORT_ACTIVE | EventKind.MEMBERSHIP_LOST:
                self._port_is_down = ""
                assert self._verbs is not None
                self._verbs.join()
            case EventKind.FATAL:
                raise TransportFailed(event.text)
            case EventKind.GID_CHANGE | EventKind.OTHER:
                pass

    def _break(self, why: str) -> None:
        """There is no queue pair any more. As a link: fail; alone: another will be made."""
        self._shut()
        self._broken = why
        if self._is_link:
            self.close()
            raise TransportFailed(why)
        logger.warning("node %d: %s; the queue pair is made anew", self._node, why)
        self._reopen_at = self._clock()

    # --- facts ----------------------------------------------------------------------------------

    @property
    def packet_bytes_max(self) -> int:
        """The port's active MTU, or less if the settings say so."""
        return self._packet_bytes_max

    @property
    def receive_buffer_bytes(self) -> int:
        """What all posted receives hold together; with ``soft`` the socket buffer."""
        return self._receive_buffer_bytes

    @property
    def status(self) -> Mapping[str, Any]:
        """Provider, device, addresses, sizes, counters and warnings."""
        facts = {} if self._verbs is None else dict(self._verbs.status())
        counters = Counter(self._counters)
        if self._link is not None:
            counters += self._link.counters
        for name, count in dict(facts.pop("counters", {})).items():
            counters[name] += count
        warnings = list(self._warnings)
        if self._port_is_down:
            warnings.append(f"{self._port_is_down}: nothing is carried until it is up")
        if self._broken:
            warnings.append(f"there is no queue pair: {self._broken}; it is tried again")
        return {
            "provider": self._provider,
            "group": self._settings.group,
            **facts,
            "packet_bytes_max": self._packet_bytes_max,
            "receive_buffer_bytes": {
                "asked": self._endpoint.receive_buffer_bytes if self._endpoint else 0,
                "given": self._receive_buffer_bytes,
            },
            "counters": dict(sorted(counters.items())),
            "warnings": warnings,
        }

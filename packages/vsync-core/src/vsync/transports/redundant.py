"""Several transports as one, of any kind: a ring goes on while one link of each node still works.

``vsync.links`` says what goes where and how each link is; this module has the sockets. All links
are watched through one epoll, so that they can come and go while the ring's thread waits on it.
"""

import logging
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from vsync.errors import MisuseError, TransportFailed
from vsync.hookspecs import hookimpl
from vsync.links import Links, Manner, Mode
from vsync.links.hello import LINKS_MAX
from vsync.settings import ON_NODE, Strict
from vsync.transport import Arrival, Burst, Packet, Station, Transport, flat
from vsync.transports.inner import check_settings, looking_up, make_inner
from vsync.transports.sealed import serving
from vsync.transports.timer import Timer
from vsync.vocabulary import NodeId

logger = logging.getLogger(__name__)

REOPEN_S: Final = 1.0
"""How often a link that could not be opened is tried again."""


class LinkSettings(Strict):
    """``[[transport.redundant.links]]``: one link."""

    transport: str
    """The transport that carries the packets."""

    settings: dict[str, Any] = Field(default_factory=dict)
    """The settings of that transport, as in its own section."""

    number: int | None = Field(default=None, ge=1, le=LINKS_MAX)
    """The link's number, the same on every node. Without it: its place in the list."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.transport == TransportRedundant.SCHEME:
            raise ValueError("a link is a transport that is not redundant itself")
        check_settings(self.transport, self.settings)
        return self


class RedundantSettings(Strict):
    """``[transport.redundant]``: the links, and how they are used."""

    mode: Mode = Mode.PASSIVE
    """What becomes of data: ``active``, ``passive``, ``active-passive`` or ``fastest``."""

    copies: int = Field(default=2, ge=2, le=LINKS_MAX - 1)
    """With ``active-passive``: on how many links each packet goes."""

    hello_s: float = Field(default=0.1, ge=0.01, le=10)
    """How often nodes say hello on each link. A link that does not carry them is given up after
    three and a half times as long."""

    loss_max: float = Field(default=0.1, gt=0, le=1)
    """A link that loses more than this part of its packets is given up."""

    recover_s: float = Field(default=0.5, ge=0, le=60)
    """How long a faulty link must be good before it is used again; twice as long after each
    relapse."""

    links: list[LinkSettings] = Field(default_factory=list, json_schema_extra=ON_NODE)
    """The links, two to eight."""

    @field_validator("links")
    @classmethod
    def _check_links(cls, links: list[LinkSettings]) -> list[LinkSettings]:
        if not 2 <= len(links) <= LINKS_MAX:
            raise ValueError(
                f"two to {LINKS_MAX} links are needed, each a [[transport.redundant.links]]; "
                f"there are {len(links)}"
            )
        numbers = [link.number or place for place, link in enumerate(links, 1)]
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"every link needs a number of its own; given are {numbers}")
        return links


def numbered(links: Sequence[LinkSettings]) -> dict[int, LinkSettings]:
    """The links by their numbers."""
    return {link.number or place: link for place, link in enumerate(links, 1)}


def _alike(one: LinkSettings | None, other: LinkSettings) -> bool:
    """Whether two links of one number are the same."""
    return one is not None and (one.transport, one.settings) == (other.transport, other.settings)


class TransportRedundant(Transport):
    """A ring on several networks."""

    SCHEME: ClassVar[str] = "redundant"
    SETTINGS: ClassVar[type[BaseModel]] = RedundantSettings

    def __init__(
        self,
        settings: RedundantSettings,
        *,
        node: NodeId,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._node = node
        self._clock = clock
        self._manner = Manner(**settings.model_dump(include=set(Manner.__annotations__)))
        self._station = Station(node, life=0, network=0)
        self._links = Links(self._station, manner=self._manner, now=clock())
        self._wanted = numbered(settings.links)
        self._open: dict[int, Transport] = {}
        self._link_of: dict[int, int] = {}
        """By file descriptor."""
        self._epoll: select.epoll | None = None
        self._timer = Timer()
        self._reopen_at = clock()
        self._failures: dict[int, str] = {}
        """Why a link is not open."""
        self._looking: dict[int, tuple[LinkSettings, threading.Thread]] = {}
        """Who looks up what for a link that is not open."""
        self._packet_bytes_max = 0
        self._receive_buffer_bytes = 0

    @classmethod
    def looking_up(cls, settings: BaseModel) -> Callable[[], None] | None:
        """What any of the links has to."""
        assert isinstance(settings, RedundantSettings)
        found = [looking_up(link.transport, link.settings) for link in settings.links]
        wanted = [each for each in found if each is not None]

        def look_up() -> None:
            for each in wanted:
                each()

        return look_up if wanted else None

    @property
    def composed(self) -> bool:
        """Each link has a seal of its own, so that hellos have it, too."""
        return True

    def serve(self, station: Station) -> None:
        """Say hello as that life of the node, to those of its ring; pass it on to the links."""
        self._station = station
        self._links = Links(station, manner=self._manner, now=self._clock())

    # --- opening and closing --------------------------------------------------------------------

    def open(self) -> None:
        """Open all links that can be. Raises TransportFailed if none can."""
        try:
            self._epoll = select.epoll()
            self._timer.open()
        except OSError as error:
            self.close()
            raise TransportFailed(
                f"the transport redundant gets no epoll or timer: {error.strerror or error}; "
                "see the limit of file descriptors with ulimit -n"
            ) from error
        self._epoll.register(self._timer.descriptor, select.EPOLLIN)
        for number in self._wanted:
            self._try_to_open(number)
        if not self._open:
            self.close()
            raise TransportFailed(
                "no link can be opened: "
                + "; ".join(f"link {number}: {why}" for number, why in self._failures.items())
            )
        opened = self._open.values()
        self._packet_bytes_max = min(inner.packet_bytes_max for inner in opened)
        self._receive_buffer_bytes = min(inner.receive_buffer_bytes for inner in opened)
        self._links.packet_bytes_max = self._packet_bytes_max
        now = self._clock()
        self._reopen_at = now + REOPEN_S
        self._tick(now)

    def close(self) -> None:
        """Close all links."""
        for number in tuple(self._open):
            self._shut(number)
        self._timer.close()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    def descriptors(self) -> Sequence[int]:
        """One, whatever the links are."""
        return [] if self._epoll is None else [self._epoll.fileno()]

    def _try_to_open(self, number: int) -> None:
        wanted = self._wanted[number]
        station = self._station._replace(link=number)
        inner = serving(make_inner(wanted.transport, wanted.settings, self._node), station)
        try:
            inner.open()
            if self._packet_bytes_max and inner.packet_bytes_max < self._packet_bytes_max:
                raise TransportFailed(
                    f"it takes packets of {inner.packet_bytes_max} bytes, and the ring sends "
                    f"{self._packet_bytes_max}; give its network the MTU of the others"
                )
        except TransportFailed as error:
            inner.close()
            self._failures[number] = str(error)
            return
        self._failures.pop(number, None)
        self._open[number] = inner
        assert self._epoll is not None
        for descriptor in inner.descriptors():
            self._link_of[descriptor] = number
            self._epoll.register(descriptor, select.EPOLLIN)
        self._links.add(number, self._clock())

    def _has_looked_up(self, number: int) -> bool:
        """Whether that link can be opened without a wait for names; else they are looked up."""
        wanted = self._wanted[number]
        link, thread = self._looking.get(number, (None, None))
        if link is not wanted or thread is None:
            look_up = looking_up(wanted.transport, wanted.settings)
            if look_up is None:
                return True
            thread = threading.Thread(target=look_up, name=f"vsync link {number}", daemon=True)
            self._looking[number] = wanted, thread
            thread.start()
            return False
        if thread.is_alive():
            return False
        del self._looking[number]
        return True

    def _shut(self, number: int) -> None:
        inner = self._open.pop(number)
        for descriptor in [each for each, link in self._link_of.items() if link == number]:
            del self._link_of[descriptor]
            if self._epoll is not None:
                with suppress(OSError):
                    self._epoll.unregister(descriptor)
        inner.close()
        self._links.remove(number)

    # --- packets --------------------------------------------------------------------------------

    def send(self, burst: Burst) -> None:
        """Send on the links that the mode and their states choose."""
        if self._epoll is None:
            raise TransportFailed("the transport redundant is closed and can send nothing")
        for number, part in self._links.send(burst):
            self._send_on(number, part)

    def _send_on(self, number: int, burst: Burst) -> None:
        try:
            self._open[number].send(burst)
        except TransportFailed as error:
            self._fail(number, error)

    def _fail(self, number: int, error: TransportFailed) -> None:
        """Use that link no more until it can be opened again. Raises *error* if it is the last."""
        if len(self._open) == 1:
            raise error
        self._failures[number] = str(error)
        self._shut(number)
        logger.warning("node %d: link %d is closed: %s", self._node, number, error)

    def receive(self) -> Sequence[Packet]:
        """What has come on all links, without copies."""
        return flat(self.receive_trains())

    def receive_trains(self) -> Sequence[Arrival]:
        """The same, with packets that came in one piece left in it."""
        if self._epoll is None:
            return ()
        now = self._clock()
        batch: list[Arrival] = []
        ready = {descriptor for descriptor, _ in self._epoll.poll(0)}
        for number in sorted({self._link_of[each] for each in ready if each in self._link_of}):
            try:
                arrived = self._open[number].receive_trains()
            except TransportFailed as error:
                self._fail(number, error)
            else:
                batch += self._links.arrived(number, arrived, now)
        self._links.look(now)
        self._say_hello()
        if now >= self._links.poll_timeout():
            self._tick(now)
        return batch

    def _tick(self, now: float) -> None:
        self._links.handle_timeout(now)
        self._say_hello()
        if now >= self._reopen_at:
            self._reopen_at = now + REOPEN_S
            for number in self._wanted:
                if number not in self._open and self._has_looked_up(number):
                    self._try_to_open(number)
        self._timer.set(max(1e-6, self._links.poll_timeout() - self._clock()))

    def _say_hello(self) -> None:
        for number, hello in self._links.take_hellos():
            if number in self._open:
                self._send_on(number, hello)
        for sentence in self._links.take_news():
            logger.warning("node %d: %s", self._node, sentence)

    # --- links come and go ----------------------------------------------------------------------

    def add_link(self, number: int, link: LinkSettings) -> None:
        """Use another link from now on, or the one of that number with other settings.

        Raises TransportFailed if it cannot be opened; then what was there goes on.
        """
        before = self._wanted.get(number)
        if before is None and len(self._wanted) >= LINKS_MAX:
            raise TransportFailed(f"there are {LINKS_MAX} links already; remove one first")
        if number in self._open:
            self._shut(number)
        self._wanted[number] = link
        self._try_to_open(number)
        if number not in self._open:
            why = self._failures.pop(number)
            if before is None:
                del self._wanted[number]
            else:
                self._wanted[number] = before
                self._try_to_open(number)
            raise TransportFailed(f"link {number} cannot be opened: {why}")

    def remove_link(self, number: int) -> None:
        """Use that link no more. Raises MisuseError if there is none, or no other."""
        if number not in self._wanted:
            known = ", ".join(map(str, self._wanted))
            raise MisuseError(f"there is no link {number}; there are {known}")
        if not set(self._open) - {number}:
            raise MisuseError(f"link {number} is the last one that is open; add another first")
        del self._wanted[number]
        self._failures.pop(number, None)
        if number in self._open:
            self._shut(number)

    def reload(self, settings: BaseModel) -> None:
        """Have the links of *settings*: some come, some have other settings, some go.

        Raises TransportFailed if one of them cannot be had; then all are as they were.
        """
        assert isinstance(settings, RedundantSettings)
        before, after = dict(self._wanted), numbered(settings.links)
        going = sorted(before.keys() - after.keys())
        try:
            for number, link in sorted(after.items()):
                if _alike(before.get(number), link):
                    continue
                if number not in before and len(self._wanted) >= LINKS_MAX:
                    self.remove_link(going.pop())
                self.add_link(number, link)
            for number in going:
                self.remove_link(number)
        except (TransportFailed, MisuseError) as error:
            self._restore(before)
            raise TransportFailed(str(error)) from error
        self._settings = settings

    def restore(self, settings: BaseModel) -> None:
        """Have the links of *settings* again; one that cannot be opened now is tried again."""
        assert isinstance(settings, RedundantSettings)
        self._restore(numbered(settings.links))
        self._settings = settings

    def _restore(self, before: Mapping[int, LinkSettings]) -> None:
        """Have those links again, and leave alone the ones that are as they were."""
        changed = [
            number
            for number, link in self._wanted.items()
            if number not in before or not _alike(link, before[number])
        ]
        for number in changed:  # all of them first: one may have the port that another had
            del self._wanted[number]
            self._failures.pop(number, None)
            if number in self._open:
                self._shut(number)
        for number, link in sorted(before.items()):
            if number not in self._wanted:
                self._wanted[number] = link
                self._try_to_open(number)

    # --- facts ----------------------------------------------------------------------------------

    @property
    def packet_bytes_max(self) -> int:
        """The smallest of all links that were open at first."""
        return self._packet_bytes_max

    @property
    def receive_buffer_bytes(self) -> int:
        """The smallest of all links that were open at first."""
        return self._receive_buffer_bytes

    @property
    def status(self) -> Mapping[str, Any]:
        """Each link's state and its transport's facts, by number."""
        states = self._links.status(self._clock())
        warnings = [
            f"link {number} is not open: {why}; it is tried again every {REOPEN_S:g} s"
            for number, why in self._failures.items()
        ]
        links: dict[str, Any] = {}
        for number, wanted in sorted(self._wanted.items()):
            inner = self._open.get(number)
            facts: dict[str, Any] = {} if inner is None else dict(inner.status)
            if inner is not None:
                facts["packet_bytes_max"] = inner.packet_bytes_max
            warnings += [f"link {number}: {each}" for each in facts.pop("warnings", [])]
            state = states.get(str(number), {"state": "closed"})
            if state.get("reason"):
                warnings.append(f"link {number} is faulty: {state['reason']}")
            links[str(number)] = {"transport": wanted.transport, **state, "facts": facts}
        return {
            "mode": self._settings.mode.value,
            "packet_bytes_max": self._packet_bytes_max,
            "links": links,
            "counters": dict(self._links.counters),
            "warnings": warnings,
        }


@hookimpl
def vsync_register_transports() -> Sequence[type[Transport]]:
    """Offer ``redundant``."""
    return [TransportRedundant]

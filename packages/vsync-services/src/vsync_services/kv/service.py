"""The kv service: feeds a ``Replica`` with what its node is told, and does what it asks for."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

import anyio
from pydantic import BaseModel

from vsync.errors import MalformedPacket, MessageTooLarge, ServiceFailed
from vsync.events import Delivery, GroupChanged
from vsync.service import Service, ServiceContext
from vsync.vocabulary import Configuration, Member
from vsync_services.kv.messages import Operation, Verdict
from vsync_services.kv.outbox import Outbox
from vsync_services.kv.replica import (
    Answer,
    Effect,
    Note,
    Outcome,
    Replica,
    Result,
    Save,
    Send,
    Synchronized,
    Transfer,
)
from vsync_services.kv.requests import (
    CompareAndSet,
    Delete,
    Get,
    List,
    Set,
    Status,
    Watch,
    answered,
    changes_listed,
    listing,
    read_request,
    refused,
    text_of,
)
from vsync_services.kv.settings import KeyValueSettings
from vsync_services.kv.store import Ahead, Behind, Point, size_of

WAITING_MAX: Final = 10_000
"""Requests that may wait for their place in the order at a node."""

logger = logging.getLogger(__name__)

Told = Callable[[Result], bytes]
"""Makes the answer to a command, at its place in the order: of the map as it is then."""


class KeyValueService(Service):
    """A replicated map; see ``vsync_services.kv.replica`` for what its answers mean."""

    NAME: ClassVar[str] = "kv"
    SETTINGS: ClassVar[type[BaseModel]] = KeyValueSettings

    def __init__(self, settings: BaseModel, context: ServiceContext) -> None:
        super().__init__(settings, context)
        assert isinstance(settings, KeyValueSettings)
        self._limits = settings
        self._made: Replica | None = None
        self._outbox = Outbox(context, settings.chunk_bytes, self._saved, self._too_large)
        self._waiting: dict[int, _Waiting] = {}
        self._synchronized: dict[str, anyio.Event] = {}
        self._news = anyio.Event()
        self._seen: Point | None = None
        self._watches = 0

    @property
    def replica(self) -> Replica:
        """This node's part of the map. Raises ServiceFailed if what it kept cannot be read."""
        if self._made is None:
            try:
                self._made = Replica(
                    changes_max=self._limits.changes_max,
                    changes_bytes_max=self._limits.changes_bytes_max,
                    kept=self.context.load(),
                )
            except MalformedPacket as error:
                raise ServiceFailed(
                    f"what kv has on disk of earlier configurations is damaged ({error}); while "
                    "all other nodes are up and primary, its file in the state directory may be "
                    "removed"
                ) from error
        return self._made

    async def run(self) -> None:
        """Send and save."""
        await self._outbox.run()

    async def configuration_changed(self, configuration: Configuration) -> None:
        """What was under way in the configuration before begins again in the next one."""
        self._outbox.stop_transfer()
        self._synchronized.clear()
        self.replica.configured(configuration)
        self._act()

    async def view_changed(self, view: GroupChanged) -> None:
        """Who runs the service."""
        self.replica.viewed(view.members)
        self._act()

    async def deliver(self, delivery: Delivery) -> None:
        """A message of the service."""
        self.replica.delivered(delivery.sender, delivery.payload)
        self._act()

    async def synchronize(self, configuration: Configuration, members: Sequence[Member]) -> None:
        """Agree on whose map goes on, and get it."""
        done = self._synchronized.setdefault(configuration.id, anyio.Event())
        verdict, reason = Verdict.UNDECIDED, ""
        if self.context.decides_primary:
            primary, reason = await self.context.primary(configuration)
            verdict = Verdict.PRIMARY if primary else Verdict.NOT_PRIMARY
        self.replica.settled(configuration, self.context.member, members, verdict, reason)
        self._act()
        await done.wait()

    # --- what the replica asks for ----------------------------------------------------------------

    def _act(self) -> None:
        """Do what the replica asks for. Answers are of the map as it is now, so nothing waits."""
        for effect in self.replica.take_effects():
            self._do(effect)
        if self._seen != self.replica.visible:
            self._seen = self.replica.visible
            news, self._news = self._news, anyio.Event()
            news.set()

    def _do(self, effect: Effect) -> None:
        match effect:
            case Send() | Save():
                self._outbox.put(effect)
            case Transfer(messages):
                self._outbox.transfer(messages)
            case Synchronized(configuration):
                self._synchronized.setdefault(configuration, anyio.Event()).set()
                logger.info(
                    "kv: configuration %s: %s",
                    configuration,
                    self.replica.reason,
                )
            case Answer(number, result):
                waiting = self._waiting.pop(number, None)
                if waiting is not None:
                    waiting.settle(waiting.told(result))
            case Note(text, bad):
                logger.log(logging.ERROR if bad else logging.INFO, "kv: %s", text)

    def _saved(self, configuration: str) -> None:
        self.replica.saved(configuration)
        self._act()

    def _too_large(self, number: int, error: MessageTooLarge) -> None:
        self.replica.abandon(number)
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting.settle(ServiceFailed(f"kv cannot send that to the other nodes: {error}"))

    # --- requests ---------------------------------------------------------------------------------

    async def answer(self, request: bytes) -> bytes:
        """Answer one request; see ``vsync_services.kv.requests``."""
        asked = read_request(request)
        match asked:
            case Get(key=key):
                return await self._read(lambda: self._got(key))
            case List(prefix=prefix, after=after, limit=limit):
                return await self._read(lambda: self._listed(prefix, after, limit))
            case Set(key=key, value=value):
                self._check_value(value)
                return self._full(key, value) or await self._command(
                    lambda result: answered(revision=result.revision), Operation.SET, key, value
                )
            case Delete(key=key):
                return await self._command(
                    lambda result: answered(deleted=result.revision > 0, revision=result.revision),
                    Operation.DELETE,
                    key,
                )
            case CompareAndSet(key=key, value=value, revision=revision):
                self._check_value(value or b"")
                operation = (
                    Operation.COMPARE_AND_DELETE if value is None else Operation.COMPARE_AND_SET
                )
                return self._full(key, value or b"") or await self._command(
                    lambda result: answered(
                        swapped=result.outcome is Outcome.OK, revision=result.revision
                    ),
                    operation,
                    key,
                    value or b"",
                    revision,
                )
            case Watch(prefix=prefix, point=point, timeout_s=timeout_s):
                return await self._watch(prefix, point, timeout_s)
            case Status():
                return answered(**self.status())

    def _check_value(self, value: bytes) -> None:
        limit = self._limits.value_bytes_max
        if len(value) > limit:
            raise ServiceFailed(
                f"a value of {len(value)} bytes is over the limit of {limit} bytes; raise "
                "value_bytes_max in [service.kv], or make it smaller"
            )

    def _full(self, key: str, value: bytes) -> bytes | None:
        """The answer where there is no room; this node's own look at it, not agreed with others."""
        if value and self.replica.store.size_bytes + size_of(key, value) > (
            self._limits.map_bytes_max
        ):
            return refused(
                "full",
                f"the map has {self.replica.store.size_bytes} bytes, and map_bytes_max in "
                f"[service.kv] is {self._limits.map_bytes_max}; delete something, or raise it",
            )
        return None

    def _got(self, key: str) -> bytes:
        entry = self.replica.get(key)
        if entry is None:
            return answered(found=False, revision=0)
        return answered(found=True, value=text_of(entry.value), revision=entry.revision)

    def _listed(self, prefix: str, after: str, limit: int) -> bytes:
        entries, more = listing(self.replica.store.entries, prefix, after, limit)
        return answered(entries=entries, more=more, point=str(self.replica.visible))

    async def _read(self, told: Callable[[], bytes]) -> bytes:
        if self._limits.reads == "local":
            return told()
        return await self._command(lambda result: told(), Operation.READ)

    async def _command(
        self,
        told: Told,
        operation: Operation,
        key: str = "",
        value: bytes = b"",
        revision: int = 0,
    ) -> bytes:
        if len(self._waiting) >= WAITING_MAX:
            return refused(
                "full", f"{len(self._waiting)} requests wait at this node already; try again later"
            )
        waiting = _Waiting(told)
        number = self.replica.submit(operation, key, value, revision)
        self._waiting[number] = waiting
        try:
            self._act()
            with anyio.move_on_after(self._limits.timeout_s):
                await waiting.settled.wait()
        finally:
            self._waiting.pop(number, None)
            self.replica.abandon(number)
        if isinstance(waiting.answer, ServiceFailed):
            raise waiting.answer
        if waiting.answer is not None:
            return waiting.answer
        late = f"no answer within {self._limits.timeout_s:g} s: {self.replica.reason}"
        if operation is Operation.READ:
            return refused("late", late)
        return refused("unknown", f"{late}; it may take effect yet")

    async def _watch(self, prefix: str, text: str | None, timeout_s: float) -> bytes:
        if text is None:
            return answered(changes=[], point=str(self.replica.visible))
        if self._watches >= self._limits.watches_max:
            return refused(
                "full",
                f"{self._watches} watches wait at this node already, and watches_max in "
                "[service.kv] allows no more",
            )
        self._watches += 1
        try:
            return await self._watch_from(prefix, Point.from_text(text), timeout_s)
        finally:
            self._watches -= 1

    async def _watch_from(self, prefix: str, point: Point, timeout_s: float) -> bytes:
        deadline = anyio.current_time() + timeout_s
        while True:
            news = self._news
            visible = self.replica.visible
            try:
                changes, last = changes_listed(self.replica.changes_after(point), prefix)
            except Ahead as error:
                changes, last = [], None
                if anyio.current_time() >= deadline:
                    return refused("older", str(error))
            except Behind as error:
                return refused("behind", str(error))
            else:
                reached = visible if last is None else Point(visible.history, last)
                if changes or anyio.current_time() >= deadline:
                    return answered(changes=changes, point=str(reached))
                point = reached
            with anyio.move_on_after(deadline - anyio.current_time()):
                await news.wait()

    def status(self) -> Mapping[str, Any]:
        """How the map is here, and how requests are served."""
        replica = self.replica
        counters = replica.counters
        mode = replica.mode
        return {
            "serves": mode.value if mode is not None else "not yet",
            "reason": replica.reason,
            "reads": self._limits.reads,
            "point": str(replica.store.point),
            "keys": len(replica.store.entries),
            "bytes": replica.store.size_bytes,
            "nodes": [member.node for member in replica.members],
            "waiting": len(self._waiting),
            "watches": self._watches,
            "maps_received": counters.maps_received,
            "maps_sent": counters.maps_sent,
            "maps_lost": counters.maps_lost,
            "changes_lost": counters.changes_lost,
            "commands_unknown": counters.commands_unknown,
            "malformed": counters.malformed,
            "strays": counters.strays,
        }


class _Waiting:
    """A request that waits for its place in the order."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self.settled = anyio.Event()
        self.answer: bytes | ServiceFailed | None = None

    def told(self, result: Result) -> bytes:
        """What to answer."""
        if result.outcome is Outcome.NOT_PRIMARY:
            return refused(
                "not_primary",
                f"the map is not served in this configuration: {result.reason}; the request had no "
                "effect",
            )
        if result.outcome is Outcome.UNKNOWN:
            return refused("unknown", result.reason)
        return self._told(result)

    def settle(self, answer: bytes | ServiceFailed) -> None:
        """This is the answer."""
        self.answer = answer
        self.settled.set()

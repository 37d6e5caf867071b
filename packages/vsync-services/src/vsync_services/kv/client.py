"""``KeyValue``: the map of a ring, for programs with a session."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from vsync.errors import ServiceFailed
from vsync_services.kv.errors import (
    KeyValueError,
    NoRoom,
    NotAnswered,
    NotPrimary,
    OutcomeUnknown,
    WatchBehind,
)

ERRORS: Final[dict[str, type[KeyValueError]]] = {
    "not_primary": NotPrimary,
    "unknown": OutcomeUnknown,
    "late": NotAnswered,
    "older": NotAnswered,
    "behind": WatchBehind,
    "full": NoRoom,
}

WATCH_S: Final = 30.0
"""How long one request of a watch waits."""


class Requester(Protocol):
    """What a client needs of its session."""

    async def request(self, service: str, body: bytes) -> bytes:
        """As ``vsync.Session.request``."""


@dataclass(frozen=True, slots=True)
class Item:
    """A key with its value, and the revision of the map that it came with."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Swap:
    """What became of a compare-and-set.

    *revision* is that of the key now: of the new value if it was *swapped*, and else of what is
    there instead. 0: the key is not there.
    """

    swapped: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Listing:
    """Entries in the order of their keys, and the *point* from which a watch tells of changes."""

    items: tuple[Item, ...]
    point: str


@dataclass(frozen=True, slots=True)
class Update:
    """A change that a watch tells: *key* has *value* now, or is gone (None).

    *point* is where a watch may go on from, after this change and those told with it.
    """

    key: str
    value: bytes | None
    revision: int
    point: str


class KeyValue:
    """The map that the service ``kv`` keeps on all nodes, through a *session* on any of them.

    Every method raises ServiceFailed if no kv runs in that node or it does not take the request,
    MessageTooLarge if a daemon does not, and KeyValueError as ``vsync_services.kv.errors`` has it.
    Where the session raises something else (NodeClosed, DaemonLost), the outcome is unknown.
    """

    def __init__(self, session: Requester) -> None:
        self._session = session

    async def get(self, key: str) -> Item | None:
        """The value of *key*; None if it is not there."""
        answer = await self._ask(op="get", key=key)
        if not answer["found"]:
            return None
        return Item(key, base64.b64decode(answer["value"]), answer["revision"])

    async def set(self, key: str, value: bytes) -> int:
        """Give *key* a *value*; the revision of that."""
        answer = await self._ask(op="set", key=key, value=base64.b64encode(value).decode())
        return int(answer["revision"])

    async def delete(self, key: str) -> bool:
        """Take *key* out; whether it was there."""
        return bool((await self._ask(op="delete", key=key))["deleted"])

    async def compare_and_set(self, key: str, value: bytes | None, *, revision: int) -> Swap:
        """Give *key* a *value*, or take it out (None), if it is still of that *revision*.

        *revision* 0 means: if the key is not there.
        """
        text = None if value is None else base64.b64encode(value).decode()
        answer = await self._ask(op="cas", key=key, value=text, revision=revision)
        return Swap(bool(answer["swapped"]), int(answer["revision"]))

    async def list(self, prefix: str = "", *, after: str = "", limit: int | None = None) -> Listing:
        """The entries whose keys begin with *prefix* and come after the key *after*.

        At most *limit*. Many entries come in several answers, each true by itself; *point* is that
        of the first, so that a watch from there misses nothing.
        """
        items: list[Item] = []
        point, more = "", True
        while more and (limit is None or len(items) < limit):
            asked = 1000 if limit is None else min(1000, limit - len(items))
            answer = await self._ask(op="list", prefix=prefix, after=after, limit=asked)
            point = point or str(answer["point"])
            items += [
                Item(entry["key"], base64.b64decode(entry["value"]), entry["revision"])
                for entry in answer["entries"]
            ]
            more = bool(answer["more"])
            if items:
                after = items[-1].key
        return Listing(tuple(items), point)

    async def watch(self, prefix: str = "", *, point: str | None = None) -> AsyncIterator[Update]:
        """The changes of keys that begin with *prefix*, as they come, without end.

        They begin after *point*, which a listing or an update gave; without it, now. Each is told
        once it is certain, and none is left out: raises WatchBehind where that cannot be kept.
        """
        while True:
            wanted = {} if point is None else {"point": point, "timeout_s": WATCH_S}
            answer = await self._ask(op="watch", prefix=prefix, **wanted)
            point = str(answer["point"])
            for change in answer["changes"]:
                value = None if change["value"] is None else base64.b64decode(change["value"])
                yield Update(change["key"], value, change["revision"], point)

    async def status(self) -> dict[str, Any]:
        """How the map is on this node, and how requests are served there."""
        return await self._ask(op="status")

    async def _ask(self, **fields: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(
            await self._session.request("kv", json.dumps(fields).encode())
        )
        if answer.pop("ok"):
            return answer
        kind = ERRORS.get(answer["error"])
        if kind is None:
            raise ServiceFailed(f"kv answers {answer['error']}: {answer['reason']}")
        raise kind(answer["reason"])

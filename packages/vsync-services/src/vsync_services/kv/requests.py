"""What programs ask of kv, and what they are answered: JSON, values in base64.

A request is an object with ``op``; the answer is an object with ``ok``. Where ``ok`` is false,
``error`` is a word for programs and ``reason`` a sentence for people:

``not_primary``  the request had no effect, and will have none
``unknown``      it has taken effect, or will, or not
``late``         a read was not answered in time
``behind``       a watch cannot go on from where it was; list the map again
``full``         the map, or what this node has room for, is full
``older``        this node's map is not as new as the watch; ask again later, or another node
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from vsync.errors import ServiceFailed
from vsync_services.kv.store import Change, Entry, Point

KEY_BYTES_MAX: Final = 1024
LIST_MAX: Final = 1000
"""Entries in one answer."""
LIST_BYTES_MAX: Final = 2**20
"""Bytes of keys and values in one answer, beyond which it ends; the first entry is always there."""
WATCH_S_MAX: Final = 60.0
REQUEST_BYTES_MAX: Final = 64 * 2**20


def _fits(key: str) -> str:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ValueError("a key is text that can be written as UTF-8") from None
    if size > KEY_BYTES_MAX:
        raise ValueError(f"a key has at most {KEY_BYTES_MAX} bytes in UTF-8, not {size}")
    return key


def _there(key: str) -> str:
    if not key:
        raise ValueError("a key has at least one character")
    return key


def _from_base64(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("a value is text in base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a value is text in base64, and this is none") from None


def _is_point(text: str) -> str:
    try:
        Point.from_text(text)
    except ValueError:
        raise ValueError(
            'a place in the map is text such as "12.1:345", from an earlier answer'
        ) from None
    return text


Prefix: TypeAlias = Annotated[str, AfterValidator(_fits)]
Key: TypeAlias = Annotated[str, AfterValidator(_fits), AfterValidator(_there)]
Value: TypeAlias = Annotated[bytes, BeforeValidator(_from_base64)]
PointText: TypeAlias = Annotated[str, Field(max_length=80), AfterValidator(_is_point)]
Revision: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]


class _Request(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)


class Get(_Request):
    """The value of *key*, and its revision."""

    op: Literal["get"]
    key: Key


class Set(_Request):
    """Give *key* a *value*."""

    op: Literal["set"]
    key: Key
    value: Value


class Delete(_Request):
    """Take *key* out."""

    op: Literal["delete"]
    key: Key


class CompareAndSet(_Request):
    """Give *key* a *value* (null: take it out) if it is still of that *revision* (0: not there)."""

    op: Literal["cas"]
    key: Key
    value: Value | None
    revision: Revision


class List(_Request):
    """The entries whose keys begin with *prefix* and come after the key *after*, in their order."""

    op: Literal["list"]
    prefix: Prefix = ""
    after: Prefix = ""
    limit: Annotated[int, Field(ge=1, le=LIST_MAX)] = LIST_MAX


class Watch(_Request):
    """The changes of keys that begin with *prefix* after a *point*, when there are any.

    Without *point*: an answer at once, with the point to begin from.
    """

    op: Literal["watch"]
    prefix: Prefix = ""
    point: PointText | None = None
    timeout_s: Annotated[float, Field(ge=0, le=WATCH_S_MAX)] = WATCH_S_MAX / 2


class Status(_Request):
    """How the map is on this node."""

    op: Literal["status"]


Request: TypeAlias = Get | Set | Delete | CompareAndSet | List | Watch | Status

_REQUEST: Final[TypeAdapter[Request]] = TypeAdapter(Annotated[Request, Field(discriminator="op")])


def read_request(body: bytes) -> Request:
    """The request in *body*. Raises ServiceFailed with a sentence."""
    if len(body) > REQUEST_BYTES_MAX:
        raise ServiceFailed(
            f"a request to kv has at most {REQUEST_BYTES_MAX} bytes, not {len(body)}"
        )
    try:
        return _REQUEST.validate_json(body)
    except ValidationError as error:
        mistake = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in mistake["loc"])
        what = str(mistake["msg"]).removeprefix("Value error, ")
        place = f" ({where})" if where else ""
        raise ServiceFailed(f"kv does not understand the request{place}: {what[:300]}") from None


def answered(**fields: Any) -> bytes:
    """An answer to a request that was carried out."""
    return json.dumps({"ok": True, **fields}, separators=(",", ":")).encode()


def refused(error: str, reason: str) -> bytes:
    """An answer to a request that was not, or perhaps not."""
    return json.dumps({"ok": False, "error": error, "reason": reason}).encode()


def text_of(value: bytes) -> str:
    """*value* in base64."""
    return base64.b64encode(value).decode("ascii")


def listing(
    entries: Mapping[str, Entry], prefix: str, after: str, limit: int
) -> tuple[list[dict[str, Any]], bool]:
    """The entries to answer ``list`` with, and whether there are more."""
    chosen: list[dict[str, Any]] = []
    size = 0
    for key in sorted(key for key in entries if key.startswith(prefix) and key > after):
        entry = entries[key]
        size += len(key) + len(entry.value)
        if chosen and (size > LIST_BYTES_MAX or len(chosen) == limit):
            return chosen, True
        chosen.append({"key": key, "value": text_of(entry.value), "revision": entry.revision})
    return chosen, False


def changes_listed(
    changes: Iterable[Change], prefix: str
) -> tuple[list[dict[str, Any]], int | None]:
    """The changes to answer ``watch`` with, and the last revision told if there are more."""
    chosen: list[dict[str, Any]] = []
    size = 0
    last = 0
    for change in changes:
        if change.key.startswith(prefix):
            size += len(change.key) + len(change.value or b"")
            if chosen and (size > LIST_BYTES_MAX or len(chosen) == LIST_MAX):
                return chosen, last
            value = None if change.value is None else text_of(change.value)
            chosen.append({"key": change.key, "value": value, "revision": change.revision})
        last = change.revision
    return chosen, None

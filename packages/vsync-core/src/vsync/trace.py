"""The event trace: what a node's application side saw, one JSON object a line.

A trace is what the properties of Extended Virtual Synchrony are checked on, so it records what was
delivered to the application, never what the engine intends. Node and simulator write the same form.

``TraceWriter`` writes it, ``read_trace`` reads it, and the named tuples in between are its lines.
(Named tuples, not dataclasses: one is made for every message, so they must be cheap.)
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from sys import intern
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self, TypeAlias, TypedDict, cast

from vsync import events
from vsync.errors import TraceFailed
from vsync.vocabulary import Cause

GUARANTEES: Final = ("unordered", "fifo", "agreed", "safe")
"""The guarantees' words, weakest first: a word's place is its rank."""

PRIORITIES: Final = ("recovery", "high", "medium", "low")
KINDS: Final = ("regular", "transitional")
DIGEST_DIGITS: Final = 16

Session: TypeAlias = tuple[int, int | str]
"""One member of a group: a node, and one session at that node."""


class Started(NamedTuple):
    """``start``: one life of a node began."""

    t: int  #: monotonic clock of the node (virtual in the simulator), nanoseconds
    node: int
    life: str  #: one value for one life of the process
    version: str
    transport: str
    ring: str


class Configured(NamedTuple):
    """``configuration``: the application was told who is here."""

    t: int
    node: int
    life: str
    id: str
    kind: str  #: ``regular`` or ``transitional``
    members: tuple[int, ...]
    joined: tuple[int, ...]
    left: tuple[int, ...]
    next: str | None  #: of a transitional one: the regular configuration that it leads to


class GroupChanged(NamedTuple):
    """``group``: the members of a group changed."""

    t: int
    node: int
    life: str
    group: str
    members: tuple[Session, ...]
    joined: tuple[Session, ...]
    left: tuple[Session, ...]
    configuration: str
    causes: tuple[str, ...] = ()
    """Of the joined, then of the left: the words of ``Cause``."""
    closed: bool = False


class Sent(NamedTuple):
    """``send``: a message was accepted from the application."""

    t: int
    node: int
    life: str
    message: str
    groups: tuple[str, ...]
    guarantee: str
    priority: str
    size: int  #: bytes
    digest: str


class Delivered(NamedTuple):
    """``deliver``: a message was handed to the application, at its place in the order."""

    t: int
    node: int
    life: str
    message: str
    sender: int
    configuration: str
    groups: tuple[str, ...]
    guarantee: str
    size: int  #: bytes
    digest: str


class Stopped(NamedTuple):
    """``stop``: this life ended on purpose. A life without it crashed, or goes on."""

    t: int
    node: int
    life: str
    reason: str


TraceLine: TypeAlias = Started | Configured | GroupChanged | Sent | Delivered | Stopped


_CAUSES: Final = frozenset(cause.value for cause in Cause)


class ViewFields(TypedDict):
    """What a ``group`` line says, but for what is common to all lines."""

    group: str
    members: list[Session]
    joined: list[Session]
    left: list[Session]
    causes: list[str]
    closed: bool
    configuration: str


def view_fields(event: events.GroupChanged) -> ViewFields:
    """What the ``group`` line of *event* says."""
    return ViewFields(
        group=event.group.hex(),
        members=list(event.members),
        joined=[move.member for move in event.joined],
        left=[move.member for move in event.left],
        causes=[move.cause.value for move in (*event.joined, *event.left)],
        closed=event.closed,
        configuration=event.configuration.id,
    )


def digest(payload: bytes | bytearray | memoryview) -> str:
    """The first 16 hexadecimal digits of the payload's BLAKE2b hash (64 bytes, the default)."""
    return hashlib.blake2b(payload).hexdigest()[:DIGEST_DIGITS]


# --- Reading --------------------------------------------------------------------------------------


def read_trace(path: str | os.PathLike[str]) -> list[TraceLine]:
    """Read a whole trace, in the order of the file.

    A last line without its line feed is what a killed process leaves: if it is no whole line, it
    is ignored. Anything else that is no line of a trace raises ``TraceFailed``, naming file and
    line.
    """
    return list(TraceReader(path))


class TraceReader:
    """The lines of one trace file, one at a time; see ``read_trace``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __iter__(self) -> Iterator[TraceLine]:
        decode = json.JSONDecoder().decode
        number = 0
        try:
            with self.path.open("rb") as file:
                for number, raw in enumerate(file, start=1):
                    try:
                        line = parse_line(decode(raw.decode()))
                    except (ValueError, RecursionError, TraceFailed) as error:
                        if not raw.endswith(b"\n") and not isinstance(error, TraceFailed):
                            return  # the writer was killed in the middle of it
                        raise TraceFailed(
                            f"{self.path}, line {number}: {_reason(error)}; it is not a trace, "
                            "or was changed after it was written"
                        ) from None
                    yield line
        except OSError as error:
            raise TraceFailed(
                f"cannot read the trace {self.path}: {error.strerror}; check the path"
            ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, TraceFailed):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return "this is not UTF-8 text"
    return "this is not one JSON object"


def parse_line(fields: object) -> TraceLine:
    """Make the line that a decoded JSON object stands for.

    Fields that this version does not know are ignored. Raises ``TraceFailed`` with the reason, but
    without a place: the caller knows that.
    """
    if not isinstance(fields, Mapping):
        raise TraceFailed("this is not one JSON object")
    event = fields.get("event")
    parse = _PARSERS.get(event) if isinstance(event, str) else None
    if parse is None:
        raise TraceFailed(f"the event {event!r} is not one of {', '.join(_PARSERS)}")
    try:
        return parse(fields)
    except KeyError as missing:
        raise TraceFailed(f"the event {event!r} lacks the field {missing}") from None


Fields: TypeAlias = Mapping[str, object]


def _integer(fields: Fields, name: str) -> int:
    value = fields[name]
    if type(value) is not int:
        raise TraceFailed(f"the field {name!r} must be a whole number, not {value!r}")
    return value


def _text(fields: Fields, name: str) -> str:
    value = fields[name]
    if type(value) is not str:
        raise TraceFailed(f"the field {name!r} must be a text, not {value!r}")
    return value


def _word(fields: Fields, name: str, words: Sequence[str]) -> str:
    value = fields[name]
    if value not in words:
        raise TraceFailed(f"the field {name!r} must be one of {', '.join(words)}, not {value!r}")
    return intern(cast(str, value))


def _nodes(fields: Fields, name: str) -> tuple[int, ...]:
    value = fields[name]
    if not isinstance(value, list | tuple) or any(type(node) is not int for node in value):
        raise TraceFailed(f"the field {name!r} must be a list of node ids, not {value!r}")
    if any(left >= right for left, right in pairwise(value)):
        raise TraceFailed(f"the node ids in {name!r} must be sorted and differ, not {value!r}")
    return tuple(value)


def _groups(fields: Fields) -> tuple[str, ...]:
    value = fields["groups"]
    if not isinstance(value, list | tuple) or any(type(group) is not str for group in value):
        raise TraceFailed(f"the field 'groups' must be a list of texts, not {value!r}")
    return tuple(map(intern, value))


def _sessions(fields: Fields, name: str) -> tuple[Session, ...]:
    value = fields[name]
    if not isinstance(value, list | tuple) or not all(
        isinstance(item, list | tuple)
        and len(item) == 2
        and type(item[0]) is int
        and type(item[1]) in (int, str)
        for item in value
    ):
        raise TraceFailed(f"the field {name!r} must be a list of [node, session], not {value!r}")
    return tuple((item[0], item[1]) for item in value)


def _started(fields: Fields) -> Started:
    return Started(
        _integer(fields, "t"),
        _integer(fields, "node"),
        intern(_text(fields, "life")),
        _text(fields, "version"),
        _text(fields, "transport"),
        _text(fields, "ring"),
    )


def _configured(fields: Fields) -> Configured:
    kind = _word(fields, "kind", KINDS)
    following = fields.get("next")
    if following is not None:
        following = intern(_text(fields, "next"))
    if kind == "transitional" and following is None:
        raise TraceFailed("a transitional configuration lacks the field 'next'")
    return Configured(
        _integer(fields, "t"),
        _integer(fields, "node"),
        intern(_text(fields, "life")),
        intern(_text(fields, "id")),
        kind,
        _nodes(fields, "members"),
        _nodes(fields, "joined"),
        _nodes(fields, "left"),
        following,
    )


def _group_changed(fields: Fields) -> GroupChanged:
    return GroupChanged(
        _integer(fields, "t"),
        _integer(fields, "node"),
        intern(_text(fields, "life")),
        intern(_text(fields, "group")),
        _sessions(fields, "members"),
        _sessions(fields, "joined"),
        _sessions(fields, "left"),
        intern(_text(fields, "configuration")),
        _causes(fields),
        fields.get("closed", False) is True,
    )


def _causes(fields: Fields) -> tuple[str, ...]:
    value = fields.get("causes", ())
    if not isinstance(value, list | tuple) or any(word not in _CAUSES for word in value):
        raise TraceFailed(f"the field 'causes' must be a list of causes, not {value!r}")
    return tuple(map(str, value))


def _sent(fields: Fields) -> Sent:
    return Sent(
        _integer(fields, "t"),
        _integer(fields, "node"),
        intern(_text(fields, "life")),
        _text(fields, "message"),
        _groups(fields),
        _word(fields, "guarantee", GUARANTEES),
        _word(fields, "priority", PRIORITIES),
        _integer(fields, "size"),
        _text(fields, "digest"),
    )


def _delivered(fields: Fields) -> Delivered:
    return Delivered(
        _integer(fields, "t"),
        _integer(fields, "node"),
        intern(_text(fields, "life")),
        _text(fields, "message"),
        _integer(fields, "sender"),
        intern(_text(fields, "configuration")),
        _groups(fields),
        _word(fields, "guarantee", GUARANTEES),
        _integer(fields, "size"),
        _text(fields, "digest"),
    )


def _stopped(fields: Fields) -> Stopped:
    return Stopped(
        _integer(fields, "t"),
        _integer(fields, "node"),
        intern(_text(fields, "life")),
        _text(fields, "reason"),
    )


_PARSERS: Final[dict[str, Callable[[Fields], TraceLine]]] = {
    "start": _started,
    "configuration": _configured,
    "group": _group_changed,
    "send": _sent,
    "deliver": _delivered,
    "stop": _stopped,
}

_EVENTS: Final[dict[type, str]] = {
    Started: "start",
    Configured: "configuration",
    GroupChanged: "group",
    Sent: "send",
    Delivered: "deliver",
    Stopped: "stop",
}


def encode_line(line: TraceLine) -> str:
    """The JSON text of a line, with its line feed: what ``TraceWriter`` would have written."""
    values = line._asdict()
    head = {name: values.pop(name) for name in ("t", "node", "life")}
    if values.get("next", "") is None:
        del values["next"]
    return _dump({**head, "event": _EVENTS[type(line)], **values})


def _dump(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, separators=(",", ":")) + "\n"


# --- Writing --------------------------------------------------------------------------------------


class TraceWriter:
    """Writes one life's lines: gathered in memory, and handed to the kernel by ``flush()``.

    Whoever owns the writer calls ``flush()`` before what the lines tell has effects outside:
    before a message that was accepted is first transmitted, and before the application sees a
    configuration or a delivery. A flush is one ``write`` on an unbuffered descriptor, so a killed
    process loses nothing that it flushed; at worst its last line is cut.

    *target* is a path, appended to (several lives of a node may share a file; a line that a killed
    life left cut is removed first), or a descriptor, which stays the caller's to close.
    *node* and *life* are written in every line. ``TraceFailed`` is raised by whatever cannot write.
    """

    def __init__(self, target: str | os.PathLike[str] | int, *, node: int, life: str) -> None:
        self._lines: list[str] = []
        self._unwritten = b""
        self._head = f',"node":{node},"life":{quoted(life)},"event":'
        self._groups: dict[tuple[str, ...], str] = {}
        self._owned = not isinstance(target, int)
        self._name = f"descriptor {target}" if isinstance(target, int) else os.fspath(target)
        if isinstance(target, int):
            self._descriptor = target
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
                # A pipe or a terminal; O_RDWR would keep a pipe open that nobody reads any more.
                flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(target, flags, 0o644)
            try:
                self._mend()
            except BaseException:
                os.close(self._descriptor)
                raise
        except OSError as error:
            raise TraceFailed(
                f"cannot open the trace {self._name}: {error.strerror}; "
                "check the path and its permissions"
            ) from error

    def start(self, t_ns: int, *, version: str, transport: str, ring: str) -> None:
        """This life begins. *t_ns*, here and below: monotonic clock, nanoseconds."""
        self._other(t_ns, "start", {"version": version, "transport": transport, "ring": ring})

    def configuration(
        self,
        t_ns: int,
        *,
        id: str,
        kind: str,
        members: Sequence[int],
        joined: Sequence[int],
        left: Sequence[int],
        next: str | None = None,
    ) -> None:
        """The application is about to be told who is here. *next*: of a transitional one only."""
        fields: dict[str, object] = {
            "id": id,
            "kind": kind,
            "members": sorted(members),
            "joined": sorted(joined),
            "left": sorted(left),
        }
        if next is not None:
            fields["next"] = next
        self._other(t_ns, "configuration", fields)

    def group(
        self,
        t_ns: int,
        *,
        group: str,
        members: Sequence[Session],
        joined: Sequence[Session],
        left: Sequence[Session],
        configuration: str,
        causes: Sequence[str] = (),
        closed: bool = False,
    ) -> None:
        """The members of a group changed. *causes* are those of *joined*, then of *left*."""
        fields = {
            "group": group,
            "members": members,
            "joined": joined,
            "left": left,
            "configuration": configuration,
            "causes": causes,
            "closed": closed,
        }
        self._other(t_ns, "group", fields)

    def send(
        self,
        t_ns: int,
        *,
        message: str,
        groups: tuple[str, ...],
        guarantee: str,
        priority: str,
        size: int,
        digest: str,
    ) -> None:
        """A message was accepted. *groups* in hexadecimal; *size* in bytes."""
        self._lines.append(
            f'{{"t":{t_ns}{self._head}"send","message":{quoted(message)}'
            f',"groups":{self._groups.get(groups) or self._keys(groups)},"guarantee":"{guarantee}"'
            f',"priority":"{priority}","size":{size},"digest":"{digest}"}}\n'
        )

    def deliver(
        self,
        t_ns: int,
        *,
        message: str,
        sender: int,
        configuration: str,
        groups: tuple[str, ...],
        guarantee: str,
        size: int,
        digest: str,
    ) -> None:
        """A message is about to be handed to the application, in *configuration* (its id)."""
        self._lines.append(
            f'{{"t":{t_ns}{self._head}"deliver","message":{quoted(message)},"sender":{sender}'
            f',"configuration":{quoted(configuration)}'
            f',"groups":{self._groups.get(groups) or self._keys(groups)},"guarantee":"{guarantee}"'
            f',"size":{size},"digest":"{digest}"}}\n'
        )

    def stop(self, t_ns: int, *, reason: str) -> None:
        """This life ends on purpose."""
        self._other(t_ns, "stop", {"reason": reason})

    def flush(self) -> None:
        """Hand everything gathered to the kernel, in one ``write`` unless it takes less.

        After a ``TraceFailed`` (a full disk, say) the rest is kept for the next flush.
        """
        if self._lines:
            self._unwritten += "".join(self._lines).encode()
            self._lines.clear()
        while self._unwritten:
            try:
                written = os.write(self._descriptor, self._unwritten)
            except OSError as error:
                raise TraceFailed(
                    f"cannot write the trace {self._name}: {error.strerror}; "
                    "make room, or run without a trace"
                ) from error
            self._unwritten = self._unwritten[written:]

    def close(self) -> None:
        """Flush, and close what the writer opened. Closing twice is harmless."""
        if self._descriptor < 0:
            return
        try:
            self.flush()
        finally:
            if self._owned:
                os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        self.close()
        return False

    def _other(self, t_ns: int, event: str, fields: Mapping[str, object]) -> None:
        rest = _dump(fields)
        self._lines.append(f'{{"t":{t_ns}{self._head}"{event}",{rest[1:]}')

    def _keys(self, groups: Sequence[str]) -> str:
        text = json.dumps(list(groups), separators=(",", ":"))
        if len(self._groups) < 4096:  # most programs use few sets of groups, some use many
            self._groups[tuple(groups)] = text
        return text

    def _mend(self) -> None:
        """Remove the cut line that an earlier life left: ours would continue it."""
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            return
        start = status.st_size
        tail = b""
        while start > 0 and b"\n" not in tail:
            step = min(start, 65536)
            start -= step
            tail = os.pread(self._descriptor, step, start) + tail
        cut = tail.rpartition(b"\n")[2]
        if not cut:
            return
        try:
            whole = isinstance(json.loads(cut), dict)
        except ValueError:
            whole = False
        if whole:
            self._unwritten = b"\n"
        else:
            os.ftruncate(self._descriptor, status.st_size - len(cut))

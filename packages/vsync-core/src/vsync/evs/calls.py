"""The calls of ``vsync.evs``; see there."""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

from vsync.api.node import open_node
from vsync.api.session import Payload, Session, payload_bytes
from vsync.daemon import connect
from vsync.daemon.places import SOCKET_VARIABLE, find_socket
from vsync.errors import DaemonError, MisuseError
from vsync.evs.errors import Access, InvalidParam, NotExist, TooManyGroups, translated
from vsync.evs.handle import Callbacks, Dispatch, Handle
from vsync.evs.outbox import OUTBOX_BYTES, Head
from vsync.service import SERVICE_GROUPS
from vsync.settings import NodeSettings
from vsync.vocabulary import (
    GROUP_KEY_BYTES,
    GROUPS_PER_MESSAGE_MAX,
    GroupKey,
    Guarantee,
    NodeId,
    Priority,
    RingId,
    SlowPolicy,
)

GROUPS_PER_CALL_MAX = GROUPS_PER_MESSAGE_MAX
"""As many groups as a call takes; the seed's own limit."""

Group: TypeAlias = GroupKey | bytes
"""The key of a group: 32 bytes, as they are or as a ``GroupKey``."""

Groups: TypeAlias = Group | Iterable[Group]
"""One group or several."""


class Membership(NamedTuple):
    """What ``membership_get`` gives."""

    local: NodeId
    """The node that the handle is connected to."""

    members: tuple[NodeId, ...]
    """The nodes of the newest regular configuration, ascending."""

    ring: RingId
    """The ring of that configuration."""


def initialize(
    callbacks: Callbacks,
    *,
    path: str | os.PathLike[str] | None = None,
    settings: NodeSettings | str | os.PathLike[str] | None = None,
    name: str = "evs",
    slow: SlowPolicy | None = None,
    queue_bytes: int = OUTBOX_BYTES,
) -> Handle:
    """Connect to this machine's daemon, and make a handle.

    The daemon is the one whose Unix socket is at *path*; else where ``VSYNC_SOCKET`` says; else the
    only one of this user. With *settings*, a file's path or what it would say, the node runs in
    this process instead, from here to ``finalize``. *name* is what the node's warnings call this
    handle, *slow* what happens to it if it is not dispatched in time, as for ``vsync.connect``.
    *queue_bytes* of messages may wait to be sent.

    Raises LibraryError if there is no daemon, Timeout if it does not answer, Security if this user
    may not use its socket, InvalidParam for settings that cannot be.
    """
    if path is not None and settings is not None:
        raise InvalidParam("a handle is connected to path, or runs settings; not both")
    if queue_bytes < 1:
        raise InvalidParam(f"queue_bytes is a number of bytes, at least 1, not {queue_bytes}")
    session: AbstractAsyncContextManager[Session]
    if settings is not None:
        session = _in_this_process(settings, name, slow)
    else:
        given = path if path is not None else os.environ.get(SOCKET_VARIABLE)
        try:
            socket = find_socket(None if given is None else Path(given))
        except DaemonError as error:
            raise translated(error) from error
        session = connect(socket, name=name, slow=slow)
    handle = Handle(callbacks, queue_bytes)
    handle._open(session)
    return handle


@asynccontextmanager
async def _in_this_process(
    settings: NodeSettings | str | os.PathLike[str], name: str, slow: SlowPolicy | None
) -> AsyncIterator[Session]:
    async with (
        open_node(settings) as node,
        node.session(name=name, slow=slow or SlowPolicy.BLOCK) as session,
    ):
        yield session


def finalize(handle: Handle) -> None:
    """End *handle*; it leaves its groups. What was sent is handed to the node first.

    A ``dispatch`` in another thread returns. When this returns no callback is running any more,
    except one that it is called from, and none will; so what a callback of another thread waits for
    must not be held meanwhile. Every later call raises BadHandle.

    Raises Timeout if the node has not accepted all messages within 5 s, LibraryError or what else
    is wrong if messages were lost and no call has said so yet. The handle has ended all the same.
    """
    handle._finalize()


def fd_get(handle: Handle) -> int:
    """The descriptor to ``select`` or ``poll`` for reading; ``handle`` itself is as good.

    It is readable exactly while ``dispatch`` would not wait: while there is a callback to make, or
    an error to raise. Only wait for it; it is closed by ``finalize``.
    """
    return handle.fileno()


def dispatch(handle: Handle, mode: Dispatch = Dispatch.ALL) -> None:
    """Make callbacks, in this thread: see ``Dispatch`` for how many.

    Events come in their order. Threads that dispatch one handle share them out, and their callbacks
    run side by side. What a callback raises comes out of here, and its event is done with.

    Returns when another thread finalizes the handle. Raises LibraryError once all that came before
    the daemon's end was dispatched.
    """
    try:
        chosen = Dispatch(mode)
    except ValueError as error:
        raise InvalidParam(f"{mode!r} is no way to dispatch; see evs.Dispatch") from error
    handle._dispatch(chosen)


def join(handle: Handle, groups: Groups) -> None:
    """Add *groups* to those whose messages come; at most 50 a call.

    Those that are joined already stay so. Returns when the node has done it, which is after all
    that was sent before has been handed to the node. Raises TooManyGroups, InvalidParam for a key
    that has not 32 bytes, Access for the group of a service, LibraryError.
    """
    keys = _keys(groups)
    handle._ask(lambda session: session.join(*keys))


def leave(handle: Handle, groups: Groups) -> None:
    """Take *groups* away from those whose messages come.

    What came before may still be dispatched. Raises NotExist if one is not joined, and leaves none
    then; else as ``join``.
    """
    keys = _keys(groups)

    async def leave_all(session: Session) -> None:
        for key in keys:
            if key not in session.joined:
                raise NotExist(f"cannot leave group {key}: this handle has not joined it")
        await session.leave(*keys)

    handle._ask(leave_all)


def mcast_joined(
    handle: Handle, guarantee: Guarantee, priority: Priority, payload: Payload
) -> None:
    """Send *payload* to the groups that are joined now; never waits.

    *payload* is bytes, or a list or tuple of buffers that make one message; it is copied. Messages
    of a handle leave in the order of the calls. Raises TryAgain if the handle's queue is full,
    NotExist if no group is joined, TooManyGroups if more than 50 are, InvalidParam; and Access,
    InvalidParam or LibraryError for what went wrong with earlier messages: this one was not sent.
    """
    handle._check()
    groups = handle._joined
    if not groups:
        handle._outbox.check()
        raise NotExist("this handle has joined no group; join one, or name some in mcast_groups")
    if len(groups) > GROUPS_PER_MESSAGE_MAX:
        raise TooManyGroups(
            f"a message goes to at most {GROUPS_PER_MESSAGE_MAX} groups, and {len(groups)} are "
            "joined; name some in mcast_groups"
        )
    _mcast(handle, guarantee, priority, groups, payload)


def mcast_groups(
    handle: Handle, guarantee: Guarantee, priority: Priority, groups: Groups, payload: Payload
) -> None:
    """Send *payload* to *groups*, 1 to 50, joined or not; else as ``mcast_joined``."""
    handle._check()
    keys = _keys(groups)
    if not keys:
        raise InvalidParam("a message goes to at least one group")
    _mcast(handle, guarantee, priority, keys, payload)


def _mcast(
    handle: Handle,
    guarantee: Guarantee,
    priority: Priority,
    groups: tuple[GroupKey, ...],
    payload: Payload,
) -> None:
    try:
        head = Head(groups, Guarantee(guarantee), Priority(priority))
        message = payload_bytes(payload)
    except (ValueError, MisuseError, BufferError) as error:
        raise InvalidParam(str(error)) from error
    handle._outbox.put(head, message)


def membership_get(handle: Handle) -> Membership:
    """The newest regular configuration that came; its callback may be yet to be made.

    Raises LibraryError after the daemon's end.
    """
    handle._check()
    handle._outbox.check()
    current = handle._inbox.current
    assert current is not None
    return Membership(handle._node, current.members, current.ring)


def context_set(handle: Handle, context: object) -> None:
    """Keep *context* with the handle, for the callbacks."""
    handle._check()
    handle._context = context


def context_get(handle: Handle) -> object:
    """What ``context_set`` was given last; None before."""
    handle._check()
    return handle._context


def _keys(groups: Groups) -> tuple[GroupKey, ...]:
    """The keys of *groups*, each once."""
    if isinstance(groups, GroupKey | bytes):
        given: list[Group] = [groups]
    elif isinstance(groups, Iterable) and not isinstance(groups, str):
        given = list(groups)
    else:
        raise InvalidParam(f"groups are keys of {GROUP_KEY_BYTES} bytes each, not {groups!r}")
    if len(given) > GROUPS_PER_CALL_MAX:
        raise TooManyGroups(f"a call takes at most {GROUPS_PER_CALL_MAX} groups, not {len(given)}")
    keys = tuple(dict.fromkeys(map(_key, given)))
    for key in keys:
        if key.key.startswith(SERVICE_GROUPS):
            raise Access(f"group {key} is a service's own")
    return keys


def _key(group: Group) -> GroupKey:
    if isinstance(group, GroupKey):
        return group
    try:
        return GroupKey(group)
    except MisuseError as error:
        raise InvalidParam(str(error)) from error

"""Session: the one way to send and to receive, on a node in this process or through a daemon."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeAlias

import anyio.lowlevel

from vsync.errors import MisuseError, VsyncError
from vsync.events import Event
from vsync.service import SERVICE_GROUPS, Buffer
from vsync.vocabulary import (
    GROUPS_PER_MESSAGE_MAX,
    GroupKey,
    Guarantee,
    Member,
    MessageId,
    Priority,
)

GroupName: TypeAlias = GroupKey | str | bytes
"""A group as callers may name it: its key, 32 bytes, or text for ``GroupKey.from_name``."""

Payload: TypeAlias = Buffer | Sequence[Buffer]
"""What a message carries: bytes, or several buffers that are sent one after another as one."""


def group_key(group: GroupName) -> GroupKey:
    """The key of *group*. Raises MisuseError if there is none."""
    if isinstance(group, GroupKey):
        return group
    if isinstance(group, str):
        return GroupKey.from_name(group)
    return GroupKey(group)


def payload_bytes(payload: Payload) -> bytes:
    """*payload* as it is now. Raises MisuseError if it is no bytes (``bytes(5)`` would be five)."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, bytearray | memoryview):
        return bytes(payload)
    if isinstance(payload, list | tuple):
        for buffer in payload:
            if not isinstance(buffer, bytes | bytearray | memoryview):
                raise _no_payload(buffer)
        return b"".join(payload)
    raise _no_payload(payload)


def _no_payload(payload: object) -> MisuseError:
    return MisuseError(
        "a payload is bytes, bytearray or memoryview, or a list or tuple of those, not "
        f"{type(payload).__name__}; make text into bytes with .encode()"
    )


class Session(ABC):
    """One application's place on a ring: the groups that it joined, and its stream of events.

    The stream begins with the current configuration. It brings every configuration, and the views
    and messages of the joined groups, each once, in the order of ``vsync.events``. What happens if
    they are not taken in time, the session's ``SlowPolicy`` says. One task at a time may iterate.
    All tasks that use it are of the event loop in which it was opened.

    Every method raises NodeClosed, or what ended the node, once the node has ended; and Evicted
    once the session has been evicted and what was there before has been taken.
    """

    SERVES: ClassVar[bool] = False
    """Whether it belongs to a service; only those use services' groups."""

    def __init__(self) -> None:
        self._joined: dict[GroupKey, bool] = {}
        self._cancelled: dict[GroupKey, bool] = {}
        """Joins (True) and leaves that were cancelled, and with which the ring goes on."""
        self._joining = anyio.Lock()
        self._ahead: deque[Event] = deque()

    @property
    @abstractmethod
    def member(self) -> Member:
        """Who this session is in group views, and as the sender of its messages."""

    @property
    @abstractmethod
    def message_bytes_max(self) -> int:
        """The largest message that the ring takes, in bytes."""

    @property
    def joined(self) -> tuple[GroupKey, ...]:
        """The groups joined, in the order of joining."""
        return tuple(self._joined)

    async def join(self, *groups: GroupName, closed: bool = False) -> None:
        """Become a member of *groups*; returns when the views with this session are in its stream.

        From its view on, a group's messages come too. With *closed*, a new group is made *closed*:
        only members send to it, as long as it has any. Raises MisuseError for a group that is open
        already; the others are joined all the same. Who is cancelled joins nevertheless,
        a little later.
        """
        keys = dict.fromkeys(map(group_key, groups))
        self._check_services(keys)
        async with self._joining:
            await self._end_cancelled(keys)
            new = [key for key in keys if key not in self._joined]
            refusals: list[MisuseError] = []
            # One by one where each may be refused: it must be known which were joined.
            for part in [[key] for key in new] if closed else [new] if new else []:
                try:
                    await self._join_now(part, closed)
                except MisuseError as refusal:
                    refusals.append(refusal)
            if len(refusals) > 1:
                raise MisuseError("; ".join(map(str, refusals)))
            if refusals:
                raise refusals[0]

    async def leave(self, *groups: GroupName) -> None:
        """Be a member of *groups* no more; returns when the views that say so are in the stream.

        Raises MisuseError for a group that is not joined. Who is cancelled leaves
        nevertheless, a little later.
        """
        keys = dict.fromkeys(map(group_key, groups))
        async with self._joining:
            await self._end_cancelled(keys)
            for key in keys:
                if key not in self._joined:
                    raise MisuseError(f"cannot leave group {key}: this session has not joined it")
            if keys:
                await self._leave_now(keys)

    async def _join_now(self, keys: Collection[GroupKey], closed: bool) -> None:
        try:
            await self._join(list(keys), closed)
        except VsyncError:
            raise
        except BaseException:
            self._cancelled |= dict.fromkeys(keys, True)
            self._joined |= dict.fromkeys(keys, closed)
            raise
        self._joined |= dict.fromkeys(keys, closed)

    async def _leave_now(self, keys: Collection[GroupKey]) -> None:
        try:
            await self._leave(list(keys))
        except VsyncError:
            raise
        except BaseException:
            self._cancelled |= dict.fromkeys(keys, False)
            self._joined = _without(self._joined, keys)
            raise
        self._joined = _without(self._joined, keys)

    async def _end_cancelled(self, keys: Collection[GroupKey]) -> None:
        """Wait for joins and leaves of *keys* that go on though they were cancelled."""
        for key in [key for key in keys if key in self._cancelled]:
            try:
                if self._cancelled[key]:
                    await self._join([key], self._joined[key])
                else:
                    await self._leave([key])
            except MisuseError:  # the join was refused, or the leave is complete
                self._joined.pop(key, None)
            del self._cancelled[key]

    async def send(
        self,
        payload: Payload,
        *groups: GroupName,
        guarantee: Guarantee = Guarantee.AGREED,
        priority: Priority = Priority.MEDIUM,
    ) -> MessageId:
        """Send *payload* to all members of *groups*, joined or not; without any, to those joined.

        *payload* is bytes, or a list of buffers that make one message. Waits in turn while the ring
        is behind. Returns the id that the message will be delivered with; from then on it is
        delivered, here too if joined, unless this node dies. Raises MessageTooLarge, NotMember for
        a closed group that is not joined, and MisuseError without a group or with more than 50.
        """
        sent = await self.send_batch([payload], *groups, guarantee=guarantee, priority=priority)
        return sent[0]

    async def send_batch(
        self,
        payloads: Sequence[Payload],
        *groups: GroupName,
        guarantee: Guarantee = Guarantee.AGREED,
        priority: Priority = Priority.MEDIUM,
    ) -> Sequence[MessageId]:
        """Send many messages, in their order; as ``send``, but with one hand-over for all.

        Where they are too many for one, messages of another call may come between them.
        """
        keys = self._destination(groups)
        # Most often they are bytes already; to look is cheaper than a call for each.
        batch = [payload for payload in payloads if type(payload) is bytes]
        if len(batch) != len(payloads):
            batch = list(map(payload_bytes, payloads))
        return await self._send(keys, batch, Guarantee(guarantee), Priority(priority))

    def send_nowait(
        self,
        payload: Payload,
        *groups: GroupName,
        guarantee: Guarantee = Guarantee.AGREED,
        priority: Priority = Priority.MEDIUM,
    ) -> None:
        """Send *payload* as ``send`` does, at once or not at all.

        Raises WouldBlock, which says who is slow and since when, if there is no room or others
        wait for it already; else what ``send`` raises.
        """
        keys = self._destination(groups)
        self._send_nowait(keys, payload_bytes(payload), Guarantee(guarantee), Priority(priority))

    def _check_services(self, groups: Iterable[GroupKey]) -> None:
        for group in groups:
            if group.key.startswith(SERVICE_GROUPS) and not self.SERVES:
                raise MisuseError(
                    f"group {group} is a service's own; ask the service with request()"
                )

    def _destination(self, groups: Sequence[GroupName]) -> tuple[GroupKey, ...]:
        if groups:
            keys = tuple(dict.fromkeys(map(group_key, groups)))
            self._check_services(keys)
        else:
            keys = tuple(self._joined)
        if not 1 <= len(keys) <= GROUPS_PER_MESSAGE_MAX:
            raise MisuseError(
                f"a message goes to 1 to {GROUPS_PER_MESSAGE_MAX} groups, not {len(keys)}; "
                "join a group, or name one in send()"
            )
        return keys

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self.receive()

    async def receive(self) -> Event:
        """The next event. The same as one step of ``async for event in session``."""
        if not self._ahead:
            self._ahead.extend(await self._take())
        else:
            await anyio.lowlevel.checkpoint()
        return self._ahead.popleft()

    async def receive_batch(self) -> Sequence[Event]:
        """The next events, as many as there are; at least one."""
        if self._ahead:
            await anyio.lowlevel.checkpoint()
            batch = list(self._ahead)
            self._ahead.clear()
            return batch
        return await self._take()

    def batches(self) -> AsyncIterator[Sequence[Event]]:
        """Events as they come, as many at a time as there are."""
        return _Batches(self)

    @abstractmethod
    async def status(self) -> Mapping[str, Any]:
        """How the node is: what ``vsync status --json`` shows."""

    @abstractmethod
    async def _take(self) -> Sequence[Event]:
        """Wait for events; all that are there. Who is cancelled has taken none."""

    @abstractmethod
    async def request(self, service: str, body: bytes) -> bytes:
        """Ask *service*, which runs in the node, for something; its answer.

        What *body* and answer mean, the service says. Raises ServiceFailed if it refuses, has
        failed, or does not run in this node.
        """

    @abstractmethod
    async def _join(self, groups: Sequence[GroupKey], closed: bool) -> None:
        """Join *groups*, none of which is joined; they are joined when this returns."""

    @abstractmethod
    async def _leave(self, groups: Sequence[GroupKey]) -> None:
        """Leave *groups*, all of which are joined."""

    @abstractmethod
    async def _send(
        self,
        groups: tuple[GroupKey, ...],
        payloads: list[bytes],
        guarantee: Guarantee,
        priority: Priority,
    ) -> Sequence[MessageId]:
        """Wait for room and hand the messages over."""

    @abstractmethod
    def _send_nowait(
        self,
        groups: tuple[GroupKey, ...],
        payload: bytes,
        guarantee: Guarantee,
        priority: Priority,
    ) -> None:
        """Hand the message over, or raise WouldBlock."""


def _without(joined: dict[GroupKey, bool], keys: Collection[GroupKey]) -> dict[GroupKey, bool]:
    return {key: value for key, value in joined.items() if key not in keys}


class _Batches:
    """An iterator over batches; no generator, which would have to be closed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Event]:
        return await self._session.receive_batch()

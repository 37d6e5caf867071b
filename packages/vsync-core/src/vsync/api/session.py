"""Session: the one way to send and to receive, on a node in this process or through a daemon."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Self, TypeAlias

import anyio.lowlevel

from vsync.errors import MisuseError
from vsync.events import Event
from vsync.vocabulary import (
    GROUPS_PER_MESSAGE_MAX,
    GroupKey,
    Guarantee,
    MessageId,
    Priority,
)

GroupName: TypeAlias = GroupKey | str | bytes
"""A group as callers may name it: its key, 32 bytes, or text for ``GroupKey.from_name``."""


def group_key(group: GroupName) -> GroupKey:
    """The key of *group*. Raises MisuseError if there is none."""
    if isinstance(group, GroupKey):
        return group
    if isinstance(group, str):
        return GroupKey.from_name(group)
    return GroupKey(group)


def payload_bytes(payload: bytes | bytearray | memoryview) -> bytes:
    """*payload* as it is now. Raises MisuseError if it is no bytes (``bytes(5)`` would be five)."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, bytearray | memoryview):
        return bytes(payload)
    raise MisuseError(
        f"a payload is bytes, bytearray or memoryview, not {type(payload).__name__}; "
        "make text into bytes with .encode()"
    )


class Session(ABC):
    """One application's place on a ring: the groups that it joined, and its stream of events.

    The stream begins with the current configuration. It brings every configuration and the messages
    of the joined groups, each once, in the order of ``vsync.events``. What is not taken in time is
    not lost: the ring waits for its slowest session. One task at a time may iterate.

    Every method raises NodeClosed, or what ended the node, once the node has ended.
    """

    def __init__(self) -> None:
        self._joined: dict[GroupKey, None] = {}
        self._joining = anyio.Lock()
        self._ahead: deque[Event] = deque()

    @property
    def joined(self) -> tuple[GroupKey, ...]:
        """The groups joined, in the order of joining."""
        return tuple(self._joined)

    async def join(self, *groups: GroupName) -> None:
        """Take the messages of *groups* too, from this point of the stream on."""
        keys = [group_key(group) for group in groups]
        async with self._joining:
            wanted = [*self._joined, *keys]
            await self.set_groups(frozenset(wanted))
            self._joined = dict.fromkeys(wanted)

    async def leave(self, *groups: GroupName) -> None:
        """Take the messages of *groups* no more. Raises MisuseError for one that is not joined."""
        keys = [group_key(group) for group in groups]
        async with self._joining:
            for key in keys:
                if key not in self._joined:
                    raise MisuseError(f"cannot leave group {key}: this session has not joined it")
            left = [key for key in self._joined if key not in keys]
            await self.set_groups(frozenset(left))
            self._joined = dict.fromkeys(left)

    async def send(
        self,
        payload: bytes | bytearray | memoryview,
        *groups: GroupName,
        guarantee: Guarantee = Guarantee.AGREED,
        priority: Priority = Priority.MEDIUM,
    ) -> MessageId:
        """Send *payload* to all members of *groups*, joined or not; without any, to those joined.

        Waits while the ring is behind. Returns the id that the message will be delivered with; from
        then on it is delivered, here too if joined, unless this node dies. Raises MessageTooLarge,
        and MisuseError without a group or with more than 50.
        """
        sent = await self.send_batch([payload], *groups, guarantee=guarantee, priority=priority)
        return sent[0]

    async def send_batch(
        self,
        payloads: Sequence[bytes | bytearray | memoryview],
        *groups: GroupName,
        guarantee: Guarantee = Guarantee.AGREED,
        priority: Priority = Priority.MEDIUM,
    ) -> list[MessageId]:
        """Send many messages, in their order; as ``send``, but with one hand-over for all."""
        keys = tuple(dict.fromkeys(map(group_key, groups))) or self.joined
        if not 1 <= len(keys) <= GROUPS_PER_MESSAGE_MAX:
            raise MisuseError(
                f"a message goes to 1 to {GROUPS_PER_MESSAGE_MAX} groups, not {len(keys)}; "
                "join a group, or name one in send()"
            )
        return await self._send(
            keys, list(map(payload_bytes, payloads)), Guarantee(guarantee), Priority(priority)
        )

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
    async def set_groups(self, groups: frozenset[GroupKey]) -> None:
        """Make *groups* the joined ones, at one point of the stream."""

    @abstractmethod
    async def _send(
        self,
        groups: tuple[GroupKey, ...],
        payloads: list[bytes],
        guarantee: Guarantee,
        priority: Priority,
    ) -> list[MessageId]:
        """Wait for room and hand the messages over."""


class _Batches:
    """An iterator over batches; no generator, which would have to be closed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[Event]:
        return await self._session.receive_batch()

"""Sessions on a node in this process, those of programs and those of services."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import anyio.lowlevel

from vsync.api.news import News
from vsync.api.parts import parts_of
from vsync.api.services import ServiceSession
from vsync.api.session import Session
from vsync.errors import MessageTooLarge, MisuseError, NodeClosed, WouldBlock
from vsync.events import Event
from vsync.runtime.driver import MESSAGES_PER_TURN, Submission
from vsync.runtime.mailbox import Item, Mailbox
from vsync.runtime.seat import Seat
from vsync.vocabulary import (
    Cause,
    Configuration,
    GroupKey,
    Guarantee,
    Member,
    MessageId,
    MessageIds,
    Priority,
    SlowPolicy,
)

if TYPE_CHECKING:
    from vsync.api.node import Node

SESSION_QUEUE_BYTES: Final = 32 * 2**20
"""Bytes that may wait for a session before the ring waits for it, unless the caller says else."""

SPILL_BYTES: Final = 2**30
"""Bytes of a session that may go to disk under ``SlowPolicy.SPILL``, unless the caller says."""

SENDS_ALONE_S: Final = 0.001
SENDS_ALONE_MAX: Final = 16
"""Who sends so long after the last time need not let other tasks run first, so often in a row."""


class NodeSession(Session):
    """A session on a node in this process."""

    def __init__(
        self,
        node: "Node",
        name: str,
        queue_bytes: int,
        *,
        slow: SlowPolicy = SlowPolicy.BLOCK,
        spill_bytes: int = SPILL_BYTES,
        primary: bool = False,
        serves: bool = False,
        in_runs: bool = False,
    ) -> None:
        super().__init__()
        if primary and not node.decides_primary:
            raise MisuseError(
                "no service of this node decides which configuration is primary; "
                "add a section [service.quorum] to its settings"
            )
        node._session_numbers += 1
        self._node = node
        mailbox_name = name or str(node._session_numbers)
        self._mailbox = Mailbox(
            mailbox_name, queue_bytes, slow=slow, spill_bytes_max=spill_bytes, wants_primary=primary
        )
        self._seat = Seat(node._session_numbers, self._mailbox, serves=serves, in_runs=in_runs)
        self._news = News()
        self._closed = False
        self._sent_at = float("-inf")
        self._sent_alone = 0
        self._giving_way = 0

    async def __aenter__(self) -> "NodeSession":
        if self._closed or self in self._node._sessions:
            raise MisuseError("a session is used once; make another with node.session()")
        self._node._sessions.append(self)
        try:
            await self._node._result(self._node._driver.attach(self._seat))
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    def close(self, cause: Cause = Cause.LEFT) -> None:
        """End the session: it leaves its groups, for that *cause*. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self in self._node._sessions:
            self._node._sessions.remove(self)
        self._node._driver.detach(self._seat, cause)
        self._mailbox.close()
        self._news.tell()  # who waits for this session's events is to learn of its end

    @property
    def _has_news(self) -> bool:
        """There are events of this session, or there never will be any."""
        mailbox = self._mailbox
        return bool(
            mailbox.waiting_bytes
            or mailbox.evicted is not None
            or self._closed
            or self._node._driver.ended
        )

    def _wake_if_news(self) -> None:
        """Wake who waits for this session's events, if there is something for it."""
        if self._has_news:
            self._news.tell()

    @property
    def member(self) -> Member:
        return Member(self._node.id, self._seat.session)

    @property
    def name(self) -> str:
        """What warnings call it."""
        return self._mailbox.name

    def would_block(self, priority: Priority) -> WouldBlock | None:
        """What ``send_nowait`` would raise just now; None if there is room."""
        try:
            self._node._rooms[priority].check(0)
        except WouldBlock as blocked:
            return blocked
        return None

    @property
    def message_bytes_max(self) -> int:
        return self._node.settings.ring.message_bytes_max

    @property
    def full_since(self) -> float | None:
        """Since when (monotonic, seconds) the ring waits for this session; None if it does not."""
        return self._mailbox.full_since

    async def _take(self) -> Sequence[Event]:
        return cast(Sequence[Event], await self._take_items())

    async def _take_items(self) -> Sequence[Item]:
        """As ``_take``; messages in runs, if the session was made so."""
        driver, mailbox = self._node._driver, self._mailbox
        if self._has_news:  # else it waits below
            # Before taking: who is cancelled must have taken nothing.
            await anyio.lowlevel.checkpoint()
        while True:
            ended = driver.ended
            evicted = mailbox.evicted
            if self._closed:
                raise NodeClosed("the session is closed")
            batch = mailbox.take()
            if batch:
                driver.taken(mailbox)
                return batch
            if evicted is not None:
                raise evicted.with_traceback(None)  # it may be raised many times
            if mailbox.evicted is not None:  # just now: what is on disk cannot be read back
                driver.taken(mailbox)
                continue
            if ended:
                raise driver.end_error()
            await self._news.wait()

    async def status(self) -> Mapping[str, Any]:
        return await self._node.status()

    async def request(self, service: str, body: bytes) -> bytes:
        return await self._node.request(service, body)

    async def _join(self, groups: Sequence[GroupKey], closed: bool) -> None:
        driver = self._node._driver
        await self._node._result(driver.join_groups(self._seat, groups, closed=closed))

    async def _leave(self, groups: Sequence[GroupKey]) -> None:
        await self._node._result(self._node._driver.leave_groups(self._seat, groups))

    async def _send(
        self,
        groups: tuple[GroupKey, ...],
        payloads: list[bytes],
        guarantee: Guarantee,
        priority: Priority,
    ) -> Sequence[MessageId]:
        node = self._node
        self._check(groups, payloads)
        room = node._rooms[priority]
        sent: list[MessageIds] = []
        for part in parts_of(payloads, node.send_queue_bytes // 4):
            await self._give_way()
            submission = Submission(self._seat.session, groups, part, guarantee, priority)
            await room.wait(submission.size)
            self._check_open()
            sent.append(node._driver.submit(submission))
        return MessageIds.joined(sent)

    def _send_nowait(
        self,
        groups: tuple[GroupKey, ...],
        payload: bytes,
        guarantee: Guarantee,
        priority: Priority,
    ) -> None:
        self._send_all_nowait(groups, [payload], guarantee, priority)

    def _send_all_nowait(
        self,
        groups: tuple[GroupKey, ...],
        payloads: list[bytes],
        guarantee: Guarantee,
        priority: Priority,
    ) -> Sequence[MessageId]:
        """Hand messages over in one go, or raise WouldBlock."""
        self._check(groups, payloads)
        submission = Submission(self._seat.session, groups, payloads, guarantee, priority)
        self._node._rooms[priority].check(submission.size)
        return self._node._driver.submit(submission)

    async def _give_way(self) -> None:
        """Raise if the caller was cancelled, and let other tasks run first if that is fair.

        To do so always would make a message that is alone wait for a turn of the event loop.
        """
        now = self._node._now()
        alone = (
            not self._giving_way  # nobody overtakes who called before
            and now - self._sent_at >= SENDS_ALONE_S
            and self._sent_alone < SENDS_ALONE_MAX
        )
        self._sent_at = now
        self._sent_alone = self._sent_alone + 1 if alone else 0
        if alone:
            await anyio.lowlevel.checkpoint_if_cancelled()
            return
        self._giving_way += 1
        try:
            await anyio.lowlevel.checkpoint()
        finally:
            self._giving_way -= 1

    def _check(self, groups: tuple[GroupKey, ...], payloads: list[bytes]) -> None:
        """Raise if these messages may not be sent."""
        node = self._node
        self._check_open()
        limit = node.settings.ring.message_bytes_max
        largest = max(map(len, payloads), default=0)
        if largest > limit:
            raise MessageTooLarge(largest, limit)
        node._driver.engine.groups.check_sender(self._seat.session, groups)

    def _check_open(self) -> None:
        if self._mailbox.evicted is not None:
            raise self._mailbox.evicted.with_traceback(None)
        if self._closed:
            raise NodeClosed("the session is closed")


class RunSession(NodeSession):
    """A session for a program elsewhere, to whom messages go in runs; take them as such only."""

    def __init__(
        self,
        node: "Node",
        name: str,
        queue_bytes: int,
        *,
        slow: SlowPolicy,
        spill_bytes: int,
        primary: bool,
    ) -> None:
        super().__init__(
            node,
            name,
            queue_bytes,
            slow=slow,
            spill_bytes=spill_bytes,
            primary=primary,
            in_runs=True,
        )

    async def take_runs(self) -> Sequence[Item]:
        """Wait for events; all that are there. Who is cancelled has taken none."""
        return await self._take_items()

    def submit(
        self,
        payloads: list[bytes],
        groups: tuple[GroupKey, ...],
        guarantee: Guarantee,
        priority: Priority,
    ) -> Sequence[MessageId] | None:
        """As ``send_batch``, without letting others run first; None if that has to wait."""
        if len(payloads) > MESSAGES_PER_TURN:
            return None
        keys = self._destination(groups)
        try:
            return self._send_all_nowait(keys, payloads, guarantee, priority)
        except WouldBlock:
            return None


class NodeServiceSession(NodeSession, ServiceSession):
    """A service's session on a node in this process."""

    def begin(self, service: str, group: GroupKey) -> None:
        driver = self._node._driver
        self._node._sessions.append(self)
        driver.attach(self._seat)
        driver.join_groups(self._seat, [group], closed=False)
        driver.expect(service)
        self._joined[group] = False

    def synchronized(self, service: str, configuration: Configuration) -> None:
        self._node._driver.synchronized(service, configuration)

    def end(self, service: str, *, failed: bool, decides_primary: bool) -> None:
        self._node._driver.dismiss(service, decides_primary=decides_primary)
        self.close(Cause.DIED if failed else Cause.LEFT)

    def set_primary(self, configuration: Configuration, primary: bool, reason: str) -> None:
        self._node._driver.set_primary(configuration, primary, reason)

    def load(self, service: str) -> bytes | None:
        return self._node._load_kept(service)

    async def save(self, service: str, data: bytes) -> None:
        await self._node._keep(service, data)

    @property
    def decides_primary(self) -> bool:
        return self._node.decides_primary

    async def primary(self, configuration: Configuration) -> tuple[bool, str]:
        node = self._node
        if not self.decides_primary:
            return True, "no service of this node decides which configuration is primary"
        while True:
            decided = node._driver.primary_of(configuration)
            if decided is not None:
                return decided
            if node._driver.ended:
                raise node._driver.end_error()
            await node._news.wait()

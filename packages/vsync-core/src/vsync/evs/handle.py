"""Handle: one session behind the calls of ``vsync.evs``, and the event loop that it lives in.

All handles of a process share one background thread, which runs an event loop. It begins with the
first handle and ends with the last.
"""

import atexit
import contextlib
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Final, Self, TypeAlias

import anyio
from anyio.from_thread import BlockingPortal, BlockingPortalProvider

from vsync.api.session import Session
from vsync.errors import MisuseError, VsyncError
from vsync.events import Delivery
from vsync.evs.errors import BadHandle, EvsError, LibraryError, translated
from vsync.evs.inbox import Inbox
from vsync.evs.outbox import Outbox, Run
from vsync.vocabulary import GroupKey, NodeId, RingId

FINALIZE_S: Final = 5.0
"""How long ``finalize`` may take to hand over what is still to be sent."""


class Dispatch(IntEnum):
    """How much ``dispatch`` does."""

    ONE = 0  #: one callback; waits for it
    ALL = 1  #: the callbacks that can be made now; never waits
    BLOCKING = 2  #: callbacks until the handle is finalized


DeliverCallback: TypeAlias = Callable[["Handle", NodeId, bytes], object]
"""Called with the handle, the node that sent the message, and the message."""

ChangeCallback: TypeAlias = Callable[
    ["Handle", tuple[NodeId, ...], tuple[NodeId, ...], tuple[NodeId, ...], RingId], object
]
"""Called with the handle, the members, those who left, those who joined, and the ring's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """What ``dispatch`` calls, in the thread that dispatches. What is None is not called.

    *deliver* gets the messages of the joined groups, *confchg* the regular configurations. *left*
    and *joined* tell the difference from the one before; a node that was lost and came back is in
    both. The first one comes right after ``initialize``, and says that all its members joined.

    *transitional* gets what applications of the seed never saw: the transitional configurations
    (EVS, ICDCS 1994). Messages after it were delivered to its *members* only, *left* are lost, and
    the ring's id is that of the ring which ends.
    """

    deliver: DeliverCallback | None = None
    confchg: ChangeCallback | None = None
    transitional: ChangeCallback | None = None


class Handle:
    """One of any number of independent connections, from ``initialize`` to ``finalize``.

    Opaque, but ``select`` and ``poll`` take it as it is, and the end of a ``with`` finalizes it.
    """

    def __init__(self, callbacks: Callbacks, queue_bytes: int) -> None:
        self._callbacks = callbacks
        self._process = os.getpid()
        self._finalized = False
        self._inbox = Inbox(
            messages=callbacks.deliver is not None,
            changes=callbacks.confchg is not None,
            transitional=callbacks.transitional is not None,
        )
        self._outbox = Outbox(queue_bytes)
        self._loop: BlockingPortalProvider
        self._portal: BlockingPortal
        self._ended: Future[None]
        self._closing: anyio.Event
        self._node = NodeId(0)
        self._joined: tuple[GroupKey, ...] = ()
        self._context: object = None

    def fileno(self) -> int:
        """As ``fd_get``."""
        self._check()
        return self._inbox.ready.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._finalized:
            return
        try:
            self._finalize()
        except EvsError:
            if error is None:  # else what went wrong in the block matters more
                raise

    def __repr__(self) -> str:
        state = ", finalized" if self._finalized else ""
        return f"<evs handle on node {self._node}{state}>"

    # --- in the calling threads -------------------------------------------------------------------

    def _check(self) -> None:
        """Raise BadHandle if this is none any more."""
        if self._finalized:
            raise BadHandle("the handle is finalized")
        if self._process != os.getpid():
            raise BadHandle(
                "the handle belongs to the process that this one was forked from; initialize one "
                "after fork()"
            )

    def _open(self, session: AbstractAsyncContextManager[Session]) -> None:
        """Begin to live. Raises EvsError."""
        self._loop = _process.loop
        self._portal = self._loop.__enter__()
        begun: Future[None] = Future()
        self._ended = self._portal.start_task_soon(self._live, session, begun)
        try:
            begun.result()
        except BaseException as error:
            self._ended.cancel()  # Ctrl-C, for one, has ended only the waiting for it
            self._release()
            if isinstance(error, VsyncError):
                raise translated(error) from error
            raise
        _process.open.add(self)

    def _dispatch(self, mode: Dispatch) -> None:
        self._check()
        inbox = self._inbox
        budget = {Dispatch.ONE: 1, Dispatch.ALL: max(1, len(inbox))}.get(mode)
        while budget is None or budget > 0:
            event = inbox.next(wait=mode is not Dispatch.ALL)
            if event is None:
                return
            try:
                if isinstance(event, Delivery):
                    assert self._callbacks.deliver is not None
                    self._callbacks.deliver(self, event.message.node, event.payload)
                else:
                    call = self._callbacks
                    change = call.transitional if event.transitional else call.confchg
                    assert change is not None
                    change(self, event.members, event.left, event.joined, event.ring)
            finally:
                inbox.called()
            if budget is not None:
                budget -= 1

    def _ask(self, ask: Callable[[Session], Awaitable[None]]) -> None:
        """Have something done, and wait for it."""
        self._check()

        async def and_see_what_is_joined(session: Session) -> None:
            try:
                await ask(session)
            finally:
                self._joined = session.joined

        with self._inbox.lifted():
            self._outbox.ask(and_see_what_is_joined).result()

    def _finalize(self) -> None:
        """End. Raises EvsError, for messages that were lost; it has ended all the same."""
        self._check()
        if not self._inbox.close():
            raise BadHandle("the handle is finalized")  # by another thread, just now
        self._finalized = True
        self._inbox.wait_for_callbacks()
        self._end()

    def _abandon(self) -> None:
        """As ``_finalize``, at the end of the process: threads in callbacks end with it."""
        if self._inbox.close():
            self._finalized = True
            self._end()

    def _end(self) -> None:
        _process.open.discard(self)
        self._outbox.close()
        try:
            self._portal.call(self._closing.set)
            self._ended.result()
        except VsyncError as error:
            raise translated(error) from error
        finally:
            self._release()
        self._outbox.tell_loss()

    def _release(self) -> None:
        self._inbox.close()
        self._inbox.release()
        self._outbox.release()
        self._loop.__exit__(None, None, None)

    # --- in the event loop's thread ---------------------------------------------------------------

    async def _live(
        self, opening: AbstractAsyncContextManager[Session], begun: "Future[None]"
    ) -> None:
        """Have a session until ``finalize``."""
        self._closing = anyio.Event()
        sent = anyio.Event()
        try:
            async with opening as session:
                self._node = session.member.node
                self._outbox.message_bytes_max = session.message_bytes_max
                while self._inbox.current is None:
                    self._inbox.put(await session.receive_batch())
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._receive, session)
                    tasks.start_soon(self._send, session, sent)
                    begun.set_result(None)
                    await self._closing.wait()
                    with anyio.move_on_after(FINALIZE_S):
                        await sent.wait()
                    tasks.cancel_scope.cancel()
        except Exception as error:
            if not begun.done():
                begun.set_exception(error)
                return
            ended = VsyncError(f"the session has ended: {error}")
            self._inbox.end(ended)
            self._outbox.end(ended)
            raise

    async def _receive(self, session: Session) -> None:
        try:
            while True:
                await self._inbox.room()
                self._inbox.put(await session.receive_batch())
        except VsyncError as error:
            self._inbox.end(error)
            self._outbox.end(error)

    async def _send(self, session: Session, sent: anyio.Event) -> None:
        outbox = self._outbox
        while not outbox.done:
            work = outbox.take()
            if work is None:
                await outbox.work()
            elif isinstance(work, Run):
                await self._send_run(session, work)
            else:
                try:
                    await work.ask(session)
                except VsyncError as error:
                    work.answer.set_exception(translated(error))
                except BaseException:
                    work.answer.set_exception(LibraryError("the handle was finalized meanwhile"))
                    raise
                else:
                    work.answer.set_result(None)
        sent.set()

    async def _send_run(self, session: Session, run: Run) -> None:
        """Hand *run* over. What the session refuses is told later."""
        outbox = self._outbox
        try:
            await session.send_batch(
                run.payloads,
                *run.head.groups,
                guarantee=run.head.guarantee,
                priority=run.head.priority,
            )
        except MisuseError as error:
            outbox.refuse(error)
        except VsyncError as error:
            outbox.end(error)
            return
        outbox.sent(run)


class _Process:
    """What this process has of handles."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: a forked process has neither the thread nor the handles of its parent."""
        self.loop = BlockingPortalProvider()
        self.open: set[Handle] = set()

    def finalize_all(self) -> None:
        """Hand over what programs that end without ``finalize`` have sent."""
        for handle in list(self.open):
            with contextlib.suppress(EvsError):
                handle._abandon()


_process: Final = _Process()
atexit.register(_process.finalize_all)
os.register_at_fork(after_in_child=_process.renew)

"""Outbox: what is to be sent or asked, from the calling threads to the event loop's, in order."""

import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from vsync.api.session import Session
from vsync.errors import VsyncError
from vsync.evs.errors import (
    BadHandle,
    InvalidParam,
    LibraryError,
    Timeout,
    TryAgain,
    translated,
)
from vsync.evs.readiness import Readiness
from vsync.settings import MESSAGE_BYTES_LIMIT
from vsync.vocabulary import GroupKey, Guarantee, Priority

OUTBOX_BYTES: Final = 2**20
"""Bytes of messages that wait here, unless the caller says else, before TRY_AGAIN."""

MESSAGE_BYTES: Final = 64
"""What a message counts beside its payload, so that empty messages are bounded too."""

RUN_BYTES: Final = 2**18
"""About how much is handed to the session at a time; its room is free again once that has it."""


class Head(NamedTuple):
    """What messages that are sent together have in common."""

    groups: tuple[GroupKey, ...]
    guarantee: Guarantee
    priority: Priority


Message: TypeAlias = tuple[Head, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Messages that are sent with one hand-over."""

    head: Head
    payloads: list[bytes]
    size: int


@dataclass(frozen=True, slots=True)
class Question:
    """Something that a thread waits for."""

    ask: Callable[[Session], Awaitable[None]]
    answer: Future[None] = field(default_factory=Future)


class Outbox:
    """Messages and questions, which leave in the order in which they came."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._lock = threading.Lock()
        self._queue: deque[Message | Question] = deque()
        self._size = 0
        self._unsent = 0
        self._work = Readiness()
        self._closed = False
        self._end: VsyncError | None = None
        self._refusal: VsyncError | None = None
        self._told = False
        self.message_bytes_max = MESSAGE_BYTES_LIMIT
        """What the ring takes; known once there is a session."""

    # --- in the calling threads -------------------------------------------------------------------

    def put(self, head: Head, payload: bytes) -> None:
        """Have a message sent. Raises TryAgain if there is no room.

        Raises as well, once, why an earlier message could not be sent; the new one is not taken
        then.
        """
        try:
            self._put(head, payload)
        except TryAgain:
            # Callers try again in a loop. Let the event loop's thread make room meanwhile: without
            # this it would wait for the interpreter's lock, 5 ms each time.
            time.sleep(0)
            raise

    def _put(self, head: Head, payload: bytes) -> None:
        size = len(payload) + MESSAGE_BYTES
        with self._lock:
            self._check()
            self._tell_refusal()
            limit = self.message_bytes_max
            if len(payload) > limit:
                raise InvalidParam(
                    f"a message of {len(payload)} bytes is over the limit of {limit} bytes"
                )
            if self._size and self._size + size > self._size_max:
                raise TryAgain(
                    f"{self._size} bytes wait to be sent, and {self._size_max} may; "
                    "dispatch, and call again"
                )
            self._queue.append((head, payload))
            self._size += size
            self._unsent += 1
            self._work.set()

    def ask(self, ask: Callable[[Session], Awaitable[None]]) -> Future[None]:
        """Have *ask* done once all earlier messages are sent; its answer."""
        question = Question(ask)
        with self._lock:
            self._check()
            self._queue.append(question)
            self._work.set()
        return question.answer

    def check(self) -> None:
        """Raise if the handle is closed, or the session has ended."""
        with self._lock:
            self._check()

    def _check(self) -> None:
        if self._closed:
            raise BadHandle("the handle is finalized")
        if self._end is not None:
            self._told = True
            raise translated(self._end)

    def _tell_refusal(self) -> None:
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            raise translated(refusal)

    def close(self) -> None:
        """Take nothing more; what is here is still sent."""
        with self._lock:
            self._closed = True
            self._work.set()

    def tell_loss(self) -> None:
        """Raise what nobody was told yet: that messages were refused, or not sent. It is over."""
        with self._lock:
            if self._unsent and not self._told:
                what = f"{self._unsent} messages may not have been accepted by the node"
                if self._end is None:
                    raise Timeout(f"{what}: it did not take them in time")
                raise LibraryError(f"{what}: {self._end}") from self._end
            self._tell_refusal()

    def release(self) -> None:
        """Give back the descriptors; the event loop has no more to do with this."""
        with self._lock:
            self._work.close()
            for waiting in self._queue:
                if isinstance(waiting, Question):
                    waiting.answer.set_exception(BadHandle("the handle is finalized"))
            self._queue.clear()

    # --- in the event loop's thread ---------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether nothing is here, and nothing will come."""
        return self._closed and not self._queue

    async def work(self) -> None:
        """Wait until there is something, or the outbox is closed."""
        await self._work.wait()

    def take(self) -> Run | Question | None:
        """What comes next; None if there is nothing."""
        with self._lock:
            if not self._queue:
                if not self._closed:
                    self._work.clear()
                return None
            first = self._queue.popleft()
            if isinstance(first, Question):
                return first
            head, payload = first
            payloads = [payload]
            size = len(payload) + MESSAGE_BYTES
            while self._queue and size < RUN_BYTES:
                following = self._queue[0]
                if isinstance(following, Question) or following[0] != head:
                    break
                self._queue.popleft()
                payloads.append(following[1])
                size += len(following[1]) + MESSAGE_BYTES
            return Run(head=head, payloads=payloads, size=size)

    def sent(self, run: Run) -> None:
        """The session has *run*, or has refused it."""
        with self._lock:
            self._size -= run.size
            self._unsent -= len(run.payloads)

    def refuse(self, error: VsyncError) -> None:
        """Messages could not be sent; the next ``put`` says so."""
        with self._lock:
            self._refusal = self._refusal or error

    def end(self, error: VsyncError) -> None:
        """Nothing can be sent any more."""
        with self._lock:
            if self._end is None:
                self._end = error
            for waiting in self._queue:
                if isinstance(waiting, Question):
                    waiting.answer.set_exception(translated(self._end))
            self._queue.clear()
            self._work.set()

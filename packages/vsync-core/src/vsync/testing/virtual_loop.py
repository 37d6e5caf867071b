"""An asyncio event loop in virtual time: nothing waits, and the same program does the same always.

What other loops wait for is, in this one, computed: a ``World`` says what time it is, and lets time
pass when no task has anything left to do. There are no sockets, threads or processes in virtual
time; whoever asks for one is told so at once.

A ``Process`` has the tasks that one operating system process would have: they stop, go on and die
together, however deep in libraries they were made.
"""

import asyncio
import contextvars
import heapq
import inspect
import itertools
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple

import anyio

from vsync.errors import MisuseError

ROUNDS_AT_ONCE_MAX: Final = 50_000
"""Rounds of the loop in one instant of virtual time, beyond which a task must turn in circles."""

TASKS_MIN: Final = 256
"""So many tasks may be there before those that are done are cleared away."""

TIMERS_MIN: Final = 256
"""So many timers may be there before those that were cancelled are cleared away."""

NEVER: Final = float("inf")

INSTEAD: Final = (
    "in virtual time there are no sockets, threads, processes or signals; let the application "
    "reach others through its session alone, and take whatever else it needs as an argument"
)

_LIBRARIES: Final = (
    str(Path(__file__).parents[1]),
    *(str(Path(inspect.getfile(module)).parent) for module in (asyncio, anyio)),
)
"""Where code is that is not the application's own."""

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class SimulationFailed(AssertionError):
    """What is simulated is not as it must be: a property does not hold, the nodes do not come to
    rest, a task waits for what never comes. The text says which, where and when.
    """


class World(Protocol):
    """Where a loop's time comes from."""

    now: float
    """Seconds of virtual time."""

    def pass_time(self, until: float, interrupted: Callable[[], bool]) -> None:
        """Let time pass up to *until*; not as far once *interrupted*, to be asked after each step.

        If *until* is infinite and nothing will ever happen, it returns at once.
        """


class Process:
    """Tasks that stop, go on and die together. *name* is for messages."""

    def __init__(self, loop: "VirtualLoop", name: str) -> None:
        self.name = name
        self.stopped = False
        self.held: list[asyncio.Handle] = []
        """What its tasks have missed while they were stopped."""
        self._loop = loop
        self._context = contextvars.copy_context()
        self._context.run(_process.set, self)

    def spawn(self, coroutine: Coroutine[Any, Any, Result], name: str) -> "asyncio.Task[Result]":
        """Begin a task of this process; what it begins belongs to the process too."""
        return self._loop.create_task(coroutine, name=name, context=self._context.copy())

    def call_later(self, seconds: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """Have the process call *callback*, after that time and not while it is stopped."""
        return self._loop.call_later(seconds, callback, context=self._context)

    def stop(self) -> None:
        """Let none of its tasks run until ``go_on``."""
        self.stopped = True

    def go_on(self) -> None:
        """Let its tasks run again; what they have missed comes now."""
        self.stopped = False
        held, self.held = self.held, []
        self._loop.take_back(self, held)

    def cancel(self) -> None:
        """Cancel all its tasks, also if it is stopped."""
        self._loop.cancel_tasks(self)
        self.go_on()


_process: ContextVar[Process | None] = ContextVar("_process", default=None)


class VirtualTask(asyncio.Task[Result]):
    """A task whose place in a set does not depend on its place in memory."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Result],
        *,
        loop: "VirtualLoop",
        number: int,
        process: Process | None,
        **more: Any,
    ) -> None:
        self.number = number
        self.process = process
        self._virtual_loop = loop
        super().__init__(coroutine, loop=loop, **more)

    def __hash__(self) -> int:
        return self.number

    def cancel(self, msg: Any | None = None) -> bool:
        with self._virtual_loop.cancelling(self.number):
            return super().cancel(msg)


class VirtualFuture(asyncio.Future[Any]):
    """A future whose place in a set does not depend on its place in memory."""

    def __init__(self, *, loop: "VirtualLoop", number: int) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class _Cancelling:
    """Lets tasks that are cancelled at once run in the order in which they began.

    Who cancels many of them keeps them in a set (anyio its scopes), whose order is that of memory.
    So it is noted which places in the queue the handles of each have, and they are put in order.
    """

    __slots__ = ("_depth", "_first", "_notes", "_number", "_queue")

    def __init__(self, queue: deque[tuple[Process | None, asyncio.Handle]]) -> None:
        self._queue = queue
        self._depth = 0
        self._number = 0
        self._first = 0
        self._notes: list[tuple[int, int]] = []

    def __call__(self, number: int) -> "_Cancelling":
        if not self._depth:  # else a task is cancelled since another one waits for it
            self._number = number
            self._first = len(self._queue)
        return self

    def __enter__(self) -> None:
        self._depth += 1

    def __exit__(self, *exception: object) -> None:
        self._depth -= 1
        if not self._depth:
            places = range(self._first, len(self._queue))
            self._notes += [(self._number, place) for place in places]

    def put_in_order(self) -> None:
        """To be called before anything is taken from the queue."""
        if self._notes:
            queue, notes = self._queue, self._notes
            handles = [queue[place] for _, place in sorted(notes)]
            for (_, place), handle in zip(notes, handles, strict=True):
                queue[place] = handle
            notes.clear()


def _refused(name: str) -> Any:
    def refuse(*arguments: object, **more: object) -> None:
        raise MisuseError(f"{name}() was called inside a simulation, but {INSTEAD}")

    return refuse


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in the time of *world*.

    Callbacks run in asyncio's order: all that are ready, as they came; when there is none, time
    passes until the next timer, or until the world makes one ready.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.set_debug(False)  # it would measure callbacks by the real clock
        self.set_exception_handler(self._on_exception)
        self._world = world
        self._queue: deque[tuple[Process | None, asyncio.Handle]] = deque()
        self._timers: list[tuple[float, int, Process | None, asyncio.TimerHandle]] = []
        self._timers_max = TIMERS_MIN
        self._tasks: list[VirtualTask[Any]] = []
        """In the order in which they began; those that are done are cleared away at times."""
        self._tasks_max = TASKS_MIN
        self._numbers = itertools.count()
        self._rounds = 0
        self._round_at = world.now
        self._failure: BaseException | None = None
        self._thread = threading.get_ident()
        self._called_by_thread = False
        self.cancelling = _Cancelling(self._queue)

    # --- for tests ------------------------------------------------------------------------------

    def complete(
        self, coroutine: Coroutine[Any, Any, Result], within_s: float, what: str
    ) -> Result:
        """Run *coroutine* to its end; its result. *what* is its name in messages.

        Raises SimulationFailed if it has not ended after *within_s* of virtual time; at once what
        ``fail`` is given.
        """
        if self.is_running():
            coroutine.close()
            raise MisuseError(
                "the simulation runs already: inside of it, await what you wait for; "
                "anyio.sleep() lets virtual time pass"
            )
        task: asyncio.Task[Result] = self.create_task(coroutine, name=what)
        task.add_done_callback(lambda _: self.stop())
        timer = self.call_later(within_s, self.stop)
        try:
            self._raise_failure()
            self.run_forever()
            self._raise_failure()
            if not task.done():
                raise SimulationFailed(
                    f"{what} has not come to its end within {within_s:g} s of virtual time "
                    f"(what a thread, a socket or another process would bring never comes here)"
                    f"{self.waiting()}"
                )
        except BaseException:
            task.cancel()
            self.run_ready(100)
            raise
        finally:
            timer.cancel()
        return task.result()

    def run_ready(self, rounds_max: int = ROUNDS_AT_ONCE_MAX) -> None:
        """Run what can be done without time passing, unless the loop runs already."""
        while not self.is_running() and rounds_max > 0 and (self._queue or self._timer_is_due()):
            rounds_max -= 1
            self.call_soon(self.stop)
            self.run_forever()

    def fail(self, failure: BaseException) -> None:
        """Let ``complete`` raise *failure*: the one that runs, or the next."""
        if self._failure is None:
            self._failure = failure
        if self.is_running():
            self.stop()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def cancel_tasks(self, process: Process | None = None) -> None:
        """Cancel all tasks, or those of *process*."""
        for task in self.tasks(process):
            task.cancel()

    def tasks(self, process: Process | None = None) -> list[VirtualTask[Any]]:
        """The tasks that are not done, or those of *process*, in the order of their beginning."""
        return [
            task
            for task in self._tasks
            if not task.done() and (process is None or task.process is process)
        ]

    def waiting(self) -> str:
        """Where tasks wait, a line each, as the end of a message."""
        lines: dict[str, None] = {}
        for task in self.tasks():
            place = _place(task)
            if place is not None:
                whose = "the test" if task.process is None else task.process.name
                lines[f"\n  {whose}: {place}"] = None
        return f"; tasks wait here:{''.join(lines)}" if lines else ""

    # --- an event loop --------------------------------------------------------------------------

    def time(self) -> float:
        return self._world.now

    def call_soon(
        self,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        self._check_open()
        handle = asyncio.Handle(callback, args, self, context)
        self._queue.append((_process_of(context), handle))
        return handle

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        if threading.get_ident() != self._thread:
            self._called_by_thread = True  # told in the loop's own thread, where it is of use
            return asyncio.Handle(callback, args, self, context)
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._check_open()
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        entry = (when, next(self._numbers), _process_of(context), handle)
        heapq.heappush(self._timers, entry)
        if len(self._timers) > self._timers_max:
            self._timers = [timer for timer in self._timers if not timer[3].cancelled()]
            heapq.heapify(self._timers)
            self._timers_max = max(TIMERS_MIN, 2 * len(self._timers))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return VirtualFuture(loop=self, number=next(self._numbers))

    def create_task(
        self, coro: Any, *, name: Any = None, context: Context | None = None, **more: Any
    ) -> "asyncio.Task[Any]":
        self._check_open()
        task: VirtualTask[Any] = VirtualTask(
            coro,
            loop=self,
            number=next(self._numbers),
            process=_process_of(context),
            name=name,
            context=context,
            **more,
        )
        self._tasks.append(task)
        if len(self._tasks) > self._tasks_max:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._tasks_max = max(TASKS_MIN, 2 * len(self._tasks))
        return task

    def close(self) -> None:
        self._queue.clear()
        self._timers.clear()
        super().close()

    def take_back(self, process: Process, handles: list[asyncio.Handle]) -> None:
        """Run what *process* was kept from."""
        self._queue.extend((process, handle) for handle in handles)

    def _check_open(self) -> None:
        if self.is_closed():
            raise RuntimeError("the simulation has ended")

    def _run_once(self) -> None:
        """What is ready now, but not what that makes ready. Called by ``run_forever``."""
        self._count_round()
        if not self._queue and not self._timer_is_due():
            until = self._timers[0][0] if self._timers else NEVER
            self._world.pass_time(until, lambda: self._interrupted(until))
            if until == NEVER and not self._interrupted(until):
                raise SimulationFailed(f"nothing will ever happen any more{self.waiting()}")
        while self._timer_is_due():
            _, _, process, timer = heapq.heappop(self._timers)
            self._queue.append((process, timer))
        self.cancelling.put_in_order()
        for _ in range(len(self._queue)):
            process, handle = self._queue.popleft()
            if handle.cancelled():
                continue
            if process is not None and process.stopped:
                process.held.append(handle)
                continue
            handle._run()
            self.cancelling.put_in_order()

    def _interrupted(self, until: float) -> bool:
        return bool(self._queue) or (bool(self._timers) and self._timers[0][0] < until)

    def _timer_is_due(self) -> bool:
        return bool(self._timers) and self._timers[0][0] <= self._world.now

    def _count_round(self) -> None:
        if self._called_by_thread:
            self._called_by_thread = False
            raise MisuseError(f"a thread called into the simulation, but {INSTEAD}")
        now = self._world.now
        if now != self._round_at:
            self._round_at, self._rounds = now, 0
        self._rounds += 1
        if self._rounds > ROUNDS_AT_ONCE_MAX:
            self._rounds = 0
            raise SimulationFailed(
                f"at {now:.6f} s a task turns in circles, and no time passes; let it wait for "
                f"something, or sleep for more than 0 s{self.waiting()}"
            )

    def _on_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        exception = context.get("exception")
        if "handle" in context and exception is not None:
            self.fail(exception)  # raised by a callback, that is by us or by a library
        else:
            self.default_exception_handler(context)

    # What cannot be in virtual time.
    add_reader = _refused("add_reader")
    add_writer = _refused("add_writer")
    add_signal_handler = _refused("add_signal_handler")
    connect_read_pipe = _refused("connect_read_pipe")
    connect_write_pipe = _refused("connect_write_pipe")
    create_connection = _refused("create_connection")
    create_datagram_endpoint = _refused("create_datagram_endpoint")
    create_server = _refused("create_server")
    create_unix_connection = _refused("create_unix_connection")
    create_unix_server = _refused("create_unix_server")
    getaddrinfo = _refused("getaddrinfo")
    getnameinfo = _refused("getnameinfo")
    run_in_executor = _refused("run_in_executor")
    sock_accept = _refused("sock_accept")
    sock_connect = _refused("sock_connect")
    sock_recv = _refused("sock_recv")
    sock_recv_into = _refused("sock_recv_into")
    sock_recvfrom = _refused("sock_recvfrom")
    sock_sendall = _refused("sock_sendall")
    sock_sendto = _refused("sock_sendto")
    subprocess_exec = _refused("subprocess_exec")
    subprocess_shell = _refused("subprocess_shell")


def _process_of(context: Context | None) -> Process | None:
    return _process.get() if context is None else context.get(_process)


def _place(task: VirtualTask[Any]) -> str | None:
    """Where in its application *task* waits; None if that is in a library alone."""
    place = None
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame: FrameType | None = getattr(awaited, "cr_frame", None)
        if frame is not None and not frame.f_code.co_filename.startswith(_LIBRARIES):
            file = Path(frame.f_code.co_filename).name
            place = f"{frame.f_code.co_qualname} ({file}:{frame.f_lineno})"
        awaited = getattr(awaited, "cr_await", None)
    return place

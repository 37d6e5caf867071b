"""Turn: who runs a node's engine, one thread at a time.

The ring's thread does, but while it waits for packets another may take a turn instead: that is
sooner than to wake it.
"""

import os
import threading
from collections.abc import Callable
from typing import Final

from vsync.errors import NodeClosed

NOT_BLOCKING: Final = (False,)


class Turn:
    """The right to run a node's engine. The ring's thread has it until it gives it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._wanted = True
        """The ring's thread waits for its turn: nobody else may take another one first."""
        self._fault: BaseException | None = None
        """What went wrong in a turn outside the ring's thread."""
        self._process = os.getpid()

    def check_process(self) -> None:
        """Raise NodeClosed in a process that was forked from the node's."""
        # A child has copies of the engine and of its sockets, and no ring's thread: what it sent
        # would have the numbers, and the nonces, of what its parent sends.
        if os.getpid() != self._process:
            raise NodeClosed(
                f"this node runs in process {self._process}, of which this one is a copy; open a "
                "node here, or connect to a daemon"
            )

    def give(self) -> None:
        """In the ring's thread: let others have the turn, until ``resume``."""
        self._wanted = False
        self._lock.release()

    def resume(self) -> None:
        """In the ring's thread: have the turn again. Raises what went wrong in one of others."""
        self._wanted = True
        self._lock.acquire()
        if self._fault is not None:
            raise self._fault

    def take(self, work: Callable[[], None]) -> bool:
        """In another thread: do *work* as a turn, if it can be had at once; whether it was done.

        What it raises, the ring's thread raises too, which is to be woken then; here only what was
        meant for this thread is raised, by a signal's handler.
        """
        if self._wanted:
            return False
        taken: list[bool] = []
        try:
            # To take the turn and to note it is one call, so that no handler of a signal, which may
            # raise, comes between the two: a turn that is not given back stops the ring.
            taken.extend(filter(self._lock.acquire, NOT_BLOCKING))
            if not taken or self._fault is not None:  # the engine is to do nothing more
                return False
            work()
        except BaseException as error:
            if not taken:
                raise
            self._fault = error
            if not isinstance(error, Exception):
                raise
            return False
        finally:
            if taken:
                self._lock.release()
        return True

"""Spill: events of one session that wait on disk, since its program is too slow for its memory.

A thread of its own writes, since a disk may let one wait for longer than a ring does; the loop
reads. The files have no name: nobody else can open them, and they are gone with the process,
however it ends. A file of which all was read gives its room back, so a reader that lags for ever,
but no further, takes no more and more of the disk.
"""

import os
import pickle
import queue
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from vsync.engine.runs import Run
from vsync.events import Delivery, Event

FILE_BYTES: Final = 32 * 2**20
"""How much goes to a file before the next is made: what is given back at a time."""

Job = TypeVar("Job")


class _File:
    """One file: where the next piece goes, and how many wait to be read or are being written."""

    __slots__ = ("descriptor", "end", "pieces")

    def __init__(self) -> None:
        # Of mode 0600, and without a name from the beginning where the system can do that.
        with tempfile.TemporaryFile(buffering=0) as file:
            self.descriptor = os.dup(file.fileno())
        self.end = 0
        self.pieces = 0

    def close(self) -> None:
        os.close(self.descriptor)


class Piece(NamedTuple):
    """Where a piece is."""

    file: _File
    offset: int
    length: int


class Spill:
    """What waits on disk; its files are made when they are needed.

    ``write`` and ``forget`` are for the writing thread, all else for the loop.
    """

    def __init__(self) -> None:
        # Held for counting, never for reading and writing.
        self._lock = threading.Lock()
        self._files: set[_File] = set()
        self._current: _File | None = None
        self._writing = False
        self._closed = False

    @property
    def disk_bytes(self) -> int:
        """Bytes of disk in use: what waits, and what was read of files that are not read yet."""
        with self._lock:
            return sum(file.end for file in self._files)

    def write(self, events: Sequence[Event | Run]) -> Piece:
        """Write *events* as one piece.

        Raises OSError if the disk is full, or there is no directory for temporary files.
        """
        data = encode(events)
        file, offset = self._begin()
        done = False
        try:
            _write_all(file.descriptor, data, offset)
            done = True
        finally:
            self._end(file, len(data) if done else None)
        return Piece(file, offset, len(data))

    def _begin(self) -> tuple[_File, int]:
        """Where to write; that file is neither emptied nor closed until ``_end``."""
        with self._lock:
            file = self._current
            if file is not None and file.end >= FILE_BYTES:
                file = None  # it goes when it was read
            if file is None:
                file = self._current = _File()
                self._files.add(file)
            file.pieces += 1
            self._writing = True
            return file, file.end

    def _end(self, file: _File, length: int | None) -> None:
        with self._lock:
            self._writing = False
            if self._closed:
                self._discard_all()
            elif length is None:
                self._drop_piece(file)
            else:
                file.end += length

    def read(self, piece: Piece) -> list[Event | Run]:
        """The events of *piece*, which is gone then. Raises OSError."""
        data = _read_all(piece)
        self.forget(piece)
        return decode(data)

    def forget(self, piece: Piece) -> None:
        """Let *piece* be gone without reading it. Raises OSError."""
        with self._lock:
            if not self._closed:
                self._drop_piece(piece.file)

    def close(self) -> None:
        """Give all room back. A piece that is being written goes right after."""
        with self._lock:
            self._closed = True
            if not self._writing:
                self._discard_all()

    def _drop_piece(self, file: _File) -> None:
        file.pieces -= 1
        if file.pieces:
            return
        if file is self._current:
            os.ftruncate(file.descriptor, 0)
            file.end = 0
        else:
            self._files.discard(file)
            file.close()

    def _discard_all(self) -> None:
        self._current = None
        while self._files:
            self._files.pop().close()


class Worker(Generic[Job]):
    """A thread that does *work* with one job after another; started with the first."""

    def __init__(self, name: str, work: Callable[[Job], None]) -> None:
        self._name = name
        self._work = work
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Job) -> None:
        """Have *job* done soon. Raises RuntimeError if the system has no more threads."""
        with self._lock:
            if self._closed:
                return
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
            self._jobs.put(job)

    def close(self) -> None:
        """Let the thread end when it has done what it was given; this does not wait for it."""
        with self._lock:
            if not self._closed and self._thread is not None:
                self._jobs.put(None)
            self._closed = True

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._work(job)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read_all(piece: Piece) -> bytes:
    parts = []
    offset, missing = piece.offset, piece.length
    while missing:
        part = os.pread(piece.file.descriptor, missing, offset)
        if not part:
            raise OSError(f"{missing} bytes of a temporary file are missing")
        parts.append(part)
        offset, missing = offset + len(part), missing - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def encode(events: Sequence[Event | Run]) -> bytes:
    """*events* as bytes, for this process alone."""
    # Deliveries as plain tuples: to pickle them as what they are takes three times as long.
    plain = [tuple(event) if type(event) is Delivery else event for event in events]
    return pickle.dumps(plain, pickle.HIGHEST_PROTOCOL)


def decode(data: bytes) -> list[Event | Run]:
    """What ``encode`` made; nobody else can have written it."""
    plain: list[Any] = pickle.loads(data)
    return [Delivery(*event) if type(event) is tuple else event for event in plain]

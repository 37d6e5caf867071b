"""Spill: events of one session that wait on disk, since its program is too slow for its memory.

The ring's thread writes, the loop reads, each piece once and in the order in which it was written.
The files have no name: nobody else can open them, and they are gone with the process, however it
ends. A file that was read to its end gives its room back, so a reader that lags for ever but no
further takes no more and more of the disk.
"""

import os
import pickle
import tempfile
import threading
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from vsync.events import Delivery, Event
from vsync.vocabulary import MessageId

FILES: Final = 16
"""About into how many files the most that may wait is divided."""

FILE_BYTES_MIN: Final = 2**20
"""Smaller files are not worth their making."""


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
    """What waits on disk, *bytes_max* at most; its files are made when they are needed.

    ``write`` is for the ring's thread, all else for the loop.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._file_bytes = max(FILE_BYTES_MIN, bytes_max // FILES)
        # Held for counting, never for reading and writing.
        self._lock = threading.Lock()
        self._files: set[_File] = set()
        self._current: _File | None = None
        self._writing = False
        self._closed = False
        self._written_bytes = 0
        self._read_bytes = 0

    @property
    def waiting_bytes(self) -> int:
        """Bytes written and not read."""
        return self._written_bytes - self._read_bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of disk in use: what waits, and up to two files' parts that were read."""
        with self._lock:
            return sum(file.end for file in self._files)

    def write(self, events: Sequence[Event]) -> Piece | None:
        """Append *events* as one piece; None if there is no room for it below the limit.

        Raises OSError if the disk is full, or there is no directory for temporary files.
        """
        data = encode(events)
        if self.waiting_bytes + len(data) > self.bytes_max:
            return None
        file, offset = self._begin()
        done = False
        try:
            _write_all(file.descriptor, data, offset)
            done = True
        finally:
            self._end(file, len(data), done=done)
        return Piece(file, offset, len(data))

    def _begin(self) -> tuple[_File, int]:
        """Where to write; that file is not emptied nor closed until ``_end``."""
        with self._lock:
            file = self._current
            if file is not None and file.end >= self._file_bytes:
                if not file.pieces:
                    self._discard(file)
                file = self._current = None
            if file is None:
                file = self._current = _File()
                self._files.add(file)
            file.pieces += 1
            self._writing = True
            return file, file.end

    def _end(self, file: _File, length: int, *, done: bool) -> None:
        with self._lock:
            self._writing = False
            if done:
                file.end += length
                self._written_bytes += length
            else:
                file.pieces -= 1
            if self._closed:
                self._discard_all()

    def read(self, piece: Piece) -> list[Event]:
        """The events of *piece*, which is gone then. Raises OSError."""
        data = _read_all(piece)
        file = piece.file
        with self._lock:
            self._read_bytes += piece.length
            file.pieces -= 1
            if not file.pieces:
                if file is self._current:
                    os.ftruncate(file.descriptor, 0)
                    file.end = 0
                else:
                    self._discard(file)
        return decode(data)

    def close(self) -> None:
        """Give all room back. A piece that is being written goes right after."""
        with self._lock:
            self._closed = True
            if not self._writing:
                self._discard_all()

    def _discard(self, file: _File) -> None:
        self._files.discard(file)
        file.close()

    def _discard_all(self) -> None:
        self._current = None
        while self._files:
            self._files.pop().close()


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


def encode(events: Sequence[Event]) -> bytes:
    """*events* as bytes, for this process alone."""
    # Deliveries as plain tuples: to pickle them as what they are takes three times as long.
    plain = [
        (tuple(event.message), *event[1:]) if type(event) is Delivery else event for event in events
    ]
    return pickle.dumps(plain, pickle.HIGHEST_PROTOCOL)


def decode(data: bytes) -> list[Event]:
    """What ``encode`` made; nobody else can have written it."""
    plain: list[Any] = pickle.loads(data)
    return [
        Delivery(MessageId(*event[0]), *event[1:]) if type(event) is tuple else event
        for event in plain
    ]

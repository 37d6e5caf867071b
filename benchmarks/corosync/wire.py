"""The messages that all peers send here, for Python: ``payload.c`` makes and checks them.

``payload.h`` says what a message is. Batches are made and checked in one call each, so that what is
measured is ordering, and not this program.
"""

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

import vsync

PROBE_BYTES: Final = 64


class Kind(IntEnum):
    """What a message is for."""

    BULK = 0
    PROBE = 1


class WrongMessage(Exception):
    """What was delivered is not what was sent."""


class Checked(NamedTuple):
    """What a batch of events brought."""

    messages: int
    """Of the load."""

    size: int
    """Of their payloads, in bytes."""

    probes: list[tuple[int, int]]
    """Each one's sender, and how long it took from there, in nanoseconds."""


def load(library: Path) -> ctypes.PyDLL:
    """What ``programs.compile_payloads`` has made."""
    loaded = ctypes.PyDLL(str(library))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "new_maker": (pointer, [ctypes.c_uint32, ctypes.c_uint32, size]),
        "make_all": (ctypes.py_object, [pointer, ctypes.c_ssize_t, ctypes.c_uint64]),
        "new_checker": (pointer, [size]),
        "check_all": (ctypes.py_object, [pointer, ctypes.py_object, ctypes.py_object]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


class Maker:
    """Makes the messages of one sender and kind, in order."""

    def __init__(self, library: ctypes.PyDLL, sender: int, kind: Kind, size: int) -> None:
        self._maker = library.new_maker(sender, kind, size)
        self._make_all = library.make_all

    def make_all(self, count: int, sent_ns: int = 0) -> list[bytes]:
        """The next *count* messages, sent at that time of ``time.monotonic_ns``."""
        made: list[bytes] = self._make_all(self._maker, count, sent_ns)
        return made


class Checker:
    """Sees that every message is whole, of the right length, and the next of its sender."""

    def __init__(self, library: ctypes.PyDLL, size: int) -> None:
        self._checker = library.new_checker(size)
        self._check_all = library.check_all

    def check_all(self, events: Sequence[vsync.Event]) -> Checked:
        """Check the deliveries among *events*. Raises WrongMessage for the first that is wrong."""
        found = self._check_all(self._checker, events, vsync.Delivery)
        if isinstance(found, str):
            raise WrongMessage(found)
        return Checked(*found)

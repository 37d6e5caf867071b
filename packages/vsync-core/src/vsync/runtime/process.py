"""Process: what a node asks of the process that it runs in, for all its threads."""

import ctypes
import gc
import os
import sys
from typing import Final

SWITCH_INTERVAL_S: Final = 0.0002
"""How long another thread of the process may compute while the ring's thread waits for its turn."""

YOUNG_OBJECTS: Final = 20_000
"""So many new objects before the garbage collector looks at them, at least."""

FREE_BYTES_KEPT: Final = 64 * 2**20
"""So much freed memory stays with the process before any is given back to the system."""

GROWTH_BYTES: Final = 4 * 2**20
"""So much more than it needs the process takes when it has to ask the system for memory."""

MAPPED_BYTES_MIN: Final = 32 * 2**20
"""A smaller piece of memory comes out of what the process has, and not from the system alone."""

_M_TRIM_THRESHOLD: Final = -1  # malloc.h
_M_TOP_PAD: Final = -2
_M_MMAP_THRESHOLD: Final = -3
_VARIABLES: Final = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Who sets one of these has said how memory is to be had."""


def prepare_process() -> None:
    """Let the process do a node's work without needless waits; may be called many times.

    The interpreter's switch interval is lowered to ``SWITCH_INTERVAL_S``: with the usual 5 ms a
    busy application thread holds the ring's thread up for that long after each of its system calls,
    and rounds of the token take hundreds of milliseconds. The cyclic garbage collector looks for
    young garbage less often: frames and messages are made by the ten thousand, are in no cycle, and
    searching them takes as long as making them. And freed memory is kept: frames of 64 KB and large
    messages come and go all the time, and each would be given back to the system and asked for
    again, page by page; a twentieth to a tenth of all time.
    """
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
    young, *older = gc.get_threshold()
    if 0 < young < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, *older)
    if not any(name.startswith(_VARIABLES) for name in os.environ):
        _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Tell glibc's allocator; others have no such function, or take no notice."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_TRIM_THRESHOLD, FREE_BYTES_KEPT)
    mallopt(_M_TOP_PAD, GROWTH_BYTES)
    mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)

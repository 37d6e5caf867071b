"""Timer: a file descriptor that becomes readable at a time."""

import ctypes
import os
from typing import Final

_TFD_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC
_CLOCK_MONOTONIC: Final = 1  # linux/time.h


class _Itimerspec(ctypes.Structure):
    """``struct itimerspec``, timerfd_create(2): the interval, then the first time."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """A timerfd, by way of the C library: Python has it from 3.13 on only."""

    def __init__(self) -> None:
        self.descriptor = -1
        self._armed = False
        self._libc = ctypes.CDLL(None, use_errno=True)

    def open(self) -> None:
        self.descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def set(self, wait_s: float) -> None:
        """Become readable in *wait_s* seconds; 0: not at all. Setting it clears it, too."""
        if self.descriptor < 0 or (wait_s <= 0 and not self._armed):
            return
        self._armed = wait_s > 0
        nanoseconds = max(1, round(wait_s * 1e9)) if self._armed else 0
        at = _Itimerspec(0, 0, nanoseconds // 10**9, nanoseconds % 10**9)
        if self._libc.timerfd_settime(self.descriptor, 0, ctypes.byref(at), None) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

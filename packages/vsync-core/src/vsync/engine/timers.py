"""The engine's timers: an enum, and a small table whose minimum is the only deadline outside."""

from enum import Enum, auto


class Timer(Enum):
    """What the engine may be waiting for."""

    __hash__ = object.__hash__  # not by name: it is looked up many times at each visit

    TOKEN_LOST = auto()  #: give up on the token and gather
    TOKEN_RESEND = auto()  #: send the token again: the next node may have missed it
    WAKE = auto()  #: wake the token again: it has not come
    HOLD = auto()  #: let the held token of an idle ring go round
    JOIN = auto()  #: repeat our join while gathering
    CONSENSUS = auto()  #: declare the silent nodes failed
    COMMIT_RESEND = auto()  #: send the commit token again
    SYNCHRONIZE = auto()  #: give up a service that does not synchronize
    BEACON = auto()  #: tell other rings that this one exists


class Timers:
    """Absolute deadlines, by timer, in seconds of the caller's clock."""

    def __init__(self) -> None:
        self._deadlines: dict[Timer, float] = {}

    def start(self, timer: Timer, deadline: float) -> None:
        """Arm *timer*, or move it."""
        self._deadlines[timer] = deadline

    def hasten(self, timer: Timer, deadline: float) -> None:
        """Move *timer*, which is armed, to *deadline*, unless it is sooner."""
        self._deadlines[timer] = min(deadline, self._deadlines[timer])

    def stop(self, *timers: Timer) -> None:
        """Disarm; no harm if it is not armed."""
        for timer in timers:
            self._deadlines.pop(timer, None)

    def stop_all(self) -> None:
        """Disarm everything."""
        self._deadlines.clear()

    def postpone(self, earliest: float) -> None:
        """No accusing timer fires before *earliest*: we were the ones who slept."""
        for timer in (Timer.TOKEN_LOST, Timer.CONSENSUS):
            if timer in self._deadlines:
                self._deadlines[timer] = max(self._deadlines[timer], earliest)

    def __contains__(self, timer: Timer) -> bool:
        return timer in self._deadlines

    def next(self) -> float | None:
        """The earliest deadline."""
        return min(self._deadlines.values()) if self._deadlines else None

    def due(self, now: float) -> Timer | None:
        """The most overdue timer, disarmed; None if none is due."""
        if not self._deadlines:
            return None
        timer = min(self._deadlines, key=lambda armed: (self._deadlines[armed], armed.value))
        if self._deadlines[timer] > now:
            return None
        del self._deadlines[timer]
        return timer

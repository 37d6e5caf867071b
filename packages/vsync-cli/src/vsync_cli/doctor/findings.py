"""Findings: what was looked at, how it is, and what to do about it."""

from enum import IntEnum
from typing import Any, NamedTuple


class Level(IntEnum):
    """How bad it is."""

    FINE = 0
    WARNING = 1  #: a ring works, but not as well as it could
    PROBLEM = 2  #: a ring does not work, or not for long


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: Level
    about: str
    """A word or two: ``receive buffer``."""
    text: str
    advice: str = ""
    """What to do; empty only where all is fine."""

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**self._asdict(), "level": self.level.name.lower()}


def fine(about: str, text: str) -> Finding:
    """All is well with it."""
    return Finding(Level.FINE, about, text)


def warning(about: str, text: str, advice: str) -> Finding:
    """It could be better."""
    return Finding(Level.WARNING, about, text, advice)


def problem(about: str, text: str, advice: str) -> Finding:
    """It must be better."""
    return Finding(Level.PROBLEM, about, text, advice)

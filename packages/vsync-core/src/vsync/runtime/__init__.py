"""The ring's own thread, and its bridge to the caller's event loop."""

from vsync.runtime.driver import Driver
from vsync.runtime.store import StateStore

__all__ = ["Driver", "StateStore"]

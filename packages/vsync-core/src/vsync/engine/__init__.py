"""The engine: Totem's single ring with Extended Virtual Synchrony, sans-IO.

Bytes and time in; bursts, events and one next deadline out. No socket, clock, dice or thread:
the same engine runs in a simulator, in the runtime, and by hand in a test. Read ``state`` first,
then ``engine``.
"""

from vsync.engine.counters import Counters
from vsync.engine.engine import Engine
from vsync.engine.state import TRANSITIONS, State, Trigger
from vsync.engine.store import MemoryStore, RingStore

__all__ = ["TRANSITIONS", "Counters", "Engine", "MemoryStore", "RingStore", "State", "Trigger"]

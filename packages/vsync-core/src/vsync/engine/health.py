"""Health: how late this node is for its own deadlines, and so how far it may trust its suspicions.

Who is often late cannot tell the silence of others from its own absence. Lifeguard (Dadgar,
Phillips, Currey, DSN-W 2018) counts such mishaps, and multiplies the timeouts by them; here the
lateness itself is measured and added to them, so there is nothing to tune.
"""

import math
from typing import Final

LATE_FACTOR: Final = 3
"""So many times its lateness a node waits longer: it may be late for the wait and for what ends it,
and so may what it asks for."""

PATIENCE_MAX: Final = 4
"""No wait becomes longer than so many times its usual length."""

HALVING: Final = 4
"""The lateness counts half after so many times ``token_lost_s``."""

FORGOTTEN_S: Final = 0.001
"""Less is nothing."""


class Health:
    """That of one node. It worsens at once, and heals slowly."""

    def __init__(self, token_lost_s: float) -> None:
        self.retime(token_lost_s)
        self._late_s = 0.0
        self._since = 0.0

    def retime(self, token_lost_s: float) -> None:
        """The ring has other settings from now on."""
        self._most_s = token_lost_s
        self._halving_s = HALVING * token_lost_s

    def late(self, by_s: float, now: float) -> None:
        """The node has come so much too late. More than ``token_lost_s`` counts as that: then it
        was stopped, which says little of how it will fare."""
        self._late_s = max(min(by_s, self._most_s), self.lateness_s(now))
        self._since = now

    def lateness_s(self, now: float) -> float:
        """How late the node tends to be."""
        if not self._late_s:
            return 0.0
        left_s = self._late_s * math.exp2((self._since - now) / self._halving_s)
        if left_s < FORGOTTEN_S:
            self._late_s = left_s = 0.0
        return left_s

    def patience_s(self, usual_s: float, now: float) -> float:
        """How long to wait before others are suspected, where *usual_s* is usual."""
        return min(PATIENCE_MAX * usual_s, usual_s + LATE_FACTOR * self.lateness_s(now))

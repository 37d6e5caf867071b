"""What happened so far, by name: for status, tests and people who look for a cause."""

from collections import Counter


class Counters:
    """Counts that only grow. Dropped packets are counted as ``dropped_REASON``."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Count *count* more of *name*."""
        self._counts[name] += count

    def __getitem__(self, name: str) -> int:
        return self._counts[name]

    def as_dict(self) -> dict[str, int]:
        """All counts, by name in alphabetical order."""
        return dict(sorted(self._counts.items()))

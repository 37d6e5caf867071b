"""What happened so far, by name: for status, tests and people who look for a cause."""


class Counters:
    """Counts that only grow. Dropped packets are counted as ``dropped_REASON``."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        """Count *count* more of *name*."""
        self._counts[name] = self._counts.get(name, 0) + count

    def __getitem__(self, name: str) -> int:
        return self._counts.get(name, 0)

    def as_dict(self) -> dict[str, int]:
        """All counts, by name in alphabetical order."""
        return dict(sorted(self._counts.items()))

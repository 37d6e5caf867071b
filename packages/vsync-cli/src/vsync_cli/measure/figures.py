"""Figures for people and for programs: rates, quantiles of times, a histogram."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

BAR_CELLS: Final = 40

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many messages in so long."""

    messages: int
    bytes: int
    seconds: float

    @property
    def messages_per_s(self) -> float:
        return self.messages / self.seconds if self.seconds > 0 else 0.0

    @property
    def bytes_per_s(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    def record(self) -> dict[str, float | int]:
        """JSON-ready."""
        return {
            "messages": self.messages,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 6),
            "messages_per_s": round(self.messages_per_s, 1),
            "bytes_per_s": round(self.bytes_per_s, 1),
        }

    def cells(self) -> list[str]:
        """For a table under ``RATE_HEADINGS``."""
        return [
            f"{self.messages:,}",
            f"{self.seconds:.2f}",
            f"{self.messages_per_s:,.0f}",
            f"{self.bytes_per_s / 1e6:,.2f}",
        ]


RATE_HEADINGS: Final = ("MESSAGES", "SECONDS", "MESSAGES/S", "MB/S")

TIME_HEADINGS: Final = ("MESSAGES", "LEAST", *(name.upper() for name in QUANTILES), "MAX")


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long something took, many times: in seconds."""

    sorted_s: Sequence[float]

    @classmethod
    def of(cls, times_s: Sequence[float]) -> Self:
        """Those, in any order."""
        return cls(sorted_s=sorted(times_s))

    def quantile(self, share: float) -> float:
        """The least time that at least this share of all did not exceed."""
        place = math.ceil(share * len(self.sorted_s)) - 1
        return self.sorted_s[max(0, place)]

    def record(self) -> dict[str, float | int]:
        """JSON-ready: seconds."""
        count = len(self.sorted_s)
        if not count:
            return {"messages": 0}
        return {
            "messages": count,
            "min_s": _exact(self.sorted_s[0]),
            "mean_s": _exact(sum(self.sorted_s) / count),
            **{f"{name}_s": _exact(self.quantile(share)) for name, share in QUANTILES.items()},
            "max_s": _exact(self.sorted_s[-1]),
        }

    def cells(self) -> list[str]:
        """For a table under ``TIME_HEADINGS``."""
        if not self.sorted_s:
            return ["0", *("-" for _ in TIME_HEADINGS[1:])]
        return [
            f"{len(self.sorted_s):,}",
            duration(self.sorted_s[0]),
            *(duration(self.quantile(share)) for share in QUANTILES.values()),
            duration(self.sorted_s[-1]),
        ]

    def histogram(self) -> list[tuple[float, int]]:
        """Upper limits, in seconds, and how many times were at most that and over the one before.

        Limits are 1, 2 and 5 times a power of ten, from the least that has any to the last.
        """
        counts: list[tuple[float, int]] = []
        place = 0
        limits = _limits()
        while place < len(self.sorted_s):
            limit = next(limits)
            end = place
            while end < len(self.sorted_s) and self.sorted_s[end] <= limit:
                end += 1
            if counts or end > place:
                counts.append((limit, end - place))
            place = end
        return counts


def _limits() -> Iterator[float]:
    """1, 2, 5, 10, 20, 50 … microseconds, in seconds, without an end."""
    for power in itertools.count():
        for step in (1, 2, 5):
            yield float(step * 10**power) / 1e6


def _exact(seconds: float) -> float:
    return round(seconds, 7)


def duration(seconds: float) -> str:
    """A time for people, with three digits: ``83 µs``, ``1.24 ms``, ``2.5 s``."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit * 0.9995:
            return f"{_digits(seconds * factor)} {unit}"
    return f"{_digits(seconds)} s"


def _digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"


def histogram_lines(times: Times) -> list[str]:
    """The histogram as bars, a line each; the longest fills ``BAR_CELLS``."""
    rows = times.histogram()
    if not rows:
        return []
    most = max(count for _, count in rows)
    labels = [f"≤ {_round(limit)}" for limit, _ in rows]
    width = max(map(len, labels))
    digits = len(f"{most:,}")
    return [
        f"{label:>{width}}  {count:>{digits},}  {_bar(count, most)}".rstrip()
        for label, (_, count) in zip(labels, rows, strict=True)
    ]


def _bar(count: int, most: int) -> str:
    # One that was there at all is seen.
    return "█" * (max(1, round(BAR_CELLS * count / most)) if count else 0)


def _round(limit: float) -> str:
    if limit < 0.9e-3:
        return f"{limit * 1e6:.0f} µs"
    return f"{limit * 1e3:.0f} ms" if limit < 0.9 else f"{limit:.0f} s"

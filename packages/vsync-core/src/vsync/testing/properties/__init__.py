"""The properties of Extended Virtual Synchrony, each as one function over a history.

Source: Moser, Amir, Melliar-Smith, Agarwal, "Extended Virtual Synchrony", ICDCS 1994. Numbers 1.1
to 7.2 follow the grouping of that paper; those with a V (views of groups) and an X are this
project's own. Words (process, stay, home …) are those of ``vsync.testing.history``.

    history = History.from_files(["1.trace", "2.trace", "3.trace"])
    findings = check(history)
    assert findings.holds, findings.violations

How truncated traces are read: a life without a ``stop`` line may have been killed, and its trace is
then a prefix of the truth. It owes nothing in the stay in which its trace ends. A ``send`` line is
written before the message is first transmitted, so every message that was delivered anywhere has
one.

A ``send`` line tells when a message was *accepted*; its place in the order it gets later. So a
message of higher priority may pass an earlier one of its own sender, and cause and effect between
messages (5, 6.1) is taken from what the sender had *delivered*, and from the order in which it
accepted messages of the same priority. Unordered and FIFO messages may be delivered early; they
pass on no causality.

Of X.3, that the higher of the priorities waiting inside a node goes first is in no trace.

Everything is near linear in the number of lines.
"""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from vsync.testing.history import History
from vsync.testing.properties import atomicity, basic, ordering, project, views
from vsync.testing.properties.findings import STATED, Findings, Property, Violation

PARTS: Final = (basic, atomicity, ordering, project, views)
"""Where the properties are; a module states its own when it is imported."""

PROPERTIES: Final[tuple[Property, ...]] = tuple(sorted(STATED, key=lambda entry: entry.number))
"""Every property, in the order of the specification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check of trace files found, and how much it looked at."""

    violations: tuple[Violation, ...]
    notes: tuple[Violation, ...]
    lives: int
    messages: int
    deliveries: int
    configurations: int
    """Different configurations, transitional ones included."""
    history: History
    """For ``history.place(line)``, which tells file and line."""

    @property
    def holds(self) -> bool:
        return not self.violations


def check(history: History, *, quiet: bool = False) -> Findings:
    """Hold a history against every property.

    *quiet* says that the run ended without faults and without traffic for long enough to settle;
    only then are 2.1 and X.6, which promise progress, checked.
    """
    found = [
        violation
        for entry in PROPERTIES
        if quiet or not entry.quiet
        for violation in entry.breaches(history)
    ]
    return Findings(
        tuple(violation for violation in found if not violation.undecidable),
        tuple(violation for violation in found if violation.undecidable),
    )


def check_files(
    paths: Iterable[str | os.PathLike[str]],
    *,
    quiet: bool = False,
    running: Collection[tuple[int, str]] | None = None,
) -> Report:
    """Read traces and hold them against every property.

    A file may hold one life or several, of one node or several. *running*: see ``History``.
    Raises ``TraceFailed`` if a file cannot be read or is no trace.
    """
    history = History.from_files(paths, running=running)
    findings = check(history, quiet=quiet)
    return Report(
        violations=findings.violations,
        notes=findings.notes,
        lives=len(history.processes),
        messages=len(history.messages),
        deliveries=history.deliveries,
        configurations=len(history.configurations),
        history=history,
    )


__all__ = [
    "PARTS",
    "PROPERTIES",
    "Findings",
    "History",
    "Property",
    "Report",
    "Violation",
    "check",
    "check_files",
]

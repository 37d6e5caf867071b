"""``vsync trace check``: hold traces against the properties of Extended Virtual Synchrony."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import rich_click as click
from click.exceptions import Exit

from vsync_cli.parameters import json_option
from vsync_cli.render import show_json, table

NOTES_SHOWN: Final = 20
VIOLATIONS_SHOWN: Final = 100


@click.group()
def trace() -> None:
    """Work on event traces, as `vsync run --trace` and the simulator write them."""


@trace.command("check")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--quiet-end",
    is_flag=True,
    help="The run ended without faults and traffic, and had settled: check also that all who still "
    "ran agreed at the end, and that everything was delivered.",
)
@json_option
def check(files: tuple[Path, ...], quiet_end: bool, as_json: bool) -> None:
    """Check the traces of one run: give the FILES of all nodes, or their directory.

    The exit code is 1 if a property does not hold. Notes are what no protocol could have avoided;
    they do not count.
    """
    from vsync.testing.properties import check_files  # only this command needs the checker

    report = check_files(traces_of(files), quiet=quiet_end)
    if as_json:
        show_json(record(report))
    else:
        click.echo("\n".join(describe(report)))
    if not report.holds:
        raise Exit(1)


def traces_of(paths: Iterable[Path]) -> list[Path]:
    """The files among *paths*, and the traces in the directories among them."""
    return [
        file
        for path in paths
        for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])
    ]


def record(report: Any) -> dict[str, Any]:
    """A report's fields, JSON-ready."""

    def breaches(found: Any) -> list[dict[str, Any]]:
        return [
            {
                "property": breach.property,
                "text": breach.text,
                "process": breach.process,
                "messages": list(breach.messages),
                "lines": [report.history.place(line) for line in breach.lines],
            }
            for breach in found
        ]

    return {
        "holds": report.holds,
        "lives": report.lives,
        "messages": report.messages,
        "deliveries": report.deliveries,
        "configurations": report.configurations,
        "violations": breaches(report.violations),
        "notes": breaches(report.notes),
    }


def describe(report: Any) -> list[str]:
    """A report as lines for people."""
    lines = [
        table(
            ["LIVES", "MESSAGES", "DELIVERIES", "CONFIGURATIONS", "VIOLATIONS", "NOTES"],
            [
                (
                    report.lives,
                    report.messages,
                    report.deliveries,
                    report.configurations,
                    len(report.violations),
                    len(report.notes),
                )
            ],
        )
    ]
    for word, found, most in (
        ("violation of", report.violations, VIOLATIONS_SHOWN),
        ("note on", report.notes, NOTES_SHOWN),
    ):
        for breach in found[:most]:
            places = ", ".join(report.history.place(line) for line in breach.lines)
            lines.append(f"{word} {breach.property}: {breach.text}{f' [{places}]' * bool(places)}")
        if len(found) > most:
            lines.append(f"… and {len(found) - most} more; --json has them all")
    lines.append("Every property holds." if report.holds else "Not every property holds.")
    return lines

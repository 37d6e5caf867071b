"""``vsync simulate``: whole clusters from seeds, with every fault, held against the properties."""

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from click.exceptions import Exit
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vsync.errors import MisuseError
from vsync_cli.parameters import NODES, SEEDS, json_option
from vsync_cli.render import show_json, table

if TYPE_CHECKING:
    from vsync.testing.simulate import Outcome

COUNTED = ("messages", "deliveries", "configurations", "notes")


@click.command()
@click.option(
    "--nodes",
    type=NODES,
    default="3..7",
    show_default=True,
    metavar="RANGE",
    help="How many nodes: 5, or 3..7, which changes from seed to seed.",
)
@click.option(
    "--seeds",
    type=SEEDS,
    default="0..100",
    show_default=True,
    metavar="RANGE",
    help="One seed, or a range; its end is not included.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    default=os.cpu_count() or 1,
    show_default="one a processor",
    metavar="N",
    help="How many processes share the work.",
)
@click.option(
    "--trace",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Write the traces of the seeds that fail (of a single seed: always) below this directory.",
)
@json_option
def simulate(
    nodes: range, seeds: range, processes: int, directory: Path | None, as_json: bool
) -> None:
    """Run whole clusters in virtual time, each from a seed, with every kind of fault.

    Each run is held against every property. The same seed is the same run, always. The exit code
    is 1 if a seed fails.
    """
    from vsync.testing.simulate import run_seeds  # only this command needs the simulator

    if directory is not None:
        _make(directory)
    totals = dict.fromkeys(("runs", *COUNTED), 0)
    failed: list[dict[str, Any]] = []
    written: list[Path] = []
    single = len(seeds) == 1
    # The bar goes to standard error, so that standard output has the result alone.
    bar = Progress(
        TextColumn("seeds"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    outcomes = run_seeds(seeds, nodes, processes=processes, keep_lines=single)
    with bar, closing(outcomes):
        task = bar.add_task("", total=len(seeds), failed=0)
        for outcome in outcomes:
            totals["runs"] += 1
            for name in COUNTED:
                totals[name] += getattr(outcome, name)
            trace = None
            if directory is not None and (single or not outcome.holds):
                trace = _write(outcome, directory)
                written.append(trace)
            if not outcome.holds:
                failed.append(record(outcome, trace))
                if not as_json:
                    _tell(outcome.describe(), bar.console)
            bar.update(task, advance=1, failed=len(failed))
    if as_json:
        show_json({"holds": not failed, **totals, "failed": failed})
    else:
        for path in written:
            click.echo(f"Traces and steps are in {path}.")
        rows = [(*totals.values(), len(failed))]
        click.echo(table([*(name.upper() for name in totals), "FAILED"], rows))
        click.echo("Not every property holds." if failed else "Every property holds.")
    if failed:
        raise Exit(1)


def record(outcome: "Outcome", trace: Path | None) -> dict[str, Any]:
    """The fields of a run that failed, JSON-ready."""
    return {
        "seed": outcome.seed,
        "nodes": outcome.nodes,
        "failures": [
            {"property": failure.property, "text": failure.text} for failure in outcome.failures
        ],
        "steps": [str(step) for step in outcome.steps],
        "replay": outcome.replay,
        "trace": None if trace is None else str(trace),
    }


def _tell(text: str, above: Console) -> None:
    """Print a failure at once; where bar and output share a terminal, above the bar."""
    if above.is_terminal and sys.stdout.isatty():
        above.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        click.echo(text)


def _make(directory: Path) -> None:
    """Make the directory before the work begins. Raises MisuseError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MisuseError(
            f"the directory {directory} for the traces cannot be made: {error.strerror}"
        ) from error


def _write(outcome: "Outcome", directory: Path) -> Path:
    try:
        return outcome.write_trace(directory)
    except OSError as error:
        raise MisuseError(
            f"the traces cannot be written below {directory}: {error.strerror}; make room, or "
            "give --trace another directory"
        ) from error

"""``vsync simulate``: whole clusters from seeds, with every fault, held against the properties."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import rich_click as click
from click.exceptions import Exit

from vsync_cli.parameters import NODES, SEEDS, json_option
from vsync_cli.render import show_json, table


@click.command()
@click.option(
    "--nodes",
    type=NODES,
    default="3..7",
    show_default=True,
    help="How many nodes: 5, or 3..7, which changes from seed to seed.",
)
@click.option(
    "--seeds",
    type=SEEDS,
    default="0..100",
    show_default=True,
    help="One seed, or a range; its end is not included.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="one a processor",
    help="How many processes share the work.",
)
@click.option(
    "--trace",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the traces of the seeds that fail (of a single seed: always) below this directory.",
)
@json_option
@click.pass_context
def simulate(
    context: click.Context,
    nodes: range,
    seeds: range,
    processes: int,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Run whole clusters in virtual time, each from a seed, with every kind of fault.

    Each run is held against every property. The same seed is the same run, always. The exit code
    is 1 if a seed fails.
    """
    from vsync.testing.simulate import run_seeds  # only this command needs the simulator

    failed: list[Any] = []
    written: list[str] = []
    totals = {"runs": 0, "messages": 0, "deliveries": 0, "configurations": 0, "notes": 0}
    single = len(seeds) == 1
    outcomes = run_seeds(seeds, nodes, processes=processes, keep_lines=single)
    with closing(outcomes):
        for outcome in outcomes:
            totals["runs"] += 1
            for name in ("messages", "deliveries", "configurations", "notes"):
                totals[name] += getattr(outcome, name)
            if directory is not None and (single or not outcome.holds):
                written.append(str(_write(outcome, directory)))
            if not outcome.holds:
                failed.append(outcome)
                if not as_json:
                    click.echo(outcome.describe())
    if as_json:
        show_json({"holds": not failed, **totals, "failed": [*map(record, failed)]})
    else:
        for path in written:
            click.echo(f"Traces and steps are in {path}.")
        rows = [(*totals.values(), len(failed))]
        click.echo(table([*(name.upper() for name in totals), "FAILED"], rows))
        verdict = "Every property holds." if not failed else "Not every property holds."
        click.echo(verdict)
    if failed:
        raise Exit(1)


def record(outcome: Any) -> dict[str, Any]:
    """The fields of a run that failed, JSON-ready."""
    return {
        "seed": outcome.seed,
        "nodes": outcome.nodes,
        "failures": [
            {"property": failure.property, "text": failure.text} for failure in outcome.failures
        ],
        "steps": [str(step) for step in outcome.steps],
        "replay": outcome.replay,
    }


def _write(outcome: Any, directory: Path) -> Path:
    try:
        path: Path = outcome.write_trace(directory)
    except OSError as error:
        raise click.ClickException(
            f"cannot write traces below {directory}: {error.strerror}; give --trace a directory "
            "that can be written"
        ) from error
    return path

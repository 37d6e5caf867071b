"""``vsync demo``: three real nodes on this machine, to look at and to harm."""

import signal
import sys
from pathlib import Path
from typing import Final

import anyio
import rich_click as click
from click.exceptions import Exit
from rich.console import Console

from vsync.errors import MisuseError
from vsync_cli.demo.cluster import Cluster, running_cluster
from vsync_cli.demo.processes import make_directory, remove_directory
from vsync_cli.demo.script import TOUR, VERBS, Step, parse_script
from vsync_cli.demo.telling import Teller

TOUR_NAME: Final = "tour"
STANDARD_INPUT: Final = "-"
ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_HELP: Final = f"""\
Start three real nodes on this machine and show what each of them delivers.

They talk over multicast on the loopback interface. In a terminal their configurations and messages
are shown side by side, and keys kill, pause, cut off and heal them. Elsewhere a script is carried
out and told line by line. It needs no root, no settings file and no network.

A script's statements are divided by semicolons or line ends; # begins a comment; NODE is 1, 2 or 3.

{chr(10).join(f"- `{verb}`: {meaning}" for verb, meaning in VERBS.items())}

The exit code is 0 if at the end all live nodes have one configuration, and the traces of all three
hold every property of Extended Virtual Synchrony.
"""


@click.command(help=_HELP, context_settings={"rich_help_config": {"text_markup": "markdown"}})
@click.option(
    "--script",
    metavar="TEXT",
    help='No screen: carry out "kill 2; settle; restart 2", for example; "tour" is a tour of '
    'everything, "-" reads a script from standard input.',
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, max=50),
    default=2.0,
    show_default=True,
    metavar="NUMBER",
    help="How many messages each node sends in a second.",
)
@click.option("--messages", is_flag=True, help="With a script: tell every message, too.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Keep settings, logs and traces in this new directory.",
)
def demo(script: str | None, rate: float, messages: bool, keep: Path | None) -> None:
    """See ``_HELP``, which lists the verbs of the script."""
    if script is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        click.echo(
            "There is no terminal here, so this is the tour (--script tour); "
            "in a terminal `vsync demo` shows three nodes live."
        )
        script = TOUR_NAME
    steps = None if script is None else parse_script(_text(script))
    directory = make_directory() if keep is None else _new_directory(keep)
    failed = True
    try:
        failed = not anyio.run(play, directory, steps, rate, messages)
    finally:
        if keep is not None or failed:
            click.echo(f"What the nodes wrote is in {directory}.", err=True)
        else:
            remove_directory(directory)
    if failed:
        raise Exit(1)


def _text(script: str) -> str:
    if script == TOUR_NAME:
        return TOUR
    return sys.stdin.read() if script == STANDARD_INPUT else script


def _new_directory(directory: Path) -> Path:
    """Make *directory*. Raises MisuseError: what is there already must not be mixed with ours."""
    try:
        directory.mkdir(parents=True)
    except OSError as error:
        raise MisuseError(
            f"the directory {directory} cannot be made: {error.strerror}; "
            "name one that is not there"
        ) from error
    return directory.resolve()


async def play(directory: Path, steps: list[Step] | None, rate: float, with_messages: bool) -> bool:
    """Run three nodes through the script, or the keys; then check. Give whether all is well."""
    wrong: list[str] = []
    cluster: Cluster | None = None
    with anyio.CancelScope() as everything:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_end_on_signal, everything)
            async with running_cluster(directory, rate) as cluster:
                if steps is not None:
                    wrong = await Teller(cluster, with_messages=with_messages).run(steps)
                else:
                    from vsync_cli.demo.screen import Screen  # rich.live only where it is shown

                    await Screen(cluster, Console()).run()
            tasks.cancel_scope.cancel()
    if everything.cancelled_caught and steps is not None:
        wrong.append("the demo was interrupted")
    for sentence in wrong:
        click.echo(f"Error: {sentence}.", err=True)
    assert cluster is not None
    return await anyio.to_thread.run_sync(_holds, cluster) and not wrong


async def _end_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(*ENDING_SIGNALS) as signals:
        async for _ in signals:
            scope.cancel()
            return


def _holds(cluster: Cluster) -> bool:
    """Hold the traces of all lives against the properties, and tell the result."""
    from vsync.testing.properties import check_files
    from vsync_cli.commands.trace import describe

    traces = [trace for node in cluster.nodes for trace in node.traces if trace.exists()]
    if not traces:
        click.echo("Error: no node wrote a trace.", err=True)
        return False
    report = check_files(traces)
    click.echo(f"The traces of {report.lives} lives, held against every property:")
    click.echo("\n".join(describe(report)))
    return report.holds

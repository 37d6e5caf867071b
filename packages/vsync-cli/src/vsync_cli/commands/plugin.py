"""``vsync plugin``: begin a plugin of one's own."""

from pathlib import Path

import rich_click as click

from vsync_cli.templates import KINDS, write_package


@click.group()
def plugin() -> None:
    """Write plugins of your own: transports and services."""


@plugin.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write it; it must not exist. Without it: vsync-KIND-NAME here.",
)
def new(kind: str, name: str, directory: Path | None) -> None:
    """Write an installable package with a transport or service NAME that works, and its tests.

    Then make it yours. NAME is what users will write in their settings.
    """
    written = write_package(kind, name, directory)
    click.echo(f"{written.directory} has the {kind} {name}; it works as it is. Now:")
    place = written.directory if written.directory.is_absolute() else f"./{written.directory}"
    click.echo(f'  pip install -e "{place}[test]"')
    click.echo("  vsync plugins")
    click.echo(f"  pytest {written.directory}")
    click.echo(f"Then make it yours: {written.begin_at}")

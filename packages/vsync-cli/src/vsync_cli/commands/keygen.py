"""``vsync keygen``: make the key of a ring."""

from pathlib import Path

import rich_click as click

from vsync.key_file import make_key, write_key


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def keygen(file: Path, force: bool) -> None:
    """Make the key of a ring and write it to FILE, which only you may read.

    Copy the file to all nodes of the ring, by a way that nobody else can read, and name it in each
    node's settings.
    """
    key = make_key()
    write_key(file, key, replace=force)
    click.echo(
        f"{file} is written: key {key}. Copy it to every node, readable by its user only, and"
    )
    click.echo(f'add to the settings of each: [security] key_file = "{file.absolute()}"')

"""``vsync plugins``: what is installed, and whether it works."""

import dataclasses

import rich_click as click

from vsync.plugins import list_plugins
from vsync_cli.parameters import json_option
from vsync_cli.render import show_json, table


@click.command()
@json_option
def plugins(as_json: bool) -> None:
    """List the installed plugins: transports and whatever else there is, and what ails them.

    The environment variable VSYNC_PLUGINS (names with commas between) leaves out all others.
    """
    found = list_plugins()
    if as_json:
        show_json([dataclasses.asdict(plugin) for plugin in found])
        return
    click.echo(
        table(
            ["NAME", "KIND", "STATE", "FROM"],
            [
                (plugin.name, plugin.kind, plugin.state, f"{plugin.distribution} {plugin.version}")
                for plugin in found
            ],
        )
    )
    for plugin in found:
        if plugin.error:
            click.echo(f"{plugin.name}: {plugin.error}.")

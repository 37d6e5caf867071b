"""``vsync reload``: have a running node read its settings file again."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import rich_click as click

import vsync
from vsync_cli.explain import shown
from vsync_cli.parameters import json_option, socket_option
from vsync_cli.render import show_json
from vsync_cli.sockets import find_socket

WHERE: Final = {"ring": "on the whole ring", "node": "on this node"}


@click.command()
@socket_option
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def reload(
    ctx: click.Context, socket: Path | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Have a running node read its settings file again, and change what has changed in it.

    Shows the difference first, and asks. What all nodes share changes on the whole ring, at one
    place of the order; the rest on this node. If anything differs that cannot change while the node
    runs, nothing is changed, and the exit code is 1.
    """
    place = find_socket(socket)
    found = anyio.run(ask, place, {"dry_run": True})
    differences = found["differences"]
    refused = any(each["where"] == "restart" for each in differences)
    if not as_json:
        click.echo("\n".join(describe(found["settings_file"], differences)))
    if differences and not (dry_run or refused):
        if not yes:
            confirm(as_json)
        found = anyio.run(ask, place, {"expected": differences})
        if not as_json:
            click.echo("changed")
    if as_json:
        show_json(found)
    if refused:
        ctx.exit(1)


def confirm(as_json: bool) -> None:
    """Ask whoever sits there. Raises UsageError if nobody does, Abort if he does not want it."""
    if as_json or not sys.stdin.isatty():
        raise click.UsageError("Nobody can be asked here; say --yes, or --dry-run to look only.")
    click.confirm("Change this?", abort=True)


async def ask(socket: Path, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Have the node behind *socket* reload."""
    async with vsync.connect(socket, name="vsync reload") as session:
        return await session.command("reload", **arguments)


def describe(file: str, differences: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The differences as lines for people."""
    if not differences:
        yield f"{file} says what is in effect; nothing to change"
    for each in differences:
        key, old, new = each["key"], value(each["old"]), value(each["new"])
        if each["where"] in WHERE:
            yield f"{key}: {old} -> {new}, {WHERE[each['where']]}"
        else:
            yield f"{key}: {old} -> {new}, not possible: {each['reason']}"
    if any(each["where"] not in WHERE for each in differences):
        yield "nothing is changed"


def value(given: Any) -> str:
    """A value for people."""
    if isinstance(given, dict) and "transport" in given:
        return f"{given['transport']} {json.dumps(given.get('settings', {}))}"
    return "(none)" if given is None else shown(given)

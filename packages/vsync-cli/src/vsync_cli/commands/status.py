"""``vsync status``: how a running node is."""

from pathlib import Path
from typing import Any

import anyio
import rich_click as click

import vsync
from vsync_cli.parameters import json_option, socket_option
from vsync_cli.render import describe_configuration, facts, show_json
from vsync_cli.sockets import find_socket


@click.command()
@socket_option
@json_option
def status(socket: Path | None, as_json: bool) -> None:
    """Show a running node: its state, its configuration, its transport, what it counted."""
    found = anyio.run(ask, find_socket(socket))
    if as_json:
        show_json(found)
        return
    click.echo("\n".join(describe(found)))


async def ask(socket: Path) -> dict[str, Any]:
    """Ask the node behind *socket* for its status."""
    async with vsync.connect(socket, name="vsync status") as session:
        return dict(await session.status())


def describe(found: dict[str, Any]) -> list[str]:
    """Turn a status into lines for people."""
    rest = dict(found)
    configuration = rest.pop("configuration", None)
    warnings = rest.pop("warnings", [])
    counters = {name: count for name, count in rest.pop("counters", {}).items() if count}
    blocked_by = rest.pop("blocked_by", None)
    lines = [f"node {rest.pop('node')} of ring {rest.pop('ring')}: {rest.pop('state')}"]
    if configuration is None:
        lines.append("no configuration yet")
    else:
        lines.append(
            describe_configuration(
                configuration["id"],
                configuration["kind"],
                configuration["members"],
                configuration["joined"],
                configuration["left"],
            )
        )
    if blocked_by is not None:
        lines.append(f"the ring waits for node {blocked_by}, whose applications are too slow")
    lines += facts(rest)
    if counters:
        lines += facts({"counters": counters})
    lines += [f"warning: {warning}" for warning in warnings]
    return lines

"""``vsync quorum``: whether the node's configuration is primary, and why."""

import json
from pathlib import Path
from typing import Any

import anyio
import rich_click as click

import vsync
from vsync_cli.parameters import json_option, socket_option
from vsync_cli.render import listed, show_json, table
from vsync_cli.sockets import find_socket


@click.command()
@socket_option
@json_option
def quorum(socket: Path | None, as_json: bool) -> None:
    """Show whether a node's configuration is primary, why, and who has which votes."""
    found = anyio.run(ask, find_socket(socket))
    if as_json:
        show_json(found)
    else:
        click.echo("\n".join(describe(found)))


async def ask(socket: Path) -> dict[str, Any]:
    """Ask the quorum service of the node behind *socket*."""
    async with vsync.connect(socket) as session:
        answer: dict[str, Any] = json.loads(await session.request("quorum", b""))
        return answer


def describe(found: dict[str, Any]) -> list[str]:
    """Turn the answer into lines for people."""
    if found["configuration"] is None:
        return ["no regular configuration yet"]
    word = "primary" if found["primary"] else "not primary"
    rules = [name for name in ("two_node", "wait_for_all") if found[name]]
    breaker = found["auto_tie_breaker"]
    if breaker != "none":
        named = breaker if isinstance(breaker, str) else listed(breaker)
        rules.append(f"auto_tie_breaker {named}")
    needed = f"{found['quorum']} of {found['expected_votes']} votes needed"
    rows = [
        [member["node"], member["votes"], "waiting for all" if member["waiting"] else "here"]
        for member in found["members"]
    ]
    rows += [[node, "", "missing"] for node in found["missing"] or []]
    return [
        f"configuration {found['configuration']} is {word}: {found['reason']}",
        f"{needed}{', ' if rules else ''}{', '.join(rules)}",
        table(["node", "votes", "state"], rows),
    ]

"""``vsync key``: what is to be done with the key of a running ring."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import rich_click as click

import vsync
from vsync_cli.parameters import json_option, socket_option
from vsync_cli.render import listed, show_json
from vsync_cli.sockets import find_socket

STEPS = {
    "accept": "accept the new key",
    "use": "use the new key",
    "drop": "drop the old key",
    "give up": "give the new key up",
}


@click.group()
def key() -> None:
    """Change the key of a running ring. `vsync keygen` makes the first one."""


@key.command()
@socket_option
@click.option(
    "--copied",
    is_flag=True,
    help="The new key has been copied to every node, as the key file's name with .next behind it. "
    "Take this where others may know the old key, since with that they could read the new one.",
)
@click.option(
    "--without",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="NODE",
    help="Do not wait for this node, which is away. Copy the new key file to it before it is "
    "started again. May be given several times.",
)
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until all nodes have done it. It goes on by itself after that.",
)
@json_option
@click.pass_context
def rotate(
    ctx: click.Context,
    socket: Path | None,
    copied: bool,
    without: tuple[int, ...],
    wait_s: float,
    as_json: bool,
) -> None:
    """Change the key of a running ring, on all its nodes and in their key files.

    All nodes accept the new key, then all use it, then all drop the old one; nothing is lost. A
    node that goes away meanwhile is waited for, unless --without names it. A change that was broken
    off is completed.
    """
    place = find_socket(socket)
    arguments = {"copied": copied, "without": list(without)}
    found = anyio.run(change, place, arguments, wait_s)
    if as_json:
        show_json(found)
    else:
        click.echo("\n".join(describe(found)))
    if not found["complete"]:
        ctx.exit(1)


async def change(socket: Path, arguments: Mapping[str, Any], wait_s: float) -> dict[str, Any]:
    """Have the node behind *socket* change the key; what came of it."""
    async with vsync.connect(socket, name="vsync key rotate") as session:
        with anyio.move_on_after(wait_s):
            return {"complete": True, **await session.command("rotate_key", **arguments)}
        status = await session.status()
        return {"complete": False, "key_change": status["key_change"]}


def describe(found: Mapping[str, Any]) -> Iterator[str]:
    """What came of it, for people."""
    if found["complete"]:
        yield (
            f"the key was changed from {found['old']} to {found['new']} on nodes "
            f"{listed(found['members'])} in {found['seconds']:.1f} s; their key files have it"
        )
        return
    under_way = found["key_change"]
    if under_way is None:
        yield "the change of the key has ended in this moment; `vsync status` shows the key"
        return
    yield (
        f"the key is still being changed from {under_way['old']} to {under_way['new']}: waiting "
        f"for nodes {listed(under_way['waits_for'])} to {STEPS[under_way['step']]}"
    )
    yield "it goes on by itself; see `vsync status`"

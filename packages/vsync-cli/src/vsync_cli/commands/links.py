"""``vsync links``: how the links of a node with redundant networks are."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import rich_click as click

from vsync.errors import MisuseError
from vsync_cli.commands.status import ask
from vsync_cli.parameters import json_option, socket_option
from vsync_cli.render import listed, show_json, table
from vsync_cli.sockets import find_socket

HEADINGS = ("link", "transport", "state", "for", "faults", "loss", "round trip", "packet", "nodes")


@click.command()
@socket_option
@json_option
def links(socket: Path | None, as_json: bool) -> None:
    """Show the links of a running node: which are good, what each loses, how long a packet takes.

    Only rings on the transport redundant have several.
    """
    transport = anyio.run(ask, find_socket(socket))["transport"]
    found = transport.get("links")
    if not isinstance(found, Mapping):
        raise MisuseError(
            f"this ring runs on the transport {transport['scheme']}, which has no links; "
            'vsync status shows how it is, and transport = "redundant" in [ring] gives it several'
        )
    if as_json:
        show_json(found)
        return
    click.echo(f"mode {transport['mode']}")
    click.echo(table(HEADINGS, rows(found)))
    for number, link in found.items():
        if link.get("reason"):
            click.echo(f"link {number}: {link['reason']}")


def rows(found: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[object, ...]]:
    """A row for each link."""
    for number, link in found.items():
        facts = link["facts"]
        size = facts.get("packet_bytes_max")
        if "since_s" not in link:
            yield number, link["transport"], link["state"], *"-" * (len(HEADINGS) - 3)
            continue
        round_us = link["round_trip_us"]
        yield (
            number,
            link["transport"],
            link["state"],
            f"{link['since_s']:.0f} s",
            link["faults"],
            f"{link['loss']:.1%}",
            f"{round_us} µs" if round_us else "-",
            f"{size} B",
            listed(link["nodes"]),
        )

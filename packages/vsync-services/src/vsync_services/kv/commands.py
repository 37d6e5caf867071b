"""``vsync kv``: the map of a ring, from the command line."""

import base64
import contextlib
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import rich_click as click

import vsync
from vsync_cli.parameters import json_option, socket_option
from vsync_cli.render import facts, json_line, payload_text, show_json, table, write_lines
from vsync_cli.sockets import find_socket
from vsync_services.kv.client import Item, KeyValue, Update

Result = TypeVar("Result")

ABSENT = 1
"""The exit code when there is no such key, or it is not of that revision."""


@click.group()
def kv() -> None:
    """Read and change the map that the nodes keep with the service kv.

    An error says whether a write had no effect ("not primary"), or whether that is not known.
    """


def call(socket: Path | None, do: Callable[[KeyValue], Awaitable[Result]]) -> Result:
    """Have *do* use the map through the node behind *socket*."""

    async def work() -> Result:
        async with vsync.connect(find_socket(socket)) as session:
            return await do(KeyValue(session))

    return anyio.run(work)


def value_from(text: str | None) -> bytes:
    """The bytes of VALUE, or all of standard input."""
    if text is None or text == "-":
        return sys.stdin.buffer.read()
    return text.encode(errors="surrogateescape")


def record_of(key: str, value: bytes | None, revision: int) -> dict[str, Any]:
    """An entry or a change, JSON-ready: the value in base64, and as text where it is UTF-8."""
    record: dict[str, Any] = {"key": key, "revision": revision, "value": None}
    if value is not None:
        record["value"] = base64.b64encode(value).decode()
        with contextlib.suppress(UnicodeDecodeError):
            record["text"] = value.decode()
    return record


def item_record(item: Item) -> dict[str, Any]:
    """An entry, JSON-ready."""
    return record_of(item.key, item.value, item.revision)


@kv.command()
@click.argument("key")
@socket_option
@json_option
def get(key: str, socket: Path | None, as_json: bool) -> None:
    """Print the value of KEY, as it is. The exit code is 1 if there is none."""
    item = call(socket, lambda values: values.get(key))
    if as_json:
        show_json(None if item is None else item_record(item))
    elif item is None:
        click.echo(f"There is no key {key!r}.", err=True)
    else:
        sys.stdout.buffer.write(item.value)
        if sys.stdout.isatty():
            click.echo()
    if item is None:
        raise SystemExit(ABSENT)


@kv.command(name="set")
@click.argument("key")
@click.argument("value", required=False)
@socket_option
@json_option
def set_(key: str, value: str | None, socket: Path | None, as_json: bool) -> None:
    """Give KEY a VALUE, which is read from standard input if it is left out or `-`."""
    payload = value_from(value)
    revision = call(socket, lambda values: values.set(key, payload))
    if as_json:
        show_json({"key": key, "revision": revision})
    else:
        click.echo(f"revision {revision}")


@kv.command()
@click.argument("key")
@socket_option
@json_option
def delete(key: str, socket: Path | None, as_json: bool) -> None:
    """Take KEY out of the map. The exit code is 0 whether it was there or not."""
    deleted = call(socket, lambda values: values.delete(key))
    if as_json:
        show_json({"key": key, "deleted": deleted})
    else:
        click.echo("deleted" if deleted else "it was not there")


@kv.command()
@click.argument("key")
@click.argument("revision", type=click.IntRange(min=0))
@click.argument("value", required=False)
@click.option("--delete", "deletes", is_flag=True, help="Take the key out instead.")
@socket_option
@json_option
def cas(
    key: str,
    revision: int,
    value: str | None,
    deletes: bool,
    socket: Path | None,
    as_json: bool,
) -> None:
    """Give KEY a VALUE if it is still of that REVISION: compare and set.

    REVISION 0 means: if it is not there. VALUE is read from standard input if it is left out or
    `-`. The exit code is 1 if the key is of another revision; nothing changes then.
    """
    if deletes and value is not None:
        raise click.UsageError("Give a VALUE or --delete, not both.")
    payload = None if deletes else value_from(value)
    swap = call(socket, lambda values: values.compare_and_set(key, payload, revision=revision))
    if as_json:
        show_json({"key": key, "swapped": swap.swapped, "revision": swap.revision})
    elif swap.swapped:
        click.echo("deleted" if deletes else f"revision {swap.revision}")
    else:
        found = f"is of revision {swap.revision}" if swap.revision else "is not there"
        click.echo(f"Nothing changed: the key {key!r} {found}.", err=True)
    if not swap.swapped:
        raise SystemExit(ABSENT)


@kv.command(name="list")
@click.argument("prefix", default="")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="No more than so many.")
@socket_option
@json_option
def list_(prefix: str, limit: int | None, socket: Path | None, as_json: bool) -> None:
    """List the entries whose keys begin with PREFIX, or all, in the order of their keys."""
    listing = call(socket, lambda values: values.list(prefix, limit=limit))
    if as_json:
        entries = [item_record(item) for item in listing.items]
        show_json({"entries": entries, "point": listing.point})
        return
    rows = [[item.key, item.revision, payload_text(item.value)] for item in listing.items]
    click.echo(table(["key", "revision", "value"], rows))


@kv.command()
@click.argument("prefix", default="")
@click.option(
    "--point",
    metavar="POINT",
    help="Begin after this place, as `kv list --json` gives it. Without it: now.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    metavar="N",
    help="End after so many changes. Without it: at Ctrl-C.",
)
@socket_option
@json_option
def watch(
    prefix: str, point: str | None, count: int | None, socket: Path | None, as_json: bool
) -> None:
    """Print every change of a key that begins with PREFIX, or of any key, a line each."""

    async def follow(values: KeyValue) -> None:
        left = count
        async for update in values.watch(prefix, point=point):
            write_lines([update_json(update) if as_json else update_line(update)])
            if left is not None:
                left -= 1
                if left == 0:
                    return

    with contextlib.suppress(KeyboardInterrupt):  # the usual way to end it
        call(socket, follow)


def update_json(update: Update) -> str:
    """A change as a line of JSON."""
    record = record_of(update.key, update.value, update.revision)
    return json_line({**record, "point": update.point})


def update_line(update: Update) -> str:
    """A change as a line for people."""
    what = "deleted" if update.value is None else payload_text(update.value)
    return f"{update.revision} {update.key}: {what}"


@kv.command()
@socket_option
@json_option
def status(socket: Path | None, as_json: bool) -> None:
    """Show how the map is at a node, and how requests are served there."""
    found = call(socket, lambda values: values.status())
    if as_json:
        show_json(found)
    else:
        click.echo("\n".join(facts(found)))

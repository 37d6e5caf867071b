"""``vsync watch``: what is delivered, a line an event."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import anyio
import rich_click as click

import vsync
from vsync.events import Delivery, Event
from vsync.vocabulary import GroupKey, SlowPolicy
from vsync_cli.parameters import GROUP, json_option, socket_option
from vsync_cli.render import event_line, event_record, json_line, write_lines
from vsync_cli.sockets import find_socket


@click.command()
@click.argument("groups", nargs=-1, required=True, type=GROUP, metavar="GROUP...")
@socket_option
@json_option
@click.option(
    "--count",
    type=click.IntRange(min=1),
    metavar="N",
    help="End after so many messages. Without it: at Ctrl-C.",
)
@click.option(
    "--slow",
    type=click.Choice([policy.value for policy in SlowPolicy]),
    help="What happens when the lines are not taken in time: the ring waits, this ends, or they go "
    "to the node's disk. Without it: as `slow` in `[daemon]` says.",
)
@click.option(
    "--reconnect",
    is_flag=True,
    help="When the node ends, wait for it to come back, and go on.",
)
def watch(
    groups: tuple[GroupKey, ...],
    socket: Path | None,
    as_json: bool,
    count: int | None,
    slow: str | None,
    reconnect: bool,
) -> None:
    """Print every configuration, and every view and message of each GROUP, as it is delivered.

    GROUP is a name, or `hex:` and the 64 hexadecimal digits of a key. With `--json` each line is
    one object: `"event":"deliver"`, `"event":"group"`, `"event":"configuration"`, or, with
    `--reconnect`, `"event":"disconnected"`.
    """
    policy = None if slow is None else SlowPolicy(slow)
    with contextlib.suppress(KeyboardInterrupt):  # the usual way to end it
        anyio.run(follow, find_socket(socket), groups, as_json, count, policy, reconnect)


async def follow(
    socket: Path,
    groups: Sequence[GroupKey],
    as_json: bool,
    count: int | None,
    slow: SlowPolicy | None = None,
    reconnect: bool = False,
) -> None:
    """Print what is delivered in *groups*, until *count* messages were printed, if given."""
    connecting = vsync.connect(socket, name="vsync watch", slow=slow, reconnect=reconnect)
    async with connecting as session:
        await session.join(*groups)
        async for batch in session.batches():
            events, count = up_to(batch, count)
            write_lines(
                [
                    json_line(event_record(event)) if as_json else event_line(event)
                    for event in events
                ]
            )
            if count == 0:
                return


def up_to(batch: Sequence[Event], count: int | None) -> tuple[Sequence[Event], int | None]:
    """Give the events up to the *count*-th message, and how many messages are left to come."""
    if count is None:
        return batch, None
    for place, event in enumerate(batch, start=1):
        count -= isinstance(event, Delivery)
        if count == 0:
            return batch[:place], 0
    return batch, count

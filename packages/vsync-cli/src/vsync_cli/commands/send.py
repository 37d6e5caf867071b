"""``vsync send``: give a running node messages to order and deliver."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import anyio
import rich_click as click

import vsync
from vsync.vocabulary import GroupKey, Guarantee, Priority
from vsync_cli.parameters import GROUP, json_option, socket_option
from vsync_cli.render import show_json
from vsync_cli.sockets import find_socket

BATCH_BYTES: Final = 2**18
BATCH_MESSAGES: Final = 1000


@click.command()
@click.argument("group", type=GROUP)
@click.argument("message", required=False)
@socket_option
@click.option(
    "--guarantee",
    type=click.Choice([guarantee.word for guarantee in Guarantee]),
    default=Guarantee.AGREED.word,
    show_default=True,
    help="When the message may be delivered.",
)
@click.option(
    "--priority",
    type=click.Choice([priority.word for priority in Priority]),
    default=Priority.MEDIUM.word,
    show_default=True,
    help="Which of the node's waiting messages goes first.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many times to send it.",
)
@click.option(
    "--size",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="Send a made-up message of this size, which begins with its number.",
)
@json_option
def send(
    group: GroupKey,
    message: str | None,
    socket: Path | None,
    guarantee: str,
    priority: str,
    count: int,
    size: int | None,
    as_json: bool,
) -> None:
    """Send MESSAGE to GROUP.

    GROUP is a name, or `hex:` and the 64 hexadecimal digits of a key. Without MESSAGE, or with
    `-`, the message is read from standard input; with `--size` it is made up. The exit code is 0
    when the node has accepted all messages: from then on it delivers them, to itself too, unless it
    dies. When they are delivered can be seen with `vsync watch`.
    """
    if size is not None and message is not None:
        raise click.UsageError("Give a MESSAGE or --size, not both.")
    path = find_socket(socket)
    payloads = made_up(size, count) if size is not None else repeated(read(message), count)
    accepted = anyio.run(
        send_all, path, group, payloads, Guarantee[guarantee.upper()], Priority[priority.upper()]
    )
    if as_json:
        show_json({"accepted": accepted, "group": group.hex()})
    else:
        click.echo(f"{accepted} accepted")


def read(message: str | None) -> bytes:
    """Give the bytes of *message*, or all of standard input."""
    if message is None or message == "-":
        return sys.stdin.buffer.read()
    # What the shell passed on that is no UTF-8 is sent as it was.
    return message.encode(errors="surrogateescape")


def repeated(payload: bytes, count: int) -> Iterator[bytes]:
    """The same payload, *count* times."""
    return (payload for _ in range(count))


def made_up(size: int, count: int) -> Iterator[bytes]:
    """Payloads of *size* bytes, each beginning with its number, 1 to *count*."""
    for number in range(1, count + 1):
        yield f"{number} ".encode().ljust(size, b".")[:size]


async def send_all(
    socket: Path,
    group: GroupKey,
    payloads: Iterator[bytes],
    guarantee: Guarantee,
    priority: Priority,
) -> int:
    """Send all payloads and give their number. Raises the first error, and then sends no more."""
    accepted = 0
    async with vsync.connect(socket, name="vsync send") as session:
        for batch in batches(payloads):
            accepted += len(
                await session.send_batch(batch, group, guarantee=guarantee, priority=priority)
            )
    return accepted


def batches(payloads: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Cut *payloads* into lists that are handed over at once, none of them large."""
    batch: list[bytes] = []
    size = 0
    for payload in payloads:
        batch.append(payload)
        size += len(payload)
        if size >= BATCH_BYTES or len(batch) == BATCH_MESSAGES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

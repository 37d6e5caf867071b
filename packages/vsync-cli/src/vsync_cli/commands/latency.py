"""``vsync latency``: how long a message takes through a running ring, and an answer to it."""

import asyncio
import secrets
import selectors
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import rich_click as click
from click.exceptions import Exit
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

import vsync
from vsync.errors import MessageTooLarge
from vsync.vocabulary import GroupKey, Guarantee, Priority
from vsync_cli.measure.figures import TIME_HEADINGS, duration, histogram_lines
from vsync_cli.measure.inspection import fault_sentence
from vsync_cli.measure.interruption import INTERRUPTED, until_interrupted
from vsync_cli.measure.payloads import HEAD_BYTES
from vsync_cli.measure.probes import Answerer, Asker, Probing
from vsync_cli.parameters import (
    GROUP,
    NumberRange,
    SizeParameter,
    guarantee_option,
    json_option,
    priority_option,
    refuse_given,
    socket_option,
)
from vsync_cli.render import listed, show_json, table
from vsync_cli.sockets import find_socket

ASKING: Final = ("rate", "seconds", "size", "guarantee", "priority")


@click.command()
@socket_option
@click.option(
    "--rate",
    type=NumberRange(0.1, 100_000),
    default=100.0,
    show_default=True,
    metavar="N",
    help="How many messages are sent a second, at fixed times.",
)
@click.option(
    "--seconds",
    type=NumberRange(min=0, min_open=True, max=86400),
    default=5.0,
    show_default=True,
    metavar="S",
    help="How long to send.",
)
@click.option(
    "--size",
    type=SizeParameter(HEAD_BYTES),
    default="64",
    show_default=True,
    metavar="BYTES",
    help="How large a message is; 64K and 1M are understood.",
)
@guarantee_option
@priority_option
@click.option(
    "--group",
    type=GROUP,
    help="Where those with --answer are. Without it: one of its own, and nobody answers.",
)
@click.option(
    "--answer",
    is_flag=True,
    help="Answer the messages of others to --group, until Ctrl-C.",
)
@json_option
@click.pass_context
def latency(
    context: click.Context,
    socket: Path | None,
    rate: float,
    seconds: float,
    size: int,
    guarantee: str,
    priority: str,
    group: GroupKey | None,
    answer: bool,
    as_json: bool,
) -> None:
    """Measure how long messages take through a running ring.

    A message is timed from when it was due to be sent until it comes back to this program in the
    ring's order. To time answers of other nodes too, start `vsync latency --answer --group NAME`
    there, and then `vsync latency --group NAME` here. The exit code is 1 if a message was lost,
    damaged, repeated or out of order.
    """
    if answer:
        refuse_given(context, ASKING, "is for those who ask, not for --answer.")
        if group is None:
            raise click.UsageError("--answer needs --group, with the same name as who asks.")
        answer_all(find_socket(socket), group, as_json)
        return
    probing = Probing(
        group=group or GroupKey.from_name(f"vsync-latency-{secrets.token_hex(8)}"),
        rate=rate,
        seconds=seconds,
        size=size,
        guarantee=Guarantee[guarantee.upper()],
        priority=Priority[priority.upper()],
    )
    run = Run(probing=probing)
    path = find_socket(socket)
    interrupted = anyio.run(
        until_interrupted,
        partial(run.measure, path, not as_json),
        backend_options={"loop_factory": precise_loop},
    )
    if interrupted and (run.asker is None or not run.asker.began):
        raise KeyboardInterrupt
    result = run.result(interrupted)
    if as_json:
        show_json(result)
    else:
        click.echo("\n".join(run.describe(result)))
    if not result["correct"]:
        click.echo(f"Error: {fault_sentence(result['faults'])}.", err=True)
        raise Exit(1)
    if interrupted:
        raise Exit(INTERRUPTED)


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop that wakes up on time: with epoll, asyncio rounds up to milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def answer_all(socket: Path, group: GroupKey, as_json: bool) -> None:
    """Answer until Ctrl-C, which is the usual way to end it."""
    answered = 0

    async def work() -> None:
        nonlocal answered
        async with vsync.connect(socket, name="vsync latency --answer") as session:
            answerer = Answerer(session, group)
            await answerer.prepare()
            click.echo(f"Answering as {session.member}, until Ctrl-C.", err=True)
            try:
                await answerer.run()
            finally:
                answered = answerer.answered

    anyio.run(until_interrupted, work)
    if as_json:
        show_json({"answered": answered})
    else:
        click.echo(f"{answered:,} answered")


@dataclass(slots=True, kw_only=True)
class Run:
    """One measurement, as far as it has come."""

    probing: Probing
    asker: Asker | None = None
    status: dict[str, Any] = field(default_factory=dict)

    async def measure(self, socket: Path, for_people: bool) -> None:
        """Connect, ask, and wait for the end."""
        async with vsync.connect(socket, name="vsync latency") as session:
            if self.probing.size > session.message_bytes_max:
                raise MessageTooLarge(self.probing.size, session.message_bytes_max)
            self.status = dict(await session.status())
            self.asker = Asker(session, self.probing, time.monotonic)
            await self.asker.prepare()
            async with anyio.create_task_group() as watching:
                if for_people and sys.stdout.isatty() and sys.stderr.isatty():
                    watching.start_soon(self._show, self.asker)
                await self.asker.run()
                watching.cancel_scope.cancel()

    async def _show(self, asker: Asker) -> None:
        """A bar, until cancelled."""
        bar = Progress(
            TextColumn("{task.completed:,.0f} messages"),
            BarColumn(),
            TextColumn("{task.fields[last]}"),
            console=Console(stderr=True),
            transient=True,
            # Drawn below, in this thread: another would take the processor from what is measured.
            auto_refresh=False,
        )
        with bar:
            task = bar.add_task("", total=self.probing.messages, last="")
            while True:
                last = f"last {duration(asker.own[-1])}" if asker.own else ""
                bar.update(task, completed=len(asker.own), last=last, refresh=True)
                await anyio.sleep(0.5)

    def notes(self, asker: Asker) -> list[str]:
        """What a reader should know beside the figures."""
        notes = asker.changes.notes()
        if asker.blocked:
            notes.append(
                f"{asker.blocked:,} messages found no room and waited; that is part of their times."
            )
        for member, answers in sorted(asker.answers.items()):
            if len(answers.times) < asker.sent:
                notes.append(f"{member} answered {len(answers.times):,} of {asker.sent:,}.")
        return notes

    def result(self, interrupted: bool) -> dict[str, Any]:
        """The whole result, JSON-ready; times are seconds."""
        assert self.asker is not None
        own = self.asker.own_times()
        faults = self.asker.faults()
        return {
            "node": self.status["node"],
            "ring": self.status["ring"],
            "members": (self.status.get("configuration") or {}).get("members", []),
            "group": self.probing.group.hex(),
            "guarantee": self.probing.guarantee.word,
            "priority": self.probing.priority.word,
            "size": self.probing.size,
            "rate": self.probing.rate,
            "interrupted": interrupted,
            "sent": self.asker.sent,
            "own": own.record(),
            "answers": {
                str(member): times.record() for member, times in self.asker.answer_times().items()
            },
            "histogram": [
                {"up_to_s": limit, "messages": count} for limit, count in own.histogram()
            ],
            "waited": self.asker.blocked,
            "faults": faults,
            "correct": not any(faults.values()),
            "notes": self.notes(self.asker),
        }

    def describe(self, result: dict[str, Any]) -> list[str]:
        """The result as lines for people."""
        assert self.asker is not None
        probing = self.probing
        own = self.asker.own_times()
        rows = [
            ["delivered here", *own.cells()],
            *(
                [f"answer of {member}", *times.cells()]
                for member, times in self.asker.answer_times().items()
            ),
        ]
        return [
            f"node {result['node']} of ring {result['ring']}: members {listed(result['members'])}",
            f"{probing.guarantee.word} messages of {probing.size:,} bytes, priority "
            f"{probing.priority.word}, {probing.rate:,g} a second",
            "",
            table(["", *TIME_HEADINGS], rows, numbers=True),
            "",
            "delivered here:",
            *histogram_lines(own),
            *(f"Note: {note}" for note in result["notes"]),
        ]

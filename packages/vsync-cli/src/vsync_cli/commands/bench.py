"""``vsync bench``: how many messages a running ring carries, and whether all came as sent."""

import secrets
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
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
from vsync_cli.measure.figures import RATE_HEADINGS, Rate, duration
from vsync_cli.measure.inspection import Track, fault_sentence
from vsync_cli.measure.interruption import INTERRUPTED, until_interrupted
from vsync_cli.measure.load import Plan, Receiver, Sender
from vsync_cli.measure.payloads import HEAD_BYTES
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

BATCH_BYTES: Final = 2**18
BATCH_MESSAGES: Final = 200

SECONDS: Final = 5.0

BUSY_SHARE: Final = 0.9
"""From this share of a processor on, this program itself may be what limits the rate."""

SENDING: Final = ("messages", "seconds", "size", "senders", "guarantee", "priority", "batch")


@click.command()
@socket_option
@click.option(
    "--messages",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many messages each sender sends.",
)
@click.option(
    "--seconds",
    type=NumberRange(min=0, min_open=True, max=86400),
    metavar="S",
    help=f"How long to send, without --messages.  [default: {SECONDS:g}]",
)
@click.option(
    "--size",
    type=SizeParameter(HEAD_BYTES),
    default="1K",
    show_default=True,
    metavar="BYTES",
    help="How large a message is; 64K and 1M are understood.",
)
@click.option(
    "--senders",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="How many sessions of this program send.",
)
@click.option(
    "--receivers",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="How many sessions of this program receive.",
)
@guarantee_option
@priority_option
@click.option(
    "--batch",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="How many messages a sender hands over at once.  "
    f"[default: what makes 256K, at most {BATCH_MESSAGES}]",
)
@click.option(
    "--role",
    type=click.Choice(["both", "send", "receive"]),
    default="both",
    show_default=True,
    help="What this program does. The others do the rest, on this node or on others.",
)
@click.option(
    "--group",
    type=GROUP,
    help="Programs that name the same group take part in one run. Without it: one of its own.",
)
@json_option
@click.pass_context
def bench(
    context: click.Context,
    socket: Path | None,
    messages: int | None,
    seconds: float | None,
    size: int,
    senders: int,
    receivers: int,
    guarantee: str,
    priority: str,
    batch: int | None,
    role: str,
    group: GroupKey | None,
    as_json: bool,
) -> None:
    """Measure how many messages a running ring carries.

    Every message is checked where it arrives: the exit code is 1 if one was lost, damaged, repeated
    or out of order. To measure between nodes, start `vsync bench --role receive --group NAME` on
    some, and then `vsync bench --role send --group NAME` on others.
    """
    if messages is not None and seconds is not None:
        raise click.UsageError("Give --messages or --seconds, not both.")
    if role != "both" and group is None:
        raise click.UsageError(f"--role {role} needs --group, with the same name as the others'.")
    if role == "receive":
        refuse_given(context, SENDING, "is for those who send, not for --role receive.")
    if role == "send":
        refuse_given(context, ["receivers"], "is for those who receive, not for --role send.")
    plan = Plan(
        group=group or GroupKey.from_name(f"vsync-bench-{secrets.token_hex(8)}"),
        messages=messages,
        seconds=SECONDS if seconds is None else seconds,
        size=size,
        guarantee=Guarantee[guarantee.upper()],
        priority=Priority[priority.upper()],
        batch=batch or max(1, min(BATCH_MESSAGES, BATCH_BYTES // size)),
    )
    run = Run(
        plan=plan,
        role=role,
        senders_wanted=0 if role == "receive" else senders,
        receivers_wanted=0 if role == "send" else receivers,
    )
    path = find_socket(socket)
    interrupted = anyio.run(until_interrupted, partial(run.measure, path, not as_json))
    if interrupted and not run.began:
        raise KeyboardInterrupt
    result = run.result(interrupted)
    if as_json:
        show_json(result)
    else:
        click.echo("\n".join(run.describe(result)))
    if not result["correct"]:
        click.echo(f"Error: {run.complaint()}.", err=True)
        raise Exit(1)
    if interrupted:
        raise Exit(INTERRUPTED)


@dataclass(slots=True, kw_only=True)
class Run:
    """One run, as far as it has come."""

    plan: Plan
    role: str
    senders_wanted: int
    receivers_wanted: int
    began: bool = False
    status: dict[str, Any] = field(default_factory=dict)
    senders: list[Sender] = field(default_factory=list)
    receivers: list[Receiver] = field(default_factory=list)
    _began_at: float = 0.0
    _ended_at: float | None = None
    _processor_s: float = 0.0
    _clock: Callable[[], float] = time.monotonic

    async def measure(self, socket: Path, for_people: bool) -> None:
        """Connect everybody, let them work, and wait for the end."""
        async with AsyncExitStack() as stack:
            for place in range(self.receivers_wanted):
                name = f"vsync bench receiver {place + 1}"
                session = await stack.enter_async_context(vsync.connect(socket, name=name))
                self.receivers.append(Receiver(session, self.plan.group, self._clock))
                self.status = self.status or dict(await session.status())
            for place in range(self.senders_wanted):
                name = f"vsync bench sender {place + 1}"
                session = await stack.enter_async_context(vsync.connect(socket, name=name))
                if self.plan.size > session.message_bytes_max:
                    raise MessageTooLarge(self.plan.size, session.message_bytes_max)
                self.senders.append(Sender(session, self.plan, self._clock))
                self.status = self.status or dict(await session.status())
            # Before anybody is seen in a group: who interrupts from then on is told what came.
            self.began = True
            self._began_at = self._clock()
            for receiver in self.receivers:
                await receiver.prepare()
            for sender in self.senders:
                await sender.prepare()
            await self._work(for_people)

    async def _work(self, for_people: bool) -> None:
        self._began_at = self._clock()
        processor_s = time.process_time()
        if self.role == "both":
            for receiver in self.receivers:
                receiver.began = self._began_at
        try:
            async with anyio.create_task_group() as watching:
                if for_people and sys.stdout.isatty() and sys.stderr.isatty():
                    watching.start_soon(self._show)
                async with anyio.create_task_group() as working:
                    for receiver in self.receivers:
                        working.start_soon(receiver.run)
                    for sender in self.senders:
                        working.start_soon(sender.run)
                watching.cancel_scope.cancel()
        finally:
            self._ended_at = self._clock()
            self._processor_s = time.process_time() - processor_s

    async def _show(self) -> None:
        """A bar, until cancelled."""
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            console=Console(stderr=True),
            transient=True,
        )
        with bar:
            total: float | None = self.plan.seconds
            if self.role == "receive":
                total = None
            elif self.plan.messages is not None:
                total = self.plan.messages * self.senders_wanted
            task = bar.add_task("", total=total, rate="")
            count, at = 0, self._clock()
            while True:
                now = self._clock()
                done = max((receiver.messages for receiver in self.receivers), default=None)
                if done is None:
                    done = sum(sender.messages for sender in self.senders)
                reached = now - self._began_at if self.plan.messages is None else float(done)
                waiting = self.role == "receive" and not done
                bar.update(
                    task,
                    completed=reached,
                    description="waiting for a sender" if waiting else f"{done:,} messages",
                    rate=f"{(done - count) / (now - at):,.0f}/s" if now > at else "",
                )
                count, at = done, now
                await anyio.sleep(0.2)

    def faults(self) -> dict[str, int]:
        """How many messages were wrong, over all receivers."""
        totals = {"damaged": 0, "lost": 0, "repeated": 0, "reordered": 0}
        for receiver in self.receivers:
            for name, count in receiver.inspection.faults.items():
                totals[name] += count
        return totals

    def same_order(self, interrupted: bool) -> bool | None:
        """Whether all receivers here got all in one order; None where that is not promised."""
        if interrupted or len(self.receivers) < 2 or not all(map(_ordered, self.receivers)):
            return None
        # Receivers join one after the other: one may have seen what came before the next.
        if any(track.late for receiver in self.receivers for track in _heard(receiver)):
            return None
        return len({receiver.inspection.order for receiver in self.receivers}) == 1

    def complaint(self) -> str:
        """What was wrong, as a sentence."""
        return (
            fault_sentence(self.faults())
            or "the receivers were given the same messages in different orders"
        )

    def evenness(self) -> float | None:
        """The rate of the slowest sender as a share of the fastest's; None of fewer than two."""
        rates = [sender.rate.messages_per_s for sender in self.senders]
        if self.receivers and self.role != "send":
            rates = [
                track.messages / (track.last_at - track.first_at)
                for track in _heard(self.receivers[0])
                if track.last_at > track.first_at
            ]
        return min(rates) / max(rates) if len(rates) > 1 and max(rates) > 0 else None

    def notes(self) -> list[str]:
        """What a reader should know beside the figures."""
        observer = self.receivers[0] if self.receivers else self.senders[0]
        notes = observer.changes.notes()
        for receiver in self.receivers[:1]:
            notes += [
                f"Sender {member} went without saying how many messages it had sent; those after "
                "its last one here cannot be checked."
                for member in sorted(receiver.gone)
            ]
            notes += [
                f"Sender {member} had sent {track.not_ours:,} messages while it and this node were "
                "in different configurations."
                for member, track in sorted(receiver.inspection.tracks.items())
                if track.not_ours and not track.late
            ]
            notes += [
                f"Sender {member} was sending already when this receiver came."
                for member, track in sorted(receiver.inspection.tracks.items())
                if track.late and track.begun
            ]
        if self.processor_share() >= BUSY_SHARE:
            notes.append(
                "This program was as busy as one process can be, and may be what limits the rate; "
                "divide the work among several with --role and --group."
            )
        return notes

    def processor_share(self) -> float:
        """The processor time of this program, as a share of the time that went by."""
        elapsed = (self._ended_at or self._clock()) - self._began_at
        return self._processor_s / elapsed if elapsed > 0 else 0.0

    def sent(self) -> Rate:
        """What all senders of this program sent together."""
        rates = [sender.rate for sender in self.senders]
        return Rate(
            messages=sum(rate.messages for rate in rates),
            bytes=sum(rate.bytes for rate in rates),
            seconds=max((rate.seconds for rate in rates), default=0.0),
        )

    def slowest(self) -> Receiver:
        """The receiver with the least rate."""
        return min(self.receivers, key=lambda receiver: receiver.rate.messages_per_s)

    def result(self, interrupted: bool) -> dict[str, Any]:
        """The whole result, JSON-ready."""
        same_order = self.same_order(interrupted)
        faults = self.faults()
        evenness = self.evenness()
        plan = self.plan
        sending = {
            "guarantee": plan.guarantee.word,
            "priority": plan.priority.word,
            "size": plan.size,
            "batch": plan.batch,
        }
        return {
            "node": self.status.get("node"),
            "ring": self.status.get("ring"),
            "members": (self.status.get("configuration") or {}).get("members", []),
            "group": plan.group.hex(),
            "role": self.role,
            **(sending if self.senders else {}),
            "interrupted": interrupted,
            "sent": self.sent().record() if self.senders else None,
            "delivered": self.slowest().rate.record() if self.receivers else None,
            "senders": [
                {"member": str(sender.member), **sender.rate.record()} for sender in self.senders
            ],
            "receivers": [
                {
                    "member": str(receiver.member),
                    **receiver.rate.record(),
                    "longest_pause_s": round(receiver.longest_pause_s, 6),
                    "order": f"{receiver.inspection.order:08x}" if _ordered(receiver) else None,
                    "from": {
                        str(member): track.messages
                        for member, track in sorted(receiver.inspection.tracks.items())
                        if track.begun
                    },
                }
                for receiver in self.receivers
            ],
            "evenness": None if evenness is None else round(evenness, 4),
            "processor_share": round(self.processor_share(), 4),
            "faults": faults,
            "same_order": same_order,
            "correct": not any(faults.values()) and same_order is not False,
            "notes": self.notes(),
        }

    def describe(self, result: dict[str, Any]) -> list[str]:
        """The result as lines for people."""
        lines = [
            f"node {result['node']} of ring {result['ring']}: members {listed(result['members'])}"
        ]
        plan = self.plan
        if self.senders:
            lines.append(
                f"{plan.guarantee.word} messages of {plan.size:,} bytes, priority "
                f"{plan.priority.word}, {plan.batch} at a time"
            )
        elif self.receivers and self.receivers[0].sizes:
            receiver = self.receivers[0]
            kinds = listed(sorted(guarantee.word for guarantee in receiver.guarantees))
            sizes = listed(f"{size:,}" for size in sorted(receiver.sizes)[:5])
            lines.append(f"{kinds} messages of {sizes} bytes")
        rows = [
            [f"sender {sender.member}", *sender.rate.cells(), "", ""] for sender in self.senders
        ]
        if len(self.senders) > 1:
            rows.append(["all senders", *self.sent().cells(), "", ""])
        rows += [
            [
                f"receiver {receiver.member}",
                *receiver.rate.cells(),
                duration(receiver.longest_pause_s) if receiver.messages else "-",
                f"{receiver.inspection.order:08x}" if _ordered(receiver) else "-",
            ]
            for receiver in self.receivers
        ]
        if len(self.receivers) > 1:
            rows.append(["slowest receiver", *self.slowest().rate.cells(), "", ""])
        headings = ["", *RATE_HEADINGS]
        if self.receivers:
            headings += ["LONGEST PAUSE", "ORDER"]
        else:
            rows = [row[: len(headings)] for row in rows]
        lines += ["", table(headings, rows, numbers=True), ""]
        facts = f"This program used {self.processor_share():.0%} of a processor."
        if result["evenness"] is not None:
            facts += (
                f" The slowest sender reached {result['evenness']:.0%} of the fastest one's rate."
            )
        lines.append(facts)
        if self.receivers and not self.slowest().messages:
            lines.append("No message came.")
        elif self.receivers and result["correct"]:
            so_far = ", so far" if result["interrupted"] else ""
            order = "; all receivers got them in one order" if result["same_order"] else ""
            lines.append(f"Every message came whole, once and in its turn{so_far}{order}.")
        return lines + [f"Note: {note}" for note in result["notes"]]


def _ordered(receiver: Receiver) -> bool:
    """Whether all that it got has one order, the same for all."""
    return bool(receiver.guarantees) and min(receiver.guarantees) >= Guarantee.AGREED


def _heard(receiver: Receiver) -> list[Track]:
    return [track for track in receiver.inspection.tracks.values() if track.begun]

"""``vsync doctor``: whether this host and its network are fit for a ring."""

import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Final

import rich_click as click

from vsync.settings import NodeSettings
from vsync.settings_file import read_settings
from vsync_cli.doctor.findings import Finding, Level
from vsync_cli.doctor.host import look_at
from vsync_cli.doctor.network import probe
from vsync_cli.parameters import json_option
from vsync_cli.render import show_json

JITTER_S: Final = 2.0
MARKS: Final = {Level.PROBLEM: "PROBLEM", Level.WARNING: "warning", Level.FINE: "fine"}
COLOURS: Final = {Level.PROBLEM: "red", Level.WARNING: "yellow", Level.FINE: "green"}


@click.command()
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The node's settings file. Without it: node 1 with default settings.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 3600),
    default=10.0,
    show_default=True,
    metavar="S",
    help="How long to talk to the doctors of other hosts.",
)
@json_option
def doctor(config: Path | None, seconds: float, as_json: bool) -> None:
    """Examine this host, and the network between it and others where `vsync doctor` runs as well.

    Says what is wrong, and what to do about it. The exit code is 1 if there is a problem. Ctrl-C
    ends the examination early.
    """
    settings = (
        NodeSettings.model_validate({"node": {"id": 1}})
        if config is None
        else read_settings(config)
    )
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    before = signal.signal(signal.SIGINT, stop)
    try:
        if not as_json:
            click.echo(
                f'node {settings.node.id} of ring "{settings.ring.name}": listening for other '
                f"doctors for {seconds:g} s",
                err=True,
            )
        findings, people = probe(settings, seconds, lambda: stopped)
        findings += look_at(settings, min(JITTER_S, seconds), own=config is not None)
    finally:
        signal.signal(signal.SIGINT, before)
    findings.sort(key=lambda finding: -finding.level)
    if as_json:
        show_json({"findings": [finding.record() for finding in findings], "others": people})
    else:
        click.echo("\n".join(lines(findings)))
    sys.exit(1 if findings[0].level is Level.PROBLEM else 0)


def lines(findings: Iterable[Finding]) -> Iterable[str]:
    """Findings for people: a line each, and one with what to do."""
    for level, about, text, advice in findings:
        yield f"{click.style(f'{MARKS[level]:>7}', fg=COLOURS[level])}  {about}: {text}"
        if advice:
            yield f"         {advice}"

"""``vsync run``: one node, served to local programs through a Unix socket."""

import contextlib
import gc
import logging
import resource
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.abc
import rich_click as click

import vsync
from vsync.daemon import serve
from vsync.events import ConfigurationChanged
from vsync.settings import NodeSettings
from vsync.settings_file import read_settings
from vsync_cli.commands.reload import describe
from vsync_cli.parameters import SOCKET_VARIABLE
from vsync_cli.render import configuration_line, write_lines
from vsync_cli.sockets import choose_socket
from vsync_cli.systemd import Notifier, keep_watchdog_quiet

logger = logging.getLogger(__name__)

LEAVING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@click.command()
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="The settings file; `vsync init` writes one.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Append every event to this file, for `vsync trace check`.",
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar=SOCKET_VARIABLE,
    show_envvar=True,
    help="The Unix socket for local programs. Without it: `socket` in `[daemon]`, or a place of "
    "this user's own.",
)
def run(config: Path, trace: Path | None, socket: Path | None) -> None:
    """Run a node until SIGTERM or Ctrl-C; it then leaves its ring and ends with exit code 0.

    On SIGHUP it reads its settings again, as `vsync reload --yes` has it do.

    The first line says what the node is; then there is one for every change of configuration.
    """
    settings = read_settings(config)
    allow_many_clients()
    anyio.run(run_node, settings, config, trace, choose_socket(settings, socket))


def allow_many_clients() -> None:
    """Raise the limit of open files as far as may be: each local program needs one.

    Many systems begin with 1024, for the sake of programs that use select(2); none is in here.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def collect_garbage_seldom() -> None:
    """Spare the ring's thread long searches for garbage: 30 ms each were seen at full load.

    Messages and frames are not part of cycles, so hardly any garbage needs such a search.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def run_node(settings: NodeSettings, config: Path, trace: Path | None, socket: Path) -> None:
    """Run the node until it is told to leave. Raises VsyncError if it cannot go on."""
    notifier = Notifier()
    with anyio.open_signal_receiver(*LEAVING_SIGNALS, signal.SIGHUP) as signals:
        async with (
            vsync.open_node(settings, trace=trace, settings_file=config) as node,
            anyio.create_task_group() as tasks,
        ):
            await tasks.start(serve, node, socket)
            write_lines([first_line(settings, await node.status(), socket)])
            tasks.start_soon(tell_configurations, node, notifier)
            tasks.start_soon(keep_watchdog_quiet, notifier, node)
            collect_garbage_seldom()
            notifier.tell("READY=1")
            async for number in signals:
                if number in LEAVING_SIGNALS:
                    break
                tasks.start_soon(reload_settings, node, notifier)
            notifier.tell("STOPPING=1", "STATUS=leaving the ring")
            tasks.cancel_scope.cancel()
    write_lines([f"node {settings.node.id} has left the ring"])


async def reload_settings(node: vsync.Node, notifier: Notifier) -> None:
    """Read the settings again. Whatever is wrong with them, the node goes on with those it has."""
    notifier.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        found = await node.reload()
    except vsync.VsyncError as error:
        logger.error("the settings were not reloaded: %s", error)
    else:
        for line in describe(str(node.settings_file), [each.record() for each in found]):
            logger.warning("reload: %s", line)
    notifier.tell("READY=1")


def first_line(settings: NodeSettings, status: Mapping[str, Any], socket: Path) -> str:
    """Say in one line what runs here."""
    parts = [
        f"node {settings.node.id}",
        f'ring "{settings.ring.name}"',
        f"transport {describe_transport(status['transport'])}",
        f"preset {settings.ring.preset}",
        f"socket {socket}",
        f"speedups {status['speedups']}",
        *(f"warning: {warning}" for warning in status["warnings"]),
    ]
    return "; ".join(parts)


def describe_transport(status: Mapping[str, Any]) -> str:
    """A transport's name and addresses, as far as it has any; those of the one inside another."""
    facts = []
    if status.get("interface"):
        facts.append(f"interface {status['interface']}")
    if status.get("address"):
        facts.append(f"address {_place(status['address'])}")
    if status.get("group"):
        facts.append(f"group {_place([status['group'], status.get('port', '')])}")
    if isinstance(status.get("inner"), Mapping):
        facts.append(f"around {describe_transport(status['inner'])}")
    return f"{status['scheme']} ({', '.join(facts)})" if facts else str(status["scheme"])


def _place(address: object) -> str:
    if not isinstance(address, list | tuple):
        return str(address)
    host, *rest = map(str, address)
    return ":".join([f"[{host}]" if ":" in host else host, *rest])


async def tell_configurations(node: vsync.Node, notifier: Notifier) -> None:
    """Print a line for every configuration, with the time of day; tell systemd of the last."""
    async with node.session() as session:
        async for batch in session.batches():
            now = time.strftime("%H:%M:%S")
            lines = [
                configuration_line(event.configuration)
                for event in batch
                if isinstance(event, ConfigurationChanged)
            ]
            write_lines([f"{now} {line}" for line in lines])
            for line in lines[-1:]:
                notifier.tell(f"STATUS={line}")

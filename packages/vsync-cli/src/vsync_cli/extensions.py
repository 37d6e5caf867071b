"""Commands that other packages add, by the hook ``vsync_register_commands``."""

import os
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from typing import Any

import pluggy
import rich_click as click

from vsync.hookspecs import PROJECT
from vsync.plugins import RESTRICTION
from vsync_cli import hookspecs

_HOOK = "vsync_register_commands"


def added_commands(taken: Iterable[str]) -> dict[str, click.Command]:
    """Give the commands of all plugins by name, those in *taken* excepted.

    A plugin that fails harms only its own commands: a sentence on standard error says so.
    """
    names = set(taken)
    commands: dict[str, click.Command] = {}
    for entry in sorted(entry_points(group=PROJECT), key=lambda entry: entry.name):
        restriction = os.environ.get(RESTRICTION)
        if restriction is not None and entry.name not in map(str.strip, restriction.split(",")):
            continue
        try:
            offered = _offered(entry.load(), entry.name)
        except Exception as error:  # whatever a stranger's module does when it is imported
            click.echo(
                f"Warning: the commands of the plugin {entry.name} are missing, because it fails "
                f"with {type(error).__name__}: {error}",
                err=True,
            )
            continue
        for command in offered:
            if not isinstance(command, click.Command) or command.name is None:
                complaint = f"offers {command!r}, which is no command"
            elif command.name in names:
                complaint = f'offers a command "{command.name}", which there is already'
            else:
                names.add(command.name)
                commands[command.name] = command
                continue
            click.echo(f"Warning: the plugin {entry.name} {complaint}.", err=True)
    return commands


def hosts_of(hook: str) -> list[Any]:
    """One caller of *hook* for each plugin that has it. Those that fail to load are left out.

    ``vsync plugins`` says what is wrong with them.
    """
    hosts = []
    for entry in {entry.value: entry for entry in entry_points(group=PROJECT)}.values():
        restriction = os.environ.get(RESTRICTION)
        if restriction is not None and entry.name not in map(str.strip, restriction.split(",")):
            continue
        try:
            plugin = entry.load()
        except Exception:  # whatever a stranger's module does when it is imported
            continue
        if hasattr(plugin, hook):
            manager = pluggy.PluginManager(PROJECT)
            manager.add_hookspecs(hookspecs)
            manager.register(plugin, name=entry.name)
            hosts.append(manager.hook)
    return hosts


def _offered(plugin: Any, name: str) -> list[Any]:
    if not hasattr(plugin, _HOOK):
        return []
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=name)
    answers: Iterable[Sequence[Any]] = manager.hook.vsync_register_commands()
    return [command for answer in answers for command in answer]

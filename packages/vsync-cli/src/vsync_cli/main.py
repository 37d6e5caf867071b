"""The ``vsync`` command: its group, and the one place that turns an error into a sentence."""

import difflib
import os
import sys
from typing import Any

import rich_click as click

from vsync.errors import VsyncError
from vsync_cli.commands.bench import bench
from vsync_cli.commands.check import check
from vsync_cli.commands.demo import demo
from vsync_cli.commands.dissect import dissect_command
from vsync_cli.commands.doctor import doctor
from vsync_cli.commands.init import init
from vsync_cli.commands.key import key
from vsync_cli.commands.keygen import keygen
from vsync_cli.commands.latency import latency
from vsync_cli.commands.links import links
from vsync_cli.commands.plugin import plugin
from vsync_cli.commands.plugins import plugins
from vsync_cli.commands.reload import reload
from vsync_cli.commands.run import run
from vsync_cli.commands.send import send
from vsync_cli.commands.simulate import simulate
from vsync_cli.commands.status import status
from vsync_cli.commands.trace import trace
from vsync_cli.commands.watch import watch
from vsync_cli.extensions import added_commands
from vsync_cli.measure.interruption import INTERRUPTED


class Commands(click.RichGroup):
    """The group ``vsync``: finds commands, also those of plugins, and speaks of errors."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._added: dict[str, click.Command] | None = None

    def _added_commands(self) -> dict[str, click.Command]:
        """Those of plugins. Loading them takes time, so it is done when there is a need."""
        if self._added is None:
            self._added = added_commands(self.commands)
        return self._added

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands by name, those of plugins too."""
        return sorted([*self.commands, *self._added_commands()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command *cmd_name*; plugins are asked only for what is not built in."""
        built_in = super().get_command(ctx, cmd_name)
        return built_in or self._added_commands().get(cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with advice for a word that is no command."""
        word = args[0]
        if not word.startswith("-") and self.get_command(ctx, word) is None:
            names = self.list_commands(ctx)
            close = difflib.get_close_matches(word, names, n=1)
            advice = f'did you mean "{close[0]}"?' if close else f"there are: {', '.join(names)}."
            ctx.fail(f'There is no command "{word}"; {advice}')
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. What was raised on purpose becomes a sentence; the rest is a bug."""
        try:
            return super().invoke(ctx)
        except (VsyncError, KeyboardInterrupt, BrokenPipeError, BaseExceptionGroup) as error:
            match _cause(error):
                case None:
                    raise
                case KeyboardInterrupt():
                    click.echo(err=True)
                    ctx.exit(INTERRUPTED)
                case BrokenPipeError():
                    # Whoever read our output has enough, as `head` does. What is still in the
                    # buffer would raise once more when the interpreter ends.
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                    ctx.exit(0)
                case cause:
                    click.echo(f"Error: {_sentence(str(cause))}", err=True)
                    ctx.exit(1)


def _cause(error: BaseException) -> BaseException | None:
    """What to tell. Of a group of tasks: the first, unless one of them failed by a bug."""
    if isinstance(error, BaseExceptionGroup):
        found = [_cause(part) for part in error.exceptions]
        return None if None in found else found[0]
    return error if isinstance(error, VsyncError | KeyboardInterrupt | BrokenPipeError) else None


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "?", "!", ")")) else f"{text}."


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vsync-cli", prog_name="vsync")
def main() -> None:
    """Virtual synchrony: run nodes, send and watch messages, and see that all agree.

    To see it at work, type `vsync demo`. To begin, type `vsync init`.
    """


for _command in (
    *(run, demo, init, check, send, watch, status, links, doctor, reload, keygen, key),
    *(bench, latency, plugin, plugins, simulate, trace, dissect_command),
):
    main.add_command(_command)

"""The command as a whole: help, versions, words that are no command, errors as sentences."""

from pathlib import Path
from typing import Any

import pytest
import rich_click as click

from tests.cli.command import complaint, invoke, vsync
from vsync.errors import DaemonError
from vsync.hookspecs import hookimpl
from vsync_cli import extensions, main

COMMANDS = sorted(main.main.commands)


def test_the_help_names_every_command_and_has_no_colours_in_a_pipe() -> None:
    shown = vsync("--help")
    assert shown.returncode == 0
    assert all(command in shown.stdout for command in COMMANDS)
    assert "\x1b" not in shown.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"vsync {command}" in result.stdout.replace("main", "vsync")


def test_the_version_is_told() -> None:
    assert "vsync" in invoke("--version").stdout


def test_a_misspelt_command_is_a_usage_error_with_advice() -> None:
    result = invoke("wacth")
    assert result.exit_code == 2
    assert 'There is no command "wacth"' in result.stderr
    assert 'did you mean "watch"?' in result.stderr


def test_a_word_like_no_command_gets_the_list() -> None:
    result = invoke("zzzzzzzz")
    assert result.exit_code == 2
    assert "simulate" in result.stderr


def test_an_unknown_option_is_a_usage_error() -> None:
    assert invoke("plugins", "--jsn").exit_code == 2


def _failing(error: BaseException) -> click.Command:
    @click.command("fail")
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    def add(error: BaseException) -> None:
        monkeypatch.setitem(main.main.commands, "fail", _failing(error))

    return add


def test_an_error_raised_on_purpose_is_one_sentence(failing: Any) -> None:
    failing(DaemonError("nobody answers"))
    assert complaint("fail") == "Error: nobody answers."


def test_so_is_one_that_comes_out_of_a_group_of_tasks(failing: Any) -> None:
    failing(BaseExceptionGroup("tasks", [ExceptionGroup("more", [DaemonError("gone!")])]))
    assert complaint("fail") == "Error: gone!"


def test_a_bug_keeps_its_traceback(failing: Any) -> None:
    failing(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        invoke("fail")
    failing(BaseExceptionGroup("tasks", [ZeroDivisionError("a bug"), DaemonError("a sentence")]))
    with pytest.raises(BaseExceptionGroup):
        invoke("fail")


def test_an_interruption_is_quiet(failing: Any) -> None:
    failing(KeyboardInterrupt())
    result = invoke("fail")
    assert result.exit_code == 130
    assert result.output.strip() == ""


class _Entry:
    """What importlib.metadata gives for an entry point."""

    def __init__(self, name: str, plugin: Any) -> None:
        self.name = name
        self._plugin = plugin

    def load(self) -> Any:
        if isinstance(self._plugin, Exception):
            raise self._plugin
        return self._plugin


class _Plugin:
    def __init__(self, *commands: Any) -> None:
        self._commands = commands

    @hookimpl
    def vsync_register_commands(self) -> list[Any]:
        return list(self._commands)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(**plugins: Any) -> None:
        entries = [_Entry(name, plugin) for name, plugin in plugins.items()]
        monkeypatch.setattr(extensions, "entry_points", lambda group: entries)
        monkeypatch.setattr(main.main, "_added", None)

    yield install
    main.main._added = None


@click.command("backup")
def backup() -> None:
    """Save it all."""
    click.echo("saved")


def test_a_plugin_may_add_a_command(installed: Any) -> None:
    installed(backup=_Plugin(backup))
    assert invoke("backup").stdout == "saved\n"
    assert "backup" in invoke("--help").stdout
    assert 'did you mean "backup"?' in invoke("bakup").stderr


def test_a_plugin_that_fails_is_named_and_harms_no_other(installed: Any) -> None:
    installed(broken=ImportError("no such driver"), backup=_Plugin(backup))
    result = invoke("backup")
    assert result.exit_code == 0
    assert "the plugin broken are missing" in result.stderr
    assert "no such driver" in result.stderr
    assert invoke("plugins").stderr == ""  # built in: nobody need be asked


def test_no_plugin_replaces_a_command(installed: Any) -> None:
    installed(thief=_Plugin(click.Command("run"), "a string"), backup=_Plugin(backup))
    result = invoke("--help")
    assert 'offers a command "run", which there is already' in result.stderr
    assert "which is no command" in result.stderr


def test_a_plugin_that_is_left_out_adds_nothing(
    installed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSYNC_PLUGINS", "udp")
    installed(backup=_Plugin(backup))
    assert invoke("backup").exit_code == 2


def test_output_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    # The reader ends before anything is written to it.
    import os
    import subprocess
    import sys

    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "vsync_cli", "plugins"],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writing)
    assert b"Traceback" not in done.stderr

"""docs/reference/commands.md names every command, option and verb, and no other."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import rich_click as click

from vsync_cli.demo.script import VERBS
from vsync_cli.main import main
from vsync_services.kv.commands import kv
from vsync_services.quorum.commands import quorum

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text()
SECTIONS = dict(re.findall(r"^## (vsync .+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


def walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Give every command that does something by its full name; groups are walked through."""
    if isinstance(command, click.Group):
        for word, part in command.commands.items():
            yield from walk(f"{name} {word}", part)
    else:
        yield name, command


#: Those of the services come by the hook, as a stranger's would, and have their place on the page.
COMMANDS = (
    dict(walk("vsync", main)) | dict(walk("vsync quorum", quorum)) | dict(walk("vsync kv", kv))
)


def options(command: click.Command) -> set[str]:
    return {
        word
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for word in parameter.opts
        if word.startswith("--")
    }


def test_the_page_has_every_command_and_no_other() -> None:
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_names_every_option_of_its_command_and_no_other(name: str) -> None:
    usage = re.search(rf"^`({name}\b[^`]*)`$", SECTIONS[name], re.M)
    assert usage is not None
    named = set(re.findall(r"--[a-z][a-z-]*", usage[1]))
    short = {"--config"} if name == "vsync run" else set()  # the usage line has -c
    assert named | short == options(COMMANDS[name])
    explained = set(re.findall(r"`(--[a-z-]+)`", SECTIONS[name]))
    if len(options(COMMANDS[name])) > 1:
        assert options(COMMANDS[name]) <= explained


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_has_help(name: str) -> None:
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_every_verb_of_the_script_is_explained() -> None:
    named = re.findall(r"^\| `([a-z]+)(?: [A-Z ]+)?` \|", SECTIONS["vsync demo"], re.M)
    assert set(VERBS) <= set(named)

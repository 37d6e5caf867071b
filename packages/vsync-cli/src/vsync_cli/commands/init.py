"""``vsync init``: write a settings file in which every setting is explained."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rich_click as click
from pydantic import BaseModel, ValidationError

from vsync.errors import MisuseError
from vsync.plugins import load_transport
from vsync.settings import PRESETS, DaemonSection, NodeSection, RingSettings
from vsync.vocabulary import NODE_ID_MAX
from vsync_cli.explain import fields_of, to_toml

WIDTH = 96


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("node.toml"))
@click.option(
    "--id",
    "node",
    type=click.IntRange(1, NODE_ID_MAX),
    default=1,
    show_default=True,
    metavar="NUMBER",
    help="The node's number, different on every node of a ring.",
)
@click.option("--ring", default="vsync", show_default=True, metavar="NAME", help="The ring's name.")
@click.option(
    "--bind",
    default="127.0.0.1",
    show_default=True,
    metavar="WHERE",
    help="The interface: an address of it, its name, or its network.",
)
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def init(file: Path, node: int, ring: str, bind: str, force: bool) -> None:
    """Write a settings FILE (node.toml) in which every setting is explained. It asks nothing."""
    transport = load_transport("udp").SETTINGS
    checked(RingSettings, name=ring)
    checked(transport, bind=bind)
    text = "\n".join(lines(transport, node, ring, bind)) + "\n"
    try:
        with file.open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise MisuseError(f"{file} is there already; --force replaces it") from error
    except OSError as error:
        raise MisuseError(f"{file} cannot be written: {error.strerror}") from error
    click.echo(f"{file} is written. Look at it, then: vsync run -c {file}")


def checked(model: type[BaseModel], **values: Any) -> None:
    """Raise MisuseError if the file would not be understood with these values."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise MisuseError(said) from error


def lines(transport: type[BaseModel], node: int, ring: str, bind: str) -> Iterator[str]:
    """The lines of the file."""
    yield from comment(
        "Settings of one vsync node. What is commented out shows its default. `vsync check` "
        "explains what is in effect; units are at the end of the names."
    )
    yield from section("node", NodeSection, {"id": node})
    yield from section(
        "ring", RingSettings, {"name": ring, "transport": "udp", "preset": "lan"}, PRESETS["lan"]
    )
    yield from section("transport.udp", transport, {"bind": bind})
    yield from section("daemon", DaemonSection, {})


def section(
    heading: str,
    model: type[BaseModel],
    values: dict[str, Any],
    preset: dict[str, Any] | None = None,
) -> Iterator[str]:
    """The lines of one section: *values* as they are, everything else commented out."""
    yield ""
    yield f"[{heading}]"
    for setting in fields_of(heading, model):
        yield ""
        yield from comment(setting.meaning)
        if setting.name in values:
            yield f"{setting.name} = {to_toml(values[setting.name])}"
        else:
            default = (preset or {}).get(setting.name, setting.value)
            example = "   (not set by default)" if default is None else to_toml(default)
            yield f"#{setting.name} = {example}"


def comment(text: str) -> Iterator[str]:
    """Text as comment lines."""
    for line in textwrap.wrap(text, WIDTH - 2):
        yield f"# {line}"

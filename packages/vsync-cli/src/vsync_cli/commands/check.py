"""``vsync check``: read a settings file, and say what is in effect and why."""

import tomllib
from pathlib import Path
from typing import Any

import rich_click as click

from vsync.key_file import key_ring_of
from vsync.settings_file import read_settings
from vsync_cli.explain import DEFAULT, Explained, explain, shown
from vsync_cli.parameters import json_option
from vsync_cli.render import show_json


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def check(file: Path, as_json: bool) -> None:
    """Read the settings FILE and explain every value: where it comes from, and what it means.

    The exit code is 1 if a node could not use it. Nothing is opened but the key's file: whether the
    interface is there and the port is free, `vsync run` finds out.
    """
    settings = read_settings(file)
    key_ring_of(settings.security)  # or say what is wrong with the files
    explained = list(explain(settings, tomllib.loads(file.read_text(encoding="utf-8"))))
    if as_json:
        show_json([record(setting) for setting in explained])
        return
    click.echo("\n".join(describe(explained)))


def record(setting: Explained) -> dict[str, Any]:
    """A setting's fields, JSON-ready."""
    plain = isinstance(setting.value, bool | int | float | str | list | dict | None)
    return {
        "key": f"{setting.section}.{setting.name}",
        "value": setting.value if plain else str(setting.value),
        "from": setting.source,
        "meaning": setting.meaning,
    }


def describe(explained: list[Explained]) -> list[str]:
    """Settings as lines for people, under the headings of the file."""
    lines: list[str] = []
    section = None
    for setting in explained:
        if setting.section != section:
            section = setting.section
            lines += ["", f"[{section}]"] if lines else [f"[{section}]"]
        source = "" if setting.source == DEFAULT else f", from the {setting.source}"
        default = ", by default" if setting.source == DEFAULT else ""
        lines.append(f"{setting.name} = {shown(setting.value)}{source}{default}")
        if setting.meaning:
            lines.append(f"    {setting.meaning}")
    return lines

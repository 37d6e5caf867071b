"""Tables and lines for people, JSON for programs. No colours where no terminal is."""

import base64
import contextlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import rich_click as click

from vsync.events import ConfigurationChanged, Disconnected, Event, GroupChanged
from vsync.trace import view_fields
from vsync.vocabulary import Configuration

TEXT_MAX = 200
"""How many characters of a payload a line for people shows."""


def show_json(value: Any) -> None:
    """Print *value* as JSON, indented: the one answer of a command."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def json_line(value: Any) -> str:
    """*value* as JSON in one line: one of many."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = False
) -> str:
    """Columns with headings. Never cut or folded: a program may read them, too.

    With *numbers*, all columns but the first stand at their right edge.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [
        max(len(heading), *(len(row[column]) for row in cells), 0)
        for column, heading in enumerate(headings)
    ]
    lines = [click.style(_columns(headings, widths, numbers), bold=True)]
    lines += [_columns(row, widths, numbers) for row in cells]
    return "\n".join(lines)


def _columns(row: Sequence[str], widths: Sequence[int], numbers: bool) -> str:
    return "  ".join(
        cell.rjust(width) if numbers and column else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()


def listed(numbers: Iterable[object]) -> str:
    """Numbers with spaces between; ``none`` if there are none."""
    return " ".join(map(str, numbers)) or "none"


def configuration_line(configuration: Configuration) -> str:
    """A configuration as one line for people."""
    return describe_configuration(
        configuration.id,
        configuration.kind.value,
        configuration.members,
        configuration.joined,
        configuration.left,
    )


def describe_configuration(
    identity: str,
    kind: str,
    members: Iterable[object],
    joined: Sequence[object],
    left: Sequence[object],
) -> str:
    """A configuration's parts as one line for people."""
    changes = [f"{word} {listed(who)}" for word, who in (("joined", joined), ("left", left)) if who]
    changed = f" ({', '.join(changes)})" if changes else ""
    return f"{kind} configuration {identity}: members {listed(members)}{changed}"


def configuration_record(configuration: Configuration) -> dict[str, Any]:
    """A configuration's fields, JSON-ready."""
    return {
        "id": configuration.id,
        "kind": configuration.kind.value,
        "members": list(configuration.members),
        "joined": list(configuration.joined),
        "left": list(configuration.left),
        "next": configuration.next,
    }


def event_record(event: Event) -> dict[str, Any]:
    """An event's fields, JSON-ready: the payload in base64, and as text where it is UTF-8."""
    if isinstance(event, ConfigurationChanged):
        return {"event": "configuration", **configuration_record(event.configuration)}
    if isinstance(event, GroupChanged):
        return {"event": "group", **view_fields(event)}
    if isinstance(event, Disconnected):
        return {"event": "disconnected", "reason": event.reason}
    record: dict[str, Any] = {
        "event": "deliver",
        "message": str(event.message),
        "sender": event.sender.node,
        "session": event.sender.session,
        "groups": [group.hex() for group in event.groups],
        "guarantee": event.guarantee.word,
        "configuration": event.configuration.id,
        "size": len(event.payload),
        "payload": base64.b64encode(event.payload).decode(),
    }
    with contextlib.suppress(UnicodeDecodeError):
        record["text"] = str(event.payload, "utf-8")
    return record


def event_line(event: Event) -> str:
    """An event as one line for people."""
    if isinstance(event, ConfigurationChanged):
        return configuration_line(event.configuration)
    if isinstance(event, GroupChanged):
        return view_line(event)
    if isinstance(event, Disconnected):
        return f"disconnected: {event.reason}"
    groups = ", ".join(map(str, event.groups))
    return f"{groups}: from {event.sender} ({event.guarantee.word}): {payload_text(event.payload)}"


def view_line(view: GroupChanged) -> str:
    """A group view as one line for people."""
    moves = [f"{move.member} {move.cause.value}" for move in (*view.joined, *view.left)]
    kind = "closed group" if view.closed else "group"
    return f"{kind} {view.group}: members {listed(view.members)} ({', '.join(moves)})"


def payload_text(payload: bytes) -> str:
    """The payload as text that cannot disturb a terminal; what is no text is described."""
    try:
        text = str(payload, "utf-8")
    except UnicodeDecodeError:
        return f"{len(payload)} bytes"
    shown = "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in text[:TEXT_MAX]
    )
    return shown if len(text) <= TEXT_MAX else f"{shown}… ({len(payload)} bytes)"


def write_lines(lines: Sequence[str]) -> None:
    """Write a batch of lines in one piece, so that a reader has it at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def facts(values: Mapping[str, object], indent: str = "") -> list[str]:
    """Names and values as aligned lines; what is nested is indented, many alike are a table."""
    width = max((len(name) for name in values), default=0)
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", *facts(value, indent + "  ")]
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            rows = [["-" if part is None else part for part in each.values()] for each in value]
            shown = table(list(value[0]), rows).splitlines()
            lines += [f"{indent}{name}:", *(f"{indent}  {line}" for line in shown)]
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{name:<{width}}  {listed(value)}")
        else:
            lines.append(f"{indent}{name:<{width}}  {value}")
    return lines

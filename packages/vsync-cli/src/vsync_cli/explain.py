"""Every setting with its value, where that comes from, and what it means."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from vsync.plugins import load_transport
from vsync.settings import PRESETS, NodeSettings

FILE, PRESET, DEFAULT = "file", "preset", "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One setting."""

    section: str
    """As in the file, ``transport.udp`` for example."""
    name: str
    value: Any
    source: str
    """``file``, ``preset`` or ``default``."""
    meaning: str


def explain(settings: NodeSettings, written: Mapping[str, Any]) -> Iterator[Explained]:
    """Give every setting that is in effect. *written* is what the file itself says."""
    scheme = settings.ring.transport
    transport = load_transport(scheme).SETTINGS
    parts: list[tuple[str, BaseModel]] = [
        ("node", settings.node),
        ("ring", settings.ring),
        (
            f"transport.{scheme}",
            transport.model_validate(settings.transport.get(scheme, {})),
        ),
        ("daemon", settings.daemon),
        ("security", settings.security),
    ]
    for section, model in parts:
        given: Any = written
        for word in section.split("."):
            given = given.get(word, {})
        preset = PRESETS[settings.ring.preset] if section == "ring" else {}
        meanings = meanings_of(type(model))
        for name in type(model).model_fields:
            source = FILE if name in given else PRESET if name in preset else DEFAULT
            yield Explained(
                section=section,
                name=name,
                value=getattr(model, name),
                source=source,
                meaning=meanings.get(name, ""),
            )


def meanings_of(model: type[BaseModel]) -> dict[str, str]:
    """What the fields of *model* mean: the description, or the string below the field."""
    meanings: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, SyntaxError, TypeError):
            continue  # a plugin without its source; it may have given descriptions
        definition = tree.body[0]
        if isinstance(definition, ast.ClassDef):
            meanings.update(_documented(definition))
    for name, field in model.model_fields.items():
        if field.description:
            meanings[name] = field.description
    return {name: _plain(text) for name, text in meanings.items() if name in model.model_fields}


def _documented(definition: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            yield field.target.id, below.value.value


def _plain(text: str) -> str:
    return " ".join(text.replace("``", '"').split())


def to_toml(value: Any) -> str:
    """Write a value as TOML has it. Tables are written inline; ``None`` is not possible."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{to_toml(str(key))} = {to_toml(part)}" for key, part in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(to_toml, value))}]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    escaped = "".join(
        f"\\u{ord(character):04x}" if ord(character) < 32 or ord(character) == 127 else character
        for character in text
    )
    return f'"{escaped}"'


def shown(value: Any) -> str:
    """A value for people; ``None`` is a setting that is not set."""
    return "(not set)" if value is None else to_toml(value)

"""Writes the generated parts of the reference pages, from the code that they describe.

A page in ``docs/reference`` is written by hand, but for its regions::

    <!-- generated: settings-ring -->
    …
    <!-- end of generated -->

``python docs/generate_reference.py`` writes them anew. A test holds the committed pages against it.
"""

import ast
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Final, get_args

from pydantic import BaseModel

import vsync
from vsync import errors, evs, hookspecs, testing, trace
from vsync.errors import VsyncError
from vsync.plugins import load_service, load_transport
from vsync.settings import (
    PRESETS,
    DaemonSection,
    NodeSection,
    RingSettings,
    SecuritySection,
    mark_of,
)
from vsync.testing.properties import PROPERTIES
from vsync.transports.redundant import LinkSettings
from vsync_cli import hookspecs as command_hookspecs
from vsync_cli.explain import meanings_of, to_toml

PAGES: Final = Path(__file__).parent

REGION: Final = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end of generated -->)",
    re.DOTALL,
)

SECTIONS: Final[Mapping[str, type[BaseModel]]] = {
    "node": NodeSection,
    "ring": RingSettings,
    "daemon": DaemonSection,
    **{
        f"transport.{name}": load_transport(name).SETTINGS
        for name in ("udp", "udpu", "ib", "redundant")
    },
    "transport.redundant.links": LinkSettings,
    **{f"transport.{name}": load_transport(name).SETTINGS for name in ("fault", "memory")},
    "security": SecuritySection,
    **{f"service.{name}": load_service(name).SETTINGS for name in ("quorum", "kv")},
}
"""Every section of a settings file, and its model."""

UNITS: Final = {
    "_s": "seconds",
    "_bytes": "bytes",
    "_bytes_max": "bytes",
    "_packets": "packets",
    "packets_per_visit": "packets",
}
"""What the ends of names say."""

API: Final[Mapping[str, tuple[str, ...]]] = {
    "node": ("open_node", "Node", "connect", "serve"),
    "session": ("Session", "NodeSession", "SlowPolicy"),
    "events": (
        "Event",
        "Delivery",
        "Envelope",
        "ConfigurationChanged",
        "GroupChanged",
        "Disconnected",
        "Configuration",
        "Kind",
        "RingId",
        "Move",
        "Cause",
    ),
    "words": ("Guarantee", "Priority", "GroupKey", "Member", "MessageId", "NodeId"),
    "settings": ("read_settings", "NodeSettings", "NodeSection", "RingSettings", "DaemonSection"),
    "plugins": (
        "hookimpl",
        "Transport",
        "Packet",
        "Burst",
        "Address",
        "EVERYONE",
        "Service",
        "ServiceContext",
        "NoSettings",
    ),
}
"""The public names that are no errors, by region of the page."""

EVS: Final = (
    "initialize",
    "finalize",
    "fd_get",
    "dispatch",
    "join",
    "leave",
    "mcast_joined",
    "mcast_groups",
    "membership_get",
    "context_get",
    "context_set",
    "Handle",
    "Callbacks",
    "DeliverCallback",
    "ChangeCallback",
    "Dispatch",
    "Membership",
    "Group",
    "Groups",
    "Code",
    "EvsError",
)
"""The names of ``vsync.evs`` that neither ``vsync`` has nor the table of its errors."""

TESTING: Final = (
    "Simulation",
    "SimulationFailed",
    "idle",
    "TransportContract",
    "MakeTransport",
    "ServiceContract",
    "Cluster",
)
"""The names of ``vsync.testing``."""

PLAIN: Final = {
    "MakeTransport": "What a contract's fixture gives: a function from a node id to a transport "
    "that was made and is not open.",
    "DeliverCallback": "A function that is called with the handle, the node that sent the message, "
    "and the message.",
    "ChangeCallback": "A function that is called with the handle, the members, those who left, "
    "those who joined (tuples of node ids), and the id of the ring.",
    "Group": "The key of a group: a `GroupKey`, or 32 bytes.",
    "Groups": "One `Group`, or several: any iterable of them.",
    "Address": "Any hashable value: where a packet came from, and so where an answer goes. Opaque "
    "to all but its transport.",
    "EVERYONE": "The destination of a `Burst` that means all nodes of the ring, the sender "
    "itself excepted.",
    "Event": "`Delivery | ConfigurationChanged`: what a session's stream consists of.",
    "NodeId": "A node's number on its ring, 1 to 4,294,967,295 (an `int`), unique among the nodes "
    "that may ever meet.",
    "hookimpl": "Marks a function of a plugin as an implementation of a hook; see "
    "[hooks](hooks.md).",
}
"""Names whose value has no documentation of its own."""


def plain(text: str) -> str:
    """A docstring as Markdown."""
    text = inspect.cleandoc(text)
    text = re.sub(r"::\n\n((?:    .*\n?|\n)+)", _code, text)
    return text.replace("``", "`")


def _code(found: "re.Match[str]") -> str:
    code = textwrap.dedent(found[1]).strip("\n")
    language = "toml" if code.startswith("[") else "python"
    return f":\n\n```{language}\n{code}\n```\n"


def cell(text: str) -> str:
    """Text as it may stand in a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(heads) + " |"
    yield "| " + " | ".join("---" for _ in heads) + " |"
    for row in rows:
        yield "| " + " | ".join(map(cell, row)) + " |"


# --- settings -----------------------------------------------------------------------------------


def unit_of(name: str) -> str:
    """What a setting is counted in; empty if its name does not say."""
    found = [unit for end, unit in UNITS.items() if name.endswith(end)]
    return found[-1] if found else ""


def kind_of(annotation: Any) -> str:
    """A type as people write it."""
    parts = [part for part in get_args(annotation) if part is not type(None)] or [annotation]
    names = {str: "text", int: "integer", float: "number", bool: "true or false", Path: "path"}
    whole = str(annotation)
    if whole.startswith("tuple"):
        return "list of text"
    if whole.startswith("dict"):
        return "table"
    return " or ".join(
        "list of integers"
        if str(part).startswith("tuple[int")
        else names.get(part) or f"`{to_toml(part)}`"
        for part in parts
    )


def limits_of(model: type[BaseModel], name: str) -> str:
    """The values that a number may have."""
    low = high = None
    for rule in model.model_fields[name].metadata:
        low = getattr(rule, "ge", low)
        high = getattr(rule, "le", high)
    return f"{low} to {high}" if low is not None and high is not None else ""


def default_of(model: type[BaseModel], name: str) -> str:
    """A default as one would write it."""
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "not set" if value is None else f"`{to_toml(value)}`"


CHANGES: Final = {"ring": "on the ring", "node": "here", "None": "restart"}
"""Where a reload changes a setting, by its mark."""


def settings_table(model: type[BaseModel]) -> Iterator[str]:
    """One section's settings."""
    meanings = meanings_of(model)

    def rows() -> Iterator[tuple[str, ...]]:
        for name, field in model.model_fields.items():
            kind = kind_of(field.annotation)
            unit = unit_of(name)
            limits = limits_of(model, name)
            values = f"{limits} {unit}" if limits and unit else limits or unit or kind
            meaning = re.sub(r'"([^"]+)"', r"`\1`", meanings.get(name, ""))
            changes = CHANGES[str(mark_of(model, name, "change"))]
            yield f"`{name}`", values, default_of(model, name), changes, meaning

    yield from table(("key", "values", "default", "changes", "meaning"), rows())


def presets_table() -> Iterator[str]:
    """What each preset changes."""
    changed = dict.fromkeys(name for preset in PRESETS.values() for name in preset)

    def rows() -> Iterator[tuple[str, ...]]:
        for name in changed:
            values = (getattr(RingSettings(preset=preset), name) for preset in PRESETS)
            yield f"`{name}`", *(to_toml(value) for value in values)

    yield from table(("key", *(f"`{preset}`" for preset in PRESETS)), rows())


# --- errors -------------------------------------------------------------------------------------


def all_errors() -> list[type[VsyncError]]:
    """Every error of the core, in the order of its definition."""
    found = [VsyncError]
    for module in (errors, trace):
        found += [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, VsyncError)
            and value.__module__ == module.__name__
            and value is not VsyncError
        ]
    return found


def errors_table() -> Iterator[str]:
    """Every error, what it is a kind of, and its meaning."""

    def rows() -> Iterator[tuple[str, ...]]:
        for error in all_errors():
            parent = error.__mro__[1]
            public = hasattr(vsync, error.__name__)
            where = "`vsync`" if public else f"`{error.__module__}`"
            yield f"`{error.__name__}`", f"`{parent.__name__}`", where, plain(error.__doc__ or "")

    yield from table(("error", "a kind of", "import from", "meaning"), rows())


def evs_errors_table() -> Iterator[str]:
    """Every error of ``vsync.evs``, with the seed's number."""

    def rows() -> Iterator[tuple[str, ...]]:
        for error in sorted(evs.EvsError.__subclasses__(), key=lambda error: error.code):
            code = f"`{error.code.name}` {error.code.value}"
            yield f"`{error.__name__}`", code, plain(error.__doc__ or "")

    yield from table(("error", "code", "meaning"), rows())


# --- hooks --------------------------------------------------------------------------------------


def hooks_of(module: ModuleType) -> list[Callable[..., Any]]:
    """The functions of *module* that are hook specifications."""
    return [
        value
        for value in vars(module).values()
        if inspect.isfunction(value) and hasattr(value, f"{hookspecs.PROJECT}_spec")
    ]


def hooks(module: ModuleType) -> Iterator[str]:
    """Every hook of *module*."""
    for hook in hooks_of(module):
        yield f"### `{hook.__name__}`"
        yield ""
        yield "```text"
        yield f"def {signature(definition(hook))}"
        yield "```"
        yield ""
        yield plain(hook.__doc__ or "")
        yield ""


# --- names --------------------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef


def definition(thing: Any) -> Any:
    """The syntax of a class or function, from its source."""
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))).body[0]


def signature(function: Function) -> str:
    """Name, arguments and result as written, without ``self``."""
    returns = f" -> {ast.unparse(function.returns)}" if function.returns is not None else ""
    return f"{function.name}({', '.join(arguments(function.args))}){returns}".replace("'", '"')


def arguments(given: ast.arguments) -> Iterator[str]:
    """Each argument with its type and default."""
    named = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(named) - len(given.defaults))
    for argument, default in zip(named, [*defaults, *given.defaults], strict=True):
        if argument.arg not in ("self", "cls"):
            yield one_argument(argument, default)
    if given.vararg is not None:
        yield f"*{one_argument(given.vararg, None)}"
    elif given.kwonlyargs:
        yield "*"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield one_argument(argument, default)


def one_argument(argument: ast.arg, default: ast.expr | None) -> str:
    """One argument, as ruff would format it."""
    shown = argument.arg
    if argument.annotation is not None:
        shown += f": {ast.unparse(argument.annotation)}"
    return shown if default is None else f"{shown} = {ast.unparse(default)}"


def docs_below(body: list[ast.stmt]) -> dict[str, str]:
    """What the string below each attribute of a class says."""
    return {
        field.target.id: below.value.value
        for field, below in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def described(name: str, module: ModuleType = vsync) -> Iterator[str]:
    """All about one public name."""
    thing = getattr(module, name)
    yield f"### `{name}`"
    yield ""
    if name in PLAIN:
        yield PLAIN[name]
    elif inspect.isclass(thing):
        yield plain(thing.__doc__ or "")
        yield ""
        yield from members(thing)
    else:
        function = definition(thing)
        managed = any("contextmanager" in ast.unparse(mark) for mark in function.decorator_list)
        shown = signature(function)
        kind = "async def " if isinstance(function, ast.AsyncFunctionDef) else "def "
        if managed:
            kind, shown = "async with ", re.sub(r" -> AsyncIterator\[(.*)\]", r" as \1", shown)
        yield f"```text\n{kind}{shown}\n```"
        yield ""
        yield plain(thing.__doc__ or "")
    yield ""


def members(kind: type) -> Iterator[str]:
    """The values, fields, properties and methods of a class."""
    if issubclass(kind, BaseModel):
        names = ", ".join(f"`{name}`" for name in kind.model_fields)
        yield f"Fields: {names}. See [settings](settings.md)."
        return
    body = definition(kind).body
    if issubclass(kind, Enum):
        comments = dict(re.findall(r"^    ([A-Z]+) = .*?(?:  #: (.*))?$", source(kind), re.M))
        for member in kind:
            said = comments.get(member.name, "")
            yield f"- `{member.name}`" + (f": {said}" if said else "")
    below = docs_below(body)
    for field in body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            name = field.target.id
            if not name.startswith("_"):
                said = f": {plain(below[name])}" if name in below else ""
                yield f"- `{name}: {ast.unparse(field.annotation)}`" + " ".join(said.split("\n"))
        elif isinstance(field, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from method(field)


def source(thing: Any) -> str:
    """Source without its indentation."""
    return textwrap.dedent(inspect.getsource(thing))


def method(function: Function) -> Iterator[str]:
    """One method or property, if it is public and says what it does."""
    said = ast.get_docstring(function)
    if function.name.startswith("_") or function.name == "set_groups" or not said:
        return
    marks = {ast.unparse(mark) for mark in function.decorator_list}
    if "property" in marks:
        shown = f"{function.name}: {ast.unparse(function.returns)}" if function.returns else ""
    else:
        kind = "async " if isinstance(function, ast.AsyncFunctionDef) else ""
        shown = f"{kind}{signature(function)}"
    text = textwrap.indent(plain(said), "  ").strip()
    yield f"- `{shown}`\n\n  {text}\n"


# --- properties ---------------------------------------------------------------------------------


def properties_table() -> Iterator[str]:
    """Every property that the checker knows."""

    def rows() -> Iterator[tuple[str, ...]]:
        for entry in PROPERTIES:
            yield entry.number, entry.statement + (" (quiet end only)" if entry.quiet else "")

    yield from table(("number", "what it promises"), rows())


# --- pages --------------------------------------------------------------------------------------


def regions() -> Mapping[str, str]:
    """Every region's text, by name."""
    made: dict[str, Iterator[str]] = {
        f"settings-{section.replace('.', '-')}": settings_table(model)
        for section, model in SECTIONS.items()
    }
    made["presets"] = presets_table()
    made["errors"] = errors_table()
    made["hooks-core"] = hooks(hookspecs)
    made["hooks-commands"] = hooks(command_hookspecs)
    made["properties"] = properties_table()
    for region, names in API.items():
        made[f"api-{region}"] = (line for name in names for line in described(name))
    made["testing"] = (line for name in TESTING for line in described(name, testing))
    made["evs"] = (line for name in EVS for line in described(name, evs))
    made["evs-errors"] = evs_errors_table()
    return {name: tidy("\n".join(lines)) for name, lines in made.items()}


def tidy(text: str) -> str:
    """Never two empty lines in a row, none at the end."""
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def generate(page: str, made: Mapping[str, str]) -> str:
    """The text of a page with its regions as they should be."""
    return REGION.sub(lambda found: found["begin"] + made[found["name"]] + found["end"], page)


def main() -> int:
    """Write every page that differs."""
    made = regions()
    for path in sorted(PAGES.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        wanted = generate(text, made)
        if wanted != text:
            path.write_text(wanted, encoding="utf-8")
            sys.stdout.write(f"{path} is written\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

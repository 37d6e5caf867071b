"""Find plugins by entry point, load one by name, refuse duplicates, list them all.

Only the wanted plugin is imported, so one that is broken harms nobody who does not use it. The
environment variable ``VSYNC_PLUGINS`` (names with commas between) leaves out all others.
"""

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import pluggy

from vsync import hookspecs
from vsync.errors import PluginNotFound
from vsync.hookspecs import PROJECT
from vsync.transport import TRANSPORT_API, Transport

RESTRICTION: Final = "VSYNC_PLUGINS"
"""The environment variable that names the only plugins that may load."""

_REGISTER: Final = "vsync_register_"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginInfo:
    """One installed plugin, as ``vsync plugins`` shows it.

    *kind* is ``transport``, or what else the plugin registers (``unknown`` if it does not load).
    *state* is ``ready``, ``broken``, ``duplicate`` or ``left out``; all but the first have an
    *error*, a sentence.
    """

    name: str
    kind: str
    distribution: str
    version: str
    state: str
    error: str | None = None


class _Broken(Exception):
    """A plugin cannot be used; the text says why, without naming it."""


def load_transport(scheme: str) -> type[Transport]:
    """Give the transport class that the installed plugins know as *scheme*.

    Raises PluginNotFound with a sentence: none has that name, two claim it, it does not load, or
    it was made for another version of the transport interface.
    """
    installed = _installed()
    entries = [entry for entry in installed if entry.name == scheme]
    if not entries:
        raise PluginNotFound(_missing(scheme, installed))
    if not _allowed(scheme):
        raise PluginNotFound(
            f'the transport "{scheme}" is installed, but {RESTRICTION}='
            f"{os.environ.get(RESTRICTION, '')} leaves it out; add it there, or unset {RESTRICTION}"
        )
    if len(entries) > 1:
        raise PluginNotFound(_claimed(scheme, entries))
    try:
        return _transport(entries[0])
    except _Broken as broken:
        raise PluginNotFound(
            f'the transport "{scheme}" of {_origin(entries[0])} cannot be used: {broken}'
        ) from broken.__cause__


def list_plugins() -> list[PluginInfo]:
    """Load every installed plugin, each by itself, and say what became of it; sorted by name."""
    installed = _installed()
    found = []
    for entry in installed:
        same = [other for other in installed if other.name == entry.name]
        kind, state, error = "unknown", "ready", None
        if not _allowed(entry.name):
            state, error = "left out", f"{RESTRICTION} does not name it"
        else:
            try:
                kind = _kind(entry)
                if kind == "transport":
                    _transport(entry)
            except _Broken as broken:
                state, error = "broken", str(broken)
            if len(same) > 1:
                state, error = "duplicate", _claimed(entry.name, same)
        found.append(
            PluginInfo(
                name=entry.name,
                kind=kind,
                distribution=entry.dist.name if entry.dist else "unknown",
                version=entry.dist.version if entry.dist else "unknown",
                state=state,
                error=error,
            )
        )
    return found


def _installed() -> list[EntryPoint]:
    """All entries of our group, sorted; one found twice along ``sys.path`` counts once."""
    unique: dict[tuple[str, str, str], EntryPoint] = {}
    for entry in entry_points(group=PROJECT):
        unique.setdefault((entry.name, entry.dist.name if entry.dist else "", entry.value), entry)
    return [unique[key] for key in sorted(unique)]


def _allowed(name: str) -> bool:
    restriction = os.environ.get(RESTRICTION)
    return restriction is None or name in {word.strip() for word in restriction.split(",")}


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # whatever a stranger's module does when it is imported
        raise _Broken(
            f"importing {entry.value} fails with {type(error).__name__}: {error}"
        ) from error


def _kind(entry: EntryPoint) -> str:
    """What a plugin registers. Hosts above the core have hooks of their own, named the same way."""
    plugin = _load(entry)
    kinds = {
        name.removeprefix(_REGISTER).removesuffix("s")
        for name in dir(plugin)
        if name.startswith(_REGISTER) and hasattr(getattr(plugin, name), f"{PROJECT}_impl")
    }
    if not kinds:
        raise _Broken(f"{entry.value} has no function {_REGISTER}… marked @hookimpl")
    return "transport" if "transport" in kinds else ", ".join(sorted(kinds))


def _transport(entry: EntryPoint) -> type[Transport]:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    plugin = _load(entry)
    try:
        manager.register(plugin, name=entry.name)
        answers: Iterable[Sequence[Any]] = manager.hook.vsync_register_transports()
        offered = [candidate for answer in answers for candidate in answer]
    except Exception as error:  # as in _load: the plugin's own code has run
        raise _Broken(
            f"{_REGISTER}transports fails with {type(error).__name__}: {error}"
        ) from error
    for candidate in offered:
        if not (isinstance(candidate, type) and issubclass(candidate, Transport)):
            raise _Broken(f"it registers {candidate!r}, which is no class derived from Transport")
    chosen = [candidate for candidate in offered if getattr(candidate, "SCHEME", "") == entry.name]
    if len(chosen) != 1:
        raise _Broken(
            f"{entry.value} registers {len(chosen)} transports with SCHEME "
            f'"{entry.name}", and exactly one is needed'
        )
    transport: type[Transport] = chosen[0]
    if transport.API != TRANSPORT_API:
        raise _Broken(
            f"it was made for transport interface {transport.API}, and this vsync has "
            f"{TRANSPORT_API}; install matching versions"
        )
    return transport


def _missing(scheme: str, installed: Sequence[EntryPoint]) -> str:
    names = sorted({entry.name for entry in installed if _allowed(entry.name)})
    close = difflib.get_close_matches(scheme, names, n=1)
    if close:
        advice = f'did you mean "{close[0]}"?'
    elif scheme.replace("-", "").replace("_", "").isalnum():
        advice = f"try `pip install vsync-transport-{scheme}`"
    else:
        advice = "a transport's name has only letters, digits, - and _"
    known = ", ".join(names) or "none"
    return f'no transport "{scheme}" is installed; {advice} (installed: {known})'


def _claimed(name: str, entries: Sequence[EntryPoint]) -> str:
    origins = " and ".join(sorted(_origin(entry) for entry in entries))
    return f'the name "{name}" is claimed by {origins}; uninstall all but one'


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value

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
from vsync.service import SERVICE_API, Service
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


@dataclass(frozen=True, slots=True)
class _Kind:
    """What plugins of one kind have in common."""

    word: str
    base: type
    name: str  #: the class attribute with the plugin's name
    api: int
    package: str  #: what to install for one that is missing

    @property
    def hook(self) -> str:
        return f"{_REGISTER}{self.word}s"


_TRANSPORT: Final = _Kind("transport", Transport, "SCHEME", TRANSPORT_API, "vsync-transport-{name}")
_SERVICE: Final = _Kind("service", Service, "NAME", SERVICE_API, "vsync-service-{name}")
_KINDS: Final = (_TRANSPORT, _SERVICE)

_PACKAGES: Final = {
    "udp": "vsync-transport-udp",
    "udpu": "vsync-transport-udp",
    "ib": "vsync-transport-ib",
    "quorum": "vsync-services",
    "kv": "vsync-services",
}
"""Which package of ours has what; of others the name is a guess."""


def load_transport(scheme: str) -> type[Transport]:
    """Give the transport class that the installed plugins know as *scheme*.

    Raises PluginNotFound with a sentence: none has that name, two claim it, it does not load, or
    it was made for another version of the transport interface.
    """
    transport: type[Transport] = _find(_TRANSPORT, scheme)
    return transport


def load_service(name: str) -> type[Service]:
    """Give the service class that the installed plugins know as *name*; as ``load_transport``."""
    service: type[Service] = _find(_SERVICE, name)
    return service


def _find(kind: _Kind, name: str) -> Any:
    installed = _installed()
    entries = [entry for entry in installed if entry.name == name]
    if not entries:
        raise PluginNotFound(_missing(kind, name, installed))
    if not _allowed(name):
        raise PluginNotFound(
            f'the {kind.word} "{name}" is installed, but {RESTRICTION}='
            f"{os.environ.get(RESTRICTION, '')} leaves it out; add it there, or unset {RESTRICTION}"
        )
    if len(entries) > 1:
        raise PluginNotFound(_claimed(name, entries))
    try:
        return _registered(kind, entries[0])
    except _Broken as broken:
        raise PluginNotFound(
            f'the {kind.word} "{name}" of {_origin(entries[0])} cannot be used: {broken}'
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
                for known in _KINDS:
                    if kind == known.word:
                        _registered(known, entry)
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
    for known in _KINDS:
        if known.word in kinds:
            return known.word
    return ", ".join(sorted(kinds))


def _registered(kind: _Kind, entry: EntryPoint) -> Any:
    """The class that *entry* registers under its own name."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    plugin = _load(entry)
    try:
        manager.register(plugin, name=entry.name)
        answers: Iterable[Sequence[Any]] = getattr(manager.hook, kind.hook)()
        offered = [candidate for answer in answers for candidate in answer]
    except Exception as error:  # as in _load: the plugin's own code has run
        raise _Broken(f"{kind.hook} fails with {type(error).__name__}: {error}") from error
    for candidate in offered:
        if not (isinstance(candidate, type) and issubclass(candidate, kind.base)):
            raise _Broken(
                f"it registers {candidate!r}, which is no class derived from {kind.base.__name__}"
            )
    chosen = [candidate for candidate in offered if getattr(candidate, kind.name, "") == entry.name]
    if len(chosen) != 1:
        raise _Broken(
            f"{entry.value} registers {len(chosen)} {kind.word}s with {kind.name} "
            f'"{entry.name}", and exactly one is needed'
        )
    if kind.api != chosen[0].API:
        raise _Broken(
            f"it was made for {kind.word} interface {chosen[0].API}, and this vsync has "
            f"{kind.api}; install matching versions"
        )
    return chosen[0]


def _missing(kind: _Kind, name: str, installed: Sequence[EntryPoint]) -> str:
    names = sorted({entry.name for entry in installed if _allowed(entry.name)})
    close = difflib.get_close_matches(name, names, n=1)
    if name in _PACKAGES:
        advice = f"try `pip install {_PACKAGES[name]}`"
    elif close:
        advice = f'did you mean "{close[0]}"?'
    elif name.replace("-", "").replace("_", "").isalnum():
        advice = f"try `pip install {kind.package.format(name=name)}`"
    else:
        advice = f"a {kind.word}'s name has only letters, digits, - and _"
    known = ", ".join(names) or "none"
    return f'no {kind.word} "{name}" is installed; {advice} (installed: {known})'


def _claimed(name: str, entries: Sequence[EntryPoint]) -> str:
    origins = " and ".join(sorted(_origin(entry) for entry in entries))
    return f'the name "{name}" is claimed by {origins}; uninstall all but one'


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value

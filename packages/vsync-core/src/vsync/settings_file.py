"""A node's settings out of a TOML file, with every mistake named by file, line and key."""

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

from vsync.errors import SettingsError
from vsync.plugins import list_plugins, load_service, load_transport
from vsync.service import Service
from vsync.settings import NodeSettings
from vsync.transport import Transport

FILE_BYTES_MAX: Final = 2**20
"""No settings file is larger."""


def read_settings(path: str | os.PathLike[str]) -> NodeSettings:
    """Read the settings file *path*, the chosen transport's section included.

    Raises SettingsError with a line for each mistake, and PluginNotFound if the transport that the
    file names is not installed.
    """
    file = Path(path)
    try:
        return _checked(file, _read_text(file))
    except RecursionError as error:
        raise SettingsError(
            f"{file} has lists or tables within each other, too deep to be read"
        ) from error


def _read_text(file: Path) -> str:
    try:
        with open(file, "rb", opener=_open_at_once) as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                raise SettingsError(
                    f"the settings file {file} is no file but a pipe or a device; "
                    "`vsync init FILE` writes one"
                )
            data = opened.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise SettingsError(
            f"there is no settings file {file}; `vsync init {file}` writes one"
        ) from error
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {file}: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise SettingsError(
            f"{file} is larger than {FILE_BYTES_MAX} bytes, so it is no settings file; "
            "see whether its path is right"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file} is no text in UTF-8: {error}") from error


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for somebody who writes into it, if it is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _checked(file: Path, text: str) -> NodeSettings:
    try:
        written = tomllib.loads(text)
    except ValueError as error:  # a TOMLDecodeError, or a number of thousands of digits
        raise SettingsError(f"{file} is not valid TOML: {error}") from error
    _refuse_null(written, file, text, ())
    try:
        # Strictly: a file that says "1", true or 1.0 for a whole number is mistaken somewhere.
        settings = NodeSettings.model_validate(written, strict=True)
    except ValidationError as error:
        raise SettingsError(_sentences(error, file, text, NodeSettings, ())) from error
    scheme = settings.ring.transport
    transport = load_transport(scheme)
    try:
        transport.SETTINGS.model_validate(settings.transport.get(scheme, {}))
    except ValidationError as error:
        prefix = ("transport", scheme)
        raise SettingsError(_sentences(error, file, text, transport.SETTINGS, prefix)) from error
    _refuse_unknown_transports(settings, file, text)
    for name, section in settings.service.items():
        service = load_service(name)
        try:
            service.SETTINGS.model_validate(section)
        except ValidationError as error:
            prefix = ("service", name)
            raise SettingsError(_sentences(error, file, text, service.SETTINGS, prefix)) from error
    return settings


def _refuse_null(value: object, file: Path, text: str, where: Sequence[str]) -> None:
    """Refuse texts with a null character: the system takes none in a path or a name."""
    if isinstance(value, dict):
        for name, each in value.items():
            _refuse_null(each, file, text, [*where, name])
    elif isinstance(value, list):
        for each in value:
            _refuse_null(each, file, text, where)
    elif isinstance(value, str) and "\0" in value:
        number = _line_of(text, where)
        place = f"{file}:{number}" if number else str(file)
        raise SettingsError(f"{place}: {_name(where)} has a null character (\\u0000); remove it")


def _refuse_unknown_transports(settings: NodeSettings, file: Path, text: str) -> None:
    """Refuse sections of transports that nobody knows: a misspelt one must not go unnoticed."""
    others = [name for name in settings.transport if name != settings.ring.transport]
    installed = [plugin.name for plugin in list_plugins()] if others else []
    lines = []
    for name in others:
        if name not in installed:
            close = difflib.get_close_matches(name, installed, n=1, cutoff=0.5)
            advice = f'did you mean "{close[0]}"?' if close else "install it, or remove its section"
            number = _line_of(text, ("transport", name))
            place = f"{file}:{number}" if number else str(file)
            lines.append(f"{place}: [transport.{name}]: no transport has that name here; {advice}")
    if lines:
        raise SettingsError("\n".join(lines))


def transport_of(settings: NodeSettings) -> tuple[type[Transport], BaseModel]:
    """The chosen transport and its settings. Raises PluginNotFound, SettingsError."""
    scheme = settings.ring.transport
    transport = load_transport(scheme)
    try:
        return transport, transport.SETTINGS.model_validate(settings.transport.get(scheme, {}))
    except ValidationError as error:
        prefix = ("transport", scheme)
        raise SettingsError(_sentences(error, None, "", transport.SETTINGS, prefix)) from error


def services_of(
    settings: NodeSettings, load: Callable[[str], type[Service]] = load_service
) -> list[tuple[type[Service], BaseModel]]:
    """The services that the node runs, each with its settings, by name; *load* finds them.

    Raises PluginNotFound, SettingsError; also if more than one decides what is primary.
    """
    services: list[tuple[type[Service], BaseModel]] = []
    for name, section in sorted(settings.service.items()):
        service = load(name)
        try:
            services.append((service, service.SETTINGS.model_validate(section)))
        except ValidationError as error:
            prefix = ("service", name)
            raise SettingsError(_sentences(error, None, "", service.SETTINGS, prefix)) from error
    deciding = [service.NAME for service, _ in services if service.PRIMARY]
    if len(deciding) > 1:
        raise SettingsError(
            f"the services {' and '.join(deciding)} both decide which configuration is primary; "
            "remove the section of all but one"
        )
    return services


def _sentences(
    error: ValidationError,
    file: Path | None,
    text: str,
    model: type[BaseModel],
    prefix: Sequence[str],
) -> str:
    """One line for each mistake."""
    lines = []
    for mistake in error.errors():
        where = [*prefix, *(str(part) for part in mistake["loc"])]
        number = _line_of(text, where)
        place = "" if file is None else f"{file}:{number}: " if number else f"{file}: "
        lines.append(place + _sentence(dict(mistake), where, model, len(prefix)))
    return "\n".join(lines)


def _sentence(
    mistake: Mapping[str, Any], where: Sequence[str], model: type[BaseModel], skipped: int
) -> str:
    name = _name(where)
    kind = mistake["type"]
    if kind == "extra_forbidden":
        known = list(_fields_at(model, where[skipped:-1]))
        close = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.5)
        advice = f'did you mean "{close[0]}"?' if close else f"known are {', '.join(known)}"
        what = "section" if isinstance(mistake.get("input"), dict) else "key"
        return f"there is no {what} {name}; {advice}"
    if kind == "missing":
        example = "; it begins with `[node]`, then `id = 1`" if name == "[node]" else ""
        return f"{name} is missing; every node needs it{example}"
    if kind in ("model_type", "dict_type"):
        return f"{name} must be a section, not {mistake.get('input')!r}"
    message = str(mistake["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if kind == "value_error":
        return f"{name}: {message}" if name else message
    return f"{name} {message}, not {mistake.get('input')!r}"


def _name(where: Sequence[str]) -> str:
    if not where:
        return ""
    section, key = ".".join(where[:-1]), where[-1]
    return f"{key} in [{section}]" if section else f"[{key}]"


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> Sequence[str]:
    """The names that *model* knows at *path*."""
    current = model
    for part in path:
        field = current.model_fields.get(part)
        if field is None:
            return ()
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return ()
        current = inner[0]
    return tuple(current.model_fields)


def _line_of(text: str, where: Sequence[str]) -> int | None:
    """The line that sets the key *where*, or begins its section; counted from 1."""
    section: list[str] = []
    found = None
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        if header:
            section = [part.strip().strip("\"'") for part in header.group(1).split(".")]
            if section == list(where[: len(section)]):
                found = number if found is None or len(section) >= 1 else found
            continue
        key = re.match(r"\s*([\w\"'.-]+)\s*=", line)
        if key:
            path = [*section, *(part.strip("\"'") for part in key.group(1).split("."))]
            if path == list(where[: len(path)]):
                return number
    return found

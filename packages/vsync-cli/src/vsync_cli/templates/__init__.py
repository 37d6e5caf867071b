"""Packages to begin a plugin with: each works, and is called ``example`` until it is written.

They are kept as they are, so that they can be read, checked and tested like all other code; writing
one puts the plugin's name in place of ``example``.
"""

import keyword
import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, NamedTuple

from vsync.errors import MisuseError

KINDS: Final = ("transport", "service")

NAME: Final = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
NAME_CHARACTERS_MAX: Final = 40


class Written(NamedTuple):
    """A package that was written."""

    directory: Path
    begin_at: Path


def write_package(kind: str, name: str, directory: Path | None = None) -> Written:
    """Write the package for the *kind* of plugin *name* into *directory*, which must not exist.

    Raises MisuseError for a name that cannot be one, and for a directory that cannot be made.
    """
    _check_name(kind, name)
    target = directory or Path(f"vsync-{kind}-{name}")
    module = f"vsync_{kind}_{name.replace('-', '_')}"
    names = {
        f"vsync_{kind}_example": module,
        f"vsync-{kind}-example": f"vsync-{kind}-{name}",
        "Example": "".join(part.capitalize() for part in name.split("-")),
        "example": name,
    }
    try:
        target.mkdir(parents=True)
    except FileExistsError as error:
        raise MisuseError(
            f"{target} is there already, and nothing is overwritten; "
            "choose another place with --directory"
        ) from error
    except OSError as error:
        raise MisuseError(f"cannot make {target}: {error.strerror}") from error
    try:
        _write(files(__name__) / kind, target, names)
    except OSError as error:
        raise MisuseError(f"cannot write into {target}: {error.strerror}") from error
    return Written(target, target / "src" / module / f"{kind}.py")


def _check_name(kind: str, name: str) -> None:
    if not NAME.fullmatch(name) or len(name) > NAME_CHARACTERS_MAX:
        raise MisuseError(
            f"{name!r} cannot be a {kind}'s name: it is made of small letters and digits, with "
            f"single - between, begins with a letter, and has at most {NAME_CHARACTERS_MAX} "
            "characters, as in my-net"
        )
    if name == "example" or keyword.iskeyword(name):
        raise MisuseError(f"{name!r} says nothing of what the {kind} does; choose another name")


def _write(template: Traversable, target: Path, names: dict[str, str]) -> None:
    """Copy *template*, with *names* in place of those that it has."""
    for entry in sorted(template.iterdir(), key=lambda entry: entry.name):
        if entry.name == "__pycache__":
            continue
        place = target / _renamed(entry.name, names)
        if entry.is_dir():
            place.mkdir()
            _write(entry, place, names)
        else:
            place.write_text(_renamed(entry.read_text(encoding="utf-8"), names), encoding="utf-8")


def _renamed(text: str, names: dict[str, str]) -> str:
    return re.sub("|".join(map(re.escape, names)), lambda found: names[found[0]], text)

"""Speedups: whether the hot modules of the core run compiled, and why not.

The package ``vsync-speedups`` is a build of some modules of this one, out of the same sources, with
mypyc. Where it is installed and was built from exactly the sources that are here, those modules are
loaded from it, under their own names: all who import ``vsync.wire.data`` have the same one, and no
class is there twice. Importing this module decides it, so ``vsync`` does that before anything else.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

VARIABLE: Final = "VSYNC_PURE"
"""The environment variable that, if it is set and not empty, keeps all modules pure."""

COMPILED: Final = "compiled"

_PACKAGE: Final = "vsync_speedups"
_SEALS: Final = "vsync.seal.cipher"
_CODE: Final = f"{_PACKAGE}.hot__mypyc"
"""The code of all compiled modules, which does not load where the package was not made for."""


class TwinFinder:
    """Finds the twins of some modules of the core; for ``sys.meta_path``."""

    def __init__(self, twins: Mapping[str, Path]) -> None:
        self._twins = dict(twins)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Where to load *fullname* from; None if it has no twin."""
        twin = self._twins.get(fullname)
        return None if twin is None else spec_from_file_location(fullname, twin)


def _use_compiled() -> str:
    """Have the hot modules loaded from their compiled twins, if that can be; what is in use then,
    and why not more."""
    if os.environ.get(VARIABLE):
        return f"pure: {VARIABLE} is set"
    found = find_spec(_PACKAGE)
    if found is None or found.origin is None:
        return "pure: vsync-speedups is not installed"
    directory = Path(found.origin).parent
    try:
        built = json.loads((directory / "built.json").read_text())
        for module, known in built["sources"].items():
            if _hash_of(module) != known:
                return (
                    f"pure: vsync-speedups was built from another {module}; "
                    "install it in the version of vsync-core"
                )
        import_module(_CODE)
        why = _why_no_seals(directory, built)
    except (OSError, ValueError, LookupError, ImportError) as error:
        return f"pure: vsync-speedups does not load here ({error})"
    twins = {
        module: directory / file
        for module, file in built["twins"].items()
        if not (why and module == _SEALS)
    }
    sys.meta_path.insert(0, TwinFinder(twins))
    return f"{COMPILED}, but for seals: {why}" if why else COMPILED


def _why_no_seals(directory: Path, built: Any) -> str:
    """Why seals are not compiled; empty if they are. They need a library that may be missing."""
    file = built["twins"].get(_SEALS)
    if file is None:
        return str(built.get("lacks", {}).get(_SEALS, ""))
    spec = spec_from_file_location(_SEALS, directory / file)
    try:
        assert spec is not None
        module_from_spec(spec)
    except ImportError as error:
        return f"their part of vsync-speedups does not load here ({error})"
    return ""


def _hash_of(module: str) -> str:
    """The hash of a module's source, as ``vsync-speedups`` has it of what it was built from."""
    path = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


in_use: Final = _use_compiled()
"""``compiled``, with the reason if seals are not; or ``pure:`` and the reason."""

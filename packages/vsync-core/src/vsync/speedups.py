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
from typing import Final

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
        twins = {module: directory / file for module, file in built["twins"].items()}
        seals, why = _find_seals([directory / file for file in built["seals"]], built["lacks"])
    except (OSError, ValueError, LookupError, ImportError) as error:
        return f"pure: vsync-speedups does not load here ({error})"
    if seals is not None:
        twins[_SEALS] = seals
    sys.meta_path.insert(0, TwinFinder(twins))
    return COMPILED if seals is not None else f"{COMPILED}, but for seals: {why}"


def _find_seals(files: Sequence[Path], why: str) -> tuple[Path | None, str]:
    """The first of *files* that loads, each over a library that may be missing; None and *why* not
    if none does."""
    for file in files:
        spec = spec_from_file_location(_SEALS, file)
        try:
            assert spec is not None and spec.loader is not None
            spec.loader.exec_module(module_from_spec(spec))
        except (ImportError, OSError) as error:
            why = f"their part of vsync-speedups does not load here ({error})"
        else:
            return file, ""
    return None, why


def _hash_of(module: str) -> str:
    """The hash of a module's source, as ``vsync-speedups`` has it of what it was built from."""
    path = Path(__file__).parents[1].joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


in_use: Final = _use_compiled()
"""``compiled``, with the reason if seals are not; or ``pure:`` and the reason."""

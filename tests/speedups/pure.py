"""The hot modules as ordinary Python, next to the compiled ones that everyone else uses."""

import importlib
import json
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import vsync_speedups
from vsync.speedups import TwinFinder

PACKAGE: Final = Path(vsync_speedups.__file__).parent
BUILT: Final = json.loads((PACKAGE / "built.json").read_text())
SEALS: Final[list[str]] = BUILT["seals"]
"""Twins of one module, each over another library; the first is in use."""
TWINS: Final[dict[str, str]] = {**BUILT["twins"], "vsync.seal.cipher": SEALS[0]}

NAMES: Final = {
    "alike": "vsync.engine.alike",
    "checksum": "vsync.checksum",
    "cipher": "vsync.seal.cipher",
    "codec": "vsync.wire.codec",
    "copying": "vsync.copying",
    "data": "vsync.wire.data",
    "header": "vsync.wire.header",
    "log": "vsync.engine.log",
    "packing": "vsync.engine.packing",
    "receiving": "vsync.ip.receiving",
    "streams": "vsync.engine.streams",
    "timers": "vsync.engine.timers",
    "token": "vsync.wire.token",
}


def compiled() -> Any:
    """The modules that are in use."""
    return SimpleNamespace(**{key: importlib.import_module(name) for key, name in NAMES.items()})


@cache
def pure() -> Any:
    """The same modules from their sources; what they import and has no twin is the same for both.

    So what they make can be compared: configurations, deliveries, errors are of one class each.
    """
    (finder,) = (found for found in sys.meta_path if isinstance(found, TwinFinder))
    in_use = {name: importlib.import_module(name) for name in TWINS}
    sys.meta_path.remove(finder)
    try:
        for name in TWINS:
            del sys.modules[name]
            parent, _, last = name.rpartition(".")
            delattr(sys.modules[parent], last)
        return compiled()
    finally:
        sys.meta_path.insert(0, finder)
        for name, module in in_use.items():
            sys.modules[name] = module
            parent, _, last = name.rpartition(".")
            setattr(sys.modules[parent], last, module)

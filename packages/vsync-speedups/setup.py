"""Compile the hot modules of vsync-core, from the core's own sources, with mypyc; some are in C.

The sources are those beside this package in the repository; a source archive has a copy of them.
"""

import ast
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from mypyc.build import mypycify
from setuptools import Extension, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent.resolve()
NEIGHBOUR = HERE.parent / "vsync-core" / "src"
CARRIED = HERE / "core"
STAGE = HERE / "build" / "stage"

HOT = (
    "vsync.wire.header",
    "vsync.wire.token",
    "vsync.wire.data",
    "vsync.wire.codec",
    "vsync.engine.packing",
    "vsync.engine.streams",
    "vsync.engine.log",
    "vsync.engine.counters",
    "vsync.engine.timers",
    "vsync.engine.health",
    "vsync.engine.rest",
    "vsync.engine.flow",
    "vsync.engine.rotation",
    "vsync.engine.ordering",
    "vsync.engine.membership",
    "vsync.engine.engine",
    "vsync.engine.runs",
    "vsync.runtime.mailbox",
    "vsync.runtime.seat",
    "vsync.runtime.turn",
    "vsync.runtime.driver",
)
"""What is compiled with mypyc. Each must work alike when it is not.

``Ordering``, ``Membership`` and ``Engine`` are one class to the compiler, so all three or none.

Not ``vsync.train``: a compiled class has no registry of its own if it derives from an abstract one,
so every sequence, a memoryview too, would pass for an instance of ``Train``.
"""


INHERITED = ("vsync.runtime.mailbox", "vsync.runtime.turn", "vsync.runtime.driver")
"""Of those, what has classes from which others derive that are not compiled: the simulator's, and
those of tests. The compiler has to be told, in a word that only it knows."""


IN_C = {
    "vsync.copying": "copying.c",
    "vsync.engine.alike": "alike.c",
    "vsync.ip.receiving": "receiving.c",
}
"""What has a twin in C, and its file."""

if platform.machine() in ("x86_64", "AMD64"):  # its instructions are of these processors
    IN_C["vsync.checksum"] = "checksum.c"

HEADERS: Final = ["src/c/content.h"]
"""What several of them include."""

SEALS: Final = "vsync.seal.cipher"
"""Has a twin in C too, for each library that there is to build with; without one, it has none."""


class Library(NamedTuple):
    """One with AES-GCM, that a twin of seals may be built with."""

    package: str
    """In which its twin lies, in this one."""
    header: str
    links: str
    defines: Mapping[str, str | None]


LIBRARIES: Final = (
    Library("over_ipsec_mb", "intel-ipsec-mb.h", "IPSec_MB", {"IPSEC_MB": None}),
    Library("over_openssl", "openssl/evp.h", "crypto", {}),
)
"""The faster one first: it is taken if it loads."""

SEALS_MISSING: Final = "the headers of IPsec-MB and of OpenSSL were missing when it was built"


def present(library: Library) -> bool:
    """Whether *library* is there to build with."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    try:
        tried = subprocess.run(
            [*shlex.split(compiler), "-E", "-"],
            input=f"#include <{library.header}>\n",
            text=True,
            capture_output=True,
        )
    except OSError:
        return False
    return tried.returncode == 0


def source_of(core: Path, module: str) -> Path | None:
    """The file of *module*, which may be a package; None if it is not of the core."""
    path = core.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return file if file.is_file() else None


def imported(path: Path) -> Iterator[str]:
    """The modules that may be meant by the imports in the file at *path*."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def closure(core: Path) -> dict[str, Path]:
    """The modules with twins and all of the core that they import, and those in turn.

    The compiler takes types and constants out of what is imported, so all of it counts.
    """
    found: dict[str, Path] = {}
    waiting = [*HOT, *IN_C, SEALS]
    while waiting:
        module = waiting.pop()
        path = source_of(core, module)
        if path is not None and module not in found:
            found[module] = path
            waiting += imported(path)
    return dict(sorted(found.items()))


def inheritable(source: str) -> str:
    """*source* of a module, with its classes marked as such that others may derive from."""
    marked = re.sub(
        "^class ",
        "@mypyc_attr(allow_interpreted_subclasses=True)\nclass ",
        source,
        flags=re.MULTILINE,
    )
    known = "if TYPE_CHECKING:\n    from mypy_extensions import mypyc_attr\n"  # never imported
    return marked.replace("\nfrom ", f"\nfrom typing import TYPE_CHECKING\n{known}from ", 1)


def stage(core: Path) -> dict[str, str]:
    """Put what is to be compiled, and what it imports, where nothing else is; their hashes.

    Packages that nobody imports from are empty there, so that the compiler sees no more of the core
    than it needs.
    """
    shutil.rmtree(STAGE, ignore_errors=True)
    hashes = {}
    for module, path in closure(core).items():
        copy = STAGE / path.relative_to(core)
        copy.parent.mkdir(parents=True, exist_ok=True)
        for package in (copy.parent, *copy.parent.parents):
            if package == STAGE:
                break
            (package / "__init__.py").touch()
        source = path.read_text()
        copy.write_text(inheritable(source) if module in INHERITED else source)
        hashes[module] = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    return hashes


def file_of(module: str) -> str:
    """The file of a compiled *module*, in this package."""
    suffix: str = sysconfig.get_config_var("EXT_SUFFIX")
    return module.replace(".", "/") + suffix


class BuildPy(build_py):
    """Writes into the built package what it was built from."""

    def run(self) -> None:
        super().run()
        built = Path(self.build_lib) / "vsync_speedups" / "built.json"
        built.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "twins": {module: file_of(module) for module in (*HOT, *IN_C)},
            "seals": [file_of(f"{each.package}.cipher") for each in FOUND],
            "lacks": "" if FOUND else SEALS_MISSING,
            "sources": HASHES,
        }
        built.write_text(json.dumps(facts, indent=2) + "\n")


class SourceArchive(sdist):
    """Carries the sources of the core that are compiled."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        for path in closure(CORE).values():
            copy = Path(base_dir, "core", path.relative_to(CORE))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


FOUND = [library for library in LIBRARIES if present(library)]
CORE = NEIGHBOUR if NEIGHBOUR.is_dir() else CARRIED
HASHES = stage(CORE)
os.chdir(STAGE)
extensions: list[Any] = mypycify(
    [
        "--config-file=",  # types are checked elsewhere, and more strictly
        "--ignore-missing-imports",
        *(str(Path(*module.split(".")).with_suffix(".py")) for module in HOT),
    ],
    opt_level="3",
    group_name="vsync_speedups.hot",
    target_dir=str(HERE / "build" / "c"),
)
os.chdir(HERE)
extensions += [
    Extension(module, [f"src/c/{file}"], depends=HEADERS, extra_compile_args=["-O3"])
    for module, file in IN_C.items()
]
extensions += [
    Extension(
        f"{library.package}.cipher",  # the last part as that of what it is the twin of
        ["src/c/sealing.c"],
        depends=["src/c/gcm_ipsec_mb.h", "src/c/gcm_openssl.h"],
        define_macros=[*library.defines.items()],
        libraries=[library.links],
        extra_compile_args=["-O3"],
    )
    for library in FOUND
]
for extension in extensions:
    if extension.name.startswith(("vsync.", "over_")):
        extension.name = f"vsync_speedups.{extension.name}"

setup(ext_modules=extensions, cmdclass={"build_py": BuildPy, "sdist": SourceArchive})

"""Whether compiled modules are used, and the reason why not: in a process of its own each time."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import vsync

SOURCE = Path(vsync.__file__).parent
ASK = """
import vsync.speedups, vsync.checksum as checksum, vsync.seal.cipher as seals
print(vsync.speedups.in_use, checksum.__file__, seals.__file__, sep="\\n")
"""
SEALS = "Cipher = OVERHEAD_BYTES = None"


class Answer(NamedTuple):
    """What is in use, and where two modules come from."""

    in_use: str
    checksum: str
    seals: str


def ask(*paths: Path, pure: str = "") -> Answer:
    """What is in use with *paths* before all others."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "VSYNC_PURE": pure}
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return Answer(*done.stdout.splitlines())


def install(
    where: Path,
    *,
    library: str = "",
    digest: str | None = None,
    built: str | None = None,
    seals: Sequence[str] = ("sealing.py",),
    lacks: str = "",
) -> Path:
    """A package that looks like the compiled one, with a twin of one module and one of seals."""
    package = where / "vsync_speedups"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "hot__mypyc.py").write_text(library)
    (package / "checksum.py").write_text("from zlib import crc32\n")
    (package / "sealing.py").write_text(SEALS)
    if digest is None:
        source = (SOURCE / "checksum.py").read_bytes()
        digest = hashlib.blake2b(source, digest_size=16).hexdigest()
    described = {
        "twins": {"vsync.checksum": "checksum.py"},
        "seals": list(seals),
        "sources": {"vsync.checksum": digest},
        "lacks": lacks,
    }
    (package / "built.json").write_text(json.dumps(described) if built is None else built)
    return where


def test_what_was_built_from_these_sources_is_used(tmp_path: Path) -> None:
    in_use, place, seals = ask(install(tmp_path))
    assert in_use == "compiled"
    assert place == str(tmp_path / "vsync_speedups" / "checksum.py")
    assert seals == str(tmp_path / "vsync_speedups" / "sealing.py")


def test_the_variable_keeps_all_pure(tmp_path: Path) -> None:
    in_use, place, seals = ask(install(tmp_path), pure="1")
    assert in_use == "pure: VSYNC_PURE is set"
    assert place == str(SOURCE / "checksum.py")
    assert seals == str(SOURCE / "seal" / "cipher.py")


def test_what_was_built_from_other_sources_is_not_used(tmp_path: Path) -> None:
    in_use, place, seals = ask(install(tmp_path, digest="00"))
    assert in_use.startswith("pure: vsync-speedups was built from another vsync.checksum; ")
    assert place == str(SOURCE / "checksum.py")
    assert seals == str(SOURCE / "seal" / "cipher.py")


def test_what_does_not_load_is_not_used(tmp_path: Path) -> None:
    in_use, place, seals = ask(install(tmp_path, library="import no_such_library"))
    assert in_use.startswith("pure: vsync-speedups does not load here (No module named ")
    assert place == str(SOURCE / "checksum.py")
    assert seals == str(SOURCE / "seal" / "cipher.py")


def test_what_was_built_without_seals_is_used_for_the_rest(tmp_path: Path) -> None:
    in_use, place, seals = ask(install(tmp_path, seals=(), lacks="there was no OpenSSL"))
    assert in_use == "compiled, but for seals: there was no OpenSSL"
    assert place == str(tmp_path / "vsync_speedups" / "checksum.py")
    assert seals == str(SOURCE / "seal" / "cipher.py")


def test_where_only_seals_do_not_load_the_rest_is_used(tmp_path: Path) -> None:
    install(tmp_path, seals=("sealing.so",))
    (tmp_path / "vsync_speedups" / "sealing.so").write_bytes(b"for another machine")
    in_use, place, seals = ask(tmp_path)
    reason = "compiled, but for seals: their part of vsync-speedups does not load here ("
    assert in_use.startswith(reason)
    assert place == str(tmp_path / "vsync_speedups" / "checksum.py")
    assert seals == str(SOURCE / "seal" / "cipher.py")


def test_of_several_seals_the_first_that_loads_is_used(tmp_path: Path) -> None:
    names = ("absent", "refuses", "good", "spare")
    install(tmp_path, seals=[f"{name}.py" for name in names])
    package = tmp_path / "vsync_speedups"
    (package / "refuses.py").write_text("raise ImportError('not with this processor')")
    (package / "good.py").write_text(SEALS)
    (package / "spare.py").write_text("raise ImportError('nobody should have asked')")
    answer = ask(tmp_path)
    assert answer.in_use == "compiled"
    assert answer.seals == str(package / "good.py")


def test_what_is_damaged_is_not_used(tmp_path: Path) -> None:
    in_use, *_ = ask(install(tmp_path, built="{"))
    assert in_use.startswith("pure: vsync-speedups does not load here (")


def test_what_does_not_say_what_it_is_of_is_not_used(tmp_path: Path) -> None:
    package = tmp_path / "vsync_speedups"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "built.json").write_text('{"twins": {}}')
    in_use, *_ = ask(tmp_path)
    assert in_use.startswith("pure: vsync-speedups does not load here ('sources'")

"""What is compiled before anything is measured: the client of Corosync, and ``payload.c``."""

import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.corosync.members import Failed

HERE: Final = Path(__file__).parent
OPTIONS: Final = ("-O2", "-Wall", "-Wextra")
LIBRARIES: Final = ("-lisal",)
"""Of ``payload.c``: Intel's has the CRC-32."""


def compile_client(directory: Path, cpg: Sequence[str] = ("-lcpg",)) -> Path:
    """Compile ``cpg_peer.c`` into *directory*, with the library *cpg*. Raises Failed."""
    return compiled(directory / "cpg_peer", ["cpg_peer.c", "payload.c"], cpg)


def compile_payloads(directory: Path) -> Path:
    """Compile ``payload.c`` for the Python that runs, into *directory*. Raises Failed."""
    for_python = ("-shared", "-fPIC", f"-I{sysconfig.get_path('include')}")
    return compiled(directory / "payload.so", ["payload.c", "payload_python.c"], for_python)


def compiled(made: Path, sources: Sequence[str], arguments: Sequence[str]) -> Path:
    """Compile *sources* into *made*. Raises Failed with what the compiler says."""
    if shutil.which("cc") is None:
        raise Failed(f"there is no C compiler (cc) to make {made.name} with")
    paths = [str(HERE / source) for source in sources]
    command = ["cc", *OPTIONS, "-o", str(made), *paths, *arguments, *LIBRARIES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"{made.name} cannot be compiled: {done.stderr.strip()}")
    return made

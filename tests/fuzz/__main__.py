"""Feeds strangers' bytes to every parser, for a time.

    python -m tests.fuzz [--seconds 20] [--target NAME...]
    python -m tests.fuzz --target NAME --replay FILE

Each target has so many seconds, with atheris, which looks at what code the bytes reach; where it is
not installed, with hypothesis. Says how often each was fed. What makes one raise is kept in a file
and shown; exit code 1 then.
"""

import argparse
import importlib
import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TARGETS_MODULE = "tests.fuzz.targets"
INSTRUMENTED = ["vsync", "vsync_cli", "vsync_services", "vsync_transport_ib", "vsync_transport_udp"]
INPUT_BYTES_MAX = 4096
PATIENCE_S = 60


def say(line: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def fuzz_with_atheris(name: str, seconds: float, corpus: Path) -> None:
    """Feed one target; never returns, as atheris ends the process."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={INPUT_BYTES_MAX}"]
    where = [f"-artifact_prefix={corpus.parent}/", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *limits, *where], target.feed)
    atheris.Fuzz()


def fuzz_with_hypothesis(name: str, seconds: float, corpus: Path) -> None:
    """Feed one target, until the time is over or it raises."""
    from hypothesis import HealthCheck, given, settings

    from tests.fuzz.inputs import inputs
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    end, fed = time.monotonic() + seconds, 0

    @settings(
        deadline=None,
        database=None,
        max_examples=500,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs(target.seeds))
    def feed(data: bytes) -> None:
        nonlocal fed
        fed += 1
        (corpus.parent / "crash").write_bytes(data)  # the last one, if it raises
        target.feed(data)

    while time.monotonic() < end:
        feed()
    say(f"stat::number_of_executed_units: {fed}")


def run(name: str, seconds: float, place: Path) -> bool:
    """Feed one target in a process of its own; whether it stood."""
    corpus = place / name / "corpus"
    corpus.mkdir(parents=True)
    arguments = ["--child", str(corpus), "--target", name, "--seconds", str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds + PATIENCE_S,
        check=False,
    )
    found = re.search(r"stat::number_of_executed_units: (\d+)", done.stdout)
    fed = int(found[1]) if found else 0
    if done.returncode == 0 and fed:
        say(f"{name}: {fed} inputs, none raised")
        return True
    say(done.stdout)
    say(f"{name}: raised after {fed} inputs; what was fed is in {place / name}")
    return False


def main() -> int:
    """Feed the targets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each target")
    parser.add_argument("--target", nargs="+", metavar="NAME", help="without it: all")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="feed this to the target")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    guided = importlib.util.find_spec("atheris") is not None
    if options.child is not None:
        fuzz = fuzz_with_atheris if guided else fuzz_with_hypothesis
        fuzz(options.target[0], options.seconds, options.child)
        return 0

    from tests.fuzz.targets import TARGETS

    unknown = sorted({*(options.target or ())} - {*TARGETS})
    if unknown:
        parser.error(f"there is no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if options.replay is not None:
        for name in options.target or TARGETS:
            TARGETS[name].feed(options.replay.read_bytes())
        return 0
    say(f"with {'atheris' if guided else 'hypothesis'}, {options.seconds:g} s each")
    place = Path(tempfile.mkdtemp(prefix="vsync-fuzz-"))
    stood = [run(name, options.seconds, place) for name in options.target or TARGETS]
    return 0 if all(stood) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Every check of this repository, by name: ``python -m nox --list``.

The default sessions run in the environment that ``requirements-dev.txt`` made, so that they start
at once; others make an environment of their own, where what is installed is the point of the check.
"""

import importlib.util
import itertools
import os
import platform
import re
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Mapping
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"  # plain pip; nothing else is required
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
IMPORT_NAMES = {"vsync-core": "vsync"} | {
    package: package.replace("-", "_") for package in PACKAGES if package != "vsync-core"
}
SPEEDUPS = "vsync-speedups"
ASK_WHETHER_COMPILED = "import vsync.speedups as s; exit(s.in_use != s.COMPILED and s.in_use)"
PYTHONS = ["3.11", "3.12", "3.13"]
TEST_WORKERS_MAX = 4
CI = os.environ.get("CI") == "true"
ANYWHERE = "not network and not infiniband"
"""The tests that need neither root nor tools of the system."""


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Say where the style differs: ruff format and ruff check."""
    run_tool(session, "ruff", "format", "--check", ".")
    run_tool(session, "ruff", "check", ".")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check every annotation in packages, tests, examples, benchmarks and this file: mypy."""
    run_tool(session, "mypy", "packages", "tests", "examples", "benchmarks", "noxfile.py")


@nox.session(venv_backend="none")
def layers(session: nox.Session) -> None:
    """Check which way imports point: import-linter."""
    # import-linter has no __main__; this is what its command does.
    run_python(session, "-c", "from importlinter.cli import lint_imports_command as c; c()")


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the tests with the running Python; in CI with those that need root and namespaces.

    Several files at a time: most tests wait for real processes most of the time. Those that use a
    guest come last, one by one: all of them use the same.
    """
    workers = ("-n", str(min(TEST_WORKERS_MAX, os.cpu_count() or 1)), "--dist", "loadfile")
    for marked in (ANYWHERE, "network") if CI else (ANYWHERE,):
        run_tool(session, "pytest", "-m", marked, *workers, *session.posargs)
    if CI:
        run_tool(session, "pytest", "-m", "infiniband", *session.posargs)


@nox.session(venv_backend="none")
def speedups(session: nox.Session) -> None:
    """Compile the hot modules and run over them the tests that reach them most.

    They must be in use, and give what the pure ones give. Needs gcc, and the headers of OpenSSL or
    IPsec-MB (Debian: libssl-dev, libipsec-mb-dev). ``-- tests/services`` runs others.
    """
    parts = ("wire", "engine", "ip", "runtime", "seal")
    files = [f"tests/core/test_{part}.py" for part in ("checksum", "copying")]
    core = [*(f"tests/core/{part}" for part in parts), *files]
    chosen = ["tests/speedups", *core, "tests/specification", "tests/cli/test_run.py"]
    run_compiled(session, *(session.posargs or chosen))


@nox.session(venv_backend="none", default=False)
def compiled(session: nox.Session) -> None:
    """Run all tests but those on network namespaces over the compiled modules; needs gcc."""
    run_compiled(session, "-m", ANYWHERE, *session.posargs)


@nox.session(venv_backend="none", default=False)
def network(session: nox.Session) -> None:
    """Run the tests on network namespaces; they need root, iproute2 and nftables."""
    run_tool(session, "pytest", "-m", "network", "-rs", *session.posargs)


@nox.session(venv_backend="none", default=False)
def infiniband(session: nox.Session) -> None:
    """Run the tests on InfiniBand verbs, in a virtual machine that has Soft-RoCE.

    They need root and some of Debian's packages; a test that is skipped says which.
    """
    run_tool(session, "pytest", "-m", "infiniband", "-rs", *session.posargs)


@nox.session(venv_backend="none", default=False)
def guest(session: nox.Session) -> None:
    """Measure ``ib`` on Soft-RoCE beside ``udp``, in a virtual machine; ``-- --tries 3``.

    Needs root, and what the session ``infiniband`` needs.
    """
    run_python(session, "-m", "benchmarks.guest", *session.posargs)


@nox.session(venv_backend="none", default=False)
def membership(session: nox.Session) -> None:
    """Time changes of membership on network namespaces; ``-- --tries 5``. Needs root."""
    run_python(session, "-m", "benchmarks.membership", *session.posargs)


@nox.session(venv_backend="none", default=False)
def accusations(session: nox.Session) -> None:
    """See that a ring under full load for six minutes accuses nobody and stays flat in memory.

    ``-- --seconds 60``. Needs root, for network namespaces.
    """
    run_python(session, "-m", "benchmarks.accusations", *session.posargs)


@nox.session(venv_backend="none", default=False)
def redundancy(session: nox.Session) -> None:
    """Time the pauses when one of two networks fails, under full load; ``-- --mode passive``.

    Needs root, for network namespaces.
    """
    run_python(session, "-m", "benchmarks.redundancy", *session.posargs)


@nox.session(venv_backend="none", default=False)
def soak(session: nox.Session) -> None:
    """Run five nodes under random faults for half an hour; ``-- --minutes 2 --seed 7``.

    Needs root, for network namespaces.
    """
    run_python(session, "-m", "benchmarks.soak", *session.posargs)


@nox.session(venv_backend="none", default=False)
def slow_reader(session: nox.Session) -> None:
    """See what a reader that takes nothing costs nine others, under each policy."""
    run_python(session, "-m", "benchmarks.slow_reader", *session.posargs)


@nox.session(venv_backend="none", default=False)
def daemon(session: nox.Session) -> None:
    """Send a million messages through one daemon to ten programs; ``-- --messages 100000``."""
    run_python(session, "-m", "benchmarks.daemon", *session.posargs)


@nox.session(venv_backend="none", default=False)
def profile(session: nox.Session) -> None:
    """Tell where the time of a message goes, by layer; ``-- --write`` writes docs/profiles.md.

    Needs root, for network namespaces.
    """
    run_python(session, "-m", "benchmarks.profile", *session.posargs)


@nox.session(venv_backend="none", default=False)
def bench(session: nox.Session) -> None:
    """Measure vsync beside Corosync on network namespaces; ``-- --quick``, ``-- --write``.

    Needs root. What is missing of Debian's packages (corosync, libcpg-dev, …) is installed.
    """
    missing = missing_debian_packages()
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        noninteractive = {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            session.run("apt-get", "-q", *command, external=True, env=noninteractive)
    run_python(session, "-m", "benchmarks.corosync", *session.posargs, env=with_speedups(session))


@nox.session(venv_backend="none", default=False)
def coverage(session: nox.Session) -> None:
    """Run the tests and list the lines and branches that none of them reached."""
    run_tool(session, "coverage", "run", "-m", "pytest", "-m", ANYWHERE, *session.posargs)
    run_tool(session, "coverage", "report")


@nox.session(python=PYTHONS, default=False)
def pythons(session: nox.Session) -> None:
    """Run the tests with each supported Python that this machine has."""
    session.install("-r", "requirements-test.txt")
    session.run("python", "-m", "pytest", "-m", ANYWHERE, *session.posargs)


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest dependencies that the packages allow."""
    constraints = Path(session.create_tmp()) / "lowest.txt"
    constraints.write_text("".join(f"{line}\n" for line in lowest_dependencies()))
    session.install("-r", "requirements-test.txt", "-c", str(constraints))
    session.run("python", "-m", "pytest", "-m", ANYWHERE, *session.posargs)


@nox.session(default=False)
@nox.parametrize("package", PACKAGES, ids=PACKAGES)
def alone(session: nox.Session, package: str) -> None:
    """Install one package as its users will, from wheels, and import it."""
    session.install("build")
    wheels = Path(session.create_tmp()) / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)  # those of an earlier version
    for needed in sorted(with_siblings(package)):
        session.run("python", "-m", "build", "--wheel", "-o", str(wheels), f"packages/{needed}")
    bare = Path(session.create_tmp()) / "bare"
    session.run("python", "-m", "venv", "--clear", str(bare))
    # By path, so that pip never takes a stranger's package of the same name from the index.
    session.run(
        f"{bare}/bin/pip", "install", "-q", *(str(w) for w in wheels.glob("*.whl")), external=True
    )
    session.run(f"{bare}/bin/python", "-c", f"import {IMPORT_NAMES[package]}", external=True)
    if package == "vsync-cli":
        session.run(f"{bare}/bin/vsync", "plugins", external=True)


@nox.session(venv_backend="none", default=False)
def simulation(session: nox.Session) -> None:
    """Simulate clusters of 3 to 7 nodes; ``-- --seeds 0..10000`` is shared out among the sizes."""
    arguments = list(session.posargs)
    seeds = "0..10000"
    if "--seeds" in arguments:
        at = arguments.index("--seeds")
        if at + 1 == len(arguments):
            session.error("--seeds needs a range, for example --seeds 0..10000.")
        seeds = arguments[at + 1]
        del arguments[at : at + 2]
    for nodes, share in shares(session, seeds):
        run_command(session, "simulate", "--nodes", str(nodes), "--seeds", share, *arguments)


@nox.session(venv_backend="none", default=False)
def scenarios(session: nox.Session) -> None:
    """Play every scenario and rewrite what its file says; then read the difference."""
    run_tool(session, "pytest", "tests/core/engine/test_scenarios.py", env={"VSYNC_REWRITE": "1"})
    session.log("Now read what `git diff tests/core/engine/scenarios` shows.")


@nox.session(venv_backend="none", default=False)
def mutation(session: nox.Session) -> None:
    """Break the engine on purpose, one way at a time, and see that the simulator notices."""
    run_python(session, "-m", "tests.simulation.mutation", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Feed strangers' bytes to every parser; ``-- --seconds 20 --target seal``.

    With atheris, in an environment of its own; where that cannot be had, with hypothesis.
    """
    session.install("-r", "requirements-test.txt")
    session.install("atheris", success_codes=[0, 1], silent=True)
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session(venv_backend="none", default=False)
def docs(session: nox.Session) -> None:
    """Check the pages: links, headings, commands, and that every example runs."""
    pages = [path for path in ("tests/repository", "tests/docs") if (ROOT / path).is_dir()]
    run_tool(session, "pytest", *pages, *session.posargs)


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build wheels and source archives of all packages into dist/."""
    session.install("build")
    for package in PACKAGES:
        session.run("python", "-m", "build", "-o", "dist", f"packages/{package}")


@nox.session(venv_backend="none", default=False)
def bump(session: nox.Session) -> None:
    """Write a new version into every package: ``-- 0.2.0``."""
    if len(session.posargs) != 1 or not re.fullmatch(r"\d+\.\d+\.\d+", session.posargs[0]):
        session.error("Say which version to write, for example: nox -s bump -- 0.2.0")
    version = session.posargs[0]
    for package in PACKAGES:
        path = ROOT / "packages" / package / "pyproject.toml"
        text = path.read_text()
        text = re.sub(r'^version = ".*"$', f'version = "{version}"', text, flags=re.MULTILINE)
        text = re.sub(r'"(vsync-[a-z-]+)==[^"]*"', rf'"\1=={version}"', text)
        path.write_text(text)
    session.log(f"All packages say {version}; now give it a heading in CHANGELOG.md.")


# What the sessions above are made of.


def run_python(session: nox.Session, *arguments: str, env: Mapping[str, str] | None = None) -> None:
    """Run Python with ``arguments`` in the environment that nox runs in."""
    missing = [name for name in ("pytest", "mypy") if importlib.util.find_spec(name) is None]
    if missing:
        session.error(
            f"{sys.executable} lacks {' and '.join(missing)}: run `python -m pip install -r "
            "requirements-dev.txt` and then `python -m nox` with that same python."
        )
    # The environment need not be activated: what it installed is found all the same.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    session.run(sys.executable, *arguments, env={"PATH": path, **(env or {})})


def run_tool(
    session: nox.Session, module: str, *arguments: str, env: Mapping[str, str] | None = None
) -> None:
    """Run a tool that is a Python module."""
    run_python(session, "-m", module, *arguments, env=env)


def run_compiled(session: nox.Session, *arguments: str) -> None:
    """Run pytest with ``vsync-speedups``, built anew beside the environment and not within it."""
    run_tool(session, "pytest", *arguments, env=with_speedups(session))


def with_speedups(session: nox.Session) -> dict[str, str]:
    """Compile ``vsync-speedups``; an environment in which it is in use."""
    if shutil.which(os.environ.get("CC", "gcc")) is None:
        session.error(
            "vsync-speedups is compiled, and there is no gcc here: "
            "on Debian, install gcc, libc6-dev and python3-dev."
        )
    place = Path(session.create_tmp()) / "site"
    shutil.rmtree(place, ignore_errors=True)
    install = ("pip", "install", "-q", "--no-deps", "--target", str(place))
    run_tool(session, *install, f"./packages/{SPEEDUPS}")
    env = {"PYTHONPATH": str(place), "VSYNC_PURE": ""}
    run_python(session, "-c", ASK_WHETHER_COMPILED, env=env)
    return env


def run_command(session: nox.Session, *arguments: str) -> None:
    """Run the ``vsync`` command of this tree."""
    run_tool(session, "vsync_cli", *arguments)


def missing_debian_packages() -> list[str]:
    """Give the packages of Debian that the benchmark beside Corosync needs, and that are absent."""
    needed = {
        "corosync": shutil.which("corosync"),
        "libcpg-dev": Path("/usr/include/corosync/cpg.h").exists(),
        "libisal-dev": Path("/usr/include/isa-l/crc.h").exists(),
        "libipsec-mb-dev": platform.machine() != "x86_64"
        or Path("/usr/include/intel-ipsec-mb.h").exists(),
        "libssl-dev": Path("/usr/include/openssl/evp.h").exists(),
        "python3-dev": Path(sysconfig.get_path("include"), "Python.h").exists(),
        "gcc": shutil.which("cc"),
        "libc6-dev": Path("/usr/include/stdio.h").exists(),
        "iproute2": shutil.which("ip"),
        "nftables": shutil.which("nft"),
    }
    return [package for package, present in needed.items() if not present]


def shares(session: nox.Session, seeds: str) -> list[tuple[int, str]]:
    """Share the range ``A..B`` of seeds out among clusters of 3, 4, 5, 6 and 7 nodes."""
    found = re.fullmatch(r"(\d+)\.\.(\d+)", seeds)
    if found is None:
        session.error(f"--seeds {seeds} is not a range; write for example --seeds 0..10000.")
    first, end = int(found[1]), int(found[2])
    sizes = range(3, 8)
    bounds = [first + (end - first) * i // len(sizes) for i in range(len(sizes) + 1)]
    ranges = zip(sizes, itertools.pairwise(bounds), strict=True)
    return [(nodes, f"{a}..{b}") for nodes, (a, b) in ranges if a < b]


def project(package: str) -> dict[str, object]:
    """Give the ``[project]`` table of a package."""
    described = tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())
    table = described["project"]
    assert isinstance(table, dict)
    return table


def dependencies(package: str) -> list[str]:
    """Give what a package says it needs, as written."""
    listed = project(package)["dependencies"]
    assert isinstance(listed, list)
    return [str(line) for line in listed]


def with_siblings(package: str) -> set[str]:
    """Give the package and those of this repository that it needs, and they in turn."""
    needed = {package}
    for dependency in dependencies(package):
        name = dependency.split("==")[0]
        if name in PACKAGES:
            needed |= with_siblings(name)
    return needed


def lowest_dependencies() -> set[str]:
    """Turn every ``name>=version`` of the packages into ``name==version``."""
    lines = {line for package in PACKAGES for line in dependencies(package)}
    return {line.replace(">=", "==") for line in lines if ">=" in line}

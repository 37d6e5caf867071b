"""The packages agree with each other, and each says truly what it needs and what it brings."""

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))


def described(package: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())


def project(package: str) -> dict[str, Any]:
    table: dict[str, Any] = described(package)["project"]
    return table


def source(package: str) -> Path:
    """Give the one directory under ``src`` that the package's wheel holds."""
    tools = described(package)["tool"]
    if "hatch" in tools:
        (path,) = tools["hatch"]["build"]["targets"]["wheel"]["packages"]
    else:  # setuptools compiles
        (path,) = (f"src/{name}" for name in tools["setuptools"]["packages"])
    return ROOT / "packages" / package / str(path)


def named(requirement: str) -> str:
    """Give the name in a requirement as an import would spell it, if it is spelt alike."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None, requirement
    return {"vsync-core": "vsync"}.get(name[0], name[0].replace("-", "_"))


def imported(path: Path) -> set[str]:
    """Give the top-level names of every module that the file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.split(".")[0])
    return names


def test_there_are_packages() -> None:
    assert PACKAGES


def test_all_packages_have_the_same_version() -> None:
    assert len({project(package)["version"] for package in PACKAGES}) == 1


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_needs_its_siblings_in_exactly_its_own_version(package: str) -> None:
    for requirement in project(package)["dependencies"]:
        name = re.split(r"[=<>~!\[ ]", requirement)[0]
        if name in PACKAGES:
            assert requirement == f"{name}=={project(package)['version']}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_changelog_has_the_version(package: str) -> None:
    assert f"\n## {project(package)['version']}\n" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_what_its_users_look_for(package: str) -> None:
    folder = ROOT / "packages" / package
    assert project(package)["name"] == package
    assert project(package)["requires-python"] == ">=3.11"
    assert (folder / "README.md").read_text().startswith(f"# {package}\n")
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (source(package) / "py.typed").is_file()


def is_template(path: Path) -> bool:
    """Whether *path* is of a package that ``vsync plugin new`` writes, which says its own needs."""
    return "templates" in path.parts and path.parent.name != "templates"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_says_it_needs(package: str) -> None:
    table = project(package)
    needed = {named(requirement) for requirement in table["dependencies"]}
    for extra in table.get("optional-dependencies", {}).values():
        needed |= {named(requirement) for requirement in extra}
    allowed = needed | {source(package).name} | set(sys.stdlib_module_names)
    stray = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in source(package).rglob("*.py")
        if not is_template(path)
        for name in imported(path) - allowed
    }
    assert not stray


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_needs_only_what_it_imports(package: str) -> None:
    used = set().union(*(imported(path) for path in source(package).rglob("*.py")))
    for requirement in project(package)["dependencies"]:
        # The command imports no transport: it is there so that settings can name it. And the twins
        # of the core's modules are made from the core's own sources.
        if not requirement.startswith("vsync-transport-") and package != "vsync-speedups":
            assert named(requirement) in used, requirement


@pytest.mark.parametrize("package", PACKAGES)
def test_every_entry_point_names_a_module_of_its_package(package: str) -> None:
    table = project(package)
    targets = [*table.get("scripts", {}).values()]
    targets += [
        target for group in table.get("entry-points", {}).values() for target in group.values()
    ]
    for target in targets:
        path = source(package).parent.joinpath(*target.split(":")[0].split("."))
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), target


def test_the_environments_install_every_package_of_the_tree() -> None:
    """All but the compiled one: everything works without it, and without a compiler."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        f"-e ./packages/{package}"
        for package in sorted(PACKAGES, key=lambda name: ("core" not in name, "cli" in name, name))
        if package != "vsync-speedups"
    ]
    for requirements, included in (("test", "requirements.txt"), ("dev", "requirements-test.txt")):
        listed = (ROOT / f"requirements-{requirements}.txt").read_text().splitlines()
        assert f"-r {included}" in listed

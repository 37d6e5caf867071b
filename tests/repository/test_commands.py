"""What README.md tells people to type is what CI runs, and every session named is a session."""

import ast
import os
import re
import subprocess
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def readme_command(name: str) -> str:
    """Give the block under the mark ``name`` in README.md."""
    found = re.search(
        rf"^<!-- command: {name} -->\n```console\n(.*?)\n```$",
        (ROOT / "README.md").read_text(),
        flags=re.MULTILINE | re.DOTALL,
    )
    assert found is not None
    return found[1]


def sessions() -> set[str]:
    """Give the names of the functions in the noxfile that are sessions."""
    return {
        node.name
        for node in ast.walk(ast.parse((ROOT / "noxfile.py").read_text()))
        if isinstance(node, ast.FunctionDef)
        and any("session" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_ci_reads_the_command_that_the_readme_shows(name: str) -> None:
    shown = subprocess.run(
        ["bash", ".ci/run", "--show", name], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout == readme_command(name) + "\n"


def test_ci_runs_the_test_command_and_no_other_way_to_test() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert 'command="$(readme_command tests)"' in script
    assert 'bash -euo pipefail -c "$command"' in script
    assert not re.search(r"pytest|nox\b|pip install", script)


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_a_command_of_the_readme_is_one_line_that_starts_from_nothing(name: str) -> None:
    command = readme_command(name)
    assert "\n" not in command
    assert command.startswith("python3 -m venv .venv && .venv/bin/python -m pip install ")
    for requirements in re.findall(r"-r (\S+)", command):
        assert (ROOT / requirements).is_file()


def test_contributing_lists_every_session_and_no_other() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().split("## The sessions")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == sessions()


def test_every_session_that_a_page_names_exists() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for names in re.findall(r"nox -s ((?:[a-z]+ ?)+)", page.read_text()):
            assert set(names.split()) <= sessions(), page


@pytest.mark.skipif(
    os.environ.get("CI") != "true" and find_spec("nox") is None,
    reason="who does not develop has no nox",
)
def test_seeds_are_shared_out_among_clusters_of_all_sizes() -> None:
    spec = spec_from_file_location("noxfile", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    noxfile = module_from_spec(spec)
    spec.loader.exec_module(noxfile)
    assert noxfile.shares(None, "10..22") == [
        *((3, "10..12"), (4, "12..14"), (5, "14..17"), (6, "17..19"), (7, "19..22"))
    ]
    assert noxfile.shares(None, "0..2") == [(5, "0..1"), (7, "1..2")]

"""Packages of others, installed with pip into a directory of their own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0


def install(site: Path, *packages: Path) -> None:
    """Install *packages* into the directory *site*; what they need is here already."""
    run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
        + ["--disable-pip-version-check", "--root-user-action=ignore", "--target", str(site)]
        + [str(package) for package in packages]
    )


def environment(site: Path) -> dict[str, str]:
    """That of a program which finds what was installed into *site*."""
    return os.environ | {"PYTHONPATH": str(site), "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def run(
    command: list[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run *command*; what it prints. It must end well."""
    done = attempt(command, env=env, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def attempt(
    command: list[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run *command*, however it ends."""
    return subprocess.run(
        command,
        env=dict(env or os.environ),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def pytest_in(package: Path, site: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the tests that *package* brings along."""
    return attempt(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "tests"],
        env=environment(site),
        cwd=package,
    )

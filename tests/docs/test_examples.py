"""Every example on a page is what its reader would find: it is run as it is written."""

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import rich_click as click

from tests.docs.pages import PAGES, ROOT, Block, blocks
from vsync import read_settings
from vsync_cli.main import main
from vsync_cli.templates import write_package

PATIENCE_S: Final = 60.0
END_OF_BLOCK: Final = "end-of-block"

#: README.md is a whole of its own, tested below; commands.md shows one command, that of the demo.
IN_ORDER: Final = [
    page
    for page in PAGES
    if page.name not in ("README.md", "CONTRIBUTING.md")
    and any(block.language in ("python", "console") for block in blocks(page))
]


def environment(home: Path) -> dict[str, str]:
    """That of a reader who has just installed vsync, with nothing of this machine's own."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
    return kept | {
        "XDG_STATE_HOME": str(home / "state"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "TERM": "dumb",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }


class Reader:
    """Somebody who does what a page says, in one shell, in an empty directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.network = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}."
        self.environment = environment(home)
        self.shell = subprocess.Popen(
            ["bash"],
            cwd=home,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def type(self, text: str) -> tuple[str, int]:
        """What the shell prints, and the exit code of the last command."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{text}\necho {END_OF_BLOCK} $?\n")
        self.shell.stdin.flush()
        printed: list[str] = []
        for line in self.shell.stdout:
            if line.startswith(END_OF_BLOCK):
                return "".join(printed), int(line.split()[1])
            printed.append(line)
        raise AssertionError(f"the shell ended after: {''.join(printed)}")

    def console(self, block: Block) -> None:
        awaited = block.noted("until it prints:")
        deadline = time.monotonic() + PATIENCE_S
        printed, code = self.type(block.text)
        while awaited is not None and awaited not in printed and time.monotonic() < deadline:
            time.sleep(0.1)
            printed, code = self.type(block.text)
        assert code == 0, f"{block.text}exit code {code}: {printed}"
        wanted = awaited or block.noted("prints:") or ""
        assert wanted in printed, f"{block.text}lacks {wanted!r}: {printed}"

    def python(self, block: Block, following: Block | None) -> None:
        done = subprocess.run(
            [sys.executable, "-c", block.text],
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if block.note == "output":
            assert following is not None
            assert following.language == "text"
            assert done.stdout == following.text

    def read(self, page: Path) -> None:
        # A ring of this reader's own: somebody else may be at the same page just now.
        shown = [
            replace(
                block,
                text=self.own(block.text),
                note=self.own(block.note),
            )
            for block in blocks(page)
        ]
        for block, following in zip(shown, [*shown[1:], None], strict=True):
            name = block.noted("file:")
            if name is not None:
                (self.home / name).write_text(block.text, encoding="utf-8")
            program = block.noted("program:")
            node = block.noted("needs a node at")
            if node is not None:
                self.node(node)
            if block.language == "console":
                self.console(block)
            elif block.noted("kit:") is not None:
                continue  # compared with what the kit writes, and run where that is installed
            elif program is not None:
                (self.home / program).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                self.python(block, following)

    def own(self, text: str) -> str:
        """The text with this reader's own ring, and own addresses of the loopback interface."""
        text = re.sub(r"(--ring |name = \")tutorial", rf"\1{self.home.name}", text)
        return re.sub(r"\b127\.0\.0\.(?=[123]\b)", self.network, text)

    def node(self, socket: str) -> None:
        """A node that listens at *socket*; it ends with the reader."""
        (self.home / "needed.toml").write_text(settings_of_a_node_alone(self.home))
        self.type(f"vsync run -c needed.toml --socket {socket} > needed.log 2>&1 &")
        deadline = time.monotonic() + PATIENCE_S
        while "regular" not in self.type("cat needed.log")[0]:
            assert time.monotonic() < deadline, self.type("cat needed.log")[0]
            time.sleep(0.1)

    def close(self) -> None:
        """End the shell, and what it left running in the background."""
        self.type("kill -9 $(jobs -p) 2>&1; wait 2>&1")
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.close()
        self.shell.wait(PATIENCE_S)
        self.shell.stdout.close()


def settings_of_a_node_alone(home: Path) -> str:
    """Settings of a node on a ring that nobody else is on."""
    return (
        f'[node]\nid = 1\nstate_dir = "{home}/needed"\n'
        f'[ring]\nname = "{home.name}"\ntransport = "memory"\n'
    )


@contextmanager
def reader() -> Iterator[Reader]:
    """A reader in a directory with a short path, as Unix sockets need it."""
    home = Path(tempfile.mkdtemp(prefix="vsync-page-"))
    made = Reader(home)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(home, ignore_errors=True)


def identify(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", IN_ORDER, ids=identify)
def test_what_a_page_says_can_be_done_in_its_order(page: Path) -> None:
    with reader() as someone:
        someone.read(page)


KIT: Final = [
    (page, block) for page in PAGES for block in blocks(page) if block.noted("kit:") is not None
]


@pytest.mark.parametrize(
    ("page", "block"), KIT, ids=[f"{page.stem}:{block.note}" for page, block in KIT]
)
def test_a_page_shows_what_the_plugin_kit_writes(page: Path, block: Block, tmp_path: Path) -> None:
    kind, name, path = (block.noted("kit:") or "").split()
    written = write_package(kind, name, tmp_path / "package")
    assert block.text == (written.directory / path).read_text()


def test_the_pages_on_plugins_show_their_code_and_their_tests() -> None:
    shown = {block.note.split()[-1].split("/")[0] for _, block in KIT}
    assert shown == {"pyproject.toml", "src", "tests"}


def test_the_program_in_the_readme_applies_what_it_sends() -> None:
    (program,) = (block for block in blocks(ROOT / "README.md") if block.language == "python")
    with reader() as someone:
        settings = settings_of_a_node_alone(someone.home)
        (someone.home / "node.toml").write_text(settings)
        (someone.home / "program.py").write_text(program.text)
        someone.type(f"{sys.executable} program.py > program.log 2>&1 &")
        deadline = time.monotonic() + PATIENCE_S
        said = ""
        while "apply b'credit 10'" not in said:
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
            said = someone.type("cat program.log")[0]
        assert "here now: [1]" in said


TABLES: Final = [
    pytest.param(block.text, id=f"{identify(page)}:{block.line}")
    for page in PAGES
    for block in blocks(page)
    if block.language == "toml" and "[node]" in block.text
]


@pytest.mark.parametrize("text", TABLES)
def test_a_settings_file_on_a_page_is_one(text: str, tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    assert str(read_settings(file).node.id) in text


COMMANDS: Final = sorted(
    {
        line.strip()
        for page in PAGES
        for block in blocks(page)
        if block.language in ("console", "text")
        for line in block.text.splitlines()
        if line.strip().startswith("vsync ")
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_on_a_page_has_only_options_that_there_are(line: str) -> None:
    words = shlex.split(line.partition(" >")[0], comments=True)[1:]
    command: click.Command = main
    while isinstance(command, click.Group):
        part = command.get_command(click.Context(command), words.pop(0))
        assert part is not None, line
        command = part
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-") and word != "-"} <= known

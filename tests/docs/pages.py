"""What a page tells its readers to do: its blocks, and the notes that say what comes of them.

A note is a comment on the line above a block:

``<!-- file: NAME -->``             the block is a file of that name (a Python one is run as well)
``<!-- kit: KIND NAME PATH -->``    what ``vsync plugin new KIND NAME`` writes to PATH
``<!-- program: NAME -->``          the Python block is a file of that name, which is run later
``<!-- output -->``                 the next ``text`` block is all that the Python block prints
``<!-- prints: TEXT -->``           the console block prints that
``<!-- until it prints: TEXT -->``  as a reader would: look again and again, until it is there
``<!-- needs a node at PATH -->``   the block needs a node that listens at this socket
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])

_BLOCK: Final = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<note>[^\n]*?) -->\n *)?```(?P<language>\w+)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of a page."""

    language: str
    text: str
    note: str
    line: int

    def noted(self, word: str) -> str | None:
        """What the note says after *word*; None if it says something else."""
        return self.note.removeprefix(word).strip() if self.note.startswith(word) else None


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            language=found["language"],
            text=re.sub(rf"^{found['indent']}", "", found["text"], flags=re.MULTILINE),
            note=found["note"] or "",
            line=text.count("\n", 0, found.start("text")),
        )
        for found in _BLOCK.finditer(text)
    ]

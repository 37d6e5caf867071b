"""Archives that a kernel unpacks into memory when it starts: cpio, in the format ``newc``.

See Documentation/driver-api/early-userspace/buffer-format.rst of Linux. Archives may follow each
other in one file, compressed or not.
"""

import os
import stat
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO, Final

END: Final = "TRAILER!!!"


class Archive:
    """Writes an archive into a file that is open; ``close`` ends it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0
        self._known: set[str] = set()

    def add(self, path: Path, name: str, content: bytes | None = None) -> None:
        """Add a file, a link or a directory under this name, and the directories above it."""
        about = path.lstat()
        if content is None:
            if stat.S_ISLNK(about.st_mode):
                content = os.readlink(path).encode()
            elif stat.S_ISREG(about.st_mode):
                content = path.read_bytes()
        self.write(name, about.st_mode, content or b"", int(about.st_mtime))

    def write(self, name: str, mode: int, content: bytes = b"", modified: int = 0) -> None:
        """Add something that need not exist here."""
        above = os.path.dirname(name)
        if above and above not in self._known:
            self.write(above, stat.S_IFDIR | 0o755)
        if name in self._known:
            return
        self._known.add(name)
        self._number += 1
        said = name.encode() + b"\0"
        numbers = (self._number, mode, 0, 0, 1, modified, len(content), 0, 0, 0, 0, len(said), 0)
        head = b"070701" + b"".join(b"%08x" % number for number in numbers) + said
        self._file.write(head + bytes(-len(head) % 4))
        self._file.write(content + bytes(-len(content) % 4))

    def close(self) -> None:
        """Write the end, up to where another archive may begin."""
        self.write(END, 0)
        self._file.write(bytes(-self._file.tell() % 512))


def walk(top: Path, left_out: Callable[[str], bool]) -> Iterator[Path]:
    """All files and links below a directory but those whose path is left out."""
    for place, directories, files in os.walk(top):
        directories[:] = [name for name in directories if not left_out(f"{place}/{name}")]
        for name in (*files, *directories):
            path = Path(place, name)
            if not left_out(str(path)) and (name in files or path.is_symlink()):
                yield path


def matches(patterns: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether a path ends as one of these patterns says."""
    return lambda path: any(fnmatch(path, f"*/{pattern}") for pattern in patterns)

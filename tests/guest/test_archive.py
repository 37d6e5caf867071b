"""Archives for the kernel: what was put in comes out, and one may follow another."""

import io
import stat
from pathlib import Path

import pytest

from tests.guest.archive import END, Archive, matches, walk


def entries(content: bytes) -> list[tuple[str, int, bytes]]:
    """Read archives as the kernel does: name, mode, content."""
    found, at = [], 0
    while at < len(content):
        if not content[at]:  # room between archives
            at += 4
            continue
        head = content[at : at + 110]
        assert head[:6] == b"070701"
        fields = [int(head[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = content[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = at + -(-(110 + name_size) // 4) * 4
        found.append((name[:-1].decode(), mode, content[start : start + size]))
        at = start + -(-size // 4) * 4
    return found


@pytest.mark.parametrize("size", range(6))
def test_what_was_put_in_comes_out_whatever_its_size(tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    (tmp_path / "link").symlink_to("file")
    written = io.BytesIO()
    for _ in range(2):
        archive = Archive(written)
        archive.add(tmp_path / "file", "a/b/file")
        archive.add(tmp_path / "link", "a/link")
        archive.write("a/script", stat.S_IFREG | 0o755, b"#!")
        archive.close()
        assert written.tell() % 512 == 0
    found = entries(written.getvalue())
    assert [(name, stat.S_IFMT(mode), content) for name, mode, content in found] == [
        ("a", stat.S_IFDIR, b""),
        ("a/b", stat.S_IFDIR, b""),
        ("a/b/file", stat.S_IFREG, b"x" * size),
        ("a/link", stat.S_IFLNK, b"file"),
        ("a/script", stat.S_IFREG, b"#!"),
        (END, 0, b""),
    ] * 2


def test_a_walk_leaves_out_what_it_is_told(tmp_path: Path) -> None:
    for name in ("a/keep.py", "a/test/no.py", "b/no__mypyc.so", "b/yes.so"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = walk(tmp_path, matches(("a/test", "*__mypyc.so")))
    assert sorted(str(path.relative_to(tmp_path)) for path in found) == ["a/keep.py", "b/yes.so"]

"""Where sockets are when nobody says so."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vsync.errors import DaemonError
from vsync.vocabulary import NodeId
from vsync_cli.sockets import (
    PATH_BYTES_MAX,
    check_length,
    default_socket,
    find_socket,
    prepare_directory,
)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of sockets; the path of a Unix socket must be short."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vsync").mkdir(mode=0o700)
    yield tmp_path / "vsync"


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def test_the_default_is_named_after_ring_and_node(runtime: Path) -> None:
    assert default_socket("orders", NodeId(3)) == runtime / "orders-3.sock"


def test_without_a_runtime_directory_it_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert default_socket("r", NodeId(1)) == Path(f"/tmp/vsync-{os.getuid()}/r-1.sock")


def test_rings_with_strange_names_do_not_share_a_socket(runtime: Path) -> None:
    names = ["a/b", "a b", "a_b", "../../a", "ü" * 200, "x" * 200, "x" * 199]
    paths = {default_socket(name, NodeId(1)) for name in names}
    assert len(paths) == len(names)
    assert {path.parent for path in paths} == {runtime}


def test_the_only_socket_is_the_one_that_is_meant(runtime: Path) -> None:
    listen(runtime / "r-1.sock")
    assert find_socket(None) == runtime / "r-1.sock"
    listen(runtime / "r-2.sock")
    with pytest.raises(DaemonError, match=r"several nodes.*r-1\.sock.*r-2\.sock.*--socket"):
        find_socket(None)
    assert find_socket(runtime / "r-2.sock") == runtime / "r-2.sock"


def test_without_any_socket_the_error_says_how_to_start_a_node(runtime: Path) -> None:
    (runtime / "no-socket.sock").touch()
    with pytest.raises(DaemonError, match="vsync run -c FILE"):
        find_socket(None)


def test_a_path_that_no_socket_can_have_is_refused() -> None:
    check_length(Path("x" * PATH_BYTES_MAX))
    with pytest.raises(DaemonError, match="108 bytes"):
        check_length(Path("x" * (PATH_BYTES_MAX + 1)))


def test_the_directory_is_made_for_this_user_alone(runtime: Path) -> None:
    prepare_directory(runtime / "new" / "r-1.sock")
    assert (runtime / "new").stat().st_mode & 0o777 == 0o700


def test_a_directory_behind_a_link_is_not_trusted(runtime: Path) -> None:
    (runtime / "link").symlink_to(runtime)
    with pytest.raises(DaemonError, match="cannot be trusted"):
        prepare_directory(runtime / "link" / "r-1.sock")


def test_a_directory_that_cannot_be_made_is_a_sentence(runtime: Path) -> None:
    (runtime / "file").touch()
    with pytest.raises(DaemonError, match="--socket"):
        prepare_directory(runtime / "file" / "r-1.sock")

"""Where a node's Unix socket is when nobody says so, and which one a client means."""

import hashlib
import os
import re
from pathlib import Path
from typing import Final

from vsync.errors import DaemonError
from vsync.vocabulary import NodeId

PATH_BYTES_MAX: Final = 107
"""The longest path that a Unix socket can have: 108 bytes less the zero, unix(7)."""


def socket_directory() -> Path:
    """The directory of this user's sockets; it need not exist."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "vsync" if runtime else Path(f"/tmp/vsync-{os.getuid()}")


def default_socket(ring: str, node: NodeId) -> Path:
    """The path of the socket of *node* in *ring*, where the settings name none."""
    name = re.sub(r"[^\w.-]", "_", ring, flags=re.ASCII)
    if name != ring or len(name) > 30:
        # A name that was changed or cut could be another ring's as well.
        name = f"{name[:20]}-{hashlib.blake2b(ring.encode(), digest_size=4).hexdigest()}"
    return socket_directory() / f"{name}-{node}.sock"


def prepare_directory(path: Path) -> None:
    """Make the directory of a default socket. Raises DaemonError if it cannot be trusted."""
    directory = path.parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = directory.lstat()
    except OSError as error:
        raise DaemonError(
            f"the directory {directory} of the socket cannot be made: {error.strerror}; "
            "choose another place with --socket or with socket in [daemon]"
        ) from error
    if facts.st_uid != os.getuid() or not directory.is_dir() or directory.is_symlink():
        raise DaemonError(
            f"{directory} belongs to someone else, so a socket in it cannot be trusted; "
            "choose another place with --socket or with socket in [daemon]"
        )


def check_length(path: Path) -> None:
    """Refuse a path that no Unix socket can have. Raises DaemonError."""
    size = len(os.fsencode(path))
    if size > PATH_BYTES_MAX:
        raise DaemonError(
            f"the path of the socket has {size} bytes, and Unix allows {PATH_BYTES_MAX}: {path}; "
            "choose a shorter one"
        )


def find_socket(given: Path | None) -> Path:
    """The socket that a client is to use: *given*, or the only one in the default directory.

    Raises DaemonError if there is none, or more than one.
    """
    if given is not None:
        check_length(given)
        return given
    directory = socket_directory()
    found = sorted(path for path in directory.glob("*.sock") if path.is_socket())
    if len(found) == 1:
        return found[0]
    if not found:
        raise DaemonError(
            f"no node of yours seems to run here (no socket in {directory}); start one with "
            "`vsync run -c FILE`, or say with --socket where its socket is"
        )
    listed = ", ".join(map(str, found))
    raise DaemonError(f"several nodes have a socket here: {listed}; choose one with --socket")

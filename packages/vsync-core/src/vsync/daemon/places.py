"""Where the Unix sockets of daemons are, and which one a client means that names none."""

import os
from pathlib import Path
from typing import Final

from vsync.errors import DaemonError

SOCKET_VARIABLE: Final = "VSYNC_SOCKET"
"""The environment variable that names the socket which clients are to use."""

PATH_BYTES_MAX: Final = 107
"""The longest path that a Unix socket can have: 108 bytes less the zero, unix(7)."""


def socket_directory() -> Path:
    """The directory of this user's sockets; it need not exist."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "vsync" if runtime else Path(f"/tmp/vsync-{os.getuid()}")


def check_length(path: Path) -> None:
    """Refuse a path that no Unix socket can have. Raises DaemonError."""
    size = len(os.fsencode(path))
    if size > PATH_BYTES_MAX:
        raise DaemonError(
            f"the path of the socket has {size} bytes, and Unix allows {PATH_BYTES_MAX}: {path}; "
            "choose a shorter one"
        )


def find_socket(given: Path | None, *, chosen_with: str = SOCKET_VARIABLE) -> Path:
    """The socket that a client is to use: *given*, or the only one in the default directory.

    Raises DaemonError if there is none, or more than one; *chosen_with* is how to say which.
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
            f"`vsync run -c FILE`, or say with {chosen_with} where its socket is"
        )
    listed = ", ".join(map(str, found))
    raise DaemonError(f"several nodes have a socket here: {listed}; choose one with {chosen_with}")

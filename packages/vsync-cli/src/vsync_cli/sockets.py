"""Where a node's Unix socket is when nobody says so, and which one a client means."""

import hashlib
import os
import re
from pathlib import Path

from vsync.daemon import places
from vsync.daemon.places import PATH_BYTES_MAX, check_length, socket_directory
from vsync.errors import DaemonError
from vsync.settings import NodeSettings
from vsync.vocabulary import NodeId

__all__ = [
    "PATH_BYTES_MAX",
    "check_length",
    "choose_socket",
    "default_socket",
    "find_socket",
    "prepare_directory",
    "socket_directory",
]


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


def choose_socket(settings: NodeSettings, given: Path | None) -> Path:
    """The path of a node's socket: as *given*, else as the settings say, else this user's default.

    Raises DaemonError if it cannot be there.
    """
    configured = settings.daemon.socket
    path = given or (Path(configured) if configured else None)
    if path is None:
        path = default_socket(settings.ring.name, NodeId(settings.node.id))
        prepare_directory(path)
    check_length(path)
    return path


def find_socket(given: Path | None) -> Path:
    """The socket that a client is to use: *given*, or the only one in the default directory.

    Raises DaemonError if there is none, or more than one.
    """
    return places.find_socket(given, chosen_with="--socket")

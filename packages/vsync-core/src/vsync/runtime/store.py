"""What a node keeps on disk: the highest ring number that it may have used, and its last life.

One file, ``ringid_RING_NODE`` in the state directory, as JSON. It is replaced, never changed in
place: written aside, forced to disk, renamed. The stored number is a mark ahead of what is in use,
so that most rings form without waiting for the disk; a restart then skips a few numbers.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from vsync.errors import StateFailed
from vsync.vocabulary import NodeId

NAME_CHARACTERS_MAX: Final = 40

AHEAD: Final = 64
"""Ring numbers set aside with one write."""


def file_name(ring_name: str) -> str:
    """A ring's name as part of a file's name: as it is where that works, else with a hash."""
    name = re.sub(r"[^A-Za-z0-9.-]", "-", ring_name)
    if name == ring_name and len(name) <= NAME_CHARACTERS_MAX:
        return name
    digest = hashlib.blake2b(ring_name.encode(), digest_size=4).hexdigest()
    return f"{name[:NAME_CHARACTERS_MAX]}-{digest}"


def state_directory(given: str | None) -> Path:
    """The state directory: as *given* in the settings, else this user's own."""
    if given is not None:
        return Path(given)
    home = os.environ.get("XDG_STATE_HOME")
    if home:
        return Path(home) / "vsync"
    if os.geteuid() == 0:
        return Path("/var/lib/vsync")
    return Path.home() / ".local" / "state" / "vsync"


class StateStore:
    """The durable state of one node, locked for one process at a time.

    Raises StateFailed, here and in ``save``, if the directory cannot be used.
    """

    def __init__(self, directory: Path, ring_name: str, node: NodeId) -> None:
        self._directory = directory
        self._name = f"{file_name(ring_name)}_{node}"
        self._path = directory / f"ringid_{self._name}"
        self._lock = self._take_lock(node)
        try:
            self._mark, life, instance = self._read()
            self.life = max(time.time_ns(), life + 1)
            """This life's number: above every earlier one of this node."""
            self.instance = instance or 1 + secrets.randbelow(2**32 - 1)
            """Tells this state from another one of a node of the same number, if it was lost."""
            self._write(self._mark)
        except BaseException:
            self.close()
            raise

    def load(self) -> int:
        """The highest ring number that may have been used."""
        return self._mark

    def save(self, ring_seq: int) -> None:
        """Make sure that *ring_seq* is never used again after a restart."""
        if ring_seq > self._mark:
            self._write(ring_seq + AHEAD)
            self._mark = ring_seq + AHEAD

    def close(self) -> None:
        """Let another process have the state."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self, node: NodeId) -> int:
        path = self._directory / f"lock_{self._name}"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateFailed(
                f"cannot use the state directory {self._directory}: {error.strerror}; "
                "make it writable for this user, or choose another one with state_dir in [node]"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise StateFailed(
                f"node {node} is already running here: process {holder} uses {self._directory}; "
                "stop it, or give this node another id or state_dir in [node]"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise StateFailed(
                f"cannot lock {path}: {error.strerror}; put state_dir in [node] on a file system "
                "of this machine"
            ) from error
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return descriptor

    def _read(self) -> tuple[int, int, int]:
        try:
            text = self._path.read_text(encoding="ascii")
        except FileNotFoundError:
            return 0, 0, 0
        except (OSError, UnicodeDecodeError) as error:
            raise StateFailed(
                f"cannot read {self._path}: {error}; make it readable for this user, or remove it "
                "if no node of this ring is running"
            ) from error
        try:
            fields = json.loads(text)
            found = (fields["ring_seq"], fields["life"], fields.get("instance", 0))
            if all(type(each) is int and each >= 0 for each in found) and found[2] < 2**32:
                return found
        except (ValueError, KeyError, TypeError):
            pass
        raise StateFailed(
            f"{self._path} is damaged; remove it if no node of this ring is running "
            "(else a ring number might be used twice)"
        )

    def load_service(self, name: str) -> bytes | None:
        """What the service *name* of this node kept; None if it kept nothing."""
        path = self._service_path(name)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateFailed(
                f"cannot read {path}: {error.strerror}; make it readable for this user, or remove "
                f"it if service {name} may forget what it kept"
            ) from error

    def save_service(self, name: str, data: bytes) -> None:
        """Keep *data* for the service *name*, in place of what it kept before; durable at once."""
        self._replace(self._service_path(name), data)

    def _service_path(self, name: str) -> Path:
        return self._path.with_name(f"{self._path.name}_service_{quote(name, safe='')}")

    def _write(self, ring_seq: int) -> None:
        data = json.dumps({"ring_seq": ring_seq, "life": self.life, "instance": self.instance})
        self._replace(self._path, data.encode("ascii"))

    def _replace(self, path: Path, data: bytes) -> None:
        aside = path.with_name(path.name + ".new")
        try:
            with open(aside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise StateFailed(
                f"cannot write {path}: {error.strerror}; the node cannot join rings without "
                "it. Free space, or make the directory writable"
            ) from error

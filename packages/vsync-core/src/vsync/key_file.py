"""Key files: a ring's key as a line of text that only its owner may read."""

import base64
import binascii
import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from vsync.errors import SettingsError
from vsync.keys import KEY_BYTES, Key, KeyRing
from vsync.settings import SecuritySection

HEADING: Final = "vsync-key-1"
"""What the line begins with; behind it stand the key's bytes in base64."""

FILE_BYTES_MAX: Final = 4096
OWNER_ONLY: Final = 0o600


def make_key() -> Key:
    """A new key, from the system's randomness."""
    return Key(secrets.token_bytes(KEY_BYTES))


def write_key(path: Path, key: Key, *, replace: bool = False) -> None:
    """Write a key file that only its owner may read; durable at once.

    Raises SettingsError if there is one already, unless it is to be replaced, or it cannot be.
    """
    text = f"# A key of vsync rings, for all their nodes. Id {key}.\n"
    text += f"{HEADING} {base64.b64encode(key.secret).decode()}\n"
    # Several nodes of one machine may share their key files, and change them at the same time.
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        if not replace and path.exists():
            raise FileExistsError
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWNER_ONLY)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(aside, path)
        else:
            os.link(aside, path)  # fails if another has made it in the meantime
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError as error:
        raise SettingsError(
            f"{path} is there already, and a key that is lost cannot be had back; name another "
            "file, or say --force"
        ) from error
    except OSError as error:
        raise SettingsError(f"the key file {path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def next_file(key_file: Path) -> Path:
    """Where the key is that a key file's is being changed to."""
    return key_file.with_name(f"{key_file.name}.next")


def previous_file(key_file: Path) -> Path:
    """Where the key is that a key file's was, until all nodes have dropped it."""
    return key_file.with_name(f"{key_file.name}.previous")


def read_key(path: Path) -> Key:
    """The key in a file. Raises SettingsError, a sentence that says what is wrong with it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise SettingsError(
                    f"the key file {path} is no file; `vsync keygen FILE` makes one"
                )
            if found.st_mode & 0o077:
                raise SettingsError(
                    f"the key file {path} may be read by others (its mode is "
                    f"{stat.S_IMODE(found.st_mode):04o}): chmod 600 {path}, and make a new key if "
                    "somebody may have read it"
                )
            text = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise SettingsError(
            f"there is no key file {path}; `vsync keygen {path}` makes one, to be copied to all "
            "nodes of the ring"
        ) from error
    except OSError as error:
        raise SettingsError(f"cannot read the key file {path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{str(path)!r} cannot be the path of a key file: {error}") from error
    lines = [line.split() for line in text.splitlines() if line.strip()[:1] not in (b"", b"#")]
    if len(text) > FILE_BYTES_MAX or len(lines) != 1 or lines[0][:1] != [HEADING.encode()]:
        raise SettingsError(
            f"{path} is no key file: it must have one line that begins with {HEADING}, as "
            "`vsync keygen FILE` writes it"
        )
    try:
        secret = base64.b64decode(b"".join(lines[0][1:]), validate=True)
        return Key(secret)
    except (binascii.Error, ValueError) as error:
        raise SettingsError(
            f"the key in {path} is damaged: it must be {KEY_BYTES} bytes in base64; copy the file "
            "again from another node"
        ) from error


def key_ring_of(settings: SecuritySection) -> KeyRing | None:
    """The keys that the settings name; None if they name none. Raises SettingsError."""
    if settings.key_file is None:
        return None
    path = Path(settings.key_file)
    accepted = [read_key(Path(each)) for each in settings.accepted_key_files]
    kept = frozenset(key.id for key in accepted)
    resolved = path.resolve()
    for beside in (next_file(resolved), previous_file(resolved)):  # of a change that is under way
        try:
            accepted.append(read_key(beside))
        except SettingsError:
            if beside.exists():
                raise
    # Last: a node that shares the files may just have put the next one into its place.
    keys = KeyRing(read_key(path), accepted)
    keys.kept = kept
    return keys

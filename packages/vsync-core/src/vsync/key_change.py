"""A node's keys while its ring's key is changed: what is done at each step, and kept on disk.

Beside the key file stand, while a change is under way, ``FILE.next`` with the key that comes and
``FILE.previous`` with the one that goes; the keys in both are accepted. Every step can be broken
off anywhere and done again, also by another node that shares the files.
"""

import contextlib
import os
from pathlib import Path
from typing import Protocol

from vsync.engine.rekeying import KeyStep, Step
from vsync.errors import MisuseError, SettingsError
from vsync.key_file import next_file, previous_file, read_key, write_key
from vsync.keys import Key, KeyRing
from vsync.seal.wrapping import unwrap_key


class KeyStore(Protocol):
    """Keeps a node's keys. All that it does is durable when it returns; it raises SettingsError."""

    def load_next(self) -> Key | None:
        """The key that comes, if one is there."""

    def load_used(self) -> Key:
        """The key that the node uses after a restart."""

    def put_next(self, key: Key) -> None:
        """Have *key* as the one that comes."""

    def use_next(self) -> None:
        """The key that comes is the one that is used, and the one that was used goes."""

    def forget_next(self, key_id: bytes) -> None:
        """No key comes, if it was that one."""

    def forget_others(self, key_id: bytes) -> None:
        """No key goes any more, and none comes but that one."""


class KeyFiles:
    """Keeps keys in files: one that settings name, and those beside it."""

    def __init__(self, key_file: Path) -> None:
        self.path = key_file.resolve()  # a link stays one, and what it leads to is replaced
        self.next = next_file(self.path)
        self._previous = previous_file(self.path)

    def load_next(self) -> Key | None:
        return read_key(self.next) if self.next.exists() else None

    def load_previous(self) -> Key | None:
        """The key that goes, if one is there."""
        return read_key(self._previous) if self._previous.exists() else None

    def load_used(self) -> Key:
        return read_key(self.path)

    def put_next(self, key: Key) -> None:
        write_key(self.next, key, replace=True)

    def use_next(self) -> None:
        # First what goes, so that whoever restarts in between accepts all that others may use.
        coming, used = read_key(self.next), read_key(self.path)
        if used.id != coming.id:  # else a node that shares the files has just done this
            write_key(self._previous, used, replace=True)
        try:
            os.replace(self.next, self.path)
            self._sync()
        except OSError as error:
            raise SettingsError(
                f"{self.next} cannot take the place of {self.path}: {error.strerror}; let this "
                "node write to that directory"
            ) from error

    def forget_next(self, key_id: bytes) -> None:
        try:
            if read_key(self.next).id == key_id:
                self._remove(self.next)
        except SettingsError:
            if self.next.exists():
                raise

    def forget_others(self, key_id: bytes) -> None:
        if self.next.exists() and read_key(self.next).id != key_id:
            self._remove(self.next)
        self._remove(self._previous)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
            self._sync()
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be removed: {error.strerror}; let this node write to that directory"
            ) from error

    def _sync(self) -> None:
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def switch(step: KeyStep, keys: KeyRing) -> None:
    """Seal with the new key from here on, if *step* says so: at its place in the ring's order,
    where all who are there accept it.

    What is on disk follows. Who restarts before that seals with the old key once more, and all
    accept that one until all have the new one on disk.
    """
    if step.step is Step.USE:
        with contextlib.suppress(MisuseError):  # gone from memory; it is read from disk soon
            keys.use(step.new)


def do_step(step: KeyStep, keys: KeyRing, store: KeyStore) -> Step:
    """Do one step of a change of the key, durably first, and then in *keys*.

    What is done in the end: a node that accepts a key may have used it already, in a former life.
    Raises SettingsError, a sentence that says why it cannot be done; then it may be tried again.
    """
    match step.step:
        case Step.ACCEPT:
            keys.accept(_accept(step, keys, store))
            keys.needed = frozenset({step.new, step.old})
            if keys.used.id == store.load_used().id == step.new:
                return Step.USE
        case Step.USE:
            if store.load_used().id != step.new:
                key, coming = keys.find(step.new), store.load_next()
                if key is not None and (coming is None or coming.id != key.id):
                    store.put_next(key)  # somebody has removed it
                store.use_next()
            if keys.find(step.new) is None:
                keys.accept(store.load_used())
            keys.use(step.new)
            keys.needed = frozenset({step.new, step.old})
        case Step.DROP:
            # All others too, that changes may have left behind which were broken off.
            store.forget_others(step.new)
            keys.needed = frozenset()
            for key in keys.keys:
                if key.id not in (step.new, keys.used.id, *keys.kept):
                    keys.drop(key.id)
        case Step.UNDO:
            keys.needed = frozenset()
            if keys.used.id != step.new:
                if step.body:  # else somebody has put it there, who may want it again
                    store.forget_next(step.new)
                keys.drop(step.new)
    return step.step


def broken_off(key: Key) -> str:
    """Why no other change can be made where one to *key* was begun."""
    return (
        f"a change to key {key} was prepared or broken off here; complete that first, with "
        "`vsync key rotate` on this node"
    )


def _accept(step: KeyStep, keys: KeyRing, store: KeyStore) -> Key:
    """The new key, once it is on disk."""
    used = store.load_used()
    if used.id == step.new:
        return used
    if used.id != step.old and keys.find(step.old) is not None:  # and others may use it, too
        raise SettingsError(broken_off(used))
    coming = store.load_next()
    if coming is not None and coming.id == step.new:
        return coming
    if not step.body:
        there = "no key is there" if coming is None else f"key {coming} is there"
        raise SettingsError(
            f"the new key {step.new.hex()} was to be in the file beside this node's key file, "
            f"with .next behind its name, and {there}; copy it to every node and try again"
        )
    if coming is not None:  # and others may use it: this node has said that it accepts it
        raise SettingsError(broken_off(coming))
    old = keys.find(step.old)
    if old is None:
        raise SettingsError(
            f"this node does not have the key {step.old.hex()} that is to be changed; give all "
            "nodes the same key_file in [security] first"
        )
    key = unwrap_key(step.body, step.new, old)
    if key is None:
        raise SettingsError("the new key came damaged; try again")
    store.put_next(key)
    return key

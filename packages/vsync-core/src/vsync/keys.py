"""Keys: the ring's secrets, and which of them seals."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from vsync.errors import MisuseError

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Key:
    """A secret that all nodes of a ring share. Its *id* tells it from others, and is no secret."""

    secret: bytes = field(repr=False)
    id: bytes = field(init=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(self.secret)}")
        digest = hashlib.blake2b(self.secret, digest_size=KEY_ID_BYTES, person=b"vsync key id")
        object.__setattr__(self, "id", digest.digest())

    def __str__(self) -> str:
        return self.id.hex()


class KeyRing:
    """The keys whose seals are accepted, and the one that seals.

    A key is changed on a running ring in three steps, each everywhere before the next: ``accept``
    the new one, ``use`` it, ``drop`` the old one.
    """

    def __init__(self, key: Key, accepted: Iterable[Key] = ()) -> None:
        self._keys = {each.id: each for each in (key, *accepted)}
        self._used = key
        self.kept: frozenset[bytes] = frozenset()
        """Ids of keys that settings say are accepted, whatever becomes of others."""
        self.needed: frozenset[bytes] = frozenset()
        """Ids of the keys of a change that is under way: they are not dropped until it ends."""
        self.dropped: set[bytes] = set()
        """Ids of keys that were accepted in this life of the node, and are no more."""

    @property
    def used(self) -> Key:
        """The key that seals."""
        return self._used

    @property
    def keys(self) -> tuple[Key, ...]:
        """All that are accepted; that which seals first."""
        others = [key for key in tuple(self._keys.values()) if key.id != self._used.id]
        return (self._used, *others)

    def find(self, key_id: bytes) -> Key | None:
        """The accepted key of that id."""
        return self._keys.get(key_id)

    def accept(self, key: Key) -> None:
        """Take packets that *key* seals from now on."""
        # One operation on what there is, here and below: other threads read and change it, too.
        self._keys[key.id] = key
        self.dropped.discard(key.id)

    def use(self, key_id: bytes) -> None:
        """Seal with that key from now on. Raises MisuseError if it is not accepted."""
        key = self._keys.get(key_id)
        if key is None:
            raise MisuseError(f"key {key_id.hex()} is not accepted here; accept it first")
        self._used = key

    def drop(self, key_id: bytes) -> None:
        """Take no packets of that key any more, unless a change under way needs it.

        Raises MisuseError if it is the one that seals.
        """
        if key_id in self.needed:
            return
        if key_id == self._used.id:
            raise MisuseError(f"key {key_id.hex()} is in use; use another before it is dropped")
        if key_id in self._keys:
            self.dropped.add(key_id)
            self._keys.pop(key_id, None)

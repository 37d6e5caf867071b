"""Key disk: the key files of a simulated host."""

from dataclasses import dataclass

from vsync.errors import SettingsError
from vsync.keys import Key, KeyRing
from vsync.testing.wiring import KEY


@dataclass(slots=True)
class KeyDisk:
    """A host's key files; what is in them outlives a crash."""

    used: Key = KEY
    next: Key | None = None
    previous: Key | None = None
    failure: str = ""
    """Why nothing can be written to it; empty: it can."""

    def load_next(self) -> Key | None:
        """As ``KeyStore`` says, like all that follows."""
        return self.next

    def load_used(self) -> Key:
        return self.used

    def put_next(self, key: Key) -> None:
        self._check()
        self.next = key

    def use_next(self) -> None:
        self._check()
        assert self.next is not None
        self.used, self.previous, self.next = self.next, self.used, None

    def forget_next(self, key_id: bytes) -> None:
        self._check()
        if self.next is not None and self.next.id == key_id:
            self.next = None

    def forget_others(self, key_id: bytes) -> None:
        self._check()
        self.previous = None
        if self.next is not None and self.next.id != key_id:
            self.next = None

    def _check(self) -> None:
        if self.failure:
            raise SettingsError(self.failure)

    @property
    def keys(self) -> KeyRing:
        """What a node begins a life with."""
        return KeyRing(self.used, [key for key in (self.next, self.previous) if key is not None])

"""The keeper: what is to be done with keys is done, whatever happens to them meanwhile."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vsync.api import keeper as module
from vsync.api.keeper import Keeper
from vsync.engine.rekeying import KeyStep, Name, Step
from vsync.errors import MisuseError
from vsync.key_file import key_ring_of, make_key, read_key, write_key
from vsync.keys import Key, KeyRing
from vsync.seal.wrapping import wrap_key
from vsync.settings import SecuritySection
from vsync.vocabulary import NodeId

OLD, NEW = make_key(), make_key()


class Kept:
    """A keeper with a key file, and what it has said."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ring.key"
        write_key(self.path, OLD)
        keys = key_ring_of(SecuritySection(key_file=str(self.path)))
        assert keys is not None
        self.keys: KeyRing = keys
        self.said: list[tuple[Name, Step, str, bytes]] = []
        self._told = threading.Semaphore(0)
        self.keeper = Keeper(NodeId(1), keys, str(self.path), self._hear)

    def _hear(self, *said: object) -> None:
        self.said.append(said)  # type: ignore[arg-type]
        self._told.release()

    def do(self, step: Step) -> str:
        """Have it do a step; why it failed."""
        body = wrap_key(NEW, OLD)
        self.keeper.do(KeyStep(step, NEW.id, OLD.id, body, may_fail=step is Step.ACCEPT))
        assert self._told.acquire(timeout=10.0), f"nothing came of {step.name}"
        name, done, failure, used = self.said[-1]
        assert (name, done, used) == ((NEW.id, 0), step, self.keys.used.id)
        return failure


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def test_keys_of_a_change_under_way_are_not_dropped_by_a_reload(kept: Kept) -> None:
    assert kept.do(Step.ACCEPT) == ""
    kept.keys.drop(NEW.id)  # as when settings accepted it and do no more
    assert kept.keys.find(NEW.id) == NEW
    assert kept.do(Step.USE) == ""
    kept.keys.drop(OLD.id)
    assert kept.keys.find(OLD.id) == OLD
    assert kept.do(Step.DROP) == ""
    assert kept.keys.keys == (NEW,)
    assert read_key(kept.path) == NEW
    kept.keeper.close()


def test_a_key_that_is_gone_from_memory_is_used_all_the_same(kept: Kept) -> None:
    assert kept.do(Step.ACCEPT) == ""
    fresh = KeyRing(OLD)
    kept.keys._keys, kept.keys.needed = fresh._keys, frozenset()
    assert kept.do(Step.USE) == ""
    assert kept.keys.used == read_key(kept.path) == NEW
    kept.keeper.close()


def test_no_error_ends_the_keeper(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[bytes] = []

    def refuse(key_id: bytes) -> None:
        refused.append(key_id)
        if len(refused) == 2:  # at once, and with the disk
            monkeypatch.undo()
        raise MisuseError("not now")

    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    assert kept.do(Step.ACCEPT) == ""
    monkeypatch.setattr(kept.keys, "use", refuse)
    assert kept.do(Step.USE) == ""
    assert kept.keys.used == NEW
    kept.keeper.close()


def test_two_threads_that_change_keys_at_once_lose_none() -> None:
    both = threading.Barrier(2)

    class Slow(dict[bytes, Key]):
        """Keys whose reading takes until the other thread reads them, too."""

        def __iter__(self) -> Iterator[bytes]:
            return iter(self.keys())  # else it is copied without a look at its keys

        def keys(self) -> Any:
            with contextlib.suppress(threading.BrokenBarrierError):
                both.wait(0.2)
            return super().keys()

    ring, others = KeyRing(OLD), [make_key(), make_key()]
    ring._keys = Slow(ring._keys)
    threads = [threading.Thread(target=ring.accept, args=(key,)) for key in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.id for key in ring.keys} == {OLD.id, *(key.id for key in others)}

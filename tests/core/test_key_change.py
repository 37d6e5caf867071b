"""Key files while a ring's key is changed: durable, private, right wherever it is broken off."""

import stat
from pathlib import Path

import pytest

from vsync.engine.rekeying import KeyStep, Step
from vsync.errors import SettingsError
from vsync.key_change import KeyFiles, do_step
from vsync.key_file import key_ring_of, make_key, next_file, previous_file, read_key, write_key
from vsync.keys import Key, KeyRing
from vsync.seal.wrapping import unwrap_key, wrap_key
from vsync.settings import SecuritySection

OLD, NEW = make_key(), make_key()
STEPS = (Step.ACCEPT, Step.USE, Step.DROP)


class Place:
    """A node's key files, and the keys that it has in memory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ring.key"
        if not self.path.exists():
            write_key(self.path, OLD)
        self.files = KeyFiles(self.path)
        self.restart()

    def restart(self) -> None:
        keys = key_ring_of(SecuritySection(key_file=str(self.path)))
        assert keys is not None
        self.keys: KeyRing = keys

    def do(self, *steps: Step, body: bytes | None = None) -> None:
        wrapped = wrap_key(NEW, OLD) if body is None else body
        for step in steps:
            do_step(KeyStep(step, NEW.id, OLD.id, wrapped, True), self.keys, self.files)

    @property
    def seen(self) -> tuple[Key, set[Key]]:
        return self.keys.used, set(self.keys.keys)


EXPECTED = {
    Step.UNDO: (OLD, {OLD}),
    Step.ACCEPT: (OLD, {OLD, NEW}),
    Step.USE: (NEW, {OLD, NEW}),
    Step.DROP: (NEW, {NEW}),
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("last", STEPS)
def test_after_each_step_a_restart_finds_the_keys_as_they_were(place: Place, last: Step) -> None:
    place.do(*STEPS[:last])
    assert place.seen == EXPECTED[last]
    place.restart()
    assert place.seen == EXPECTED[last]


@pytest.mark.parametrize("last", STEPS)
def test_every_step_may_be_done_again_after_any_other(place: Place, last: Step) -> None:
    place.do(*STEPS[:last])
    place.restart()
    for step in STEPS:
        place.do(step)
        place.do(step)
        place.restart()
    assert place.seen == (NEW, {NEW})
    assert sorted(path.name for path in place.path.parent.iterdir()) == ["ring.key"]


def test_nodes_may_share_their_files_and_be_a_step_apart(tmp_path: Path) -> None:
    one, other = Place(tmp_path), Place(tmp_path)
    one.do(Step.ACCEPT)
    other.do(Step.ACCEPT)
    one.do(Step.USE)
    assert other.seen == EXPECTED[Step.ACCEPT]
    assert Place(tmp_path).seen == EXPECTED[Step.USE]
    other.do(Step.USE)
    one.do(Step.DROP)
    assert other.seen == EXPECTED[Step.USE]
    other.do(Step.DROP)
    assert one.seen == other.seen == EXPECTED[Step.DROP]


def test_the_old_key_is_kept_when_another_node_that_shares_the_files_was_quicker(
    tmp_path: Path,
) -> None:
    quick, slow = Place(tmp_path), Place(tmp_path)
    quick.do(Step.ACCEPT)
    slow.do(Step.ACCEPT)

    class Overtaken(KeyFiles):
        def load_used(self) -> Key:
            found = super().load_used()
            quick.do(Step.USE)
            return found

    slow.files = Overtaken(slow.path)
    slow.do(Step.USE)
    assert slow.seen == EXPECTED[Step.USE]
    assert read_key(previous_file(slow.path)) == OLD


@pytest.mark.parametrize("last", [Step.ACCEPT, Step.USE])
def test_a_key_that_others_may_use_already_is_not_replaced_by_that_of_another_change(
    place: Place, last: Step
) -> None:
    place.do(*STEPS[:last])
    place.restart()
    another = make_key()
    with pytest.raises(SettingsError, match=f"to key {NEW} was.*broken off.*on this node"):
        do_step(
            KeyStep(Step.ACCEPT, another.id, OLD.id, wrap_key(another, OLD), True),
            place.keys,
            place.files,
        )
    assert place.seen == EXPECTED[last]
    place.restart()
    assert place.seen == EXPECTED[last]


def test_what_is_given_up_is_gone(place: Place) -> None:
    place.do(Step.ACCEPT, Step.UNDO)
    assert place.seen == EXPECTED[Step.UNDO]
    assert not next_file(place.path).exists()
    place.do(Step.UNDO)


def test_what_is_used_is_not_given_up(place: Place) -> None:
    place.do(Step.ACCEPT, Step.USE, Step.UNDO)
    assert place.seen == EXPECTED[Step.USE]


def test_a_key_that_was_copied_there_is_taken_and_stays_if_the_change_is_given_up(
    place: Place,
) -> None:
    with pytest.raises(SettingsError, match="no key is there; copy it to every node"):
        place.do(Step.ACCEPT, body=b"")
    write_key(next_file(place.path), make_key())
    with pytest.raises(SettingsError, match=r"and key [0-9a-f]{8} is there"):
        place.do(Step.ACCEPT, body=b"")
    write_key(next_file(place.path), NEW, replace=True)
    place.do(Step.ACCEPT, Step.UNDO, body=b"")
    assert next_file(place.path).exists()
    place.do(*STEPS, body=b"")
    assert read_key(place.path) == NEW


def test_a_key_that_does_not_come_whole_is_not_kept(place: Place) -> None:
    for body in (b"x", wrap_key(make_key(), OLD), wrap_key(NEW, make_key()), bytes(60)):
        with pytest.raises(SettingsError, match="came damaged"):
            place.do(Step.ACCEPT, body=body)
    assert place.seen == EXPECTED[Step.UNDO]
    assert not next_file(place.path).exists()


def test_who_does_not_have_the_old_key_says_so(place: Place) -> None:
    stranger = KeyStep(Step.ACCEPT, NEW.id, b"none", wrap_key(NEW, OLD), True)
    with pytest.raises(SettingsError, match="does not have the key 6e6f6e65 that is to be changed"):
        do_step(stranger, place.keys, place.files)


def test_a_file_that_somebody_removed_is_written_again(place: Place) -> None:
    place.do(Step.ACCEPT)
    next_file(place.path).unlink()
    place.do(Step.USE)
    assert read_key(place.path) == NEW


def test_all_that_was_left_behind_goes_in_the_end(place: Place) -> None:
    left = make_key()
    write_key(previous_file(place.path), left)
    place.restart()
    assert left in place.keys.keys
    place.do(*STEPS)
    assert place.seen == EXPECTED[Step.DROP]


def test_what_the_settings_accept_stays_accepted(place: Place) -> None:
    by_hand = make_key()
    place.keys.accept(by_hand)
    place.keys.kept = frozenset({by_hand.id})
    place.do(*STEPS)
    assert set(place.keys.keys) == {NEW, by_hand}


def test_all_files_are_their_owners_alone(place: Place) -> None:
    place.do(Step.ACCEPT)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in place.path.parent.iterdir()}
    place.do(Step.USE)
    modes |= {stat.S_IMODE(path.stat().st_mode) for path in place.path.parent.iterdir()}
    assert modes == {0o600}


def test_a_link_to_a_key_file_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real.key", tmp_path / "ring.key"
    write_key(real, OLD)
    link.symlink_to(real)
    place = Place(tmp_path)
    place.do(*STEPS)
    assert link.is_symlink()
    assert read_key(real) == NEW


def test_a_wrapped_key_shows_nothing_and_only_who_has_the_old_one_reads_it() -> None:
    wrapped = wrap_key(NEW, OLD)
    assert NEW.secret not in wrapped
    assert OLD.secret not in wrapped
    assert wrapped != wrap_key(NEW, OLD)
    assert unwrap_key(wrapped, NEW.id, OLD) == NEW
    assert unwrap_key(wrapped, OLD.id, OLD) is None
    assert unwrap_key(wrapped, NEW.id, make_key()) is None
    for place in range(len(wrapped)):
        spoiled = wrapped[:place] + bytes([wrapped[place] ^ 1]) + wrapped[place + 1 :]
        assert unwrap_key(spoiled, NEW.id, OLD) is None

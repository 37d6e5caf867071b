"""What a node keeps on disk."""

from pathlib import Path

import pytest

from vsync import NodeId, StateFailed
from vsync.runtime.store import StateStore

NODE = NodeId(7)


def reopened(directory: Path) -> StateStore:
    return StateStore(directory, "r", NODE)


def test_a_ring_number_is_never_below_one_that_was_saved(tmp_path: Path) -> None:
    for number in (1, 5, 64, 65, 300):
        store = reopened(tmp_path)
        store.save(number)
        store.close()
        store = reopened(tmp_path)
        assert store.load() >= number
        store.close()


def test_most_numbers_need_no_write(tmp_path: Path) -> None:
    store = reopened(tmp_path)
    store.save(1)
    written = (tmp_path / "ringid_r_7").stat().st_ino
    for number in range(2, 60):
        store.save(number)
    assert (tmp_path / "ringid_r_7").stat().st_ino == written
    store.close()


def test_a_life_is_above_the_one_before_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    store = reopened(tmp_path)
    store.close()
    (tmp_path / "ringid_r_7").write_text('{"ring_seq": 3, "life": 9000000000000000000}')
    store = reopened(tmp_path)
    assert store.life == 9000000000000000001
    store.close()


@pytest.mark.parametrize("text", ["", "{}", "nonsense", '{"ring_seq": -1, "life": 1}', "[1]"])
def test_a_damaged_file_is_a_sentence_and_stays_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "ringid_r_7").write_text(text)
    with pytest.raises(StateFailed, match="is damaged; remove it"):
        reopened(tmp_path)
    assert (tmp_path / "ringid_r_7").read_text() == text


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateFailed, match="choose another one with state_dir"):
        StateStore(tmp_path / "file" / "state", "r", NODE)


def test_a_disk_that_takes_no_more_is_a_sentence(tmp_path: Path) -> None:
    store = reopened(tmp_path)
    (tmp_path / "ringid_r_7.new").mkdir()
    with pytest.raises(StateFailed, match="cannot write"):
        store.save(1000)
    store.close()


def test_two_rings_may_have_nodes_of_the_same_number_here(tmp_path: Path) -> None:
    stores = [StateStore(tmp_path, name, NODE) for name in ("r", "s", "a name / with signs", "ä")]
    for number, store in enumerate(stores, 1):
        store.save(1000 * number)
    assert [store.load() // 1000 for store in stores] == [1, 2, 3, 4]
    for store in stores:
        store.close()

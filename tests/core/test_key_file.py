"""Key files: what is written is read again; everything else is a sentence."""

import os
from pathlib import Path

import pytest

from vsync.errors import MisuseError, SettingsError
from vsync.key_file import key_ring_of, make_key, read_key, write_key
from vsync.keys import Key, KeyRing
from vsync.settings import SecuritySection


def test_a_key_that_is_written_is_read_again(tmp_path: Path) -> None:
    key = make_key()
    write_key(tmp_path / "ring.key", key)
    assert read_key(tmp_path / "ring.key") == key
    assert (tmp_path / "ring.key").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["ring.key"]


def test_keys_differ_and_do_not_show_themselves() -> None:
    key = make_key()
    assert key != make_key()
    assert key.secret.hex() not in f"{key} {key!r}"
    assert key.secret != key.id != key.secret[:4]


def test_a_key_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "ring.key"
    key = make_key()
    write_key(path, key)
    with pytest.raises(SettingsError, match="is there already"):
        write_key(path, make_key())
    assert read_key(path) == key
    other = make_key()
    write_key(path, other, replace=True)
    assert read_key(path) == other


def test_where_no_file_can_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be written: No such file"):
        write_key(tmp_path / "nowhere" / "ring.key", make_key())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no key file"),
        ("vsync-key-1", "is damaged"),
        ("vsync-key-1 AAAA", "is damaged"),
        ("vsync-key-1 ???", "is damaged"),
        ("vsync-key-2 AAAA", "is no key file"),
        ("vsync-key-1 AAAA\nvsync-key-1 AAAA", "is no key file"),
        ("# only a comment", "is no key file"),
        ("x" * 5000, "is no key file"),
        ("\0\xff", "is no key file"),
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "ring.key"
    path.write_text(text, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(SettingsError, match=said):
        read_key(path)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ring.key"
    write_key(path, make_key())
    path.chmod(0o640)
    with pytest.raises(SettingsError, match=r"its mode is 0640\): chmod 600"):
        read_key(path)


def test_what_cannot_be_a_path_is_a_sentence() -> None:
    with pytest.raises(SettingsError, match=r"'a\\x00b' cannot be the path of a key file"):
        read_key(Path("a\0b"))


def test_no_file_or_none_of_text_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"there is no key file .*; `vsync keygen"):
        read_key(tmp_path / "ring.key")
    with pytest.raises(SettingsError, match=r"is no file|cannot read"):
        read_key(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SettingsError, match="is no file"):
        read_key(tmp_path / "pipe")


def test_settings_name_the_key_that_seals_and_others(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("new", "old")]
    new, old = make_key(), make_key()
    write_key(paths[0], new)
    write_key(paths[1], old)
    section = SecuritySection(key_file=str(paths[0]), accepted_key_files=[str(paths[1])])
    ring = key_ring_of(section)
    assert ring is not None
    assert ring.keys == (new, old)
    assert key_ring_of(SecuritySection()) is None
    with pytest.raises(ValueError, match="accepted_key_files needs key_file"):
        SecuritySection(accepted_key_files=[str(paths[1])])


def test_a_key_ring_always_has_the_key_that_seals() -> None:
    one, two = make_key(), make_key()
    ring = KeyRing(one)
    with pytest.raises(MisuseError, match=f"key {two} is not accepted"):
        ring.use(two.id)
    ring.accept(two)
    with pytest.raises(MisuseError, match=f"key {one} is in use"):
        ring.drop(one.id)
    ring.use(two.id)
    ring.drop(one.id)
    assert ring.keys == (two,)
    assert ring.find(one.id) is None
    with pytest.raises(ValueError, match="32 bytes"):
        Key(b"short")

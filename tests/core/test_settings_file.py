"""Settings files: every mistake is named by file, line and key."""

import os
from pathlib import Path

import pytest

from vsync import PluginNotFound, SettingsError, read_settings
from vsync.settings import PRESETS

GOOD = """\
[node]
id = 1

[ring]
name = "r"
preset = "lan"

[transport.udp]
bind = "127.0.0.1"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return path


def test_everything_but_the_id_has_a_default(tmp_path: Path) -> None:
    settings = read_settings(written(tmp_path, "[node]\nid = 3\n"))
    assert settings.node.id == 3
    assert settings.ring.transport == "udp"
    assert settings.ring.token_lost_s == 0.3


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_changes_defaults_and_a_key_changes_a_preset(tmp_path: Path, preset: str) -> None:
    text = f'[node]\nid = 1\n[ring]\npreset = "{preset}"\njoin_s = 0.011\n'
    ring = read_settings(written(tmp_path, text)).ring
    assert ring.join_s == 0.011
    assert ring.token_lost_s == PRESETS[preset].get("token_lost_s", 0.3)


MISTAKES = {
    "a misspelt key": (
        GOOD.replace("name =", "nmae ="),
        r'node.toml:5: there is no key nmae in \[ring\]; did you mean "name"\?',
    ),
    "a misspelt section": (
        GOOD.replace("[ring]", "[rign]"),
        r'node.toml:4: there is no section \[rign\]; did you mean "ring"\?',
    ),
    "a misspelt key of the transport": (
        GOOD.replace("bind", "bnd"),
        r'node.toml:9: there is no key bnd in \[transport.udp\]; did you mean "bind"\?',
    ),
    "no id": ("[ring]\n", r"\[node\] is missing"),
    "an id of the wrong type": (GOOD.replace("id = 1", 'id = "x"'), r"node.toml:2: id in \[node\]"),
    "an id in quotes": (GOOD.replace("id = 1", 'id = "1"'), r"id in \[node\] .*integer, not '1'"),
    "an id that is true": (GOOD.replace("id = 1", "id = true"), r"integer, not True"),
    "a section that is a number": ("node = 3\n", r"node.toml:1: \[node\] must be a section, not 3"),
    "a transport that is a number": (
        GOOD.replace("[transport.udp]\nbind =", "[transport]\nudp ="),
        r"node.toml:9: udp in \[transport\] must be a section",
    ),
    "a misspelt transport section": (
        GOOD.replace("transport.udp", "transport.upd"),
        r'node.toml:8: \[transport.upd\]: no transport has that name here; did you mean "udp"\?',
    ),
    "a section of an unknown transport": (
        GOOD + "[transport.pigeons]\nspeed = 1\n",
        r"node.toml:10: \[transport.pigeons\]: .* install it, or remove its section",
    ),
    "an id out of range": (GOOD.replace("id = 1", "id = 0"), r"greater than or equal to 1, not 0"),
    "an unknown preset": (GOOD.replace('"lan"', '"lane"'), r"preset 'lane' is unknown"),
    "settings that do not fit": (
        GOOD.replace("[transport", "token_resend_s = 0.29\n[transport"),
        "at least two times token_resend_s",
    ),
    "no TOML": ("[node\n", r"is not valid TOML: .*line 1"),
}


@pytest.mark.parametrize(("text", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        read_settings(written(tmp_path, text))


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="`vsync init"):
        read_settings(tmp_path / "none.toml")


def test_a_missing_transport_says_what_to_install(tmp_path: Path) -> None:
    text = GOOD.replace('preset = "lan"', 'transport = "quic"')
    with pytest.raises(PluginNotFound, match="pip install vsync-transport-quic"):
        read_settings(written(tmp_path, text))


def test_sections_of_other_installed_transports_may_stay(tmp_path: Path) -> None:
    text = GOOD + '[transport.memory]\nnetwork = "x"\n'
    assert read_settings(written(tmp_path, text)).ring.transport == "udp"


def test_whole_numbers_do_for_seconds(tmp_path: Path) -> None:
    text = GOOD.replace('preset = "lan"', "token_lost_s = 2")
    assert read_settings(written(tmp_path, text)).ring.token_lost_s == 2.0


def test_a_directory_and_a_picture_are_no_settings_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot read the settings file"):
        read_settings(tmp_path)
    (tmp_path / "picture.toml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(SettingsError, match="is no text in UTF-8"):
        read_settings(tmp_path / "picture.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = " + "[" * 5000 + "]" * 5000, "too deep to be read"),
        (f"[service.kv]\n{'a.' * 3_000}b = 1", "too deep to be read"),
        (f"[node]\nid = {'9' * 5000}", "is not valid TOML"),
        (GOOD + "hold_s = " + "9" * 4000, "there is no key hold_s"),
        (GOOD.replace('"lan"', f'"lan"\nhold_s = {"9" * 4000}'), "hold_s in .ring. should be"),
        (GOOD + '[daemon]\nusers = ["a\\u0000"]', r":11: users in .daemon. has a null character"),
        (GOOD + '[security]\nkey_file = "a\\u0000"', ":11: key_file in .security. has a null"),
        (f"{GOOD}# {'x' * 2**20}", "is larger than 1048576 bytes"),
    ],
)
def test_hostile_files_are_refused_in_a_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_settings(written(tmp_path, text))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(SettingsError, match="is no file but a pipe or a device"):
            read_settings(path)

"""Settings files: every mistake is named by file, line and key."""

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
    text = GOOD.replace('preset = "lan"', 'transport = "ib"')
    with pytest.raises(PluginNotFound, match="pip install vsync-transport-ib"):
        read_settings(written(tmp_path, text))

"""``vsync keygen``, and what other commands say of keys."""

import json
from pathlib import Path

from tests.cli.command import complaint, invoke
from vsync.key_file import read_key


def test_it_writes_a_key_and_says_what_to_do_with_it(tmp_path: Path) -> None:
    path = tmp_path / "ring.key"
    done = invoke("keygen", path)
    assert done.exit_code == 0
    key = read_key(path)
    assert f"key {key}" in done.stdout
    assert f'[security] key_file = "{path}"' in done.stdout
    assert path.read_text().split()[-1] not in done.stdout


def test_a_key_is_not_lost_by_mistake(tmp_path: Path) -> None:
    path = tmp_path / "ring.key"
    invoke("keygen", path)
    before = read_key(path)
    assert "--force" in complaint("keygen", path)
    assert read_key(path) == before
    assert invoke("keygen", path, "--force").exit_code == 0
    assert read_key(path) != before


def test_check_reads_the_key_and_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    key, settings = tmp_path / "ring.key", tmp_path / "node.toml"
    settings.write_text(f'[node]\nid = 1\n[security]\nkey_file = "{key}"\n')
    assert "there is no key file" in complaint("check", settings)
    invoke("keygen", key)
    found = json.loads(invoke("check", settings, "--json").stdout)
    (entry,) = [each for each in found if each["key"] == "security.key_file"]
    assert (entry["value"], entry["from"]) == (str(key), "file")
    key.chmod(0o644)
    assert "chmod 600" in complaint("check", settings)
    assert "chmod 600" in complaint("run", "-c", settings)

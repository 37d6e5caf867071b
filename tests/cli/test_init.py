"""``vsync init``."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.cli.command import complaint, invoke
from vsync.settings import DaemonSection, NodeSection, RingSettings, SecuritySection
from vsync.settings_file import read_settings
from vsync_transport_udp.settings import SettingsUDP, SettingsUDPU


def test_the_file_can_be_used_and_has_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    result = invoke("init", path, "--id", "7", "--ring", 'o"r\\d', "--bind", "127.0.0.1")
    assert result.exit_code == 0
    assert f"vsync run -c {path}" in result.stdout
    settings = read_settings(path)
    assert (settings.node.id, settings.ring.name) == (7, 'o"r\\d')
    assert settings.transport["udp"]["bind"] == "127.0.0.1"


def test_without_a_name_it_is_node_toml_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    invoke("init")
    assert read_settings(tmp_path / "node.toml").node.id == 1


@pytest.mark.parametrize(
    "model", [NodeSection, RingSettings, DaemonSection, SecuritySection, SettingsUDP]
)
def test_every_setting_is_there_and_explained(
    tmp_path: Path,
    model: type[NodeSection | RingSettings | DaemonSection | SecuritySection | SettingsUDP],
) -> None:
    path = tmp_path / "node.toml"
    invoke("init", path)
    for name in model.model_fields:
        assert re.search(rf"^# .+\n#?{name} = ", path.read_text(), re.M), name


@pytest.mark.parametrize("bind", ["127.0.0.1", "::1"])
def test_the_defaults_shown_are_the_defaults(tmp_path: Path, bind: str) -> None:
    path = tmp_path / "node.toml"
    invoke("init", path, "--bind", bind)
    before = read_settings(path)
    shown = re.sub(r"^#(?=\w+ = \S)", "", path.read_text(), flags=re.M)
    assert len(tomllib.loads(shown)["ring"]) == len(RingSettings.model_fields)
    path.write_text(shown)
    after = read_settings(path)
    assert after.node == before.node
    assert after.ring == before.ring
    udp = SettingsUDP.model_validate
    assert udp(after.transport["udp"]) == udp(before.transport["udp"])


def test_no_file_is_replaced_without_force(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("mine")
    assert "--force" in complaint("init", path)
    assert path.read_text() == "mine"
    assert invoke("init", path, "--force").exit_code == 0
    assert read_settings(path).node.id == 1


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    assert "cannot be written" in complaint("init", tmp_path / "no" / "node.toml")


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    assert "multicast" in complaint("init", path, "--bind", "239.0.0.1")
    complaint("init", path, "--ring", "")
    complaint("init", path, "--ring", "x" * 201)
    assert invoke("init", path, "--id", "0").exit_code == 2
    assert invoke("init", path, "--id", str(2**32)).exit_code == 2
    assert not path.exists()


# udpu


def test_a_ring_without_multicast_can_be_tried_on_one_machine(tmp_path: Path) -> None:
    known = ["127.0.0.1:5405", "127.0.0.1:5406", "127.0.0.1:5407"]
    for node in (1, 2, 3):
        path = tmp_path / f"{node}.toml"
        assert invoke("init", path, "--id", str(node), "--transport", "udpu").exit_code == 0
        settings = read_settings(path)
        assert settings.ring.transport == "udpu"
        assert settings.transport["udpu"] == {
            "bind": "127.0.0.1",
            "port": 5404 + node,
            "peers": known,
        }
    assert "--peer" in complaint("init", tmp_path / "4.toml", "--id", "4", "--transport", "udpu")


@pytest.mark.parametrize(("option", "key"), [("--peer", "peers"), ("--seed", "seeds")])
def test_the_nodes_that_are_named_are_written(tmp_path: Path, option: str, key: str) -> None:
    path = tmp_path / "node.toml"
    named = ["node1.example:5405", "node2.example:5405"]
    options = [word for name in named for word in (option, name)]
    invoke("init", path, "--transport", "udpu", "--bind", "192.0.2.0/24", *options)
    assert read_settings(path).transport["udpu"] == {
        "bind": "192.0.2.0/24",
        "port": 5405,
        key: named,
    }


def test_every_setting_of_udpu_is_there_and_explained(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    invoke("init", path, "--transport", "udpu")
    for name in SettingsUDPU.model_fields:
        assert re.search(rf"^# .+\n#?{name} = ", path.read_text(), re.M), name
    before = read_settings(path)
    path.write_text(re.sub(r"^#(?=\w+ = \S)", "", path.read_text(), flags=re.M))
    udpu = SettingsUDPU.model_validate
    assert udpu(read_settings(path).transport["udpu"]) == udpu(before.transport["udpu"])


def test_what_is_missing_or_wrong_for_udpu_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    assert "--seed HOST:PORT" in complaint("init", path, "--transport", "udpu", "--bind", "eth0")
    assert "is no address and no name" in complaint(
        "init", path, "--transport", "udpu", "--peer", "a b"
    )
    assert "belong to --transport udpu" in complaint("init", path, "--peer", "192.0.2.1:5405")
    assert not path.exists()

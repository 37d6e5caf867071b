"""``vsync check``."""

import json
from pathlib import Path

import pytest

from tests.cli.command import complaint, invoke


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(
        "[node]\nid = 3\n\n[ring]\npreset = 'wan'\njoin_s = 0.3\n\n"
        "[transport.udp]\nbind = '127.0.0.1'\nport = 5406\n"
    )
    return path


def test_each_value_says_where_it_comes_from(file: Path) -> None:
    result = invoke("check", file, "--json")
    assert result.exit_code == 0
    found = {setting["key"]: setting for setting in json.loads(result.stdout)}
    sources = {key: (setting["value"], setting["from"]) for key, setting in found.items()}
    assert sources["node.id"] == (3, "file")
    assert sources["ring.join_s"] == (0.3, "file")
    assert sources["ring.token_lost_s"] == (3.0, "preset")
    assert sources["ring.transport"] == ("udp", "default")
    assert sources["transport.udp.port"] == (5406, "file")
    assert sources["transport.udp.ttl"] == (1, "default")
    assert all(setting["meaning"] for setting in found.values())


def test_people_are_told_the_same(file: Path) -> None:
    lines = invoke("check", file).stdout.splitlines()
    assert "[transport.udp]" in lines
    assert "port = 5406, from the file" in lines
    assert "token_lost_s = 3.0, from the preset" in lines
    place = lines.index("ttl = 1, by default")
    assert "routers" in lines[place + 1]


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("[node]\nid = 1\n[ring]\ntokn_lost_s = 1.0\n", "token_lost_s"),
        ("[node]\nid = 1\n[rnig]\n", "ring"),
        ("[ring]\nname = 'r'\n", "node"),
        ("[node]\nid = 0\n", "id"),
        ("[node]\nid = 1\n[ring]\npreset = 'lna'\n", "lna"),
        ("[node]\nid = 1\n[ring]\ntransport = 'upd'\n", "udp"),
        ("[node]\nid = 1\n[ring]\ntransport = 'quic'\n", "vsync-transport-quic"),
        ("[node]\nid = 1\n[transport.udp]\nprot = 5405\n", "port"),
        ("[node]\nid = 1\n[transport.udp]\nport = 99999\n", "port"),
        ("[node\n", "node.toml"),
        ("", "node"),
    ],
)
def test_what_a_node_could_not_use_is_a_sentence(tmp_path: Path, written: str, named: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(written)
    assert named in complaint("check", path)


def test_a_file_that_is_not_there_or_no_text_is_a_sentence(tmp_path: Path) -> None:
    assert "missing.toml" in complaint("check", tmp_path / "missing.toml")
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "binary.toml" in complaint("check", path)
    assert str(tmp_path) in complaint("check", tmp_path)

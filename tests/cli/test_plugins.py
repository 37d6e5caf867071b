"""``vsync plugins``."""

import json

import pytest

from tests.cli.command import invoke


def test_the_list_has_the_transports_and_says_that_they_are_ready() -> None:
    lines = invoke("plugins").stdout.splitlines()
    assert lines[0].split() == ["NAME", "KIND", "STATE", "FROM"]
    rows = {line.split()[0]: line.split()[1:4] for line in lines[1:]}
    assert rows["udp"] == ["transport", "ready", "vsync-transport-udp"]
    assert rows["memory"] == ["transport", "ready", "vsync-core"]


def test_json_has_the_same() -> None:
    found = {plugin["name"]: plugin for plugin in json.loads(invoke("plugins", "--json").stdout)}
    assert found["udp"]["state"] == "ready"
    assert found["fault"]["kind"] == "transport"
    assert found["udp"]["error"] is None


def test_what_is_left_out_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSYNC_PLUGINS", "memory")
    assert "udp: VSYNC_PLUGINS does not name it." in invoke("plugins").stdout

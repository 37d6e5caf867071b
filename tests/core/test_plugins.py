"""The plugin host: finding, loading by name, and what it says when that fails."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vsync.errors import PluginNotFound
from vsync.plugins import list_plugins, load_transport
from vsync.transport import TRANSPORT_API

Install = Callable[..., None]

WORKING = """
from collections.abc import Sequence
from pydantic import BaseModel
from vsync.hookspecs import hookimpl
from vsync.transport import Burst, Packet, Transport

class Carrier(Transport):
    SCHEME = "{scheme}"
    SETTINGS = BaseModel
    API = {api}
    def open(self) -> None: ...
    def close(self) -> None: ...
    def descriptors(self) -> Sequence[int]: return []
    def send(self, burst: Burst) -> None: ...
    def receive(self) -> Sequence[Packet]: return []
    packet_bytes_max = 1
    receive_buffer_bytes = 1

@hookimpl
def vsync_register_transports() -> list[type[Transport]]:
    return [Carrier]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with one plugin where Python finds it, as an installer would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def put(name: str, source: str | None, *, distribution: str = "carrier-plugin") -> None:
        module = distribution.replace("-", "_") + "_" + name.replace("-", "_")
        if source is not None:
            (tmp_path / f"{module}.py").write_text(source)
        folder = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        )
        (folder / "entry_points.txt").write_text(f"[vsync]\n{name} = {module}\n")

    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    assert set(sys.modules) == before
    return put


def test_the_built_in_transports_are_found_like_everyones() -> None:
    assert load_transport("memory").SCHEME == "memory"
    assert load_transport("fault").SCHEME == "fault"
    assert load_transport("udp").SCHEME == "udp"


def test_an_installed_plugin_is_found_by_its_name(install: Install) -> None:
    install("carrier", WORKING.format(scheme="carrier", api=TRANSPORT_API))
    assert load_transport("carrier").__name__ == "Carrier"
    (listed,) = (info for info in list_plugins() if info.name == "carrier")
    assert (listed.kind, listed.state, listed.error) == ("transport", "ready", None)
    assert (listed.distribution, listed.version) == ("carrier-plugin", "1.2")


def test_a_missing_one_is_a_sentence_with_what_to_install() -> None:
    with pytest.raises(PluginNotFound) as caught:
        load_transport("quic")
    text = str(caught.value)
    assert text.startswith(
        'no transport "quic" is installed; try `pip install vsync-transport-quic` (installed: '
    )
    assert "memory" in text


def test_a_misspelt_one_is_asked_about() -> None:
    with pytest.raises(PluginNotFound, match=r'no transport "upd" .* did you mean "udp"'):
        load_transport("upd")


@pytest.mark.parametrize("name", ["", "udp://", "a b", "../etc"])
def test_a_name_that_can_be_no_plugin_is_not_offered_for_installation(name: str) -> None:
    with pytest.raises(PluginNotFound) as caught:
        load_transport(name)
    assert "pip install" not in str(caught.value)


def test_only_the_wanted_plugin_is_imported(install: Install) -> None:
    install("harmful", "raise SystemExit('imported without need')")
    assert load_transport("memory").SCHEME == "memory"


def test_a_broken_plugin_is_named_with_its_error(install: Install) -> None:
    install("broken", "import no_such_driver")
    with pytest.raises(PluginNotFound) as caught:
        load_transport("broken")
    assert 'the transport "broken" of carrier-plugin 1.2 cannot be used' in str(caught.value)
    assert "No module named 'no_such_driver'" in str(caught.value)


def test_listing_shows_a_broken_plugin_and_all_the_others(install: Install) -> None:
    install("broken", None)
    listed = {info.name: info for info in list_plugins()}
    assert listed["broken"].state == "broken"
    assert "ModuleNotFoundError" in (listed["broken"].error or "")
    assert listed["memory"].state == "ready"
    assert list(listed) == sorted(listed)


def test_two_plugins_of_one_name_are_refused(install: Install) -> None:
    install("memory", WORKING.format(scheme="memory", api=TRANSPORT_API))
    with pytest.raises(PluginNotFound) as caught:
        load_transport("memory")
    assert 'the name "memory" is claimed by carrier-plugin 1.2 and vsync-core' in str(caught.value)
    states = [info.state for info in list_plugins() if info.name == "memory"]
    assert states == ["duplicate", "duplicate"]


def test_a_plugin_for_another_interface_is_refused(install: Install) -> None:
    install("old", WORKING.format(scheme="old", api=TRANSPORT_API - 1))
    with pytest.raises(PluginNotFound, match="transport interface 0, and this vsync has 1"):
        load_transport("old")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "has no function vsync_register_… marked @hookimpl"),
        (WORKING.format(scheme="other", api=TRANSPORT_API), "0 transports with SCHEME"),
        (
            "from vsync.hookspecs import hookimpl\n"
            "@hookimpl\ndef vsync_register_transports(): return [7]",
            "7, which is no class derived from Transport",
        ),
        (
            "from vsync.hookspecs import hookimpl\n"
            "@hookimpl\ndef vsync_register_transports(): return 1 / 0",
            "ZeroDivisionError",
        ),
        (
            "from vsync.hookspecs import hookimpl\n"
            "@hookimpl\ndef vsync_register_transports(wrong): return []",
            "PluginValidationError",
        ),
    ],
)
def test_a_plugin_that_does_not_fit_says_why(install: Install, source: str, said: str) -> None:
    install("misfit", source)
    with pytest.raises(PluginNotFound, match="misfit"):
        load_transport("misfit")
    (listed,) = (info for info in list_plugins() if info.name == "misfit")
    assert listed.state == "broken"
    assert said in (listed.error or "")


def test_a_plugin_of_a_host_above_is_listed_by_its_kind(install: Install) -> None:
    install(
        "extra",
        "from vsync.hookspecs import hookimpl\n@hookimpl\ndef vsync_register_commands(): return []",
    )
    (listed,) = (info for info in list_plugins() if info.name == "extra")
    assert (listed.kind, listed.state) == ("command", "ready")


def test_the_environment_can_leave_plugins_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSYNC_PLUGINS", "memory, udp")
    assert load_transport("memory").SCHEME == "memory"
    with pytest.raises(PluginNotFound, match="VSYNC_PLUGINS=memory, udp leaves it out"):
        load_transport("fault")
    (listed,) = (info for info in list_plugins() if info.name == "fault")
    assert listed.state == "left out"

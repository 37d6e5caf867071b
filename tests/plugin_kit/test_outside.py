"""A stranger's package, installed with pip and used by name."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugin_kit.installed import ROOT, attempt, environment, install, pytest_in, run

STRANGER = ROOT / "tests" / "outside" / "vsync-stranger"
PATIENCE_S = 60.0

ASK = """
import sys, anyio, vsync
async def main():
    async with vsync.connect(sys.argv[1]) as session:
        for request in sys.argv[2:]:
            print((await session.request("roster", request.encode())).decode())
anyio.run(main)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("stranger")
    install(site, STRANGER)
    return site


@pytest.fixture
def ring(site: Path, tmp_path: Path) -> Iterator[list[Path]]:
    """Sockets of two real nodes on a stranger's transport, with a stranger's service."""
    sockets, processes = [], []
    (tmp_path / "loft").mkdir()
    for node in (1, 2):
        settings = tmp_path / f"{node}.toml"
        settings.write_text(
            f'[node]\nid = {node}\nstate_dir = "{tmp_path}/state"\n'
            '[ring]\nname = "strangers"\ntransport = "pigeon"\npreset = "loopback"\n'
            f'token_lost_s = 1.0\n[transport.pigeon]\nloft = "{tmp_path}/loft"\n[service.roster]\n'
        )
        sockets.append(tmp_path / f"{node}.sock")
        command = ["run", "-c", str(settings), "--socket", str(sockets[-1])]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "vsync_cli", *command],
                env=environment(site),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    yield sockets
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    for process in processes:
        process.wait(PATIENCE_S)


def status(socket: Path, site: Path) -> dict[str, object]:
    """What ``vsync status`` says; empty while nobody answers."""
    command = [sys.executable, "-m", "vsync_cli", "status", "--socket", str(socket), "--json"]
    done = attempt(command, env=environment(site))
    found: dict[str, object] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


def test_it_is_listed_with_its_own_name_and_version(site: Path) -> None:
    listed = json.loads(
        run([sys.executable, "-m", "vsync_cli", "plugins", "--json"], env=environment(site))
    )
    found = {plugin["name"]: plugin for plugin in listed}
    assert found["pigeon"]["kind"] == "transport"
    assert found["roster"]["kind"] == "service"
    for name in ("pigeon", "roster"):
        assert found[name]["distribution"] == "vsync-stranger"
        assert found[name]["version"] == "2.5.0"
        assert found[name]["state"] == "ready"


def test_it_keeps_both_contracts(site: Path) -> None:
    done = pytest_in(STRANGER, site, "-c", os.devnull, "--rootdir", str(STRANGER))
    assert done.returncode == 0, done.stdout + done.stderr


def test_real_nodes_use_it_by_name(ring: list[Path], site: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        told = [status(socket, site) for socket in ring]
        configurations = [each.get("configuration") for each in told]
        if all(isinstance(c, dict) and c["members"] == [1, 2] for c in configurations):
            break
        assert time.monotonic() < deadline, told
        time.sleep(0.2)
    ask = [sys.executable, "-c", ASK]
    run([*ask, str(ring[0]), "ada!", "grace!"], env=environment(site))
    while run([*ask, str(ring[1]), "?"], env=environment(site)) != "ada grace\n":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    services = status(ring[1], site)["services"]
    assert isinstance(services, dict)
    assert services["roster"] == {"names": 2}


def test_a_mistake_in_its_section_is_a_sentence(site: Path, tmp_path: Path) -> None:
    settings = tmp_path / "node.toml"
    settings.write_text(
        '[node]\nid = 1\n[ring]\ntransport = "pigeon"\n[transport.pigeon]\nlofty = "x"\n'
    )
    done = attempt(
        [sys.executable, "-m", "vsync_cli", "check", str(settings)], env=environment(site)
    )
    assert done.returncode == 1
    assert 'node.toml:6: there is no key lofty in [transport.pigeon]; did you mean "loft"?' in (
        done.stdout + done.stderr
    )

"""``vsync plugin new`` writes packages that work, and says what is wrong with a name."""

import json
import os
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.plugin_kit.installed import ROOT, attempt, environment, install, pytest_in, run
from vsync_cli.main import main
from vsync_cli.templates import KINDS

needs_tools = pytest.mark.skipif(
    os.environ.get("CI") != "true" and find_spec("mypy") is None,
    reason="mypy and ruff are not installed here; requirements-dev.txt has them",
)


def new(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["plugin", "new", *arguments])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package of each kind, called tally-2."""
    place = tmp_path_factory.mktemp("kit")
    packages = {}
    for kind in KINDS:
        packages[kind] = place / f"vsync-{kind}-tally-2"
        code, said = new(kind, "tally-2", "--directory", str(packages[kind]))
        assert code == 0, said
    return packages


@pytest.fixture(scope="module")
def sites(written: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each is installed. (Not together: they have the name that users write.)"""
    sites = {kind: tmp_path_factory.mktemp(f"{kind}-site") for kind in KINDS}
    for kind, site in sites.items():
        install(site, written[kind])
    return sites


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_passes_its_own_tests_and_is_listed(
    kind: str, written: dict[str, Path], sites: dict[str, Path]
) -> None:
    done = pytest_in(written[kind], sites[kind])
    assert done.returncode == 0, done.stdout + done.stderr
    listed = json.loads(
        run(
            [sys.executable, "-m", "vsync_cli", "plugins", "--json"],
            env=environment(sites[kind]),
        )
    )
    found = {plugin["name"]: (plugin["kind"], plugin["state"]) for plugin in listed}
    assert found["tally-2"] == (kind, "ready")


@needs_tools
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_as_tidy_as_ours(
    kind: str, written: dict[str, Path], tmp_path: Path
) -> None:
    package = written[kind]
    settings = str(ROOT / "pyproject.toml")
    run([sys.executable, "-m", "ruff", "check", "--config", settings, str(package)])
    run([sys.executable, "-m", "ruff", "format", "--check", "--config", settings, str(package)])
    checked = ["mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "src", "tests"]
    env = environment(tmp_path) | {"MYPYPATH": str(package / "src")}
    run([sys.executable, "-m", *checked], cwd=package, env=env)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_example_is_left(kind: str, written: dict[str, Path]) -> None:
    for path in sorted(written[kind].rglob("*")):
        assert "example" not in path.name.lower()
        if path.is_file():
            assert "example" not in path.read_text().lower(), path


def test_the_classes_are_called_as_classes_are(written: dict[str, Path]) -> None:
    service = written["service"] / "src" / "vsync_service_tally_2" / "service.py"
    assert re.search(r"^class ServiceTally2\(Service\):$", service.read_text(), re.M)


@pytest.mark.parametrize(
    "name", ["Tally", "2tally", "tally_2", "a--b", "-a", "a-", "ä", "", "../a"]
)
def test_a_name_that_cannot_be_one_is_refused_with_an_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = new("service", "--", name)
    assert code == 1
    assert "cannot be a service's name" in said and "as in my-net" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["example", "class"])
def test_a_name_that_says_nothing_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = new("transport", name)
    assert code == 1
    assert "choose another name" in said


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    code, said = new("service", "tally", "--directory", str(tmp_path / "mine"))
    assert code == 1
    assert "nothing is overwritten" in said
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said = new("service", "tally", "--directory", str(tmp_path / "file" / "below"))
    assert code == 1
    assert "cannot make" in said and "Traceback" not in said


def test_a_kind_that_there_is_not_is_refused() -> None:
    code, said = new("teapot", "tally")
    assert code == 2
    assert "transport" in said and "service" in said


BROKEN = {
    "state is not handed over": (
        "self.number = max(self._told)",
        "pass",
        "test_a_node_that_comes_back_keeps_what_the_others_keep",
    ),
    "it waits for the dead": (
        "await self._complete.wait()",
        "await anyio.sleep_forever()",
        "test_it_works_alone_and_ends_with_its_node",
    ),
    "garbage breaks it": (
        'raise ServiceFailed("',
        'raise ValueError("',
        "test_garbage_is_refused_with_a_sentence_and_harms_nobody",
    ),
    "its status is no JSON": (
        'return {"number": self.number}',
        'return {"number": {self.number}}',
        "test_all_nodes_keep_the_same",
    ),
    "each node counts as it likes": (
        "self.number += number",
        "self.number += number * int(self.context.node)",
        "test_all_nodes_keep_the_same",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_the_contract_notices_a_service_that_is_broken(
    fault: str, written: dict[str, Path], sites: dict[str, Path], tmp_path: Path
) -> None:
    right, wrong, test = BROKEN[fault]
    shutil.copytree(sites["service"], tmp_path / "site")
    module = tmp_path / "site" / "vsync_service_tally_2" / "service.py"
    text = module.read_text()
    assert right in text
    module.write_text(text.replace(right, wrong))
    done = pytest_in(written["service"], tmp_path / "site", "-k", test)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"FAILED tests/test_contract.py::\w+::{test}", done.stdout), done.stdout


def test_a_transport_that_was_written_carries_a_ring(
    sites: dict[str, Path], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        """
import socket, sys
import anyio, vsync

def free() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

addresses = {str(node): f"127.0.0.1:{free()}" for node in (1, 2)}

def settings(node: int) -> vsync.NodeSettings:
    return vsync.NodeSettings.model_validate({
        "node": {"id": node, "state_dir": sys.argv[1]},
        "ring": {"transport": "tally-2", "preset": "loopback", "token_lost_s": 1.0},
        "transport": {"tally-2": {"addresses": addresses}},
    })

async def main() -> None:
    async with vsync.open_node(settings(1)) as one, vsync.open_node(settings(2)) as two:
        async with one.session() as speaker, two.session() as listener:
            with anyio.fail_after(30):
                await listener.join("g")
                while one.configuration.members != (1, 2):
                    await anyio.sleep(0.01)
                await speaker.send(b"hello", "g")
                async for event in listener:
                    if isinstance(event, vsync.Delivery):
                        print(event.payload.decode())
                        break

anyio.run(main)
"""
    )
    done = attempt(
        [sys.executable, str(program), str(tmp_path / "state")], env=environment(sites["transport"])
    )
    assert done.stdout == "hello\n", done.stderr

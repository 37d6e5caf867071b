"""What ``vsync run`` tells systemd, and the unit that comes with it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import anyio
import pytest

import vsync
from tests.cli.nodes import Ring, eventually, ring
from tests.conftest import CI
from vsync_cli.systemd import Notifier, keep_watchdog_quiet

UNIT = Path(__file__).parents[2] / "packages" / "vsync-cli" / "src" / "vsync_cli" / "vsync@.service"


@pytest.fixture
def nodes() -> Iterator[Ring]:
    with ring() as made:
        yield made


class Systemd:
    """The end of the socket that systemd listens at."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self._heard: list[str] = []

    def heard(self) -> list[str]:
        """All lines up to now."""
        try:
            while True:
                self._heard += self._socket.recv(4096).decode().split("\n")
        except BlockingIOError:
            return self._heard

    def close(self) -> None:
        self._socket.close()


@contextmanager
def systemd(address: str) -> Iterator[Systemd]:
    listening = Systemd(address)
    try:
        yield listening
    finally:
        listening.close()


def test_a_node_says_when_it_is_ready_how_it_is_and_that_it_stops(
    nodes: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(nodes.directory / "notify")
    with systemd(place) as listening:
        monkeypatch.setenv("NOTIFY_SOCKET", place)
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        (node,) = nodes.start(1)
        eventually(lambda: "READY=1" in listening.heard(), "READY=1")
        assert node.socket.exists()
        eventually(lambda: listening.heard().count("WATCHDOG=1") > 3, "WATCHDOG=1 again and again")
        eventually(
            lambda: any(
                line.startswith("STATUS=regular configuration") and line.endswith("members 1")
                for line in listening.heard()
            ),
            "STATUS of the configuration",
        )
        assert "STOPPING=1" not in listening.heard()
        assert node.end(signal.SIGTERM) == 0
        assert "STOPPING=1" in listening.heard()


def test_an_abstract_socket_is_one_too() -> None:
    name = f"vsync-test-{os.getpid()}"
    with systemd(f"\0{name}") as listening:
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).tell("READY=1", "STATUS=well")
        assert listening.heard() == ["READY=1", "STATUS=well"]


def test_without_systemd_nothing_happens() -> None:
    Notifier({}).tell("READY=1")
    Notifier({"NOTIFY_SOCKET": "/nowhere/at/all"}).tell("READY=1")


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_is_what_the_environment_says(
    environment: dict[str, str], watchdog_s: float | None
) -> None:
    assert Notifier(environment).watchdog_s == watchdog_s


class _HangingNode:
    """A node whose ring's thread answers until it hangs."""

    def __init__(self) -> None:
        self.hangs = False

    async def status(self) -> dict[str, object]:
        if self.hangs:
            await anyio.sleep_forever()
        return {}


@pytest.mark.anyio
async def test_the_watchdog_hears_nothing_once_the_rings_thread_hangs(tmp_path: Path) -> None:
    node = _HangingNode()
    with systemd(str(tmp_path / "n")) as listening:
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "40000"})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_watchdog_quiet, notifier, cast(vsync.Node, node))
            with anyio.fail_after(10):
                while listening.heard().count("WATCHDOG=1") < 5:
                    await anyio.sleep(0.01)
            node.hangs = True
            await anyio.sleep(0.1)  # what was on its way
            before = len(listening.heard())
            await anyio.sleep(0.3)
            assert len(listening.heard()) == before
            node.hangs = False
            with anyio.fail_after(10):
                while len(listening.heard()) == before:
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        if CI:
            pytest.fail("CI must check the unit, but systemd-analyze is not installed")
        pytest.skip("systemd-analyze is not installed; on Debian it comes with systemd")
    command = Path(sys.executable).parent / "vsync"
    text = UNIT.read_text().replace("/opt/vsync/bin/vsync", str(command))
    assert str(command) in text
    unit = tmp_path / "vsync@.service"
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_page_shows_the_unit_as_it_is() -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "run-under-systemd.md"
    assert f"```ini\n{UNIT.read_text()}```\n" in page.read_text()

"""Who may use a daemon's socket: those whom the settings name, as the kernel knows them."""

import functools
import grp
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import vsync
from tests.conftest import CI
from tests.core.api.rings import fresh_network, settings_of
from tests.core.daemon.test_daemon import GREETING, served
from vsync import DaemonError, DaemonSection, NodeSettings, SettingsError
from vsync.daemon.peers import Doorkeeper, Peer, peer_of
from vsync.daemon.protocol import Type

NOBODY = 65534

CALLER = f"""
import socket, sys
with socket.socket(socket.AF_UNIX) as calling:
    calling.connect(sys.argv[1])
    calling.sendall({GREETING!r})
    sys.stdout.buffer.write(calling.recv(4096))
"""


def with_daemon(directory: Path, **daemon: Any) -> NodeSettings:
    plain = settings_of(directory, 1, fresh_network()).model_dump(mode="python")
    return NodeSettings.model_validate({**plain, "daemon": daemon})


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        peer = peer_of(left)
    assert (peer.pid, peer.uid) == (os.getpid(), os.getuid())
    assert peer.groups == {os.getgid(), *os.getgroups()}


def test_by_default_the_same_user_and_root_may_come_in() -> None:
    doorkeeper = Doorkeeper(DaemonSection())
    assert doorkeeper.mode == 0o600
    doorkeeper.check(Peer(1, os.geteuid(), frozenset()))
    doorkeeper.check(Peer(1, 0, frozenset()))
    with pytest.raises(DaemonError, match=r"user .*\(?uid 54321\)? may not use this daemon"):
        doorkeeper.check(Peer(1, 54321, frozenset({0, 54321})))


def test_users_and_groups_are_named_or_numbered() -> None:
    user, group = pwd.getpwall()[-1], grp.getgrall()[-1]
    doorkeeper = Doorkeeper(
        DaemonSection(users=[user.pw_name, 54321], groups=[group.gr_name, 54322])
    )
    assert doorkeeper.mode == 0o666
    for uid in (user.pw_uid, 54321, os.geteuid(), 0):
        doorkeeper.check(Peer(1, uid, frozenset()))
    for gid in (group.gr_gid, 54322):
        doorkeeper.check(Peer(1, 54323, frozenset({1, gid})))
    with pytest.raises(DaemonError, match="54323"):
        doorkeeper.check(Peer(1, 54323, frozenset({54321})))


@pytest.mark.parametrize("key", ["users", "groups"])
@pytest.mark.parametrize("name", ["nosuchone", "a\0b"])
def test_a_name_that_nobody_has_is_a_sentence(key: str, name: str) -> None:
    said = re.escape(f"{key} in [daemon] names {name!r}, wh")
    with pytest.raises(SettingsError, match=said):
        Doorkeeper(DaemonSection.model_validate({key: [name]}))


@pytest.mark.parametrize("wrong", [[-1], [True], [""], [1.5], [2**32 - 1], "root"])
def test_what_is_no_user_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError):
        DaemonSection.model_validate({"users": wrong})


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that other users can reach."""
    made = Path(tempfile.mkdtemp(prefix="vsync-test-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@functools.cache
def python_for_nobody() -> str | None:
    """An interpreter that another user may run; None if there is none, or we may not be others."""
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            if subprocess.run([python, "-c", ""], user=NOBODY, check=False).returncode == 0:
                return python
        except OSError:
            continue
    return None


def call_as_nobody(path: Path) -> bytes:
    """What another user hears at the socket *path*."""
    done = subprocess.run(
        [str(python_for_nobody()), "-c", CALLER, str(path)],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("daemon", "heard"),
    [
        ({"users": [NOBODY - 1]}, b"uid 65534) may not use this daemon"),
        ({"users": [NOBODY]}, b""),
        ({"groups": [NOBODY]}, b""),
    ],
    ids=["a stranger", "a user", "a group"],
)
async def test_another_user_is_let_in_if_the_settings_say_so(
    directory: Path, daemon: dict[str, Any], heard: bytes
) -> None:
    if python_for_nobody() is None:
        if CI:
            pytest.fail("CI must see that another user is refused; run the tests as root")
        pytest.skip("needs root, to be another user, and a Python that all may run")
    path = directory / "s"
    async with vsync.open_node(with_daemon(directory, **daemon)) as node, served(node, path):
        with anyio.fail_after(20):
            said = await anyio.to_thread.run_sync(call_as_nobody, path)
        if heard:
            assert heard in said
        else:
            assert said[4] == Type.WELCOME
        async with vsync.connect(path) as session:
            await session.status()


@pytest.mark.anyio
async def test_a_client_that_is_refused_hears_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "vsync.daemon.server.peer_of", lambda connected: Peer(1, 54321, frozenset())
    )
    path = tmp_path / "s"
    async with vsync.open_node(with_daemon(tmp_path)) as node, served(node, path):
        with pytest.raises(DaemonError, match=r"ends this session: user with uid 54321 may not"):
            async with vsync.connect(path):
                pass
        assert (await node.status())["sessions"] == 0


@pytest.mark.anyio
async def test_who_comes_when_all_places_are_taken_hears_that(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with vsync.open_node(with_daemon(tmp_path, clients_max=2)) as node, served(node, path):
        async with vsync.connect(path), vsync.connect(path):
            with pytest.raises(DaemonError, match="has 2 clients already"):
                async with vsync.connect(path):
                    pass
        with anyio.fail_after(20):
            while True:
                try:
                    async with vsync.connect(path):
                        break
                except DaemonError:
                    await anyio.sleep(0.01)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("daemon", "options", "sentence"),
    [
        ({"queue_bytes_max": 2**25}, {"queue_bytes": 2**26}, "queue_bytes=67108864, and this"),
        ({"spill_bytes_max": 2**30}, {"spill_bytes": 2**31}, "spill_bytes=2147483648, and this"),
        (
            {"may_block": False, "slow": "evict"},
            {"slow": vsync.SlowPolicy.BLOCK},
            "lets no program hold up the ring",
        ),
        ({}, {"name": "printer\nnode 2: all is well\x1b[2J"}, "characters that nobody can see"),
    ],
)
async def test_what_may_be_asked_for_is_bounded(
    tmp_path: Path, daemon: dict[str, Any], options: dict[str, Any], sentence: str
) -> None:
    path = tmp_path / "s"
    async with vsync.open_node(with_daemon(tmp_path, **daemon)) as node, served(node, path):
        with pytest.raises(DaemonError, match=sentence):
            async with vsync.connect(path, **options):
                pass
        async with vsync.connect(path) as session:
            await session.status()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"may_block": False}, "slow must be evict or spill"),
        ({"queue_bytes": 2**30}, "queue_bytes must not be above"),
        ({"spill_bytes": 2**40}, "spill_bytes must not be above"),
        ({"slow": "wait"}, "slow"),
    ],
)
def test_bounds_that_cannot_be_are_refused(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DaemonSection.model_validate(wrong)

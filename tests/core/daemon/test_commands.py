"""Commands to a node: who may give them, and what becomes of those that make no sense."""

import os
from pathlib import Path

import pytest

import vsync
from tests.core.api.rings import fresh_network, settings_of
from vsync.daemon.commands import obey
from vsync.daemon.peers import Peer
from vsync.errors import DaemonError, MisuseError, NotAllowed

pytestmark = pytest.mark.anyio

ME = Peer(1, os.geteuid(), frozenset())


async def test_only_root_and_the_user_who_runs_the_node_may(tmp_path: Path) -> None:
    stranger = Peer(1, os.geteuid() + 4711, frozenset({0}))
    async with vsync.open_node(settings_of(tmp_path, 1, fresh_network())) as node:
        with pytest.raises(NotAllowed, match="only root and the user who runs the node"):
            await obey(node, stranger, "reload", b"{}")
        with pytest.raises(MisuseError, match="not opened with a settings file"):
            await obey(node, ME, "reload", b"{}")


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("explode", b"{}", "knows no command 'explode'"),
        ("reload", b"", "arguments that it does not have"),
        ("reload", b"[" * 10_000, "arguments that it does not have"),
        ("reload", b'{"dry_run": 1}', "arguments that it does not have"),
        ("reload", b'{"force": true}', "arguments that it does not have"),
        ("reload", b'{"expected": [{"key": "x"}]}', "differences that are none"),
        ("rotate_key", b'{"without": ["1"]}', "arguments that it does not have"),
        ("rotate_key", b'{"without": [0]}', "0 is no node's id"),
        ("rotate_key", b'{"without": [4294967296]}', "is no node's id"),
        ("rotate_key", b'{"copied": null}', "arguments that it does not have"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    tmp_path: Path, name: str, arguments: bytes, why: str
) -> None:
    async with vsync.open_node(settings_of(tmp_path, 1, fresh_network())) as node:
        with pytest.raises(DaemonError, match=why):
            await obey(node, ME, name, arguments)

"""What users get from the types: their own strict checks pass, and ``match`` is complete."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    os.environ.get("CI") != "true" and find_spec("mypy") is None,
    reason="mypy and ruff are not installed here; requirements-dev.txt has them",
)

PROGRAM = """
from typing import assert_never

import anyio
import vsync
from vsync.testing import Simulation


class Follower:
    def __init__(self, session: vsync.Session) -> None:
        self.session = session
        self.seen: list[bytes] = []

    async def run(self) -> None:
        await self.session.join("g", closed=True)
        async for batch in self.session.batches():
            for event in batch:
                self.take(event)

    def take(self, event: vsync.Event) -> None:
        match event:
            case vsync.Delivery(payload=payload, sender=vsync.Member(node, _)):
                self.seen.append(payload + b"%d" % node)
            case vsync.ConfigurationChanged(configuration=configuration, primary=primary):
                print(configuration.members, primary)
            case vsync.GroupChanged(joined=joined):
                print([(move.member, move.cause) for move in joined])
            case vsync.Disconnected(reason=reason):
                print(reason)
            case _:
                assert_never(event)


async def main() -> None:
    async with vsync.open_node("node.toml") as node, node.session() as session:
        sent: vsync.MessageId = await session.send([b"a", memoryview(b"b")], "g")
        session.send_nowait(b"c", "g", guarantee=vsync.Guarantee.SAFE)
        print(sent, node.group_members())
    async with vsync.connect("node.sock", slow=vsync.SlowPolicy.EVICT, reconnect=True) as other:
        print(await other.request("kv", b"{}"))


with Simulation(Follower, nodes=3) as simulation:
    print([follower.seen for follower in simulation.applications()])
anyio.run(main)
"""


def strictly(program: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    (directory / "program.py").write_text(program)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "program.py"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_program_that_uses_the_api_passes_its_users_strict_checks(tmp_path: Path) -> None:
    done = strictly(PROGRAM, tmp_path)
    assert done.returncode == 0, done.stdout


def test_an_event_that_a_program_forgets_is_found(tmp_path: Path) -> None:
    forgetful = PROGRAM.replace(
        """            case vsync.Disconnected(reason=reason):
                print(reason)
""",
        "",
    )
    done = strictly(forgetful, tmp_path)
    assert done.returncode == 1
    assert 'incompatible type "Disconnected"' in done.stdout

"""No nonce is used twice under one key, whatever happens to a node, its clock and its disk."""

import functools
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from vsync import plugins
from vsync.api.node import Node
from vsync.key_file import make_key, write_key
from vsync.seal.cipher import Cipher
from vsync.settings import NodeSettings
from vsync.train import Train
from vsync.transport import EVERYONE, Burst
from vsync.transports import sealed
from vsync.transports.redundant import LinkSettings, TransportRedundant

pytestmark = pytest.mark.anyio

STARTS: Final = 1000
CLOCK_NS: Final = 1_700_000_000 * 10**9
LINKS: Final[Sequence[dict[str, Any]]] = [
    {"transport": "memory", "settings": {"network": f"nonces {link}"}} for link in (1, 2)
]
TRANSPORTS: Final[dict[str, dict[str, Any]]] = {
    "memory": {"network": "nonces"},
    "redundant": {"hello_s": 10, "links": LINKS},
}


@pytest.fixture
def anyio_backend() -> str:
    """A node wants an event loop; which one, is nothing to a nonce."""
    return "asyncio"


class Used:
    """All keys, and counters under them, that something was encrypted with: the nonces."""

    def __init__(self) -> None:
        self.count = 0
        self.repeated = 0
        self._seen: set[tuple[bytes, int]] = set()

    def use(self, key: bytes, counter: int) -> None:
        self.count += 1
        self.repeated += (key, counter) in self._seen
        self._seen.add((key, counter))


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Used:
    """What is used while the test runs."""
    found = Used()

    class Watched:
        """Cipher, watched."""

        def __init__(self, key: bytes) -> None:
            self._key, self._cipher = key, Cipher(key)

        def seal(self, prefix: bytes, counter: int, packet: bytes) -> bytes:
            found.use(self._key, counter)
            return self._cipher.seal(prefix, counter, packet)

        def seal_train(self, prefix: bytes, first: int, packets: bytes, size: int) -> bytes:
            for counter in range(first, first - (-len(packets) // size)):
                found.use(self._key, counter)
            return self._cipher.seal_train(prefix, first, packets, size)

    monkeypatch.setattr("vsync.seal.guard.Cipher", Watched)
    return found


class Machine:
    """One on which a node is started again and again, with a clock and a disk of its own."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.clock = CLOCK_NS
        self._state, self._copy = directory / "state", directory / "copy"
        self._patch = patch
        key_file = directory / "ring.key"
        write_key(key_file, make_key())
        common = {
            "node": {"id": 1, "state_dir": str(self._state)},
            "security": {"key_file": str(key_file)},
            "transport": TRANSPORTS,
        }
        self._settings = [
            NodeSettings.model_validate({**common, "ring": {"transport": scheme}})
            for scheme in TRANSPORTS
        ]
        patch.setattr("time.time_ns", lambda: self.clock)
        # Looking for what is installed takes most of a life; it is the same in each.
        patch.setattr("vsync.plugins._installed", functools.cache(plugins._installed))

    def copy_disk(self) -> None:
        """Remember what is on the disk."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self._state, self._copy)

    def restore_disk(self) -> None:
        """Go back to what was remembered; to nothing, if nothing was."""
        self.lose_disk()
        if self._copy.exists():
            shutil.copytree(self._copy, self._state)

    def lose_disk(self) -> None:
        shutil.rmtree(self._state, ignore_errors=True)

    def live(self, dice: random.Random) -> None:
        """One life of a node in a process of its own, opened as ``open_node`` does."""
        self._patch.setattr(sealed, "_openings", sealed.count_openings())
        node = Node(dice.choice(self._settings), None)
        transport = node._driver._transport
        try:
            for _ in range(dice.randrange(3)):
                transport.send(Burst(EVERYONE, [b"same", b"same"]))
            transport.send(Burst(EVERYONE, Train(b"same" * 3, 4)))
            if isinstance(transport, TransportRedundant):  # a link is opened again in this life
                transport.add_link(1, LinkSettings.model_validate(LINKS[0]))
                transport.send(Burst(EVERYONE, [b"same", b"same"]))
        finally:
            transport.close()
            for end in (node._driver._wake_sender, node._driver._wake_receiver):
                end.close()
            node._release()


async def test_no_nonce_is_used_twice_in_a_thousand_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: Used
) -> None:
    """The clock stands, runs or is set back, the disk is lost or an old copy is restored, also both
    at once."""
    dice = random.Random(7)
    machine = Machine(tmp_path, monkeypatch)
    for _ in range(STARTS):
        machine.live(dice)
        machine.clock = dice.choice(
            (machine.clock, machine.clock + 10**9, machine.clock - 10**9, CLOCK_NS)
        )
        match dice.randrange(8):
            case 0:
                machine.lose_disk()
            case 1 | 2:
                machine.restore_disk()
            case 3:
                machine.copy_disk()
    assert used.count > 5 * STARTS
    assert used.repeated == 0


async def test_copies_of_one_machine_that_start_at_the_same_time_share_no_nonce(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: Used
) -> None:
    dice = random.Random(7)
    machine = Machine(tmp_path, monkeypatch)
    machine.live(dice)
    machine.copy_disk()
    for _ in range(50):
        machine.restore_disk()
        machine.live(dice)
    assert used.repeated == 0

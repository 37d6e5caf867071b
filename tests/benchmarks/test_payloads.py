"""Messages are made and checked by the same C for both peers, and what is wrong is found by both.

``payload.c`` is compiled as the benchmark does: for Python, and into the client of Corosync, which
here is linked with a CPG that delivers one message wrong.
"""

import ctypes
import json
import os
import shutil
import subprocess
import sysconfig
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmarks.corosync.members import Failed
from benchmarks.corosync.programs import HERE, compile_client, compile_payloads, compiled
from benchmarks.corosync.wire import PROBE_BYTES, Checker, Kind, Maker, WrongMessage, load

import vsync
from tests.conftest import CI
from vsync import (
    Configuration,
    ConfigurationChanged,
    Delivery,
    Envelope,
    Event,
    Guarantee,
    NodeId,
    Priority,
)

FAKE_CPG = Path(__file__).with_name("fake_cpg")
RESIDUE = 0x2144DF1C
"""The CRC-32 of anything with its own CRC-32 behind it."""

CONFIGURATION = Configuration(id="4.1", kind=vsync.Kind.REGULAR, members=(NodeId(1),))
SIZE = 256
WHILE_NS = 500_000_000
"""How long the client sends. Long enough to be given a processor in that time."""

WRONG = {
    "checksum": "a message with a wrong checksum, from node 1",
    "lost": "message 4 of node 1 came from node 1 instead of 3: lost, repeated or out of order",
    "repeated": "message 2 of node 1 came from node 1 instead of 3: lost, repeated or out of order",
    "stranger": "message 3 of node 1 came from node 2 instead of 3: lost, repeated or out of order",
    "length": f"a message of {SIZE + 1} bytes, from node 1",
    "short": "a message of 27 bytes, from node 1",
}
"""What is said of the fourth message, by what is wrong with it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for what is compiled; skips where that cannot be done, and fails in CI."""
    lacking = None
    if shutil.which("cc") is None:
        lacking = "there is no C compiler (Debian: gcc libc6-dev)"
    elif not Path(sysconfig.get_path("include"), "Python.h").exists():
        lacking = "Python's headers are not installed (Debian: python3-dev)"
    elif not Path("/usr/include/isa-l/crc.h").exists():
        lacking = "ISA-L's headers are not installed (Debian: libisal-dev)"
    if lacking and CI:
        pytest.fail(f"CI must compile the benchmark's programs, but {lacking}", pytrace=False)
    if lacking:
        pytest.skip(lacking)
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="module")
def library(made: Path) -> ctypes.PyDLL:
    return load(compile_payloads(made))


@pytest.fixture(scope="module")
def client(made: Path) -> Path:
    return compile_client(made, [f"-I{FAKE_CPG}", f"-I{HERE}", str(FAKE_CPG / "cpg.c")])


def delivered(payloads: Sequence[bytes], node: int = 1) -> list[Event]:
    """These payloads, as a session would bring them."""
    envelope = Envelope(NodeId(node), 0, 1, Priority.MEDIUM, Guarantee.AGREED, (), CONFIGURATION)
    return [Delivery(envelope, counter, payload) for counter, payload in enumerate(payloads)]


@pytest.mark.parametrize("size", [28, 29, 64, 1000, 65536, 1 << 20])
def test_a_message_ends_with_zlib_s_checksum_of_it(library: ctypes.PyDLL, size: int) -> None:
    for payload in Maker(library, 3, Kind.BULK, size).make_all(3):
        assert len(payload) == size
        assert zlib.crc32(payload) == RESIDUE


def test_what_is_made_is_found_right_and_counted(library: ctypes.PyDLL) -> None:
    checker = Checker(library, 1024)
    makers = [Maker(library, node, Kind.BULK, 1024) for node in (1, 2)]
    for count in (1, 0, 5):
        batch = [
            *delivered(makers[0].make_all(count), 1),
            ConfigurationChanged(CONFIGURATION),
            *delivered(makers[1].make_all(count), 2),
        ]
        assert checker.check_all(batch) == (2 * count, 2 * count * 1024, [])


def test_a_probe_tells_its_sender_and_how_long_it_took(library: ctypes.PyDLL) -> None:
    load_of_1 = Maker(library, 1, Kind.BULK, 1024)
    probes = Maker(library, 2, Kind.PROBE, PROBE_BYTES)
    sent_ns = time.monotonic_ns()
    batch = delivered(load_of_1.make_all(1), 1) + delivered(probes.make_all(1, sent_ns), 2)
    messages, size, [(node, took_ns)] = Checker(library, 1024).check_all(batch)
    assert (messages, size, node) == (1, 1024, 2)
    assert 0 <= took_ns <= time.monotonic_ns() - sent_ns


def broken(library: ctypes.PyDLL, fault: str) -> list[Event]:
    """Four messages, the last with this fault."""
    payloads = Maker(library, 1, Kind.BULK, SIZE).make_all(5)
    last = payloads[3]
    node = 1
    match fault:
        case "checksum":
            last = bytes([*last[:5], last[5] ^ 1, *last[6:]])
        case "lost":
            last = payloads[4]
        case "repeated":
            last = payloads[2]
        case "stranger":
            node = 2
        case "length":
            last = Maker(library, 1, Kind.BULK, SIZE + 1).make_all(4)[3]
        case "short":
            last = last[:27]
    return delivered(payloads[:3]) + delivered([last], node)


@pytest.mark.parametrize("fault", WRONG)
def test_python_is_told_what_is_wrong(library: ctypes.PyDLL, fault: str) -> None:
    with pytest.raises(WrongMessage) as raised:
        Checker(library, SIZE).check_all(broken(library, fault))
    assert str(raised.value) == WRONG[fault]


@pytest.mark.parametrize("fault", WRONG)
def test_the_client_of_corosync_says_what_is_wrong(client: Path, fault: str) -> None:
    assert said(client, fault) == {"wrong": WRONG[fault]}


def test_the_client_of_corosync_counts_what_is_right(client: Path) -> None:
    found = said(client, "", probe_ns=1_000_000)
    assert found["received"] > 0
    assert found["bytes"] == found["received"] * SIZE
    assert len(found["own_us"]) > 0


def said(client: Path, fault: str, probe_ns: int = 0) -> dict[str, Any]:
    """What the client says after it has sent for a while, or has been delivered something wrong."""
    with subprocess.Popen(
        [client, "1", "1", str(SIZE), "1", "0", str(probe_ns), "0", "bench"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"FAULT": fault},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"ready": True}
        now_ns = time.monotonic_ns()
        process.stdin.write(f"{now_ns} {now_ns + WHILE_NS}\n".encode())
        process.stdin.flush()
        found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def test_a_compiler_s_complaint_is_passed_on(made: Path) -> None:
    with pytest.raises(Failed, match=r"nothing cannot be compiled: .*no_such_file"):
        compiled(made / "nothing", ["no_such_file.c"], [])

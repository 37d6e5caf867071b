"""What ends a node is raised where the node is used, and nothing stays behind."""

import contextlib
import logging
import os
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import vsync
from tests.core.api.rings import (
    PATIENCE_S,
    fresh_network,
    ring_of,
    settings_of,
    until_together,
)
from vsync import Burst, Node, StateFailed, TransportFailed, Undelivered

pytestmark = pytest.mark.anyio


def transport_of(node: Node) -> Any:
    """The transport of *node*, to be ill-treated."""
    return node._driver._transport


def break_transport(node: Node) -> None:
    """Let the next transmission of *node* fail for good."""

    def send(burst: Burst) -> None:
        raise TransportFailed("the cable was eaten; plug in another")

    transport_of(node).send = send


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def ring_threads() -> int:
    return sum(thread.name == "vsync ring" for thread in threading.enumerate())


async def test_a_failed_transport_is_raised_by_reader_sender_and_node(tmp_path: Path) -> None:
    before = ring_threads()
    raised = 0
    with pytest.raises(TransportFailed, match="cable"):
        async with ring_of(tmp_path, 1) as (node,), node.session() as session:
            await session.join("a")
            break_transport(node)
            with contextlib.suppress(TransportFailed):  # if the ring itself had something to send
                await session.send(b"x")
            with anyio.fail_after(PATIENCE_S):
                while not raised:
                    try:
                        await session.receive()
                    except TransportFailed:
                        raised += 1
            for attempt in (session.send(b"y"), session.join("b"), node.status()):
                try:
                    await attempt
                except TransportFailed:
                    raised += 1
    assert raised == 4
    assert ring_threads() == before


async def test_a_disk_that_fails_while_the_node_runs_ends_it(tmp_path: Path) -> None:
    network = fresh_network()
    with pytest.raises(StateFailed, match="cannot write"):
        async with vsync.open_node(settings_of(tmp_path, 1, network)) as one:
            one._store._mark = 0  # so that the next ring needs a write
            (tmp_path / "state1" / f"ringid_{network}_1.new").mkdir()
            with anyio.fail_after(PATIENCE_S):
                async with (
                    vsync.open_node(settings_of(tmp_path, 2, network)),
                    one.session() as session,
                ):
                    while True:
                        await session.receive()


async def test_a_trace_that_cannot_be_written_ends_the_node(tmp_path: Path) -> None:
    with pytest.raises(vsync.VsyncError, match="cannot write the trace /dev/full"):
        async with vsync.open_node(settings_of(tmp_path, 1, fresh_network()), trace="/dev/full"):
            pass
    async with ring_of(tmp_path, 1):  # its state is free again
        pass


async def test_a_trace_that_cannot_be_opened_is_a_sentence(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, 1, fresh_network())
    with pytest.raises(vsync.VsyncError, match="cannot open the trace"):
        async with vsync.open_node(settings, trace=tmp_path / "nowhere" / "trace"):
            pass
    async with vsync.open_node(settings):
        pass


async def test_a_transport_that_does_not_open_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vsync.transports.memory import TransportMemory

    def fail(self: TransportMemory) -> None:
        raise TransportFailed("no such interface")

    settings = settings_of(tmp_path, 1, fresh_network())
    with monkeypatch.context() as patch:
        patch.setattr(TransportMemory, "open", fail)
        with pytest.raises(TransportFailed, match="no such interface"):
            async with vsync.open_node(settings, trace=tmp_path / "trace"):
                pass
    async with vsync.open_node(settings):  # neither the state's lock nor a descriptor is left
        pass


async def cut_off_pair(tmp_path: Path, log: list[str]) -> None:
    """Two nodes; the first is cut off, sends, and closes at once. *log* gets how it ended."""
    network = fresh_network()
    quick = {"drain_s": 0.05}
    settings = settings_of(tmp_path, 1, network)
    settings = settings.model_copy(update={"node": settings.node.model_copy(update=quick)})
    async with vsync.open_node(settings_of(tmp_path, 2, network)) as two:
        try:
            trace = tmp_path / "trace"
            async with vsync.open_node(settings, trace=trace) as one, one.session() as session:
                await until_together([one, two])
                transport_of(one).send = lambda burst: None
                await session.send(b"x", "a")
                if log:
                    raise KeyError("mine")
        finally:
            log.append(trace.read_text().splitlines()[-1])


async def test_a_service_that_cannot_be_made_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        NAME = "refusing"

        def __init__(self, *given: Any) -> None:
            raise vsync.SettingsError("of no use")

    settings = settings_of(tmp_path, 1, fresh_network())
    async with vsync.open_node(settings):  # what is opened once for all
        pass
    before = open_files()
    with monkeypatch.context() as patched:
        patched.setattr("vsync.api.node.services_of", lambda _: [(Refusing, None)])
        with pytest.raises(vsync.SettingsError, match="of no use"):
            async with vsync.open_node(settings):
                pass
    assert open_files() == before
    async with vsync.open_node(settings):
        pass


async def test_a_node_that_gets_no_thread_leaves_nothing_open_and_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    settings = settings_of(tmp_path, 1, fresh_network())
    async with vsync.open_node(settings):
        pass
    before = open_files()
    with monkeypatch.context() as patched, anyio.fail_after(4):
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            async with vsync.open_node(settings):
                pass
    assert open_files() == before


async def test_what_a_closing_node_could_not_deliver_is_an_error(tmp_path: Path) -> None:
    log: list[str] = []
    with pytest.raises(Undelivered, match="1 accepted messages were not yet known"):
        await cut_off_pair(tmp_path, log)
    assert '"event":"stop"' not in log[-1]


async def test_an_error_in_the_block_is_not_hidden_by_what_was_undelivered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = ["raise"]
    with (
        caplog.at_level(logging.WARNING, logger="vsync"),
        pytest.raises(KeyError, match="mine"),
    ):
        await cut_off_pair(tmp_path, log)
    assert "1 accepted messages were not yet known" in caplog.text

"""Several threads at one handle; finalize while others dispatch; the thread behind it all."""

import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.command import environment
from tests.core.api.rings import settings_of
from tests.core.evs.daemons import (
    AGREED,
    KEY1,
    KEY2,
    LOW,
    PATIENCE_S,
    Daemon,
    Log,
    dispatch_until,
    eventually,
    messages,
    numbered,
    send_all,
)
from vsync import evs
from vsync.evs import Dispatch, Handle


def in_a_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """*call* in a thread, and what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def ended(thread: threading.Thread) -> bool:
    thread.join(PATIENCE_S)
    return not thread.is_alive()


def somebody_waits(handle: Handle) -> bool:
    """Whether a thread waits in ``dispatch`` for something to come."""
    return bool(handle._inbox._news._waiters)  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", [Dispatch.ONE, Dispatch.BLOCKING])
def test_finalize_lets_a_waiting_dispatch_return(handle: Handle, log: Log, mode: Dispatch) -> None:
    evs.dispatch(handle)
    thread, raised = in_a_thread(lambda: evs.dispatch(handle, mode))
    eventually(lambda: somebody_waits(handle))
    evs.finalize(handle)
    assert ended(thread)
    assert raised == []
    assert len(log.changes) == 1


def test_a_blocking_dispatch_goes_on_until_finalize(handle: Handle, log: Log) -> None:
    evs.join(handle, KEY1)
    thread, raised = in_a_thread(lambda: evs.dispatch(handle, Dispatch.BLOCKING))
    for payload in numbered(100):
        evs.mcast_joined(handle, AGREED, LOW, payload)
    eventually(lambda: len(log.messages) == 100)
    evs.finalize(handle)
    assert ended(thread)
    assert raised == []
    assert set(log.threads) == {thread.ident}  # callbacks are made where dispatch was called
    assert log.messages == numbered(100)


def test_no_callback_is_made_after_finalize(daemon: Daemon) -> None:
    """Nor is one still running: finalize waits for those of other threads."""
    begun, go_on = threading.Event(), threading.Event()
    returned: list[bytes] = []

    def deliver(_handle: Handle, _sender: int, payload: bytes) -> None:
        begun.set()
        go_on.wait(PATIENCE_S)
        returned.append(payload)

    handle = evs.initialize(evs.Callbacks(deliver=deliver), path=daemon.path)
    evs.join(handle, KEY1)
    for _ in range(10):
        evs.mcast_joined(handle, AGREED, LOW, b"x")
    thread, raised = in_a_thread(lambda: evs.dispatch(handle, Dispatch.BLOCKING))
    assert begun.wait(PATIENCE_S)
    finalizing, failed = in_a_thread(lambda: evs.finalize(handle))
    eventually(lambda: handle._inbox._closed)
    finalizing.join(0.1)
    assert finalizing.is_alive()
    assert returned == []
    go_on.set()
    assert ended(finalizing)
    assert ended(thread)
    assert raised == failed == []
    assert returned == [b"x"]


def test_a_callback_may_finalize_its_handle(daemon: Daemon) -> None:
    called: list[bytes] = []

    def deliver(handle: Handle, _sender: int, payload: bytes) -> None:
        called.append(payload)
        evs.finalize(handle)

    handle = evs.initialize(evs.Callbacks(deliver=deliver), path=daemon.path)
    evs.join(handle, KEY1)
    evs.mcast_joined(handle, AGREED, LOW, b"1")
    evs.mcast_joined(handle, AGREED, LOW, b"2")
    evs.dispatch(handle, Dispatch.BLOCKING)
    assert called == [b"1"]


def test_a_callback_may_make_any_call(handle: Handle, daemon: Daemon) -> None:
    log: list[bytes] = []

    def deliver(mine: Handle, _sender: int, payload: bytes) -> None:
        log.append(payload)
        if payload == b"1":
            evs.join(mine, KEY2)
            evs.mcast_groups(mine, AGREED, LOW, KEY2, b"2")
            evs.dispatch(mine, Dispatch.ONE)
            evs.leave(mine, KEY2)
            assert evs.membership_get(mine).members == (1,)

    with evs.initialize(evs.Callbacks(deliver=deliver), path=daemon.path) as mine:
        evs.join(mine, KEY1)
        evs.mcast_joined(mine, AGREED, LOW, b"1")
        evs.dispatch(mine, Dispatch.ONE)
    assert log == [b"1", b"2"]


def test_what_a_callback_raises_comes_out_of_dispatch(daemon: Daemon) -> None:
    log: list[bytes] = []

    def deliver(_handle: Handle, _sender: int, payload: bytes) -> None:
        log.append(payload)
        if payload == b"bad":
            raise ArithmeticError("from a callback")

    with evs.initialize(evs.Callbacks(deliver=deliver), path=daemon.path) as handle:
        evs.join(handle, KEY1)
        evs.mcast_joined(handle, AGREED, LOW, b"bad")
        evs.mcast_joined(handle, AGREED, LOW, b"good")
        with pytest.raises(ArithmeticError, match="from a callback"):
            evs.dispatch(handle, Dispatch.BLOCKING)
        dispatch_until(handle, lambda: len(log) == 2)
    assert log == [b"bad", b"good"]


def test_an_error_in_the_block_matters_more_than_what_was_lost(daemon: Daemon) -> None:
    with (
        pytest.raises(ArithmeticError),
        evs.initialize(evs.Callbacks(), path=daemon.path) as handle,
    ):
        evs.mcast_groups(handle, AGREED, LOW, KEY1, b"x")
        daemon.stop()
        raise ArithmeticError


def test_threads_share_a_handle(daemon: Daemon, handle: Handle, log: Log) -> None:
    """Four send, two dispatch; each sender's messages keep their order."""
    evs.join(handle, KEY1)
    with evs.initialize(evs.Callbacks(), path=daemon.path, queue_bytes=4000) as shared:
        evs.join(shared, KEY2)

        def send(sender: int) -> None:
            for number in range(250):
                while True:
                    try:
                        payload = b"%d %d" % (sender, number)
                        evs.mcast_groups(shared, AGREED, LOW, KEY1, payload)
                        break
                    except evs.TryAgain:
                        pass

        dispatchers = [
            in_a_thread(lambda: evs.dispatch(handle, Dispatch.BLOCKING)) for _ in range(2)
        ]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, range(4)))
    eventually(lambda: len(log.messages) == 1000)
    evs.finalize(handle)
    for thread, raised in dispatchers:
        assert ended(thread)
        assert raised == []
    assert sorted(log.messages) == sorted(b"%d %d" % (s, n) for s in range(4) for n in range(250))


def test_two_threads_finalize_once(handle: Handle) -> None:
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(evs.finalize, handle) for _ in range(8)]
    raised = [result.exception() for result in results]
    assert raised.count(None) == 1
    assert sum(isinstance(error, evs.BadHandle) for error in raised) == 7


def test_many_handles_live_in_one_thread_which_ends_with_the_last(daemon: Daemon) -> None:
    before = threading.active_count()
    logs = [Log() for _ in range(10)]
    with ExitStack() as stack:
        handles = [
            stack.enter_context(evs.initialize(log.callbacks, path=daemon.path)) for log in logs
        ]
        assert threading.active_count() == before + 1
        for handle in handles:
            evs.join(handle, KEY1)
        for number, handle in enumerate(handles):
            evs.mcast_joined(handle, AGREED, LOW, b"%d" % number)
        for handle, log in zip(handles, logs, strict=True):
            assert sorted(messages(log, handle, 10)) == [b"%d" % number for number in range(10)]
            assert log.messages == logs[0].messages  # one order for all
            assert set(log.handles) == {handle}
        for handle in handles[:9]:
            evs.finalize(handle)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with evs.initialize(evs.Callbacks(), path=daemon.path) as again:
        assert evs.membership_get(again).members == (1,)
    assert threading.active_count() == before


def test_a_poller_wakes_when_the_handle_is_finalized(handle: Handle) -> None:
    evs.dispatch(handle)
    poll = select.poll()
    poll.register(evs.fd_get(handle), select.POLLIN)
    found: list[object] = []
    thread, raised = in_a_thread(lambda: found.extend(poll.poll(PATIENCE_S * 1000)))
    thread.join(0.1)
    assert thread.is_alive()
    evs.finalize(handle)
    assert ended(thread)
    assert raised == []
    assert len(found) == 1


def test_a_full_handle_joins_all_the_same(daemon: Daemon, handle: Handle, log: Log) -> None:
    """More waits than a handle takes in; the answer to join must not wait behind it."""
    evs.join(handle, KEY1)
    payloads = numbered(300, 10_000)
    with evs.initialize(evs.Callbacks(), path=daemon.path) as sender:
        evs.join(sender, KEY1)
        send_all(sender, payloads)
    eventually(lambda: handle._inbox._size >= 2**20)
    evs.join(handle, KEY2)
    evs.leave(handle, KEY2)
    assert messages(log, handle, 300) == payloads


def test_a_program_that_ends_without_finalize_has_sent_all(
    daemon: Daemon, handle: Handle, log: Log
) -> None:
    evs.join(handle, KEY1)
    program = (
        "from vsync import evs\n"
        f"handle = evs.initialize(evs.Callbacks(), path={str(daemon.path)!r})\n"
        "for number in range(100):\n"
        "    evs.mcast_groups(handle, 2, 3, evs.GroupKey.from_name('key1'), b'%d' % number)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert messages(log, handle, 100) == [b"%d" % number for number in range(100)]


def test_ctrl_c_ends_a_wait_for_the_daemon(tmp_path: Path) -> None:
    program = (
        "import signal, threading\n"
        "from vsync import evs\n"
        "from vsync.daemon import client\n"
        "client.CONNECT_S = 600.0\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n"
        f"    evs.initialize(evs.Callbacks(), path={str(tmp_path / 'mute')!r})\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', threading.active_count())\n"
    )
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        mute.settimeout(PATIENCE_S)
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as process:
            try:
                with mute.accept()[0]:
                    time.sleep(0.3)  # the other thread connects; the first one waits for it soon
                    process.send_signal(signal.SIGINT)
                    said = process.communicate(timeout=PATIENCE_S)
            finally:
                process.kill()
    assert said == ("interrupted 1\n", "")


def test_a_forked_process_begins_anew(daemon: Daemon, handle: Handle) -> None:
    program = (
        "import os, sys\n"
        "from vsync import evs\n"
        f"handle = evs.initialize(evs.Callbacks(), path={str(daemon.path)!r})\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        evs.dispatch(handle)\n"
        "    except evs.BadHandle:\n"
        f"        with evs.initialize(evs.Callbacks(), path={str(daemon.path)!r}) as own:\n"
        "            print('child of', evs.membership_get(own).local, flush=True)\n"
        "    sys.exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "print('parent of', evs.membership_get(handle).local)\n"
    )
    done = subprocess.run(
        # From 3.12 on Python warns of every fork in a process with threads.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n") == ["child of 1", "0", "parent of 1", ""]


def test_a_node_in_this_process_is_closed_by_finalize(tmp_path: Path) -> None:
    for _ in range(2):  # its state directory is free again each time
        settings = settings_of(tmp_path, 1, "again")
        evs.finalize(evs.initialize(evs.Callbacks(), settings=settings))

"""Every error code of the seed, where it comes from, and that it is an exception of its own."""

import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import vsync
from tests.core.api.rings import fresh_network, settings_of
from tests.core.evs.daemons import (
    AGREED,
    KEY1,
    KEY2,
    LOW,
    PATIENCE_S,
    Daemon,
    Log,
    daemons,
    dispatch_until,
    eventually,
    messages,
)
from vsync import evs
from vsync.daemon import client, peers, server
from vsync.evs import Code, Handle
from vsync.service import service_group

SEED = {
    "LIBRARY": 2,
    "TIMEOUT": 5,
    "TRY_AGAIN": 6,
    "INVALID_PARAM": 7,
    "NO_MEMORY": 8,
    "BAD_HANDLE": 9,
    "ACCESS": 11,
    "NOT_EXIST": 12,
    "EXIST": 14,
    "NOT_SUPPORTED": 20,
    "SECURITY": 29,
    "TOO_MANY_GROUPS": 30,
}


def test_there_is_an_exception_for_every_code_and_no_other() -> None:
    kinds = evs.EvsError.__subclasses__()
    assert {kind.code.name: kind.code.value for kind in kinds} == SEED
    assert len(kinds) == len(SEED)
    assert {code.name: code.value for code in Code} == SEED | {"OK": 1}
    for kind in kinds:
        assert issubclass(kind, vsync.VsyncError)
        assert getattr(evs, kind.__name__) is kind
        assert kind("a sentence").code is kind.code


CALLS: dict[str, Callable[[Handle], object]] = {
    "fd_get": evs.fd_get,
    "dispatch": evs.dispatch,
    "join": lambda handle: evs.join(handle, KEY1),
    "leave": lambda handle: evs.leave(handle, KEY1),
    "mcast_joined": lambda handle: evs.mcast_joined(handle, AGREED, LOW, b"x"),
    "mcast_groups": lambda handle: evs.mcast_groups(handle, AGREED, LOW, KEY1, b"x"),
    "membership_get": evs.membership_get,
    "context_get": evs.context_get,
    "context_set": lambda handle: evs.context_set(handle, 1),
    "finalize": evs.finalize,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_finalized_handle_is_a_bad_one(handle: Handle, call: Callable[[Handle], object]) -> None:
    evs.finalize(handle)
    with pytest.raises(evs.BadHandle, match="finalized"):
        call(handle)
    assert "finalized" in repr(handle)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_handle_of_the_parent_process_is_a_bad_one(
    handle: Handle, call: Callable[[Handle], object]
) -> None:
    handle._process = os.getpid() + 1  # as it is after fork()
    with pytest.raises(evs.BadHandle, match="fork"):
        call(handle)
    handle._process = os.getpid()


NEEDS_THE_DAEMON = ["dispatch", "join", "leave", "mcast_joined", "mcast_groups", "membership_get"]


@pytest.mark.parametrize("name", NEEDS_THE_DAEMON)
def test_after_the_daemons_end_calls_are_library_errors(
    daemon: Daemon, handle: Handle, log: Log, name: str
) -> None:
    evs.join(handle, KEY1)
    evs.mcast_joined(handle, AGREED, LOW, b"last words")
    assert select.select([handle], [], [], PATIENCE_S)[0]
    messages(log, handle, 1)
    daemon.stop()
    with pytest.raises(evs.LibraryError):
        dispatch_until(handle, lambda: False)
    with pytest.raises(evs.LibraryError):
        CALLS[name](handle)
    with pytest.raises(evs.LibraryError):
        CALLS[name](handle)  # again and again
    assert select.select([handle], [], [], 0)[0]  # dispatch would not wait
    assert evs.fd_get(handle) >= 0
    evs.finalize(handle)


def test_what_came_before_the_daemons_end_is_dispatched(
    daemon: Daemon, handle: Handle, log: Log
) -> None:
    evs.join(handle, KEY1)
    for _ in range(10):
        evs.mcast_joined(handle, AGREED, LOW, b"x")
    evs.join(handle, KEY2)  # after all that was sent before
    eventually(lambda: len(handle._inbox) == 11)
    daemon.stop()
    with pytest.raises(evs.LibraryError):
        evs.dispatch(handle, evs.Dispatch.BLOCKING)
    assert log.messages == [b"x"] * 10


def test_no_daemon_is_a_library_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(evs.LibraryError, match=r"no daemon answers .* is `vsync run` running"):
        evs.initialize(evs.Callbacks(), path=tmp_path / "nothing")


def test_a_daemon_that_says_nothing_is_a_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CONNECT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        with pytest.raises(evs.Timeout, match="does not answer"):
            evs.initialize(evs.Callbacks(), path=tmp_path / "mute")


def test_a_socket_that_this_user_may_not_use_is_a_matter_of_security(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may use any socket, and tests may run as root: the kernel's answer is played.
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(client, "connect_stream", refuse)
    with pytest.raises(evs.Security, match="Permission denied"):
        evs.initialize(evs.Callbacks(), path=daemon.path)


def test_a_user_whom_the_daemon_does_not_serve_is_a_matter_of_security(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    somebody_else = peers.Peer(1, 54321, frozenset())
    monkeypatch.setattr(server, "peer_of", lambda _socket: somebody_else)
    with pytest.raises(evs.Security, match=r"uid 54321\)? may not use this daemon"):
        evs.initialize(evs.Callbacks(), path=daemon.path)


def test_settings_that_cannot_be_are_invalid(tmp_path: Path) -> None:
    with pytest.raises(evs.InvalidParam, match=r"nothing\.toml"):
        evs.initialize(evs.Callbacks(), settings=tmp_path / "nothing.toml")
    with pytest.raises(evs.InvalidParam, match="not both"):
        evs.initialize(evs.Callbacks(), settings="a", path="b")
    with pytest.raises(evs.InvalidParam, match="at least 1"):
        evs.initialize(evs.Callbacks(), settings="a", queue_bytes=0)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (b"key1", "32 bytes, this one is 4"),
        ([KEY1, bytes(33)], "32 bytes, this one is 33"),
        ("key1", "keys of 32 bytes each, not 'key1'"),
        (["key1"], "32 bytes, this one is str"),
        (5, "keys of 32 bytes each, not 5"),
    ],
)
def test_a_key_has_exactly_32_bytes(handle: Handle, groups: evs.Groups, says: str) -> None:
    calls: list[Callable[[], None]] = [
        lambda: evs.join(handle, groups),
        lambda: evs.leave(handle, groups),
        lambda: evs.mcast_groups(handle, AGREED, LOW, groups, b"x"),
    ]
    for call in calls:
        with pytest.raises(evs.InvalidParam, match=says):
            call()


def test_guarantee_priority_payload_groups_and_mode_are_checked(handle: Handle) -> None:
    evs.join(handle, KEY1)
    with pytest.raises(evs.InvalidParam, match="4 is not a valid Guarantee"):
        evs.mcast_joined(handle, 4, LOW, b"x")  # type: ignore[arg-type]
    with pytest.raises(evs.InvalidParam, match="-1 is not a valid Priority"):
        evs.mcast_joined(handle, AGREED, -1, b"x")  # type: ignore[arg-type]
    with pytest.raises(evs.InvalidParam, match="make text into bytes"):
        evs.mcast_joined(handle, AGREED, LOW, "x")  # type: ignore[arg-type]
    with pytest.raises(evs.InvalidParam, match="at least one group"):
        evs.mcast_groups(handle, AGREED, LOW, [], b"x")
    with pytest.raises(evs.InvalidParam, match="no way to dispatch"):
        evs.dispatch(handle, 3)  # type: ignore[arg-type]


def test_a_call_takes_50_groups_and_no_more(handle: Handle, log: Log) -> None:
    keys = [number.to_bytes(32, "big") for number in range(101)]
    calls: list[Callable[[], None]] = [
        lambda: evs.join(handle, keys[:51]),
        lambda: evs.leave(handle, keys[:51]),
        lambda: evs.mcast_groups(handle, AGREED, LOW, keys[:51], b"x"),
    ]
    for call in calls:
        with pytest.raises(evs.TooManyGroups, match="at most 50 groups, not 51"):
            call()
    evs.join(handle, keys[:50])
    evs.mcast_joined(handle, AGREED, LOW, b"to 50")
    evs.join(handle, keys[50:100])
    with pytest.raises(evs.TooManyGroups, match="100 are joined"):
        evs.mcast_joined(handle, AGREED, LOW, b"to 100")
    evs.mcast_groups(handle, AGREED, LOW, keys[50:100], b"to the other 50")
    assert messages(log, handle, 2) == [b"to 50", b"to the other 50"]


def test_to_leave_a_group_one_must_have_joined_it(handle: Handle, log: Log) -> None:
    evs.join(handle, KEY1)
    with pytest.raises(evs.NotExist, match="key2"):
        evs.leave(handle, [KEY1, KEY2])
    evs.mcast_joined(handle, AGREED, LOW, b"still joined")
    assert messages(log, handle, 1) == [b"still joined"]
    evs.leave(handle, KEY1)
    with pytest.raises(evs.NotExist, match="key1"):
        evs.leave(handle, KEY1)


def test_without_groups_there_is_nobody_to_send_to(handle: Handle) -> None:
    with pytest.raises(evs.NotExist, match="joined no group"):
        evs.mcast_joined(handle, AGREED, LOW, b"x")


def test_groups_of_services_are_not_for_everybody(handle: Handle) -> None:
    key = service_group("quorum")
    calls: list[Callable[[], None]] = [
        lambda: evs.join(handle, key),
        lambda: evs.mcast_groups(handle, AGREED, LOW, key, b"x"),
    ]
    for call in calls:
        with pytest.raises(evs.Access, match="service's own"):
            call()


def test_a_message_that_is_too_large_is_refused_at_once_and_holds_up_no_other(
    tmp_path: Path, log: Log
) -> None:
    settings = settings_of(tmp_path, 1, fresh_network(), message_bytes_max=10_000)
    with evs.initialize(log.callbacks, settings=settings) as handle:
        evs.join(handle, KEY1)
        evs.mcast_joined(handle, AGREED, LOW, b"before")
        with pytest.raises(evs.InvalidParam, match="10001 bytes is over the limit of 10000"):
            evs.mcast_joined(handle, AGREED, LOW, bytes(10_001))
        evs.mcast_joined(handle, AGREED, LOW, b"last")
        assert messages(log, handle, 2) == [b"before", b"last"]


def test_a_closed_group_takes_messages_of_its_members_only(
    daemon: Daemon, handle: Handle, log: Log
) -> None:
    async def join_closed(session: vsync.Session) -> None:
        await session.join(KEY1, closed=True)

    handle._ask(join_closed)  # the seed has no closed groups, but others on the ring may
    evs.mcast_joined(handle, AGREED, LOW, b"from a member")
    with evs.initialize(evs.Callbacks(), path=daemon.path) as other:
        evs.mcast_groups(other, AGREED, LOW, KEY1, b"from a stranger")
        evs.join(other, KEY2)
        with pytest.raises(evs.Access, match="closed"):
            evs.mcast_joined(other, AGREED, LOW, b"not sent")
        evs.mcast_joined(other, AGREED, LOW, b"nobody hears it")
        evs.mcast_groups(other, AGREED, LOW, KEY1, b"from a stranger")
        with pytest.raises(evs.Access, match="closed"):
            evs.finalize(other)  # nobody was told yet
    assert messages(log, handle, 1) == [b"from a member"]


@pytest.mark.parametrize("waits", [False, True])
def test_what_cannot_be_handed_over_is_told_by_finalize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """A reader that does not dispatch holds up the ring, and so whoever sends to it."""
    monkeypatch.setattr("vsync.evs.handle.FINALIZE_S", 0.2)
    with daemons(tmp_path, queue_bytes=1, client_stuck_s=60) as (daemon,):
        slow_log = Log()
        with (
            evs.initialize(slow_log.callbacks, path=daemon.path) as slow,
            evs.initialize(evs.Callbacks(), path=daemon.path) as sender,
        ):
            evs.join(slow, KEY1)

            def sends(payload: bytes) -> bool:
                try:
                    evs.mcast_groups(sender, AGREED, LOW, KEY1, payload)
                except evs.TryAgain:
                    return False
                return True

            ring = daemon.node._driver.engine
            stuck = sent = 0
            while stuck < 300:
                if sends(bytes(65_536)):
                    sent += 1
                    stuck = 0
                else:  # the ring may wait for a moment, and a daemon that is merely slow for longer
                    stuck = 0 if ring.blocked_by is None else stuck + 1
                    threading.Event().wait(0.002)
            if waits:
                with pytest.raises(evs.Timeout, match=r"\d+ messages may not have been accepted"):
                    evs.finalize(sender)
            else:
                dispatch_until(slow, lambda: len(slow_log.messages) > sent // 2)
                dispatch_until(slow, lambda: sends(b"last"))
                dispatch_until(slow, lambda: slow_log.messages[-1] == b"last")
                assert len(slow_log.messages) == sent + 1

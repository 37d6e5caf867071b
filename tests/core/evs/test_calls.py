"""Each call does what the seed's did."""

import os
import select
from pathlib import Path

import pytest

import vsync
from tests.core.api.rings import fresh_network, settings_of
from tests.core.evs.daemons import (
    AGREED,
    KEY1,
    KEY2,
    KEY3,
    LOW,
    Daemon,
    Log,
    daemons,
    dispatch_until,
    messages,
)
from vsync import evs
from vsync.evs import Dispatch, Guarantee, Handle, Priority


def test_the_first_callback_is_the_configuration(handle: Handle, log: Log) -> None:
    evs.dispatch(handle, Dispatch.ONE)
    ((members, left, joined, ring),) = log.changes
    assert (members, left, joined) == ((1,), (), (1,))
    assert ring == evs.membership_get(handle).ring
    assert log.handles == [handle]


def test_membership_is_known_at_once(handle: Handle) -> None:
    membership = evs.membership_get(handle)
    assert membership.local == 1
    assert membership.members == (1,)
    assert isinstance(membership.ring, vsync.RingId)


def test_messages_to_joined_groups_come_back_in_their_order(handle: Handle, log: Log) -> None:
    evs.join(handle, [KEY1, KEY2])
    for number in range(20):
        evs.mcast_joined(handle, AGREED, LOW, b"%d" % number)
    assert messages(log, handle, 20) == [b"%d" % number for number in range(20)]
    assert set(log.senders) == {1}


def test_a_message_comes_once_whatever_number_of_its_groups_is_joined(
    handle: Handle, log: Log
) -> None:
    evs.join(handle, [KEY1, KEY2, KEY3])
    evs.mcast_groups(handle, AGREED, LOW, [KEY1, KEY3], b"first")
    evs.mcast_joined(handle, AGREED, LOW, b"second")
    assert messages(log, handle, 2) == [b"first", b"second"]


def test_joins_add_up_and_leaves_take_away(handle: Handle, log: Log) -> None:
    evs.join(handle, KEY1)
    evs.join(handle, [KEY2, KEY1])  # again: no error
    evs.leave(handle, KEY1)
    evs.mcast_groups(handle, AGREED, LOW, KEY1, b"to those who left")
    evs.mcast_groups(handle, AGREED, LOW, KEY2, b"to the joined")
    assert messages(log, handle, 1) == [b"to the joined"]


def test_anybody_sends_to_a_group_by_its_32_bytes(daemon: Daemon, handle: Handle, log: Log) -> None:
    key = bytes(range(32))
    evs.join(handle, key)
    with evs.initialize(evs.Callbacks(), path=daemon.path) as other:
        evs.mcast_groups(other, AGREED, LOW, (key for _ in range(1)), b"from outside")
    assert messages(log, handle, 1) == [b"from outside"]


def test_a_message_is_gathered_from_buffers_and_copied(handle: Handle, log: Log) -> None:
    evs.join(handle, KEY1)
    buffer = bytearray(b"one ")
    evs.mcast_joined(handle, AGREED, LOW, [buffer, memoryview(b"two "), b"three"])
    evs.mcast_joined(handle, AGREED, LOW, buffer)
    evs.mcast_joined(handle, AGREED, LOW, b"")
    buffer[:] = b"gone"
    assert messages(log, handle, 3) == [b"one two three", b"one ", b""]


@pytest.mark.parametrize("guarantee", Guarantee)
@pytest.mark.parametrize("priority", Priority)
def test_every_guarantee_and_priority_delivers(
    handle: Handle, log: Log, guarantee: Guarantee, priority: Priority
) -> None:
    evs.join(handle, KEY1)
    evs.mcast_joined(handle, guarantee, priority, b"x")
    assert messages(log, handle, 1) == [b"x"]


def test_the_seeds_numbers_are_guarantees_and_priorities(handle: Handle, log: Log) -> None:
    evs.join(handle, KEY1)
    evs.mcast_joined(handle, 3, 0, b"safe, recovery")  # type: ignore[arg-type]
    assert messages(log, handle, 1) == [b"safe, recovery"]


def test_a_context_is_kept_with_the_handle(handle: Handle) -> None:
    assert evs.context_get(handle) is None
    context = {"any": "thing"}
    evs.context_set(handle, context)
    assert evs.context_get(handle) is context


def test_dispatch_one_makes_one_callback(handle: Handle, log: Log) -> None:
    evs.join(handle, KEY1)
    evs.dispatch(handle, Dispatch.ONE)
    for number in range(3):
        evs.mcast_joined(handle, AGREED, LOW, b"%d" % number)
    for number in range(3):
        evs.dispatch(handle, Dispatch.ONE)  # waits
        assert len(log.messages) == number + 1


def test_dispatch_all_never_waits(handle: Handle, log: Log) -> None:
    evs.dispatch(handle, Dispatch.ALL)
    evs.dispatch(handle, Dispatch.ALL)
    assert len(log.changes) == 1


def test_the_descriptor_is_readable_exactly_while_there_is_something(
    handle: Handle, log: Log
) -> None:
    poll = select.poll()
    poll.register(evs.fd_get(handle), select.POLLIN)
    assert handle.fileno() == evs.fd_get(handle)
    assert poll.poll(0)  # the first configuration
    assert poll.poll(0)  # and still: nobody took it
    evs.dispatch(handle, Dispatch.ONE)
    assert not poll.poll(0)
    evs.join(handle, KEY1)
    assert not poll.poll(50)  # group views make no callback
    for payload in (b"1", b"2"):
        evs.mcast_joined(handle, AGREED, LOW, payload)
        assert poll.poll(20_000)
        evs.dispatch(handle, Dispatch.ONE)
    assert not poll.poll(0)
    evs.mcast_joined(handle, AGREED, LOW, b"3")
    assert select.select([handle], [], [], 20)[0] == [handle]
    evs.dispatch(handle)
    assert not select.select([handle], [], [], 0)[0]
    assert log.messages == [b"1", b"2", b"3"]


def test_what_has_no_callback_is_passed_over(daemon: Daemon) -> None:
    told: list[bytes] = []
    callbacks = evs.Callbacks(deliver=lambda _handle, _sender, payload: told.append(payload))
    with evs.initialize(callbacks, path=daemon.path) as handle:
        assert not select.select([handle], [], [], 0)[0]  # the configuration
        evs.join(handle, KEY1)
        evs.mcast_joined(handle, AGREED, LOW, b"x")
        evs.dispatch(handle, Dispatch.ONE)
    assert told == [b"x"]


def test_the_daemon_is_found_by_the_environment_or_because_it_is_the_only_one(
    tmp_path: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VSYNC_SOCKET", str(daemon.path))
    with evs.initialize(evs.Callbacks()) as handle:
        assert evs.membership_get(handle).local == 1
    monkeypatch.delenv("VSYNC_SOCKET")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "vsync").mkdir()
    with pytest.raises(evs.LibraryError, match=r"no node of yours seems to run here.*VSYNC_SOCKET"):
        evs.initialize(evs.Callbacks())
    os.link(daemon.path, tmp_path / "vsync" / "only.sock")
    with evs.initialize(evs.Callbacks()) as handle:
        assert evs.membership_get(handle).local == 1


def test_a_node_may_run_in_this_process(tmp_path: Path, log: Log) -> None:
    settings = settings_of(tmp_path, 7, fresh_network())
    with evs.initialize(log.callbacks, settings=settings) as handle:
        assert evs.membership_get(handle).local == 7
        evs.join(handle, KEY1)
        evs.mcast_joined(handle, AGREED, LOW, b"x")
        assert messages(log, handle, 1) == [b"x"]


def test_handles_of_a_process_are_independent(daemon: Daemon, handle: Handle, log: Log) -> None:
    other_log = Log()
    evs.join(handle, [KEY1, KEY2])
    with evs.initialize(other_log.callbacks, path=daemon.path) as other:
        evs.context_set(other, "other")
        evs.join(other, [KEY2])
        evs.mcast_groups(handle, AGREED, LOW, KEY1, b"one")
        evs.mcast_groups(other, AGREED, LOW, KEY2, b"both")
        assert messages(log, handle, 2) == [b"one", b"both"]
        assert messages(other_log, other, 1) == [b"both"]
        assert set(other_log.handles) == {other}
    evs.mcast_joined(handle, AGREED, LOW, b"still here")
    assert messages(log, handle, 3)[-1] == b"still here"
    assert evs.context_get(handle) is None


def test_configurations_tell_who_left_and_who_joined(tmp_path: Path) -> None:
    log = Log()
    with (
        daemons(tmp_path, 2) as (one, two),
        evs.initialize(log.all_callbacks, path=one.path) as handle,
    ):
        dispatch_until(handle, lambda: len(log.changes) == 1)
        assert log.changes[0][:3] == ((1, 2), (), (1, 2))
        assert log.transitional == []
        two.stop()
        dispatch_until(handle, lambda: len(log.changes) == 2)
        assert log.changes[1][:3] == ((1,), (2,), ())
        ((members, left, joined, ring),) = log.transitional
        assert (members, left, joined) == ((1,), (2,), ())
        assert ring == log.changes[0][3]
        assert ring < log.changes[1][3] == evs.membership_get(handle).ring


def test_what_was_sent_before_finalize_is_sent(daemon: Daemon, handle: Handle, log: Log) -> None:
    evs.join(handle, KEY1)
    with evs.initialize(evs.Callbacks(), path=daemon.path) as other:
        for number in range(500):
            evs.mcast_groups(other, AGREED, LOW, KEY1, b"%d" % number)
    assert messages(log, handle, 500) == [b"%d" % number for number in range(500)]

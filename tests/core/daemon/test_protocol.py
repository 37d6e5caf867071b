"""The fast paths say what the declarations say, and noise is an error of one kind."""

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from vsync.daemon import frames, protocol
from vsync.daemon.frames import EventFrames
from vsync.daemon.protocol import CAUSES, DECLARATIONS, ERRORS, FrameReader, Type
from vsync.engine.runs import Run
from vsync.errors import DaemonError, MessageTooLarge, PluginNotFound, Undelivered, VsyncError
from vsync.events import ConfigurationChanged, Delivery, Envelope, Event, GroupChanged, Move
from vsync.vocabulary import (
    Cause,
    Configuration,
    GroupKey,
    Guarantee,
    Kind,
    Member,
    NodeId,
    Priority,
    SlowPolicy,
)

KEYS = some.binary(min_size=32, max_size=32).map(GroupKey)
GROUPS = some.lists(KEYS, min_size=1, max_size=50)
GUARANTEES = some.sampled_from(Guarantee)
PRIORITIES = some.sampled_from(Priority)
NUMBERS = some.integers(0, 2**32 - 1)
NODES = some.integers(1, 2**32 - 1).map(NodeId)
COUNTERS = some.integers(0, 2**63 - 1)
MEMBERS = some.builds(Member, NODES, NUMBERS)
MOVES = some.lists(some.builds(Move, MEMBERS, some.sampled_from(Cause)), max_size=5).map(tuple)
CONFIGURATION = Configuration(id="4.1", kind=Kind.REGULAR, members=(NodeId(1),))
ENVELOPE = Envelope(
    NodeId(1), 0, 1, Priority.MEDIUM, Guarantee.AGREED, (GroupKey(bytes(32)),), CONFIGURATION
)


def body_of(frame: bytes, kind: Type) -> bytes:
    """The body of *frame*, which is whole and of that type."""
    ((found, body),) = FrameReader(2**20).feed(frame)
    assert found == kind
    return bytes(body)


def frame_of(event: Event | Run) -> bytes:
    """The frame that tells of *event*, in one piece."""
    return b"".join(frames.parts_of(event))


def fields_of(member: Member) -> dict[str, int]:
    return {"node": member.node, "session": member.session}


def test_every_type_has_a_declaration() -> None:
    assert set(DECLARATIONS) == set(Type)


@given(NUMBERS, GROUPS, some.lists(some.binary(max_size=50), min_size=1), GUARANTEES, PRIORITIES)
def test_a_send_is_as_declared(
    number: int,
    groups: list[GroupKey],
    payloads: list[bytes],
    guarantee: Guarantee,
    priority: Priority,
) -> None:
    fast = frames.send_frame(number, groups, payloads, guarantee, priority)
    declared = protocol.build(
        Type.SEND,
        number=number,
        guarantee=guarantee,
        priority=priority,
        groups=[group.key for group in groups],
        lengths=list(map(len, payloads)),
        payloads=b"".join(payloads),
    )
    assert fast == declared
    send = frames.parse_send(body_of(fast, Type.SEND))
    assert send == (number, tuple(groups), payloads, guarantee, priority)


@given(NUMBERS, COUNTERS, NUMBERS)
def test_an_acceptance_is_as_declared(number: int, first: int, count: int) -> None:
    fast = frames.accepted_frame(number, first, count)
    assert fast == protocol.build(Type.ACCEPTED, number=number, first=first, count=count)
    assert frames.parse_accepted(body_of(fast, Type.ACCEPTED)) == (number, first, count)


@given(NUMBERS)
def test_what_was_taken_is_as_declared(size: int) -> None:
    fast = frames.taken_frame(size)
    assert fast == protocol.build(Type.TAKEN, bytes=size)
    assert frames.parse_taken(body_of(fast, Type.TAKEN)) == size


ENVELOPES = some.builds(
    Envelope,
    NODES,
    NUMBERS,
    COUNTERS,
    PRIORITIES,
    GUARANTEES,
    GROUPS.map(tuple),
    some.just(CONFIGURATION),
)
PAYLOADS = some.lists(some.binary(max_size=100), min_size=1, max_size=9) | some.builds(
    lambda payload, count: [payload] * count,
    some.sampled_from([0, 1, 3000]).map(bytes),
    some.integers(1, 9),
)


@given(ENVELOPES, some.integers(0, 2**63), PAYLOADS, some.none() | some.binary(max_size=9))
def test_a_run_of_deliveries_is_as_declared(
    envelope: Envelope, counter: int, payloads: list[bytes], head: bytes | None
) -> None:
    """With a *head*, the messages stand in a frame of the ring; else each is by itself."""
    if head is None:
        run = Run(envelope, counter, payloads)
    else:
        ring_frame = b"before" + b"".join(head + payload for payload in payloads) + b"after"
        lengths = [len(head) + len(payload) for payload in payloads]
        run = Run.in_frame(envelope, counter, ring_frame, 6, len(head), lengths)
    expected = [Delivery(envelope, counter + place, each) for place, each in enumerate(payloads)]
    assert run.deliveries == expected
    assert run.payload_bytes == sum(map(len, payloads))
    head = head or b""
    fast = frame_of(run)
    declared = protocol.build(
        Type.DELIVERIES,
        **fields_of(Member(envelope.node, envelope.session)),
        life=envelope.life,
        priority=envelope.priority,
        guarantee=envelope.guarantee,
        groups=[group.key for group in envelope.groups],
        counter=counter,
        head_bytes=len(head),
        lengths=[len(head) + len(payload) for payload in payloads],
        messages=b"".join(head + payload for payload in payloads),
    )
    assert fast == declared
    read, *others = frames.parse_deliveries(body_of(fast, Type.DELIVERIES), CONFIGURATION)
    assert [read, *others] == expected
    assert (type(read.guarantee), type(read.message.priority)) == (Guarantee, Priority)


@given(KEYS, some.lists(MEMBERS).map(tuple), MOVES, MOVES, some.booleans())
def test_a_view_is_as_declared(
    group: GroupKey,
    members: tuple[Member, ...],
    joined: tuple[Move, ...],
    left: tuple[Move, ...],
    closed: bool,
) -> None:
    view = GroupChanged(group, members, joined, left, closed, CONFIGURATION)
    fast = frame_of(view)

    def declared(moves: tuple[Move, ...]) -> list[dict[str, int]]:
        return [{**fields_of(who), "cause": CAUSES.index(cause)} for who, cause in moves]

    assert fast == protocol.build(
        Type.VIEW,
        group=group.key,
        closed=closed,
        members=list(map(fields_of, members)),
        joined=declared(joined),
        left=declared(left),
    )
    assert frames.parse_view(body_of(fast, Type.VIEW), CONFIGURATION) == view


@given(
    some.text(min_size=1),
    some.sampled_from(Kind),
    some.lists(NODES, min_size=1),
    some.lists(NODES),
    some.lists(NODES),
    some.none() | some.text(min_size=1),
    some.none() | some.booleans(),
    some.text(),
)
def test_a_configuration_comes_through_whole(
    id: str,
    kind: Kind,
    members: list[NodeId],
    joined: list[NodeId],
    left: list[NodeId],
    next: str | None,
    primary: bool | None,
    reason: str,
) -> None:
    configuration = Configuration(
        id=id,
        kind=kind,
        members=tuple(members),
        joined=tuple(joined),
        left=tuple(left),
        next=next,
    )
    event = ConfigurationChanged(configuration, primary, reason)
    body = body_of(frame_of(event), Type.CONFIGURATION)
    assert frames.parse_configuration(body) == event


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_comes_through_as_what_it_is(kind: type[VsyncError]) -> None:
    error: VsyncError
    match kind.__name__:
        case "MessageTooLarge":
            error = MessageTooLarge(10, 5)
        case "Undelivered":
            error = Undelivered(7)
        case _:
            error = kind("it was not to be")
    body = body_of(
        protocol.build(Type.REFUSED, number=9, failure=protocol.failure_fields(error)),
        Type.REFUSED,
    )
    found = protocol.failure(protocol.parse(Type.REFUSED, body).failure)
    assert type(found) is kind
    assert (str(found), vars(found)) == (str(error), vars(error))


def test_an_error_that_does_not_cross_comes_as_what_it_is_a_kind_of() -> None:
    fields = protocol.failure_fields(PluginNotFound("not so"))
    body = protocol.END.build({"failure": fields})
    assert type(protocol.failure(protocol.parse(Type.END, body).failure)) is VsyncError


@pytest.mark.parametrize(
    "body",
    [b"\xff\0text", b"\4\0text", b"\4\1" + bytes(8) + b"text", b"\x08\0text"],
    ids=["an unknown kind", "no numbers", "too few numbers", "no number"],
)
def test_an_error_that_makes_no_sense_is_a_daemons_error(body: bytes) -> None:
    error = protocol.failure(protocol.parse(Type.END, body).failure)
    assert type(error) is DaemonError
    assert str(error) == "text"


PARSERS: dict[str, Callable[[bytes], Any]] = {
    "send": frames.parse_send,
    "accepted": frames.parse_accepted,
    "taken": frames.parse_taken,
    "deliveries": partial(frames.parse_deliveries, configuration=CONFIGURATION),
    "view": partial(frames.parse_view, configuration=CONFIGURATION),
    "configuration": frames.parse_configuration,
    "greeting": protocol.parse_protocol,
    **{f"declared {kind.name}": partial(protocol.parse, kind) for kind in Type},
}


@pytest.mark.parametrize("parser", PARSERS)
@given(body=some.binary(max_size=300))
def test_noise_is_an_error_of_one_kind(parser: str, body: bytes) -> None:
    try:
        PARSERS[parser](body)
    except DaemonError as error:
        assert str(error)


@given(some.binary(max_size=40), some.data())
def test_a_cut_send_is_refused(payload: bytes, data: some.DataObject) -> None:
    whole = frames.send_frame(
        1, [GroupKey(bytes(32))], [payload, b"y"], Guarantee.SAFE, Priority.LOW
    )
    body = whole[5 : data.draw(some.integers(5, len(whole) - 1))]
    with pytest.raises(DaemonError):
        frames.parse_send(body)


@given(some.data())
def test_cut_deliveries_are_refused(data: some.DataObject) -> None:
    whole = frame_of(Run(ENVELOPE, 1, [bytes(10), bytes(5)]))
    body = whole[5 : data.draw(some.integers(5, len(whole) - 1))]
    for wrong in (body, whole[5:] + b"x"):
        with pytest.raises(DaemonError):
            frames.parse_deliveries(wrong, CONFIGURATION)


def test_messages_shorter_than_their_heads_are_refused() -> None:
    run = Run.in_frame(ENVELOPE, 1, b"head and more", 0, 4, [4, 9])
    body = bytearray(body_of(frame_of(run), Type.DELIVERIES))
    place = body.index(struct.pack(">HI", 4, 2))
    body[place : place + 2] = struct.pack(">H", 5)
    with pytest.raises(DaemonError, match="shorter than their heads"):
        frames.parse_deliveries(bytes(body), CONFIGURATION)


@given(some.data())
def test_a_cut_view_is_refused(data: some.DataObject) -> None:
    who = Member(NodeId(1), 2)
    view = GroupChanged(
        GroupKey(bytes(32)),
        (who, who),
        (Move(who, Cause.JOINED),),
        (Move(who, Cause.DIED),),
        False,
        CONFIGURATION,
    )
    whole = frame_of(view)
    body = whole[5 : data.draw(some.integers(5, len(whole) - 1))]
    with pytest.raises(DaemonError):
        frames.parse_view(body, CONFIGURATION)
    with pytest.raises(DaemonError, match="too long"):
        frames.parse_view(whole[5:] + b"x", CONFIGURATION)


def test_a_count_of_messages_that_cannot_be_is_refused_at_once() -> None:
    body = b"\0\0\0\1\2\2\1" + bytes(32) + struct.pack(">I", 2**32 - 1) + bytes(1000)
    with pytest.raises(DaemonError, match="announces 4294967295 messages"):
        frames.parse_send(body)


def test_a_count_of_members_that_cannot_be_is_refused_at_once() -> None:
    body = bytes(33) + struct.pack(">I", 2**32 - 1) + bytes(1000)
    with pytest.raises(DaemonError, match="announces 4294967295 members"):
        frames.parse_view(body, CONFIGURATION)


def test_the_numbers_of_words_never_change() -> None:
    assert [(policy.value, place) for place, policy in enumerate(protocol.SLOW_POLICIES)] == [
        ("block", 0),
        ("evict", 1),
        ("spill", 2),
    ]
    assert [cause.value for cause in CAUSES] == [
        "joined",
        "merged in",
        "left",
        "process died",
        "evicted",
        "node gone",
    ]
    assert len(SlowPolicy) == len(protocol.SLOW_POLICIES)


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_frames_are_found_in_whatever_pieces_they_come(piece: int) -> None:
    stream = b"".join(protocol.frame(Type.SEND, bytes(size)) for size in (0, 1, 5, 200))
    reader = FrameReader(1000)
    found = [
        len(body)
        for start in range(0, len(stream), piece)
        for _, body in reader.feed(stream[start : start + piece])
    ]
    assert found == [0, 1, 5, 200]


@given(some.lists(some.binary(max_size=30)), some.lists(some.integers(1, 20), min_size=1))
def test_frames_come_whole_however_the_stream_is_cut(
    bodies: list[bytes], pieces: list[int]
) -> None:
    stream = b"".join(protocol.frame(Type.SEND, body) for body in bodies)
    reader = FrameReader(100)
    found: list[memoryview] = []
    while stream:
        piece = pieces[len(stream) % len(pieces)]
        found += [body for _, body in reader.feed(stream[:piece])]
        stream = stream[piece:]
    assert found == bodies


def test_an_impossible_length_is_found_before_the_frame_is_there() -> None:
    reader = FrameReader(100)
    ((kind, body),) = reader.feed(protocol.frame(Type.STATUS) + b"\xff\xff")
    assert (kind, bytes(body)) == (Type.STATUS, b"")
    with pytest.raises(DaemonError, match="announces a frame of 4294967295 bytes"):
        list(reader.feed(b"\xff\xff"))


def test_a_reader_goes_on_after_an_iteration_that_was_not_finished() -> None:
    reader = FrameReader(100)
    stream = protocol.frame(Type.STATUS) * 3
    for _ in reader.feed(stream):
        break
    assert len(list(reader.feed(b""))) == 2


def test_only_the_frame_that_was_cut_is_put_together() -> None:
    stream = b"".join(protocol.frame(Type.SEND, bytes(size)) for size in (10, 20, 30))
    reader = FrameReader(100)
    assert not list(reader.feed(stream[:8]))
    rest = stream[8:]
    bodies = [body for _, body in reader.feed(rest)]
    assert list(map(len, bodies)) == [10, 20, 30]
    assert [body.obj is rest for body in bodies] == [False, True, True]


def test_a_run_for_several_clients_is_made_into_a_frame_once() -> None:
    shared = EventFrames()
    shared.joined()
    run, other = (Run(ENVELOPE, number, [b"a", b"b"]) for number in (1, 3))
    assert shared.of(run) is not shared.of(run)  # for one, nothing is kept
    shared.joined()
    first = shared.of(run)
    assert b"".join(first) == frame_of(run)
    assert shared.of(other) != first
    assert shared.of(run) is first


def test_what_is_shared_is_bounded_and_is_forgotten_with_the_last_but_one_client() -> None:
    shared = EventFrames()
    shared.joined()
    shared.joined()
    size = frames.CACHED_BYTES // 10
    for number in range(100):
        run = Run(ENVELOPE, number, [bytes(size)])
        assert b"".join(shared.of(run)) == frame_of(run)
        kept = sum(
            sum(map(len, parts)) for _, parts in (*shared._young.values(), *shared._old.values())
        )
        assert kept < 2 * frames.CACHED_BYTES + 4 * size
    shared.left()
    assert not shared._young
    assert not shared._old

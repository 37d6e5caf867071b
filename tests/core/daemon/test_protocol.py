"""The fast paths say what the declarations say, and noise is an error of one kind."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as some

from vsync import (
    Configuration,
    ConfigurationChanged,
    DaemonError,
    Delivery,
    GroupKey,
    Guarantee,
    Kind,
    MessageId,
    NodeId,
    Priority,
)
from vsync.daemon import protocol
from vsync.daemon.protocol import FrameReader, Type

GROUPS = some.lists(some.binary(min_size=32, max_size=32).map(GroupKey), min_size=1, max_size=50)
GUARANTEES = some.sampled_from(Guarantee)
PRIORITIES = some.sampled_from(Priority)
NODES = some.integers(1, 2**32 - 1).map(NodeId)
COUNTERS = some.integers(0, 2**63 - 1)
CONFIGURATION = Configuration(id="4.1", kind=Kind.REGULAR, members=(NodeId(1),))


def body_of(frame: bytes, kind: Type) -> bytes:
    """The body of *frame*, which is whole and of that type."""
    ((found, body),) = FrameReader(2**20).feed(frame)
    assert found == kind
    return body


@given(GROUPS, some.lists(some.binary(max_size=50), min_size=1), GUARANTEES, PRIORITIES)
def test_a_send_is_as_declared(
    groups: list[GroupKey], payloads: list[bytes], guarantee: Guarantee, priority: Priority
) -> None:
    fast = protocol.send_frame(groups, payloads, guarantee, priority)
    declared = protocol.build(
        Type.SEND,
        protocol.SEND,
        guarantee=guarantee,
        priority=priority,
        groups=[group.key for group in groups],
        lengths=list(map(len, payloads)),
        payloads=b"".join(payloads),
    )
    assert fast == declared
    send = protocol.parse_send(body_of(fast, Type.SEND))
    assert send == (tuple(groups), payloads, guarantee, priority)


@given(PRIORITIES, COUNTERS, some.integers(0, 2**32 - 1))
def test_an_acceptance_is_as_declared(priority: Priority, first: int, count: int) -> None:
    fast = protocol.accepted_frame(priority, first, count)
    assert fast == protocol.build(
        Type.ACCEPTED, protocol.ACCEPTED, priority=priority, first=first, count=count
    )
    assert protocol.parse_accepted(body_of(fast, Type.ACCEPTED)) == (first, count)


@given(NODES, COUNTERS, PRIORITIES, COUNTERS, GUARANTEES, GROUPS, some.binary(max_size=100))
def test_a_delivery_is_as_declared(
    node: NodeId,
    life: int,
    priority: Priority,
    counter: int,
    guarantee: Guarantee,
    groups: list[GroupKey],
    payload: bytes,
) -> None:
    delivery = Delivery(
        MessageId(node, life, priority, counter), tuple(groups), payload, guarantee, CONFIGURATION
    )
    body = body_of(protocol.event_frame(delivery), Type.DELIVERY)
    assert body == protocol.DELIVERY.build(
        {
            "sender": node,
            "life": life,
            "priority": priority,
            "counter": counter,
            "guarantee": guarantee,
            "groups": [group.key for group in groups],
            "payload": payload,
        }
    )
    assert protocol.parse_delivery(body, CONFIGURATION) == delivery


@given(
    some.text(min_size=1),
    some.sampled_from(Kind),
    some.lists(NODES, min_size=1),
    some.lists(NODES),
    some.lists(NODES),
    some.none() | some.text(min_size=1),
)
def test_a_configuration_comes_through_whole(
    id: str,
    kind: Kind,
    members: list[NodeId],
    joined: list[NodeId],
    left: list[NodeId],
    next: str | None,
) -> None:
    configuration = Configuration(
        id=id,
        kind=kind,
        members=tuple(members),
        joined=tuple(joined),
        left=tuple(left),
        next=next,
    )
    frame = protocol.event_frame(ConfigurationChanged(configuration))
    assert protocol.parse_configuration(body_of(frame, Type.CONFIGURATION)) == configuration


PARSERS = {
    "send": protocol.parse_send,
    "accepted": protocol.parse_accepted,
    "delivery": lambda body: protocol.parse_delivery(body, CONFIGURATION),
    "configuration": protocol.parse_configuration,
    "hello": lambda body: protocol.parse(protocol.HELLO, body),
    "welcome": lambda body: protocol.parse(protocol.WELCOME, body),
    "groups": lambda body: protocol.parse(protocol.GROUPS, body),
    "error": lambda body: protocol.parse(protocol.ERROR, body),
}


@pytest.mark.parametrize("parser", PARSERS)
@given(body=some.binary(max_size=300))
def test_noise_is_an_error_of_one_kind(parser: str, body: bytes) -> None:
    try:
        PARSERS[parser](body)  # type: ignore[no-untyped-call]
    except DaemonError as error:
        assert str(error)


@given(some.binary(max_size=40), some.data())
def test_a_cut_send_is_refused(payload: bytes, data: some.DataObject) -> None:
    whole = protocol.send_frame(
        [GroupKey(bytes(32))], [payload, b"y"], Guarantee.SAFE, Priority.LOW
    )
    body = whole[5 : data.draw(some.integers(5, len(whole) - 1))]
    with pytest.raises(DaemonError):
        protocol.parse_send(body)


def test_a_count_of_messages_that_cannot_be_is_refused_at_once() -> None:
    body = b"\2\2\1" + bytes(32) + struct.pack(">I", 2**32 - 1) + bytes(1000)
    with pytest.raises(DaemonError, match="announces 4294967295 messages"):
        protocol.parse_send(body)


def test_a_reader_goes_on_after_an_iteration_that_was_not_finished() -> None:
    reader = FrameReader(100)
    frames = protocol.frame(Type.STATUS) * 3
    for _ in reader.feed(frames):
        break
    assert len(list(reader.feed(b""))) == 2

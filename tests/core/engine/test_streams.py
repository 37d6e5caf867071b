"""What one sender's frames become, whatever order they come in."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.core.engine.logs import GROUP, REGULAR, RING, Sender, payloads
from vsync.engine.runs import Run
from vsync.engine.streams import Control, ControlReader, Ordered, Reader, Stream, stream_key
from vsync.vocabulary import Cause, GroupKey, Guarantee, Member, MessageId, NodeId, Priority
from vsync.wire import CONTROL_LANE, Codec, Data, LeaveGroups, build_control, network_of
from vsync.wire.data import flags_of, parse_data

UNORDERED, FIFO, AGREED, _ = Guarantee
LONG = b"a message of several frames" * 9


def arrive(stream: Stream, frames: Sequence[Data]) -> list[bytes]:
    out: list[Ordered] = []
    for frame in frames:
        stream.arrived(frame, REGULAR, out)
    return payloads(out)


def raw(piece: bytes) -> Data:
    """A frame of one message of those bytes, which need not make sense."""
    codec = Codec(network_of("test"), NodeId(1), 101)
    flags = flags_of(UNORDERED, Priority.MEDIUM, continues=False, unfinished=False)
    return codec.data(RING, 1, 0, 0, flags, [piece])


@given(st.permutations(range(5)))
def test_an_unordered_message_comes_with_its_last_frame(order: list[int]) -> None:
    one, stream = Sender(1), Stream(Reader(1000))
    frames = [*one.cut([1, 2, 3], UNORDERED, LONG), *one.cut([4, 5], UNORDERED, b"b" * 40)]
    last = max(order.index(place) for place in (0, 1, 2))
    for turn, place in enumerate(order):
        assert (LONG in arrive(stream, [frames[place]])) == (turn == last)
    assert not stream.cut
    assert not stream.waiting


@given(st.permutations(range(7)), st.integers(0, 6))
def test_fifo_messages_come_up_to_the_first_gap(order: list[int], lost: int) -> None:
    one, stream = Sender(1), Stream(Reader(1000))
    frames = [one.frame(seq, FIFO, b"%d" % seq) for seq in range(7)]
    got = arrive(stream, [frames[place] for place in order if place != lost])
    assert got == [b"%d" % seq for seq in range(lost)]


@given(st.permutations(range(6)))
def test_unordered_frames_between_do_not_disturb_the_order_of_fifo(order: list[int]) -> None:
    one, stream = Sender(1), Stream(Reader(1000))
    guarantees = (FIFO, UNORDERED, FIFO, UNORDERED, UNORDERED, FIFO)
    frames = [one.frame(seq, guarantee, b"%d" % seq) for seq, guarantee in enumerate(guarantees)]
    got = arrive(stream, [frames[place] for place in order])
    assert [payload for payload in got if payload in {b"0", b"2", b"5"}] == [b"0", b"2", b"5"]
    assert sorted(got) == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_a_fifo_message_waits_for_an_agreed_one_of_its_sender() -> None:
    one, stream = Sender(1), Stream(Reader(1000))
    agreed, fifo = one.frame(1, AGREED, b"agreed"), one.frame(2, FIFO, b"fifo")
    assert arrive(stream, [fifo]) == []
    out: list[Ordered] = []
    stream.ordered(agreed, REGULAR, out)
    assert payloads(out) == [b"agreed", b"fifo"]


def test_short_pieces_of_a_cut_message_hold_nothing_of_what_they_came_in() -> None:
    """A byte could hold 64 kB, for as long as its message has no end."""
    stream, out = Stream(Reader(1000)), list[Ordered]()
    *begin, end = Sender(1).cut([1, 2, 3, 4], AGREED, LONG)
    for sent in begin:
        came = bytearray(sent.content)
        place = (sent.sender, sent.life, sent.ring, sent.seq)
        stream.ordered(parse_data(*place, memoryview(came), 0, ()), REGULAR, out)
        came.clear()  # an error as long as there is a view of it
    stream.ordered(end, REGULAR, out)
    assert payloads(out) == [LONG]


def test_a_message_whose_beginning_is_lost_is_lost() -> None:
    one, reader = Sender(1), Reader(1000)
    stream = Stream(reader)
    frames = one.cut([1, 2], AGREED, LONG)
    out: list[Ordered] = []
    stream.ordered(frames[1], REGULAR, out)
    stream.ordered(one.frame(3, AGREED, b"next"), REGULAR, out)
    assert payloads(out) == [b"next"]
    assert reader.malformed == 0  # its rest was not even read


def test_a_message_over_the_limit_is_counted_and_keeps_nothing() -> None:
    for guarantee in (UNORDERED, FIFO):
        one, reader = Sender(1), Reader(len(LONG))  # its head makes it too long
        stream = Stream(reader)
        assert arrive(stream, one.cut([1, 2, 3, 4], guarantee, LONG)) == []
        assert reader.malformed == 1
        assert not stream.begun
        assert not stream.cut
        assert arrive(stream, [one.frame(5, guarantee, b"next")]) == [b"next"]


def test_message_bytes_that_make_no_sense_are_counted() -> None:
    reader = Reader(1000)
    for piece in (b"\0", b"\0payload", b"\1short", b"\xff" + bytes(300)):
        assert arrive(Stream(reader), [raw(piece)]) == []
    assert reader.malformed == 4


@given(st.binary(min_size=1, max_size=200))
def test_any_message_bytes_are_delivered_or_counted(piece: bytes) -> None:
    reader = Reader(1000)
    assert len(arrive(Stream(reader), [raw(piece)])) == 1 - reader.malformed


def test_a_delivery_tells_sender_priority_groups_and_counter() -> None:
    one, stream = Sender(1, Priority.LOW), Stream(Reader(1000))
    out: list[Ordered] = []
    stream.arrived(one.frame(1, FIFO, b"a", b"b"), REGULAR, out)
    (run,) = out
    assert isinstance(run, Run)
    assert run.payload_bytes == 2
    first, last = run.deliveries
    assert first.envelope is last.envelope is run.envelope
    assert (first.message.counter, last.message.counter) == (0, 1)
    assert last.message == MessageId(NodeId(1), 101, Priority.LOW, 1)
    assert (last.groups, last.guarantee, last.configuration) == ((GROUP,), FIFO, REGULAR)
    assert last.sender == Member(NodeId(1), 1)


def control_frame(piece: bytes) -> Data:
    """A control frame of one message of those bytes, which need not make sense."""
    codec = Codec(network_of("test"), NodeId(1), 101)
    flags = flags_of(Guarantee.AGREED, CONTROL_LANE, continues=False, unfinished=False)
    return codec.data(RING, 1, 0, 0, flags, [piece])


def test_a_control_frame_brings_what_the_ring_says_to_itself() -> None:
    message = LeaveGroups(7, Cause.DIED, (GROUP,))
    reader, out = ControlReader(), list[Ordered]()
    Stream(reader).ordered(control_frame(build_control(message)), REGULAR, out)
    assert out == [Control(NodeId(1), message)]
    assert reader.news


def test_a_control_message_that_was_cut_is_put_together() -> None:
    groups = tuple(GroupKey(bytes([number]) * 32) for number in range(40))
    message = LeaveGroups(7, Cause.DIED, groups)
    data = build_control(message)
    codec = Codec(network_of("test"), NodeId(1), 101)
    reader, out = ControlReader(), list[Ordered]()
    stream = Stream(reader)
    for index, piece in enumerate((data[:500], data[500:900], data[900:])):
        flags = flags_of(Guarantee.AGREED, CONTROL_LANE, continues=index > 0, unfinished=index < 2)
        stream.ordered(codec.data(RING, 1 + index, index, 0, flags, [piece]), REGULAR, out)
    assert out == [Control(NodeId(1), message)]
    assert reader.news


def test_a_control_message_that_makes_no_sense_is_counted() -> None:
    reader, out = ControlReader(), list[Ordered]()
    Stream(reader).ordered(control_frame(b"nonsense"), REGULAR, out)
    assert (out, reader.malformed, reader.news) == ([], 1, False)


def test_every_sender_and_priority_has_a_stream_of_its_own() -> None:
    lanes = [*Priority, CONTROL_LANE]
    keys = {stream_key(node, lane) for node in (1, 2, 2**32 - 1) for lane in lanes}
    assert len(keys) == 15

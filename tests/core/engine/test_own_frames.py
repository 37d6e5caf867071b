"""A node delivers its own messages without reading its frames; the others read them."""

from hypothesis import given
from hypothesis import strategies as st

from tests.core.engine.logs import REGULAR, RING, new_log
from vsync.engine.log import Log
from vsync.engine.packing import Packer
from vsync.engine.runs import Run
from vsync.engine.streams import Control, Ordered
from vsync.events import Delivery
from vsync.vocabulary import Cause, GroupKey, Guarantee, NodeId, Priority
from vsync.wire import Codec, Data, LeaveGroups, build_control, network_of

ME, OTHER, LIFE = NodeId(1), NodeId(2), 101
CONTROL = LeaveGroups(3, Cause.LEFT, (GroupKey.from_name("a"),))

groups = st.sets(st.sampled_from([GroupKey.from_name(name) for name in "abc"]), min_size=1)
payloads = st.one_of(
    st.lists(st.binary(max_size=200), max_size=12),
    st.tuples(st.binary(max_size=90), st.integers(1, 40)).map(lambda given: [given[0]] * given[1]),
    st.integers(0, 12_000).map(lambda size: [bytes(range(256)) * (size // 256 + 1)]),
)
submissions = st.tuples(
    st.integers(1, 3),
    groups.map(lambda keys: tuple(sorted(keys, key=lambda each: each.key))),
    payloads,
    st.sampled_from(Guarantee),
    st.sampled_from(Priority),
)
steps = st.lists(st.one_of(submissions, st.integers(1, 64), st.just("control")), max_size=12)


def flat(ordered: list[Ordered]) -> list[Delivery | Control]:
    """Deliveries one by one; the runs that they came in tell the truth about them."""
    events: list[Delivery | Control] = []
    for each in ordered:
        if isinstance(each, Run):
            assert each.deliveries
            assert all(delivery.envelope is each.envelope for delivery in each.deliveries)
            assert each.payload_bytes == sum(len(each.payload) for each in each.deliveries)
            events += each.deliveries
        else:
            events.append(each)
    return events


def received(frames: list[Data]) -> Log:
    """The log of a node to which *frames* came as packets."""
    codec, log = Codec(network_of("test"), OTHER, 1), new_log()
    for frame in frames:
        for packet in frame.packets:
            part = codec.decode_part(bytes(packet))
            packets = log.add_part(part)
            if packets is not None:
                log.add(codec.assemble(part, packets))
    return log


@given(st.sampled_from([200, 576, 1472]), steps)
def test_both_deliver_the_same(packet_bytes: int, script: list[object]) -> None:
    codec = Codec(network_of("test"), ME, LIFE, packet_bytes)
    packer, own = Packer(codec.part_bytes, codec.parts_max), new_log()
    frames: list[Data] = []

    def take(parts_max: int) -> bool:
        packed = packer.take(parts_max)
        if packed is not None:
            frames.append(codec.data(RING, len(frames) + 1, *packed[:-1]))
            own.add(frames[-1])
        return packed is not None

    for step in script:
        if step == "control":
            packer.submit_control(build_control(CONTROL))
        elif isinstance(step, int):
            take(step)
        elif isinstance(step, tuple):
            packer.submit(*step)
    while take(64):
        pass
    other = received(frames)
    for log in (own, other):
        log.settle(len(frames))
    assert flat(own.deliver(REGULAR)) == flat(other.deliver(REGULAR))
    for frame, again in zip(frames, other.held_above(0), strict=True):
        assert frame.content == again.content  # what recovery sends on

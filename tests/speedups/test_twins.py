"""The compiled modules are in use, and give what the pure ones give, whatever they are given."""

import gc
import importlib
import json
import os
import platform
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable
from functools import cache, partial
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.speedups.pure import PACKAGE, SEALS, TWINS, compiled, pure
from vsync.engine.runs import Run
from vsync.errors import MalformedPacket
from vsync.events import Delivery, Envelope
from vsync.testing.simulate import simulate
from vsync.train import Train
from vsync.vocabulary import (
    Cause,
    Configuration,
    GroupKey,
    Guarantee,
    Kind,
    NodeId,
    Priority,
    RingId,
)
from vsync.wire.group import LeaveGroups, build_control

RING = RingId(5, NodeId(1))
CONFIGURATION = Configuration(id="5.1", kind=Kind.REGULAR, members=(NodeId(1), NodeId(2)))
NETWORK = 7
SENDER, LIFE = NodeId(2), 9
MESSAGE_BYTES_MAX = 4096

guarantees = st.sampled_from(Guarantee)
groups = st.lists(st.sampled_from([GroupKey.from_name(name) for name in "abc"]), min_size=1).map(
    lambda keys: keys[:3]
)
payloads = st.one_of(
    st.lists(st.binary(max_size=300), max_size=12),
    st.tuples(st.binary(max_size=90), st.integers(1, 40)).map(lambda given: [given[0]] * given[1]),
    st.binary(max_size=6).map(lambda start: [start * 700]),
)
submissions = st.tuples(groups, payloads, guarantees, st.sampled_from(Priority))
steps = st.lists(
    st.one_of(submissions, st.integers(1, 64), st.just("control"), st.just("restart")), max_size=12
)
packet_bytes = st.sampled_from([200, 576, 1472])


def test_every_twin_is_loaded_from_the_package() -> None:
    assert len(TWINS) > 15
    for name, file in TWINS.items():
        module = importlib.import_module(name)
        assert module.__file__ is not None
        assert module.__name__ == name
        assert module.__spec__ is not None
        assert module.__spec__.origin == str(PACKAGE / file)
        assert (PACKAGE / file).is_file()


def test_the_pure_ones_are_not() -> None:
    for module in vars(pure()).values():
        assert module.__file__.endswith(".py")
    assert pure().data.Data is not compiled().data.Data


def facts(frame: Any) -> Any:
    """What there is to compare of a frame, or of a part."""
    if hasattr(frame, "inner"):
        return (frame.ring, frame.seq, facts(frame.inner), list(map(bytes, frame.packets)))
    if isinstance(frame, tuple):  # a part
        return (*frame[:-1], list(map(bytes, frame[-1])))
    return (
        *(frame.sender, frame.life, frame.ring, frame.seq, frame.index, frame.counter, frame.lane),
        *(frame.guarantee, frame.continues, frame.unfinished, frame.lengths, frame.content),
        list(map(bytes, frame.packets)),
    )


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, or how it refuses."""
    try:
        given = function(*arguments)
    except MalformedPacket as error:
        return (error.reason, str(error))
    return given if given is None else facts(given)


def run(modules: Any, size: int, script: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Frames that are made as *script* says, and all that the packer told on the way."""
    codec = modules.codec.Codec(NETWORK, SENDER, LIFE, size)
    packer = modules.packing.Packer(codec.part_bytes, codec.parts_max)
    frames: list[Any] = []
    told: list[Any] = []

    def take(parts_max: int) -> bool:
        packed = packer.take(parts_max)
        told.append(packed and (*packed[:3], list(map(bytes, packed.pieces)), *packed[4:]))
        if packed is not None:
            frames.append(codec.data(RING, len(frames) + 1, *packed[:-1]))
        return packed is not None

    for step in script:
        if step == "control":
            packer.submit_control(
                build_control(LeaveGroups(3, Cause.LEFT, (GroupKey.from_name("a"),)))
            )
        elif step == "restart":
            packer.restart()
            frames.clear()
        elif isinstance(step, int):
            take(step)
        else:
            told.append(packer.submit(4, *step))
        told.append((packer.pending_bytes, packer.pending_messages, packer.backlog_packets))
    while take(64):
        pass
    return frames, told


def delivered(
    modules: Any, frames: list[Any], order: list[int], stable: int, *, in_trains: bool
) -> list[Any]:
    """What a log makes of the *frames*, which come in that *order*, and what it says of itself."""
    reader = modules.streams.Reader(MESSAGE_BYTES_MAX)
    control = modules.streams.ControlReader()
    log = modules.log.Log(RING, reader, control)
    codec = modules.codec.Codec(NETWORK, NodeId(3), 1)
    told: list[Any] = []
    for place in order:
        sent = frames[place % len(frames)].packets
        if in_trains and len(sent) > 1:
            train = Train(b"".join(sent), len(sent[0]))
            parts = [codec.decode_train(train)]
        else:
            parts = [codec.decode_part(bytes(packet)) for packet in sent]
        for part in parts:
            packets = log.add_part(part)
            if packets is not None:
                told.append(log.add(codec.assemble(part, packets)))
        log.settle(stable)
        told += map(plain, log.deliver(CONFIGURATION))
        log.release()
        told.append((log.aru, log.high, log.delivered, log.released, log.held_packets))
        told.append(log.missing(log.high, 10))
    told += map(plain, log.deliver_rest(CONFIGURATION, stable))
    told += map(plain, log.deliver_transitional(CONFIGURATION, {SENDER}))
    return [*told, reader.malformed, control.malformed, control.news]


def plain(ordered: Any) -> tuple[Any, ...]:
    """What can be compared of what was delivered."""
    if type(ordered).__name__ == Run.__name__:  # that of the pure modules is another class
        return ordered.envelope, ordered.deliveries, ordered.payload_bytes, bytes(ordered.content)
    return tuple(ordered)


def own(modules: Any, frames: list[Any]) -> list[Any]:
    """What the node that made *frames* delivers of them."""
    reader, control = modules.streams.Reader(MESSAGE_BYTES_MAX), modules.streams.ControlReader()
    log = modules.log.Log(RING, reader, control)
    told = [log.add(frame) for frame in frames]
    log.settle(len(frames))
    return [*told, *map(plain, log.deliver(CONFIGURATION))]


@given(packet_bytes, steps, st.data())
def test_messages_become_the_same_frames_and_these_the_same_deliveries(
    size: int, script: list[Any], data: st.DataObject
) -> None:
    frames, told = run(compiled(), size, script)
    pure_frames, pure_told = run(pure(), size, script)
    assert told == pure_told
    assert list(map(facts, frames)) == list(map(facts, pure_frames))
    assert own(compiled(), frames) == own(pure(), pure_frames)
    if frames:
        order = data.draw(
            st.one_of(
                st.just(list(range(len(frames)))),
                st.permutations(range(len(frames))),
                st.lists(st.integers(0, len(frames) - 1), max_size=20),
            )
        )
        stable = data.draw(st.integers(0, len(frames)))
        in_trains = data.draw(st.booleans())
        told = delivered(compiled(), frames, order, stable, in_trains=in_trains)
        assert told == delivered(pure(), pure_frames, order, stable, in_trains=in_trains)
        assert told == delivered(compiled(), frames, order, stable, in_trains=not in_trains)


@given(
    st.integers(1, 90),
    st.lists(st.integers(0, 60), max_size=40),
    st.integers(-2, 2),
    st.sampled_from([0x02, 0x12, 0x22, 0x32, 0x42]) | st.integers(0, 255),
    st.binary(max_size=1500),
    st.booleans(),
    st.sampled_from(["DATA", "RECOVERED"]),
)
def test_trains_that_lie_with_a_good_checksum_are_read_or_refused_alike(
    part_bytes: int,
    lengths: list[int],
    off: int,
    flags: int,
    pieces: bytes,
    adds_up: bool,
    kind: str,
) -> None:
    """Whatever the lengths in them say, and wherever their packets end."""
    if adds_up:
        pieces = pieces.ljust(sum(lengths), b"\1")[: sum(lengths)]

    def read(modules: Any) -> Any:
        data = modules.data
        head = data.DATA_FAST.pack(1, 2, flags, max(0, len(lengths) + off * (not adds_up)))
        content = head + b"".join(length.to_bytes(2) for length in lengths) + pieces
        if kind == "RECOVERED":
            content = data.RECOVERED_FAST.pack(SENDER, LIFE, *RING, 3) + content
        size = data.PART_OVERHEAD_BYTES + max(part_bytes, -(-len(content) // data.PARTS_MAX))
        frame_type = getattr(modules.header.FrameType, kind)
        sealer = modules.header.Sealer(NETWORK, SENDER, LIFE)
        packets = data.cut(sealer, frame_type, RING, 1, content[:9], content[9:], size)
        codec = modules.codec.Codec(NETWORK, NodeId(3), 1)
        if len(packets) == 1:
            part = codec.decode_part(packets[0])
        else:
            part = codec.decode_train(packets)
            assert part is not None
        try:
            frame = codec.assemble(part, part.packets)
        except MalformedPacket as error:
            return (error.reason, str(error))
        inner = frame.inner if kind == "RECOVERED" else frame
        reader: Any = modules.streams.Reader(MESSAGE_BYTES_MAX)
        if inner.lane == data.CONTROL_LANE:
            reader = modules.streams.ControlReader()
        stream = modules.streams.Stream(reader, begun=[b"\1begun"], begun_counter=2)
        out: list[Any] = []
        stream.ordered(inner, CONFIGURATION, out)
        begun = list(map(bytes, stream.begun))
        return facts(frame), list(map(plain, out)), begun, reader.malformed

    assert read(compiled()) == read(pure())


@given(packet_bytes, submissions, st.lists(st.tuples(st.integers(0), st.binary(max_size=3))))
def test_damaged_packets_are_refused_alike(
    size: int, submission: Any, damage: list[tuple[int, bytes]]
) -> None:
    """And so are whole frames whose checksum is right though their content is not."""
    frames, _ = run(compiled(), size, [submission])
    for frame in frames[:3]:
        damaged = bytearray(b"".join(map(bytes, frame.packets)))
        for place, what in damage:
            at = place % len(damaged)
            damaged[at : at + len(what)] = what
        for modules_done in zip(
            *(seen(modules, bytes(damaged), size) for modules in (compiled(), pure())), strict=True
        ):
            assert modules_done[0] == modules_done[1]


def seen(modules: Any, packets: bytes, size: int) -> list[Any]:
    codec = modules.codec.Codec(NETWORK, NodeId(3), 1)
    train = Train(packets, size)
    told: list[Any] = [outcome(codec.decode_train, train)]
    whole = codec.decode_train(train)
    if whole is not None:
        told.append(outcome(codec.assemble, whole, whole.packets))
    for packet in train:
        told.append(outcome(codec.decode_part, packet))
    told.append(
        outcome(
            modules.data.parse_data,
            SENDER,
            LIFE,
            RING,
            1,
            packets,
            modules.data.PART_OVERHEAD_BYTES,
            (),
        )
    )
    return told


@given(st.binary(max_size=9), st.binary(max_size=400), st.binary(max_size=400), st.integers(1, 99))
def test_contents_become_the_same_packets_and_these_the_same_contents(
    head: bytes, begin: bytes, rest: bytes, size: int
) -> None:
    count = -(-(len(begin) + len(rest)) // size)
    numbers = [bytes((number % 256, count % 256)) for number in range(count)]
    made = [
        modules.copying.packets_of(head, numbers, begin, memoryview(rest), size)
        for modules in (compiled(), pure())
    ]
    assert made[0] == made[1]
    for modules in (compiled(), pure()):
        found = modules.copying.content_of(memoryview(made[0]), len(head) + 2 + size, len(head) + 2)
        assert bytes(found) == begin + rest


def test_packets_that_are_not_as_many_as_numbers_are_refused() -> None:
    for numbers in ([], [b"1"], [b"1"] * 3):
        with pytest.raises(ValueError, match="as many"):
            compiled().copying.packets_of(b"head", numbers, b"12345", b"678", 7)
    for packet_bytes, head_bytes in ((20, 20), (0, 0), (-3, -4), (3, -1), (-(2**63), 2**63 - 1)):
        with pytest.raises(ValueError, match="longer than its head"):
            compiled().copying.content_of(bytes(100), packet_bytes, head_bytes)


def test_a_content_is_made_of_bytes_and_nothing_else_is_joined() -> None:
    copying = compiled().copying
    assert bytes(copying.content_of(bytes(9), 2**63 - 1, 9)) == b""
    with pytest.raises(TypeError, match="bytes-like"):
        copying.content_of("text", 2, 1)
    with pytest.raises(TypeError, match="bytes-like"):
        copying.joined([b"bytes", "text"])
    with pytest.raises(TypeError, match="pieces"):
        copying.joined(3)
    with pytest.raises(ValueError, match="of bytes"):
        copying.joined([b"bytes", memoryview(bytes(8)).cast("I")])
    with pytest.raises(ValueError, match="in one piece"):
        copying.content_of(b"packets", 2, 1)[::2]
    with pytest.raises(TypeError):
        copying.content_of(b"packets", 2, 1)["x"]
    with pytest.raises(TypeError, match="instances"):
        copying.Content()
    assert memoryview(copying.content_of(b"packets", 2, 1)).readonly


def test_pieces_that_go_away_while_they_are_counted_are_not_joined() -> None:
    class Fleeting(bytes):
        def __len__(self) -> int:
            pieces.clear()
            return super().__len__()

    pieces = [Fleeting(b"first"), b"second", b"third"]
    with pytest.raises(ValueError, match="of bytes"):
        compiled().copying.joined(pieces)


SECRET = bytes(range(32))
PREFIX = b"VE\x01\x00".ljust(28, b"p")
trains = st.tuples(st.binary(min_size=1, max_size=400), st.integers(1, 90))
counters = st.integers(0, 2**48) | st.just(2**64 - 500)


@cache
def seals() -> list[Any]:
    """The modules of seals: one for each library that there is, and the pure one."""
    modules = []
    for file in SEALS:
        spec = spec_from_file_location("vsync.seal.cipher", PACKAGE / file)
        assert spec is not None
        assert spec.loader is not None
        modules.append(module_from_spec(spec))
        spec.loader.exec_module(modules[-1])
    return [*modules, pure().cipher]


def ciphers_of_all() -> list[Any]:
    return [module.Cipher(SECRET) for module in seals()]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or (os.environ.get("CI") != "true" and len(SEALS) < 2),
    reason="IPsec-MB is for these processors, and need not be there",
)
def test_seals_are_there_over_each_library_and_the_faster_one_is_used() -> None:
    assert [module.LIBRARY for module in seals()] == ["IPsec-MB", "OpenSSL", "cryptography"]
    assert compiled().cipher.LIBRARY == "IPsec-MB"


@given(st.binary(max_size=90), counters)
def test_packets_are_sealed_alike_and_opened_alike(packet: bytes, counter: int) -> None:
    ciphers = ciphers_of_all()
    sealed, *others = (cipher.seal(PREFIX, counter, packet) for cipher in ciphers)
    assert others == [sealed] * len(others)
    for cipher in ciphers:
        assert cipher.open(memoryview(sealed)) == packet


@given(trains, counters)
def test_trains_are_sealed_alike_and_opened_alike(train: tuple[bytes, int], first: int) -> None:
    packets, size = train
    ciphers = ciphers_of_all()
    step = size + compiled().cipher.OVERHEAD_BYTES
    sealed, *others = (
        cipher.seal_train(PREFIX, first, memoryview(packets), size) for cipher in ciphers
    )
    assert others == [sealed] * len(others)
    for cipher in ciphers:
        assert cipher.open_train(PREFIX, first, sealed, step) == packets
        assert [cipher.open(packet) for packet in Train(sealed, step)] == [
            bytes(packet) for packet in Train(packets, size)
        ]


@given(trains, st.integers(0), st.integers(1, 255), st.integers(-1, 1), st.integers(0, 60))
def test_what_is_not_genuine_is_refused_alike_and_spoils_nothing(
    train: tuple[bytes, int], place: int, change: int, off: int, cut: int
) -> None:
    packets, size = train
    ciphers = ciphers_of_all()
    step = size + compiled().cipher.OVERHEAD_BYTES
    sealed = ciphers[0].seal_train(PREFIX, 7, packets, size)
    damaged = bytearray(sealed)
    damaged[place % len(damaged)] ^= change
    shorter = sealed[: max(1, len(sealed) - cut)]
    for cipher in ciphers:
        assert cipher.open_train(PREFIX, 7, damaged, step) is None
        assert cipher.open(damaged[place % len(damaged) // step * step :][:step]) is None
        found = cipher.open_train(PREFIX, 7 + off, sealed, step)
        assert found == (None if off else packets)
        assert cipher.open(sealed[: min(step, len(sealed)) - 1]) is None
        assert cipher.open_train(PREFIX, 7, sealed, step) == packets
    of_shorter = [cipher.open_train(PREFIX, 7, shorter, step) for cipher in ciphers]
    assert of_shorter == of_shorter[:1] * len(of_shorter)
    assert not any(cipher.open_train(PREFIX, 7, packets, size) for cipher in ciphers)


@pytest.mark.parametrize("place", range(len(SEALS)))
def test_what_cannot_be_sealed_is_refused(place: int) -> None:
    module = seals()[place]
    cipher = module.Cipher(SECRET)
    for prefix, packets, size in ((b"short", b"text", 4), (PREFIX, b"", 4), (PREFIX, b"text", 0)):
        with pytest.raises(ValueError, match=r"prefix has|no packets"):
            cipher.seal_train(prefix, 1, packets, size)
    for counter in (-1, 2**64, 2**64 - 1):
        with pytest.raises(OverflowError):
            cipher.seal_train(PREFIX, counter, b"text", 4)
    with pytest.raises(ValueError, match="a key has 32 bytes"):
        module.Cipher(b"short")


ENVELOPE = Envelope(
    SENDER, 1, LIFE, Priority.HIGH, Guarantee.SAFE, (GroupKey.from_name("a"),), CONFIGURATION
)


@given(
    st.binary(max_size=4),
    st.lists(st.binary(max_size=40), min_size=1, max_size=9),
    st.booleans(),
    st.none() | st.integers(0, 8),
    st.binary(max_size=5),
    st.integers(0, 2**64 - 1) | st.integers(2**64 - 9, 2**64 - 1),
    st.integers(1, 60),
)
def test_messages_that_have_one_head_give_the_same_deliveries(
    head: bytes,
    texts: list[bytes],
    one_size: bool,
    stranger: int | None,
    gap: bytes,
    counter: int,
    size: int,
) -> None:
    messages = [head + text for text in (texts[:1] * len(texts) if one_size else texts)]
    if stranger is not None:
        messages[stranger % len(messages)] = bytes(len(messages[stranger % len(messages)]))
    frame, lengths = b"".join((gap, *messages)), tuple(map(len, messages))
    alike, alike_pure = (
        modules.alike.begin_alike(frame, len(gap), head, lengths)
        for modules in (compiled(), pure())
    )
    assert alike is alike_pure is all(message.startswith(head) for message in messages)
    if min(lengths) < len(head):
        return
    packets = b"".join(b"<>" + frame[at : at + size] for at in range(0, len(frame), size))
    content = compiled().copying.content_of(packets, 2 + size, 2)
    assert compiled().alike.begin_alike(content, len(gap), head, lengths) is alike
    for bytes_like in (frame, memoryview(frame), content):
        place = (bytes_like, len(gap), len(head), lengths)
        read, read_pure = (
            modules.alike.read_alike(ENVELOPE, counter, *place) for modules in (compiled(), pure())
        )
        assert read == read_pure
        payloads, payloads_pure = (
            modules.alike.payloads_in(*place) for modules in (compiled(), pure())
        )
        assert payloads == payloads_pure == [message[len(head) :] for message in messages]
        again, again_pure = (
            modules.alike.numbered(ENVELOPE, counter, payloads) for modules in (compiled(), pure())
        )
        assert again == again_pure == read
        assert all(type(each) is Delivery for each in (*read, *again))
        assert all(type(each) is bytes for each in (*payloads, *payloads_pure))
        assert read[0].message.counter == counter


def test_a_payload_that_refers_back_to_its_delivery_is_collected_as_garbage() -> None:
    class Mark:
        pass

    class Payload(bytes):
        delivery: Delivery
        mark: Mark

    payload = Payload(b"text")
    payload.mark = Mark()
    gone = weakref.ref(payload.mark)
    (payload.delivery,) = compiled().alike.numbered(ENVELOPE, 1, [payload])
    del payload
    gc.collect()
    assert gone() is None


def test_messages_beyond_the_end_of_their_frame_are_refused() -> None:
    alike = compiled().alike
    for function, head in (
        (partial(alike.read_alike, ENVELOPE, 0), 0),
        (alike.payloads_in, 0),
        (alike.begin_alike, b""),
    ):
        for frame in (b"frame.", compiled().copying.content_of(b"<fr<am<e.", 3, 1)):
            for start, lengths in ((0, (4, 4)), (7, (1,)), (-1, (1,)), (2, (-1,)), (2, (2**62,))):
                with pytest.raises(ValueError, match="outside of the frame"):
                    function(frame, start, head, lengths)
        with pytest.raises(TypeError, match="lengths"):
            function(b"frame.", 0, head, 3)
        with pytest.raises(TypeError, match="bytes-like"):
            function("frame.", 0, head, (1,))
    for function in (partial(alike.read_alike, ENVELOPE, 0), alike.payloads_in):
        for head_bytes in (-1, 4, 2**62):
            with pytest.raises(ValueError, match="shorter than its head"):
                function(b"frame.", 0, head_bytes, (3, 3))
    with pytest.raises(OverflowError):
        alike.read_alike(ENVELOPE, -1, b"frame.", 0, 0, (1,))


@given(st.lists(st.binary(max_size=120), min_size=1, max_size=8), st.booleans())
def test_messages_that_make_no_sense_are_read_alike(messages: list[bytes], alike: bool) -> None:
    def read(modules: Any) -> Any:
        pieces = [message for message in messages if message] or [b"\0"]
        pieces = pieces[:1] * 5 if alike else pieces
        codec = modules.codec.Codec(NETWORK, SENDER, LIFE)
        frame = codec.data(RING, 1, 0, 0, int(Guarantee.AGREED), pieces)
        reader = modules.streams.Reader(MESSAGE_BYTES_MAX)
        out: list[Any] = []
        modules.streams.Stream(reader).ordered(frame, CONFIGURATION, out)
        return list(map(plain, out)), reader.malformed

    assert read(compiled()) == read(pure())


# --- whole rings ----------------------------------------------------------------------------------

SIMULATE = """
import json, sys
from vsync import speedups
from vsync.testing.simulate import simulate
assert speedups.in_use.startswith("pure")
for seed in range(int(sys.argv[1])):
    print(json.dumps(simulate(seed, 3 + seed % 3).lines))
"""
SEEDS = 16


@pytest.fixture(scope="module")
def pure_traces() -> list[str]:
    """The traces of simulated clusters, from a process that uses no compiled module."""
    said = subprocess.run(
        [sys.executable, "-c", SIMULATE, str(SEEDS)],
        env={**os.environ, "VSYNC_PURE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return said.stdout.splitlines()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_cluster_under_faults_leaves_the_same_trace(seed: int, pure_traces: list[str]) -> None:
    outcome = simulate(seed, 3 + seed % 3)
    assert outcome.holds
    assert outcome.messages > 0
    assert json.dumps(outcome.lines) == pure_traces[seed]


@given(
    st.lists(st.tuples(st.sampled_from(["start", "stop", "due"]), st.integers(0, 8)), max_size=30)
)
def test_timers_fire_in_the_same_order(script: list[tuple[str, int]]) -> None:
    def run_timers(modules: Any) -> list[Any]:
        known = list(modules.timers.Timer)
        timers = modules.timers.Timers()
        told: list[Any] = []
        for what, number in script:
            if what == "start":
                timers.start(known[number], number // 2)
            elif what == "stop":
                timers.stop(known[number])
            else:
                timer = timers.due(number)
                told.append(timer and timer.name)
            told.append(timers.next())
        return told

    assert run_timers(compiled()) == run_timers(pure())


@given(st.binary(max_size=120), st.booleans())
def test_tokens_are_read_and_refused_alike(body: bytes, built: bool) -> None:
    def read(modules: Any) -> Any:
        header, token = modules.header, modules.token
        given = body.ljust(token.TOKEN_BYTES_MIN, b"\0") if built else body
        packet = header.seal(0, NETWORK, SENDER, LIFE, given)
        try:
            told = header.unseal(packet, NETWORK)
            frame = token.parse_token(told, packet)
            sealer = header.Sealer(NETWORK, SENDER, LIFE)
            again = sealer.seal(0, token.build_token(frame))
        except MalformedPacket as error:
            return (error.reason, str(error))
        return (*told, frame.ring, frame.seq, frame.aru, frame.requests, again)

    assert read(compiled()) == read(pure())

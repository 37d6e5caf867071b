"""The fast path of datagrams is what ``wire`` declares; what is not for us is dropped, counted."""

import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsync_transport_ib.datagrams import Receiver, Sender, wire_bytes
from vsync_transport_ib.icrc import ROCE_PORT, Flow, checksum
from vsync_transport_ib.verbs import MULTICAST_QPN
from vsync_transport_ib.wire import Malformed, Opcode, build_transport, parse_transport

QPN, OTHER_QPN = 0x123456, 0xABCDE
QKEY, PKEY = 0x01234567, 0xFFFF
HERE, THERE = ("10.0.0.1", ROCE_PORT), ("10.0.0.2", ROCE_PORT)

messages = st.lists(st.binary(max_size=200), min_size=1, max_size=5)
psns = st.integers(0, 0xFFFFFF)


def before(size: int, identification: int = 0) -> bytes:
    """What the ICRC covers before a datagram of *size* bytes."""
    flow = Flow(HERE, THERE)
    whole = bytearray(flow._before(size))
    whole[12:14] = identification.to_bytes(2)
    return bytes(whole)


def sender(qpn: int = QPN, **changed: int) -> Sender:
    given = {"source_qpn": OTHER_QPN, "qkey": QKEY, "pkey": PKEY, **changed}
    return Sender(Flow(HERE, THERE), destination_qpn=qpn, **given)


def receiver(**changed: int) -> Receiver:
    return Receiver(**{"qpn": QPN, "qkey": QKEY, "pkey": PKEY, **changed})


def packed(
    data: Sequence[bytes], psn: int = 0, *, numbered: bool = False, **changed: int
) -> list[bytes]:
    """The datagrams of *data*, each alone."""
    pieces = [bytes(piece) for piece in sender(**changed).pack(data, psn, numbered=numbered)]
    return [b"".join(pieces[at : at + 3]) for at in range(0, len(pieces), 3)]


def built(
    payload: bytes,
    *,
    psn: int = 0,
    qpn: int = QPN,
    opcode: int = Opcode.UD_SEND,
    identification: int = 0,
    congestion: int = 0,
    pkey: int = PKEY,
    flags: dict[str, int] | None = None,
) -> bytes:
    """A datagram as declared, with a right ICRC."""
    fields = {
        "bth": {
            "opcode": opcode,
            "flags": {
                "solicited_event": 0,
                "migration": 0,
                "pad": -len(payload) % 4,
                "version": 0,
                **(flags or {}),
            },
            "pkey": pkey,
            "congestion": {"forward": congestion & 1, "backward": congestion >> 1},
            "destination_qpn": qpn,
            "ack": {"request": 0},
            "psn": psn,
        },
        "deth": {"qkey": QKEY, "source_qpn": OTHER_QPN},
        "immediate": 0x11223344,
        "payload": payload,
        "padding": bytes(-len(payload) % 4),
        "icrc": 0,
    }
    bare = build_transport(fields)[:-4]
    return bare + checksum(before(len(bare), identification), bare)


def read(data: bytes, segment_bytes: int = 0, taker: Receiver | None = None) -> list[bytes]:
    found = (taker or receiver()).read(data, segment_bytes or len(data), Flow(HERE, THERE))
    assert all(message.source_qpn == OTHER_QPN for message in found)
    return [bytes(message.data) for message in found]


@given(messages, psns)
def test_what_is_packed_is_what_is_declared(data: list[bytes], psn: int) -> None:
    for number, (datagram, message) in enumerate(zip(packed(data, psn), data, strict=True)):
        assert len(datagram) == wire_bytes(len(message))
        assert datagram == built(message, psn=(psn + number) & 0xFFFFFF)


@given(messages)
def test_datagrams_that_the_kernel_numbers_have_the_icrc_of_their_number(data: list[bytes]) -> None:
    for number, datagram in enumerate(packed(data, numbered=True)):
        assert datagram[-4:] == checksum(before(len(datagram) - 4, number), datagram[:-4])


@given(messages, psns)
def test_what_is_declared_parses_to_what_was_packed(data: list[bytes], psn: int) -> None:
    for number, (datagram, message) in enumerate(zip(packed(data, psn), data, strict=True)):
        fields = parse_transport(datagram)
        assert fields.payload == message
        assert fields.bth.psn == (psn + number) & 0xFFFFFF
        assert (fields.bth.destination_qpn, fields.deth.source_qpn) == (QPN, OTHER_QPN)
        assert (fields.deth.qkey, fields.bth.pkey) == (QKEY, PKEY)


@given(
    st.binary(max_size=100),
    st.sampled_from(Opcode),
    st.sampled_from([QPN, MULTICAST_QPN]),
    st.integers(0, 0xFFFF),
    st.integers(0, 3),
    st.sampled_from([{}, {"solicited_event": 1}, {"migration": 1}]),
    st.sampled_from([0xFFFF, 0x7FFF]),
)
def test_any_datagram_of_another_implementation_is_read(
    payload: bytes,
    opcode: Opcode,
    qpn: int,
    identification: int,
    congestion: int,
    flags: dict[str, int],
    pkey: int,
) -> None:
    datagram = built(
        payload,
        opcode=opcode,
        qpn=qpn,
        identification=identification,
        congestion=congestion,
        flags=flags,
        pkey=pkey,
    )
    assert read(datagram) == [payload]


@given(st.integers(1, 60), st.integers(0, 300), st.integers(0, 300), st.integers(0, 0xFFFF))
def test_datagrams_that_came_in_one_piece_are_read_one_by_one(
    count: int, size: int, last: int, first_identification: int
) -> None:
    data = [bytes([number]) * size for number in range(count)] + [b"z" * min(size, last)]
    pieces = [
        built(message, identification=first_identification + number & 0xFFFF)
        for number, message in enumerate(data)
    ]
    assert read(b"".join(pieces), len(pieces[0])) == data


@pytest.mark.parametrize(
    ("reason", "datagram"),
    [
        ("qpn", built(b"x", qpn=QPN + 1)),
        ("pkey", built(b"x", pkey=0x8001)),
        ("opcode", built(b"as long as a datagram", opcode=0x04)),
        ("opcode", built(b"x", flags={"version": 1})),
        ("short", built(b"x")[:20]),
        ("icrc", built(b"x")[:-1] + b"\0"),
        ("icrc", built(b"xxxx", identification=3)[:-5] + b"y" + built(b"xxxx")[-4:]),
    ],
)
def test_what_is_not_for_this_queue_pair_or_damaged_is_dropped_and_counted(
    reason: str, datagram: bytes
) -> None:
    taker = receiver()
    assert read(datagram, taker=taker) == []
    assert dict(taker.dropped) == {reason: 1}


def test_a_wrong_qkey_is_dropped_and_counted() -> None:
    taker = receiver(qkey=QKEY + 1)
    assert read(built(b"x"), taker=taker) == []
    assert dict(taker.dropped) == {"qkey": 1}


def test_limited_members_of_a_partition_hear_full_ones_alone() -> None:
    taker = receiver(pkey=0x0001)
    assert read(built(b"full", pkey=0x8001), taker=taker) == [b"full"]
    assert read(built(b"limited", pkey=0x0001), taker=taker) == []
    assert dict(taker.dropped) == {"pkey": 1}


def test_a_pad_beyond_the_datagram_is_dropped() -> None:
    taker = receiver()
    whole = bytearray(built(b""))
    whole[1] |= 0x30
    whole[-4:] = checksum(before(len(whole) - 4), bytes(whole[:-4]))
    assert read(bytes(whole), taker=taker) == []
    assert dict(taker.dropped) == {"short": 1}


@given(st.binary(min_size=1, max_size=200), st.integers(1, 60))
def test_no_bytes_raise(data: bytes, segment_bytes: int) -> None:
    taker = receiver()
    assert read(data, min(segment_bytes, len(data)), taker) == []
    assert taker.dropped.total() == -(-len(data) // min(segment_bytes, len(data)))
    with contextlib.suppress(Malformed):
        parse_transport(data)


@settings(derandomize=True)  # one change in some ten thousand looks like an identification
@given(st.binary(min_size=4, max_size=60), st.data())
def test_no_change_of_a_byte_goes_unnoticed(payload: bytes, data: st.DataObject) -> None:
    datagram = bytearray(built(payload, identification=7))
    at = data.draw(st.integers(0, len(datagram) - 1))
    datagram[at] ^= data.draw(st.integers(1, 255))
    if at != 4:  # marks of congestion do not count
        assert read(bytes(datagram)) == []

"""Parsers of what RoCE brings in user space; the ring's own packets are within."""

from contextlib import suppress
from typing import Final

from tests.fuzz.feeding import PLACES, Target
from vsync.checksum import crc32
from vsync_transport_ib import wire
from vsync_transport_ib.datagrams import OVERHEAD_BYTES, Receiver, Sender
from vsync_transport_ib.icrc import ICRC_BYTES, ROCE_PORT, Flow, length_of

QPN, QKEY, PKEY = 0x11, 0x22, 0xFFFF
FLOW: Final = Flow((PLACES[0][0], 49152), (PLACES[1][0], ROCE_PORT))
SENDER: Final = Sender(FLOW, destination_qpn=QPN, source_qpn=7, qkey=QKEY, pkey=PKEY)
DATAGRAMS: Final = [
    b"".join(SENDER.pack([payload], 5, numbered=False))
    for payload in (b"", b"a", b"a message", bytes(300))
]


def with_checksum(datagram: bytes) -> bytes:
    """*datagram* with the right ICRC: whoever knows the addresses can compute it."""
    if len(datagram) < OVERHEAD_BYTES:
        return datagram
    covered = bytearray(datagram[:-ICRC_BYTES])
    covered[4] = 0
    icrc = crc32(bytes(covered), FLOW.seed(len(covered))) ^ length_of(len(covered)).masked
    return datagram[:-ICRC_BYTES] + icrc.to_bytes(ICRC_BYTES, "little")


def feed_receiver(data: bytes) -> None:
    """A queue pair reads datagrams, one and several that came in one piece."""
    size, body = 1 + 4 * int.from_bytes(data[:1]), data[1:]
    for whole, each in ((with_checksum(body), len(body)), (body, size), (body + body, len(body))):
        if whole:
            receiver = Receiver(qpn=QPN, qkey=QKEY, pkey=PKEY)
            found = receiver.read(whole, each, FLOW)
            assert len(found) + sum(receiver.dropped.values()) == -(-len(whole) // each)
            assert sum(len(message.data) for message in found) <= len(whole)


def feed_declarations(data: bytes) -> None:
    """What dissects captures takes any bytes, too."""
    with suppress(wire.Malformed):
        wire.parse_transport(data)
    for declaration in (wire.GRH, wire.SUBNET_ADMINISTRATION, wire.MC_MEMBER_RECORD):
        with suppress(wire.Malformed):
            wire.parse(declaration, data)


TARGETS: Final[dict[str, Target]] = {
    "roce": Target(feed_receiver, [bytes([10]) + datagram for datagram in DATAGRAMS]),
    "roce-declarations": Target(feed_declarations, [*DATAGRAMS, bytes(256)]),
}

"""Unreliable datagrams of RoCE v2, fast: what ``wire`` declares, packed and read by ``struct``.

A queue pair packs and reads batches. The header of a datagram is BTH and DETH, 20 bytes; of these
the first eight, read as one number, decide whether a packet is for this queue pair.
"""

import struct
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from vsync.checksum import crc32
from vsync_transport_ib.icrc import ICRC_BYTES, Flow, length_of
from vsync_transport_ib.verbs import MULTICAST_QPN
from vsync_transport_ib.wire import Opcode

HEADER: Final = struct.Struct(">QIII")  # up to the destination QPN; PSN; Q_Key; source QPN
HEADER_BYTES: Final = 20
IMMEDIATE_BYTES: Final = 4
OVERHEAD_BYTES: Final = HEADER_BYTES + ICRC_BYTES
PSN_MASK: Final = 0xFFFFFF
QPN_MASK: Final = 0xFFFFFF

_ICRC: Final = struct.Struct("<I")
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")
"""By the length modulo 4."""
_CONGESTION: Final = 0xFF << 24
_FULL_MEMBER: Final = 0x8000
_FLAGS_IGNORED: Final = (0, 0x40, 0x80, 0xC0)  # solicited event, migration: nothing to us


class Message(NamedTuple):
    """One that was received."""

    source_qpn: int
    data: memoryview


def head(*, opcode: int, flags: int, pkey: int, qpn: int) -> int:
    """The first eight bytes of BTH, as a number."""
    return opcode << 56 | flags << 48 | pkey << 32 | qpn


def wire_bytes(message_bytes: int) -> int:
    """How long the datagram of a message is, from BTH to ICRC."""
    return OVERHEAD_BYTES + message_bytes + -message_bytes % 4


class Sender:
    """Packs messages from one queue pair to one other, or to a group."""

    __slots__ = ("_flow", "_heads", "_qkey", "_source_qpn")

    def __init__(
        self, flow: Flow, *, destination_qpn: int, source_qpn: int, qkey: int, pkey: int
    ) -> None:
        self._flow = flow
        self._qkey = qkey
        self._source_qpn = source_qpn
        self._heads = [
            head(opcode=Opcode.UD_SEND, flags=(-size % 4) << 4, pkey=pkey, qpn=destination_qpn)
            for size in range(4)
        ]

    def pack(
        self, messages: Sequence[bytes | memoryview], psn: int, *, numbered: bool
    ) -> list[bytes | memoryview]:
        """The datagrams of *messages*, in pieces, one behind the other.

        *numbered*: the kernel will count them in the IP header (GSO); else all have number 0.
        """
        pack, pack_icrc = HEADER.pack, _ICRC.pack
        heads, qkey, source_qpn = self._heads, self._qkey, self._source_qpn
        pieces: list[bytes | memoryview] = []
        size = -1
        for number, message in enumerate(messages):
            if len(message) != size:
                size = len(message)
                padding = _PADDING[size % 4]
                covered = HEADER_BYTES + size + len(padding)
                seed = self._flow.seed(covered)
                length = length_of(covered)
                masked, low = length.masked, length.low
                first = heads[size % 4]
            header = pack(first, psn + number & PSN_MASK, qkey, source_qpn)
            icrc = crc32(message, crc32(header, seed)) if size else crc32(header, seed)
            if padding:
                icrc = crc32(padding, icrc)
            icrc ^= masked
            if numbered:
                icrc ^= low[number]
            pieces += (header, message, padding + pack_icrc(icrc))
        return pieces


class Receiver:
    """Reads what one queue pair is sent; what is not for it is counted by the reason."""

    __slots__ = ("_heads", "_qkey", "_qpns", "dropped")

    def __init__(self, *, qpn: int, qkey: int, pkey: int) -> None:
        self._qkey = qkey
        self._qpns = (qpn, MULTICAST_QPN)
        self.dropped: Counter[str] = Counter()
        # Of two limited members of a partition neither hears the other (9.6.1.1).
        pkeys = {pkey | _FULL_MEMBER}
        if pkey & _FULL_MEMBER:
            pkeys.add(pkey & ~_FULL_MEMBER)
        self._heads: dict[int, tuple[int, int]] = {
            head(opcode=opcode, flags=ignored | pad << 4, pkey=each, qpn=number): (
                HEADER_BYTES + (IMMEDIATE_BYTES if opcode is Opcode.UD_SEND_IMMEDIATE else 0),
                pad + ICRC_BYTES,
            )
            for opcode in Opcode
            for ignored in _FLAGS_IGNORED
            for pad in range(4)
            for each in pkeys
            for number in self._qpns
        }
        """By the first eight bytes: where the message begins, and what follows it."""

    def read(self, data: bytes, segment_bytes: int, flow: Flow) -> list[Message]:
        """The messages in *data*: datagrams of *segment_bytes* each, the last maybe shorter."""
        unpack, unpack_icrc, heads = HEADER.unpack_from, _ICRC.unpack_from, self._heads
        view = memoryview(data)
        total = len(data)
        found: list[Message] = []
        new = tuple.__new__
        known = -1
        identification = -1
        for start in range(0, total, segment_bytes):
            end = min(start + segment_bytes, total)
            size = end - start
            if size != known:
                if size < OVERHEAD_BYTES:
                    self.dropped["short"] += 1
                    continue
                known = size
                seed = flow.seed(size - ICRC_BYTES)
                length = length_of(size - ICRC_BYTES)
                masked, low, high = length.masked, length.low, length.high
            first, _, qkey, source_qpn = unpack(data, start)
            layout = heads.get(first)
            if layout is None:
                layout = self._look_again(data, start, end, first)
                if layout is None:
                    continue
            if qkey != self._qkey:
                self.dropped["qkey"] += 1
                continue
            before, behind = layout
            if before + behind > size:
                self.dropped["short"] += 1
                continue
            # Segments that travel as one are counted up from the first one's number.
            identification = identification + 1 & 0xFFFF
            congestion = data[start + 4]
            if congestion:
                covered = bytearray(view[start : end - ICRC_BYTES])
                covered[4] = 0
                icrc = crc32(covered, seed)
            else:
                icrc = crc32(view[start : end - ICRC_BYTES], seed)
            difference = icrc ^ masked ^ unpack_icrc(data, end - ICRC_BYTES)[0]
            if difference != low[identification & 0xFF] ^ high[identification >> 8]:
                solved = length.solve(difference)
                if solved is None:
                    self.dropped["icrc"] += 1
                    continue
                identification = solved
            found.append(new(Message, (source_qpn & QPN_MASK, view[start + before : end - behind])))
        return found

    def _look_again(self, data: bytes, start: int, end: int, first: int) -> tuple[int, int] | None:
        """The layout of a packet with marks of congestion; or why another is dropped."""
        layout = self._heads.get(first & ~_CONGESTION)
        if layout is not None:
            return layout
        opcode, flags = first >> 56, first >> 48 & 0xFF
        if opcode not in (Opcode.UD_SEND, Opcode.UD_SEND_IMMEDIATE) or flags & 0xF:
            self.dropped["opcode"] += 1
        elif first & QPN_MASK not in self._qpns:
            self.dropped["qpn"] += 1
        else:
            self.dropped["pkey"] += 1
        return None

"""Memory that a device sends from and receives into, and the work requests that point into it.

Every slot has its place and its request from the beginning; what changes for a packet is its bytes,
its length, where it goes and which request comes next. A batch is a chain of requests, so handing
it over is one call.
"""

import ctypes
import mmap
import struct
from collections.abc import Sequence
from typing import Final

from vsync_transport_ib.rdma_core import (
    NEXT_OFFSET,
    RECEIVE_WR,
    SEND_SIGNALED,
    SEND_WR,
    SEND_WR_BYTES,
    SGE,
    WR_SEND,
    Pointer,
)
from vsync_transport_ib.verbs import GRH_BYTES

CACHE_LINE_BYTES: Final = 64

_LENGTH: Final = struct.Struct("=I")
_LENGTH_OFFSET: Final = 8
_POINTER: Final = struct.Struct("=Q")


class Work:
    """Slots for receiving, then slots for sending, in one piece of memory, to be registered once.

    The memory is of the shared kind, which a fork does not take away from the device.
    """

    def __init__(self, receive_slots: int, send_slots: int, message_bytes_max: int) -> None:
        self._receive_slots = receive_slots
        self._send_slots = send_slots
        self._receive_bytes = GRH_BYTES + message_bytes_max
        self._receive_stride = _in_lines(self._receive_bytes)
        self._send_stride = _in_lines(message_bytes_max)
        self._sends_at = receive_slots * self._receive_stride
        self.bytes = self._sends_at + send_slots * self._send_stride
        self._mapping = mmap.mmap(-1, self.bytes)
        self._memory = memoryview(self._mapping)
        # The address stays good for as long as the mapping is open.
        self.base: Pointer = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        elements = SGE.size * (receive_slots + send_slots)
        self._receive_requests = elements
        self._send_requests = elements + RECEIVE_WR.size * receive_slots
        self._requests = ctypes.create_string_buffer(
            self._send_requests + SEND_WR_BYTES * send_slots
        )
        self._written = memoryview(self._requests).cast("B")
        self._requests_base: Pointer = ctypes.addressof(self._requests)

    def write_requests(self, local_key: int) -> None:
        """Write every slot's request, once the memory is registered as *local_key*."""
        written, base = self._written, self._requests_base
        for slot in range(self._receive_slots):
            element = SGE.size * slot
            place = self.base + slot * self._receive_stride
            SGE.pack_into(written, element, place, self._receive_bytes, local_key)
            request = self._receive_requests + RECEIVE_WR.size * slot
            RECEIVE_WR.pack_into(written, request, slot, 0, base + element, 1)
        for slot in range(self._send_slots):
            place = self.base + self._sends_at + slot * self._send_stride
            SGE.pack_into(written, self._send_element(slot), place, 0, local_key)

    def _send_element(self, slot: int) -> int:
        return SGE.size * (self._receive_slots + slot)

    def chain_receives(self, slots: Sequence[int]) -> Pointer:
        """Chain the requests of these slots; give the address of the first."""
        written, base = self._written, self._requests_base
        following = 0
        for slot in reversed(slots):
            request = self._receive_requests + RECEIVE_WR.size * slot
            _POINTER.pack_into(written, request + NEXT_OFFSET, following)
            following = base + request
        return following

    def chain_sends(
        self,
        first_slot: int,
        messages: Sequence[bytes | memoryview],
        handle: Pointer,
        qpn: int,
        qkey: int,
    ) -> tuple[Pointer, int]:
        """Copy the messages into slots from the first on, and chain what sends them.

        Gives the address of the first request, and the last slot, which alone is signalled.
        """
        written, memory, base = self._written, self._memory, self._requests_base
        slots, stride, requests = self._send_slots, self._send_stride, self._send_requests
        elements = self._send_element(0)
        slot, left = first_slot, len(messages)
        for message in messages:
            left -= 1
            size = len(message)
            place = self._sends_at + slot * stride
            memory[place : place + size] = message
            element = elements + SGE.size * slot
            _LENGTH.pack_into(written, element + _LENGTH_OFFSET, size)
            following = slot + 1 if slot + 1 < slots else 0
            SEND_WR.pack_into(
                written,
                requests + SEND_WR_BYTES * slot,
                slot,
                base + requests + SEND_WR_BYTES * following if left else 0,
                base + element,
                1,
                WR_SEND,
                0 if left else SEND_SIGNALED,
                0,
                handle,
                qpn,
                qkey,
            )
            last, slot = slot, following
        return base + requests + SEND_WR_BYTES * first_slot, last

    def received(self, slot: int, size: int) -> tuple[bytes, bytes]:
        """The route header's room, and a copy of the message; *size* counts both."""
        place = slot * self._receive_stride
        memory, message_at = self._memory, place + GRH_BYTES
        return bytes(memory[place:message_at]), bytes(memory[message_at : place + size])

    def close(self) -> None:
        """Give the memory back; no device may use it any more. May be called twice."""
        self._memory.release()
        self._mapping.close()


def _in_lines(size: int) -> int:
    return -(-size // CACHE_LINE_BYTES) * CACHE_LINE_BYTES

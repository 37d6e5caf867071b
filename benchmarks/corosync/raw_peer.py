"""A bare program that multicasts bursts as fast as it goes, and counts what comes: the yardstick.

    python -m benchmarks.corosync.raw_peer INTERFACE_ADDRESS send|receive

The same course as ``cpg_peer.c``. Nothing is ordered, nothing is repeated, and what is lost is not
counted: no program that does more with each burst can be faster.
"""

import json
import selectors
import socket
import struct
import sys
import time
from typing import Final

GROUP: Final = ("239.192.78.1", 5410)
SEGMENT_BYTES: Final = 1472
SEGMENTS: Final = 44
UDP_SEGMENT: Final = 103  # linux/udp.h
UDP_GRO: Final = 104
BUFFER_BYTES: Final = 4 * 2**20
SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
PATIENCE_S: Final = 0.05


def tell(fact: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


def send(address: str, to_ns: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        sending.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        sending.setsockopt(socket.SOL_UDP, UDP_SEGMENT, SEGMENT_BYTES)
        burst = bytes(SEGMENT_BYTES * SEGMENTS)
        while time.monotonic_ns() < to_ns:
            sending.sendto(burst, GROUP)
    tell({"received": 0, "bytes": 0})


def receiving_socket(address: str) -> socket.socket:
    receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiving.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
    receiving.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    receiving.bind(GROUP)
    joining = struct.pack("4s4s", socket.inet_aton(GROUP[0]), socket.inet_aton(address))
    receiving.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joining)
    return receiving


def receive(receiving: socket.socket, from_ns: int, to_ns: int) -> None:
    buffer = bytearray(65536)
    bursts = count = 0
    receiving.settimeout(PATIENCE_S)
    while (now_ns := time.monotonic_ns()) < to_ns:
        try:
            got = receiving.recv_into(buffer)
        except TimeoutError:
            continue
        if now_ns >= from_ns:
            bursts += 1
            count += got
    tell({"received": bursts, "bytes": count})


def main() -> None:
    """Run one end."""
    _, address, role = sys.argv
    receiving = receiving_socket(address) if role == "receive" else None
    tell({"ready": 1})
    from_ns, to_ns = map(int, sys.stdin.readline().split())
    if receiving is None:
        send(address, to_ns)
    else:
        with receiving:
            receive(receiving, from_ns, to_ns)
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.select()


if __name__ == "__main__":
    main()

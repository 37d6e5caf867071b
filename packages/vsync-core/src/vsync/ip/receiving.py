"""Receiving: datagrams out of a socket, many at a time.

``vsync-speedups`` has the same in C: one call of the system for all that wait.
"""

import socket
from typing import Final

from vsync.ip import offload
from vsync.ip.offload import Received

_MSG_TRUNC: Final = int(socket.MSG_TRUNC)  # a member of an enum makes `&` ten times as slow


def receive(receiver: socket.socket, count_max: int, bytes_max: int, into: list[Received]) -> bool:
    """Add to *into* what waits in *receiver*; whether there may be more.

    Takes *count_max* at most, each of up to *bytes_max*. Raises OSError; what came before that is
    in *into*. An answer to something sent earlier that nobody was there to take is no error here.
    """
    recvmsg = receiver.recvmsg
    for _ in range(count_max):
        try:
            data, ancillary, flags, source = recvmsg(bytes_max, offload.ANCILLARY_BYTES)
        except BlockingIOError:
            return False
        except ConnectionRefusedError:
            continue
        segment_bytes = offload.segment_bytes_of(ancillary) if ancillary else 0
        into.append((data, segment_bytes, bool(flags & _MSG_TRUNC), source))
    return True

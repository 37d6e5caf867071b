"""Names of hosts, which may be looked up in another thread before a transport opens.

A look-up may take many seconds, and for so long the ring's thread would do nothing else.
"""

import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

KNOWN_S: Final = 60.0
"""How long what was looked up before is used."""


class Wanted(NamedTuple):
    """What is looked up."""

    host: str
    port: int
    family: int


_found: dict[Wanted, tuple[float, Sequence[Any] | OSError | UnicodeError]] = {}
_lock = threading.Lock()


def look_up_before(wanted: Wanted) -> None:
    """Look that up now; ``addresses`` then has the answer, or the failure, for ``KNOWN_S``."""
    found: Sequence[Any] | OSError | UnicodeError
    try:
        found = socket.getaddrinfo(*wanted, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        found = error.with_traceback(None)
    now = time.monotonic()
    with _lock:
        for other in [each for each, (at, _) in _found.items() if now - at >= KNOWN_S]:
            del _found[other]
        _found[wanted] = now, found


def addresses(wanted: Wanted) -> Sequence[Any]:
    """As of ``socket.getaddrinfo``, without a wait if it was looked up before."""
    with _lock:
        at, found = _found.get(wanted, (float("-inf"), ()))
    if time.monotonic() - at >= KNOWN_S:
        return socket.getaddrinfo(*wanted, socket.SOCK_DGRAM)
    if isinstance(found, OSError | UnicodeError):
        raise found
    return found

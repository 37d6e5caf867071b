"""Who sent a message: what a device writes before it, and in its completion, as a ``Peer``."""

from collections.abc import Callable
from typing import Final

from vsync_transport_ib.verbs import GRH_BYTES, Peer

PEERS_MAX: Final = 4096
"""Beyond that many all are forgotten: they are strangers, and the few that matter come back."""

_VERSION_6: Final = 6
_IPV4_AT: Final = GRH_BYTES - 20
_IPV4_FIRST_BYTE: Final = 0x45
_IPV4_SOURCE: Final = slice(_IPV4_AT + 12, _IPV4_AT + 16)
_GRH_SOURCE: Final = slice(8, 24)
_MAPPED: Final = bytes(10) + b"\xff\xff"


class Sources:
    """One object for each peer; *met* is called with each new one.

    With RoCE a message has no LID that means anything.
    """

    def __init__(self, met: Callable[[Peer], object], *, with_lid: bool) -> None:
        self._met = met
        self._with_lid = with_lid
        self._known: dict[tuple[bytes, int, int], Peer] = {}

    def find(self, header: bytes, qpn: int, lid: int) -> Peer:
        """The sender of a message, whose route header this is.

        With RoCE over IPv4 the header's room ends in an IP header instead.
        """
        roce_ipv4 = header[_IPV4_AT] == _IPV4_FIRST_BYTE and header[0] >> 4 != _VERSION_6
        place = header[_IPV4_SOURCE] if roce_ipv4 else header[_GRH_SOURCE]
        key = place, qpn, lid
        peer = self._known.get(key)
        if peer is None:
            if len(self._known) >= PEERS_MAX:
                self._known.clear()
            gid = _MAPPED + place if roce_ipv4 else place
            peer = self._known[key] = Peer(gid, qpn, lid if self._with_lid else 0)
            self._met(peer)
        return peer

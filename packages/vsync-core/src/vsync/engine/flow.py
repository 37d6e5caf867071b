"""Flow control: how many packets a node may send at one visit of the token.

Totem's rule (TOCS 1995, section 4.4), with two repairs: nothing here can go below zero, and a
node with something to send is never starved by the others.
"""

from dataclasses import dataclass

from vsync.engine.log import AHEAD_MAX
from vsync.settings import RingSettings
from vsync.wire.token import REQUEST_BYTES, REQUESTS_MAX, TOKEN_BYTES_MIN, Token

PACKET_MEMORY_FACTOR = 2
"""A received packet takes about twice its bytes of the kernel's receive buffer."""

BUFFER_SHARE = 0.6
"""Of the receive buffer, this share may be filled by one rotation."""

GAP_WINDOWS = 8
GAP_PACKETS_MIN = 1024
GAP_FRAMES_MAX = AHEAD_MAX // 2
"""What may be sent beyond what everyone is known to have, before sending waits."""


@dataclass(slots=True)
class Flow:
    """One node's part in the ring's flow control."""

    window: int
    per_visit: int
    sent_before: int = 0  #: packets that this node sent at its last visit
    backlog_before: int = 0  #: its backlog at its last visit
    requests_max: int = REQUESTS_MAX  #: frames that a token may ask for

    @classmethod
    def of(cls, settings: RingSettings, packet_bytes: int, buffer_bytes: int) -> "Flow":
        """The windows that the settings and the real receive buffer allow."""
        fits = int(buffer_bytes * BUFFER_SHARE) // (packet_bytes * PACKET_MEMORY_FACTOR)
        window = max(1, min(settings.window_packets, fits))
        requests = min(REQUESTS_MAX, max(1, (packet_bytes - TOKEN_BYTES_MIN) // REQUEST_BYTES))
        return cls(window, min(settings.packets_per_visit, window), requests_max=requests)

    def resize(self, other: "Flow") -> None:
        """Have the windows of *other* from now on."""
        self.window = other.window
        self.per_visit = other.per_visit

    @property
    def gap_max(self) -> int:
        """How many packets may be held for those who miss some."""
        return max(GAP_PACKETS_MIN, GAP_WINDOWS * self.window)

    def may_number(self, token: Token, stable: int, held_packets: int) -> bool:
        """Whether new frames may be numbered, or all must first get what they miss."""
        return held_packets < self.gap_max and token.seq - stable < GAP_FRAMES_MAX

    def allowed(self, token: Token, backlog: int) -> int:
        """Packets that may be sent now, repeated ones included."""
        others = max(0, token.sent - self.sent_before)
        ring_backlog = max(0, token.backlog - self.backlog_before) + backlog
        allowed = min(self.per_visit, self.window - others)
        if ring_backlog > backlog:  # others wait too: each gets its share of the window
            allowed = min(allowed, self.window * backlog // ring_backlog)
        return max(1, allowed)

    def update(self, token: Token, sent: int, backlog: int) -> None:
        """Write into *token* what this node sent and still has, in place of its last figures."""
        token.sent = max(0, token.sent - self.sent_before) + sent
        token.backlog = max(0, token.backlog - self.backlog_before) + backlog
        self.sent_before = sent
        self.backlog_before = backlog

    def restart(self) -> None:
        """A new ring begins."""
        self.sent_before = self.backlog_before = 0

"""The token's visit: what a node does between taking the token and passing it on.

Totem (TOCS 1995, section 4) with the Accelerated Ring rule (Babay and Amir, ICDCS 2016): the token
may go on before the last of the new frames, which overlaps this node's sending with the next one's.
Therefore a missing frame is asked for only if the token had counted it one rotation ago.
"""

from collections.abc import Callable
from typing import Final

from vsync.engine.counters import Counters
from vsync.engine.flow import Flow
from vsync.engine.log import Log
from vsync.vocabulary import NodeId
from vsync.wire.data import Packets
from vsync.wire.token import Token

ROUND_GAIN: Final = 0.1
"""How fast the measured time of a round sinks; it rises at once."""

RESEND_ROUNDS: Final = 4
RESEND_MIN_S: Final = 0.005

FEW_PACKETS: Final = 4
"""So many packets of a visit are sent before the token goes on."""

TOKEN_LOST_ROUNDS: Final = 10
TOKEN_LOST_STRETCH: Final = 4

NextFrame = Callable[[int, int], Packets]
"""Makes the frame with that sequence number, in up to so many packets if it can be cut, and adds it
to the log; its packets, none if nothing waits."""


class Visit:
    """What leaves the node at one visit: *before* the token, and *after* it."""

    __slots__ = ("after", "before")

    def __init__(self) -> None:
        self.before: list[Packets] = []
        self.after: list[Packets] = []


class Rotation:
    """One ring's token as one of its members sees it."""

    def __init__(self, me: NodeId, log: Log, flow: Flow, counters: Counters) -> None:
        self._me = me
        self._log = log
        self._flow = flow
        self._counters = counters
        self.token_seq = -1
        """Of the last token taken; one that is not above it is a copy."""
        self.seq_passed = 0
        """What the token counted when it went on from here."""
        self._aru_passed = 0
        self.idle_visits = 0
        """Visits in a row with nothing new on the ring."""
        self._seq_seen = 0
        self._answered: set[int] = set()
        self._arrived_at: float | None = None
        self._round_s = 0.0
        self.stuck_since: float | None = None
        """Since when this node alone holds up the ring for a frame that it misses."""

    def arrive(self, token: Token, now: float) -> None:
        """Note a fresh token, before anything is done with it."""
        self.token_seq = token.token_seq
        nothing_new = token.seq == self._seq_seen == token.aru and not token.requests
        was_busy = self.idle_visits == 0
        self.idle_visits = self.idle_visits + 1 if nothing_new else 0
        self._seq_seen = token.seq
        if self._arrived_at is not None and was_busy and not nothing_new:
            took = now - self._arrived_at
            self._round_s = max(took, self._round_s + (took - self._round_s) * ROUND_GAIN)
        self._arrived_at = now

    def resend_s(self, longest_s: float) -> float:
        """How long to wait before the token that now goes on is sent again.

        A busy ring shows how long a round takes; an idle one may hold the token.
        """
        return longest_s if self.idle_visits else self.answer_s(longest_s)

    def answer_s(self, longest_s: float) -> float:
        """How long to wait for what should come within a round, before it is asked for again."""
        if not self._round_s:
            return longest_s
        return min(longest_s, max(RESEND_MIN_S, RESEND_ROUNDS * self._round_s))

    def token_lost_s(self, usual_s: float) -> float:
        """After how much silence the token is lost: longer where rounds are slow, within limits."""
        return min(TOKEN_LOST_STRETCH * usual_s, max(usual_s, TOKEN_LOST_ROUNDS * self._round_s))

    def work(
        self,
        token: Token,
        next_frame: NextFrame,
        backlog: int,
        *,
        accelerated: int,
        now: float,
    ) -> Visit:
        """Repeat what is asked for, send what waits, and bring *token* up to date."""
        log = self._log
        visit = Visit()
        allowed = self._flow.allowed(token, backlog)
        repeats = self._answer(token, allowed)
        if repeats:
            visit.before.append(repeats)
        repeated = len(repeats)
        room = allowed - repeated
        new: list[Packets] = []
        sent = 0
        first = token.seq
        if self._flow.may_number(token, log.stable, log.held_packets_to(token.seq)):
            while sent < room:
                packets = next_frame(token.seq + 1, room - sent)
                if not packets:
                    break
                token.seq += 1
                sent += len(packets)
                new.append(packets)
        self._split(new, sent, accelerated, visit)
        if repeated:
            self._counters.add("packets_repeated", repeated)
        if sent:
            self._counters.add("frames_sent", token.seq - first)
        self._flow.update(token, repeated + sent, max(0, backlog - sent))
        self._account(token, now)
        self._request(token)
        token.token_seq += 1
        log.settle(min(self._aru_passed, token.aru))
        self._aru_passed = token.aru
        self.seq_passed = token.seq
        return visit

    @staticmethod
    def _split(new: list[Packets], sent: int, accelerated: int, visit: Visit) -> None:
        """Let up to so many packets go after the token, and the others before it.

        Those of one frame stay together: then they are sent, and come, in one go. A few all go
        before it: it gains next to nothing by being earlier, and who waits for them does.
        """
        before = sent if sent <= FEW_PACKETS else sent - accelerated
        for packets in new:
            (visit.before if before > 0 else visit.after).append(packets)
            before -= len(packets)

    def _answer(self, token: Token, allowed: int) -> list[bytes | memoryview]:
        """What is asked for and to be repeated now.

        What is asked for again, though we have just repeated it, is left to the others for a round:
        the path from us to who asks may be cut.
        """
        repeats: list[bytes | memoryview] = []
        if not (token.requests or self._answered):
            return repeats
        unanswered: dict[int, int] = {}
        answered: set[int] = set()
        for seq, wanted in token.requests.items():
            room = allowed - len(repeats)
            packets = self._log.packets(seq) if seq not in self._answered and room > 0 else ()
            for part, packet in enumerate(packets):
                if wanted >> part & 1 and room > 0:
                    repeats.append(packet)
                    wanted &= ~(1 << part)
                    room -= 1
            if packets:
                answered.add(seq)
                wanted &= (1 << len(packets)) - 1
            if wanted:
                unanswered[seq] = wanted
        self._answered = answered
        token.requests = unanswered
        return repeats

    def _account(self, token: Token, now: float) -> None:
        """Lower the token's aru to ours, or raise it if it was ours that was lowest."""
        # Whoever made up a frame beyond the token's count did not make it one.
        aru = min(self._log.aru, token.seq)
        if aru < token.aru or token.aru_owner in (0, self._me):
            if token.aru_owner == self._me and token.aru == aru < token.seq:
                self.stuck_since = now if self.stuck_since is None else self.stuck_since
            else:
                self.stuck_since = None
            token.aru = aru
            token.aru_owner = 0 if aru == token.seq else self._me
        else:
            self.stuck_since = None

    def _request(self, token: Token) -> None:
        if self._log.aru >= self.seq_passed:
            return
        requests = token.requests
        count_max = self._flow.requests_max
        for seq, parts in self._log.missing(self.seq_passed, count_max).items():
            if seq in requests:
                requests[seq] |= parts
            elif len(requests) < count_max:
                requests[seq] = parts
                self._counters.add("frames_requested", 1)

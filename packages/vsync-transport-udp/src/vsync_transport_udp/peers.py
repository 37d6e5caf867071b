"""Peers: who gets what is for everyone, where nodes are told of each other instead of multicast.

No sockets, no clock, no dice: hellos and time in, hellos and targets out.

An address gets the ring's packets for one of two reasons: it is listed in the settings, or a node
proved lately that it receives there. The proof is a challenge sent back: a number that depends on
a secret and on the address, so nobody knows it who did not receive it there. Somebody who sends
in another's name learns no challenge. Until then an address that was only heard of gets a few
hellos of the smallest size, and so many a second altogether (``Allowance``): nobody can make this
node flood a stranger. A hello without proof changes nothing here and is not even remembered; its
answer is no longer than itself.

Nodes are told apart by their instance, so one that is known by several addresses gets one copy,
and one that finds itself among its peers is not sent to.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import blake2b
from typing import Any, Final, TypeAlias

from vsync.errors import MalformedPacket
from vsync_transport_udp.hello import ADDRESSES_MAX, NO_RESPONSE, WORD_BYTES, Hello, tell

Place: TypeAlias = tuple[Any, ...]
"""An address as the socket calls take it: host, port and, with IPv6, flow and scope."""

HELLO_S: Final = 1.0
"""How often a peer is said hello to."""

FIRST_HELLO_S: Final = 0.1
"""How long the first answer is waited for; each time twice as long, up to ``HELLO_S``."""

SILENT_HELLOS: Final = 10
"""So many hellos without an answer, and a peer is silent. Counted, not timed, so that a node that
was itself asleep does not think that the others were."""

UNKNOWN_HELLOS: Final = 8
"""So many hellos does an address get of which another node told, before it is forgotten."""

TELL_S: Final = 5.0
"""How often a peer is told of the others, though nothing has changed."""

LEARNT_MAX: Final = 256
"""Addresses known beyond those in the settings."""

UNKNOWN_MAX: Final = 64
"""Addresses among them that have not answered yet."""

LEARNT_OF_HOST_MAX: Final = 16
"""Addresses among them that are ports of one host: no host gets many copies of everything."""

STRANGERS_MAX: Final = 8
"""Strangers who are named in a warning."""

SECRET_S: Final = 60.0
"""How long a challenge stands; the one before it is good, too."""

UNPROVED_PER_S: Final = 64
"""Hellos a second, at most, to addresses without proof: as answers to strangers, as answers in the
name of known addresses, and as questions where others told of an address."""


class Origin(IntEnum):
    """Where an address is known from; the first ones are believed first."""

    LISTED = 0  #: from ``peers``: gets everything, always
    SEED = 1  #: from ``seeds``: asked for ever, gets everything while it answers
    LEARNT = 2  #: from others, or by its own hello: gets everything while it answers


ORIGIN_WORDS: Final = {Origin.LISTED: "peers", Origin.SEED: "seeds", Origin.LEARNT: "learnt"}


@dataclass(slots=True, kw_only=True)
class Peer:
    """One address, and what is known of the node there."""

    place: Place
    origin: Origin
    name: str
    """As in the settings; one name may have several addresses."""
    hello_at: float
    own: bool = False
    """It is this very node."""
    up: bool = False
    """It has proved itself, and not been silent since."""
    instance: bytes = b""
    challenge: bytes = NO_RESPONSE
    heard_at: float = float("-inf")
    """When it proved itself last."""
    up_since: float = float("inf")
    unanswered: int = 0
    tell_at: float = float("-inf")
    """When it is to be told of the others (again)."""

    @property
    def state(self) -> str:
        """A word for people."""
        if self.own:
            return "own"
        if self.up:
            return "up"
        return "silent" if self.instance else "waiting"


class Allowance:
    """So many a second, and no more than that at once."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s = per_s
        self._left = per_s
        self._at = now

    def take(self, now: float) -> bool:
        """Whether one more is allowed; it is then counted."""
        self._left = min(self._per_s, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Peers:
    """All addresses of one node's peers.

    *own* is this node's address. *place_of* makes an address of a host and a port, or None if no
    peer can be there. *secret* and *instance* are random bytes. Times are seconds of one monotonic
    clock. Without *learning*, nobody becomes a peer whom the settings do not name.
    """

    def __init__(
        self,
        *,
        own: Place,
        place_of: Callable[[str, int], Place | None],
        instance: bytes,
        secret: bytes,
        learning: bool,
        forget_s: float,
        now: float,
    ) -> None:
        self._own = own
        self._place_of = place_of
        self._instance = instance
        self._secret = secret
        self._learning = learning
        self._forget_s = forget_s
        self._peers: dict[Place, Peer] = {}
        self._due_at = now
        self._targets: Sequence[Place] | None = None
        """None: to be chosen anew."""
        self._epoch = int(now // SECRET_S)
        self._asked: dict[bytes, Peer] = {}
        self._asked_before: dict[bytes, Peer] = {}
        self._aliases: dict[Place, str] = {}
        self._answers = Allowance(UNPROVED_PER_S, now)
        self._answers_to_known = Allowance(UNPROVED_PER_S, now)
        self._questions = Allowance(UNPROVED_PER_S, now)
        self._told_from = 0
        self._strangers: deque[str] = deque(maxlen=STRANGERS_MAX)
        self._sent = 0
        self._received = 0
        self._malformed = 0
        self._unproved = 0
        self._unanswered = 0
        self._refused = 0

    def add(self, place: Place, origin: Origin, name: str, now: float) -> None:
        """Take an address from the settings. The first reason to know an address is the one."""
        if place not in self._peers:
            own = place == self._own
            self._peers[place] = Peer(place=place, origin=origin, name=name, hello_at=now, own=own)
            self._due_at = min(self._due_at, now)
            self._targets = None

    # What comes

    def receive(self, packet: bytes, source: Place, now: float) -> bytes | None:
        """Take in what begins with ``MARK``; give the answer to *source*, if there is to be one."""
        self._received += 1
        try:
            hello = Hello.decode(packet)
        except MalformedPacket:
            self._malformed += 1
            return None
        self._turn(now)
        if hello.instance == self._instance:
            self._recognise(hello)
            return None
        if hello.response in self._challenges(source):
            return self._receive_proved(hello, source, now)
        self._unproved += 1
        return self._receive_unproved(hello, source, now)

    def _recognise(self, hello: Hello) -> None:
        """Our own hello came back: where it was sent to, there are we."""
        peer = self._asked.get(hello.challenge) or self._asked_before.get(hello.challenge)
        if peer is not None:
            peer.own, peer.up = True, False
            self._targets = None

    def _receive_unproved(self, hello: Hello, source: Place, now: float) -> bytes | None:
        if not self._learning and source not in self._peers and source not in self._aliases:
            # Did it get what was sent to a listed address, and answers from another one of its own?
            asked = self._asked.get(hello.response) or self._asked_before.get(hello.response)
            if asked is None or len(self._aliases) >= LEARNT_MAX:
                self._note_stranger(source)
                return None
            self._aliases[source] = asked.name
        # A flood in strangers' names does not use up what is for those whose address is known.
        allowance = self._answers_to_known if source in self._peers else self._answers
        if not allowance.take(now):
            self._unanswered += 1
            return None
        return self._hello(source, response=hello.challenge, wants_answer=True)

    def _receive_proved(self, hello: Hello, source: Place, now: float) -> bytes | None:
        peer = self._peers.get(source) or self._admit(source, now)
        if peer is None:
            self._refused += 1
            return None
        if not peer.up or peer.instance != hello.instance:
            peer.up, peer.instance, peer.up_since = True, hello.instance, now
            self._targets = None
            for other in self._peers.values():
                other.tell_at = now
        peer.own = False
        peer.challenge = hello.challenge
        peer.heard_at = now
        peer.unanswered = 0
        peer.hello_at = now + HELLO_S
        if self._learning:
            for host, port in hello.addresses:
                self._consider(host, port, now)
        if not hello.wants_answer:
            return None
        return self._hello(source, response=hello.challenge, told=self._news(peer, now))

    def _admit(self, source: Place, now: float) -> Peer | None:
        """Make a peer of an address that has proved itself, if there is room."""
        if (name := self._aliases.get(source)) is not None:
            return self._make(source, Origin.LISTED, name, now)
        if not self._learning or not self._make_room(source):
            return None
        return self._make(source, Origin.LEARNT, written(source), now)

    def _make_room(self, source: Place) -> bool:
        learnt = [peer for peer in self._peers.values() if peer.origin is Origin.LEARNT]
        same_host = [peer for peer in learnt if peer.place[0] == source[0]]
        for crowd, limit in ((same_host, LEARNT_OF_HOST_MAX), (learnt, LEARNT_MAX)):
            if len(crowd) >= limit:
                idle = [peer for peer in crowd if not peer.up]
                if not idle:
                    return False
                self._forget(min(idle, key=lambda peer: peer.heard_at))
                learnt = [peer for peer in learnt if peer.place in self._peers]
        return True

    def _consider(self, host: str, port: int, now: float) -> None:
        """Another node told of an address: ask there, if it makes sense and there is room."""
        place = self._place_of(host, port)
        if place is None or place == self._own or place in self._peers:
            return
        learnt = [peer for peer in self._peers.values() if peer.origin is Origin.LEARNT]
        unknown = sum(not peer.instance for peer in learnt)
        of_host = sum(peer.place[0] == place[0] for peer in learnt)
        if unknown < UNKNOWN_MAX and of_host < LEARNT_OF_HOST_MAX and len(learnt) < LEARNT_MAX:
            self._make(place, Origin.LEARNT, written(place), now)

    def _make(self, place: Place, origin: Origin, name: str, now: float) -> Peer:
        made = Peer(place=place, origin=origin, name=name, hello_at=now)
        self._peers[place] = made
        self._due_at = min(self._due_at, now)
        self._targets = None
        return made

    def _forget(self, peer: Peer) -> None:
        del self._peers[peer.place]
        self._targets = None

    def _note_stranger(self, source: Place) -> None:
        self._unanswered += 1
        name = written(source)
        if name not in self._strangers:
            self._strangers.append(name)

    # What goes

    def due(self, now: float) -> Sequence[tuple[Place, bytes]]:
        """The hellos to be sent now, and where to. Cheap while there are none."""
        return list(self._due(now)) if now >= self._due_at else ()

    def _due(self, now: float) -> Iterator[tuple[Place, bytes]]:
        self._turn(now)
        for peer in list(self._peers.values()):
            if peer.own or peer.hello_at > now:
                continue
            if self._is_forgotten(peer, now):
                self._forget(peer)
                continue
            known = bool(peer.instance)
            if peer.origin is Origin.LEARNT and not known and not self._questions.take(now):
                peer.hello_at = now + FIRST_HELLO_S
                continue
            wait_s = (
                HELLO_S if known else min(HELLO_S, FIRST_HELLO_S * 2 ** min(9, peer.unanswered))
            )
            peer.hello_at = now + wait_s
            peer.unanswered += 1
            if peer.up and peer.unanswered > SILENT_HELLOS:
                peer.up = False
                self._targets = None
            told = self._news(peer, now) if peer.up else b""
            yield (
                peer.place,
                self._hello(
                    peer.place,
                    response=peer.challenge,
                    wants_answer=True,
                    told=told,
                    asked=peer,
                ),
            )
        waiting = (peer.hello_at for peer in self._peers.values() if not peer.own)
        self._due_at = min(waiting, default=float("inf"))

    def _is_forgotten(self, peer: Peer, now: float) -> bool:
        if peer.origin is not Origin.LEARNT or peer.up:
            return False
        if not peer.instance:
            return peer.unanswered >= UNKNOWN_HELLOS
        return now - peer.heard_at > self._forget_s

    def _hello(
        self,
        place: Place,
        *,
        response: bytes,
        wants_answer: bool = False,
        told: bytes = b"",
        asked: Peer | None = None,
    ) -> bytes:
        self._sent += 1
        challenge = self._challenges(place)[0]
        if asked is not None and asked.origin is not Origin.LEARNT:
            self._asked[challenge] = asked
        return Hello(
            instance=self._instance,
            challenge=challenge,
            response=response,
            wants_answer=wants_answer,
            told=told,
        ).encode()

    def _news(self, receiver: Peer, now: float) -> bytes:
        """Addresses that answer, if it is time to tell *receiver*; each time another part of many.

        Only to those who are up: nobody else is sent more than the smallest hello.
        """
        if not self._learning or now < receiver.tell_at:
            return b""
        receiver.tell_at = now + TELL_S
        found = [(peer.place[0], peer.place[1]) for peer in self._peers.values() if peer.up]
        if len(found) > ADDRESSES_MAX:
            first = self._told_from % len(found)
            self._told_from = first + ADDRESSES_MAX
            found = (found[first:] + found[:first])[:ADDRESSES_MAX]
        return tell(each for each in found if each != receiver.place[:2])

    # Challenges

    def _turn(self, now: float) -> None:
        """Change the challenges from time to time: an address may get another holder."""
        epoch = int(now // SECRET_S)
        if epoch != self._epoch:
            self._asked_before = self._asked if epoch == self._epoch + 1 else {}
            self._asked = {}
            self._epoch = epoch

    def _challenges(self, place: Place) -> tuple[bytes, bytes]:
        """What to ask of that address, and what was asked of it before."""
        now, before = (
            blake2b(
                f"{epoch} {place!r}".encode(), key=self._secret, digest_size=WORD_BYTES
            ).digest()
            for epoch in (self._epoch, self._epoch - 1)
        )
        return now, before

    # Facts

    @property
    def targets(self) -> Sequence[Place]:
        """Where what is for everyone goes: one address of each peer."""
        if self._targets is None:
            self._targets = self._choose_targets()
        return self._targets

    def _choose_targets(self) -> Sequence[Place]:
        own = {peer.name for peer in self._peers.values() if peer.own}
        candidates = [peer for peer in self._peers.values() if peer.name not in own]
        settled = {peer.name for peer in candidates if peer.up}
        chosen: list[Place] = []
        instances: set[bytes] = set()
        # Who proved itself first keeps its instance: nobody takes it by claiming the same.
        for peer in sorted(candidates, key=lambda peer: (not peer.up, peer.origin, peer.up_since)):
            if not peer.up and (peer.origin is not Origin.LISTED or peer.name in settled):
                continue
            if peer.instance and peer.instance in instances:
                continue
            instances.add(peer.instance)
            chosen.append(peer.place)
        return chosen

    def facts(self, now: float) -> list[dict[str, Any]]:
        """Every address, for a status: ``heard_s`` is how long ago it proved itself, or None."""
        targets = set(self.targets)
        return [
            {
                "address": written(peer.place),
                "name": peer.name,
                "from": ORIGIN_WORDS[peer.origin],
                "state": peer.state,
                "served": peer.place in targets,
                "heard_s": round(now - peer.heard_at, 3) if peer.instance else None,
            }
            for peer in self._peers.values()
        ]

    @property
    def counters(self) -> dict[str, int]:
        """What was counted, for a status."""
        return {
            "hellos_sent": self._sent,
            "hellos_received": self._received,
            "hellos_malformed": self._malformed,
            "hellos_unproved": self._unproved,
            "hellos_unanswered": self._unanswered,
            "peers_refused": self._refused,
        }

    @property
    def warnings(self) -> list[str]:
        """What somebody should look at."""
        found = []
        if self._strangers:
            found.append(
                f"hellos come from {', '.join(self._strangers)}, which peers in [transport.udpu] "
                "does not name; if they are of this ring, name them there, or use seeds"
            )
        if self._refused:
            found.append(
                f"{self._refused} hellos came from further nodes than can be learnt "
                f"({LEARNT_MAX}, and {LEARNT_OF_HOST_MAX} of one host); name the nodes of this "
                "ring in peers"
            )
        return found


def written(place: Place) -> str:
    """An address as the settings have it."""
    host, port = place[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"

"""A model of Extended Virtual Synchrony that does its worst, with replicas of the map upon it.

No engine and no time: only what the properties allow. Messages of a configuration have one order;
who has *got* which of them is left to dice. An agreed message is delivered when everything up to it
was got; a safe one when everything up to it was got by all members. At any moment nodes may part,
meet, crash and restart: then those who go on together first deliver in the old configuration what
they must, and in the transitional one what is left, holes left out as the paper has it.
"""

from collections import deque
from dataclasses import dataclass, field
from math import inf
from random import Random

from vsync.vocabulary import Configuration, Guarantee, Kind, Member, NodeId, Priority, RingId
from vsync_services.kv.messages import Operation, Verdict
from vsync_services.kv.replica import (
    Answer,
    Note,
    Outcome,
    Replica,
    Result,
    Save,
    Send,
    Synchronized,
    Transfer,
)
from vsync_services.testing import Action, Call, CompareAndSet, Delete, Get, Set

KEYS = ("a", "b")
CHUNK_BYTES = 40


@dataclass(slots=True)
class Message:
    """One message in the order of a configuration. *control* is the ring's own."""

    sender: Member
    payload: bytes = b""
    guarantee: Guarantee = Guarantee.AGREED
    control: str = ""
    got: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Ring:
    """One regular configuration: its order, and how far each node has delivered it."""

    configuration: Configuration
    order: list[Message] = field(default_factory=list)
    delivered: dict[int, int] = field(default_factory=dict)
    known: int = 0
    """So many of the first messages have been got by all."""

    @property
    def members(self) -> tuple[NodeId, ...]:
        return self.configuration.members

    def stable(self, place: int) -> bool:
        """Whether all members have got everything up to that place."""
        while self.known < len(self.order) and self.order[self.known].got.issuperset(self.members):
            self.known += 1
        return place < self.known


@dataclass(slots=True)
class Waiting:
    """A command that a client waits for."""

    client: str
    key: str
    begin: int
    operation: Operation
    expected: int = 0
    value: bytes = b""


class Life:
    """One life of a node: its replica, and what it has to send."""

    def __init__(self, node: int, session: int, kept: bytes | None, changes_max: int) -> None:
        self.member = Member(NodeId(node), session)
        self.replica = Replica(kept=kept, changes_max=changes_max)
        self.urgent: deque[Message] = deque()
        self.ordinary: deque[Message] = deque()
        self.saves: deque[Save] = deque()
        self.synchronized: set[int] = set()
        self.ring: Ring | None = None
        self.waiting: dict[int, Waiting] = {}


class Bus:
    """So many nodes, with one vote each."""

    def __init__(self, nodes: int, seed: int, *, quorum: bool = True) -> None:
        self.dice = Random(seed)
        self.nodes = nodes
        self.quorum = quorum
        self.lives: dict[int, Life] = {}
        self.kept: dict[int, bytes | None] = dict.fromkeys(range(1, nodes + 1))
        self.sessions = 0
        self.rings = 0
        self.ticks = 0
        self.values = 0
        self.calls: list[Call] = []
        self.lost: list[str] = []
        self.watched: dict[int, dict[int, tuple[str, bytes | None]]] = {}
        """By node, the certain changes that a watch has told, by revision."""
        for node in self.kept:
            self.start(node)
        self.form([list(self.lives)])

    # --- what happens -----------------------------------------------------------------------------

    def start(self, node: int) -> None:
        """Begin a life of the node; it is alone until a configuration is formed."""
        self.sessions += 1
        self.lives[node] = Life(node, self.sessions, self.kept[node], 50)
        self.watched[node] = {}

    def crash(self, node: int) -> None:
        """End a life at once."""
        life = self.lives.pop(node)
        for waiting in life.waiting.values():
            self.note(waiting, unknown(waiting), inf)

    def step(self) -> None:
        """Something happens to a node that is in a configuration."""
        life = self.dice.choice(list(self.lives.values()))
        ring = life.ring
        if ring is None:
            return
        node = life.member.node
        chance = self.dice.random()
        if chance < 0.3:
            self.introduce(life, ring)
        elif chance < 0.6:
            missing = [message for message in ring.order if node not in message.got]
            for message in missing[: self.dice.choice((1, 3, 9))]:
                message.got.add(node)
        elif chance < 0.85:
            for _ in range(self.dice.choice((1, 4, 9))):
                self.deliver_next(life, ring)
        elif chance < 0.9 and life.saves:
            self.save(life)
        elif len(life.waiting) < 6:
            self.submit(life)
        self.watch(life)

    def introduce(self, life: Life, ring: Ring) -> None:
        """Give the node's next message its place in the order."""
        if life.urgent:
            message = life.urgent.popleft()
        elif life.ordinary and life.synchronized >= set(ring.members):
            message = life.ordinary.popleft()
        else:
            return
        message.got = {life.member.node}
        ring.order.append(message)

    def deliver_next(self, life: Life, ring: Ring) -> None:
        """Deliver one more message of the regular configuration, if the properties let it."""
        node = life.member.node
        place = ring.delivered[node]
        if place == len(ring.order):
            return
        message = ring.order[place]
        if node not in message.got:
            return
        if message.guarantee is Guarantee.SAFE and not ring.stable(place):
            return
        self.deliver(life, message)

    def deliver(self, life: Life, message: Message, *, transitional: bool = False) -> None:
        ring = life.ring
        assert ring is not None
        if not transitional:
            ring.delivered[life.member.node] += 1
        if message.control == "synchronized":
            life.synchronized.add(message.sender.node)
        elif message.control == "settled":
            if not transitional:
                self.settle(life, ring)
        else:
            life.replica.delivered(message.sender, message.payload)
            self.act(life)

    def settle(self, life: Life, ring: Ring) -> None:
        members = [self.members[ring.configuration.id][node] for node in ring.members]
        primary = 2 * len(ring.members) > self.nodes
        verdict = Verdict.PRIMARY if primary else Verdict.NOT_PRIMARY
        life.replica.settled(
            ring.configuration,
            life.member,
            members,
            verdict if self.quorum else Verdict.UNDECIDED,
            "too few",
        )
        self.act(life)

    members: dict[str, dict[NodeId, Member]]

    def save(self, life: Life) -> None:
        save = life.saves.popleft()
        self.kept[life.member.node] = save.data
        life.replica.saved(save.configuration)
        self.act(life)

    # --- configurations ---------------------------------------------------------------------------

    def form(self, sides: list[list[int]]) -> None:
        """End the configurations of these nodes; each side goes on in one of its own."""
        self.members = getattr(self, "members", {})
        for side in sides:
            nodes = sorted(node for node in side if node in self.lives)
            if not nodes:
                continue
            self.rings += 1
            ring_id = str(RingId(self.rings, NodeId(nodes[0])))
            old = {id(self.lives[node].ring): self.lives[node].ring for node in nodes}
            for ring in old.values():
                if ring is not None:
                    going = [node for node in nodes if self.lives[node].ring is ring]
                    self.recover(ring, going, ring_id)
            configuration = Configuration(
                id=ring_id, kind=Kind.REGULAR, members=tuple(map(NodeId, nodes))
            )
            formed = Ring(configuration, delivered=dict.fromkeys(nodes, 0))
            self.members[ring_id] = {NodeId(node): self.lives[node].member for node in nodes}
            first = self.lives[nodes[0]].member
            formed.order.append(Message(first, control="settled", got={nodes[0]}))
            for node in nodes:
                life = self.lives[node]
                life.ring = formed
                life.synchronized = set()
                life.urgent.clear()
                life.replica.configured(configuration)
                self.act(life)

    def recover(self, ring: Ring, going: list[int], following: str) -> None:
        """Deliver what is left of *ring* to those who go on together."""
        known = set(going)
        furthest = max(ring.delivered[node] for node in going)
        end = furthest
        while end < len(ring.order):
            message = ring.order[end]
            if not message.got & known:
                break
            if message.guarantee is Guarantee.SAFE and not (
                ring.stable(end) and self.dice.random() < 0.5
            ):
                break
            end += 1
        rest: list[Message] = []
        hole = False
        for message in ring.order[end:]:
            if not message.got & known:
                hole = True
            elif not hole or message.sender.node in known:
                rest.append(message)
        transitional = Configuration(
            id=f"{ring.configuration.id}>{following}",
            kind=Kind.TRANSITIONAL,
            members=tuple(map(NodeId, going)),
            next=following,
        )
        for node in going:
            life = self.lives[node]
            while ring.delivered[node] < end:
                self.deliver(life, ring.order[ring.delivered[node]])
            life.replica.configured(transitional)
            self.act(life)
            for message in rest:
                self.deliver(life, message, transitional=True)

    # --- what replicas ask for --------------------------------------------------------------------

    def act(self, life: Life) -> None:
        for effect in life.replica.take_effects():
            match effect:
                case Send(payload, guarantee, priority):
                    message = Message(life.member, payload, guarantee)
                    queue = life.urgent if priority is Priority.RECOVERY else life.ordinary
                    queue.append(message)
                case Transfer(messages):
                    life.urgent.extend(
                        Message(life.member, payload) for payload in messages(CHUNK_BYTES)
                    )
                case Save():
                    life.saves.append(effect)
                case Synchronized():
                    life.urgent.append(Message(life.member, control="synchronized"))
                case Answer(number, result):
                    self.answered(life, number, result)
                case Note(text, bad):
                    if bad and "is lost" in text:
                        self.lost.append(text)
                        self.check_lost(life, RingId.from_text(text.split()[4]))

    def check_lost(self, life: Life, ring: RingId) -> None:
        """A map may be called lost only where nobody has it, or a newer one, anywhere."""
        assert life.ring is not None
        present = RingId.from_text(life.ring.configuration.id)
        for other in self.lives.values():
            store = other.replica.store
            assert not store.live or store.history < ring or store.history == present, (
                f"node {other.member.node} has {store.point}"
            )

    # --- clients ----------------------------------------------------------------------------------

    def tick(self) -> int:
        self.ticks += 1
        return self.ticks

    def submit(self, life: Life) -> None:
        key = self.dice.choice(KEYS)
        self.values += 1
        value = b"%d" % self.values
        entry = life.replica.get(key)
        operation = self.dice.choice(list(Operation))
        expected = entry.revision if entry is not None else 0
        waiting = Waiting(f"{life.member}", key, self.tick(), operation, expected, value)
        number = life.replica.submit(operation, key, value, expected)
        life.waiting[number] = waiting
        self.act(life)

    def answered(self, life: Life, number: int, result: Result) -> None:
        waiting = life.waiting.pop(number)
        if result.outcome is Outcome.NOT_PRIMARY:
            return
        if result.outcome is Outcome.UNKNOWN:
            self.note(waiting, unknown(waiting), inf)
            return
        self.note(waiting, known(waiting, life.replica, result), self.tick())

    def note(self, waiting: Waiting, action: Action | None, end: float) -> None:
        if action is not None:
            self.calls.append(
                Call(
                    client=waiting.client,
                    key=waiting.key,
                    begin=waiting.begin,
                    end=end,
                    action=action,
                )
            )

    def watch(self, life: Life) -> None:
        """What a watch on this node has told by now: all that is certain, and still kept."""
        replica = life.replica
        told = self.watched[life.member.node]
        for change in replica.store.changes:
            if change.revision <= replica.visible.revision:
                told.setdefault(change.revision, (change.key, change.value))


def unknown(waiting: Waiting) -> Action | None:
    """What is known of a command without an answer."""
    match waiting.operation:
        case Operation.READ:
            return None
        case Operation.SET:
            return Set(waiting.value, None)
        case Operation.DELETE:
            return Delete(None)
        case Operation.COMPARE_AND_SET:
            return CompareAndSet(waiting.expected, waiting.value, None, None)
        case Operation.COMPARE_AND_DELETE:
            return CompareAndSet(waiting.expected, None, None, None)


def known(waiting: Waiting, replica: Replica, result: Result) -> Action:
    """What a client was told."""
    match waiting.operation:
        case Operation.READ:
            entry = replica.get(waiting.key)
            return Get(None, 0) if entry is None else Get(entry.value, entry.revision)
        case Operation.SET:
            return Set(waiting.value, result.revision)
        case Operation.DELETE:
            return Delete(result.revision > 0)
        case Operation.COMPARE_AND_SET | Operation.COMPARE_AND_DELETE:
            swapped = result.outcome is Outcome.OK
            deletes = waiting.operation is Operation.COMPARE_AND_DELETE
            value = None if deletes else waiting.value
            return CompareAndSet(waiting.expected, value, swapped, result.revision)


def run(
    seed: int, *, nodes: int = 3, quorum: bool = True, deaths: bool = True, steps: int = 3000
) -> Bus:
    """A bus on which everything happened, and which came to rest."""
    bus = Bus(nodes, seed, quorum=quorum)
    dice = bus.dice
    for _ in range(steps):
        chance = dice.random()
        if chance < 0.004:
            sides: dict[int, list[int]] = {}
            for node in bus.lives:
                sides.setdefault(dice.choice((0, 0, 0, 1, 1, 2)), []).append(node)
            bus.form(list(sides.values()))
        elif chance < 0.006:
            bus.form([list(bus.lives)])
        elif deaths and chance < 0.0072 and len(bus.lives) > 1:
            bus.crash(dice.choice(list(bus.lives)))
        elif deaths and chance < 0.0095 and len(bus.lives) < nodes:
            bus.start(next(node for node in bus.kept if node not in bus.lives))
        else:
            bus.step()
    for node in bus.kept:
        if node not in bus.lives:
            bus.start(node)
    bus.form([list(bus.lives)])
    settle(bus)
    return bus


def settle(bus: Bus) -> None:
    """Let everything be delivered, until nothing is left to do."""
    while True:
        busy = False
        for life in bus.lives.values():
            ring = life.ring
            assert ring is not None
            before = (len(ring.order), ring.delivered[life.member.node], len(life.saves))
            bus.introduce(life, ring)
            for message in ring.order:
                message.got.add(life.member.node)
            while life.saves:
                bus.save(life)
            for _ in range(len(ring.order)):
                bus.deliver_next(life, ring)
            bus.watch(life)
            after = (len(ring.order), ring.delivered[life.member.node], len(life.saves))
            busy = busy or before != after
        if not busy:
            return

"""A model of correct Extended Virtual Synchrony, far simpler than a ring: it knows everything.

It makes the traces of whole clusters from a seed: four guarantees and priorities, early delivery,
loss of what only lost nodes had, partitions, merges, crashes, restarts, and installations that only
a part of the members completes. What it makes is correct by construction, so a checker that
objects is wrong.
"""

import random
from dataclasses import dataclass, field

RANKS = {"unordered": 0, "fifo": 1, "agreed": 2, "safe": 3}
PRIORITIES = ("recovery", "high", "medium", "low")


@dataclass(eq=False)
class Letter:
    """A message."""

    id: str
    sender: "Member"
    guarantee: str
    priority: str

    @property
    def rank(self) -> int:
        return RANKS[self.guarantee]

    def is_followed_by(self, other: "Letter") -> bool:
        """Whether the two belong to one FIFO stream."""
        return self.sender is other.sender and self.priority == other.priority


@dataclass(eq=False)
class Ring:
    """A regular configuration, and the total order of what was introduced in it."""

    id: str
    members: list[int]
    log: list[Letter] = field(default_factory=list)


@dataclass(eq=False)
class Member:
    """One life of a node."""

    node: int
    life: str
    ring: Ring | None = None
    configuration: str = ""
    known: tuple[int, ...] = ()
    counter: int = 0
    pending: list[Letter] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    delivered: set[str] = field(default_factory=set)
    owed: set[int] = field(default_factory=set)
    frozen: bool = False


class Model:
    """Make a run with ``play``; its trace is ``lines``, in the order in which all happened."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.dice = random.Random(seed)
        self.nodes = list(range(1, nodes + 1))
        self.lines: list[dict[str, object]] = []
        self.alive: dict[int, Member] = {}
        self.clock = 0
        self.ring_seq = 0
        self.lives = 0
        for node in self.nodes:
            self.boot(node)

    @property
    def running(self) -> list[tuple[int, str]]:
        return [(member.node, member.life) for member in self.alive.values()]

    def play(self, steps: int) -> None:
        """Let *steps* things happen, then end quietly."""
        deeds = [
            (self.send, 30),
            (self.introduce, 30),
            (self.receive, 60),
            (self.deliver_some, 30),
            (self.reconfigure, 4),
            (self.crash, 1),
            (self.restart, 1),
            (self.leave, 1),
        ]
        kinds, weights = zip(*deeds, strict=True)
        for deed in self.dice.choices(kinds, weights, k=steps):
            deed()
        self.settle()

    def settle(self) -> None:
        """Heal everything, introduce and deliver everything."""
        members = list(self.alive.values())
        self.install(members, failing=False)
        while any(member.pending for member in members):
            self.introduce()
        for member in members:
            assert member.ring is not None
            member.held.update(letter.id for letter in member.ring.log)
        for member in members:
            self.deliver_what_is_due(member)

    # What happens

    def boot(self, node: int) -> None:
        self.lives += 1
        member = Member(node, f"life{self.lives}")
        self.alive[node] = member
        self.write(member, "start", version="1", transport="model", ring="r")
        self.install([member], failing=False)

    def send(self) -> None:
        member = self.anyone()
        member.counter += 1
        letter = Letter(
            f"{member.node}-{member.life}-{member.counter}",
            member,
            self.dice.choice(list(RANKS)),
            self.dice.choice(PRIORITIES),
        )
        member.pending.append(letter)
        self.write(
            member, "send", **self.contents(letter), message=letter.id, priority=letter.priority
        )

    def introduce(self) -> None:
        member = self.anyone()
        if not member.pending or member.frozen:
            return
        assert member.ring is not None
        letter = min(member.pending, key=lambda letter: PRIORITIES.index(letter.priority))
        member.pending.remove(letter)
        member.ring.log.append(letter)
        member.held.add(letter.id)

    def receive(self) -> None:
        member = self.anyone()
        assert member.ring is not None
        lacking = [letter for letter in member.ring.log if letter.id not in member.held]
        # Only who holds it can send it again: the living of this ring.
        lacking = [
            letter
            for letter in lacking
            if any(letter.id in m.held for m in self.alive.values() if m.ring is member.ring)
        ]
        if lacking and not member.frozen:
            member.held.add(self.dice.choice(lacking[:4]).id)

    def deliver_some(self) -> None:
        member = self.anyone()
        if not member.frozen:
            self.deliver_what_is_due(member)

    def reconfigure(self) -> None:
        """Part and merge at random: new rings of whoever finds whom."""
        members = list(self.alive.values())
        self.dice.shuffle(members)
        count = self.dice.choice([1, 1, 2, 3])
        for part in range(count):
            if members[part::count]:
                self.install(members[part::count], failing=self.dice.random() < 0.3)

    def crash(self) -> None:
        if len(self.alive) == 1:
            return
        member = self.anyone()
        del self.alive[member.node]
        # The last lines never reached the kernel; what was sent had.
        mine = [n for n, line in enumerate(self.lines) if line["life"] == member.life]
        for number in reversed(mine[-self.dice.randrange(4) :]):
            if self.lines[number]["event"] not in ("deliver", "configuration"):
                break
            del self.lines[number]

    def restart(self) -> None:
        gone = [node for node in self.nodes if node not in self.alive]
        if gone:
            self.boot(self.dice.choice(gone))

    def leave(self) -> None:
        member = self.anyone()
        if len(self.alive) == 1 or member.pending or member.frozen:
            return
        assert member.ring is not None
        self.deliver_what_is_due(member)
        own = {letter.id for letter in member.ring.log if letter.sender is member}
        if own <= member.delivered:
            self.write(member, "stop", reason="asked to")
            del self.alive[member.node]

    # How a configuration changes

    def install(self, members: list[Member], *, failing: bool) -> None:
        """Form a ring of *members*; if *failing*, not all of those of one old ring complete it."""
        members = sorted(members, key=lambda member: member.node)
        self.ring_seq += 4
        ring = Ring(f"{self.ring_seq}.{members[0].node}", [member.node for member in members])
        groups: dict[int, list[Member]] = {}
        for member in members:
            groups.setdefault(id(member.ring), []).append(member)
        for group in groups.values():
            finishing = group
            if group[0].ring is not None:
                in_old, in_between = self.recover(group)
                if failing and len(group) > 1:
                    finishing = group[: self.dice.randrange(1, len(group))]
                    for member in group[len(finishing) :]:
                        member.frozen = True
                        member.owed = {m.node for m in group} | set().union(
                            *(m.owed for m in group)
                        )
                for member in finishing:
                    self.finish(member, group, ring, in_old, in_between)
            for member in finishing:
                joined = [node for node in ring.members if node not in member.known]
                self.configure(member, ring.id, "regular", ring.members, joined, [])
                member.ring = ring
                member.held, member.delivered = set(), set()
                member.owed, member.frozen = set(), False

    def recover(self, group: list[Member]) -> tuple[list[Letter], list[Letter]]:
        """Exchange what the group holds; what it delivers in the old ring, and in between."""
        ring = group[0].ring
        assert ring is not None
        held = set().union(*(member.held for member in group))
        for member in group:
            member.held = set(held)
        done = set().union(*(member.delivered for member in group))
        faithful = {m.node for m in group} | set().union(*(m.owed for m in group))
        end = max(
            (n + 1 for n, letter in enumerate(ring.log) if letter.id in done and letter.rank >= 2),
            default=0,
        )
        prefix = 0
        for letter in ring.log:
            if letter.id not in held or (letter.rank == 3 and prefix >= end):
                break
            prefix += 1
        in_old = ring.log[:prefix]
        for letter in ring.log[prefix:]:
            early = letter.rank == 0 or (letter.rank == 1 and self.follows(letter, in_old, ring))
            if early and letter.id in held:
                in_old.append(letter)
        in_between: list[Letter] = []
        gap = False
        for letter in ring.log[prefix:]:
            gap = gap or letter.id not in held
            if letter in in_old or letter.id not in held:
                continue
            if not self.follows(letter, in_old + in_between, ring):
                continue
            if letter.rank == 1 or not gap or letter.sender.node in faithful:
                in_between.append(letter)
        return in_old, in_between

    def follows(self, letter: Letter, delivered: list[Letter], ring: Ring) -> bool:
        """Whether all before it in its FIFO stream are among *delivered*."""
        for before in ring.log:
            if before is letter:
                return True
            if before.rank and before.is_followed_by(letter) and before not in delivered:
                return False
        raise AssertionError

    def finish(
        self,
        member: Member,
        group: list[Member],
        ring: Ring,
        in_old: list[Letter],
        in_between: list[Letter],
    ) -> None:
        old = member.ring
        assert old is not None
        for letter in in_old:
            self.deliver(member, letter)
        together = [m.node for m in group]
        left = [node for node in old.members if node not in together]
        self.configure(member, f"{old.id}>{ring.id}", "transitional", together, [], left, ring.id)
        for letter in in_between:
            self.deliver(member, letter)

    # How messages are delivered

    def deliver_what_is_due(self, member: Member) -> None:
        ring = member.ring
        assert ring is not None
        blocked = False
        for letter in ring.log:
            here = letter.id in member.held
            if not here:
                blocked = True
            elif letter.rank == 0:
                self.deliver(member, letter)
            elif letter.rank == 1:
                done = [other for other in ring.log if other.id in member.delivered]
                if not blocked or self.follows(letter, done, ring):
                    self.deliver(member, letter)
            elif not blocked:
                if letter.rank == 3 and not self.everywhere(letter, ring):
                    blocked = True
                else:
                    self.deliver(member, letter)

    def everywhere(self, letter: Letter, ring: Ring) -> bool:
        """Whether all members hold everything up to it."""
        upto = {other.id for other in ring.log[: ring.log.index(letter) + 1]}
        holders = [m.node for m in self.alive.values() if m.ring is ring and upto <= m.held]
        return sorted(holders) == ring.members

    def deliver(self, member: Member, letter: Letter) -> None:
        if letter.id in member.delivered:
            return
        member.delivered.add(letter.id)
        self.write(
            member,
            "deliver",
            **self.contents(letter),
            message=letter.id,
            sender=letter.sender.node,
            configuration=member.configuration,
        )

    # Lines

    def anyone(self) -> Member:
        return self.dice.choice(list(self.alive.values()))

    def contents(self, letter: Letter) -> dict[str, object]:
        return {
            "groups": ["00" * 32],
            "guarantee": letter.guarantee,
            "size": len(letter.id),
            "digest": f"{sum(letter.id.encode()):016x}",
        }

    def configure(
        self,
        member: Member,
        id: str,
        kind: str,
        members: list[int],
        joined: list[int],
        left: list[int],
        following: str | None = None,
    ) -> None:
        member.configuration = id
        member.known = tuple(members)
        more = {"next": following} if following else {}
        self.write(
            member,
            "configuration",
            id=id,
            kind=kind,
            members=members,
            joined=joined,
            left=left,
            **more,
        )

    def write(self, member: Member, event: str, **fields: object) -> None:
        self.clock += 1
        head: dict[str, object] = {"t": self.clock, "node": member.node, "life": member.life}
        self.lines.append({**head, "event": event, **fields})

"""A model of rings that change their key: Rekeying and key disks in the worst of worlds.

Nodes on several sides propose changes, part at any place of the order, meet again, restart without
their memory, have slow disks and such as fail. What is delivered while a ring parts differs from
side to side, as Extended Virtual Synchrony allows. Everything is drawn from one seed.
"""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random

from vsync.engine.rekeying import KeyStep, Name, Rekeying, Step
from vsync.errors import SettingsError
from vsync.key_change import do_step, switch
from vsync.keys import Key, KeyRing
from vsync.seal.wrapping import wrap_key
from vsync.testing.key_disk import KeyDisk
from vsync.vocabulary import NodeId
from vsync.wire import KeyNews

FOUNDERS = 4
NODES = 6
"""The others are started later, with the first key."""

HEALING_ROUNDS = 200
"""In each, every node's disk does a step, and what all say is delivered to all."""


@dataclass(eq=False)
class Ring:
    """A configuration and its order."""

    members: frozenset[NodeId]
    order: list[tuple[NodeId, KeyNews]] = field(default_factory=list)


@dataclass(eq=False)
class Machine:
    """A node's disk, and the node while it runs."""

    node: NodeId
    disk: KeyDisk = field(default_factory=KeyDisk)
    ring: Ring | None = None
    """None: it does not run."""
    delivered: int = 0
    """How much of its ring's order."""
    met: set[NodeId] = field(default_factory=set)
    """With whom it ever was in one configuration, directly or not."""
    took_part: set[Name] = field(default_factory=set)
    """In these changes, in any life, if they were not given up."""
    accepted: set[Name] = field(default_factory=set)
    """Of these, what it has had on its disk and was not given up."""
    begun: set[Name] = field(default_factory=set)
    given_up: set[Name] = field(default_factory=set)
    forgot: bool = False
    """It begins to use a key with strangers, having forgotten in a restart whom it knew: nobody
    there can remind it, so it leaves those for good. That is a limit of the design."""

    def start(self) -> None:
        self.rekeying = Rekeying(self.node)
        self.keys: KeyRing = self.disk.keys
        self.to_send: deque[KeyNews] = deque()
        self.to_do: deque[KeyStep] = deque()

    def take_outputs(self) -> None:
        rekeying = self.rekeying
        if rekeying.known is not None:
            self.took_part.add(rekeying.known.name)
        self.to_send += rekeying.outgoing
        rekeying.outgoing.clear()
        notices, rekeying.notices = rekeying.notices, []
        for notice in notices:
            if isinstance(notice, KeyStep):
                switch(notice, self.keys)
                if notice.step is Step.USE:
                    self.begun.add(notice.name)
                    known = rekeying.known
                    assert known is not None
                    self.forgot |= not self.met <= known.members | known.others | {self.node}
                self.to_do.append(notice)
        outcomes = rekeying._outcomes.values()
        self.given_up |= {outcome.name for outcome in outcomes if outcome.given_up}
        self.accepted -= self.given_up
        self.took_part -= self.given_up

    def hear(self, sender: NodeId, news: KeyNews, members: frozenset[NodeId]) -> None:
        self.rekeying.hear(sender, news, members)
        self.take_outputs()

    def do_step(self) -> None:
        """Let the disk do what it has to do first."""
        assert self.ring is not None
        step = self.to_do[0]
        done, failure = step.step, ""
        try:
            done = do_step(step, self.keys, self.disk)
        except SettingsError as error:
            if not step.may_fail:
                return
            failure = str(error)
        self.to_do.popleft()
        if step.step is not Step.UNDO:
            if step.step is Step.ACCEPT and not failure:
                self.accepted.add(step.name)
            used = self.keys.used.id
            self.rekeying.step_done(step.name, done, failure, used, self.ring.members)
            self.take_outputs()

    @property
    def present_keys(self) -> KeyRing:
        """What it has in memory, or would have if it were started now."""
        return self.disk.keys if self.ring is None else self.keys

    def reads(self, other: "Machine") -> bool:
        return self.present_keys.find(other.present_keys.used.id) is not None


class Model:
    """Some nodes, and all that may happen to them."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.machines = {NodeId(number): Machine(NodeId(number)) for number in range(1, NODES + 1)}
        self.proposals = 0
        self.helped = 0
        self.healing = False
        founders = [self.machines[NodeId(number)] for number in range(1, FOUNDERS + 1)]
        for machine in founders:
            self._boot(machine)
        self._form(founders)

    @property
    def running(self) -> list[Machine]:
        return [machine for machine in self.machines.values() if machine.ring is not None]

    @property
    def forgotten(self) -> bool:
        """Somebody forgot all whom it knew, so nothing is promised any more."""
        return any(machine.forgot for machine in self.machines.values())

    # --- what may happen ------------------------------------------------------------------------

    def run(self, events: int) -> None:
        kinds = (self.say, self.deliver, self.use_disk, self.regroup, self.restart, self.propose)
        weights = (30, 60, 30, 1.5, 0.5, 3)
        for _ in range(events):
            (kind,) = self.random.choices(kinds, weights)
            kind()
            if self.forgotten:
                return
            self.check()
            if self.random.random() < 0.005:
                disk = self.random.choice(list(self.machines.values())).disk
                disk.failure = "" if disk.failure else "no room"

    def say(self) -> None:
        """What somebody has to say gets its place in the order."""
        machine = self.random.choice(self.running)
        if machine.to_send and machine.ring is not None:
            machine.ring.order.append((machine.node, machine.to_send.popleft()))

    def deliver(self) -> None:
        machine = self.random.choice(self.running)
        if machine.ring is not None:
            self._deliver_to(machine, machine.delivered + self.random.randint(1, 3))

    def use_disk(self) -> None:
        machine = self.random.choice(self.running)
        if machine.to_do:
            machine.do_step()

    def restart(self) -> None:
        """A node dies, and is perhaps started at once; or one is started that does not run."""
        machine = self.random.choice(list(self.machines.values()))
        if machine.ring is not None:
            if len(self.running) == 1:
                return
            if machine.to_do and self.random.random() < 0.5:
                with suppress(SettingsError):  # it may have reached the disk
                    do_step(machine.to_do[0], machine.keys, machine.disk)
            ring = machine.ring
            machine.ring = None
            self._part(ring, [each for each in self.running if each.ring is ring])
            if self.random.random() < 0.3:
                return
        self._boot(machine)

    def propose(self) -> None:
        machine = self.random.choice(self.running)
        assert machine.ring is not None
        # A node that remembers others who are away does not begin; and nobody can wait for those
        # whom all have forgotten, so it does not begin then, either.
        if machine.met <= machine.ring.members:
            self._propose(machine)

    def _propose(self, machine: Machine) -> None:
        """As the keeper does it."""
        disk, ring = machine.disk, machine.ring
        assert ring is not None
        if machine.rekeying.known is not None or disk.used.id != machine.keys.used.id:
            return
        self.proposals += 1
        old = disk.used
        if disk.next is not None:
            new = disk.next
        elif disk.previous is not None and disk.previous.id != old.id:
            new, old = old, disk.previous
        else:
            new = Key(self.random.randbytes(32))
        news = KeyNews(
            self.random.getrandbits(40), new.id, old.id, wrap_key(new, old), members=ring.members
        )
        machine.rekeying.say(news)
        machine.take_outputs()

    def regroup(self) -> None:
        """All who run are put into configurations anew, or two of these become one, or one two."""
        rings = list({id(each.ring): each.ring for each in self.running}.values())
        chosen = self.random.sample(rings, min(len(rings), self.random.randint(1, 3)))
        nodes = [each for each in self.running if each.ring in chosen]
        sides: list[list[Machine]] = [[], []] if self.random.random() < 0.5 else [[]]
        for machine in nodes:
            self.random.choice(sides).append(machine)
        for side in sides:
            if side:
                self._form(side)

    # --- configurations -------------------------------------------------------------------------

    def _boot(self, machine: Machine) -> None:
        machine.start()
        machine.ring, machine.delivered = Ring(frozenset({machine.node})), 0
        machine.rekeying.configured(machine.ring.members)
        machine.take_outputs()

    def _deliver_to(self, machine: Machine, until: int) -> None:
        ring = machine.ring
        assert ring is not None
        for sender, news in ring.order[machine.delivered : until]:
            machine.hear(sender, news, ring.members)
        machine.delivered = max(machine.delivered, min(until, len(ring.order)))

    def _part(self, ring: Ring, rest: list[Machine]) -> None:
        if rest:
            self._form(rest)

    def _form(self, side: list[Machine]) -> None:
        """These form a configuration, as far as they can read each other."""
        rings = list({id(each.ring): each.ring for each in side}.values())
        stays: dict[int, list[Machine]] = {
            id(ring): [each for each in side if each.ring is ring] for ring in rings
        }
        # What one of those who stay together has seen, all of them see; of the rest they may have
        # everything up to some place, and after a hole only what one of them has said.
        holes: dict[int, int] = {}
        for ring in rings:
            assert ring is not None
            together = stays[id(ring)]
            seen = max(each.delivered for each in together)
            for machine in together:
                self._deliver_to(machine, seen)
            holes[id(ring)] = self.random.randint(seen, len(ring.order))
            if self.random.random() < 0.5:  # as messages of a whole ring, before it parts
                for machine in together:
                    self._deliver_to(machine, holes[id(ring)])
        side, unread = self._who_read_each_other(side)
        members = frozenset(each.node for each in side)
        for machine in side:
            ring = machine.ring
            assert ring is not None
            together_nodes = {each.node for each in side if each.ring is ring}
            hole = holes[id(ring)]
            for place in range(machine.delivered, len(ring.order)):
                sender, news = ring.order[place]
                if sender in together_nodes or place < hole:
                    machine.hear(sender, news, members)
        new = Ring(members)
        for machine in side:
            assert machine.ring is not None
            left = machine.ring.members - members
            machine.ring, machine.delivered = new, 0
            machine.rekeying.configured(members, left)
            machine.take_outputs()
        met = set[NodeId]().union(members, *(machine.met for machine in side))
        for node in met:
            self.machines[node].met |= met
        if unread:
            self._form(unread)

    def _who_read_each_other(self, side: list[Machine]) -> tuple[list[Machine], list[Machine]]:
        found: list[Machine] = []
        order = sorted(side, key=lambda machine: machine.node)
        for machine in order if self.healing else self.random.sample(side, len(side)):
            if all(machine.reads(each) and each.reads(machine) for each in found):
                found.append(machine)
        return found, [machine for machine in side if machine not in found]

    # --- what must hold -------------------------------------------------------------------------

    def check(self) -> None:
        machines = list(self.machines.values())
        begun = set[Name]().union(*(machine.begun for machine in machines))
        given_up = set[Name]().union(*(machine.given_up for machine in machines))
        if begun & given_up:
            raise AssertionError("a change was given up by some and begun by others")
        for one in machines:
            for other in machines:
                together = one.ring is not None and one.ring is other.ring
                founders = max(one.node, other.node) <= FOUNDERS
                took_part = founders and one.accepted & other.accepted
                if (together or took_part) and not one.reads(other):
                    raise AssertionError(
                        f"node {one.node} cannot read node {other.node}"
                        + (", and they are in one configuration" if together else "")
                    )

    def heal(self) -> None:
        """All run, their disks work, and whoever has met somebody finds it again. Then there must
        be one key in the end."""
        if self.forgotten:
            return
        self.healing = True
        for machine in self.machines.values():
            machine.disk.failure = ""
            if machine.ring is None:
                self._boot(machine)
        for _ in range(2 * NODES):
            for _ in range(3):  # who learns of the new key meanwhile can be read by others then
                self._merge()
                self._settle()
            if self._help_who_came_late():
                continue
            self._expect_no_change_under_way()
            left = [
                machine
                for machine in self.running
                if machine.disk.next is not None or machine.disk.previous is not None
            ]
            if not left:
                break
            self._propose(self.random.choice(left))  # as `vsync status` says there
        for machine in self.running:
            for other in self.running:
                if machine.took_part & other.took_part and machine.keys.used != other.keys.used:
                    raise AssertionError(f"{machine.node} and {other.node} use different keys")
                if machine.took_part & other.took_part and machine.ring is not other.ring:
                    raise AssertionError(f"{machine.node} and {other.node} stay apart")
            if machine.keys.keys != (machine.disk.used,) or machine.disk.next is not None:
                raise AssertionError(f"node {machine.node} has more than one key")

    def _merge(self) -> None:
        # Who has met somebody finds it again. Others are strangers, and are so for good if one has
        # changed its key alone, or comes too late.
        sides: list[list[Machine]] = []
        for machine in self.running:
            for side in sides:
                if machine.met & side[0].met or all(
                    machine.reads(each) and each.reads(machine) for each in side
                ):
                    side.append(machine)
                    break
            else:
                sides.append([machine])
        for side in sides:
            self._form(side)

    def _settle(self) -> None:
        for _ in range(HEALING_ROUNDS):
            quiet = True
            for machine in self.running:
                if machine.to_do:
                    before = len(machine.to_do)
                    machine.do_step()
                    quiet = quiet and len(machine.to_do) == before  # it cannot, and tries again
                while machine.to_send:
                    quiet = False
                    assert machine.ring is not None
                    machine.ring.order.append((machine.node, machine.to_send.popleft()))
            for machine in self.running:
                self._deliver_to(machine, 1 << 30)
            self.check()
            if quiet:
                return
        raise AssertionError("nodes talk for ever")

    def _help_who_came_late(self) -> bool:
        """A newcomer that did not hear in time that others change the key may be unable to read
        them, or have begun another change; it has to be given the key files, as users are told.
        Whether there was one."""
        for machine in self.running:
            for other in self.running:
                if (
                    machine.node > FOUNDERS
                    and machine.node > other.node
                    and machine.met & other.met
                    and not (machine.reads(other) and other.reads(machine) and not machine.to_do)
                ):
                    machine.disk = replace(other.disk)
                    machine.took_part.clear()
                    machine.accepted.clear()
                    self._boot(machine)
                    self.helped += 1
                    return True
        return False

    def _expect_no_change_under_way(self) -> None:
        for machine in self.running:
            known = machine.rekeying.known
            if known is not None:
                assert machine.ring is not None
                waits = machine.rekeying.waits_for(machine.ring.members)
                raise AssertionError(
                    f"node {machine.node} in {sorted(machine.ring.members)} waits for {waits}"
                )

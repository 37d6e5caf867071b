"""One node's part of the map, sans-IO: what it is told comes in, what it is to do comes out.

Why what it answers is true, where a service such as ``quorum`` decides (``Mode.PRIMARY``):

1. Commands are **safe** messages of ordinary priority. Those are held in every configuration
   until all members have synchronized, so whenever one is delivered, all members of its
   configuration had the same map, and had recorded the configuration.
2. A command delivered **in the regular configuration** that it belongs to is known to be received
   by all its members; each of them that lives on delivers it, in the same place of the same order,
   in that configuration or in the transitional one after it. So every map that a later primary
   configuration can go on with has it (``plan``): it is answered with what it did.
3. A command delivered in the **transitional** configuration may be lost, with the members here. But
   it may also have been delivered by others as in 2. So it is carried out, and its answer waits for
   the next regular configuration. If that is primary, goes on with this very map, and all its
   members have recorded that they have it, then all later ones have it, and the answer is what the
   command did. Else it is *outcome unknown*. A read is sent again instead: nothing is lost by that.
4. What is ordered in a configuration that is **not primary** is carried out by no member, since all
   have agreed on that in ``plan``. So it is answered with *not primary*, which means: it has had no
   effect and will have none.

A watch tells only what is certain in that way.

Where none decides (``Mode.PART``), every command is carried out and answered where it is delivered.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, TypeAlias

from vsync.errors import MalformedPacket
from vsync.vocabulary import Configuration, Guarantee, Kind, Member, Priority, RingId
from vsync_services.kv.messages import (
    Chunk,
    Claim,
    Command,
    Done,
    Message,
    Operation,
    Record,
    Verdict,
    cut,
    decode,
    decode_records,
    encode,
    encode_records,
    read_records,
)
from vsync_services.kv.plan import Mode, Plan, plan
from vsync_services.kv.store import Ahead, Change, Entry, Point, Store

RECORDS_MAX: Final = 100
"""Configurations kept on record at most: with 150 nodes each, they are within 64 KiB. More than one
is there only while configurations end before all their members have synchronized."""


class Outcome(Enum):
    """What became of a command."""

    OK = auto()
    CONFLICT = auto()  #: the key is of another revision; nothing changed
    NOT_PRIMARY = auto()  #: it had no effect, and will have none
    UNKNOWN = auto()  #: it has taken effect, or will, or not


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a command. *revision*: of the change, or of the key in a conflict."""

    outcome: Outcome
    revision: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message. *number* is that of the command that it is, if it is one."""

    payload: bytes
    guarantee: Guarantee
    priority: Priority
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Transfer:
    """Send a map, one message after another, at RECOVERY priority, while its configuration lasts.

    *messages* gives them for a number of bytes that each may carry; no one is larger than the
    first.
    """

    messages: Callable[[int], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Save:
    """Keep this durably, and then call ``saved`` with *configuration*."""

    configuration: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Synchronized:
    """This node's part of synchronizing *configuration* is done."""

    configuration: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The command with this number, of this node, is answered."""

    number: int
    result: Result


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the log, as a sentence."""

    text: str
    bad: bool = False


Effect: TypeAlias = Send | Transfer | Save | Synchronized | Answer | Note


@dataclass(slots=True)
class _Term:
    """One regular configuration, and the transitional one after it."""

    configuration: Configuration
    peers: set[Member] | None = None
    """This service on its nodes; None until this node is told to synchronize."""
    claims: dict[Member, Claim] = field(default_factory=dict)
    plan: Plan | None = None
    parts: list[bytes] = field(default_factory=list)
    complete: bool = False
    """This node has the map that the configuration goes on with."""
    done: set[Member] = field(default_factory=set)
    transitional: bool = False


@dataclass(slots=True)
class Counters:
    """What happened, in this life of the node."""

    maps_received: int = 0
    maps_sent: int = 0
    maps_lost: int = 0
    changes_lost: int = 0
    commands_unknown: int = 0
    malformed: int = 0
    strays: int = 0


class Replica:
    """The map of one node. After every call, do what ``take_effects`` gives, in its order."""

    def __init__(
        self,
        *,
        changes_max: int = 10_000,
        changes_bytes_max: int = 8 * 2**20,
        kept: bytes | None = None,
    ) -> None:
        self.store = Store(changes_max, changes_bytes_max)
        self.visible = self.store.point
        """How far watches may see."""
        self.counters = Counters()
        # Damaged records must not be taken for none: whoever calls hears MalformedPacket.
        self._records: list[Record] = [] if kept is None else decode_records(kept)
        self._term: _Term | None = None
        self._effects: deque[Effect] = deque()
        self._member: Member | None = None
        self._waiting: dict[int, Operation] = {}
        self._unsure: dict[int, Result] = {}
        """What commands of this node did that are in its map, and perhaps in no other."""
        self._numbers = 0

    def take_effects(self) -> list[Effect]:
        """What is to be done now."""
        effects = list(self._effects)
        self._effects.clear()
        return effects

    # --- what the node is told --------------------------------------------------------------------

    def configured(self, configuration: Configuration) -> None:
        """A configuration has been delivered."""
        if configuration.kind is Kind.TRANSITIONAL:
            if self._term is not None:
                self._term.transitional = True
        else:
            self._term = _Term(configuration)

    def settled(
        self,
        configuration: Configuration,
        member: Member,
        members: Collection[Member],
        verdict: Verdict,
        reason: str,
    ) -> None:
        """Synchronize *configuration*: this is *member*, among *members* of the service."""
        term = self._current(configuration.id)
        if term is None:
            return
        self._member = member
        term.peers = set(members)
        claim = Claim(
            configuration=configuration.id,
            verdict=verdict,
            reason=reason,
            records=tuple(self._records),
            live=self.store.live,
            point=self.store.point,
            digest=self.store.digest,
            ancestry=tuple(self.store.ancestry),
            compacted=self.store.compacted,
            certain=self.visible.revision,
        )
        self._send(claim, Priority.RECOVERY)
        self._go_on(term)

    def viewed(self, members: Collection[Member]) -> None:
        """These run the service now. Who is gone from a configuration is not waited for."""
        term = self._term
        if term is not None and term.peers is not None and not term.transitional:
            gone = term.peers - set(members)
            if gone and not self._is_served(term):
                term.peers -= gone
                self._go_on(term)

    def saved(self, configuration: str) -> None:
        """What ``Save`` asked for is on disk."""
        term = self._current(configuration)
        if term is not None:
            self._finish(term)

    def delivered(self, sender: Member, payload: bytes) -> None:
        """A message of the service has been delivered."""
        try:
            message = decode(payload)
        except MalformedPacket:
            self.counters.malformed += 1
            return
        self._read(sender, message)

    def _read(self, sender: Member, message: Message) -> None:
        term = self._term
        if term is None:
            return
        if isinstance(message, Command):
            self._command(term, sender, message)
        elif message.configuration == term.configuration.id and not term.transitional:
            if isinstance(message, Claim):
                term.claims.setdefault(sender, message)
                self._go_on(term)
            elif isinstance(message, Chunk):
                self._chunk(term, sender, message)
            else:
                term.done.add(sender)
                self._all_done(term)

    def _current(self, configuration: str) -> _Term | None:
        term = self._term
        if term is None or term.transitional or term.configuration.id != configuration:
            return None
        return term

    # --- synchronizing ----------------------------------------------------------------------------

    def _is_served(self, term: _Term) -> bool:
        """Whether all who need the map have it; the same at all nodes at a place of the order."""
        return term.plan is not None and (not term.plan.needy or term.complete)

    def _go_on(self, term: _Term) -> None:
        """Plan, when all claims are in; and again, when a source has gone before it was done."""
        if term.peers is None or not term.peers <= term.claims.keys():
            return
        if term.plan is not None and (
            term.plan.source is None or term.plan.source in term.peers or self._is_served(term)
        ):
            return
        again = term.plan is not None
        before = term.plan.needy if term.plan is not None else frozenset()
        claims = {member: term.claims[member] for member in sorted(term.peers)}
        term.plan = plan(term.configuration.members, claims)
        term.parts.clear()
        if term.plan.lost:
            self.counters.maps_lost += 1
            self._effects.append(Note(term.plan.lost, bad=True))
        if term.plan.source == self._member:
            self._transfer(term)
        if term.plan.mode is Mode.REFUSED or self._member in term.plan.needy:
            self._give_up_unsure(term)
        if again and self._member not in term.plan.needy | before:
            return  # this node has done its part before
        if term.plan.mode is Mode.REFUSED:
            self._effects.append(Synchronized(term.configuration.id))
        elif self._member not in term.plan.needy:
            self._begin(term)

    def _transfer(self, term: _Term) -> None:
        assert term.plan is not None
        configuration = term.configuration.id
        entries, changes = list(self.store.entries.items()), list(self.store.changes)
        self._effects.append(
            Transfer(lambda chunk: _chunks(configuration, cut(entries, changes, chunk)))
        )
        self.counters.maps_sent += 1

    def _chunk(self, term: _Term, sender: Member, chunk: Chunk) -> None:
        if term.plan is None or sender != term.plan.source or not term.plan.needy:
            return
        if not chunk.last:
            if self._member in term.plan.needy:
                term.parts.append(chunk.records)
            return
        if self._member in term.plan.needy and not term.complete:
            term.parts.append(chunk.records)
            self._install(term, term.claims[sender])
            self._begin(term)
        term.complete = True

    def _install(self, term: _Term, claim: Claim) -> None:
        entries, changes = read_records(b"".join(term.parts))
        term.parts = []
        old = self.store
        new = old.installed(entries, changes, claim.ancestry, claim.point, claim.compacted)
        if new.digest != claim.digest:
            raise MalformedPacket("kv snapshot", "what arrived is not the map that was announced")
        lost = 0
        if old.live:
            lost = old.revision - old.in_common(claim.ancestry, claim.point)
        if lost:
            self.counters.changes_lost += lost
            self._effects.append(
                Note(
                    f"{lost} changes of this node's map are given up, up to {old.point}: the "
                    f"configuration goes on with the map at {claim.point}",
                    bad=True,
                )
            )
        self.store = new
        self.counters.maps_received += 1

    def _begin(self, term: _Term) -> None:
        """This node has the map: a new history begins here."""
        assert term.plan is not None
        ring = RingId.from_text(term.configuration.id)
        self.store.begin(ring)
        if term.plan.mode is Mode.PRIMARY:
            certain = max(claim.certain for claim in term.claims.values())
            self.visible = Point(ring, min(certain, self.store.revision))
            nodes = tuple(sorted(member.node for member in term.claims if self._is_peer(member)))
            self._records = [*self._records, Record(ring, nodes)][-RECORDS_MAX:]
            self._effects.append(Save(term.configuration.id, encode_records(self._records)))
        else:
            self._be_certain()
            self._finish(term)

    def _is_peer(self, member: Member) -> bool:
        return self._term is not None and member in (self._term.peers or ())

    def _finish(self, term: _Term) -> None:
        self._send(Done(term.configuration.id), Priority.RECOVERY)
        self._effects.append(Synchronized(term.configuration.id))

    def _all_done(self, term: _Term) -> None:
        """When all have the map, and have recorded that: it is certain, and older records say
        nothing any more. They go with the next writing."""
        if term.plan is None or term.peers is None or not term.peers <= term.done:
            return
        ring = RingId.from_text(term.configuration.id)
        if self.store.history == ring:
            self._records = [record for record in self._records if record.ring >= ring]
            self._be_certain()

    def _be_certain(self) -> None:
        """This node's map, as it is, is the one that goes on."""
        self.visible = self.store.point
        unsure, self._unsure = self._unsure, {}
        for number, result in unsure.items():
            self._answer(number, result)

    def _give_up_unsure(self, term: _Term) -> None:
        assert term.plan is not None
        unsure, self._unsure = self._unsure, {}
        for number in unsure:
            self.counters.commands_unknown += 1
            reason = (
                "the configuration changed before all nodes were known to have the command; it "
                f"may have taken effect, or not ({term.plan.reason})"
            )
            self._answer(number, Result(Outcome.UNKNOWN, reason=reason))

    # --- commands ---------------------------------------------------------------------------------

    @property
    def mode(self) -> Mode | None:
        """How the configuration serves; None while that is not known."""
        term = self._term
        return term.plan.mode if term is not None and term.plan is not None else None

    @property
    def reason(self) -> str:
        """Why."""
        term = self._term
        if term is None or term.plan is None:
            return "the members have not agreed yet on whose map goes on"
        return term.plan.reason

    @property
    def members(self) -> Sequence[Member]:
        """The service's members in this configuration."""
        return sorted(self._term.peers or ()) if self._term is not None else ()

    def submit(self, operation: Operation, key: str = "", value: bytes = b"", at: int = 0) -> int:
        """Ask for a command; the number that it is answered with."""
        self._numbers += 1
        number = self._numbers
        if self.mode is Mode.REFUSED:
            self._effects.append(Answer(number, Result(Outcome.NOT_PRIMARY, reason=self.reason)))
            return number
        self._waiting[number] = operation
        self._send(Command(number, operation, key, at, value), Priority.MEDIUM)
        return number

    def abandon(self, number: int) -> None:
        """Nobody waits for this command any more; it may take effect all the same."""
        self._waiting.pop(number, None)
        self._unsure.pop(number, None)

    def _command(self, term: _Term, sender: Member, command: Command) -> None:
        if term.plan is None or term.peers is None or sender not in term.claims:
            self.counters.strays += 1  # not from a service of this configuration
            return
        mine = sender == self._member
        if term.plan.mode is Mode.REFUSED:
            if mine:
                refusal = Result(Outcome.NOT_PRIMARY, reason=term.plan.reason)
                self._answer(command.number, refusal)
            return
        result = self._carry_out(command)
        if not term.transitional or term.plan.mode is Mode.PART:
            self.visible = self.store.point
            if mine:
                self._answer(command.number, result)
        elif mine and command.number in self._waiting:
            if command.operation is Operation.READ:
                self._send(command, Priority.MEDIUM)
            else:
                self._unsure[command.number] = result

    def _carry_out(self, command: Command) -> Result:
        store = self.store
        held = store.entries.get(command.key)
        match command.operation:
            case Operation.READ:
                return Result(Outcome.OK, store.revision)
            case Operation.SET:
                return Result(Outcome.OK, store.set(command.key, command.value))
            case Operation.DELETE:
                return Result(Outcome.OK, store.delete(command.key) or 0)
            case Operation.COMPARE_AND_SET | Operation.COMPARE_AND_DELETE:
                revision = held.revision if held is not None else 0
                if revision != command.revision:
                    return Result(Outcome.CONFLICT, revision)
                if command.operation is Operation.COMPARE_AND_SET:
                    return Result(Outcome.OK, store.set(command.key, command.value))
                return Result(Outcome.OK, store.delete(command.key) or 0)

    def _answer(self, number: int, result: Result) -> None:
        if self._waiting.pop(number, None) is not None:
            self._effects.append(Answer(number, result))

    def _send(self, message: Message, priority: Priority) -> None:
        guarantee = Guarantee.SAFE if isinstance(message, Command) else Guarantee.AGREED
        number = message.number if isinstance(message, Command) else None
        self._effects.append(Send(encode(message), guarantee, priority, number))

    # --- reading ----------------------------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        """The entry of *key* in this node's map, as it is now."""
        return self.store.entries.get(key)

    def changes_after(self, point: Point) -> list[Change]:
        """The changes after *point* that are certain. Raises Behind."""
        if point.history != self.store.history and point.history > self.store.history:
            raise Ahead(
                f"this node's map is at {self.store.point}, which is older than {point}; ask again "
                "when the node is in a primary configuration"
            )
        return list(self.store.changes_after(point, until=self.visible.revision))


def _chunks(configuration: str, parts: Iterator[bytes]) -> Iterator[bytes]:
    """The messages for *parts*; the last one says so."""
    number = 0
    ahead = next(parts)
    for part in parts:
        yield encode(Chunk(configuration, number, False, ahead))
        number, ahead = number + 1, part
    yield encode(Chunk(configuration, number, True, ahead))

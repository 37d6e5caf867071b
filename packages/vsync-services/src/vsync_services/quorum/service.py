"""The quorum service: exchanges ballots in every configuration, and says what follows."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import anyio
from pydantic import BaseModel

from vsync.errors import MalformedPacket, ServiceFailed
from vsync.events import Delivery, GroupChanged
from vsync.service import Service, ServiceContext
from vsync.vocabulary import Cause, Configuration, Kind, Member, NodeId, Priority, RingId
from vsync_services.quorum.ballots import decode, encode
from vsync_services.quorum.decision import Ballot, Decision, Voter, decide
from vsync_services.quorum.settings import QuorumSettings

logger = logging.getLogger(__name__)


class QuorumService(Service):
    """Says which configurations are primary; see ``vsync_services.quorum.decision``."""

    NAME: ClassVar[str] = "quorum"
    SETTINGS: ClassVar[type[BaseModel]] = QuorumSettings
    PRIMARY: ClassVar[bool] = True

    def __init__(self, settings: BaseModel, context: ServiceContext) -> None:
        super().__init__(settings, context)
        assert isinstance(settings, QuorumSettings)
        self._terms = settings.terms
        self._votes = settings.votes
        self._voter: Voter | None = None
        self._round: _Round | None = None
        self._malformed = 0

    @property
    def voter(self) -> Voter:
        """What this node remembers. Made late: before its start a node may not know its id."""
        if self._voter is None:
            self._voter = Voter(self.context.node, self._votes, self._terms)
        return self._voter

    async def configuration_changed(self, configuration: Configuration) -> None:
        """A new configuration: what was decided holds no longer."""
        self.voter.configured(configuration.members)
        regular = configuration.kind is Kind.REGULAR
        self._round = _Round(configuration) if regular else None

    async def view_changed(self, view: GroupChanged) -> None:
        """Who leaves in order says so; who fails is not waited for."""
        for move in view.left:
            if move.cause is Cause.LEFT:
                self.voter.left(move.member.node)
        if self._round is not None and self._round.members is not None:
            self._round.members &= set(view.members)
            self._decide()

    async def deliver(self, delivery: Delivery) -> None:
        """A ballot. It may come before this node has been told to synchronize."""
        try:
            configuration, ballot = decode(delivery.payload)
            if ballot.node != delivery.sender.node:
                raise MalformedPacket("ballot", "it is of another node than its sender")
        except MalformedPacket as error:
            self._malformed += 1
            logger.warning("quorum: a message of %s is no ballot: %s", delivery.sender, error)
            return
        current = self._round
        if current is not None and configuration == current.configuration.id:
            current.ballots[delivery.sender] = ballot
            self._decide()

    async def synchronize(self, configuration: Configuration, members: Sequence[Member]) -> None:
        """Send this node's ballot, and wait until all are in."""
        current = self._round
        if current is None or current.configuration.id != configuration.id:
            return  # it has changed again
        current.members = set(members)
        ballot = self.voter.ballot()
        await self.context.send(encode(configuration.id, ballot), priority=Priority.RECOVERY)
        self._decide()
        await current.done.wait()

    def _decide(self) -> None:
        current = self._round
        if current is None or current.members is None or current.decision is not None:
            return
        present = {member: current.ballots.get(member) for member in current.members}
        ballots: dict[NodeId, Ballot] = {}
        for member, ballot in present.items():
            if ballot is None:
                return
            ballots[member.node] = ballot
        if not ballots:
            return
        for ballot in ballots.values():
            self.voter.heard(ballot)
        decision = decide(RingId.from_text(current.configuration.id), ballots)
        self.voter.decided(decision)
        current.decision = decision
        self.context.set_primary(current.configuration, decision.primary, decision.reason)
        (logger.info if decision.primary else logger.warning)(
            "configuration %s is %sprimary: %s",
            current.configuration.id,
            "" if decision.primary else "not ",
            decision.reason,
        )
        current.done.set()

    async def answer(self, request: bytes) -> bytes:
        """What ``vsync quorum`` shows, as JSON; the request is empty."""
        if request:
            raise ServiceFailed(
                "the service quorum answers one request, the empty one, and this one has "
                f"{len(request)} bytes"
            )
        return json.dumps(self.status()).encode()

    def status(self) -> Mapping[str, Any]:
        """The configuration, whether it is primary, why, and who has which votes."""
        terms, current = self._terms, self._round
        decision = current.decision if current is not None else None
        ballots = sorted(current.ballots.values(), key=lambda b: b.node) if current else []
        roster = self.voter.roster
        return {
            "configuration": current.configuration.id if current is not None else None,
            "primary": decision.primary if decision is not None else False,
            "reason": decision.reason if decision is not None else "it is not decided yet",
            "votes": decision.votes if decision is not None else 0,
            "expected_votes": terms.expected_votes,
            "quorum": terms.quorum,
            "two_node": terms.two_node,
            "wait_for_all": terms.waits,
            "waiting": self.voter.waiting,
            "auto_tie_breaker": (
                terms.tie_breaker if isinstance(terms.tie_breaker, str) else list(terms.tie_breaker)
            ),
            "members": [
                {"node": ballot.node, "votes": ballot.votes, "waiting": ballot.waiting}
                for ballot in ballots
            ],
            "missing": (
                [node for node in roster.nodes if node not in {ballot.node for ballot in ballots}]
                if roster is not None
                else None
            ),
            "malformed": self._malformed,
        }


class _Round:
    """One regular configuration: its ballots, and what comes of them."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.members: set[Member] | None = None
        self.ballots: dict[Member, Ballot] = {}
        self.decision: Decision | None = None
        self.done = anyio.Event()

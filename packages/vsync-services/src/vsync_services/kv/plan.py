"""Whose map a configuration goes on with: a pure function of what all members claim.

**Where services decide which configurations are primary** (``quorum``), the map is served in
primary configurations alone, and the newest one must be found. Any two configurations that are
primary one after the other share a node; but that node may have been restarted since, and its map,
which is in memory, may be gone. So every node *records* on disk the configurations in which it was
brought up to date, before the first command is ordered there. The newest record among the members
names the configuration that the newest map is of:

* unless one of that configuration's nodes is here and never recorded it: then not all had, so no
  command was ever ordered in it, and the record before it counts;
* if nobody here has that map, it may be alive elsewhere: the members wait, for the nodes of that
  configuration that are not here. If all of them are here and none has it, it is lost for good, and
  the members go on with the newest that there is.

That a node is shared helps only if it runs kv: a configuration with a node that does not is
refused.

Among several maps of that configuration the one with the highest revision goes on: each has all
that was ever acknowledged.

**Where none decides**, every part of a parted ring is served. When parts meet, the map with the
highest revision goes on, or, of equal ones, that of the part with the lowest representative.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from vsync.vocabulary import Member, NodeId
from vsync_services.kv.messages import Claim, Record, Verdict
from vsync_services.wording import be, nodes_named


class Mode(Enum):
    """How a configuration serves requests."""

    REFUSED = "refused"  #: not at all
    PRIMARY = "linearizable"  #: as the only one
    PART = "every part by itself"  #: as one of several, perhaps


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What follows from the claims; the same at every member."""

    mode: Mode
    reason: str
    """A sentence without its full stop: why requests are refused, or whose map goes on."""
    source: Member | None = None
    """Who sends its map; None if all have it, or nobody has any."""
    needy: frozenset[Member] = frozenset()
    """Who needs it."""
    lost: str = ""
    """A sentence: what is lost for good, and how one knows."""


def plan(nodes: Collection[NodeId], claims: Mapping[Member, Claim]) -> Plan:
    """Decide for a configuration of *nodes*, in which these members made these *claims*."""
    here = sorted(claims)
    deciding = [member for member in here if claims[member].verdict is not Verdict.UNDECIDED]
    if not deciding:
        live = [member for member in here if claims[member].live]
        return _serve(claims, _newest_part(claims, live), Mode.PART)
    if len(deciding) < len(here):
        silent = [member.node for member in here if member not in deciding]
        return Plan(
            mode=Mode.REFUSED,
            reason=(
                f"{nodes_named(silent)} {be(silent)} here without a service that decides which "
                "configurations are primary, and the others have one; give all nodes "
                "[service.quorum], or none"
            ),
        )
    refusing = [member for member in here if claims[member].verdict is Verdict.NOT_PRIMARY]
    if refusing:
        return Plan(mode=Mode.REFUSED, reason=claims[refusing[0]].reason)
    without = sorted(set(nodes) - {member.node for member in here})
    if without:
        return Plan(
            mode=Mode.REFUSED,
            reason=(
                f"{nodes_named(without)} {be(without)} here and without kv, so nobody would know "
                "later what was written now; give all nodes [service.kv]"
            ),
        )
    return _plan_primary(claims)


def _plan_primary(claims: Mapping[Member, Claim]) -> Plan:
    here = sorted(claims)
    records = {member: claims[member].records for member in here}
    lost = ""
    for record in _newest_first(records):
        if _voided(record, records):
            continue
        holders = [m for m in here if claims[m].live and claims[m].point.history >= record.ring]
        if holders:
            break
        away = [node for node in record.nodes if node not in {member.node for member in here}]
        if away:
            return Plan(
                mode=Mode.REFUSED,
                reason=(
                    f"the newest map is of configuration {record.ring}, and no node here has it; "
                    f"waiting for {nodes_named(away)}, with it or restarted"
                ),
            )
        lost = (
            f"the map of configuration {record.ring} is lost: all its nodes are here, "
            f"{nodes_named(record.nodes)}, and none has it any more"
        )
        break
    live = [member for member in here if claims[member].live]
    newest = max((claims[member].point.history for member in live), default=None)
    live = [member for member in live if claims[member].point.history == newest]
    best = min(
        live,
        key=lambda member: (-claims[member].point.revision, claims[member].digest, member),
        default=None,
    )
    return _serve(claims, best, Mode.PRIMARY, lost)


def _newest_first(records: Mapping[Member, Sequence[Record]]) -> list[Record]:
    unique = {record.ring: record for held in records.values() for record in held}
    return [unique[ring] for ring in sorted(unique, reverse=True)]


def _voided(record: Record, records: Mapping[Member, Sequence[Record]]) -> bool:
    """Whether one of its nodes is here that never recorded it, nor anything newer."""
    newest: dict[NodeId, Record | None] = {
        member.node: max(held, key=lambda each: each.ring, default=None)
        for member, held in records.items()
    }
    for node in record.nodes:
        if node in newest:
            kept = newest[node]
            if kept is None or kept.ring < record.ring:
                return True
    return False


def _newest_part(claims: Mapping[Member, Claim], live: Sequence[Member]) -> Member | None:
    return min(
        live,
        key=lambda member: (
            -claims[member].point.revision,
            claims[member].point.history.representative,
            claims[member].digest,
            member,
        ),
        default=None,
    )


def _serve(claims: Mapping[Member, Claim], best: Member | None, mode: Mode, lost: str = "") -> Plan:
    if best is None:
        return Plan(mode=mode, reason="no member has a map yet: it begins empty", lost=lost)
    chosen = _content(claims[best])
    holders = [member for member in sorted(claims) if _content(claims[member]) == chosen]
    needy = frozenset(claims) - frozenset(holders)
    nodes = [member.node for member in holders]
    return Plan(
        mode=mode,
        reason=f"the map of {nodes_named(nodes)} goes on, at {claims[best].point}",
        source=holders[0] if needy else None,
        needy=needy,
        lost=lost,
    )


def _content(claim: Claim) -> object:
    """What makes two members' maps the same one."""
    return claim.live, claim.point, claim.digest

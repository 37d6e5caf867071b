"""What a node tells its application, in one stream and one order.

Every ``Delivery`` and every ``GroupChanged`` belongs to the last ``ConfigurationChanged`` before
it. A ``GroupChanged`` stands at one place in the order of all agreed and safe messages: who is in a
group when one of those is delivered is the same for all.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from vsync.vocabulary import (
    Cause,
    Configuration,
    GroupKey,
    Guarantee,
    Member,
    MessageId,
    NodeId,
    Priority,
)


class Envelope(NamedTuple):
    """What messages have in common that were sent alike: from whom, to whom, and how.

    *node* and *session* sent them, in that *life* of the node.
    """

    node: NodeId
    session: int
    life: int
    priority: Priority
    guarantee: Guarantee
    groups: tuple[GroupKey, ...]
    configuration: Configuration


class Delivery(NamedTuple):
    """A message, at its place in the order.

    A named tuple, since it is made once a message and must be cheap; what it has in common with
    others is in its *envelope*, and can be asked of it too.
    """

    envelope: Envelope
    counter: int
    payload: bytes

    @property
    def message(self) -> MessageId:
        """The message's id."""
        node, _, life, priority, _, _, _ = self.envelope
        return MessageId(node, life, priority, self.counter)

    @property
    def sender(self) -> Member:
        """Who sent the message, as group views name it."""
        envelope = self.envelope
        return Member(envelope.node, envelope.session)

    @property
    def groups(self) -> tuple[GroupKey, ...]:
        """The groups that it was sent to."""
        return self.envelope.groups

    @property
    def guarantee(self) -> Guarantee:
        """The guarantee that it was sent with."""
        return self.envelope.guarantee

    @property
    def configuration(self) -> Configuration:
        """The configuration that it belongs to."""
        return self.envelope.configuration


@dataclass(frozen=True, slots=True)
class ConfigurationChanged:
    """Every later event, until the next change, belongs to this configuration.

    *primary* and *reason* are there for sessions that asked for them (``primary=True``), where a
    service such as ``quorum`` says which configuration may act for the whole: at most one of those
    that exist at a time is primary, and *reason* is a sentence that says why it is or is not. For
    other sessions *primary* is None.
    """

    configuration: Configuration
    primary: bool | None = None
    reason: str = ""


class Move(NamedTuple):
    """One member that came into a group or went from it, and why."""

    member: Member
    cause: Cause


@dataclass(frozen=True, slots=True)
class GroupChanged:
    """The members of *group* are now these, ascending: a *group view*.

    *joined* and *left* are the difference from the view before it. The first view that a session
    sees of a group is the one that it joined with: its *joined* has this session, and *members* are
    all the others too. In a *closed* group only members send.
    """

    group: GroupKey
    members: tuple[Member, ...]
    joined: tuple[Move, ...]
    left: tuple[Move, ...]
    closed: bool
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The daemon is gone, and with it all events until it is found again.

    Only sessions made by ``connect(..., reconnect=True)`` see it; the stream then goes on with the
    current configuration, and the views of the groups that were joined again. *reason* is a
    sentence.
    """

    reason: str


Event: TypeAlias = Delivery | ConfigurationChanged | GroupChanged | Disconnected

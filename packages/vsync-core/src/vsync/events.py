"""What a node tells its application, in one stream and one order.

Every ``Delivery`` and every ``GroupChanged`` belongs to the last ``ConfigurationChanged`` before
it. A ``GroupChanged`` stands at one place in the order of all agreed and safe messages: who is in a
group when one of those is delivered is the same for all.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from vsync.vocabulary import Cause, Configuration, GroupKey, Guarantee, Member, MessageId


class Delivery(NamedTuple):
    """A message, at its place in the order.

    A named tuple, since it is made once a message and must be cheap. *session* is the number of the
    session that sent it, at its node.
    """

    message: MessageId
    groups: tuple[GroupKey, ...]
    payload: bytes
    guarantee: Guarantee
    configuration: Configuration
    session: int = 0

    @property
    def sender(self) -> Member:
        """Who sent the message, as group views name it."""
        return Member(self.message.node, self.session)


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

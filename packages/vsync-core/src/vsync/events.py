"""What a node tells its application, in one stream and one order.

Every ``Delivery`` belongs to the last ``ConfigurationChanged`` before it.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from vsync.vocabulary import Configuration, GroupKey, Guarantee, MessageId, NodeId


class Delivery(NamedTuple):
    """A message, at its place in the order.

    A named tuple, since it is made once a message and must be cheap.
    """

    message: MessageId
    groups: tuple[GroupKey, ...]
    payload: bytes
    guarantee: Guarantee
    configuration: Configuration

    @property
    def sender(self) -> NodeId:
        """The node that accepted the message."""
        return self.message.node


@dataclass(frozen=True, slots=True)
class ConfigurationChanged:
    """Every later Delivery, until the next change, belongs to this configuration."""

    configuration: Configuration


Event: TypeAlias = Delivery | ConfigurationChanged

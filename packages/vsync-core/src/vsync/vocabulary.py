"""The words of the project as types: every other module speaks in these.

Nothing here knows of sockets, clocks or bytes on the wire.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple, NewType, Self, overload

from vsync.errors import MisuseError

NodeId = NewType("NodeId", int)
"""A node's number on its ring, 1 to 2**32 - 1, unique among the nodes that may ever meet."""

Seq = NewType("Seq", int)
"""The place of a frame in the total order of one ring: 1, 2, … (0: nothing yet). 64 bits wide."""

NODE_ID_MAX = 2**32 - 1
SEQ_MAX = 2**64 - 1

GROUP_KEY_BYTES = 32
GROUPS_PER_MESSAGE_MAX = 50
"""As many as the first EVS API took in a call; bounds what a message header can claim."""


class Guarantee(IntEnum):
    """When a message may be delivered. All four are reliable within one configuration."""

    UNORDERED = 0  #: as soon as it is received
    FIFO = 1  #: once all earlier ones of that sender and priority were delivered
    AGREED = 2  #: once everything before it in the ring's total order was delivered
    SAFE = 3  #: as AGREED, and every member of the configuration is known to have received it

    @property
    def word(self) -> str:
        """The guarantee's name in traces, settings and on the command line."""
        return self.name.lower()


class Priority(IntEnum):
    """Which of a node's own waiting messages goes first. Between nodes nothing is promised."""

    RECOVERY = 0  #: state transfer after a configuration change
    HIGH = 1
    MEDIUM = 2  #: the default
    LOW = 3

    @property
    def word(self) -> str:
        """The priority's name in traces, settings and on the command line."""
        return self.name.lower()


class Kind(Enum):
    """What a configuration is for (EVS, ICDCS 1994)."""

    REGULAR = "regular"  #: new messages are introduced in it
    TRANSITIONAL = "transitional"  #: what is left of the regular one before it is delivered in it


class Cause(Enum):
    """Why a member came into a group, or went from it."""

    JOINED = "joined"  #: it asked to
    MERGED = "merged in"  #: its node came into the configuration, with its groups
    LEFT = "left"  #: it asked to, or its session was closed
    DIED = "process died"  #: its process ended without a word
    EVICTED = "evicted"  #: it was too slow for its ring
    NODE_GONE = "node gone"  #: its node is no longer in the configuration


class SlowPolicy(Enum):
    """What happens to a session that does not take its events in time."""

    BLOCK = "block"  #: the ring takes no new messages until it has
    EVICT = "evict"  #: it ends, with ``Evicted``
    SPILL = "spill"  #: its events go to disk, up to a limit; beyond that it is evicted


class Member(NamedTuple):
    """A session as the others see it: its node, and its number there.

    Numbers are given out from 1 and not used again in one life of the node.
    """

    node: NodeId
    session: int

    def __str__(self) -> str:
        return f"{self.node}/{self.session}"


class RingId(NamedTuple):
    """The identity of one ring: a number that only grows, and the representative's node id.

    Compared as a whole, number first. Never used for two memberships (Totem, TOCS 1995, section 5).
    """

    seq: int
    representative: NodeId

    def __str__(self) -> str:
        return f"{self.seq}.{self.representative}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The ring that ``str`` gave *text* for, which is the id of its configuration too."""
        seq, _, representative = text.partition(".")
        return cls(int(seq), NodeId(int(representative)))


@dataclass(frozen=True, slots=True)
class GroupKey:
    """The name of a group: 32 bytes, compared whole. Any bytes will do."""

    key: bytes

    def __post_init__(self) -> None:
        if not isinstance(self.key, bytes) or len(self.key) != GROUP_KEY_BYTES:
            size = len(self.key) if isinstance(self.key, bytes) else type(self.key).__name__
            raise MisuseError(
                f"a group key is {GROUP_KEY_BYTES} bytes, this one is {size}; "
                "GroupKey.from_name() makes a key from text"
            )

    @classmethod
    def from_name(cls, name: str) -> Self:
        """Make the key that belongs to *name*.

        Up to 32 UTF-8 bytes are the key itself, padded with zeros; of a longer name the key is
        the BLAKE2b hash of 32 bytes. The same name gives the same key everywhere.
        """
        encoded = name.encode()
        if not encoded:
            raise MisuseError("a group needs a name of at least one character")
        if len(encoded) > GROUP_KEY_BYTES:
            encoded = hashlib.blake2b(encoded, digest_size=GROUP_KEY_BYTES).digest()
        return cls(encoded.ljust(GROUP_KEY_BYTES, b"\0"))

    def __repr__(self) -> str:
        return f"GroupKey({str(self)!r})"

    def hex(self) -> str:
        """The key as 64 hexadecimal digits, as traces have it."""
        return self.key.hex()

    def __str__(self) -> str:
        text = self.key.rstrip(b"\0")
        if text and text.isascii() and text.decode().isprintable():
            return text.decode()
        return self.key.hex()


class MessageId(NamedTuple):
    """Names one message for ever: the life of the node that accepted it, and its place there."""

    node: NodeId
    life: int
    priority: Priority
    counter: int

    def __str__(self) -> str:
        return f"{self.node}-{self.life:x}-{int(self.priority)}-{self.counter}"


class MessageIds(Sequence[MessageId]):
    """The ids of messages that were accepted together: made where one is looked at.

    Compares with any other sequence of ids.
    """

    __slots__ = ("_counters", "_life", "_node", "_priority")

    def __init__(self, node: NodeId, life: int, priority: Priority, counters: range) -> None:
        self._node = node
        self._life = life
        self._priority = priority
        self._counters = counters

    @classmethod
    def joined(cls, parts: "Sequence[MessageIds]") -> Sequence[MessageId]:
        """The ids of what one call sent in *parts*, each with higher counters than that before it.

        Another call's messages may stand between them.
        """
        if not parts:
            return []
        first = parts[0]
        counters = range(first._counters.start, parts[-1]._counters.stop)
        if len(counters) == sum(map(len, parts)):
            return cls(first._node, first._life, first._priority, counters)
        return [message for ids in parts for message in ids]

    def __len__(self) -> int:
        return len(self._counters)

    @overload
    def __getitem__(self, place: int) -> MessageId: ...
    @overload
    def __getitem__(self, place: slice) -> "MessageIds": ...
    def __getitem__(self, place: int | slice) -> "MessageId | MessageIds":
        if isinstance(place, slice):
            return MessageIds(self._node, self._life, self._priority, self._counters[place])
        return MessageId(self._node, self._life, self._priority, self._counters[place])

    def __iter__(self) -> Iterator[MessageId]:
        node, life, priority = self._node, self._life, self._priority
        return (MessageId(node, life, priority, counter) for counter in self._counters)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Who is here, as delivered to the application.

    *id* is unique for this configuration everywhere: ``SEQ.REPRESENTATIVE`` of the ring for a
    regular one, ``OLD>NEW`` for the transitional one between two rings. *joined* and *left* tell
    the difference from the configuration delivered before it: a transitional one names in *left*
    who was lost, the regular one after it names in *joined* who is new. *next* is, in a
    transitional configuration, the id of the regular one that it leads to.
    """

    id: str
    kind: Kind
    members: tuple[NodeId, ...]
    joined: tuple[NodeId, ...] = ()
    left: tuple[NodeId, ...] = ()
    next: str | None = None

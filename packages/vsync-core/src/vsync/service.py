"""Service: the interface of plugins that live in a node, and its promises.

A service builds something on deliveries and configurations: a vote, a map, a lock. One object of
it lives in each node that has a section ``[service.NAME]`` in its settings, and all of them
together do the work. Services are asynchronous (anyio) and run in the node's event loop, never in
the ring's thread.

What a service is told comes in the order of its node's stream, one call at a time: the next call is
made when the one before has returned. ``synchronize`` runs beside them.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict

from vsync.errors import ServiceFailed
from vsync.events import Delivery, GroupChanged
from vsync.vocabulary import (
    GROUP_KEY_BYTES,
    Configuration,
    GroupKey,
    Guarantee,
    Member,
    MessageId,
    NodeId,
    Priority,
)

SERVICE_API: Final = 1
"""Raised when this interface changes so that older plugins no longer fit."""

SERVICE_GROUPS: Final = b"vsync.service."
"""What the keys of services' own groups begin with; no session joins them or sends there."""

Buffer = bytes | bytearray | memoryview


class NoSettings(BaseModel):
    """For services that have nothing to set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServiceContext(ABC):
    """What a service may ask of its node."""

    @property
    @abstractmethod
    def member(self) -> Member:
        """Who this service is, on this node, in views of its group and as a sender."""

    @property
    def node(self) -> NodeId:
        """The id of the node that the service lives in."""
        return self.member.node

    @abstractmethod
    async def send(
        self,
        payload: Buffer | Sequence[Buffer],
        *,
        guarantee: Guarantee = Guarantee.AGREED,
        priority: Priority = Priority.MEDIUM,
    ) -> MessageId:
        """Send *payload* to this service on all nodes, this one too.

        Raises PriorityHeld inside ``synchronize`` for MEDIUM and LOW, MessageTooLarge, NodeClosed.
        """

    @abstractmethod
    def set_primary(self, configuration: Configuration, primary: bool, reason: str) -> None:
        """Say whether the regular *configuration* is primary; only where ``PRIMARY`` is True.

        Sessions that asked for it learn of *configuration* only then.
        """

    @property
    @abstractmethod
    def decides_primary(self) -> bool:
        """Whether a service of this node says which configurations are primary."""

    @abstractmethod
    async def primary(self, configuration: Configuration) -> tuple[bool, str]:
        """Wait until it is decided whether the regular *configuration* is primary.

        That, and the reason. False if the configuration changes before; True where no service of
        this node decides. A service may ask in its own ``synchronize``.
        """

    @abstractmethod
    def load(self) -> bytes | None:
        """What this service kept on this node, in this life of it or an earlier one.

        None if it kept nothing. Raises StateFailed.
        """

    @abstractmethod
    async def save(self, data: bytes) -> None:
        """Keep *data*, at most 64 KiB, in place of what was kept; durable when this returns.

        For what a service must not forget when its node is killed. Raises StateFailed.
        """


class Service:
    """One service in one node.

    Made with its settings (an instance of ``SETTINGS``) and its context, before the node has its
    first configuration. An exception from any method but ``answer`` ends the service on this node:
    it is logged, its requests raise ServiceFailed, and the node goes on without it.
    """

    NAME: ClassVar[str]
    """What users write in ``[service.NAME]``; the name of the entry point too."""

    SETTINGS: ClassVar[type[BaseModel]] = NoSettings
    """The model of ``[service.NAME]``; unknown keys are refused."""

    API: ClassVar[int] = SERVICE_API

    PRIMARY: ClassVar[bool] = False
    """Whether this service decides which configurations are primary; one a node at most."""

    def __init__(self, settings: BaseModel, context: ServiceContext) -> None:
        self.settings = settings
        self.context = context

    async def run(self) -> None:
        """Work of its own for as long as the node lives; cancelled when the node closes."""

    async def configuration_changed(self, configuration: Configuration) -> None:
        """A configuration, regular or transitional, at its place in the stream."""

    async def view_changed(self, view: GroupChanged) -> None:
        """Which nodes run this service, at its place in the stream."""

    async def deliver(self, delivery: Delivery) -> None:
        """A message of this service, from here or from another node, at its place in the stream."""

    async def synchronize(self, configuration: Configuration, members: Sequence[Member]) -> None:
        """Agree with the others after a change; returns when this node's part is done.

        Called in every regular *configuration*, once it is known which *members* (this service on
        its nodes, this one too) are in it. Until it has returned everywhere, messages of priority
        MEDIUM and LOW are held on the whole ring; send with ``Priority.RECOVERY``. Deliveries go on
        meanwhile, so it usually waits for an event that ``deliver`` sets. It is cancelled when
        the configuration changes, and called again in the next; what the cancelled call sent may
        still come there, so say in each message which configuration it is for, by
        ``configuration.id``, and pass over those for another. A call that has not returned within
        ``[node] synchronize_s`` ends the service on this node, and the ring goes on.
        """

    async def answer(self, request: bytes) -> bytes:
        """Answer a request of a program or of a command (``Session.request``).

        Several may be under way at a time. Raise ServiceFailed to refuse it with a sentence.
        """
        raise ServiceFailed(f"the service {self.NAME} takes no requests")

    def status(self) -> Mapping[str, Any]:
        """Facts for ``vsync status``: plain values by name, JSON-ready."""
        return {}

    async def close(self) -> None:
        """The node closes; called once, at the end, also after a failure."""


def service_group(name: str) -> GroupKey:
    """The group in which the service *name* talks to itself on other nodes."""
    encoded, room = name.encode(), GROUP_KEY_BYTES - len(SERVICE_GROUPS)
    if len(encoded) > room:
        encoded = hashlib.blake2b(encoded, digest_size=room).digest()
    return GroupKey((SERVICE_GROUPS + encoded).ljust(GROUP_KEY_BYTES, b"\0"))

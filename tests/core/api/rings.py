"""Rings inside the test's own process, over the transport ``memory``."""

import itertools
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio

import vsync
from vsync import ConfigurationChanged, Delivery, Node, Session, WouldBlock

_names = itertools.count(1)
PATIENCE_S = 20.0

QUICK_BUT_PATIENT: dict[str, Any] = {"preset": "loopback", "token_lost_s": 1.0}
"""A machine that stops a thread for a while must not change a test's configurations."""


class Open(Protocol):
    """Opens a session on a node, one way or the other; options are those of ``Node.session``."""

    def __call__(self, node: Node, **options: Any) -> AbstractAsyncContextManager[Session]: ...


def settings_of(directory: Path, node: int, network: str, **ring: Any) -> vsync.NodeSettings:
    """Settings of a node on the memory network *network*."""
    return vsync.NodeSettings.model_validate(
        {
            "node": {"id": node, "state_dir": str(directory / f"state{node}")},
            "ring": {"name": network, "transport": "memory", **QUICK_BUT_PATIENT, **ring},
            "transport": {"memory": {"network": network}},
        }
    )


def fresh_network() -> str:
    """A network that no other test uses."""
    return f"test-{os.getpid()}-{next(_names)}"


@asynccontextmanager
async def ring_of(
    directory: Path, count: int, *, trace: bool = False, **ring: Any
) -> AsyncIterator[list[Node]]:
    """*count* nodes that have found each other."""
    network = fresh_network()
    async with AsyncExitStack() as stack:
        nodes = []
        for number in range(1, count + 1):
            path = directory / f"{number}.jsonl" if trace else None
            settings = settings_of(directory, number, network, **ring)
            nodes.append(await stack.enter_async_context(vsync.open_node(settings, trace=path)))
        await until_together(nodes)
        yield nodes


async def until_together(nodes: list[Node]) -> None:
    """Wait until all of *nodes* are in one configuration."""
    members = tuple(sorted(node.id for node in nodes))
    with anyio.fail_after(PATIENCE_S):
        while not all(
            node.configuration is not None and node.configuration.members == members
            for node in nodes
        ):
            await anyio.sleep(0.01)


async def block(session: Session, payload: bytes, group: str) -> WouldBlock:
    """Send at once, again and again, until the ring waits for somebody and no room is left."""
    waits = False
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                session.send_nowait(payload, group)
            except WouldBlock as refusal:
                # What found no room before the ring waited says nothing: some may have gone since.
                if waits and refusal.blocked_by is not None:
                    return refusal
                waits = refusal.blocked_by is not None
                await anyio.sleep(0.001)


async def deliveries(session: Session, count: int) -> list[Delivery]:
    """The next *count* messages of *session*; configurations are passed over."""
    found: list[Delivery] = []
    passed: list[str] = []
    with anyio.move_on_after(PATIENCE_S):
        while len(found) < count:
            event = await session.receive()
            if isinstance(event, Delivery):
                found.append(event)
            elif isinstance(event, ConfigurationChanged):
                passed.append(f"{event.configuration.id} {event.configuration.members}")
    assert len(found) == count, f"after {PATIENCE_S} s; configurations passed over: {passed}"
    return found


async def configuration(session: Session) -> vsync.Configuration:
    """The next configuration of *session*; messages are passed over."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            event = await session.receive()
            if isinstance(event, ConfigurationChanged):
                return event.configuration

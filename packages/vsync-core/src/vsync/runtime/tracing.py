"""Tracing: what a node sends and delivers, as lines of its trace."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vsync.engine import Engine
from vsync.engine.groups import EngineOutput
from vsync.engine.runs import Run
from vsync.events import ConfigurationChanged, Delivery, GroupChanged
from vsync.trace import TraceWriter, digest, view_fields
from vsync.vocabulary import MessageId

if TYPE_CHECKING:
    from vsync.runtime.driver import Submission


def trace_submission(trace: TraceWriter, engine: Engine, submission: "Submission") -> None:
    """Note that *engine* has taken these messages."""
    for counter, payload in enumerate(submission.payloads, submission.first):
        message = MessageId(engine.node, engine.life, submission.priority, counter)
        trace.send(
            time.monotonic_ns(),
            message=str(message),
            groups=tuple(group.hex() for group in submission.groups),
            guarantee=submission.guarantee.word,
            priority=submission.priority.word,
            size=len(payload),
            digest=digest(payload),
        )


def trace_events(trace: TraceWriter, events: Sequence[EngineOutput]) -> None:
    """Note what is delivered, and write it out."""
    for event in events:
        if type(event) is Run:
            for delivery in event.deliveries:
                _trace_delivery(trace, delivery)
        elif type(event) is ConfigurationChanged:
            configuration = event.configuration
            trace.configuration(
                time.monotonic_ns(),
                id=configuration.id,
                kind=configuration.kind.value,
                members=configuration.members,
                joined=configuration.joined,
                left=configuration.left,
                next=configuration.next,
            )
        elif type(event) is GroupChanged:
            trace.group(time.monotonic_ns(), **view_fields(event))
    trace.flush()


def _trace_delivery(trace: TraceWriter, delivery: Delivery) -> None:
    trace.deliver(
        time.monotonic_ns(),
        message=str(delivery.message),
        sender=delivery.message.node,
        configuration=delivery.configuration.id,
        groups=tuple(group.hex() for group in delivery.groups),
        guarantee=delivery.guarantee.word,
        size=len(delivery.payload),
        digest=digest(delivery.payload),
    )

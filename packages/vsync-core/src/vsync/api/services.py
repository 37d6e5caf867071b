"""Services at work: what feeds a ``Service`` from its session, and ends it if it must be.

One ``ServiceRunner`` a service. It needs a ``ServiceSession`` only, so that services run in a node
and in a simulated one alike.
"""

import json
import logging
from abc import abstractmethod
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, cast

import anyio
from anyio.abc import TaskGroup
from pydantic import BaseModel

from vsync.api.session import Payload, Session
from vsync.engine.groups import EngineEvent, Settled
from vsync.errors import MisuseError, PriorityHeld, ServiceFailed, VsyncError
from vsync.events import ConfigurationChanged, Delivery, GroupChanged
from vsync.service import Service, ServiceContext, service_group
from vsync.vocabulary import (
    Configuration,
    GroupKey,
    Guarantee,
    Member,
    MessageId,
    Priority,
)

CLOSE_S: Final = 5.0
"""How long a service may take to close."""

KEPT_BYTES_MAX: Final = 2**16
"""What a service may keep on disk: enough for what it must not forget, too little for data."""

logger = logging.getLogger(__name__)

_synchronizing: ContextVar["ServiceRunner | None"] = ContextVar("_synchronizing", default=None)


class ServiceSession(Session):
    """A service's place on the ring: a session, and what only services may do.

    Its stream has ``Settled`` too: all nodes have announced their groups.
    """

    SERVES = True

    @abstractmethod
    def begin(self, service: str, group: GroupKey) -> None:
        """Begin the session, as a member of *group*; the node has not started yet, so no waiting.

        From then on the ring waits for ``synchronized`` in each configuration.
        """

    @abstractmethod
    def synchronized(self, service: str, configuration: Configuration) -> None:
        """The service is done with *configuration*."""

    @abstractmethod
    def end(self, service: str, *, failed: bool, decides_primary: bool) -> None:
        """The service has ended: the ring waits for it no more, and its session ends."""

    @abstractmethod
    def set_primary(self, configuration: Configuration, primary: bool, reason: str) -> None:
        """Say whether *configuration* is primary."""

    @abstractmethod
    def load(self, service: str) -> bytes | None:
        """What the service kept on this node."""

    @abstractmethod
    async def save(self, service: str, data: bytes) -> None:
        """Keep *data* for the service, durable when this returns."""

    @property
    @abstractmethod
    def decides_primary(self) -> bool:
        """Whether a service of this node says which configurations are primary."""

    @abstractmethod
    async def primary(self, configuration: Configuration) -> tuple[bool, str]:
        """Wait until it is decided whether *configuration* is primary; that, and the reason."""


class ServiceRunner:
    """One service in one node, from before the node's start to its end."""

    def __init__(self, kind: type[Service], settings: BaseModel, session: ServiceSession) -> None:
        self.kind = kind
        self.failure: str | None = None
        """Why the service has ended before its node, if it has: a sentence."""
        self._session = session
        self._group = service_group(kind.NAME)
        self._service = kind(settings, _Context(self, session))
        self._members: tuple[Member, ...] = ()
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._synchronizing: _Task | None = None

    def start(self, tasks: TaskGroup) -> None:
        """Begin the session and run the service in *tasks*."""
        self._session.begin(self.kind.NAME, self._group)
        tasks.start_soon(self._run)

    async def stop(self) -> None:
        """End the service, since its node closes; returns when it has closed."""
        self._scope.cancel()
        await self._ended.wait()

    def end_late(self, synchronize_s: float) -> None:
        """The service has not synchronized in time: end it."""
        self._fail(f"it did not synchronize within {synchronize_s:g} s")
        self._scope.cancel()

    def status(self) -> Mapping[str, Any]:
        """What ``vsync status`` shows of the service."""
        if self.failure is not None:
            return {"failed": self.failure}
        try:
            status = dict(self._service.status())
            json.dumps(status)  # else the answer to a client could not be written
            return status
        except Exception as error:  # whatever a stranger's code does must not break the others
            logger.exception("service %s cannot tell its status", self.kind.NAME)
            return {"error": f"{type(error).__name__}: {error}"}

    async def request(self, body: bytes) -> bytes:
        """Have the service answer. Raises ServiceFailed."""
        name = self.kind.NAME
        if self.failure is not None:
            raise ServiceFailed(f"the service {name} has failed on this node: {self.failure}")
        if self._ended.is_set():
            raise ServiceFailed(f"the service {name} has ended, since its node closes")
        try:
            answer: object = await self._service.answer(body)
        except VsyncError as error:
            if isinstance(error, ServiceFailed):
                raise
            raise ServiceFailed(f"the service {name} cannot do that: {error}") from error
        except Exception as error:
            logger.exception("service %s cannot answer a request", name)
            raise ServiceFailed(
                f"the service {name} cannot answer: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(answer, bytes):
            raise ServiceFailed(f"the service {name} answers with {type(answer).__name__}")
        return answer

    # --- the service's life ---------------------------------------------------------------------

    async def _run(self) -> None:
        failed = False
        try:
            with self._scope:
                await self._work()
        except Exception as error:
            self._fail(_sentence(error))
        finally:
            failed = self.failure is not None
            self._session.end(
                self.kind.NAME, failed=failed, decides_primary=failed and self.kind.PRIMARY
            )
            with anyio.CancelScope(shield=True):
                await self._close()
            self._ended.set()

    def _fail(self, reason: str) -> None:
        if self.failure is None:
            self.failure = reason
            logger.error(
                "service %s has ended on node %d, and the node goes on without it: %s",
                self.kind.NAME,
                self._session.member.node,
                reason,
            )

    async def _close(self) -> None:
        with anyio.move_on_after(CLOSE_S) as patience:
            try:
                await self._service.close()
            except Exception:
                logger.exception("service %s cannot close", self.kind.NAME)
        if patience.cancelled_caught:
            logger.error("service %s did not close within %g s", self.kind.NAME, CLOSE_S)

    async def _work(self) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._service.run)
            while True:
                try:
                    batch = await self._session.receive_batch()
                except VsyncError:
                    break  # the node has ended, and tells its users why
                for event in batch:
                    await self._tell(cast(EngineEvent, event))
            tasks.cancel_scope.cancel()

    async def _tell(self, event: EngineEvent) -> None:
        service = self._service
        match event:
            case Delivery():
                await service.deliver(event)
            case ConfigurationChanged(configuration=configuration):
                if self._synchronizing is not None:
                    await self._synchronizing.end()
                    self._synchronizing = None
                await service.configuration_changed(configuration)
            case GroupChanged(group=group, members=members) if group == self._group:
                self._members = members
                await service.view_changed(event)
            case Settled(configuration=configuration):
                assert self._tasks is not None
                self._synchronizing = task = _Task()
                self._tasks.start_soon(self._synchronize, configuration, task)
                # What it does before it first waits, it does before the next delivery.
                await task.begun.wait()

    async def _synchronize(self, configuration: Configuration, task: "_Task") -> None:
        _synchronizing.set(self)
        try:
            with task.scope:
                task.begun.set()
                await self._service.synchronize(configuration, self._members)
                self._session.synchronized(self.kind.NAME, configuration)
        finally:
            task.ended.set()


class _Task:
    """A call that may have to end before it returns."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.begun = anyio.Event()
        self.ended = anyio.Event()

    async def end(self) -> None:
        """Cancel the call, and wait until it has ended."""
        self.scope.cancel()
        await self.ended.wait()


class _Context(ServiceContext):
    """What a service sees of its runner."""

    def __init__(self, runner: ServiceRunner, session: ServiceSession) -> None:
        self._runner = runner
        self._session = session

    @property
    def member(self) -> Member:
        return self._session.member

    async def send(
        self,
        payload: Payload,
        *,
        guarantee: Guarantee = Guarantee.AGREED,
        priority: Priority = Priority.MEDIUM,
    ) -> MessageId:
        if priority >= Priority.MEDIUM and _synchronizing.get() is self._runner:
            raise PriorityHeld(
                f"service {self._runner.kind.NAME} sends at priority {priority.word} inside its "
                "synchronize(), where that is held; send with priority=Priority.RECOVERY"
            )
        return await self._session.send(
            payload, self._runner._group, guarantee=guarantee, priority=priority
        )

    def set_primary(self, configuration: Configuration, primary: bool, reason: str) -> None:
        if not self._runner.kind.PRIMARY:
            raise MisuseError(
                f"service {self._runner.kind.NAME} does not decide which configuration is "
                "primary; a service that does has PRIMARY = True"
            )
        self._session.set_primary(configuration, primary, reason)

    @property
    def decides_primary(self) -> bool:
        return self._session.decides_primary

    async def primary(self, configuration: Configuration) -> tuple[bool, str]:
        return await self._session.primary(configuration)

    def load(self) -> bytes | None:
        return self._session.load(self._runner.kind.NAME)

    async def save(self, data: bytes) -> None:
        if len(data) > KEPT_BYTES_MAX:
            raise MisuseError(
                f"service {self._runner.kind.NAME} keeps {len(data)} bytes; "
                f"{KEPT_BYTES_MAX} are possible"
            )
        await self._session.save(self._runner.kind.NAME, bytes(data))


def _sentence(error: BaseException) -> str:
    """What went wrong in a service, out of the groups that task groups make."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    if isinstance(error, VsyncError):
        return str(error)
    logger.error("a service has failed", exc_info=error)
    return f"{type(error).__name__}: {error}"

"""A number that all nodes keep, each a copy of its own.

Copies agree since all apply the same additions in the same order. When the configuration changes
they may differ: a node is new, or two sides meet that went on apart. Then each tells what it has,
and the highest number stays.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from pydantic import BaseModel, ConfigDict

from vsync import (
    Configuration,
    Delivery,
    GroupChanged,
    Member,
    Priority,
    Service,
    ServiceContext,
    ServiceFailed,
)

NUMBER_DIGITS_MAX = 30


class ExampleSettings(BaseModel):
    """``[service.example]``"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    initial: int = 0
    """The number in the beginning."""


class ServiceExample(Service):
    """One node's copy."""

    NAME = "example"
    SETTINGS = ExampleSettings

    def __init__(self, settings: ExampleSettings, context: ServiceContext) -> None:
        super().__init__(settings, context)
        self.number = settings.initial
        self._configuration = ""
        self._missing: set[Member] = set()
        self._told: list[int] = []
        self._complete = anyio.Event()

    async def synchronize(self, configuration: Configuration, members: Sequence[Member]) -> None:
        """Tell what this copy has, and wait until all others have told."""
        self._configuration = configuration.id
        self._missing, self._told = set(members), []
        self._complete = anyio.Event()
        # What a call that was cancelled has sent may still come: say which change this is for.
        told = {"in": configuration.id, "number": self.number}
        await self.context.send(json.dumps(told).encode(), priority=Priority.RECOVERY)
        await self._complete.wait()

    async def view_changed(self, view: GroupChanged) -> None:
        """A copy that has ended on its node tells nothing any more."""
        self._missing &= set(view.members)
        self._complete_if_all_told()

    async def deliver(self, delivery: Delivery) -> None:
        """An addition, or what another copy has; the same at the same place for all."""
        match json.loads(delivery.payload):
            case {"add": int(number)}:
                self.number += number
            case {"in": configuration, "number": int(number)}:
                if configuration == self._configuration and delivery.sender in self._missing:
                    self._missing.discard(delivery.sender)
                    self._told.append(number)
                    self._complete_if_all_told()

    def _complete_if_all_told(self) -> None:
        if self._told and not self._missing and not self._complete.is_set():
            self.number = max(self._told)
            self._complete.set()

    async def answer(self, request: bytes) -> bytes:
        """``get`` gives the number here, now; ``add N`` adds to it, everywhere."""
        match request.split():
            case [b"get"]:
                return b"%d" % self.number
            case [b"add", digits] if _is_number(digits):
                await self.context.send(json.dumps({"add": int(digits)}).encode())
                return b""
            case _:
                raise ServiceFailed("example is asked for `get`, or to `add` a whole number")

    def status(self) -> Mapping[str, Any]:
        """For ``vsync status``."""
        return {"number": self.number}


def _is_number(text: bytes) -> bool:
    return len(text) <= NUMBER_DIGITS_MAX and text.removeprefix(b"-").isdigit()

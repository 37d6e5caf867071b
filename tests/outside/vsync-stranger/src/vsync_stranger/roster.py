"""The service ``roster``: names that somebody has called out; none is ever forgotten."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
from pydantic import BaseModel

import vsync


class Roster(vsync.Service):
    """The names, on one node."""

    NAME = "roster"

    def __init__(self, settings: BaseModel, context: vsync.ServiceContext) -> None:
        super().__init__(settings, context)
        self.names: set[str] = set()
        self._heard: set[vsync.Member] = set()
        self._members: set[vsync.Member] = set()
        self._news = anyio.Event()

    async def synchronize(
        self, configuration: vsync.Configuration, members: Sequence[vsync.Member]
    ) -> None:
        """All names of all: a union, so that it does not matter who has said them before."""
        self._heard = set()
        everything = json.dumps(sorted(self.names)).encode()
        await self.context.send(everything, priority=vsync.Priority.RECOVERY)
        while not self._members <= self._heard:
            self._news = anyio.Event()
            await self._news.wait()

    async def view_changed(self, view: vsync.GroupChanged) -> None:
        """Who runs this."""
        self._members = set(view.members)
        self._news.set()

    async def deliver(self, delivery: vsync.Delivery) -> None:
        """Names."""
        self.names |= set(json.loads(delivery.payload))
        self._heard.add(delivery.sender)
        self._news.set()

    async def answer(self, request: bytes) -> bytes:
        """``NAME!`` calls a name out; ``?`` asks for all."""
        if request == b"?":
            return " ".join(sorted(self.names)).encode()
        name = request.decode("ascii", "replace").removesuffix("!")
        if not request.endswith(b"!") or not name.isalnum() or len(name) > 99:
            raise vsync.ServiceFailed("call a name out, as in ada!, or ask with ?")
        await self.context.send(json.dumps([name]).encode())
        return b""

    def status(self) -> Mapping[str, Any]:
        """How many."""
        return {"names": len(self.names)}


@vsync.hookimpl
def vsync_register_services() -> Sequence[type[vsync.Service]]:
    """What is in this module."""
    return [Roster]

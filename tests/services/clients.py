"""Clients that use the map at random, and write down what they saw."""

from random import Random

import anyio

import vsync
from vsync_services.kv import KeyValue, KeyValueError
from vsync_services.kv.client import Requester
from vsync_services.testing import Recorder

KEYS = ("a", "b", "c")


class Client:
    """One client at one node: an action at a time, until it is cancelled or the node is gone."""

    def __init__(
        self, name: str, session: Requester, recorder: Recorder, dice: Random, pause_s: float
    ) -> None:
        self.name = name
        self.values = KeyValue(session)
        self.recorder = recorder
        self.dice = dice
        self.pause_s = pause_s
        self.known: dict[str, int] = {}
        """The revisions that it saw last, for compare-and-set."""
        self.count = 0

    async def run(self) -> None:
        while True:
            await anyio.sleep(self.dice.random() * self.pause_s)
            try:
                await self.act()
            except (KeyValueError, vsync.ServiceFailed):
                await anyio.sleep(self.pause_s)
            except vsync.VsyncError:  # the node, or the way to it
                return

    async def act(self) -> None:
        key, chance = self.dice.choice(KEYS), self.dice.random()
        self.count += 1
        value = f"{self.name} {self.count}".encode()
        if chance < 0.4:
            seen = await self.recorder.get(self.name, self.values, key)
            self.known[key] = seen.revision
        elif chance < 0.7:
            self.known[key] = await self.recorder.set(self.name, self.values, key, value)
        elif chance < 0.95:
            known = self.known.get(key, 0)
            await self.recorder.compare_and_set(self.name, self.values, key, value, known)
        else:
            await self.recorder.delete(self.name, self.values, key)

"""Clients of the map at running nodes, as a process.

    python -m tests.services.crowd --report FILE SOCKET...

Two clients a socket; a node that is not there, or goes away, is tried again. The program ends when
its standard input does, and then writes what the clients saw, as JSON.
"""

import argparse
import dataclasses
import json
import random
import sys
from math import inf
from pathlib import Path
from typing import Any

import anyio

import vsync
from tests.services.clients import Client
from vsync_services.testing import Action, Call, CompareAndSet, Delete, Get, Recorder, Set

RETRY_S = 0.05
PAUSE_S = 0.03
ACTIONS: dict[str, type[Action]] = {
    kind.__name__: kind for kind in (Get, Set, Delete, CompareAndSet)
}


def as_record(call: Call) -> dict[str, Any]:
    """A call as JSON has it."""
    fields = dataclasses.asdict(call.action)
    return {
        "client": call.client,
        "key": call.key,
        "begin": call.begin,
        "end": None if call.end == inf else call.end,
        "action": type(call.action).__name__,
        **{name: v.decode() if isinstance(v, bytes) else v for name, v in fields.items()},
    }


def as_call(record: dict[str, Any]) -> Call:
    """What ``as_record`` made *record* of."""
    fields = dict(record)
    kind = ACTIONS[fields.pop("action")]
    client, key, begin, end = (fields.pop(name) for name in ("client", "key", "begin", "end"))
    if fields.get("value") is not None:
        fields["value"] = fields["value"].encode()
    return Call(
        client=client,
        key=key,
        begin=begin,
        end=inf if end is None else end,
        action=kind(**fields),
    )


async def visit(socket: Path, name: str, recorder: Recorder) -> None:
    """Be a client at the node behind *socket* for ever; a new one after each connection."""
    dice = random.Random(name)
    life = 0
    while True:
        life += 1
        try:
            async with vsync.connect(socket) as session, anyio.create_task_group() as tasks:
                tasks.start_soon(take, session)
                await Client(f"{name}.{life}", session, recorder, dice, PAUSE_S).run()
                tasks.cancel_scope.cancel()
        except* (vsync.VsyncError, OSError):
            pass  # not there yet, killed, or not in a configuration yet
        await anyio.sleep(RETRY_S)


async def take(session: vsync.Session) -> None:
    """Take the events, so that nobody waits for us."""
    async for _ in session.batches():
        pass


async def work(sockets: list[Path], recorder: Recorder) -> None:
    """Use the map until standard input ends."""
    async with anyio.create_task_group() as tasks:
        for place, socket in enumerate(sockets):
            for number in range(2):
                tasks.start_soon(visit, socket, f"{place}.{number}", recorder)
        await anyio.to_thread.run_sync(sys.stdin.read)
        tasks.cancel_scope.cancel()


def main() -> None:
    """Run the clients."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("sockets", nargs="+", type=Path)
    options = parser.parse_args()
    recorder = Recorder()
    anyio.run(work, options.sockets, recorder)
    options.report.write_text(json.dumps([as_record(call) for call in recorder.calls]))


if __name__ == "__main__":
    main()

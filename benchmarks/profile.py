"""Where the time of a message goes, by layer. Needs root: each node has its own host.

    python -m benchmarks.profile [--sizes 64,1024,65536] [--seconds 5] [--write]

Three nodes in network namespaces on a bridge, one of them sends as fast as it may. A layer's time
is processor time of the ring's thread, measured around its functions, less that of the layers that
they call; *application* is what the process's other threads used: the event loop, and the program
that checks what it receives. The measuring itself costs a few percent. All modules are pure: those
that are compiled call each other where no measuring function can stand. ``--write`` puts the tables
into docs/profiles.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import anyio

import vsync
from tests.transport_udp.hosts import Ethernet, Host
from vsync import speedups
from vsync.engine import Engine
from vsync.engine.log import Log
from vsync.engine.packing import Packer
from vsync.runtime.driver import Driver
from vsync.wire import Codec
from vsync_transport_udp.transport import TransportUDP

PAGE: Final = Path(__file__).parents[1] / "docs" / "profiles.md"
BEGIN, END = "<!-- profiles: begin -->\n", "<!-- profiles: end -->\n"
NODES: Final = 3
WARM_S: Final = 1.0
PATIENCE_S: Final = 60
SOCKET_RECEIVE, SOCKET_SEND = "kernel: receive", "kernel: send"

LAYERS: Final[dict[str, Sequence[tuple[type, str]]]] = {
    SOCKET_RECEIVE: [(TransportUDP, "receive_trains")],
    "frames: read and check": [
        (Codec, "decode_part"),
        (Codec, "decode_train"),
        (Codec, "assemble"),
    ],
    "frames: file, ask, forget": [(Log, "add"), (Log, "release"), (Engine, "receive")],
    "token: visit": [(Engine, "_visit"), (Engine, "handle_timeout")],
    "messages: accept": [(Driver, "_take_commands"), (Packer, "submit")],
    "frames: pack and build": [(Packer, "take"), (Codec, "data")],
    "messages: order and read": [(Log, "deliver"), (Engine, "take_runs")],
    "messages: hand over": [(Driver, "_hand_over")],
    SOCKET_SEND: [(TransportUDP, "send")],
}
APPLICATION: Final = "application"
OTHER: Final = "ring's thread: the rest"


class Meter:
    """Processor time by layer, of one thread; a layer within another is not counted twice."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.thread_s = 0.0
        self._within: list[float] = []

    def put_in(self) -> None:
        """Put measuring functions in the place of those of all layers."""
        for layer, functions in LAYERS.items():
            for owner, name in functions:
                setattr(owner, name, self._measured(layer, getattr(owner, name)))

    def _measured(self, layer: str, function: Callable[..., Any]) -> Callable[..., Any]:
        spent, within, clock = self.spent, self._within, time.thread_time

        def measured(*arguments: Any) -> Any:
            within.append(0.0)
            began = clock()
            try:
                return function(*arguments)
            finally:
                ended = clock()
                self.thread_s = ended
                took = ended - began
                spent[layer] += took - within.pop()
                if within:
                    within[-1] += took

        return measured

    def seen(self) -> dict[str, float]:
        """What was spent up to now, and by the whole thread and process."""
        return {**self.spent, "thread": self.thread_s, "process": time.process_time()}


async def peer(options: dict[str, Any]) -> None:
    """One node: send if it is to, check what comes, and print what was spent."""
    meter = Meter()
    meter.put_in()
    settings = vsync.NodeSettings.model_validate(options["settings"])
    payload = bytes(options["size"])
    batch = [payload] * max(1, min(256, 65_536 // len(payload)))
    async with vsync.open_node(settings) as node, node.session() as session:
        await session.join("profile")
        everyone = anyio.Event()

        async def send() -> None:
            await everyone.wait()
            while True:
                await session.send_batch(batch)

        async with anyio.create_task_group() as tasks:
            if options["sends"]:
                tasks.start_soon(send)
            messages = 0
            before: dict[str, float] | None = None
            began = float("inf")
            async for events in session.batches():
                now = time.monotonic()
                for event in events:
                    if type(event) is vsync.Delivery:
                        assert event.payload == payload
                        messages += 1
                    elif type(event) is vsync.GroupChanged and len(event.members) == NODES:
                        everyone.set()
                        began = now + WARM_S
                if before is None and now >= began:
                    before, began, messages = meter.seen(), now, 0
                elif before is not None and now >= began + options["seconds"]:
                    spent = {name: s - before.get(name, 0.0) for name, s in meter.seen().items()}
                    result = {"messages": messages, "seconds": now - began, "spent": spent}
                    sys.stdout.write(json.dumps(result) + "\n")
                    sys.stdout.flush()
                    await anyio.sleep(1)  # the others are still measuring
                    os._exit(0)  # nobody listens any more: no need to drain


def start(host: Host, number: int, size: int, seconds: float, directory: str) -> Any:
    """Start a node's process on *host*."""
    options = {
        "sends": number == 1,
        "size": size,
        "seconds": seconds,
        "settings": {
            "node": {"id": number, "state_dir": f"{directory}/{number}"},
            "ring": {"name": "profile", "transport": "udp"},
            "transport": {"udp": {"bind": "eth0", "multicast_loop": False}},
        },
    }
    command = [sys.executable, "-m", "benchmarks.profile", "--peer", json.dumps(options)]
    pure = {**os.environ, speedups.VARIABLE: "1"}
    return host.run(lambda: subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=pure))


def measure(size: int, seconds: float) -> list[dict[str, Any]]:
    """What each of three nodes spent on messages of *size* bytes; the first one sends."""
    with tempfile.TemporaryDirectory() as directory, Ethernet() as ethernet:
        hosts = [ethernet.add_host() for _ in range(NODES)]
        processes = [
            start(host, number, size, seconds, directory) for number, host in enumerate(hosts, 1)
        ]
        try:
            return [json.loads(process.communicate(timeout=PATIENCE_S)[0]) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()


def rows(results: Sequence[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """By layer: microseconds a message at the sender, and at a receiver."""
    columns = []
    for result in (results[0], results[1]):
        spent = result["spent"]
        micros = {layer: 1e6 * spent.get(layer, 0.0) / result["messages"] for layer in LAYERS}
        thread = 1e6 * spent["thread"] / result["messages"]
        known = float(sum(micros.values()))
        micros[OTHER] = max(0.0, thread - known)
        micros[APPLICATION] = 1e6 * (spent["process"] - spent["thread"]) / result["messages"]
        columns.append(micros)
    sender, receiver = columns
    return [(layer, sender[layer], receiver[layer]) for layer in (*LAYERS, OTHER, APPLICATION)]


def table(size: int, results: Sequence[dict[str, Any]]) -> str:
    """A Markdown table of what was measured for *size*."""
    rate = min(result["messages"] / result["seconds"] for result in results)
    lines = [
        f"### Messages of {size:,} bytes: {rate:,.0f} a second at the slowest",
        "",
        "| layer | µs a message at the sender | at a receiver |",
        "|---|---:|---:|",
    ]
    found = rows(results)
    digits = 2 if size < 4096 else 1
    lines += [f"| {name} | {one:.{digits}f} | {two:.{digits}f} |" for name, one, two in found]
    one, two = sum(row[1] for row in found), sum(row[2] for row in found)
    lines.append(f"| **all** | **{one:.{digits}f}** | **{two:.{digits}f}** |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the page if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="64,1024,65536")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--peer")
    options = parser.parse_args()
    if options.peer:
        anyio.run(peer, json.loads(options.peer))
        return
    tables = []
    for size in map(int, options.sizes.split(",")):
        tables.append(table(size, measure(size, options.seconds)))
        sys.stdout.write(tables[-1] + "\n")
        sys.stdout.flush()
    if options.write:
        before, rest = PAGE.read_text().split(BEGIN)
        after = rest.split(END)[1]
        machine = (
            f"vsync {version('vsync-core')}, Python {platform.python_version()}, Linux "
            f"{platform.release()}, {os.cpu_count()} processors.\n\n"
        )
        PAGE.write_text(before + BEGIN + machine + "\n".join(tables) + END + after)


if __name__ == "__main__":
    main()

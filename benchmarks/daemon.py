"""Ten programs through one daemon: every message to all of them, none lost, none out of order.

    python -m benchmarks.daemon [--messages 1000000] [--clients 10] [--size 64] [--batch 500]

Each program is a process of its own that sends its share and receives all messages. It sees that
those of each sender come in the order of their numbers, with none missing, and all programs must
have seen the same sequence; else the exit code is 1.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio

import vsync

PATIENCE_S = 30.0


def say(line: str) -> None:
    """Print one line of the result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def client(options: argparse.Namespace) -> None:
    """Send a share, receive everything, and print what came as JSON."""
    share = options.messages // options.clients
    filling = bytes(max(0, options.size - 12))
    async with vsync.connect(options.socket, name=f"client {options.client}") as session:
        await session.join("benchmark")
        members: tuple[vsync.Member, ...] = ()
        while len(members) < options.clients:
            event = await session.receive()
            if isinstance(event, vsync.GroupChanged):
                members = event.members
        mine = options.client.to_bytes(4, "big")

        async def send() -> None:
            for first in range(0, share, options.batch):
                numbers = range(first, min(first + options.batch, share))
                await session.send_batch(
                    [mine + number.to_bytes(8, "big") + filling for number in numbers],
                    "benchmark",
                )

        expected = [0] * options.clients
        wrong = 0
        sequence = hashlib.blake2b(digest_size=16)
        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            while sum(expected) + wrong < share * options.clients:
                for event in await session.receive_batch():
                    if type(event) is vsync.Delivery:
                        head = event.payload[:12]
                        sequence.update(head)
                        sender = int.from_bytes(head[:4], "big")
                        if expected[sender] == int.from_bytes(head[4:], "big"):
                            expected[sender] += 1
                        else:
                            wrong += 1
        say(
            json.dumps(
                {
                    "wrong": wrong,
                    "received": sum(expected),
                    "sequence": sequence.hexdigest(),
                    "seconds": time.monotonic() - began,
                }
            )
        )


def main() -> int:
    """Run a daemon and its clients; 0 if every client saw what it should."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1_000_000, help="of all clients together")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--size", type=int, default=64, help="of every message, in bytes")
    parser.add_argument("--batch", type=int, default=500, help="messages handed over at a time")
    parser.add_argument("--socket", help=argparse.SUPPRESS)
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client is not None:
        anyio.run(client, options)
        return 0
    with tempfile.TemporaryDirectory(prefix="vsync-daemon-") as directory:
        return measure(options, Path(directory))


def measure(options: argparse.Namespace, directory: Path) -> int:
    """Run the daemon and its clients in *directory*."""
    path = directory / "s"
    settings = directory / "node.toml"
    settings.write_text(
        f'[node]\nid = 1\nstate_dir = "{directory}/state"\n'
        f'[ring]\nname = "{directory.name}"\ntransport = "memory"\n'
    )
    command = [sys.executable, "-m", "vsync_cli", "run", "-c", str(settings), "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as daemon:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not path.exists():
                assert time.monotonic() < deadline, "the daemon has not begun to serve"
                time.sleep(0.05)
            began = time.monotonic()
            found = run_clients(options, path)
            seconds = time.monotonic() - began
        finally:
            daemon.terminate()
    share = options.messages // options.clients * options.clients
    good = all(
        (each["wrong"], each["received"], each["sequence"]) == (0, share, found[0]["sequence"])
        for each in found
    )
    deliveries = share * options.clients
    say(
        f"{share} messages of {options.size} bytes, each to {options.clients} clients: "
        f"{seconds:.1f} s, {share / seconds:.0f} messages/s, {deliveries / seconds:.0f} "
        f"deliveries/s; {'nothing lost or out of order' if good else 'WRONG'}"
    )
    if not good:
        for number, each in enumerate(found):
            say(f"client {number}: {each}")
    return 0 if good else 1


def run_clients(options: argparse.Namespace, path: Path) -> list[dict[str, object]]:
    """Run the clients to their end, and give what each has to say."""
    shared = [
        *("--messages", str(options.messages), "--clients", str(options.clients)),
        *("--size", str(options.size), "--batch", str(options.batch), "--socket", str(path)),
    ]
    clients = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.daemon", *shared, "--client", str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(options.clients)
    ]
    try:
        found = []
        for each in clients:
            printed, _ = each.communicate()
            assert each.returncode == 0, "a client has failed; see above"
            found.append(json.loads(printed))
        return found
    finally:
        for each in clients:
            if each.poll() is None:
                each.kill()
                each.wait()


if __name__ == "__main__":
    sys.exit(main())

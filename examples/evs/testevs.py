"""Prints configurations and messages, as openais' ``testevs`` did.

It asks who is here, joins three groups and leaves the first again, sends messages to the joined
groups and then to the second one by name, and prints what is called back. With ``--stay`` it then
goes on to print until Ctrl-C, which shows nodes come and go.

Needs a node: ``vsync run -c node.toml``. Run it on several at a time to see one order everywhere.
"""

import argparse
import contextlib
from collections.abc import Callable, Sequence

from vsync import evs
from vsync.vocabulary import NodeId, RingId

KEYS = [evs.GroupKey.from_name(name) for name in ("key1", "key2", "key3")]
MESSAGE_BYTES = 1000


class Printer:
    """The callbacks, and how many messages of this run they have seen."""

    def __init__(self) -> None:
        self.delivered = 0

    def deliver(self, handle: evs.Handle, sender: NodeId, payload: bytes) -> None:
        """A message of a joined group."""
        self.delivered += 1
        text = payload.rstrip(b"\0").decode(errors="replace")
        print(f"node {sender} says: {text}", flush=True)

    def confchg(
        self,
        handle: evs.Handle,
        members: Sequence[NodeId],
        left: Sequence[NodeId],
        joined: Sequence[NodeId],
        ring: RingId,
    ) -> None:
        """A new configuration."""
        print("CONFIGURATION CHANGE", f"ring {ring}", sep="\n")
        print("members:", *members)
        print("left:", *left)
        print("joined:", *joined, flush=True)


def send(handle: evs.Handle, mcast: Callable[[list[bytes]], None], text: str) -> None:
    """Send one message, as often as it takes."""
    encoded = text.encode()
    buffers = [encoded, bytes(MESSAGE_BYTES - len(encoded))]
    while True:
        with contextlib.suppress(evs.TryAgain):
            mcast(buffers)
            break
        evs.dispatch(handle, evs.Dispatch.ALL)
    evs.dispatch(handle, evs.Dispatch.ALL)


def main() -> None:
    """Run once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--socket", metavar="PATH", help="the node's Unix socket")
    parser.add_argument("--count", type=int, default=500, help="messages of each kind")
    parser.add_argument("--stay", action="store_true", help="go on until Ctrl-C")
    options = parser.parse_args()

    printer = Printer()
    callbacks = evs.Callbacks(deliver=printer.deliver, confchg=printer.confchg)
    with evs.initialize(callbacks, path=options.socket) as handle:
        membership = evs.membership_get(handle)
        print("members now:", *membership.members)
        print("this node:", membership.local, flush=True)

        evs.join(handle, KEYS)
        evs.leave(handle, KEYS[0])
        agreed, low = evs.Guarantee.AGREED, evs.Priority.LOW
        for number in range(options.count):
            send(
                handle,
                lambda buffers: evs.mcast_joined(handle, agreed, low, buffers),
                f"mcast_joined: this is message {number}",
            )
        for number in range(options.count):
            send(
                handle,
                lambda buffers: evs.mcast_groups(handle, agreed, low, KEYS[1], buffers),
                f"mcast_groups: this is message {number}",
            )
        while printer.delivered < 2 * options.count:  # those of others are counted too
            evs.dispatch(handle, evs.Dispatch.ONE)
        if options.stay:
            with contextlib.suppress(KeyboardInterrupt):
                evs.dispatch(handle, evs.Dispatch.BLOCKING)


if __name__ == "__main__":
    try:
        main()
    except evs.EvsError as error:
        raise SystemExit(f"testevs: {error} ({error.code.name})") from None

"""Addresses and groups that no other test uses at the same time."""

import os
import random
from typing import Final

NODES_MAX: Final = 8

_dice = random.Random(f"{os.getpid()} {os.urandom(8).hex()}")


def loopback_addresses() -> list[str]:
    """Addresses of this machine; the place is the number of a node, so the first is not used.

    RoCE has one port, so nodes on one machine need addresses of their own; all of 127.0.0.0/8 is
    ours, and files of tests run at the same time.
    """
    network = f"127.{_dice.randrange(1, 255)}.{_dice.randrange(256)}"
    return [f"{network}.{number}" for number in range(NODES_MAX + 1)]


def unused_group() -> str:
    """A multicast group."""
    return f"239.192.{_dice.randrange(256)}.{_dice.randrange(1, 255)}"

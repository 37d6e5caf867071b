"""UDP ports that nobody has, for one test."""

import socket
from contextlib import ExitStack


def unused_port() -> int:
    """Ask the kernel for a free port. Another process may take it, but the kernel gives others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.bind(("", 0))
        port: int = asker.getsockname()[1]
        return port


def unused_ports(count: int) -> list[int]:
    """Ask for several at once: they differ."""
    with ExitStack() as stack:
        askers = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for _ in range(count)
        ]
        for asker in askers:
            asker.bind(("", 0))
        return [asker.getsockname()[1] for asker in askers]

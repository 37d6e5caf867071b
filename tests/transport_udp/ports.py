"""A UDP port that nobody has, for a multicast group of one test."""

import socket


def unused_port() -> int:
    """Ask the kernel for a free port. Another process may take it, but the kernel gives others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.bind(("", 0))
        port: int = asker.getsockname()[1]
        return port

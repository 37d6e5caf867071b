"""Serving a node's sessions to local programs on a Unix socket, and connecting to it."""

from vsync.daemon.client import DaemonSession, connect
from vsync.daemon.server import serve

__all__ = ["DaemonSession", "connect", "serve"]

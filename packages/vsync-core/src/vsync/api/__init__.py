"""What users hold: ``open_node``, ``Node``, ``Session``."""

from vsync.api.node import Node, open_node
from vsync.api.node_session import NodeSession
from vsync.api.session import Session

__all__ = ["Node", "NodeSession", "Session", "open_node"]

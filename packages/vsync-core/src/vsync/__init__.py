"""Virtual synchrony for Python: ordered messages and configurations over the Totem ring.

Users import from here and from nothing deeper; ``vsync.testing`` is the only other public module.
"""

from importlib.metadata import version

from vsync.api import Node, Session, open_node
from vsync.daemon import connect, serve
from vsync.errors import (
    DaemonError,
    DuplicateNode,
    MessageTooLarge,
    MisuseError,
    NodeClosed,
    PluginNotFound,
    SettingsError,
    StateFailed,
    TraceFailed,
    TransportFailed,
    Undelivered,
    VsyncError,
)
from vsync.events import ConfigurationChanged, Delivery, Event
from vsync.hookspecs import hookimpl
from vsync.settings import DaemonSection, NodeSection, NodeSettings, RingSettings
from vsync.settings_file import read_settings
from vsync.transport import EVERYONE, Address, Burst, Packet, Transport
from vsync.vocabulary import (
    Configuration,
    GroupKey,
    Guarantee,
    Kind,
    MessageId,
    NodeId,
    Priority,
    RingId,
)

__version__ = version("vsync-core")

__all__ = [
    "EVERYONE",
    "Address",
    "Burst",
    "Configuration",
    "ConfigurationChanged",
    "DaemonError",
    "DaemonSection",
    "Delivery",
    "DuplicateNode",
    "Event",
    "GroupKey",
    "Guarantee",
    "Kind",
    "MessageId",
    "MessageTooLarge",
    "MisuseError",
    "Node",
    "NodeClosed",
    "NodeId",
    "NodeSection",
    "NodeSettings",
    "Packet",
    "PluginNotFound",
    "Priority",
    "RingId",
    "RingSettings",
    "Session",
    "SettingsError",
    "StateFailed",
    "TraceFailed",
    "Transport",
    "TransportFailed",
    "Undelivered",
    "VsyncError",
    "connect",
    "hookimpl",
    "open_node",
    "read_settings",
    "serve",
]

"""Virtual synchrony for Python: ordered messages and configurations over the Totem ring.

Users import from here and from nothing deeper; ``vsync.testing`` and ``vsync.evs`` are the only
other public modules.
"""

from importlib.metadata import version

import vsync.speedups  # noqa: F401  first, since it decides what the others load

# isort: split
from vsync.api import (
    Node,
    NodeSession,
    Session,
    open_node,
)
from vsync.daemon import connect, serve
from vsync.errors import (
    ChangeFailed,
    DaemonError,
    DaemonLost,
    DuplicateNode,
    Evicted,
    MessageTooLarge,
    MisuseError,
    NodeClosed,
    NotAllowed,
    NotMember,
    PluginNotFound,
    PriorityHeld,
    ServiceFailed,
    SettingsError,
    StateFailed,
    TraceFailed,
    TransportFailed,
    Undelivered,
    VsyncError,
    WouldBlock,
)
from vsync.events import (
    ConfigurationChanged,
    Delivery,
    Disconnected,
    Envelope,
    Event,
    GroupChanged,
    Move,
)
from vsync.hookspecs import hookimpl
from vsync.service import (
    NoSettings,
    Service,
    ServiceContext,
)
from vsync.settings import DaemonSection, NodeSection, NodeSettings, RingSettings
from vsync.settings_file import read_settings
from vsync.transport import EVERYONE, Address, Burst, Packet, Transport
from vsync.vocabulary import (
    Cause,
    Configuration,
    GroupKey,
    Guarantee,
    Kind,
    Member,
    MessageId,
    NodeId,
    Priority,
    RingId,
    SlowPolicy,
)

__version__ = version("vsync-core")

__all__ = [
    "EVERYONE",
    "Address",
    "Burst",
    "Cause",
    "ChangeFailed",
    "Configuration",
    "ConfigurationChanged",
    "DaemonError",
    "DaemonLost",
    "DaemonSection",
    "Delivery",
    "Disconnected",
    "DuplicateNode",
    "Envelope",
    "Event",
    "Evicted",
    "GroupChanged",
    "GroupKey",
    "Guarantee",
    "Kind",
    "Member",
    "MessageId",
    "MessageTooLarge",
    "MisuseError",
    "Move",
    "NoSettings",
    "Node",
    "NodeClosed",
    "NodeId",
    "NodeSection",
    "NodeSession",
    "NodeSettings",
    "NotAllowed",
    "NotMember",
    "Packet",
    "PluginNotFound",
    "Priority",
    "PriorityHeld",
    "RingId",
    "RingSettings",
    "Service",
    "ServiceContext",
    "ServiceFailed",
    "Session",
    "SettingsError",
    "SlowPolicy",
    "StateFailed",
    "TraceFailed",
    "Transport",
    "TransportFailed",
    "Undelivered",
    "VsyncError",
    "WouldBlock",
    "connect",
    "hookimpl",
    "open_node",
    "read_settings",
    "serve",
]

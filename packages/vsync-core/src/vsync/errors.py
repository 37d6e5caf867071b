"""Every error that is raised on purpose.

``VsyncError``
 ├─ ``MisuseError``         the caller broke a rule of the API; the fix is in the caller
 │   ├─ ``MessageTooLarge``  a payload beyond the ring's limit
 │   ├─ ``NotMember``        only members send to a closed group
 │   └─ ``PriorityHeld``     a service sends, inside ``synchronize``, what is held until it returns
 ├─ ``SettingsError``       the settings cannot work as they are written
 ├─ ``PluginNotFound``      no installed plugin has that name
 ├─ ``MalformedPacket``     bytes that are no frame of this protocol; dropped and counted
 ├─ ``TransportFailed``     the transport cannot open, or can carry no more packets
 ├─ ``StateFailed``         the state directory cannot be read or written
 ├─ ``TraceFailed``         a trace cannot be read or written
 ├─ ``DuplicateNode``       another live process on this ring has the same node id
 ├─ ``NodeClosed``          the node is closed, or closing
 ├─ ``Undelivered``         the node closed before all that it accepted was delivered everywhere
 ├─ ``WouldBlock``          there is no room to send at once; it says who is slow
 ├─ ``Evicted``             the session was too slow for its ring, and was ended
 ├─ ``ChangeFailed``        the ring did not change its settings or its key
 ├─ ``ServiceFailed``       a service refused a request, has failed, or does not run here
 └─ ``DaemonError``         the daemon cannot be reached, or refused what was asked
     ├─ ``DaemonLost``       the connection to the daemon has ended
     └─ ``NotAllowed``       this user may not use the daemon

A bad packet never raises out of the engine. A broken invariant of our own is an ``assert``.
"""


class VsyncError(Exception):
    """Base of every error raised on purpose. Its text is a sentence for the user."""


class MisuseError(VsyncError):
    """The caller broke a rule of the API; the fix is in the caller."""


class MessageTooLarge(MisuseError):
    """A message is larger than the ring's settings allow."""

    def __init__(self, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"a message of {size_bytes} bytes is over the limit of {limit_bytes} bytes; "
            "split it, or raise message_bytes_max in [ring] on every node (at most 64 MiB)"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class SettingsError(VsyncError):
    """The settings cannot work as they are written; the text names the key and what to do."""


class PluginNotFound(VsyncError):
    """No installed plugin has the name that the settings ask for."""


class MalformedPacket(VsyncError):
    """These bytes are no frame of this protocol. The engine drops and counts them."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class TransportFailed(VsyncError):
    """The transport cannot open, or can carry no more packets; the node is closing."""


class StateFailed(VsyncError):
    """The state directory cannot be read or written; without it a ring id might be used twice."""


class TraceFailed(VsyncError):
    """A trace cannot be read or written; the text names the file, and the line if there is one."""


class DuplicateNode(VsyncError):
    """Another live process on this ring uses this node id; this one has stopped."""


class NodeClosed(VsyncError):
    """The node is closed, or closing; nothing more can be sent or received through it."""


class Undelivered(VsyncError):
    """The node closed before every message that it accepted was known to be everywhere."""

    def __init__(self, messages: int) -> None:
        super().__init__(
            f"{messages} accepted messages were not yet known to be at every member "
            "when the node closed; the other nodes may not deliver them"
        )
        self.messages = messages


class DaemonError(VsyncError):
    """The daemon cannot be reached, or refused what was asked; the text says which."""


class DaemonLost(DaemonError):
    """The connection to the daemon has ended; what was not answered may or may not have been
    accepted."""


class NotAllowed(DaemonError):
    """This user may not use the daemon; ``users`` and ``groups`` in ``[daemon]`` say who may."""


class NotMember(MisuseError):
    """Only members send to a closed group, and this session is none."""


class PriorityHeld(MisuseError):
    """A service sent at priority MEDIUM or LOW inside its own ``synchronize``.

    Those are held until every service has returned from it: to wait for them there would be to wait
    for oneself. State is transferred at RECOVERY priority.
    """


class WouldBlock(VsyncError):
    """There is no room to send at once.

    *blocked_by* is the node whose application is too slow; None if the ring is merely behind.
    *since* is the time (``time.monotonic``, seconds) from which on there was no room.
    """

    def __init__(self, blocked_by: int | None, since: float) -> None:
        who = (
            "the ring is behind"
            if blocked_by is None
            else f"the ring waits for a slow reader on node {blocked_by}"
        )
        super().__init__(f"there is no room to send at once: {who}; send later, or await send()")
        self.blocked_by = blocked_by
        self.since = since


class Evicted(VsyncError):
    """The session did not take its events in time, and its policy was to end it."""


class ServiceFailed(VsyncError):
    """A service refused a request, has failed, or does not run here; the text says which."""


class ChangeFailed(VsyncError):
    """The ring did not change its settings or its key: they are as they were; the text says why."""

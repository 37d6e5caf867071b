"""What a client of kv may have to handle.

``VsyncError``
 └─ ``KeyValueError``
     ├─ ``NotPrimary``       it had no effect, and will have none; try again later, or elsewhere
     ├─ ``OutcomeUnknown``   a write has taken effect, or will, or not
     ├─ ``NotAnswered``      a read was not answered in time, or from a map that is too old
     ├─ ``WatchBehind``      a watch cannot go on; list the map again
     └─ ``NoRoom``           the map is full, or too many wait
"""

from vsync.errors import VsyncError


class KeyValueError(VsyncError):
    """A request to kv was not carried out, or perhaps not; the text is a sentence."""


class NotPrimary(KeyValueError):
    """The node's configuration is not primary: the request had no effect, and will have none."""


class OutcomeUnknown(KeyValueError):
    """The configuration changed, or time was up, before the outcome of a write was certain.

    It may have taken effect, may do so later, or not at all. Compare-and-set makes it safe to try
    again.
    """


class NotAnswered(KeyValueError):
    """A read or a watch was not answered in time; it may be asked again."""


class WatchBehind(KeyValueError):
    """The changes after that point are no longer known here; list the map, and watch from there."""


class NoRoom(KeyValueError):
    """The map has all the bytes that settings allow, or too many requests wait."""

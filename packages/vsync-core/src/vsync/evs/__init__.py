"""The seed's face: a blocking, callback-driven API for programs with a ``poll`` loop or threads.

These are the calls of openais' ``evs.h`` (2004) under Python names, over the same sessions as the
rest of ``vsync``: ``initialize`` gives a handle, ``join`` and ``leave`` choose groups,
``mcast_joined`` and ``mcast_groups`` send without waiting, and ``dispatch`` calls back with
messages and configurations when ``fd_get`` is readable. What returned an error code there raises
the exception that carries it, an ``EvsError``. See docs/howto/port-from-openais.md for the calls
one by one.

Every call may be made from any thread, from callbacks too, but not in an event loop that must not
be held up: use ``vsync.connect`` there.
"""

from vsync.evs.calls import (
    Group,
    Groups,
    Membership,
    context_get,
    context_set,
    dispatch,
    fd_get,
    finalize,
    initialize,
    join,
    leave,
    mcast_groups,
    mcast_joined,
    membership_get,
)
from vsync.evs.errors import (
    Access,
    BadHandle,
    Code,
    EvsError,
    Exist,
    InvalidParam,
    LibraryError,
    NoMemory,
    NotExist,
    NotSupported,
    Security,
    Timeout,
    TooManyGroups,
    TryAgain,
)
from vsync.evs.handle import Callbacks, ChangeCallback, DeliverCallback, Dispatch, Handle
from vsync.vocabulary import GroupKey, Guarantee, Priority

__all__ = [
    "Access",
    "BadHandle",
    "Callbacks",
    "ChangeCallback",
    "Code",
    "DeliverCallback",
    "Dispatch",
    "EvsError",
    "Exist",
    "Group",
    "GroupKey",
    "Groups",
    "Guarantee",
    "Handle",
    "InvalidParam",
    "LibraryError",
    "Membership",
    "NoMemory",
    "NotExist",
    "NotSupported",
    "Priority",
    "Security",
    "Timeout",
    "TooManyGroups",
    "TryAgain",
    "context_get",
    "context_set",
    "dispatch",
    "fd_get",
    "finalize",
    "initialize",
    "join",
    "leave",
    "mcast_groups",
    "mcast_joined",
    "membership_get",
]

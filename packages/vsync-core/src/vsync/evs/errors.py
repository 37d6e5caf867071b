"""The seed's error codes, and an exception for each.

The numbers are those of the seed's ``evs_error_t``. A call that succeeds returns, a call that would
have returned another code raises the exception that carries it.
"""

from enum import IntEnum
from typing import ClassVar

from vsync.errors import (
    DaemonError,
    MisuseError,
    NotAllowed,
    NotMember,
    SettingsError,
    VsyncError,
)


class Code(IntEnum):
    """What a call of the seed returned."""

    OK = 1
    LIBRARY = 2
    TIMEOUT = 5
    TRY_AGAIN = 6
    INVALID_PARAM = 7
    NO_MEMORY = 8
    BAD_HANDLE = 9
    ACCESS = 11
    NOT_EXIST = 12
    EXIST = 14
    NOT_SUPPORTED = 20
    SECURITY = 29
    TOO_MANY_GROUPS = 30


class EvsError(VsyncError):
    """Base of what the calls of ``vsync.evs`` raise. *code* is the seed's number for it."""

    code: ClassVar[Code]


class LibraryError(EvsError):
    """There is no daemon, its connection has ended, or its node has; the text says which."""

    code = Code.LIBRARY


class Timeout(EvsError):
    """The daemon does not answer, or has not accepted in time what was still to be sent."""

    code = Code.TIMEOUT


class TryAgain(EvsError):
    """The handle's queue is full: nothing was sent. Dispatch, and call again."""

    code = Code.TRY_AGAIN


class InvalidParam(EvsError):
    """An argument cannot be what it is; the text says which and why."""

    code = Code.INVALID_PARAM


class NoMemory(EvsError):
    """There for completeness: without memory, Python raises MemoryError itself."""

    code = Code.NO_MEMORY


class BadHandle(EvsError):
    """The handle is finalized, or belongs to the process that this one was forked from."""

    code = Code.BAD_HANDLE


class Access(EvsError):
    """The group takes no messages from this handle: it is closed, or a service's own."""

    code = Code.ACCESS


class NotExist(EvsError):
    """A group to leave was not joined, or none is joined that could be sent to."""

    code = Code.NOT_EXIST


class Exist(EvsError):
    """There for completeness: to join a group twice is no error, in the seed neither."""

    code = Code.EXIST


class NotSupported(EvsError):
    """There for completeness: every guarantee and priority of the seed is kept."""

    code = Code.NOT_SUPPORTED


class Security(EvsError):
    """The daemon, or the permissions of its socket, do not let this user in."""

    code = Code.SECURITY


class TooManyGroups(EvsError):
    """More than 50 groups in one call, or a message to more than 50."""

    code = Code.TOO_MANY_GROUPS


def translated(error: VsyncError) -> EvsError:
    """What *error* of a session is in the seed's words."""
    text = str(error)
    kind: type[EvsError] = LibraryError
    match error:
        case EvsError():
            kind = type(error)
        case NotMember():
            kind = Access
        case MisuseError() | SettingsError():
            kind = InvalidParam
        case NotAllowed() | DaemonError(__cause__=PermissionError()):
            kind = Security
        case DaemonError(__cause__=TimeoutError()):
            kind = Timeout
    told = kind(text)
    told.__cause__ = error
    return told

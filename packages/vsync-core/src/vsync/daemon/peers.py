"""Who may use a daemon's socket: the kernel says who is at its other end.

``SO_PEERCRED`` tells the process, user and group that connected, as they were then; nobody can
claim another's (unix(7)). ``SO_PEERGROUPS`` tells the supplementary groups, from Linux 4.13 on.
"""

import grp
import os
import pwd
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vsync.errors import NotAllowed, SettingsError
from vsync.settings import DaemonSection

SO_PEERGROUPS: Final = 59
"""asm-generic/socket.h; Python has no name for it."""

MODE_ALONE: Final = 0o600
MODE_OTHERS: Final = 0o666
"""Others must be able to knock, where some are let in."""

_CREDENTIALS: Final = struct.Struct("=iII")
_GROUP: Final = struct.Struct("=I")
_OPTION_BYTES_MAX: Final = 1024
"""No socket option that Python reads is larger."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end, when it connected."""

    pid: int
    uid: int
    groups: frozenset[int]


def peer_of(connected: socket.socket) -> Peer:
    """Who is at the other end of a Unix socket. Raises OSError."""
    raw = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return Peer(pid, uid, frozenset({gid, *_supplementary(connected, uid, gid)}))


def _supplementary(connected: socket.socket, uid: int, gid: int) -> Sequence[int]:
    try:
        raw = connected.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _OPTION_BYTES_MAX)
        return [group for (group,) in _GROUP.iter_unpack(raw)]
    except OSError:  # an older kernel, or more groups than Python can be told: ask the user's entry
        try:
            return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
        except (KeyError, OSError):
            return ()


class Doorkeeper:
    """Decides who is let in: this process's user, root, and those whom the settings name."""

    def __init__(self, settings: DaemonSection) -> None:
        """Raises SettingsError for a user or a group that does not exist."""
        named = [_user(user) for user in settings.users]
        self._users = frozenset({os.geteuid(), 0, *named})
        self._groups = frozenset(map(_group, settings.groups))

    @property
    def mode(self) -> int:
        """What the socket's file has to allow."""
        alone = self._users <= {os.geteuid(), 0} and not self._groups
        return MODE_ALONE if alone else MODE_OTHERS

    def check(self, peer: Peer) -> None:
        """Raise NotAllowed if *peer* may not be here."""
        if peer.uid not in self._users and self._groups.isdisjoint(peer.groups):
            raise NotAllowed(
                f"user {_name(peer.uid)} may not use this daemon; an administrator can allow it "
                "with users or groups in [daemon] of the node's settings"
            )


def _user(user: str | int) -> int:
    if isinstance(user, int):
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):  # none has that name, or none can have it
        raise SettingsError(
            f"users in [daemon] names {user!r}, who does not exist on this machine; "
            "write a name from `getent passwd`, or the user's number"
        ) from None


def _group(group: str | int) -> int:
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):  # none has that name, or none can have it
        raise SettingsError(
            f"groups in [daemon] names {group!r}, which does not exist on this machine; "
            "write a name from `getent group`, or the group's number"
        ) from None


def _name(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"with uid {uid}"

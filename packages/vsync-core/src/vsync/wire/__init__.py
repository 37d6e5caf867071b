"""Frames and their bytes: the dialect that nodes of a ring speak.

A *frame* is a decoded value, a *packet* its bytes. ``Codec`` turns one into the other. Every frame
is declared with ``construct``; the two hot ones, data and token, also have a ``struct`` path that
property tests hold equal to the declaration.
"""

from vsync.wire.codec import Codec, Frame
from vsync.wire.control import Beacon, Commit, Entry, Join, Wake
from vsync.wire.data import (
    CONTROL_LANE,
    HEAD_BYTES_MAX,
    Data,
    Packets,
    Part,
    Recovered,
)
from vsync.wire.group import (
    Announce,
    ControlMessage,
    JoinGroups,
    LeaveGroups,
    Membership,
    Synchronized,
    build_control,
    parse_control,
)
from vsync.wire.header import IN_PARTS, PROTOCOL_VERSION, FrameType, network_of
from vsync.wire.rekey import KeyNews
from vsync.wire.terms import ChangeTerms, Mark, Terms
from vsync.wire.token import CLOSING, MOVING, REQUESTS_MAX, RESTING, Token

__all__ = [
    "CLOSING",
    "CONTROL_LANE",
    "HEAD_BYTES_MAX",
    "IN_PARTS",
    "MOVING",
    "PROTOCOL_VERSION",
    "REQUESTS_MAX",
    "RESTING",
    "Announce",
    "Beacon",
    "ChangeTerms",
    "Codec",
    "Commit",
    "ControlMessage",
    "Data",
    "Entry",
    "Frame",
    "FrameType",
    "Join",
    "JoinGroups",
    "KeyNews",
    "LeaveGroups",
    "Mark",
    "Membership",
    "Packets",
    "Part",
    "Recovered",
    "Synchronized",
    "Terms",
    "Token",
    "Wake",
    "build_control",
    "network_of",
    "parse_control",
]

"""The membership state machine as a table (Totem, TOCS 1995, sections 4 and 5).

One row a state, one entry a trigger. ``None`` says "nothing happens, on purpose"; an absent entry
is a bug that a test finds. All changes of state go through this table.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class State(Enum):
    """Where a node stands."""

    OPERATIONAL = auto()  #: the token circulates; messages are ordered
    GATHER = auto()  #: finding out who can be reached
    COMMIT = auto()  #: the proposed ring is being agreed
    RECOVERY = auto()  #: sharing what the old rings still owe
    LEFT = auto()  #: gone, on purpose or for a failure of our own; nothing is sent any more


class Trigger(Enum):
    """What can change the state."""

    TOKEN_LOST = auto()  #: no token, or no commit token, for too long
    JOIN_ACCEPTED = auto()  #: somebody's join tells something new
    RING_FOUND = auto()  #: a beacon shows another ring that hears us
    RECEIVE_FAILED = auto()  #: we cannot get a message that all others have
    CONSENSUS_EXPIRED = auto()  #: somebody did not agree in time
    COMMIT_ACCEPTED = auto()  #: a commit token proposes the membership that we agreed to
    COMMIT_COMPLETE = auto()  #: the commit token came with every entry filled
    RECOVERED = auto()  #: everyone has all that the old rings owed
    LEAVE = auto()  #: the application leaves, or the node must stop


_GATHER: Final = State.GATHER

TRANSITIONS: Final[Mapping[State, Mapping[Trigger, State | None]]] = {
    State.OPERATIONAL: {
        Trigger.TOKEN_LOST: _GATHER,
        Trigger.JOIN_ACCEPTED: _GATHER,
        Trigger.RING_FOUND: _GATHER,
        Trigger.RECEIVE_FAILED: _GATHER,
        Trigger.CONSENSUS_EXPIRED: None,  # the timer is off
        Trigger.COMMIT_ACCEPTED: None,  # a late copy
        Trigger.COMMIT_COMPLETE: None,  # a late copy
        Trigger.RECOVERED: None,
        Trigger.LEAVE: State.LEFT,
    },
    State.GATHER: {
        Trigger.TOKEN_LOST: None,  # there is no token to lose
        Trigger.JOIN_ACCEPTED: _GATHER,
        Trigger.RING_FOUND: None,  # its joins will come
        Trigger.RECEIVE_FAILED: None,
        Trigger.CONSENSUS_EXPIRED: _GATHER,
        Trigger.COMMIT_ACCEPTED: State.COMMIT,
        Trigger.COMMIT_COMPLETE: None,
        Trigger.RECOVERED: None,
        Trigger.LEAVE: State.LEFT,
    },
    State.COMMIT: {
        Trigger.TOKEN_LOST: _GATHER,
        Trigger.JOIN_ACCEPTED: _GATHER,
        Trigger.RING_FOUND: None,
        Trigger.RECEIVE_FAILED: None,
        Trigger.CONSENSUS_EXPIRED: None,
        Trigger.COMMIT_ACCEPTED: None,  # a resent copy
        Trigger.COMMIT_COMPLETE: State.RECOVERY,
        Trigger.RECOVERED: None,
        Trigger.LEAVE: State.LEFT,
    },
    State.RECOVERY: {
        Trigger.TOKEN_LOST: _GATHER,
        Trigger.JOIN_ACCEPTED: _GATHER,
        Trigger.RING_FOUND: None,
        Trigger.RECEIVE_FAILED: _GATHER,
        Trigger.CONSENSUS_EXPIRED: None,
        Trigger.COMMIT_ACCEPTED: None,
        Trigger.COMMIT_COMPLETE: None,
        Trigger.RECOVERED: State.OPERATIONAL,
        Trigger.LEAVE: State.LEFT,
    },
    State.LEFT: dict.fromkeys(Trigger),
}

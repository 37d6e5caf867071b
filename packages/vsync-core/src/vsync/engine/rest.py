"""Rest: the numbers that members may use while their ring's token rests.

On an idle ring the representative keeps the token. Numbers are given out by who has the token, so
a message would have to wake it, wait for it, and then go; three ways instead of one. Therefore the
token, when it goes round as *resting*, reserves one number for each member, by its place, above the
number that it carries: who has something to send uses its own at once. A message is delivered when
all numbers below its own are known, so who sees a number above its own used fills its own too, with
a frame that is empty. No number is ever anybody else's, so recovery sees frames as always.

A rest ends by *closing*: the token then carries the highest reserved number, and goes round until
each member has filled its own.
"""

from typing import Final

from vsync.wire.token import CLOSING, MOVING, RESTING, Token

MEMBERS_MAX: Final = 8
"""On larger rings nothing is reserved: to fill all numbers would cost more than to wake."""


class Rest:
    """The rest of one ring's token, as one of its *members* (so many) at its *place* sees it."""

    def __init__(self, members: int, place: int) -> None:
        self._members = members if members <= MEMBERS_MAX else 0
        self._place = place
        self.base: int | None = None
        """Numbers are reserved above this one; None: none are."""
        self.own = 0
        """The one that is ours and not used; 0: there is none."""
        self._closed = False
        """Ours was filled, and the token that tells to may still be going round."""
        self._told = False
        """The representative: everyone is told to close when the token is back."""

    def forget(self) -> None:
        """The ring is no more."""
        self.base = None
        self.own = 0

    def begin(self, seq: int) -> None:
        """The token goes on as resting, with *seq*."""
        self._closed = False
        if self.base is None and self._members:
            self.base = seq
            self.own = self._number(seq)

    def _number(self, base: int) -> int:
        return base + 1 + self._place

    def close(self, token: Token, seq_passed: int) -> int:
        """End the rest, or hear that it ends; our number if it is to be filled now, or 0.

        *seq_passed* is what the token carried when it last went on from here, which at all members
        was the same before the rest, whether or not they heard that it began.
        """
        if token.resting == RESTING:
            base = token.seq
            token.seq += self._members
            token.resting = CLOSING if self._members else MOVING
        else:
            base = seq_passed
        if self._closed or not self._members:
            return 0
        own = self._number(base) if self.base is None else self.own
        self._closed = True
        self.forget()
        return own

    def moves(self) -> None:
        """The token came as one that moves."""
        self._closed = False

    def closed(self, token: Token) -> None:
        """At the representative: let *token* move when it has told everyone to close."""
        if token.resting == CLOSING and self._told:
            token.resting = MOVING
        self._told = token.resting == CLOSING

"""``[service.quorum]``."""

from typing import Any, Final, Self

from pydantic import Field, field_validator, model_validator

from vsync.settings import Strict
from vsync.vocabulary import NODE_ID_MAX, NodeId
from vsync_services.quorum.decision import LOWEST, NONE, Terms

VOTES_MAX: Final = 1000
LISTED_MAX: Final = 100


class QuorumSettings(Strict):
    """``[service.quorum]``: which configuration is primary.

    All but ``votes`` must be equal on every node; where they are not, no configuration is primary.
    """

    votes: int = Field(default=1, ge=0, le=VOTES_MAX)
    """The votes of this node. 0: it hears what is decided, and counts for nothing."""

    expected_votes: int | None = Field(default=None, ge=1, le=100 * VOTES_MAX)
    """The votes of all nodes that there are, running or not. Needed, but with ``two_node``."""

    two_node: bool = False
    """There are two nodes with one vote each. Includes ``wait_for_all``; unless
    ``auto_tie_breaker`` says else, the lower of them goes on alone; the other one does if the lower
    has left in order."""

    wait_for_all: bool = False
    """Nodes that have started do not count until all have been here at once, or until they meet
    one that has seen that."""

    auto_tie_breaker: str | tuple[int, ...] = NONE
    """What makes exactly half of the votes enough: ``none``; ``lowest``, the half with the lowest
    of all nodes; or a list of nodes, the half with more than half of these."""

    @field_validator("auto_tie_breaker", mode="before")
    @classmethod
    def _read_tie_breaker(cls, given: Any) -> Any:
        if given in (NONE, LOWEST):
            return given
        if isinstance(given, list | tuple) and 1 <= len(given) <= LISTED_MAX:
            whole = all(type(node) is int and 1 <= node <= NODE_ID_MAX for node in given)
            if whole and len(set(given)) == len(given):
                return tuple(given)
        raise ValueError(
            f'must be "{NONE}", "{LOWEST}" or a list of 1 to {LISTED_MAX} different node ids, not '
            f"{given!r}"
        )

    @model_validator(mode="after")
    def _check_relations(self) -> Self:
        if self.two_node:
            if self.expected_votes not in (None, 2) or self.votes != 1:
                raise ValueError(
                    "two_node is for two nodes with one vote each: leave votes and expected_votes "
                    "out, or two_node"
                )
        elif self.expected_votes is None:
            raise ValueError(
                "expected_votes is missing; it is the votes of all nodes that there are, for "
                "example 3"
            )
        if self.votes > self.terms.expected_votes:
            raise ValueError(
                "votes of one node cannot be more than expected_votes, which is of all"
            )
        return self

    @property
    def terms(self) -> Terms:
        """What must be equal on all nodes."""
        breaker = self.auto_tie_breaker
        return Terms(
            expected_votes=self.expected_votes or 2,
            two_node=self.two_node,
            wait_for_all=self.wait_for_all,
            auto_tie_breaker=breaker if isinstance(breaker, str) else tuple(map(NodeId, breaker)),
        )

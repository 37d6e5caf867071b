"""Gathering: who is here, as sets of node ids (Totem, TOCS 1995, section 5.1).

Pure bookkeeping over joins: no time, no frames out. Nodes agree when the sets that they would form
a ring of, *candidates*, are equal; agreement is always that of each node's latest join.
"""

from collections.abc import Iterable

from vsync.vocabulary import NodeId
from vsync.wire.control import NODES_MAX, Join


class Gathering:
    """What one node has heard in its present attempt to find out who is here."""

    def __init__(self, me: NodeId) -> None:
        self._me = me
        self.processes: set[NodeId] = {me}
        """All heard of."""
        self.failed: set[NodeId] = set()
        """Those of them given up, by this node or by its ring."""
        self.refused: set[NodeId] = set()
        """Those that gave this node up: until they say otherwise no ring can have both."""
        self._opinions: dict[NodeId, frozenset[NodeId]] = {}
        self._heard: set[NodeId] = set()
        self.waited = False
        """Silence was given its time once: it may be that there is nobody else."""

    @property
    def candidates(self) -> frozenset[NodeId]:
        """Those that a ring would be formed of. Never without this node."""
        candidates = frozenset(self.processes - self.failed - self.refused)
        assert self._me in candidates
        return candidates

    @property
    def heard_of_late(self) -> frozenset[NodeId]:
        """Nodes whose joins came since this gathering began."""
        return frozenset(self._opinions)

    def begin(self) -> None:
        """A new gathering: what was agreed before is no agreement now."""
        self._opinions.clear()
        self._heard.clear()
        self.refused.clear()
        self.waited = False

    def installed(self, members: Iterable[NodeId]) -> None:
        """A ring was formed; the next gathering starts from its members."""
        self.begin()
        self.processes = set(members)
        self.failed = set()

    def reborn(self, node: NodeId) -> None:
        """*node* has a new life: what its former one said or suffered is void."""
        self.failed.discard(node)
        self.refused.discard(node)
        self._opinions.pop(node, None)

    def left(self, node: NodeId) -> bool:
        """*node* said farewell. True if that changes the candidates."""
        self._opinions.pop(node, None)
        if node in self.failed or node not in self.processes:
            return False
        self.failed.add(node)
        return True

    def add(self, node: NodeId) -> None:
        """*node* was heard of."""
        self.processes.add(node)

    def hear(self, join: Join, *, of_my_ring: bool) -> bool:
        """Take in a join; True if it changed the candidates.

        A stranger's opinion on who failed is not taken: only the members of a node's own ring may
        shrink it. Who gave this node up cannot form a ring with it, so it is refused, until a later
        join of its takes that back.
        """
        sender = join.sender
        if sender in self.failed or len(self.processes | join.processes) > NODES_MAX:
            return False
        before = self.candidates
        self._heard.add(sender)
        self._opinions[sender] = join.processes - join.failed
        self.processes |= join.processes
        if self._me in join.failed - join.refused:
            self.refused.add(sender)
        else:
            self.refused.discard(sender)
            if of_my_ring:
                self.failed |= join.failed - {self._me}
        return self.candidates != before

    @property
    def agreed(self) -> bool:
        """Every candidate proposes the same candidates."""
        candidates = self.candidates
        return all(
            node == self._me or self._opinions.get(node) == candidates for node in candidates
        )

    @property
    def may_form(self) -> bool:
        """Agreed, and not merely alone because nobody had time to answer."""
        return self.agreed and (len(self.candidates) > 1 or self.waited or bool(self.failed))

    def restart_hearing(self, heard: NodeId | None) -> None:
        """From now on count anew who is silent; *heard* has just spoken."""
        self._heard = set() if heard is None else {heard}

    def forget_opinions(self) -> None:
        """Everyone agreed and yet no ring came: ask again who is there."""
        self._opinions.clear()

    def expire(self) -> int:
        """Time is up: give up the silent nodes; if none was silent, those that do not agree. How
        many they are."""
        self.waited = True
        candidates = self.candidates
        others = candidates - {self._me}
        silent = others - self._heard
        accused = silent or {node for node in others if self._opinions.get(node) != candidates}
        self.failed |= accused
        return len(accused)

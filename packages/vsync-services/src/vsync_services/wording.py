"""How nodes and numbers are put into sentences."""

from collections.abc import Iterable


def nodes_named(nodes: Iterable[int]) -> str:
    """``node 2``, ``nodes 1 and 3``, ``nodes 1, 2 and 3``: in ascending order."""
    names = list(map(str, sorted(nodes)))
    if len(names) == 1:
        return f"node {names[0]}"
    return f"nodes {', '.join(names[:-1])} and {names[-1]}"


def counted(number: int, one: str) -> str:
    """``1 vote``, ``2 votes``."""
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def be(nodes: Iterable[int]) -> str:
    """``is`` or ``are``."""
    return "is" if len(list(nodes)) == 1 else "are"

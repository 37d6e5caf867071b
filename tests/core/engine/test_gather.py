"""Who is here, as sets."""

from vsync.engine.gather import Gathering
from vsync.vocabulary import NodeId, RingId
from vsync.wire import Join

NONE = RingId(0, NodeId(0))


def nodes(*numbers: int) -> frozenset[NodeId]:
    return frozenset(map(NodeId, numbers))


def join(
    sender: int,
    processes: tuple[int, ...],
    failed: tuple[int, ...] = (),
    refused: tuple[int, ...] = (),
) -> Join:
    return Join(
        NodeId(sender), 1, NONE, 0, 1, False, nodes(*processes), nodes(*failed), nodes(*refused)
    )


def test_a_node_alone_waits_before_it_counts_itself_as_all() -> None:
    gathering = Gathering(NodeId(1))
    assert not gathering.may_form
    gathering.expire()
    assert gathering.may_form


def test_nodes_agree_when_their_candidates_are_equal() -> None:
    gathering = Gathering(NodeId(1))
    assert gathering.hear(join(2, (2,)), of_my_ring=False)
    assert gathering.candidates == nodes(1, 2)
    assert not gathering.agreed
    assert not gathering.hear(join(2, (1, 2)), of_my_ring=False)
    assert gathering.may_form


def test_a_strangers_opinion_on_who_failed_is_not_taken() -> None:
    gathering = Gathering(NodeId(1))
    gathering.hear(join(2, (2, 3), failed=(3,)), of_my_ring=False)
    assert gathering.candidates == nodes(1, 2, 3)
    gathering.hear(join(2, (2, 3), failed=(3,)), of_my_ring=True)
    assert gathering.candidates == nodes(1, 2)


def test_who_gave_us_up_is_refused_until_it_takes_that_back() -> None:
    gathering = Gathering(NodeId(1))
    gathering.hear(join(2, (1, 2), failed=(1,)), of_my_ring=True)
    assert gathering.candidates == nodes(1)
    gathering.hear(join(2, (1, 2)), of_my_ring=True)
    assert gathering.candidates == nodes(1, 2)


def test_a_refusal_that_only_answers_ours_is_none() -> None:
    gathering = Gathering(NodeId(1))
    gathering.hear(join(2, (1, 2), failed=(1,), refused=(1,)), of_my_ring=True)
    assert gathering.candidates == nodes(1, 2)


def test_the_silent_are_given_up_before_those_who_disagree() -> None:
    gathering = Gathering(NodeId(1))
    gathering.hear(join(2, (1, 2, 3, 4)), of_my_ring=False)
    gathering.hear(join(3, (3, 5)), of_my_ring=False)
    gathering.expire()
    assert gathering.candidates == nodes(1, 2, 3)
    gathering.restart_hearing(NodeId(2))
    gathering.hear(join(3, (3, 5)), of_my_ring=False)
    gathering.expire()
    assert gathering.candidates == nodes(1)


def test_a_new_life_is_heard_though_the_former_was_given_up() -> None:
    gathering = Gathering(NodeId(1))
    gathering.add(NodeId(2))
    gathering.expire()
    assert not gathering.hear(join(2, (1, 2)), of_my_ring=False)
    gathering.reborn(NodeId(2))
    assert gathering.hear(join(2, (1, 2)), of_my_ring=False) is False
    assert gathering.candidates == nodes(1, 2)


def test_this_node_is_always_a_candidate() -> None:
    gathering = Gathering(NodeId(1))
    gathering.hear(join(2, (2,), failed=(1, 3)), of_my_ring=True)
    gathering.expire()
    assert NodeId(1) in gathering.candidates

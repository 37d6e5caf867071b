"""The ids of messages that were accepted together are a sequence like any other."""

import pytest

from vsync.vocabulary import MessageId, MessageIds, NodeId, Priority

HIGH = Priority.HIGH


def ids(*counters: int) -> list[MessageId]:
    return [MessageId(NodeId(3), 7, HIGH, counter) for counter in counters]


def part(first: int, count: int) -> MessageIds:
    return MessageIds(NodeId(3), 7, HIGH, range(first, first + count))


def test_ids_are_made_of_counters() -> None:
    assert part(5, 3) == ids(5, 6, 7)
    assert list(part(5, 3)[1:]) == ids(6, 7)
    assert part(5, 3)[-1] == ids(7)[0]


@pytest.mark.parametrize(
    ("parts", "counters"),
    [
        ([], []),
        ([part(5, 3)], [5, 6, 7]),
        ([part(5, 3), part(8, 1), part(9, 2)], [5, 6, 7, 8, 9, 10]),
        ([part(5, 3), part(20, 2)], [5, 6, 7, 20, 21]),
        ([part(5, 1), part(7, 1), part(8, 1)], [5, 7, 8]),
    ],
)
def test_ids_of_several_parts_stand_one_after_another(
    parts: list[MessageIds], counters: list[int]
) -> None:
    assert list(MessageIds.joined(parts)) == ids(*counters)
    assert len(MessageIds.joined(parts)) == len(counters)


def test_where_nothing_came_between_them_no_id_is_made() -> None:
    joined = MessageIds.joined([part(0, 10**9), part(10**9, 10**9)])
    assert len(joined) == 2 * 10**9
    assert joined[-1] == ids(2 * 10**9 - 1)[0]

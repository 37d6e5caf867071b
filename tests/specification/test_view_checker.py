"""The checker of group views finds each fault that is planted, and passes what must pass."""

from collections.abc import Callable

import pytest

from tests.specification.book import Book, Line, numbers
from vsync.testing.properties import PROPERTIES, Findings, views


def partition_and_merge() -> Book:
    """Three nodes with sessions; node 3 is cut off; changes on both sides; a merge."""
    book = Book()
    book.regular("4.1", 1, 2, 3)
    book.view(1, 2, 3, joined=[(1, 1)], causes="joined")
    book.send(1, "a")
    book.deliver("a", 1, 2, 3)
    book.view(1, 2, 3, joined=[(2, 1)], causes="joined")
    book.view(1, 2, 3, joined=[(3, 1)], causes="joined")
    book.view(1, 2, 3, group="bb", joined=[(3, 1)], causes="joined", closed=True)
    book.send(2, "b")
    book.deliver("b", 1, 2, 3)
    book.send(2, "s", "safe")
    # Node 1 knows that all have it; to the others that comes only after the change.
    book.deliver("s", 1)
    book.view(1, joined=[(1, 2)], causes="joined")
    book.view(1, left=[(3, 1)], causes="left")
    book.transitional("4.1", "8.1", 1, 2)
    book.view(1, group="bb", left=[(3, 1)], causes="node gone", closed=True)
    book.view(2, left=[(3, 1)], causes="node gone")
    book.view(2, group="bb", left=[(3, 1)], causes="node gone", closed=True)
    book.deliver("s", 2)
    book.view(2, joined=[(1, 2)], causes="joined")
    book.transitional("4.1", "8.3", 3)
    book.view(3, left=[(1, 1), (2, 1)], causes="node gone|node gone")
    book.deliver("s", 3)
    book.view(3, left=[(3, 1)], causes="left")
    book.regular("8.1", 1, 2)
    book.regular("8.3", 3)
    book.view(3, joined=[(3, 2)], causes="joined")
    book.send(1, "p")
    book.deliver("p", 1, 2)
    book.view(1, 2, left=[(2, 1)], causes="process died")
    book.view(1, 2, group="cc", joined=[(2, 2)], causes="joined")
    book.send(1, "q")
    book.deliver("q", 1, 2)
    book.transitional("8.1", "12.1", 1, 2)
    book.transitional("8.3", "12.1", 3)
    book.regular("12.1", 1, 2, 3)
    book.send(3, "state", priority="recovery")
    book.deliver("state", 1, 2, 3)
    book.view(1, 2, joined=[(3, 2)], left=[(1, 2)], causes="merged in|evicted")
    book.view(3, joined=[(1, 1)], causes="merged in")
    book.view(1, 2, group="bb", joined=[(3, 1)], causes="merged in", closed=True)
    book.view(3, group="cc", joined=[(2, 2)], causes="merged in")
    book.send(2, "z")
    book.deliver("z", 1, 2, 3)
    book.view(1, 2, 3, joined=[(3, 3)], causes="joined")
    book.send(2, "end")
    book.deliver("end", 1, 2, 3)
    return book


def views_of(book: Book, node: int, *, group: str = "aa", configuration: str) -> list[Line]:
    """The lines that tell of views."""
    return [
        line
        for line in book.lines
        if line["node"] == node
        and line["event"] == "group"
        and line["group"] == group
        and line["configuration"] == configuration
    ]


def drop(book: Book, line: Line) -> None:
    book.lines.remove(line)


def put_behind(book: Book, line: Line, place: int) -> None:
    """Let *line* happen just behind the line at *place*."""
    here = book.lines.index(line)
    book.move(here, place if here < place else place + 1)


# --- Planted faults -------------------------------------------------------------------------------


def leave_out_a_member(book: Book) -> None:
    for node in (1, 2, 3):
        views_of(book, node, configuration="12.1")[-1]["members"].remove((1, 1))


def keep_a_member_that_left(book: Book) -> None:
    for node in (1, 2):
        views_of(book, node, configuration="8.1")[0]["members"].append((2, 1))
        views_of(book, node, configuration="12.1")[0]["members"].insert(1, (2, 1))


def name_no_cause(book: Book) -> None:
    for node in (1, 2, 3):
        views_of(book, node, configuration="4.1", group="bb")[0]["causes"] = []


def let_somebody_come_because_it_left(book: Book) -> None:
    for node in (1, 2, 3):
        views_of(book, node, configuration="4.1")[0]["causes"] = ["left"]


def let_a_lost_node_s_session_stay(book: Book) -> None:
    """At one process, to the end of the transitional configuration."""
    drop(book, views_of(book, 2, group="bb", configuration="4.1>8.1")[0])
    views_of(book, 2, group="bb", configuration="12.1")[0].update(joined=[], causes=[])


def let_a_lost_node_s_session_go_late(book: Book) -> None:
    line = views_of(book, 2, group="bb", configuration="4.1>8.1")[0]
    put_behind(book, line, book.delivery(2, "s"))


def let_a_session_go_with_a_node_that_stays(book: Book) -> None:
    for node in (1, 2):
        views_of(book, node, configuration="8.1")[0]["causes"] = ["node gone"]


def let_the_session_of_a_former_life_stay(book: Book) -> None:
    """A ghost: node 2 is back, and has no session in group cc."""
    book.transitional("12.1", "16.1", 1, 3)
    book.lives[2] = 2
    del book.now[2], book.tables[2]
    book.regular("16.1", 1, 2, 3)
    joined = [(1, 1), (3, 2), (3, 3)]
    book.view(2, joined=joined, causes="merged in|merged in|merged in")
    book.view(2, group="bb", joined=[(3, 1)], causes="merged in", closed=True)
    book.send(1, "again")
    book.deliver("again", 1, 2, 3)
    book.send(1, "again2")
    book.deliver("again2", 1, 2, 3)


def merge_one_that_was_there(book: Book) -> None:
    for node in (1, 2, 3):
        views_of(book, node, configuration="4.1")[2]["causes"] = ["merged in"]


def merge_the_own_session(book: Book) -> None:
    views_of(book, 3, configuration="8.3")[0]["causes"] = ["merged in"]


def order_an_ordinary_message_before_all_have_announced(book: Book) -> None:
    book.lines[book.where(3, "send", message="state")]["priority"] = "medium"


def tell_of_sessions_of_strangers(book: Book) -> None:
    for node in (1, 2):
        book.lines.insert(
            book.delivery(node, "q"),
            {
                **views_of(book, node, configuration="8.1", group="cc")[0],
                "group": "dd",
                "members": [(3, 7)],
                "joined": [(3, 7)],
            },
        )
    book.lines.insert(
        book.where(1, "configuration", id="8.1>12.1") + 1,
        {
            **views_of(book, 1, configuration="8.1", group="dd")[0],
            "configuration": "8.1>12.1",
            "members": [],
            "joined": [],
            "left": [(3, 7)],
            "causes": ["node gone"],
        },
    )
    line = dict(book.lines[book.where(1, "group", group="dd", configuration="8.1>12.1")])
    book.lines.insert(book.where(2, "configuration", id="8.1>12.1") + 1, line | {"node": 2})
    book.number()


def name_another_configuration(book: Book) -> None:
    for line in views_of(book, 2, configuration="8.1"):
        line["configuration"] = "4.1"


def tell_of_a_view_one_message_later(book: Book) -> None:
    line = views_of(book, 2, configuration="12.1")[-1]
    put_behind(book, line, book.delivery(2, "end"))
    book.send(1, "more")
    book.deliver("more", 1, 2, 3)


def merge_with_another_result(book: Book) -> None:
    """Node 3 learns nothing of group cc."""
    drop(book, views_of(book, 3, group="cc", configuration="12.1")[0])


def take_a_closed_group_for_an_open_one(book: Book) -> None:
    for line in views_of(book, 3, group="bb", configuration="4.1"):
        line["closed"] = False


def tell_another_cause(book: Book) -> None:
    for line in views_of(book, 2, configuration="4.1"):
        line["causes"] = ["joined"]
    line = views_of(book, 2, configuration="8.1")[0]
    line["causes"] = ["evicted"]


def leave_without_a_change_that_others_saw(book: Book) -> None:
    """Node 2 goes on to 12.1 without the view of group cc, the last thing in 8.1."""
    book.lines[:] = [line for line in book.lines if line.get("message") != "q"]
    drop(book, views_of(book, 2, group="cc", configuration="8.1")[0])
    book.view(2, group="cc", joined=[(2, 2)], causes="joined")
    book.lines[-1]["members"] = [(2, 2)]
    put_behind(
        book,
        book.lines[-1],
        book.lines.index(views_of(book, 2, configuration="12.1", group="bb")[0]),
    )


def see_changes_in_another_order(book: Book) -> None:
    """In the transitional configuration, where places are those of this side alone."""
    for node in (1, 2):
        book.tables[node] = {"aa": {(1, 1), (3, 2), (3, 3)}}
    book.transitional("12.1", "16.1", 1, 2, 3)
    book.view(1, 2, group="ee", joined=[(1, 5)], causes="joined")
    book.view(1, 2, group="ff", joined=[(1, 5)], causes="joined")
    book.view(3, group="ff", joined=[(1, 5)], causes="joined")
    book.view(3, group="ee", joined=[(1, 5)], causes="joined")
    book.regular("16.1", 1, 2, 3)


FAULTS: list[tuple[Callable[[Book], None], str]] = [
    (leave_out_a_member, "V.1"),
    (keep_a_member_that_left, "V.1 X.4"),
    (name_no_cause, "V.1"),
    (let_somebody_come_because_it_left, "V.1"),
    (let_a_lost_node_s_session_stay, "V.1 V.2 V.4 X.4"),
    (let_a_lost_node_s_session_go_late, "V.2"),
    (let_a_session_go_with_a_node_that_stays, "V.2"),
    (let_the_session_of_a_former_life_stay, "V.2 X.4"),
    (merge_one_that_was_there, "V.3 X.3"),
    (merge_the_own_session, "V.3"),
    (order_an_ordinary_message_before_all_have_announced, "X.3"),
    (tell_of_sessions_of_strangers, "X.4"),
    (name_another_configuration, "X.4"),
    (tell_of_a_view_one_message_later, "X.4"),
    (merge_with_another_result, "X.4"),
    (take_a_closed_group_for_an_open_one, "X.4"),
    (tell_another_cause, "V.4 X.4"),
    (leave_without_a_change_that_others_saw, "V.4 X.4"),
    (see_changes_in_another_order, "V.4"),
]


@pytest.mark.parametrize(
    ("plant", "expected"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_planted_fault_is_found(plant: Callable[[Book], None], expected: str) -> None:
    book = partition_and_merge()
    plant(book)
    found = book.findings()
    assert numbers(found) == set(expected.split()), [v.text for v in found.violations]


def test_every_property_of_views_is_broken_by_a_planted_fault() -> None:
    broken = set(" ".join(expected for _plant, expected in FAULTS).split())
    mine = {entry.number for entry in PROPERTIES if entry.breaches.__module__ == views.__name__}
    assert mine - broken == {"V.5"}


def test_members_that_end_with_different_views_break_a_quiet_end() -> None:
    book = partition_and_merge()
    drop(book, views_of(book, 2, configuration="12.1")[-1])
    book.move(book.delivery(2, "end"), book.delivery(2, "z"))
    del book.lines[book.delivery(2, "end")]
    assert numbers(book.findings()) == set()
    assert "V.5" in numbers(book.findings(quiet=True))


# --- What must pass -------------------------------------------------------------------------------


def test_changes_on_both_sides_of_a_partition_and_a_merge_pass() -> None:
    book = partition_and_merge()
    assert book.findings(quiet=True) == Findings((), ())

"""The checker finds each fault that is planted, and passes what must pass."""

import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.specification.book import Book, Line, numbers
from tests.specification.evs_model import Model
from vsync.testing.history import History
from vsync.testing.properties import PROPERTIES, Findings, check, check_files, views
from vsync.trace import encode_line, parse_line


def partition_and_merge() -> Book:
    """Three nodes, all guarantees; node 3 is cut off with a safe message on its way; a merge."""
    book = Book()
    for node in (1, 2, 3):
        book.write(node, "start", version="1", transport="memory", ring="r")
    book.regular("4.1", 1, 2, 3)
    book.send(1, "a")
    book.send(2, "b")
    book.send(3, "c", "fifo")
    book.send(2, "u", "unordered")
    book.send(1, "s", "safe")
    book.deliver("u a b c s", 1)
    book.deliver("c a b u s", 2)
    book.deliver("a u b c s", 3)
    book.send(1, "request")
    book.deliver("request", 1, 2)
    book.send(2, "reply")
    book.deliver("reply", 1, 2)
    book.deliver("request reply", 3)
    book.send(3, "last")
    book.deliver("last", 1, 2, 3)
    book.send(3, "g", "safe")
    book.deliver("g", 1)
    book.transitional("4.1", "8.1", 1, 2)
    book.transitional("4.1", "8.3", 3)
    book.deliver("g", 2, 3)
    book.regular("8.1", 1, 2)
    book.regular("8.3", 3)
    book.send(1, "p")
    book.deliver("p", 1, 2)
    book.send(3, "q", "safe")
    book.deliver("q", 3)
    book.transitional("8.1", "12.1", 1, 2)
    book.transitional("8.3", "12.1", 3)
    book.regular("12.1", 1, 2, 3)
    book.send(2, "z")
    book.deliver("z", 1, 2, 3)
    return book


# --- Planted faults -------------------------------------------------------------------------------


def drop_the_last_delivery_of_one_of_two_moving_together(book: Book) -> None:
    del book.lines[book.delivery(2, "p")]


def drop_a_delivery_of_one_of_two_moving_together(book: Book) -> None:
    del book.lines[book.delivery(2, "a")]


def drop_an_unordered_delivery_of_one_of_two_moving_together(book: Book) -> None:
    del book.lines[book.delivery(1, "u")]


def deliver_an_agreed_message_in_c_here_and_in_t_there(book: Book) -> None:
    line = book.delivery(2, "p")
    book.lines[line]["configuration"] = "8.1>12.1"
    book.move(line, book.where(2, "configuration", id="8.1>12.1"))


def swap_two_agreed_deliveries_at_one_process(book: Book) -> None:
    book.move(book.delivery(2, "b"), book.delivery(2, "a"))


def deliver_a_message_twice(book: Book) -> None:
    book.lines.insert(book.delivery(2, "z") + 1, dict(book.lines[book.delivery(2, "z")]))


def send_a_message_twice(book: Book) -> None:
    place = book.where(1, "send", message="a")
    book.lines.insert(place + 1, dict(book.lines[place]))


def change_a_digest(book: Book) -> None:
    book.lines[book.delivery(3, "a")]["digest"] = "f" * 16


def change_the_sender(book: Book) -> None:
    book.lines[book.delivery(3, "a")]["sender"] = 2


def deliver_what_nobody_sent(book: Book) -> None:
    del book.lines[book.where(1, "send", message="a")]


def deliver_a_message_of_a_node_outside(book: Book) -> None:
    book.send(3, "stranger")
    book.deliver("stranger", 1, 2)
    for node in (1, 2):  # into 8.1, of which node 3 is not a member
        book.lines[book.delivery(node, "stranger")]["configuration"] = "8.1"
        book.move(book.delivery(node, "stranger"), book.delivery(node, "p"))
    book.move(
        book.where(3, "send", message="stranger"), book.where(3, "configuration", id="4.1>8.3")
    )


def deliver_outside_any_configuration(book: Book) -> None:
    book.move(book.where(1, "send", message="a"), book.where(1, "configuration", id="4.1"))


def name_another_configuration_than_the_current(book: Book) -> None:
    book.lines[book.delivery(2, "p")]["configuration"] = "4.1"


def remove_a_middle_message_from_all_but_its_sender(book: Book) -> None:
    for node in (1, 3):
        del book.lines[book.delivery(node, "b")]


def move_a_delivery_behind_the_next_regular_configuration(book: Book) -> None:
    line = book.delivery(2, "p")
    book.lines[line]["configuration"] = "12.1"
    book.move(line, book.where(2, "configuration", id="12.1"))


def give_a_reply_before_the_request(book: Book) -> None:
    book.move(book.delivery(3, "reply"), book.delivery(3, "request"))


def go_to_the_same_place_through_another_transitional_configuration(book: Book) -> None:
    line = book.lines[book.where(2, "configuration", id="8.1>12.1")]
    line.update(id="8.1>12.1 apart", members=[2], left=[1])
    book.lines[book.where(2, "configuration", id="12.1")]["joined"] = [1, 3]


def use_a_configuration_id_again_after_a_restart(book: Book) -> None:
    book.lives[2] = 2
    del book.now[2]
    book.regular("4.1", 2)
    book.lines[-1].update(members=[1, 2, 3])


def remove_the_transitional_configuration_at_one_process(book: Book) -> None:
    del book.lines[book.where(2, "configuration", id="8.1>12.1")]


def claim_a_transitional_configuration_of_others(book: Book) -> None:
    book.lines[book.where(3, "configuration", id="4.1>8.3")]["id"] = "4.1>8.1"


def reuse_a_configuration_id_with_other_members(book: Book) -> None:
    for line in book.lines:
        for name in ("id", "configuration", "next"):
            if line.get(name, "") == "8.3":
                line[name] = "8.1"


def skip_a_safe_message_that_another_delivered_in_c(book: Book) -> None:
    del book.lines[book.delivery(2, "g")]


def skip_a_safe_message_in_another_component(book: Book) -> None:
    book.send(1, "h", "safe")
    book.deliver("h", 1, 2)
    for node, behind in (
        (1, book.delivery(1, "g")),
        (2, book.where(2, "configuration", id="4.1>8.1")),
    ):
        line = book.delivery(node, "h")
        book.lines[line]["configuration"] = "4.1"
        book.move(line, behind)
    book.move(book.where(1, "send", message="h"), book.where(3, "send", message="last"))


def deliver_safe_where_a_member_never_was(book: Book) -> None:
    for line in book.lines:
        if line.get("id") == "12.1":
            line["members"] = [1, 2, 3, 4]
        if line.get("id") == "12.1" and 3 not in line["joined"]:
            line["joined"] = [1, 2, 4]
        elif line.get("id") == "12.1":
            line["joined"] = [3, 4]
    book.write(4, "start", version="1", transport="memory", ring="r")
    book.regular("10.4", 4)
    book.write(4, "stop", reason="asked to")
    book.send(1, "everywhere", "safe")
    book.deliver("everywhere", 1, 2, 3)


def stop_before_the_own_message_returns(book: Book) -> None:
    del book.lines[book.delivery(2, "z") :]
    book.write(2, "stop", reason="asked to")


def leave_without_the_own_message(book: Book) -> None:
    del book.lines[book.delivery(3, "g")]


def let_time_go_back(book: Book) -> None:
    book.lines[book.delivery(3, "b")]["t"] = 0


def go_on_after_a_stop(book: Book) -> None:
    book.write(2, "stop", reason="asked to")
    book.send(2, "after")
    book.deliver("after", 2)


def deliver_before_it_was_sent(book: Book) -> None:
    book.move(book.delivery(1, "p"), book.where(1, "send", message="p"))


def swap_two_messages_of_one_sender(book: Book) -> None:
    book.send(1, "f1", "fifo")
    book.send(1, "f2", "fifo")
    book.deliver("f1 f2", 1, 2)
    book.deliver("f2 f1", 3)


def lose_the_first_of_two_fifo_messages(book: Book) -> None:
    book.send(1, "f1", "fifo")
    book.send(1, "f2", "fifo")
    book.deliver("f1 f2", 1, 2)
    book.deliver("f2", 3)


def let_the_ring_sequence_number_fall(book: Book) -> None:
    for line in book.lines:
        for name in ("id", "configuration", "next"):
            if name in line:
                line[name] = line[name].replace("12.1", "7.1")


def name_the_wrong_ones_as_joined(book: Book) -> None:
    book.lines[book.where(1, "configuration", id="12.1")]["joined"] = []


def name_nobody_as_left(book: Book) -> None:
    book.lines[book.where(1, "configuration", id="4.1>8.1")]["left"] = []


def merge_at_different_moments(book: Book) -> None:
    """Node 1 sends in the new configuration, and node 3 delivers it before it enters."""
    line = book.delivery(3, "z")
    book.lines[line]["configuration"] = "8.3>12.1"
    book.move(line, book.where(3, "configuration", id="12.1"))
    book.move(book.where(3, "configuration", id="12.1"), len(book.lines) - 1)


FAULTS: list[tuple[Callable[[Book], None], str]] = [
    (drop_the_last_delivery_of_one_of_two_moving_together, "4"),
    (drop_a_delivery_of_one_of_two_moving_together, "4 5 6.3"),
    (drop_an_unordered_delivery_of_one_of_two_moving_together, "4"),
    (deliver_an_agreed_message_in_c_here_and_in_t_there, "4 6.1/6.2"),
    (swap_two_agreed_deliveries_at_one_process, "6.1/6.2"),
    (deliver_a_message_twice, "1.4"),
    (send_a_message_twice, "1.4"),
    (change_a_digest, "1.3"),
    (change_the_sender, "1.3"),
    (deliver_what_nobody_sent, "1.3"),
    (deliver_a_message_of_a_node_outside, "1.3"),
    (deliver_outside_any_configuration, "2.2"),
    (name_another_configuration_than_the_current, "2.2"),
    (remove_a_middle_message_from_all_but_its_sender, "4 5 6.3"),
    (move_a_delivery_behind_the_next_regular_configuration, "1.4 4 6.1/6.2"),
    (give_a_reply_before_the_request, "5 6.1/6.2"),
    (go_to_the_same_place_through_another_transitional_configuration, "2.7"),
    (use_a_configuration_id_again_after_a_restart, "2.5"),
    (remove_the_transitional_configuration_at_one_process, "2.6 2.7"),
    (claim_a_transitional_configuration_of_others, "2.2 2.5 2.7"),
    (reuse_a_configuration_id_with_other_members, "2.5 2.6 6.3"),
    (skip_a_safe_message_that_another_delivered_in_c, "4 7.1"),
    (skip_a_safe_message_in_another_component, "7.1"),
    (deliver_safe_where_a_member_never_was, "7.2"),
    (stop_before_the_own_message_returns, "3"),
    (leave_without_the_own_message, "3 7.1"),
    (let_time_go_back, "1.2"),
    (go_on_after_a_stop, "1.2"),
    (deliver_before_it_was_sent, "1.1"),
    (swap_two_messages_of_one_sender, "5 X.1"),
    (lose_the_first_of_two_fifo_messages, "5"),
    (let_the_ring_sequence_number_fall, "X.5"),
    (name_the_wrong_ones_as_joined, "2.6"),
    (name_nobody_as_left, "2.6"),
    (merge_at_different_moments, "1.3 1.4 2.3/2.4 6.1/6.2"),
]


@pytest.mark.parametrize(
    ("plant", "expected"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_planted_fault_is_found(plant: Callable[[Book], None], expected: str) -> None:
    book = partition_and_merge()
    plant(book)
    found = book.findings()
    assert numbers(found) == set(expected.split()), [v.text for v in found.violations]


def test_every_property_that_a_trace_can_break_is_broken_by_a_planted_fault() -> None:
    broken = set(" ".join(expected for _plant, expected in FAULTS).split())
    mine = {entry.number for entry in PROPERTIES if entry.breaches.__module__ != views.__name__}
    assert mine - broken == {"2.1", "X.2", "X.6"}


def test_an_installation_that_the_network_parts_is_a_note_and_no_violation() -> None:
    book = Book()
    book.regular("4.1", 1, 2)
    book.transitional("4.1", "8.1", 1, 2)
    book.regular("8.1", 1, 2)
    # Node 2 never heard that the last step was due, and forms a ring alone.
    for line in book.lines[-3::2]:
        line.update(id=line["id"].replace("8.1", "12.2"), members=[2], left=[1], next="12.2")
    del book.lines[-1]["next"]
    book.lines[-1].update(left=[], joined=[])
    found = book.findings()
    assert found.holds, found.violations
    assert [(note.property, note.undecidable) for note in found.notes] == [("2.7", True)]


def test_members_that_end_in_different_configurations_break_a_quiet_end() -> None:
    book = partition_and_merge()
    book.configure(1, id="12.1>16.1", kind="transitional", members=[1, 2, 3], next="16.1")
    book.configure(1, id="16.1", kind="regular", members=[1, 2, 3])
    assert numbers(book.findings()) == set()
    assert numbers(book.findings(quiet=True)) == {"2.1"}


def test_a_transitional_configuration_is_no_quiet_end() -> None:
    book = partition_and_merge()
    book.transitional("12.1", "16.1", 1, 2, 3)
    assert numbers(book.findings(quiet=True)) == {"2.1"}


def test_a_message_that_nobody_delivers_breaks_a_quiet_end() -> None:
    book = partition_and_merge()
    book.send(2, "lost")
    assert numbers(book.findings()) == set()
    assert numbers(book.findings(quiet=True)) == {"X.6"}


def test_a_message_that_one_member_lacks_breaks_a_quiet_end() -> None:
    book = partition_and_merge()
    book.send(2, "late")
    book.deliver("late", 1, 2)
    assert numbers(book.findings()) == set()
    assert numbers(book.findings(quiet=True)) == {"X.6"}


def test_a_killed_node_that_the_others_went_on_without_does_not_disturb_a_quiet_end() -> None:
    book = partition_and_merge()
    book.send(3, "dying words")
    book.transitional("12.1", "16.1", 1, 2)
    book.regular("16.1", 1, 2)
    assert book.findings(quiet=True).holds
    everyone = [(node, "life1") for node in (1, 2, 3)]
    found = check(History.from_lines(book.lines, running=everyone), quiet=True)
    assert numbers(found) == {"2.1", "X.6"}


# --- What must pass -------------------------------------------------------------------------------


def test_partition_merge_and_safe_messages_on_both_sides_of_the_change_pass() -> None:
    book = partition_and_merge()
    assert book.findings(quiet=True) == Findings((), ())


def test_a_partition_into_three_that_merges_in_two_steps_passes() -> None:
    book = Book()
    book.regular("4.1", 1, 2, 3)
    for node in (1, 2, 3):
        book.transitional("4.1", f"{4 + 4 * node}.{node}", node)
        book.regular(f"{4 + 4 * node}.{node}", node)
        book.send(node, f"alone{node}", "safe")
        book.deliver(f"alone{node}", node)
    book.transitional("8.1", "20.1", 1)
    book.transitional("12.2", "20.1", 2)
    book.regular("20.1", 1, 2)
    book.transitional("20.1", "24.1", 1, 2)
    book.transitional("16.3", "24.1", 3)
    book.regular("24.1", 1, 2, 3)
    assert book.findings(quiet=True) == Findings((), ())


def test_a_lost_sender_s_message_beyond_a_hole_may_be_discarded() -> None:
    book = Book()
    book.regular("4.1", 1, 2, 3)
    book.send(3, "hole")
    book.send(3, "behind")
    book.deliver("hole behind", 3)  # then it dies; nobody else has the first of the two
    book.send(1, "mine")
    book.transitional("4.1", "8.1", 1, 2)
    book.deliver("mine", 1, 2)
    book.regular("8.1", 1, 2)
    assert book.findings(quiet=True) == Findings((), ())


def test_a_message_of_a_higher_priority_may_pass_an_earlier_one() -> None:
    book = Book()
    book.regular("4.1", 1, 2)
    book.send(1, "slow", priority="low")
    book.send(1, "fast", priority="high")
    book.deliver("fast", 1, 2)
    book.send(2, "answer")
    book.deliver("answer slow", 1, 2)
    assert book.findings(quiet=True) == Findings((), ())


def test_early_messages_may_overtake_ordered_ones() -> None:
    book = Book()
    book.regular("4.1", 1, 2, 3)
    book.send(1, "ordered")
    book.deliver("ordered", 1)
    book.send(1, "early", "unordered")
    book.deliver("early", 1, 2)
    book.send(2, "brief", "fifo")
    book.deliver("brief", 3)
    book.deliver("ordered", 2, 3)
    book.deliver("early", 3)
    book.deliver("brief", 1, 2)
    assert book.findings(quiet=True) == Findings((), ())


@pytest.mark.parametrize("node", [1, 2, 3])
def test_a_crash_anywhere_passes(node: int) -> None:
    """Whatever one node told last is missing, and so is what it had not yet sent."""
    whole = partition_and_merge()
    mine = [place for place, line in enumerate(whole.lines) if line["node"] == node]
    for count in range(len(mine)):
        book = partition_and_merge()
        unsent = {
            book.lines[place]["message"]
            for place in mine[count:]
            if book.lines[place]["event"] == "send"
        }
        # What it never sent nobody delivers; the others' traces are those of the whole run.
        book.lines = [
            line
            for place, line in enumerate(book.lines)
            if place not in mine[count:] and line.get("message") not in unsent
        ]
        found = book.findings()
        assert found.holds, (count, [violation.text for violation in found.violations])


@given(nodes=st.integers(2, 6), seed=st.integers(0, 2**32))
def test_every_run_of_a_correct_model_passes(nodes: int, seed: int) -> None:
    model = Model(nodes, seed)
    model.play(300)
    found = check(History.from_lines(model.lines, running=model.running), quiet=True)
    assert found.holds, [violation.text for violation in found.violations]


def test_a_fault_in_a_run_of_the_model_is_found() -> None:
    """Dropping any delivery in the last configuration, whatever the run was."""
    for seed in range(20):
        model = Model(4, seed)
        model.play(300)
        dice = random.Random(seed)
        last = model.alive[min(model.alive)].configuration
        here = [
            place
            for place, line in enumerate(model.lines)
            if line["event"] == "deliver" and line["configuration"] == last
        ]
        if not here or len(model.alive) < 2:
            continue
        del model.lines[dice.choice(here)]
        found = check(History.from_lines(model.lines, running=model.running), quiet=True)
        assert "X.6" in numbers(found)


# --- Use ------------------------------------------------------------------------------------------


def write(path: Path, lines: Iterable[Line]) -> Path:
    path.write_text("".join(encode_line(parse_line(line)) for line in lines))
    return path


def test_files_are_checked_as_lines_are(tmp_path: Path) -> None:
    book = partition_and_merge()
    change_a_digest(book)
    paths = [
        write(tmp_path / f"{node}.trace", [line for line in book.lines if line["node"] == node])
        for node in (1, 2, 3)
    ]
    apart = check_files(paths, quiet=True)
    together = check_files([write(tmp_path / "all.trace", book.lines)], quiet=True)
    for report in (apart, together):
        assert not report.holds
        assert [violation.property for violation in report.violations] == ["1.3"]
        assert (report.lives, report.messages, report.configurations) == (3, 12, 8)
        assert report.deliveries == sum(line["event"] == "deliver" for line in book.lines)
    (violation,) = apart.violations
    wrong = [line for line in book.lines if line["node"] == 3].index(
        book.lines[book.delivery(3, "a")]
    )
    assert apart.history.place(violation.lines[0]) == f"{paths[2]}:{wrong + 1}"


def test_every_property_says_in_a_sentence_what_it_demands() -> None:
    for entry in PROPERTIES:
        assert entry.statement.endswith("."), entry.number
        assert entry.breaches.__doc__, entry.number
    assert len({entry.number for entry in PROPERTIES}) == len(PROPERTIES)


def test_the_check_of_a_long_trace_takes_time_in_proportion_to_its_length() -> None:
    def seconds(messages: int) -> float:
        book = Book()
        nodes = (1, 2, 3, 4, 5)
        book.regular("4.1", *nodes)
        for number in range(messages):
            book.send(number % 5 + 1, f"m{number}", ("agreed", "safe", "fifo")[number % 3])
            book.deliver(f"m{number}", *nodes)
        lines = [parse_line(line) for line in book.lines]
        started = time.process_time()
        assert check(History.from_lines(lines), quiet=True).holds
        return time.process_time() - started

    # Eight times the length; were it quadratic, it would take 64 times as long.
    short, long = (min(seconds(messages) for _ in range(3)) for messages in (500, 4000))
    assert long < 32 * short

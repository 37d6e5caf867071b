"""The checker of linearizability: it finds what was planted, and nothing else."""

import itertools
from collections.abc import Sequence
from math import inf

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vsync_services.kv import KeyValue, NotPrimary, OutcomeUnknown
from vsync_services.testing import (
    EMPTY,
    Action,
    Call,
    CompareAndSet,
    Delete,
    Get,
    Recorder,
    Set,
    after,
    check_linearizable,
)


def call(begin: float, end: float, action: Action, key: str = "k") -> Call:
    return Call(client=f"c{begin:g}", key=key, begin=begin, end=end, action=action)


def holds(*calls: Call) -> bool:
    return not check_linearizable(calls)


# --- planted ------------------------------------------------------------------------------------


def test_a_read_of_what_was_overwritten_before_it_began_is_found() -> None:
    first, second = call(1, 2, Set(b"a", 1)), call(3, 4, Set(b"b", 2))
    assert holds(first, second, call(5, 6, Get(b"b", 2)))
    assert not holds(first, second, call(5, 6, Get(b"a", 1)))


def test_a_lost_write_is_found() -> None:
    assert not holds(call(1, 2, Set(b"a", 1)), call(3, 4, Get(None, 0)))


def test_two_reads_that_go_back_in_time_are_found() -> None:
    write = call(1, 10, Set(b"a", 1))
    assert holds(write, call(2, 3, Get(None, 0)), call(4, 5, Get(b"a", 1)))
    assert not holds(write, call(2, 3, Get(b"a", 1)), call(4, 5, Get(None, 0)))


def test_a_value_that_nobody_wrote_is_found() -> None:
    assert not holds(call(1, 2, Set(b"a", 1)), call(3, 4, Get(b"x", 1)))


def test_two_swaps_of_one_revision_are_found() -> None:
    write = call(1, 2, Set(b"a", 1))
    one = call(3, 6, CompareAndSet(1, b"b", True, 2))
    assert holds(write, one, call(4, 5, CompareAndSet(1, b"c", False, 2)))
    assert not holds(write, one, call(4, 5, CompareAndSet(1, b"c", True, 3)))


def test_a_swap_that_says_it_failed_and_did_not_is_found() -> None:
    write = call(1, 2, Set(b"a", 1))
    failed = call(3, 4, CompareAndSet(7, b"b", False, 1))
    assert holds(write, failed, call(5, 6, Get(b"a", 1)))
    assert not holds(write, failed, call(5, 6, Get(b"b", 2)))


def test_a_deletion_that_took_out_nothing_is_found() -> None:
    write = call(1, 2, Set(b"a", 1))
    assert holds(write, call(3, 4, Delete(True)), call(5, 6, Get(None, 0)))
    assert not holds(write, call(3, 4, Delete(False)))
    assert not holds(write, call(3, 4, Delete(True)), call(5, 6, Get(b"a", 1)))


def test_a_revision_that_goes_back_is_found() -> None:
    assert not holds(call(1, 2, Set(b"a", 5)), call(3, 4, Set(b"b", 4)))


def test_another_revision_of_the_same_value_is_found() -> None:
    assert not holds(call(1, 2, Set(b"a", 5)), call(3, 4, Get(b"a", 6)))


def test_an_unknown_write_may_take_effect_late_or_never_and_once() -> None:
    unknown = call(1, inf, Set(b"a", None))
    assert holds(unknown, call(2, 3, Get(None, 0)))
    assert holds(unknown, call(2, 3, Get(None, 0)), call(4, 5, Get(b"a", 3)))
    later = [call(2, 3, Get(b"a", 3)), call(4, 5, Set(b"b", 4)), call(6, 7, Get(b"a", 5))]
    assert not holds(unknown, *later)
    assert not holds(call(2, 3, Get(b"a", 1)), call(4, inf, Set(b"a", None)))


def test_an_unknown_write_keeps_the_one_revision_that_was_seen() -> None:
    unknown = call(1, inf, Set(b"a", None))
    assert holds(unknown, call(2, 3, Get(b"a", 3)), call(4, 5, Get(b"a", 3)))
    assert not holds(unknown, call(2, 3, Get(b"a", 3)), call(4, 5, Get(b"a", 4)))


def test_an_unknown_swap_takes_effect_only_where_it_may() -> None:
    write = call(1, 2, Set(b"a", 1))
    assert holds(write, call(3, inf, CompareAndSet(1, b"b", None, None)), call(4, 5, Get(b"b", 2)))
    assert not holds(
        write, call(3, inf, CompareAndSet(9, b"b", None, None)), call(4, 5, Get(b"b", 2))
    )


def test_keys_are_judged_each_for_itself_and_the_one_that_fails_is_named() -> None:
    good = [call(1, 2, Set(b"a", 1), "good"), call(3, 4, Get(b"a", 1), "good")]
    bad = [call(1, 2, Set(b"a", 2), "bad"), call(3, 4, Get(None, 0), "bad")]
    (found,) = check_linearizable([*good, *bad])
    assert found.key == "bad"
    assert "none of these can be next" in str(found)
    assert str(bad[1]) in str(found)


# --- against all orders, tried one by one -------------------------------------------------------


def explained_by_some_order(calls: Sequence[Call]) -> bool:
    """Whether some order of the completed calls, and some of the others, explains them."""
    completed = [each for each in calls if each.end != inf]
    unknown = [each for each in calls if each.end == inf]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations([*completed, *chosen]):
                if any(b.end < a.begin for a, b in itertools.combinations(order, 2)):
                    continue
                cell = EMPTY
                for each in order:
                    following = after(cell, each.action)
                    if following is None:
                        break
                    cell = following
                else:
                    return True
    return False


VALUES = st.sampled_from([b"a", b"b"])
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.builds(Get, st.one_of(st.none(), VALUES), st.integers(0, 3)),
    st.builds(Set, VALUES, st.one_of(st.none(), st.integers(1, 3))),
    st.builds(Delete, st.one_of(st.none(), st.booleans())),
    st.builds(CompareAndSet, st.integers(0, 2), VALUES, st.just(True), st.integers(1, 3)),
    st.builds(CompareAndSet, st.integers(0, 2), VALUES, st.just(False), st.integers(0, 3)),
    st.builds(CompareAndSet, st.integers(0, 2), VALUES, st.none(), st.none()),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Call]:
    calls = []
    for action in draw(st.lists(ACTIONS, max_size=6)):
        begin = draw(st.integers(0, 12))
        unknown = (
            (isinstance(action, Set) and action.revision is None)
            or (isinstance(action, Delete) and action.deleted is None)
            or (isinstance(action, CompareAndSet) and action.swapped is None)
        )
        calls.append(call(begin, inf if unknown else begin + draw(st.integers(1, 6)), action))
    return calls


@settings(max_examples=600)
@given(histories())
def test_the_search_finds_an_order_just_where_there_is_one(calls: list[Call]) -> None:
    assert holds(*calls) == explained_by_some_order(calls)


@settings(max_examples=100)
@given(st.data())
def test_whatever_happens_one_after_another_is_linearizable(data: st.DataObject) -> None:
    cell, calls = EMPTY, []
    for time in range(0, 2 * data.draw(st.integers(0, 60)), 2):
        revision = time + 1
        actions: list[Action] = [
            Get(cell.value, cell.revision or 0),
            Set(b"%d" % time, revision),
            Delete(cell.value is not None),
            CompareAndSet(cell.revision or 0, b"%d" % time, True, revision),
        ]
        action = data.draw(st.sampled_from(actions))
        following = after(cell, action)
        assert following is not None
        cell = following
        calls.append(call(time, time + 5, action))  # ends overlap, so that there is a choice
    assert holds(*calls)


# --- the recorder -------------------------------------------------------------------------------


class Scripted:
    """A session that answers with what it was given, or raises it."""

    def __init__(self, *answers: bytes | BaseException) -> None:
        self.answers = list(answers)

    async def request(self, service: str, body: bytes) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_the_recorder_writes_down_what_was_seen_and_what_is_unknown() -> None:
    values = KeyValue(
        Scripted(
            b'{"ok":true,"revision":1}',
            b'{"ok":false,"error":"unknown","reason":"the configuration changed"}',
            b'{"ok":false,"error":"not_primary","reason":"1 of 3 votes"}',
            b'{"ok":true,"found":true,"value":"YQ==","revision":1}',
        )
    )
    recorder = Recorder()

    async def use() -> None:
        await recorder.set("c", values, "k", b"a")
        with pytest.raises(OutcomeUnknown):
            await recorder.delete("c", values, "k")
        with pytest.raises(NotPrimary):
            await recorder.set("c", values, "k", b"b")
        await recorder.get("c", values, "k")

    anyio.run(use)
    assert [(each.begin, each.end, each.action) for each in recorder.calls] == [
        (1, 2, Set(b"a", 1)),
        (3, inf, Delete(None)),
        (5, 6, Get(b"a", 1)),
    ]

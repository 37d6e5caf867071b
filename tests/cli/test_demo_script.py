"""The language of ``vsync demo --script``."""

import pytest

from vsync.errors import MisuseError
from vsync_cli.demo.script import TOUR, VERBS, parse_script


def test_statements_are_divided_by_semicolons_and_lines() -> None:
    steps = parse_script("kill 2; wait 1.5 # a moment\n\n;restart 2;send 1 hello  you; settle")
    assert [step.verb for step in steps] == ["kill", "wait", "restart", "send", "settle"]
    assert [step.node for step in steps] == [2, None, 2, 1, None]
    assert steps[1].seconds == 1.5
    assert steps[3].text == "hello  you"
    assert steps[3].source == "send 1 hello  you"


def test_the_tour_shows_every_verb() -> None:
    assert {step.verb for step in parse_script(TOUR)} == set(VERBS)


@pytest.mark.parametrize(
    ("script", "advice"),
    [
        ("kil 2", 'did you mean "kill"'),
        ("zzz", "there are: kill"),
        ("kill", "1, 2, 3"),
        ("kill 4", "1, 2, 3"),
        ("kill 2 3", "1, 2, 3"),
        ("wait", "seconds"),
        ("wait -1", "seconds"),
        ("wait nan", "seconds"),
        ("wait 1e9", "seconds"),
        ("wait 99999", "seconds"),
        ("settle 1", "nothing more"),
        ("", "says nothing"),
        ("# only a comment", "says nothing"),
    ],
)
def test_what_is_wrong_is_named_with_advice(script: str, advice: str) -> None:
    with pytest.raises(MisuseError, match=advice):
        parse_script(script)

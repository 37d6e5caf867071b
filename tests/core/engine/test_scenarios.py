"""Every scenario file, played on a simulated cluster: see ``vsync.testing.scenario``."""

from pathlib import Path

import pytest

from vsync.testing.scenario import ScenarioFailed, check_scenario, play, rewriting

REWRITE = rewriting()  # now: tests do not see such variables
SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    check_scenario(path, rewrite=REWRITE)


def test_a_word_that_is_no_command_is_named_with_its_line() -> None:
    with pytest.raises(ScenarioFailed, match="'strat' is no command") as raised:
        play("# Fine.\nnodes 3\nstrat\n")
    assert raised.value.__notes__ == ["in line 3 of the scenario: strat"]


def test_a_scenario_without_a_result_says_how_to_get_one(tmp_path: Path) -> None:
    path = tmp_path / "new.txt"
    path.write_text("nodes 1\nstart\n")
    with pytest.raises(ScenarioFailed, match="VSYNC_REWRITE=1"):
        check_scenario(path)


def test_a_scenario_is_rewritten_on_request(tmp_path: Path) -> None:
    path = tmp_path / "new.txt"
    path.write_text("# Alone.\nnodes 1\nstart\n----\nnode 1\n  nonsense\n")
    with pytest.raises(ScenarioFailed, match="-  nonsense"):
        check_scenario(path)
    check_scenario(path, rewrite=True)
    check_scenario(path)
    assert path.read_text().startswith("# Alone.\nnodes 1\nstart\n----\nnode 1\n  start life 101\n")

"""Seeds of whole clusters, and what the simulator does with one that fails."""

import os
import sys
from pathlib import Path
from random import Random

import pytest

from vsync.engine import Engine
from vsync.engine.log import Log
from vsync.engine.rekeying import Rekeying
from vsync.errors import MisuseError
from vsync.testing import simulate as module
from vsync.testing.faults import (
    STEPS,
    Step,
    random_changes,
    random_link_faults,
    random_schedule,
    random_wires,
)
from vsync.testing.properties import check_files
from vsync.testing.simulate import main, nodes_of, run_seeds, shrink, simulate

pytestmark = pytest.mark.timeout(900)

SEEDS = range(90)
NODES = range(3, 8)


def test_seeds_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """A fixed number of them, so that what passed here passes everywhere."""
    failed = []
    messages = 0
    for outcome in run_seeds(SEEDS, NODES, processes=os.cpu_count() or 1):
        messages += outcome.messages
        if not outcome.holds:
            failed.append(outcome.describe())
    with capsys.disabled():
        sys.stdout.write(f" {len(SEEDS)} seeds of {NODES[0]} to {NODES[-1]} nodes, ")
        sys.stdout.write(f"{messages} messages ")
    assert not failed, "\n".join(failed)
    assert messages > 100 * len(SEEDS)


def test_one_and_two_nodes_are_clusters_too() -> None:
    for nodes in (1, 2):
        for seed in range(3):
            outcome = simulate(seed, nodes)
            assert outcome.holds, outcome.describe()


def test_a_seed_gives_the_same_schedule_always_and_others_give_others() -> None:
    once, again, other = (random_schedule(Random(seed), 5) for seed in (1, 1, 2))
    assert once == again != other
    assert [step.at_s for step in once] == sorted(step.at_s for step in once)


def test_every_kind_of_step_comes_up() -> None:
    met = {step.words[0] for seed in range(100) for step in random_schedule(Random(seed), 5)}
    met |= {step.words[0] for seed in range(10) for step in random_link_faults(Random(seed), 2, 3)}
    met |= {step.words[0] for seed in range(10) for step in random_changes(Random(seed), 3)}
    assert met == set(STEPS) - {"resume", "release"}  # those belong to pause and block


def test_steps_are_lines_of_text() -> None:
    step = Step(1.25, ("pause", "3", "0.4"))
    assert str(step) == "1.25000 pause 3 0.4"
    assert Step.parse(str(step)) == step
    with pytest.raises(MisuseError, match="begins with a time"):
        Step.parse("soon pause 3")
    with pytest.raises(MisuseError, match="is no step; known are start, crash"):
        Step.parse("1.0 pawse 3")


def break_safe_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered = Log._deliver_ordered
    monkeypatch.setattr(
        Log, "_deliver_ordered", lambda self, c, safe_up_to, out: ordered(self, c, 2**62, out)
    )


@pytest.mark.pure
def test_a_failing_seed_is_cut_down_and_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    break_safe_delivery(monkeypatch)
    monkeypatch.setattr(module, "SHRINK_RUNS", 25)
    failed = next(outcome for outcome in run_seeds(range(60), NODES) if not outcome.holds)
    shorter = failed  # run_seeds has cut it down already
    assert shorter.shortened_from is not None
    assert len(shorter.steps) < shorter.shortened_from
    told = shorter.describe().splitlines()
    assert told[0].startswith(f"seed {shorter.seed} with {shorter.nodes} nodes fails ")
    assert shorter.failures[0].property in told[0]
    assert f"--nodes {shorter.nodes} --seeds {shorter.seed}" in shorter.describe()
    assert any(line.startswith("  > ") for line in told)

    # What it says is enough to see it again.
    again = simulate(shorter.seed, shorter.nodes, shorter.steps)
    assert again.lines == shorter.lines
    directory = shorter.write_trace(tmp_path)
    report = check_files(sorted(directory.glob("*.jsonl")))
    assert shorter.failures[0].property in {breach.property for breach in report.violations}


def test_a_change_of_the_key_that_never_ends_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rekeying, "step_done", lambda *arguments: None)
    steps = [*(Step(0.0, ("start", node)) for node in "123"), Step(1.0, ("rotate", "1"))]
    sealed = next(seed for seed in range(100) if random_wires(Random(f"wires {seed} 3")).sealed)
    outcome = simulate(sealed, 3, steps)
    assert "changes did not come to an end: node 1: changes;" in str(outcome.failures[0])


@pytest.mark.pure
def test_an_exception_in_an_engine_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Engine, *arguments: object) -> None:
        raise AssertionError("broken on purpose")

    monkeypatch.setattr(Engine, "_on_wake", broken)
    monkeypatch.setattr(module, "SHRINK_RUNS", 5)
    outcome = next(outcome for seed in range(20) if not (outcome := simulate(seed, 3)).holds)
    assert outcome.failures[0].property == "exception"
    assert "broken on purpose" in outcome.failures[0].text
    assert "test_simulation.py" in outcome.failures[0].text
    assert shrink(outcome).failures[0].property == "exception"


@pytest.mark.pure
def test_an_engine_that_never_repairs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Log, "missing", lambda self, up_to, count_max: {})
    outcomes = [simulate(seed, 3) for seed in range(3)]
    assert {"repair"} <= {failure.property for o in outcomes for failure in o.failures}


def test_a_range_of_nodes_is_shared_out_among_the_seeds() -> None:
    assert {nodes_of(seed, NODES) for seed in range(10)} == set(NODES)


def test_the_module_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--nodes", "3", "--seeds", "0..2"]) == 0
    assert capsys.readouterr().out == "2 seeds, 0 failed\n"


@pytest.mark.pure
def test_the_command_tells_what_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(Log, "missing", lambda self, up_to, count_max: {})
    arguments = ["--nodes", "3", "--seeds", "0..50", "--first", "--no-shrink"]
    assert main([*arguments, "--trace", str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("seed ")
    assert " fails " in said[0]
    assert said[-1].endswith("seeds, 1 failed")
    [directory] = tmp_path.iterdir()
    steps = directory / "steps.txt"
    seed = directory.name.split("-")[1]
    assert main(["--nodes", "3", "--seeds", seed, "--steps", str(steps)]) == 1

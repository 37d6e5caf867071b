"""``vsync simulate``."""

import json
from pathlib import Path

import pytest

from tests.cli.command import complaint, invoke, vsync
from vsync.testing import simulate as simulator
from vsync.testing.simulate import Outcome


def outcome(seed: int, *, holds: bool) -> Outcome:
    failure = simulator.Failure(property="6.2", text="two orders")
    return Outcome(
        seed=seed,
        nodes=3,
        steps=(),
        failures=() if holds else (failure,),
        notes=0,
        messages=10,
        deliveries=30,
        configurations=2,
        virtual_s=1.5,
    )


@pytest.fixture
def one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 2 fails."""

    def run_seeds(seeds: range, nodes: range, **_: object) -> object:
        return (outcome(seed, holds=seed != 2) for seed in seeds)

    monkeypatch.setattr(simulator, "run_seeds", run_seeds)


def test_seeds_run_and_are_counted() -> None:
    result = invoke("simulate", "--nodes", "3", "--seeds", "0..2", "--processes", "1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["holds"], found["runs"], found["failed"]) == (True, 2, [])
    assert found["messages"] > 0


def test_a_single_seed_leaves_traces_that_can_be_checked(tmp_path: Path) -> None:
    arguments = ("--nodes", "3", "--seeds", "1", "--trace", tmp_path / "traces")
    result = invoke("simulate", *arguments)
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "traces") in result.stdout
    traces = sorted((tmp_path / "traces").rglob("*.jsonl"))
    assert len(traces) == 3
    assert invoke("trace", "check", *traces).exit_code == 0
    before = [trace.read_bytes() for trace in traces]
    invoke("simulate", *arguments)
    assert [trace.read_bytes() for trace in traces] == before  # the same seed, the same run


def test_several_processes_share_the_work_and_a_pipe_has_no_bar() -> None:
    done = vsync("simulate", "--nodes", "3", "--seeds", "0..2", "--processes", "2")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert done.stdout.endswith("Every property holds.\n")
    assert done.stderr == ""


@pytest.mark.usefixtures("one_fails")
def test_a_seed_that_fails_says_how_to_replay_it() -> None:
    result = invoke("simulate", "--seeds", "0..5")
    assert result.exit_code == 1
    assert "seed 2 with 3 nodes fails 6.2: two orders" in result.stdout
    assert "vsync simulate --nodes 3 --seeds 2" in result.stdout
    assert result.stdout.splitlines()[-2].split() == ["5", "50", "150", "10", "0", "1"]


@pytest.mark.usefixtures("one_fails")
def test_json_names_the_seed_and_its_failures(tmp_path: Path) -> None:
    result = invoke("simulate", "--seeds", "2..4", "--json", "--trace", tmp_path / "t")
    assert result.exit_code == 1
    (failed,) = json.loads(result.stdout)["failed"]
    assert (failed["seed"], failed["nodes"]) == (2, 3)
    assert failed["failures"] == [{"property": "6.2", "text": "two orders"}]
    assert Path(failed["trace"]).is_dir()
    assert Path(failed["trace"]).is_relative_to(tmp_path)


def test_a_place_that_cannot_have_traces_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "traces"
    assert "cannot be made" in complaint("simulate", "--seeds", "0", "--trace", place)


@pytest.mark.parametrize(
    "option",
    [("--nodes", "0"), ("--nodes", "7..3"), ("--seeds", "x"), ("--processes", "0")],
)
def test_what_is_no_value_is_a_usage_error(option: tuple[str, str]) -> None:
    assert invoke("simulate", *option).exit_code == 2

"""``vsync trace check``."""

import json
from pathlib import Path

import pytest

from tests.cli.command import complaint, invoke
from vsync.trace import TraceWriter

GROUP = ("67" + "00" * 31,)
DIGEST = "00" * 8


def write(path: Path, node: int, orders: list[str], *, left_at_the_end: bool = True) -> None:
    """Write the trace of a node that delivers these messages of node 1, all agreed."""
    writer = TraceWriter(path, node=node, life=f"{node}a")
    writer.start(1, version="0", transport="memory", ring="test")
    writer.configuration(2, id="4.1", kind="regular", members=[1, 2], joined=[1, 2], left=[])
    if node == 1:
        for message in sorted(orders):
            writer.send(
                3,
                message=message,
                groups=GROUP,
                guarantee="agreed",
                priority="medium",
                size=1,
                digest=DIGEST,
            )
    for message in orders:
        writer.deliver(
            4,
            message=message,
            sender=1,
            configuration="4.1",
            groups=GROUP,
            guarantee="agreed",
            size=1,
            digest=DIGEST,
        )
    if left_at_the_end:
        writer.stop(5, reason="left")
    writer.close()


@pytest.fixture
def traces(tmp_path: Path) -> list[Path]:
    return [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]


def test_traces_that_hold_are_counted(traces: list[Path]) -> None:
    for node, path in enumerate(traces, start=1):
        write(path, node, ["1-1a-2-1", "1-1a-2-2"])
    result = invoke("trace", "check", *traces)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == ["2", "2", "4", "1", "0", "0"]
    assert result.stdout.endswith("Every property holds.\n")


def test_another_order_at_one_node_is_a_violation_with_its_place(traces: list[Path]) -> None:
    write(traces[0], 1, ["1-1a-2-1", "1-1a-2-2"])
    write(traces[1], 2, ["1-1a-2-2", "1-1a-2-1"])
    result = invoke("trace", "check", *traces)
    assert result.exit_code == 1
    assert "violation of " in result.stdout
    assert f"{traces[1]}:" in result.stdout
    assert result.stdout.endswith("Not every property holds.\n")


def test_json_has_the_violations(traces: list[Path]) -> None:
    write(traces[0], 1, ["1-1a-2-1", "1-1a-2-2"])
    write(traces[1], 2, ["1-1a-2-2", "1-1a-2-1"])
    result = invoke("trace", "check", "--json", *traces)
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["holds"] is False
    assert report["lives"] == 2
    assert {violation["property"] for violation in report["violations"]} & {"6.2", "X.1"}


def test_only_a_quiet_end_asks_for_agreement_at_the_end(traces: list[Path]) -> None:
    write(traces[0], 1, ["1-1a-2-1"], left_at_the_end=False)
    write(traces[1], 2, [], left_at_the_end=False)
    assert invoke("trace", "check", *traces).exit_code == 0
    assert invoke("trace", "check", "--quiet-end", *traces).exit_code == 1


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    assert "missing.jsonl" in complaint("trace", "check", tmp_path / "missing.jsonl")


def test_a_file_that_is_no_trace_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "strange.jsonl"
    path.write_text('{"event": "strange"}\nnot JSON\n{}\n')
    assert "strange.jsonl" in complaint("trace", "check", path)


def test_no_file_is_a_usage_error() -> None:
    assert invoke("trace", "check").exit_code == 2

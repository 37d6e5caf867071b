"""What the benchmark beside Corosync is made of: its messages, its plan, its page."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks.corosync import __main__ as program
from benchmarks.corosync import page
from benchmarks.corosync.cases import COUNTS, SIZES, Case, Load, Lost, Outcome, Part, plan
from benchmarks.corosync.measuring import summary, without_directories
from benchmarks.corosync.peers import PEERS, Corosync

ALL = tuple(PEERS)


def whole_plan(*peers: str) -> list[tuple[Case, str]]:
    turns = plan(
        list(Part),
        peers or ALL,
        sizes=SIZES,
        counts=COUNTS,
        loss_sizes=(1024,),
        loss_percents=(1, 5),
    )
    return [(turn.case, peer) for turn in turns for peer in turn.peers]


def test_the_plan_measures_nothing_twice_but_the_bare_program() -> None:
    measured = [(case, peer) for case, peer in whole_plan() if case.part is not Part.RAW]
    assert len(measured) == len(set(measured))


def test_rates_come_before_what_is_half_of_them() -> None:
    parts = [case.part for case, _ in whole_plan("vsync", "corosync-udp")]
    assert parts == sorted(parts, key=list(Part).index)


def test_only_vsync_is_asked_for_safe_delivery() -> None:
    assert {peer for case, peer in whole_plan() if case.guarantee == "safe"} == {
        "vsync",
        "vsync-speedups",
        "vsync-key",
        "vsync-key-speedups",
        "vsync-daemon",
    }


@pytest.mark.parametrize("name", [name for name in ALL if isinstance(PEERS[name], Corosync)])
def test_a_configuration_of_corosync_is_balanced(name: str) -> None:
    peer = PEERS[name]
    assert isinstance(peer, Corosync)
    text = peer.configuration([])
    assert text.count("{") == text.count("}")


def test_the_quantiles_of_few_and_of_no_times() -> None:
    assert summary([]) == {}
    found = summary([float(n) for n in range(1, 1002)])
    assert found == {"p50": 501.0, "p99": 991.0, "p99.9": 1000.0, "max": 1001.0, "count": 1001}


def test_a_complaint_names_files_without_their_directories() -> None:
    said = 'File "/some/where/else/peer.py", line 3; 5/3 of /dev/shm/x'
    assert without_directories(said) == 'File "peer.py", line 3; 5/3 of x'


def outcomes() -> list[Outcome]:
    """Two tries of everything, as if measured: vsync three times as fast; Corosync collapses."""
    found = []
    for attempt in (1, 2):
        for case, peer in whole_plan():
            outcome = Outcome(peer=peer, case=case, attempt=attempt, seconds=1, cpu_s=2)
            if peer == "vsync-key":
                outcome.failed = "the machine lacks something"
            elif peer == "corosync-udp" and case.senders == 3 and case.size > 8192:
                outcome.failed = "collapsed: a receiver was delivered nothing"
            else:
                rate = (300.0 if peer == "vsync" else 100.0) * attempt
                outcome.rates = [rate, rate + 1]
                outcome.byte_rates = [each * case.size for each in outcome.rates]
                times = summary([100.0, 200.0]) if case.probes else {}
                outcome.own_us = outcome.others_us = times
            found.append(outcome)
    return found


def test_outcomes_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    written = outcomes()
    path.write_text(json.dumps({"outcomes": [outcome.as_json() for outcome in written]}))
    assert program.read(path)[1] == written


def test_a_page_has_every_section_and_says_who_failed(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    paths = page.write(path, {"machine": {"kernel": "Linux"}, "seconds": 1}, outcomes())
    text = path.read_text()
    assert "{{" not in text
    assert page.UNMEASURED not in text
    assert f"| 1 KB | 3.0 {page.TIMES} |" in text
    assert "Corosync udp: collapsed" in text
    assert "lacks something" in text
    for each in paths[1:]:
        assert f"]({each.name})" in text
        assert ElementTree.fromstring(each.read_text()).tag.endswith("svg")


def test_a_page_of_one_part_says_what_is_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    few = [outcome for outcome in outcomes() if outcome.case.part is Part.RATE]
    page.write(path, {"machine": {}, "seconds": 1}, few)
    assert page.UNMEASURED in path.read_text()


def test_half_a_load_is_half_of_what_the_peer_or_corosync_carries() -> None:
    benchmark = program.Benchmark(program.parsed(["--results", "none.json"]))
    for peer, rate in (("vsync", 300.0), ("corosync-udp", 100.0)):
        outcome = Outcome(peer=peer, case=program.FULL_RATE, attempt=1, rates=[rate])
        benchmark.outcomes.append(outcome)
    loads = {load: benchmark._load("vsync", Case(part=Part.LATENCY, load=load), 1) for load in Load}
    assert loads == {Load.NONE: 0, Load.HALF: 150, Load.EQUAL: 50}


def test_something_wrong_fails_the_run() -> None:
    right = Outcome(peer="vsync", case=Case(part=Part.RATE), attempt=1, failed="collapsed: no")
    wrong = Outcome(peer="vsync", case=Case(part=Part.RATE), attempt=1, failed="WRONG: 1 lost")
    assert len(program.complaints([right, wrong])) == 1


def test_an_unknown_peer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.parsed(["--peers", "vsink"])
    assert "there is no peer vsink" in capsys.readouterr().err


def test_a_case_is_told_apart_by_how_packets_are_lost() -> None:
    cases = {Case(part=Part.LOSS, loss_percent=1, lost=lost) for lost in Lost}
    assert len({str(case) for case in cases}) == len(Lost)


def test_of_several_measurements_in_one_try_a_ratio_takes_the_median() -> None:
    bare, ours = Case(part=Part.RAW), Case(part=Part.RATE)
    outcomes = [Outcome(peer="raw", case=bare, attempt=2, rates=[rate]) for rate in (10, 40, 20)]
    outcomes.append(Outcome(peer="vsync", case=ours, attempt=2, rates=[5]))
    results = page.Results(outcomes)
    assert results.ratio(("vsync", ours), ("raw", bare), page.rate) == 5 / 20

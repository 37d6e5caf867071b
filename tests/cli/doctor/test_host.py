"""What the doctor finds on this host alone."""

from pathlib import Path

import pytest

from vsync.key_file import make_key, write_key
from vsync.runtime import StateStore
from vsync.settings import NodeSettings, RingSettings
from vsync.vocabulary import NodeId
from vsync_cli.doctor import host
from vsync_cli.doctor.findings import Level


def test_a_thread_that_wakes_in_time_is_fine() -> None:
    (finding,) = host.jitter(RingSettings(), [0.0001] * 99 + [0.01])
    assert finding.level is Level.FINE
    assert "up to 10.0 ms late (99 %: 10.0 ms)" in finding.text
    assert finding.text.endswith("token_lost_s = 0.3 allows it, as 0.04 or more would")


@pytest.mark.parametrize(
    ("late_s", "advice"),
    [(0.2, 'preset = "wan"'), (2.0, "token_lost_s = 8.0 or more")],
)
def test_one_that_wakes_late_needs_a_longer_timeout(late_s: float, advice: str) -> None:
    (finding,) = host.jitter(RingSettings(), [0.0, late_s])
    assert finding.level is Level.PROBLEM
    assert advice in finding.advice


def test_lateness_is_measured() -> None:
    late = host.lateness(0.5)
    assert late == sorted(late)
    assert 0 <= late[0] < 0.05  # the least of many, unless this machine never has time


def test_limits_of_files_and_processors() -> None:
    (few,) = host.files(1024, 1000)
    assert few.level is Level.WARNING
    assert "LimitNOFILE=1064" in few.advice
    (enough,) = host.files(4096, 1000)
    (endless,) = host.files(-1, 1000)
    assert enough.level is endless.level is Level.FINE
    assert [next(host.processors(count)).level for count in (1, 2)] == [Level.WARNING, Level.FINE]


def test_the_clock_is_a_warning_at_most() -> None:
    assert [list(host.clock(None)), next(host.clock(True)).level] == [[], Level.FINE]
    assert next(host.clock(False)).level is Level.WARNING
    assert host.clock_synchronized() in (True, False, None)


def settings(tmp_path: Path, **security: str) -> NodeSettings:
    given = {"node": {"id": 3, "state_dir": str(tmp_path / "state")}, "security": security}
    return NodeSettings.model_validate(given)


def test_state_that_cannot_be_kept_is_a_problem(tmp_path: Path) -> None:
    (fine,) = host.state(settings(tmp_path))
    assert fine.level is Level.FINE
    (tmp_path / "file").write_text("")
    bad = settings(tmp_path).model_copy(
        update={
            "node": settings(tmp_path).node.model_copy(update={"state_dir": str(tmp_path / "file")})
        }
    )
    (finding,) = host.state(bad)
    assert finding.level is Level.PROBLEM
    assert "cannot use the state directory" in finding.text
    assert "state_dir" in finding.advice


def test_a_node_that_runs_here_is_no_problem(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state", "vsync", NodeId(3))
    (finding,) = host.state(settings(tmp_path))
    store.close()
    assert (finding.level, finding.text) == (Level.FINE, "node 3 runs here and has its state")


def test_a_socket_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    def at(place: Path) -> NodeSettings:
        return NodeSettings.model_validate({"node": {"id": 3}, "daemon": {"socket": str(place)}})

    (fine,) = host.socket_place(at(tmp_path / "s"))
    assert fine.level is Level.FINE
    (nowhere,) = host.socket_place(at(tmp_path / "nowhere" / "s"))
    assert nowhere.level is Level.PROBLEM
    assert "make its directory" in nowhere.advice
    (long,) = host.socket_place(at(tmp_path / ("s" * 200)))
    assert long.level is Level.PROBLEM


def test_keys(tmp_path: Path) -> None:
    (none,) = host.key(settings(tmp_path))
    assert none.level is Level.WARNING
    path = tmp_path / "ring.key"
    (missing,) = host.key(settings(tmp_path, key_file=str(path)))
    assert missing.level is Level.PROBLEM
    assert "vsync keygen" in missing.advice
    write_key(path, make_key())
    (fine,) = host.key(settings(tmp_path, key_file=str(path)))
    assert fine.level is Level.FINE


def test_a_receive_buffer_that_is_as_asked_for_is_fine() -> None:
    (fine,) = host.facts_of({"receive_buffer_bytes": {"asked": 4096, "given": 4096}})
    assert fine == (Level.FINE, "receive buffer", "4096 bytes, as asked for", "")
    assert not list(host.facts_of({"receive_buffer_bytes": {"asked": 4096, "given": 1024}}))


def test_what_a_transport_warns_of_is_passed_on() -> None:
    found = list(
        host.facts_of({"packet_bytes_max": 1472, "warnings": ["a buffer is small: enlarge it"]})
    )
    assert [finding.level for finding in found] == [Level.WARNING, Level.FINE]
    assert (found[0].text, found[0].advice) == ("a buffer is small", "enlarge it")

"""``vsync run``: its lines, its signals, and what it says when it cannot work."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import vsync
from tests.cli.nodes import Ring, RunningNode, eventually, ring
from vsync.speedups import in_use


@pytest.fixture
def nodes() -> Iterator[Ring]:
    with ring() as made:
        yield made


def test_the_first_line_says_what_runs_here_and_what_to_be_warned_of(nodes: Ring) -> None:
    (node,) = nodes.start(1)
    first = node.lines()[0]
    parts = ("node 1", '"test"', "udp", "127.0.0.1", "lan", str(node.socket))
    for part in (*parts, f"speedups {in_use}"):
        assert part in first
    assert "warning: no key configured: packets are neither " in first
    assert "\x1b" not in first


def test_there_is_a_line_for_every_configuration(nodes: Ring) -> None:
    first, second = nodes.start(1, 2)
    assert second.end(signal.SIGTERM) == 0
    eventually(lambda: first.members() == [1], "node 1 alone")
    assert any("transitional configuration" in line and "left 2" in line for line in first.lines())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_makes_it_leave_with_exit_code_0(nodes: Ring, number: signal.Signals) -> None:
    (node,) = nodes.start(1)
    assert node.end(number) == 0
    assert node.errors() == ""
    assert not node.socket.exists()
    last = json.loads(node.trace.read_text().splitlines()[-1])
    assert last["event"] == "stop"


def test_a_closed_terminal_does_not_end_it(nodes: Ring) -> None:
    (node,) = nodes.start(1)
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)
    assert node.status()["state"] == "operational"


def failing(nodes: Ring, settings: str, *options: str) -> str:
    """Run a node with these settings, which must end it, and give its sentence."""
    path = nodes.directory / "bad.toml"
    path.write_text(settings)
    done = vsync("run", "-c", path, *options, timeout_s=30)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_misspelt_key_is_named_with_advice(nodes: Ring) -> None:
    said = failing(nodes, nodes.settings(1, "1").replace("bind =", "bnd ="))
    assert "bnd" in said
    assert 'did you mean "bind"' in said


def test_a_missing_plugin_is_named_with_what_to_install(nodes: Ring) -> None:
    said = failing(
        nodes, nodes.settings(1, "1").replace("[ring]\n", '[ring]\ntransport = "quic"\n')
    )
    assert "pip install vsync-transport-quic" in said


def test_an_interface_that_does_not_exist_is_named(nodes: Ring) -> None:
    said = failing(nodes, nodes.settings(1, "1").replace('"127.0.0.1"', '"nosuch0"'))
    assert "nosuch0" in said
    said = failing(nodes, nodes.settings(1, "1").replace('"127.0.0.1"', '"192.0.2.77"'))
    assert "192.0.2.77" in said


def test_a_port_that_is_taken_is_named(nodes: Ring) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        # On all addresses and without SO_REUSEADDR: nobody else may have the port.
        other.bind(("", nodes.port))
        said = failing(nodes, nodes.settings(1, "1"))
    assert str(nodes.port) in said


def test_a_state_directory_that_is_none_is_named(nodes: Ring) -> None:
    (nodes.directory / "state-1").write_text("a file")
    assert "state-1" in failing(nodes, nodes.settings(1, "1"))


def test_a_state_directory_that_cannot_be_made_is_named(nodes: Ring) -> None:
    # Not even root can make a directory there.
    settings = nodes.settings(1, "1").replace(str(nodes.directory / "state-1"), "/proc/no/state")
    assert "/proc/no" in failing(nodes, settings)


def test_a_state_that_cannot_be_understood_is_named(nodes: Ring) -> None:
    (node,) = nodes.start(1)
    node.end()
    kept = [path for path in (nodes.directory / "state-1").rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        path.write_bytes(b"\xff garbage \x00")
    assert "state-1" in failing(nodes, nodes.settings(1, "1"))


def test_a_socket_that_another_node_serves_is_named(nodes: Ring) -> None:
    (node,) = nodes.start(1)
    said = failing(nodes, nodes.settings(2, "2"), "--socket", str(node.socket))
    assert str(node.socket) in said
    assert node.status()["node"] == 1


def test_a_socket_that_a_killed_node_left_is_taken_over(nodes: Ring) -> None:
    (node,) = nodes.start(1)
    node.end(signal.SIGKILL)
    assert node.socket.exists()
    node.start()
    eventually(lambda: node.members() == [1], "node 1 again")
    assert node.status()["node"] == 1


def test_a_trace_that_cannot_be_written_is_named(nodes: Ring) -> None:
    said = failing(nodes, nodes.settings(1, "1"), "--trace", str(nodes.directory / "no" / "trace"))
    assert "no/trace" in said


def test_a_path_too_long_for_a_socket_is_named(nodes: Ring) -> None:
    said = failing(nodes, nodes.settings(1, "1"), "--socket", f"/tmp/{'x' * 120}")
    assert "108 bytes" in said or "107" in said


def test_another_node_with_the_same_id_is_named(nodes: Ring) -> None:
    (node,) = nodes.start(1)
    twin = RunningNode(nodes.directory, 1, nodes.settings(1, "twin").replace("1.sock", "twin.sock"))
    twin.trace = Path(f"{twin.trace}.twin")
    twin._output = Path(f"{twin._output}.twin")
    twin._errors = Path(f"{twin._errors}.twin")
    twin.start()
    nodes.nodes.append(twin)
    eventually(
        lambda: any(n.process is not None and n.process.poll() is not None for n in (node, twin)),
        "one of the twins ends",
    )
    ended = node if node.process is not None and node.process.poll() is not None else twin
    assert ended.wait() == 1
    assert ended.errors().startswith("Error: ")
    assert "Traceback" not in ended.errors()
    assert "id 1" in ended.errors() or "node 1" in ended.errors()

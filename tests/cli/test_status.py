"""``vsync status`` of real nodes."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import complaint, vsync
from tests.cli.nodes import Ring, ring
from vsync.speedups import in_use


@pytest.fixture(scope="module")
def nodes() -> Iterator[Ring]:
    with ring() as made:
        made.start(1, 2)
        yield made


def test_json_has_state_and_configuration(nodes: Ring) -> None:
    status = nodes.nodes[0].status()
    assert (status["node"], status["ring"], status["state"]) == (1, "test", "operational")
    assert status["configuration"]["members"] == [1, 2]
    assert status["configuration"]["id"] == nodes.nodes[1].status()["configuration"]["id"]
    assert any("no key configured" in warning for warning in status["warnings"])
    assert status["speedups"] == in_use


def test_people_are_told_the_same(nodes: Ring) -> None:
    done = vsync("status", "--socket", nodes.nodes[0].socket)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "node 1 of ring test: operational"
    assert ": members 1 2" in lines[1]
    assert any(line.startswith("warning: no key configured") for line in lines)
    assert "\x1b" not in done.stdout


def test_a_ring_on_one_network_has_no_links_to_show(nodes: Ring) -> None:
    assert "transport udp, which has no links" in complaint(
        "links", "--socket", nodes.nodes[0].socket
    )


def test_nobody_there_is_a_sentence_that_names_the_socket(tmp_path: Path) -> None:
    assert "none.sock" in complaint("status", "--socket", tmp_path / "none.sock")


def test_a_socket_that_nobody_serves_is_a_sentence(nodes: Ring) -> None:
    path = nodes.directory / "dead.sock"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    assert "dead.sock" in complaint("status", "--socket", path)


def test_a_file_that_is_no_socket_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    complaint("status", "--socket", path)


def test_a_server_of_something_else_is_a_sentence(nodes: Ring) -> None:
    import threading

    path = nodes.directory / "other.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)

        thread = threading.Thread(target=answer)
        thread.start()
        complaint("status", "--socket", path)
        thread.join()

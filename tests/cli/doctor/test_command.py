"""``vsync doctor`` as users type it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import complaint, environment, vsync
from tests.network.nodes import filter_packets
from tests.transport_udp.hosts import Ethernet, Host
from tests.transport_udp.ports import unused_port


def started(*arguments: str | Path, host: Host | None = None) -> subprocess.Popen[str]:
    housing = ("ip", "netns", "exec", host.name) if host else ()
    return subprocess.Popen(
        [*housing, sys.executable, "-m", "vsync_cli", "doctor", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def settings(directory: Path, node: int, bind: str, port: int, more: str = "") -> Path:
    path = directory / f"{node}.toml"
    path.write_text(
        f'[node]\nid = {node}\nstate_dir = "{directory}/state"\n'
        f'[ring]\nname = "examined"\n{more}\n[transport.udp]\nbind = "{bind}"\nport = {port}\n'
    )
    return path


def test_one_host_alone_is_examined_and_told_to_find_others(tmp_path: Path) -> None:
    path = settings(tmp_path, 1, "127.0.0.1", unused_port())
    done = vsync("doctor", "-c", path, "--seconds", "0.5")
    assert "no doctor of another host was heard" in done.stdout
    for word in ("packets:", "scheduling:", "open files:", "state:", "key:", "speedups:"):
        assert word in done.stdout
    assert "listening for other doctors for 0.5 s" in done.stderr
    assert "\x1b" not in done.stdout


def test_problems_come_first_and_make_the_exit_code_1(tmp_path: Path) -> None:
    path = settings(tmp_path, 1, "203.0.113.9", unused_port())
    done = vsync("doctor", "-c", path, "--seconds", "0.5")
    assert done.returncode == 1
    assert done.stdout.startswith("PROBLEM  transport: ")
    assert "203.0.113.9" in done.stdout.splitlines()[0]
    assert "Traceback" not in done.stderr


def test_bad_settings_are_a_sentence(tmp_path: Path) -> None:
    assert "there is no settings file" in complaint("doctor", "-c", tmp_path / "none.toml")


def test_two_find_each_other_and_say_so_in_json(tmp_path: Path) -> None:
    port = unused_port()
    doctors = [
        started(
            *("-c", settings(tmp_path, node, "127.0.0.1", port, more)),
            *("--seconds", "5", "--json"),  # also if one begins a little later
        )
        for node, more in ((1, ""), (2, "token_lost_s = 0.8"))
    ]
    said = [json.loads(each.communicate(timeout=60)[0]) for each in doctors]
    for node, found in zip((2, 1), said, strict=True):
        (other,) = found["others"]
        assert other["node"] == node
        assert other["round_trip_ms"][0] > 0
        assert other["longest_in"] == 1472
        texts = [each["text"] for each in found["findings"] if each["level"] == "problem"]
        assert any("token_lost_s" in text for text in texts)


def test_ctrl_c_ends_it_early_with_what_is_known(tmp_path: Path) -> None:
    path = settings(tmp_path, 1, "127.0.0.1", unused_port())
    doctor = started("-c", path, "--seconds", "600")
    assert doctor.stderr is not None
    assert "listening" in doctor.stderr.readline()
    time.sleep(0.3)
    doctor.send_signal(signal.SIGINT)
    said, _ = doctor.communicate(timeout=30)
    assert "scheduling:" in said


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with Ethernet() as ethernet:
        yield ethernet.add_host(), ethernet.add_host()


def examined(directory: Path, hosts: tuple[Host, Host]) -> list[list[dict[str, Any]]]:
    """The findings of a doctor on each host."""
    doctors = [
        started(
            *("-c", settings(directory, node, f"10.77.0.{host.number}", 5405)),
            *("--seconds", "5", "--json"),
            host=host,
        )
        for node, host in enumerate(hosts, 1)
    ]
    return [json.loads(each.communicate(timeout=60)[0])["findings"] for each in doctors]


def dropped(host: Host, rule: str) -> None:
    filter_packets(
        host.name,
        "table netdev spoiled {\nchain in {\ntype filter hook ingress device eth0 priority 0\n"
        f"{rule} drop\n}}\n}}\n",
    )


@pytest.mark.network
def test_a_host_that_gets_no_multicast_is_found(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    dropped(hosts[1], "ip daddr 224.0.0.0/4")
    first, second = examined(tmp_path, hosts)
    assert any("this host sends to everyone does not arrive" in each["text"] for each in first)
    (mine,) = [each for each in second if "it sends to everyone does not" in each["text"]]
    assert mine["level"] == "problem"
    assert "udpu" in mine["advice"]


@pytest.mark.network
def test_losses_and_short_packets_are_found(tmp_path: Path, hosts: tuple[Host, Host]) -> None:
    dropped(hosts[1], "meta length > 1400")
    first, second = examined(tmp_path, hosts)
    assert any("packets of 1472 bytes do not arrive there" in each["text"] for each in first)
    assert any("is lost" in each["text"] for each in second)

"""What `vsync doctor` says of a device, and what to do about it."""

import json
import os
import resource
from pathlib import Path

import pytest

from tests.cli.command import invoke
from tests.transport_ib.fake import FakeProvider, FakeVerbs, device, port
from tests.transport_ib.places import loopback_addresses, unused_group
from vsync_transport_ib import examination, soft
from vsync_transport_ib.examination import examine, locked_memory
from vsync_transport_ib.settings import SettingsIB
from vsync_transport_ib.verbs import Peer, PortState, Provider


def found(module: Provider, **settings: object) -> dict[str, tuple[str, str, str]]:
    """Findings by what they are about."""
    made = SettingsIB.model_validate({"device": "rxe0", **settings})
    return {
        about: (level, text, advice)
        for level, about, text, advice in examine(made, lambda _: module)
    }


class Echoing(FakeVerbs):
    """Carries what is sent to oneself."""

    def post_sends(self, first_slot: int, messages: object, destination: Peer | None) -> None:
        super().post_sends(first_slot, messages, destination)  # type: ignore[arg-type]
        if destination == self.own:
            self.arrive(*[message for _, message in self.sent], source=self.own)


class Resolving(Echoing):
    """Carries nothing to an address before it was asked for once."""

    def post_sends(self, first_slot: int, messages: object, destination: Peer | None) -> None:
        if first_slot:
            super().post_sends(first_slot, messages, destination)


@pytest.fixture
def echoing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.transport_ib.fake.FakeVerbs", Echoing)


@pytest.mark.usefixtures("echoing")
def test_a_good_device_is_found_good() -> None:
    findings = found(FakeProvider(device("rxe0", port(mtu_bytes=4096))))
    assert set(findings) == {"devices", "port", "MTU", "locked memory", "self-test"}
    assert {level for level, _, _ in findings.values()} == {"fine"}
    assert "rxe0 (port 1 ACTIVE)" in findings["devices"][1]
    assert "GID 2 (10.0.0.1, RoCE v2)" in findings["port"][1]


def test_a_message_that_does_not_arrive_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "SELF_TEST_S", 0.01)
    level, text, advice = found(FakeProvider())["self-test"]
    assert level == "problem"
    assert "did not arrive" in text
    assert "firewalls" in advice


def test_a_message_is_sent_again_where_an_address_is_asked_for_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.transport_ib.fake.FakeVerbs", Resolving)
    monkeypatch.setattr(examination, "SEND_AGAIN_S", 0.01)
    assert found(FakeProvider())["self-test"][0] == "fine"


@pytest.mark.usefixtures("echoing")
def test_an_mtu_that_could_be_larger_is_told() -> None:
    level, text, advice = found(FakeProvider())["MTU"]
    assert (level, "1024 bytes" in text, "4200" in advice) == ("warning", True, True)


def test_a_port_that_is_down_ends_the_examination() -> None:
    findings = found(FakeProvider(device("rxe0", port(state=PortState.DOWN))))
    assert set(findings) == {"devices", "device"}
    level, text, advice = findings["device"]
    assert level == "problem"
    assert text == "port 1 of rxe0 is DOWN, not ACTIVE"
    assert "cable" in advice


def test_a_device_that_cannot_be_opened_is_told_with_what_to_do() -> None:
    level, text, advice = found(FakeProvider(fails="too little locked memory; raise memlock"))[
        "self-test"
    ]
    assert (level, text, advice) == ("problem", "too little locked memory", "raise memlock")


@pytest.mark.parametrize(
    ("user", "limit", "level"),
    [(0, 0, "fine"), (1000, resource.RLIM_INFINITY, "fine"), (1000, 65536, "problem")],
)
def test_locked_memory_is_held_against_the_limit(
    monkeypatch: pytest.MonkeyPatch, user: int, limit: int, level: str
) -> None:
    provider = FakeProvider()
    found(provider)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    finding = locked_memory(provider.endpoints[0], limit)
    assert finding[0] == level
    assert ("LimitMEMLOCK" in finding[3]) == (level == "problem")


def test_in_user_space_a_message_to_oneself_arrives() -> None:
    settings = {"provider": "soft", "device": loopback_addresses()[1], "group": unused_group()}
    findings = found(soft, **settings)
    assert findings["self-test"][0] == "fine", findings
    assert "locked memory" not in findings


def test_vsync_doctor_says_it(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        f'[node]\nid = 1\nstate_dir = "{tmp_path}"\n[ring]\ntransport = "ib"\n[transport.ib]\n'
        f'provider = "soft"\ndevice = "{loopback_addresses()[1]}"\ngroup = "{unused_group()}"\n'
    )
    result = invoke("doctor", "-c", path, "--seconds", "0.5", "--json")
    findings = {each["about"]: each for each in json.loads(result.stdout)["findings"]}
    assert findings["self-test"]["level"] == "fine"
    assert "GID 0" in findings["port"]["text"]

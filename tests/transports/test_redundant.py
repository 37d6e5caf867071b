"""The transport ``redundant`` keeps the contract, and goes on while a link of it works."""

import itertools
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from tests.transport_udp.ports import unused_port
from vsync.errors import TransportFailed
from vsync.testing.contracts import MakeTransport, TransportContract
from vsync.transport import EVERYONE, Burst, Packet, Transport
from vsync.transports.memory import MemorySettings, TransportMemory
from vsync.transports.redundant import REOPEN_S, RedundantSettings, TransportRedundant
from vsync.vocabulary import NodeId

numbers = itertools.count(1)


def settings(*networks: str, **others: Any) -> RedundantSettings:
    links = [{"transport": "memory", "settings": {"network": network}} for network in networks]
    return RedundantSettings.model_validate({"links": links, **others})


class RedundantContract(TransportContract):
    """As every transport, once links are known to be good; hellos are rare, not to come between."""

    MODE: ClassVar[str]

    @pytest.fixture
    def make_transport(self) -> MakeTransport:
        number = next(numbers)

        def make(node: NodeId) -> Transport:
            given = settings(f"a{number}", f"b{number}", mode=self.MODE, hello_s=10)
            return TransportRedundant(given, node=node)

        return make


class TestPassive(RedundantContract):
    MODE = "passive"


class TestFastest(RedundantContract):
    MODE = "fastest"


class TestActive(RedundantContract):
    MODE = "active"
    COPIES = True  # the ring knows which frames it has; to look here too would cost twice


def wrong(change: Callable[[dict[str, Any]], object]) -> str:
    """What is said of settings after a *change*."""
    given: dict[str, Any] = {"links": [{"transport": "memory"}, {"transport": "memory"}]}
    change(given)
    with pytest.raises(ValidationError) as caught:
        RedundantSettings.model_validate(given)
    return str(caught.value)


def test_settings_that_make_no_sense_are_told() -> None:
    assert "two to 8 links" in wrong(lambda given: given["links"].pop())
    assert "number of its own" in wrong(lambda given: given["links"][0].update(number=2))
    assert "not redundant itself" in wrong(
        lambda given: given["links"][0].update(transport="redundant")
    )
    assert 'no transport "udb"' in wrong(lambda given: given["links"][0].update(transport="udb"))
    assert "no_such_key" in wrong(
        lambda given: given["links"][1].update(settings={"no_such_key": 1})
    )


def test_a_link_that_fails_when_receiving_is_left_and_opened_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number = next(numbers)
    now = 100.0
    made = TransportRedundant(
        settings(f"a{number}", f"b{number}"), node=NodeId(1), clock=lambda: now
    )
    made.open()
    other = TransportMemory(MemorySettings(network=f"a{number}"), node=NodeId(2))
    other.open()

    def fail(self: TransportMemory) -> Sequence[Packet]:
        raise TransportFailed("port 1 of rxe0 went down")

    with monkeypatch.context() as patched:
        patched.setattr(TransportMemory, "receive_trains", fail)
        other.send(Burst(EVERYONE, [b"wakes it"]))
        made.receive()
        assert "port 1 of rxe0 went down" in made.status["warnings"][0]
        assert made.status["links"]["1"]["state"] == "closed"
    now += REOPEN_S
    made.send(Burst(EVERYONE, [b"x"]))
    now += REOPEN_S
    made.receive()
    assert made.status["links"]["1"]["state"] != "closed"
    other.close()
    made.close()


def of_links(*networks: str) -> RedundantSettings:
    """Links by their places; a network named ``bad`` cannot be opened."""
    links = [
        {"transport": "udp", "settings": {"bind": "203.0.113.9"}}
        if network == "bad"
        else {"transport": "memory", "settings": {"network": network}}
        for network in networks
    ]
    return RedundantSettings.model_validate({"links": links})


def networks(transport: TransportRedundant) -> list[str]:
    """What the links that are open are on."""
    found = transport.status["links"].items()
    assert all(each["state"] != "closed" for _, each in found)
    return [transport._wanted[int(number)].settings["network"] for number, _ in found]


def test_links_come_go_and_move_by_reload_and_the_others_are_left_alone() -> None:
    transport = TransportRedundant(of_links("a", "b"), node=NodeId(1))
    transport.open()
    try:
        kept = transport._open[1]
        for wanted in (("a", "c"), ("a", "c", "d"), ("a", "d"), ("a", *"bcdefgh"), ("a", "z")):
            transport.reload(of_links(*wanted))
            assert networks(transport) == list(wanted)
            assert transport._open[1] is kept
        transport.reload(of_links("y", "x", "w"))
        assert networks(transport) == ["y", "x", "w"]
    finally:
        transport.close()


def test_the_way_back_is_gone_even_if_a_link_cannot_be_had_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    before = of_links("a", "b", "c")
    transport = TransportRedundant(before, node=NodeId(1), clock=lambda: now)
    transport.open()
    try:
        kept = transport._open[1]
        transport.reload(of_links("a", "x", "y", "z"))

        def refuse(self: TransportMemory) -> None:
            if self._settings.network == "b":
                raise TransportFailed("not now")
            opened(self)

        opened = TransportMemory.open
        with monkeypatch.context() as patched:
            patched.setattr(TransportMemory, "open", refuse)
            transport.restore(before)
            states = {number: each["state"] for number, each in transport.status["links"].items()}
            assert list(states) == ["1", "2", "3"]
            assert [number for number, state in states.items() if state == "closed"] == ["2"]
            (warning,) = transport.status["warnings"]
            assert "link 2 is not open: not now; it is tried again" in warning
        now = 2 * REOPEN_S
        transport.receive()
        assert networks(transport) == ["a", "b", "c"]
        assert transport._open[1] is kept
    finally:
        transport.close()


def test_a_link_that_cannot_be_had_leaves_all_as_they_were() -> None:
    transport = TransportRedundant(of_links("a", "b", "c"), node=NodeId(1))
    transport.open()
    try:
        for wanted in (("a", "bad"), ("x", "bad", "c"), ("x", "y", "z", "bad")):
            with pytest.raises(TransportFailed, match="cannot be opened"):
                transport.reload(of_links(*wanted))
            assert networks(transport) == ["a", "b", "c"]
            assert not transport.status["warnings"]
    finally:
        transport.close()


def test_names_of_a_link_that_is_opened_again_are_looked_up_in_another_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    asked: list[threading.Thread] = []
    refusing, may_answer = True, threading.Event()

    def look_up(*wanted: Any) -> list[Any]:
        asked.append(threading.current_thread())
        if refusing:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        may_answer.wait()
        return [(0, 0, 0, "", ("127.0.0.1", 35995))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    udpu = {"bind": "127.0.0.1", "port": unused_port(), "peers": ["peer.example:35995"]}
    links = [
        {"transport": "memory", "settings": {"network": "named"}},
        {"transport": "udpu", "settings": udpu},
    ]
    wanted = RedundantSettings.model_validate({"links": links})
    transport = TransportRedundant(wanted, node=NodeId(1), clock=lambda: now)
    transport.open()
    try:
        assert asked == [threading.current_thread()]  # nothing runs yet that could wait
        refusing = False
        now += 2 * REOPEN_S
        transport.receive()
        now += 2 * REOPEN_S
        transport.receive()
        assert transport.status["links"]["2"]["state"] == "closed"
        may_answer.set()
        _, thread = transport._looking[2]
        thread.join()
        now += 2 * REOPEN_S
        transport.receive()
        assert transport.status["links"]["2"]["state"] != "closed"
        assert asked[1:] == [thread]
    finally:
        may_answer.set()
        transport.close()

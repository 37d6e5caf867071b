"""Doctors of several hosts, and what they find of the way between them."""

import json
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vsync.settings import RingSettings
from vsync.transport import EVERYONE, Packet
from vsync.vocabulary import NodeId
from vsync_cli.doctor.findings import Finding, Level
from vsync_cli.doctor.network import describe, judge
from vsync_cli.doctor.probe import INTERVAL_S, PEERS_MAX, Prober, opened, seal

Carried = Callable[[int, int, bool, bytes], bool]
"""Whether what one node sends another, to everyone or to it alone, arrives."""


def prober(node: int, ring: RingSettings, run: str = "", size: int = 1472) -> Prober:
    fields = ring.model_dump(mode="json")
    return Prober(NodeId(node), run or f"run {node}", ring.name, fields, size)


def talk(
    probers: Sequence[Prober],
    carried: Carried = lambda sender, receiver, to_all, packet: True,
    *,
    seconds: float = 3.0,
    way_s: float = 0.0002,
    skew_s: float = 0.0,
) -> None:
    """Let them talk in virtual time. The second one's clock is ahead by *skew_s*."""
    now = 100.0
    for _ in range(round(seconds / INTERVAL_S)):
        now += INTERVAL_S
        for at, sender in enumerate(probers):
            for burst in sender.speak(now, now + skew_s * at):
                for to, receiver in enumerate(probers):
                    to_all = burst.destination is EVERYONE
                    (packet,) = burst.packets
                    data = bytes(packet)
                    if to == at or (not to_all and burst.destination != to):
                        continue
                    if carried(sender.node, receiver.node, to_all, data):
                        later = now + way_s
                        receiver.hear([Packet(data, at)], later, later + skew_s * to)


def judged(of: Prober, ring: RingSettings) -> list[Finding]:
    return list(judge("", of, ring, 3.0))


def worst(findings: Sequence[Finding]) -> Finding:
    return max(findings, key=lambda finding: finding.level)


def test_where_all_is_well_nothing_else_is_said() -> None:
    ring = RingSettings()
    one, two, three = (prober(node, ring) for node in (1, 2, 3))
    talk([one, two, three])
    found = judged(one, ring)
    assert {finding.level for finding in found} == {Level.FINE}
    assert {finding.about for finding in found} == {"node 2", "node 3"}
    (trip,) = [finding.text for finding in found if "round trip" in finding.text][:1]
    assert trip.startswith("round trip 0.40 ms")
    (peer, _) = one.peers.values()
    assert json.loads(json.dumps(describe(peer)))["longest_out"] == 1472


def test_who_hears_nobody_is_told_where_to_look() -> None:
    ring = RingSettings()
    alone = prober(1, ring)
    talk([alone])
    (finding,) = judged(alone, ring)
    assert finding.level is Level.WARNING
    assert "no doctor of another host was heard in 3 s" in finding.text
    assert "udpu needs no multicast" in finding.advice


def test_multicast_that_passes_one_way_only_is_found_on_both_sides() -> None:
    ring = RingSettings()
    one, two = prober(1, ring), prober(2, ring)
    talk([one, two], lambda sender, receiver, to_all, packet: not (to_all and sender == 2))
    there, here = worst(judged(one, ring)), worst(judged(two, ring))
    assert (there.level, here.level) == (Level.PROBLEM, Level.PROBLEM)
    assert there.text == "what it sends to everyone does not arrive"
    assert here.text == "what this host sends to everyone does not arrive"
    assert "IGMP snooping" in there.advice


def test_unicast_that_is_refused_is_found() -> None:
    ring = RingSettings()
    one, two = prober(1, ring), prober(2, ring)
    talk([one, two], lambda sender, receiver, to_all, packet: to_all)
    texts = [finding.text for finding in judged(one, ring) if finding.level is Level.PROBLEM]
    assert "what it sends to this host alone does not arrive" in texts
    assert "what this host sends to it alone does not arrive" in texts


@pytest.mark.parametrize(("share", "level"), [(0.02, Level.WARNING), (0.2, Level.PROBLEM)])
def test_losses_are_measured_both_ways(share: float, level: Level) -> None:
    ring = RingSettings()
    dice = random.Random(7)
    one, two = prober(1, ring), prober(2, ring)
    talk(
        [one, two],
        lambda sender, receiver, to_all, packet: sender == 1 or dice.random() >= share,
        seconds=40,
    )
    for of, words in ((one, "what it sends to everyone is lost"), (two, "this host sends to")):
        finding = worst(judged(of, ring))
        assert finding.level is level
        assert words in finding.text or "alone is lost" in finding.text
        assert "%" in finding.text


@pytest.mark.parametrize(("passes", "said"), [(1471, 1422), (1400, 1392), (1100, 1004)])
def test_packets_that_are_too_long_for_the_network_are_found(passes: int, said: int) -> None:
    ring = RingSettings()
    one, two = prober(1, ring), prober(2, ring)
    talk([one, two], lambda sender, receiver, to_all, packet: len(packet) <= passes, seconds=6)
    finding = worst(judged(one, ring))
    assert finding.level is Level.PROBLEM
    assert finding.text == f"packets of 1472 bytes do not arrive there; the longest had {said}"
    assert "MTU" in finding.advice
    assert f"packet_bytes_max = {said} " in finding.advice


def test_long_round_trips_and_other_clocks_are_told() -> None:
    ring = RingSettings()
    one, two = prober(1, ring), prober(2, ring)
    talk([one, two], way_s=0.02, skew_s=7.0)
    texts = {finding.text: finding for finding in judged(one, ring)}
    (slow,) = [text for text in texts if text.startswith("round trip 40.00 ms")]
    assert texts[slow].level is Level.WARNING
    assert 'preset = "wan"' in texts[slow].advice
    assert any(text.startswith("its clock is 7.0 s ahead") for text in texts)


def test_a_short_way_that_is_late_at_times_is_no_long_way() -> None:
    ring = RingSettings()
    one, two = prober(1, ring), prober(2, ring)
    talk([one, two], seconds=5)
    talk([one, two], seconds=0.5, way_s=0.02)
    (slow,) = [finding for finding in judged(one, ring) if "at times long" in finding.text]
    assert slow.level is Level.WARNING
    assert "busy" in slow.advice


def test_settings_that_differ_are_named() -> None:
    ring, other = RingSettings(), RingSettings(token_lost_s=0.9)
    one, two = prober(1, ring), prober(2, other)
    talk([one, two])
    finding = worst(judged(one, ring))
    assert finding.level is Level.PROBLEM
    assert "token_lost_s (0.9 there, 0.3 here)" in finding.text


def test_two_of_one_number_and_rings_of_other_names_are_found() -> None:
    ring = RingSettings()
    one, two = prober(1, ring, "a"), prober(1, ring, "b")
    stranger = prober(2, RingSettings(name="orders"))
    talk([one, two, stranger])
    texts = [finding.text for finding in judged(one, ring)]
    assert "two doctors say that they are of node 1" in texts
    assert any('a ring named "orders"' in text for text in texts)


def test_small_packets_still_say_what_matters() -> None:
    ring = RingSettings()
    probers = [prober(node, ring, size=512) for node in range(1, 8)]
    sizes: list[int] = []

    def carried(sender: int, receiver: int, to_all: bool, packet: bytes) -> bool:
        sizes.append(len(packet))
        return True

    talk(probers, carried)
    assert max(sizes) == 512
    assert all(len(each.peers) == 6 for each in probers)


@given(st.binary(max_size=300))
def test_garbage_is_no_probe(garbage: bytes) -> None:
    assert opened(garbage) is None
    assert opened(seal({})[:12] + garbage) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = ("node", "run", "name", "number", "to_all", "sent", "clock", "heard", "echoes", "ring")


@given(st.dictionaries(st.sampled_from(NAMES), values), st.booleans())
def test_lies_raise_nothing(fields: dict[str, object], whole: bool) -> None:
    ring = RingSettings()
    listener = prober(1, ring)
    truth = {
        "node": 2,
        "run": "x",
        "name": ring.name,
        "number": 1,
        "to_all": True,
        "sent": 1.0,
        "clock": 1.0,
        "heard": {},
        "echoes": {},
    }
    packet = seal({**truth, **fields} if whole else fields)
    listener.hear([Packet(packet, "there")] * 2, 1.0, 1.0)
    list(listener.speak(2.0, 2.0))
    judged(listener, ring)
    for peer in listener.peers.values():
        describe(peer)


def test_who_pretends_to_be_many_is_not_remembered_for_ever() -> None:
    ring = RingSettings()
    listener = prober(1, ring)
    for number in range(3 * PEERS_MAX):
        (burst, *_) = prober(2, ring, f"run {number}").speak(1.0, 1.0)
        listener.hear([Packet(bytes(burst.packets[0]), "there")], 1.0, 1.0)
    assert len(listener.peers) == PEERS_MAX

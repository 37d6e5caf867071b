"""The settings that all nodes share: who has others is let be, and a ring changes its own."""

from collections.abc import Sequence

import pytest

from vsync.engine import State
from vsync.engine.agreement import DIFFERING_MAX, HEARD_S, Agreement, Verdict
from vsync.engine.changes import RingChanges
from vsync.engine.groups import (
    EngineEvent,
    EngineOutput,
    RingNews,
    SettingsChanged,
    SettingsDiffer,
    SettingsWishEnded,
    events_of,
)
from vsync.errors import MisuseError
from vsync.events import Delivery
from vsync.settings import SHARED_NAMES, RingSettings
from vsync.testing.cluster import Cluster, Host
from vsync.testing.network import Conditions
from vsync.transport import Burst
from vsync.vocabulary import NodeId, RingId
from vsync.wire import FrameType, Terms
from vsync.wire.terms import (
    FORMER_MAX,
    NO_BASE,
    REVISION_MAX,
    ChangeTerms,
    Mark,
    differences,
)

LAN = RingSettings()
PATIENT = RingSettings(token_lost_s=0.5)
WIDE = RingSettings(window_packets=100)
HELD = RingSettings(hold_s=0.05)


class Told(Cluster):
    """A cluster that remembers what its nodes' engines told."""

    def __init__(self, nodes: int = 3, seed: int = 7) -> None:
        self.told: dict[int, list[EngineEvent]] = {}
        super().__init__(nodes, seed)

    def _tell(self, host: Host, outputs: Sequence[EngineOutput]) -> None:
        self.told.setdefault(host.number, []).extend(events_of(outputs))

    def of(self, number: int, kind: type[EngineEvent]) -> list[EngineEvent]:
        return [event for event in self.told.get(number, ()) if isinstance(event, kind)]

    def in_effect(self) -> dict[int, RingSettings]:
        return {host.number: self.engine(host.number).agreement.settings for host in self.running()}

    def differing(self, number: int) -> list[NodeId]:
        return [node for node, _ in self.engine(number).agreement.differing(self.now)]

    def configurations(self) -> int:
        return sum(line["event"] == "configuration" for line in self.lines)


def whole(*numbers: int) -> Told:
    """A cluster of three of which these or all run and have settled."""
    cluster = Told(max((3, *numbers)))
    cluster.start(*numbers)
    assert cluster.settle()
    return cluster


# --- who has other settings -----------------------------------------------------------------------


def test_a_newcomer_with_other_settings_is_told_what_differs_and_disturbs_nobody() -> None:
    cluster = whole(1, 2, 3)
    cluster.add(4, NodeId(4))
    cluster.hosts[4].settings = PATIENT
    before = [cluster.engine(number).configuration for number in (1, 2, 3)]
    cluster.start(4)
    cluster.run(3.0)
    assert [cluster.engine(number).configuration for number in (1, 2, 3)] == before
    assert cluster.engine(4).members == (4,)
    for number in (1, 2, 3):
        (differ,) = cluster.of(number, SettingsDiffer)
        assert isinstance(differ, SettingsDiffer)
        assert differ.node == 4
        assert list(differences(LAN.shared(), differ.terms.values)) == [("token_lost_s", 0.3, 0.5)]
        assert cluster.differing(number) == [4]
    assert 1 in cluster.differing(4)
    assert cluster.engine(4).agreement.settings == PATIENT


def test_who_no_longer_has_other_settings_is_let_in_and_is_no_stranger_any_more() -> None:
    cluster = whole(1, 2)
    cluster.hosts[3].settings = PATIENT
    cluster.start(3)
    cluster.run(1.0)
    assert cluster.differing(1) == [3]
    cluster.crash(3)
    cluster.hosts[3].settings = None
    cluster.start(3)
    assert cluster.settle()
    assert cluster.engine(1).members == (1, 2, 3)
    assert cluster.differing(1) == cluster.differing(3) == []


def test_who_is_not_heard_any_more_is_not_named_any_more() -> None:
    cluster = whole(1, 2)
    cluster.hosts[3].settings = PATIENT
    cluster.start(3)
    cluster.run(HEARD_S + 1)
    assert cluster.differing(1) == [3]
    cluster.crash(3)
    cluster.run(HEARD_S + 1)
    assert cluster.differing(1) == []


def test_two_rings_of_different_settings_meet_and_both_go_on_and_say_so() -> None:
    cluster = Told(5)
    for number in (4, 5):
        cluster.hosts[number].settings = WIDE
    cluster.partition({1, 2, 3}, {4, 5})
    cluster.start()
    cluster.run(1.0)
    before = cluster.configurations()
    cluster.heal()
    for number in range(200):
        cluster.submit(1 + number % 5, 1000)
        cluster.run(0.01)
    assert cluster.configurations() == before
    assert [cluster.engine(number).members for number in (1, 4)] == [(1, 2, 3), (4, 5)]
    assert all(4 in cluster.differing(number) for number in (1, 2, 3))
    assert all(1 in cluster.differing(number) for number in (4, 5))


def test_a_member_that_comes_back_with_other_settings_is_kept_out() -> None:
    cluster = whole()
    cluster.crash(3)
    cluster.hosts[3].settings = WIDE
    cluster.start(3)
    cluster.run(3.0)
    assert cluster.engine(1).members == cluster.engine(2).members == (1, 2)
    assert cluster.engine(3).members == (3,)


def test_those_with_other_settings_are_not_told_ours_more_often_than_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = whole(1, 2)
    cluster.hosts[3].settings = WIDE
    cluster.start(3)
    cluster.run(1.0)
    types: list[int] = []
    send = cluster.network.send

    def send_and_note(sender: int, burst: Burst, now: float) -> None:
        if sender == 1:
            types.extend(packet[3] for packet in burst.packets)
        send(sender, burst, now)

    monkeypatch.setattr(cluster.network, "send", send_and_note)
    cluster.run(5.0)
    assert 3 <= types.count(FrameType.TERMS) <= 6


# --- a ring changes its own -----------------------------------------------------------------------


def test_all_nodes_change_their_settings_at_the_same_place_of_the_order() -> None:
    cluster = whole()
    for number in range(300):
        cluster.submit(1 + number % 3, 700)
        if number == 150:
            cluster.change_settings(2, PATIENT)
        cluster.run(0.0005)
    assert cluster.settle()
    assert set(cluster.in_effect().values()) == {PATIENT}
    places = []
    for number in (1, 2, 3):
        told = [
            event for event in cluster.told[number] if isinstance(event, Delivery | SettingsChanged)
        ]
        (place,) = [place for place, event in enumerate(told) if type(event) is SettingsChanged]
        assert told[place] == SettingsChanged(NodeId(2), LAN, PATIENT)
        before = told[place - 1]
        assert isinstance(before, Delivery)
        places.append((place, before.message))
    assert len(set(places)) == 1
    assert 0 < places[0][0] < 300
    assert cluster.of(2, SettingsWishEnded) == [SettingsWishEnded("")]


def test_changed_settings_are_those_that_count() -> None:
    cluster = whole()
    cluster.change_settings(1, RingSettings(token_lost_s=2.0, window_packets=77))
    assert cluster.settle()
    assert [cluster.engine(number).window_packets for number in (1, 2, 3)] == [77] * 3
    cluster.crash(3)
    cluster.run(1.0)
    assert cluster.engine(1).state is State.OPERATIONAL  # with the old ones it had been noticed
    cluster.run(3.0)
    assert cluster.engine(1).members == (1, 2)


def test_what_cannot_change_on_a_running_ring_is_refused() -> None:
    cluster = whole()
    with pytest.raises(MisuseError, match="message_bytes_max"):
        cluster.change_settings(1, RingSettings(message_bytes_max=17))
    with pytest.raises(MisuseError, match="name in"):
        cluster.change_settings(1, RingSettings(name="other"))


def test_of_two_changes_at_once_one_is_made_and_the_other_is_told() -> None:
    cluster = whole()
    cluster.change_settings(1, PATIENT)
    cluster.change_settings(3, WIDE)
    with pytest.raises(MisuseError, match="under way"):
        cluster.change_settings(3, PATIENT)
    assert cluster.settle()
    (in_effect,) = set(cluster.in_effect().values())
    one, other = (cluster.of(number, SettingsWishEnded) for number in (1, 3))
    ended = [each for each in (*one, *other) if isinstance(each, SettingsWishEnded)]
    assert sorted(each.failure == "" for each in ended) == [False, True]
    assert in_effect == (PATIENT if one == [SettingsWishEnded("")] else WIDE)
    assert "another node at the same time" in "".join(each.failure for each in ended)


def test_a_change_that_is_asked_for_while_a_ring_forms_is_made_in_it() -> None:
    cluster = whole()
    cluster.crash(3)
    assert cluster.run_until(lambda: cluster.engine(1).state is not State.OPERATIONAL)
    cluster.change_settings(1, PATIENT)
    assert cluster.settle()
    assert cluster.in_effect() == {1: PATIENT, 2: PATIENT}


def test_who_comes_with_what_the_ring_had_takes_what_it_has() -> None:
    cluster = whole()
    cluster.crash(3)
    cluster.settle()
    for settings in (PATIENT, WIDE, RingSettings(hold_s=0.05)):
        cluster.change_settings(1, settings)
        assert cluster.settle()
    cluster.start(3)
    assert cluster.settle()
    assert set(cluster.in_effect().values()) == {RingSettings(hold_s=0.05)}
    assert cluster.engine(3).members == (1, 2, 3)


def test_a_part_of_a_ring_that_missed_a_change_takes_it_when_they_meet() -> None:
    cluster = Told(5)
    cluster.start()
    assert cluster.settle()
    cluster.partition({1, 2}, {3, 4, 5})
    assert cluster.settle()
    cluster.change_settings(4, PATIENT)
    assert cluster.settle()
    assert cluster.in_effect() == {1: LAN, 2: LAN, 3: PATIENT, 4: PATIENT, 5: PATIENT}
    cluster.heal()
    assert cluster.settle()
    assert set(cluster.in_effect().values()) == {PATIENT}
    assert cluster.engine(1).members == (1, 2, 3, 4, 5)


def test_parts_that_changed_differently_stay_apart_and_say_so_until_one_follows() -> None:
    cluster = Told(4)
    cluster.start()
    assert cluster.settle()
    cluster.partition({1, 2}, {3, 4})
    assert cluster.settle()
    cluster.change_settings(1, PATIENT)
    cluster.change_settings(3, WIDE)
    assert cluster.settle()
    cluster.heal()
    cluster.run(3.0)
    assert cluster.engine(1).members == (1, 2)
    assert cluster.differing(2) == [3]
    assert cluster.differing(4) == [1]
    cluster.change_settings(3, PATIENT)
    assert cluster.settle()
    assert cluster.engine(1).members == (1, 2, 3, 4)


def test_nodes_restart_one_by_one_after_a_change_that_is_in_the_file_of_one() -> None:
    cluster = whole()
    cluster.change_settings(1, PATIENT)
    assert cluster.settle()
    cluster.hosts[1].settings = PATIENT
    for number in (1, 2, 3):
        cluster.crash(number)
        cluster.run(1.0)
        cluster.start(number)
        assert cluster.settle()
        assert cluster.engine(number).members == (1, 2, 3)
    assert set(cluster.in_effect().values()) == {PATIENT}


def test_who_missed_a_change_there_and_back_comes_to_one_that_was_restarted_since() -> None:
    cluster = whole()
    cluster.change_settings(1, PATIENT)
    assert cluster.settle()
    cluster.partition({1, 2}, {3})
    assert cluster.settle()
    cluster.change_settings(1, LAN)
    assert cluster.settle()
    cluster.restart(1)
    assert cluster.settle()
    cluster.heal()
    assert cluster.settle()
    assert set(cluster.in_effect().values()) == {LAN}
    assert cluster.engine(3).members == (1, 2, 3)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_meanwhile_all_have_the_same_settings_in_the_end(seed: int) -> None:
    cluster = Told(5, seed)
    cluster.start()
    assert cluster.settle()
    dice = cluster.random
    choices = [LAN, PATIENT, WIDE, RingSettings(hold_s=0.05, join_s=0.03)]
    current = LAN
    for _ in range(6):
        current = dice.choice([each for each in choices if each != current])
        cluster.network.conditions = Conditions(loss=dice.choice((0.0, 0.05)))
        cluster.change_settings(dice.choice((1, 2)), current)
        cluster.run(dice.uniform(0, 0.003))
        match dice.randrange(4):
            case 0:
                cluster.partition({1, 2, 3}, {4, 5})
            case 1:
                cluster.restart(3)
            case 2:
                cluster.pause(5)
        for _ in range(20):
            cluster.submit(dice.randint(1, 5), 500)
            cluster.run(0.01)
        cluster.resume()
        cluster.heal()
        cluster.network.conditions = Conditions(loss=0.0)
        assert cluster.settle()
        assert set(cluster.in_effect().values()) == {current}
        assert cluster.engine(1).members == (1, 2, 3, 4, 5)
    assert cluster.check(quiet=True).holds


# --- the rules themselves -------------------------------------------------------------------------


def test_settings_are_shared_as_marked_and_come_back_as_they_were() -> None:
    assert {"token_lost_s", "message_bytes_max", "window_packets"} < set(SHARED_NAMES)
    assert not {"name", "transport", "preset"} & set(SHARED_NAMES)
    other = RingSettings(preset="wan", message_bytes_max=3, accelerated_packets=0)
    taken = LAN.with_shared(other.shared())
    assert taken.shared() == other.shared()
    assert type(taken.message_bytes_max) is int


def test_terms_that_this_node_cannot_have_are_other_ones() -> None:
    agreement = Agreement(LAN)
    former = (agreement.mark.digest,)
    for values in (
        (("flux_s", 1.0),),
        (*LAN.shared(), ("zeal_s", 1.0)),
        tuple((name, -1.0) for name, _ in LAN.shared()),
    ):
        terms = Terms(1, former, values)
        assert agreement.weigh(terms) is Verdict.OTHER
        assert not agreement.adopt(terms)
    assert agreement.settings is LAN


def test_what_a_ring_had_long_ago_is_forgotten() -> None:
    agreement = Agreement(LAN)
    first = agreement.terms
    for number in range(FORMER_MAX + 1):
        values = RingSettings(window_packets=1 + number).shared()
        assert agreement.adopt(agreement.terms.changed_to(values))
        expected = Verdict.OLDER if number < FORMER_MAX else Verdict.OTHER
        assert agreement.weigh(first) is expected


def test_a_change_there_and_back_is_followed_by_who_missed_it() -> None:
    agreement, behind = Agreement(LAN), Agreement(LAN)
    assert agreement.adopt(agreement.terms.changed_to(WIDE.shared()))
    assert behind.adopt(agreement.terms)
    assert agreement.adopt(agreement.terms.changed_to(LAN.shared()))
    assert behind.weigh(agreement.terms) is Verdict.NEWER
    assert agreement.weigh(behind.terms) is Verdict.OLDER


def test_what_each_knows_of_former_settings_all_know_when_they_are_together() -> None:
    first = Terms(0, (), LAN.shared())
    ring = RingId(8, NodeId(1))
    ways = [first.changed_to(each.shared()).changed_to(PATIENT.shared()) for each in (WIDE, HELD)]
    known = []
    for order in (ways, ways[::-1]):
        agreement = Agreement(PATIENT)
        assert agreement.adopt(order[0])
        changes = RingChanges(NodeId(1), agreement)
        heard = [
            RingNews(NodeId(2), ChangeTerms(ring, NO_BASE, each), ring, settled=False)
            for each in (*order[1:], first.changed_to(PATIENT.shared()))
        ]
        assert changes.read(heard, (NodeId(1), NodeId(2))) == []
        known.append(agreement.terms)
        for settings in (LAN, WIDE, HELD):
            assert agreement.weigh(Terms(1, (), settings.shared())) is Verdict.OLDER
    assert known[0] == known[1]
    assert known[0].revision == 2


def test_a_mark_alone_changes_nothing() -> None:
    agreement = Agreement(LAN)
    before = agreement.terms
    assert agreement.agrees(NodeId(9), Mark(REVISION_MAX, before.mark.digest), 0.0)
    assert agreement.terms is before


def test_a_ring_whose_revisions_are_used_up_by_forgery_says_so_and_changes_no_more() -> None:
    cluster = whole()
    forged = Terms(REVISION_MAX, (cluster.engine(1).agreement.mark.digest,), WIDE.shared())
    cluster.engine(1)._take_newer(forged, NodeId(9), cluster.now)
    assert cluster.settle()
    assert set(cluster.in_effect().values()) == {WIDE}
    cluster.change_settings(2, PATIENT)
    assert cluster.settle()
    (ended,) = cluster.of(2, SettingsWishEnded)
    assert isinstance(ended, SettingsWishEnded)
    assert "somebody has forged" in ended.failure
    assert set(cluster.in_effect().values()) == {WIDE}


def test_of_many_newer_settings_one_at_a_time_is_passed_on() -> None:
    agreement = Agreement(LAN)
    changes = RingChanges(NodeId(1), agreement)
    ring, next_ring = RingId(8, NodeId(1)), RingId(12, NodeId(1))
    newer = [Terms(1 + each, (agreement.mark.digest,), WIDE.shared()) for each in range(100)]
    for terms in newer:
        changes.pass_on(ring, terms)
    assert changes.outgoing == [ChangeTerms(ring, NO_BASE, newer[0])]
    for terms in newer:
        changes.pass_on(next_ring, terms)
    assert changes.outgoing[1:] == [ChangeTerms(next_ring, NO_BASE, newer[0])]
    news = RingNews(NodeId(1), changes.outgoing[1], next_ring, settled=True)  # type: ignore[arg-type]
    assert len(changes.read([news], (NodeId(1),))) == 1
    changes.pass_on(next_ring, newer[1])
    assert changes.outgoing[2:] == [ChangeTerms(next_ring, NO_BASE, newer[1])]


def test_a_node_whose_settings_differ_otherwise_each_time_is_not_told_of_each_time() -> None:
    agreement = Agreement(LAN)

    def other(number: int) -> Terms:
        return Terms(0, (), (("hold_s", float(number)),))

    assert agreement.note(NodeId(7), other(0), 0.0)
    assert not any(agreement.note(NodeId(7), other(each), each / 1000) for each in range(1, 1000))
    assert [terms for _, terms in agreement.differing(1.0)] == [other(999)]
    assert agreement.note(NodeId(7), other(999), HEARD_S)
    assert not agreement.note(NodeId(7), other(999), 3 * HEARD_S)


def test_nodes_of_many_numbers_are_not_all_told_of() -> None:
    agreement = Agreement(LAN)
    terms = Terms(0, (), (("hold_s", 1.0),))
    told = [agreement.note(NodeId(each), terms, each / 1000) for each in range(1, 1001)]
    assert told == [True] * DIFFERING_MAX + [False] * (1000 - DIFFERING_MAX)


def test_what_cannot_change_on_a_running_ring_is_not_taken_from_another_either() -> None:
    agreement = Agreement(LAN)
    values = RingSettings(message_bytes_max=1).shared()
    terms = agreement.terms.changed_to(values)
    assert agreement.weigh(terms) is Verdict.OTHER
    assert not agreement.adopt(terms)
    assert agreement.settings == LAN


def test_many_with_other_settings_do_not_fill_the_memory() -> None:
    agreement = Agreement(LAN)
    for number in range(1, 1000):
        agreement.note(NodeId(number), Terms(0, (), (("hold_s", float(number)),)), float(number))
    named = [node for node, _ in agreement.differing(999.0)]
    assert named == [995, 996, 997, 998, 999]
    assert len(agreement._differing) <= 16

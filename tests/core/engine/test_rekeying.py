"""The change of a ring's key: whatever happens meanwhile, nobody is left without the right one."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from vsync.engine.groups import EngineOutput
from vsync.engine.rekeying import (
    CHANGES_MAX,
    OUTCOMES_MAX,
    KeyChangeEnded,
    KeyStep,
    Rekeying,
    Step,
)
from vsync.errors import MisuseError
from vsync.keys import Key
from vsync.testing.cluster import Cluster, Host
from vsync.testing.network import Conditions
from vsync.testing.wiring import KEY, Wires
from vsync.vocabulary import NodeId
from vsync.wire import KeyNews
from vsync.wire.rekey import Stand


def key(number: int) -> Key:
    return Key(bytes([number]) * 32)


class Keyed(Cluster):
    """A sealed cluster that remembers what its engines told of keys."""

    def __init__(self, nodes: int = 3, seed: int = 7) -> None:
        self.told: dict[int, list[EngineOutput]] = {}
        super().__init__(nodes, seed, wires=Wires(sealed=True))

    def _tell(self, host: Host, outputs: Sequence[EngineOutput]) -> None:
        self.told.setdefault(host.number, []).extend(
            each for each in outputs if isinstance(each, KeyStep | KeyChangeEnded)
        )

    def used(self) -> set[Key]:
        """What the running nodes seal with."""
        return {host.keys.used for host in self.running()}

    def accepted(self) -> set[frozenset[Key]]:
        return {frozenset(host.keys.keys) for host in self.running()}

    def have_only(self, key: Key) -> bool:
        """All use that key, accept no other, and have no other on disk."""
        return (
            self.used() == {key}
            and self.accepted() == {frozenset({key})}
            and all(
                (host.disk.used, host.disk.next, host.disk.previous) == (key, None, None)
                for host in self.running()
            )
        )

    def ended(self, number: int) -> list[str]:
        """Why changes failed on that node; empty for those that did not."""
        return [
            event.failure for event in self.told.get(number, ()) if type(event) is KeyChangeEnded
        ]

    def level(self, number: int) -> Step:
        engine = self.engine(number)
        return engine.changes.rekeying.level(engine.members)

    def configurations(self) -> int:
        return sum(line["event"] == "configuration" for line in self.lines)


def whole(nodes: int = 3, seed: int = 7) -> Keyed:
    cluster = Keyed(nodes, seed)
    cluster.start()
    assert cluster.settle()
    return cluster


# --- undisturbed ----------------------------------------------------------------------------------


def test_ten_keys_one_after_the_other_under_load_and_nothing_is_lost_nor_changed() -> None:
    cluster = whole()
    before = cluster.configurations()
    for number in range(1, 11):
        cluster.change_key(1 + number % 3, key(number))
        while not cluster.have_only(key(number)):
            cluster.submit(1 + number % 3, 900)
            cluster.run(0.001)
    assert cluster.settle()
    assert cluster.configurations() == before
    assert cluster.check(quiet=True).holds
    for number in (1, 2, 3):
        assert cluster.ended(number) == [""] * 10


def test_nobody_uses_the_new_key_before_all_have_it_on_disk_nor_drops_the_old_one_early() -> None:
    cluster = whole(4)
    cluster.change_key(2, key(1))
    seen = set()
    while not cluster.have_only(key(1)):
        cluster.run(0.0002)
        hosts = cluster.running()
        if any(host.keys.used == key(1) for host in hosts):
            seen.add("used")
            assert all(key(1) in (host.disk.used, host.disk.next) for host in hosts)
        if any(KEY not in host.keys.keys for host in hosts):
            seen.add("dropped")
            assert all(host.disk.used == key(1) for host in hosts)
    assert seen == {"used", "dropped"}


def test_the_secret_is_not_in_what_engines_say() -> None:
    cluster = whole()
    cluster.change_key(1, key(9))
    assert cluster.settle()
    told = [event for event in cluster.told[2] if type(event) is KeyStep]
    assert [event.step for event in told] == [Step.ACCEPT, Step.USE, Step.DROP]
    assert all(key(9).secret not in event.body for event in told)


# --- failures -------------------------------------------------------------------------------------


def test_a_node_that_cannot_keep_the_key_ends_the_change_and_nothing_is_changed() -> None:
    cluster = whole()
    cluster.hosts[3].disk.failure = "node 3 has no room"
    cluster.change_key(1, key(1))
    assert cluster.settle()
    assert all("node 3 has no room" in cluster.ended(number)[0] for number in (1, 2, 3))
    cluster.hosts[3].disk.failure = ""
    assert cluster.have_only(KEY)
    cluster.change_key(1, key(1))  # and then the same key may be tried again
    assert cluster.settle()
    assert cluster.have_only(key(1))


def test_what_cannot_be_kept_later_is_tried_until_it_can() -> None:
    cluster = whole()
    cluster.change_key(1, key(1))
    assert cluster.run_until(lambda: cluster.level(3) == Step.ACCEPT)
    cluster.hosts[3].disk.failure = "no room"
    cluster.run(2.0)
    assert cluster.engine(1).changes.rekeying.waits_for((NodeId(1), NodeId(2), NodeId(3))) == [3]
    cluster.hosts[3].disk.failure = ""
    assert cluster.run_until(lambda: cluster.have_only(key(1)))


def test_of_two_changes_at_once_one_is_made() -> None:
    cluster = whole()
    cluster.change_key(1, key(1))
    cluster.change_key(2, key(2))
    assert cluster.settle()
    chosen = cluster.used().pop()
    assert chosen in (key(1), key(2))
    assert cluster.have_only(chosen)
    refused = 2 if chosen == key(1) else 1
    assert any(chosen.id.hex() in failure for failure in cluster.ended(refused))


def test_who_is_away_would_be_locked_out_so_it_must_be_started_or_named() -> None:
    cluster = whole()
    cluster.crash(3)
    cluster.run(2.0)
    with pytest.raises(MisuseError, match="node 3 was on this ring and is away"):
        cluster.change_key(1, key(1))
    with pytest.raises(MisuseError, match="node 2 is on the ring"):
        cluster.change_key(1, key(1), without=[2, 3])
    cluster.change_key(1, key(1), without=[3])
    assert cluster.settle()
    assert cluster.have_only(key(1))
    cluster.start(3)
    cluster.run(2.0)
    assert cluster.engine(1).members == (1, 2)  # it has the old one, and both sides are told so
    for number, stranger in ((1, KEY), (3, key(1))):
        wiring = cluster.hosts[number].wiring
        assert wiring is not None
        assert stranger.id in wiring._guards[1].strangers


def test_who_is_away_is_waited_for_even_if_the_one_who_begins_was_restarted_and_forgot() -> None:
    cluster = whole(4)
    cluster.partition({1, 2}, {3, 4})
    cluster.run(2.0)
    cluster.restart(1)
    cluster.run(2.0)
    cluster.change_key(1, key(1))
    cluster.run(2.0)
    assert cluster.engine(1).changes.rekeying.waits_for(cluster.engine(1).members) == [3, 4]
    assert cluster.used() == {KEY}
    cluster.heal()
    assert cluster.run_until(lambda: cluster.have_only(key(1)))
    assert cluster.settle()
    assert cluster.engine(1).members == (1, 2, 3, 4)


@pytest.mark.parametrize("reason", ["x" * 700, "é" * 400, "a\nb", "in caf\udce9"])
def test_whatever_the_reason_of_a_failure_looks_like_all_can_read_it(reason: str) -> None:
    cluster = whole()
    cluster.hosts[3].disk.failure = reason
    cluster.change_key(1, key(1))
    assert cluster.settle()
    for number in (1, 2, 3):
        (failure,) = cluster.ended(number)
        assert failure.startswith(reason[:1])
        assert failure.isprintable()
    assert cluster.used() == {KEY}


# --- interruptions --------------------------------------------------------------------------------

STAGES = (
    Step.UNDO,
    Step.ACCEPT,
    Step.USE,
)


def changing(cluster: Keyed, stage: Step) -> None:
    """Change the key, up to where all nodes have done that step, as node 2 knows."""
    cluster.change_key(1, key(1))
    cluster.run(0.002)
    assert cluster.run_until(lambda: cluster.level(2) >= stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_node_that_dies_meanwhile_is_waited_for_and_comes_back_with_a_right_key(
    stage: Step,
) -> None:
    cluster = whole()
    changing(cluster, stage)
    cluster.crash(3)
    cluster.run(3.0)
    assert cluster.engine(1).members == (1, 2)
    assert cluster.engine(1).changes.rekeying.waits_for(cluster.engine(1).members) == [3]
    cluster.start(3)
    assert cluster.run_until(lambda: cluster.have_only(key(1)))
    assert cluster.settle()
    assert cluster.engine(1).members == (1, 2, 3)
    assert cluster.check(quiet=True).holds


@pytest.mark.parametrize("stage", STAGES)
def test_the_one_who_began_it_is_not_needed_to_end_it(stage: Step) -> None:
    cluster = whole()
    changing(cluster, stage)
    cluster.restart(1)
    assert cluster.run_until(lambda: cluster.have_only(key(1)))
    assert cluster.settle()
    assert cluster.engine(1).members == (1, 2, 3)


@pytest.mark.parametrize("stage", STAGES)
def test_both_sides_of_a_partition_wait_and_find_each_other_again(stage: Step) -> None:
    cluster = whole(5)
    changing(cluster, stage)
    cluster.partition({1, 2}, {3, 4, 5})
    cluster.run(3.0)
    assert cluster.engine(1).members == (1, 2)
    cluster.heal()
    assert cluster.run_until(lambda: cluster.have_only(key(1)))
    assert cluster.settle()
    assert cluster.engine(1).members == (1, 2, 3, 4, 5)
    assert cluster.check(quiet=True).holds


@pytest.mark.parametrize("stage", STAGES)
def test_who_is_away_for_good_need_not_be_waited_for(stage: Step) -> None:
    cluster = whole()
    changing(cluster, stage)
    cluster.crash(3)
    cluster.run(2.0)
    known = cluster.engine(1).changes.rekeying.known
    assert known is not None
    cluster.engine(1).change_key(
        KeyNews(known.attempt, known.new, known.old, known.body, without=frozenset({NodeId(3)})),
        cluster.now,
    )
    assert cluster.run_until(lambda: cluster.have_only(key(1)))


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_newcomer_to_whom_the_new_key_was_copied_takes_part(stage: Step) -> None:
    cluster = whole()
    changing(cluster, stage)
    cluster.add(4, NodeId(4))
    cluster.hosts[4].disk.used = key(1)
    cluster.start(4)
    assert cluster.run_until(lambda: 4 in cluster.engine(1).members)
    assert cluster.run_until(lambda: cluster.have_only(key(1)))


@pytest.mark.parametrize("stage", STAGES)
def test_if_all_die_meanwhile_they_come_back_on_one_ring_and_it_can_be_taken_up(
    stage: Step,
) -> None:
    cluster = whole()
    changing(cluster, stage)
    cluster.restart(1, 2, 3)
    assert cluster.settle()
    assert cluster.engine(1).members == (1, 2, 3)
    cluster.change_key(2, key(1))
    assert cluster.run_until(lambda: cluster.have_only(key(1)))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_meanwhile_all_have_one_key_in_the_end(seed: int) -> None:
    cluster = whole(5, seed)
    dice = cluster.random
    for number in range(1, 5):
        before = cluster.used().pop()
        starter = dice.randint(1, 5)
        cluster.change_key(starter, key(number))
        for _ in range(dice.randint(1, 4)):
            cluster.run(dice.choice((0.001, 0.01, 0.04)) * dice.random())
            match dice.randrange(5):
                case 0:
                    cluster.partition({1, 2}, {3, 4, 5})
                case 1:
                    cluster.restart(dice.randint(1, 5))
                case 2:
                    cluster.pause(dice.randint(1, 5))
                case 3:
                    cluster.network.conditions = Conditions(loss=0.1)
            cluster.submit(dice.randint(1, 5), 3000)
        cluster.run(dice.random())
        cluster.resume()
        cluster.heal()
        cluster.network.conditions = Conditions(loss=0.0)
        assert cluster.settle(20)
        assert cluster.engine(1).members == (1, 2, 3, 4, 5)
        if not cluster.have_only(key(number)):
            # The one who was to begin it died before anyone else had heard of it.
            assert cluster.used() == {before}
            assert cluster.engine(1).changes.rekeying.known is None
            cluster.change_key(1, key(number))
            assert cluster.run_until(lambda n=number: cluster.have_only(key(n)))  # type: ignore[misc]
    assert cluster.check(quiet=True).holds


def test_who_forgot_a_change_that_others_went_on_with_must_complete_it_before_another() -> None:
    cluster = Keyed(4, seed=0)
    cluster.start(1, 2, 3)
    assert cluster.settle()
    cluster.change_key(1, key(1))
    disks = [cluster.hosts[number].disk for number in (1, 2, 3)]
    assert cluster.run_until(lambda: any(disk.used == key(1) for disk in disks))
    cluster.partition({1, 2}, {3, 4})
    cluster.crash(3)
    cluster.run(1.0)
    cluster.start(3, 4)
    cluster.run(2.0)
    cluster.change_key(4, key(2))
    cluster.run(3.0)
    assert key(1).id.hex() in cluster.ended(4)[0]
    cluster.change_key(3, key(1))
    cluster.run(1.0)
    cluster.heal()
    assert cluster.run_until(lambda: cluster.have_only(key(1)))
    assert cluster.settle()
    assert cluster.engine(1).members == (1, 2, 3, 4)


# --- the rules themselves -------------------------------------------------------------------------

A, B = NodeId(1), NodeId(2)
NEWS = KeyNews(1, b"new!", b"old!", b"body", members=frozenset({A, B}))


def steps(rekeying: Rekeying) -> list[Step]:
    """What it was told to do since this was asked last."""
    asked = [notice.step for notice in rekeying.notices if type(notice) is KeyStep]
    rekeying.notices.clear()
    return asked


def heard_of_it(*, accepted: frozenset[NodeId] = frozenset()) -> Rekeying:
    """Node A, which has just heard from B that the key is being changed."""
    rekeying = Rekeying(A)
    rekeying.configured((A, B))
    rekeying.hear(B, replace(NEWS, accepted=accepted), (A, B))
    return rekeying


def accept(rekeying: Rekeying, failure: str = "") -> None:
    """Let node A have done the first step, and hear itself say so."""
    rekeying.step_done(NEWS.name, Step.ACCEPT, failure, b"old!", (A, B))
    mine, rekeying.outgoing = list(rekeying.outgoing), []
    for news in mine:
        rekeying.hear(A, news, (A, B))


B_HOLDS = replace(NEWS, accepted=frozenset({B}), stand=Stand.HOLDS)


def test_a_step_is_asked_for_once_and_the_next_when_all_have_said_that_it_is_done() -> None:
    rekeying = heard_of_it()
    rekeying.hear(B, NEWS, (A, B))
    assert steps(rekeying) == [Step.ACCEPT]
    accept(rekeying)
    assert steps(rekeying) == []
    rekeying.hear(B, B_HOLDS, (A, B))
    assert steps(rekeying) == [Step.USE]


def test_the_key_is_not_used_before_all_have_said_in_this_life_that_they_hold_it() -> None:
    rekeying = heard_of_it(accepted=NEWS.members)  # in some life
    accept(rekeying)
    assert steps(rekeying) == [Step.ACCEPT]
    assert rekeying.level((A, B)) == Step.ACCEPT
    assert rekeying.waits_for((A, B)) == [B]
    rekeying.hear(B, B_HOLDS, (A, B))
    assert steps(rekeying) == [Step.USE]


def test_whoever_is_here_before_the_key_is_used_has_to_accept_it_first() -> None:
    rekeying = heard_of_it()
    accept(rekeying)
    newcomer = NodeId(4)
    rekeying.hear(B, B_HOLDS, (A, B, newcomer))
    assert steps(rekeying) == [Step.ACCEPT]
    rekeying.configured((A, B, newcomer))
    rekeying.hear(newcomer, replace(B_HOLDS, accepted=frozenset({newcomer})), (A, B, newcomer))
    (mine,) = rekeying.outgoing
    rekeying.hear(A, mine, (A, B, newcomer))
    assert steps(rekeying) == []
    rekeying.hear(B, B_HOLDS, (A, B, newcomer))
    assert steps(rekeying) == [Step.USE]


def test_a_node_that_cannot_accept_the_key_says_so_and_has_no_part_in_the_change() -> None:
    rekeying = heard_of_it()
    assert steps(rekeying) == [Step.ACCEPT]
    rekeying.step_done(NEWS.name, Step.ACCEPT, "no room", b"old!", (A, B))
    (mine,) = rekeying.outgoing
    assert (mine.stand, mine.failure) == (Stand.GIVES_UP, "no room")
    assert rekeying.notices == [KeyChangeEnded(NEWS.name, "no room")]
    rekeying.hear(B, B_HOLDS, (A, B))  # it does not know yet
    assert rekeying.known is None


def test_what_one_cannot_accept_is_given_up_when_all_have_said_so() -> None:
    rekeying = heard_of_it()
    accept(rekeying)
    assert steps(rekeying) == [Step.ACCEPT]
    cannot = replace(NEWS, failure="no room")
    rekeying.hear(B, cannot, (A, B))
    assert rekeying.giving_up
    (mine,) = rekeying.outgoing
    assert (mine.stand, mine.failure) == (Stand.GIVES_UP, "no room")
    rekeying.hear(A, mine, (A, B))
    assert rekeying.waits_for((A, B)) == [B]
    assert not rekeying.notices
    rekeying.hear(B, replace(cannot, stand=Stand.GIVES_UP), (A, B))
    assert rekeying.notices[0] == KeyChangeEnded(NEWS.name, "no room")
    assert steps(rekeying) == [Step.UNDO]
    assert rekeying.known is None


def test_a_node_that_cannot_accept_a_key_which_others_use_must_try_again() -> None:
    rekeying = heard_of_it()
    accept(rekeying, "no room")
    steps(rekeying)
    rekeying.hear(B, replace(B_HOLDS, begun=True), (A, B))
    (notice,) = rekeying.notices
    assert isinstance(notice, KeyStep)
    assert (notice.step, notice.may_fail) == (Step.ACCEPT, False)
    assert not rekeying.giving_up


def test_who_has_used_the_key_in_a_former_life_does_not_give_it_up() -> None:
    rekeying = heard_of_it()
    rekeying.hear(B, replace(B_HOLDS, failure="no room", stand=Stand.GIVES_UP), (A, B))
    assert rekeying.outgoing == []  # it does not know yet
    rekeying.step_done(NEWS.name, Step.USE, "", b"new!", (A, B))
    (mine,) = rekeying.outgoing
    assert mine.begun
    assert mine.stand is Stand.HOLDS
    assert not rekeying.giving_up


def test_who_has_begun_to_use_the_key_does_not_give_it_up_whatever_others_say() -> None:
    rekeying = heard_of_it()
    accept(rekeying)
    rekeying.hear(B, B_HOLDS, (A, B))
    assert steps(rekeying) == [Step.ACCEPT, Step.USE]
    rekeying.hear(B, replace(B_HOLDS, failure="no room", stand=Stand.GIVES_UP), (A, B))
    rekeying.hear(B, replace(NEWS, failure="no room", ended=True), (A, B))
    assert rekeying.known is not None
    assert steps(rekeying) == []
    assert not rekeying.giving_up


def test_a_newcomer_is_never_the_only_one_who_uses_the_key() -> None:
    newcomer = NodeId(4)
    everyone = (A, B, newcomer)
    rekeying = Rekeying(newcomer)
    rekeying.configured(everyone)
    held = replace(NEWS, accepted=frozenset(everyone), stand=Stand.HOLDS, begun=True)
    for node in (A, B):
        rekeying.hear(node, held, everyone)
    rekeying.step_done(NEWS.name, Step.ACCEPT, "", b"old!", everyone)
    (mine,) = rekeying.outgoing
    rekeying.hear(newcomer, mine, everyone)
    assert steps(rekeying) == [Step.ACCEPT]
    rekeying.hear(A, replace(held, used=frozenset({A})), everyone)
    assert steps(rekeying) == [Step.USE]


def test_the_changes_that_are_met_do_not_fill_the_memory() -> None:
    rekeying = heard_of_it()
    for number in range(2, 100):
        rekeying.hear(B, replace(B_HOLDS, attempt=number), (A, B))
    assert len(rekeying._rivals) <= CHANGES_MAX
    assert len(rekeying._stands) <= CHANGES_MAX


def test_whoever_asks_about_a_change_that_has_ended_is_told_and_nobody_asks_for_ever() -> None:
    one, other = Rekeying(A), Rekeying(B)
    one.hear(B, KeyNews(1, b"new!", b"old!", failure="no room", ended=True), (A, B))
    other.hear(A, NEWS, (A, B))
    other.configured((A, B))
    for _ in range(5):
        for sender, rekeying in ((B, other), (A, one)):
            said = list(rekeying.outgoing)
            rekeying.outgoing.clear()
            for news in said:
                one.hear(sender, news, (A, B))
                other.hear(sender, news, (A, B))
    assert one.outgoing == other.outgoing == []
    assert other.known is None


def test_the_ends_of_many_changes_do_not_fill_the_memory() -> None:
    rekeying = Rekeying(A)
    for number in range(100):
        rekeying.hear(B, KeyNews(number, b"new!", b"old!", ended=True), (A, B))
    assert len(rekeying._outcomes) == OUTCOMES_MAX

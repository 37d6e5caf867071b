"""Changes of the key in the worst of worlds: from many seeds, nobody is locked out by one."""

from dataclasses import replace

import pytest

from tests.core.engine.rekeying_model import FOUNDERS, Machine, Model
from vsync.engine.rekeying import KeyStep, Step
from vsync.keys import Key
from vsync.seal.wrapping import wrap_key
from vsync.testing.wiring import KEY
from vsync.vocabulary import NodeId
from vsync.wire import KeyNews


@pytest.mark.parametrize("first", range(0, 160, 20))
def test_all_read_each_other_at_every_moment_and_have_one_key_in_the_end(first: int) -> None:
    forgotten = 0
    for seed in range(first, first + 20):
        model = Model(seed)
        try:
            model.run(400)
            model.heal()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        forgotten += model.forgotten
    assert forgotten <= 2


def test_the_seeds_make_changes_that_meet_are_given_up_and_are_made() -> None:
    given_up = made = met = 0
    for seed in range(60):
        model = Model(seed)
        model.run(400)
        model.heal()
        for machine in model.running:
            outcomes = machine.rekeying._outcomes.values()
            given_up += sum(outcome.given_up for outcome in outcomes)
            made += sum(not outcome.given_up for outcome in outcomes)
            met += sum("instead" in outcome.failure for outcome in outcomes)
    assert min(given_up, made, met) > 0


class Story(Model):
    """A model in which only what a test says happens."""

    def __init__(self) -> None:
        super().__init__(0)
        self.a, self.b, self.c, self.d, self.e, self.f = self.machines.values()

    def change(self, machine: Machine, new: Key) -> None:
        assert machine.ring is not None
        members = machine.ring.members
        news = KeyNews(1, new.id, KEY.id, wrap_key(new, KEY), members=members)
        machine.rekeying.say(news)
        machine.take_outputs()

    def order_all(self) -> None:
        """All that is to be said has its place; delivered it is not yet."""
        for machine in self.running:
            while machine.to_send and machine.ring is not None:
                machine.ring.order.append((machine.node, machine.to_send.popleft()))

    def deliver_all(self, *machines: Machine) -> None:
        for machine in machines:
            self._deliver_to(machine, 1 << 30)

    def disks(self, *machines: Machine) -> None:
        for machine in machines:
            while machine.to_do:
                machine.do_step()


def two_keys() -> tuple[Key, Key]:
    """The one with the smaller name is preferred of two changes."""
    small, big = sorted((Key(b"1" * 32), Key(b"2" * 32)), key=lambda key: key.id)
    return small, big


def test_who_was_parted_before_it_saw_all_accept_keeps_the_key_when_it_meets_another_change() -> (
    None
):
    small, big = two_keys()
    story = Story()
    a, b, c, d, stranger, _ = story.machines.values()
    story.change(a, big)
    story.order_all()
    story.deliver_all(a, b, c, d)
    story.disks(a, b, c, d)
    story.order_all()
    story._form([c])  # it has seen nobody accept
    story.deliver_all(a, b, d)
    assert a.keys.used == b.keys.used == big
    story._boot(stranger)
    story.change(stranger, small)
    story.order_all()
    story.deliver_all(stranger)
    story._form([c, stranger])
    for _ in range(5):
        story.order_all()
        story.deliver_all(c, stranger)
        story.disks(c, stranger)
        story.check()
    assert c.reads(a)
    story.heal()
    assert {machine.keys.used for machine in (a, b, c, d, stranger)} == {big}


@pytest.mark.parametrize("slow", [False, True])
def test_who_comes_before_the_key_is_used_accepts_it_first_however_slow_disks_are(
    slow: bool,
) -> None:
    _, new = two_keys()
    story = Story()
    a, b, c, d, newcomer, _ = story.machines.values()
    everyone = [a, b, c, d, newcomer]
    story._boot(newcomer)
    story.change(a, new)
    story.order_all()
    story.deliver_all(a, b, c, d)
    story.disks(a, b, c, d)
    story.order_all()
    if slow:  # all that the founders have said is delivered to them while the newcomer comes
        story._form(everyone)
    else:
        story.deliver_all(a, b, c, d)
        assert {machine.keys.used for machine in (a, b, c, d)} == {new}
        assert {machine.disk.used for machine in (a, b, c, d)} == {KEY}  # not written yet
        story._form(everyone)
        assert newcomer.ring is not a.ring  # it never was in one configuration with them
    story.check()
    story.heal()


def test_the_old_key_is_dropped_only_when_all_would_use_the_new_one_after_a_restart() -> None:
    _, new = two_keys()
    story = Story()
    founders = list(story.machines.values())[:FOUNDERS]
    story.change(founders[0], new)
    for _ in range(3):
        story.order_all()
        story.deliver_all(*founders)
        for machine in founders[1:]:
            story.disks(machine)
        if founders[0].to_do and founders[0].to_do[0].step is Step.ACCEPT:
            story.disks(founders[0])
    (step,) = founders[0].to_do
    assert isinstance(step, KeyStep)
    assert step.step is Step.USE
    assert founders[0].keys.used == new
    story._boot(founders[0])  # in memory only
    assert founders[0].keys.used == KEY
    story.check()
    story.heal()
    assert {machine.keys.used for machine in founders} == {new}


def test_a_change_without_those_who_are_away_for_good_is_given_up_without_them_too() -> None:
    _, new = two_keys()
    story = Story()
    a, b, c, d, *_ = story.machines.values()
    story.change(a, new)
    story.order_all()
    story.deliver_all(a, b, c, d)
    story.disks(a, b, c)
    d.disk.failure = "no room"
    story.disks(d)
    story.order_all()
    story._form([a, b, d])
    for _ in range(4):
        story.order_all()
        story.deliver_all(a, b, d)
    assert a.rekeying.giving_up
    assert a.rekeying.waits_for((a.node, b.node, d.node)) == [c.node]
    known = a.rekeying.known
    assert known is not None
    a.rekeying.say(replace(known, without=frozenset({NodeId(c.node)})))
    a.take_outputs()
    for _ in range(4):
        story.order_all()
        story.deliver_all(a, b, d)
        story.disks(a, b)
    assert a.rekeying.known is None
    assert a.disk.next is b.disk.next is None

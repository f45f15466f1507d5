"""What waits for a worker: nothing is lost, nothing comes twice, and nobody is passed by their like."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lib.backend.waiting import Waiting

GROUPS = "a", "b"  # the same objects everywhere, as groups and shapes are compared by identity
SHAPES = "x", "y"
PATIENCE_S = 0.01  # dispatch passes the oldest for no longer


@dataclass(eq=False)
class Waiter:
    group: str
    queued_at: float = 0.0
    known: str | None = "shape"
    is_quick: bool = True
    is_wanted: bool = True
    number: int = field(default_factory=count().__next__)

    def __repr__(self) -> str:
        return f"<{self.number} {self.group} {'quick' if self.is_quick else 'alone'} {self.is_wanted}>"


def waiting_with(*units: Waiter) -> Waiting:
    waiting = Waiting()
    for unit in units:
        waiting.add(unit, unit.is_quick)
    return waiting


class QueueOfARoster(RuleBasedStateMachine):
    """Whatever is done to it, each unit that was put in is there, or was taken once, or nobody wanted it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting()
        self.now = 0.0
        self.there: list[Waiter] = []  # in the order in which they were put in

    @rule(
        group=st.sampled_from(GROUPS),
        is_quick=st.booleans(),
        known=st.sampled_from([*SHAPES, None]),
        passes=st.floats(0.0001, 0.02),  # no two are queued at once, so that which is older is not a matter of taste
    )
    def add(self, group, is_quick, known, passes):
        self.now += passes
        unit = Waiter(group, self.now, known, is_quick)
        self.waiting.add(unit, is_quick)
        self.there.append(unit)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def leave(self, data):
        """Its frontend is gone."""
        data.draw(st.sampled_from(self.there)).is_wanted = False

    def taken(self, *units: Waiter) -> None:
        for unit in units:
            assert unit.is_wanted
            self.there.remove(unit)  # raises when it was taken before

    def is_first(self, unit: Waiter) -> bool:
        return all(each is unit for each in self.alike(unit)[:1])

    def alike(self, unit: Waiter) -> list[Waiter]:
        wanted = [each for each in self.there if each.is_wanted]
        return [each for each in wanted if each.group == unit.group and each.is_quick is unit.is_quick]

    @rule(group=st.sampled_from(GROUPS), begins=st.booleans(), alone=st.booleans(), passes=st.floats(0, 0.02))
    def next_for(self, group, begins, alone, passes):
        self.now += passes
        allowed = [each for each in self.there if each.is_wanted and (begins if each.is_quick else alone)]
        unit = self.waiting.next_for(group, self.now, begins, alone)
        assert (unit is None) == (not allowed)
        if unit is not None:
            assert unit in allowed
            assert self.is_first(unit)
            oldest = min(each.queued_at for each in allowed if each.is_quick is unit.is_quick)
            assert unit.group == group or unit.queued_at == oldest  # a worker is not tuned anew but for the oldest
            assert unit.queued_at == oldest or self.now - oldest <= PATIENCE_S
            self.taken(unit)

    @rule(group=st.sampled_from(GROUPS))
    def next_rider(self, group):
        quick = [each for each in self.there if each.is_quick and each.is_wanted]
        unit = self.waiting.next_rider(group)
        if unit is None:
            assert not quick or quick[0].group != group
        else:
            assert unit is quick[0] and unit.group == group
            self.taken(unit)

    @rule(group=st.sampled_from(GROUPS), known=st.sampled_from(SHAPES), most=st.integers(0, 3))
    def take_like(self, group, known, most):
        like = Waiter(group, 0.0, known, False)
        expected = [each for each in self.alike(like) if each.known == known][:most]
        assert self.waiting.take_like(like, most) == expected
        self.taken(*expected)

    @precondition(lambda self: self.there)
    @rule(group=st.sampled_from(GROUPS))
    def take_and_put_back(self, group):
        unit = self.waiting.next_for(group, self.now, True, True)
        if unit is not None:
            self.waiting.put_back(unit, unit.is_quick)
            queue = self.waiting.quick if unit.is_quick else self.waiting.alone
            assert queue[0] is unit
            self.there.remove(unit)
            self.there.insert(0, unit)
            unit.queued_at = min(each.queued_at for each in self.there) - 0.0001

    @rule(known=st.sampled_from(SHAPES))
    def become_quick(self, known):
        for each in self.there:
            each.is_quick = each.is_quick or each.known == known
        self.there.sort(key=lambda each: each.queued_at)
        self.waiting.sort(lambda each: each.is_quick)

    @rule(ago=st.floats(0, 0.05))
    def time_out(self, ago):
        late = self.waiting.queued_before(self.now - ago)
        assert sorted(late, key=id) == sorted((x for x in self.there if x.queued_at < self.now - ago), key=id)
        for unit in late:
            self.there.remove(unit)

    @rule()
    def drain(self):
        taken = self.waiting.drain()
        assert [each.queued_at for each in taken] == sorted(each.queued_at for each in taken)
        assert {each for each in self.there if each.is_wanted} <= set(taken)
        assert len(taken) == len(set(taken)) and not self.waiting
        self.there = []

    @invariant()
    def nothing_is_lost_and_nothing_is_there_twice(self):
        waits = list(self.waiting)
        assert len(waits) == len(set(waits)) == len(self.waiting)
        assert set(waits) <= set(self.there)
        missing = set(self.there) - set(waits)
        assert not any(each.is_wanted for each in missing)
        self.there = [each for each in self.there if each not in missing]


TestWhateverIsDone = QueueOfARoster.TestCase
TestWhateverIsDone.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# --- stories ---------------------------------------------------------------------------------------------------------


def test_what_has_waited_longest_is_next_whether_quick_or_not():
    quick, alone = Waiter("a", 2.0), Waiter("a", 1.0, is_quick=False)
    waiting = waiting_with(quick, alone)
    assert waiting.next_for("a", 2.0, True, True) is alone
    assert waiting.next_for("a", 2.0, True, True) is quick
    assert waiting.next_for("a", 2.0, True, True) is None


def test_while_no_worker_can_be_had_alone_quick_reads_pass():
    alone, quick = Waiter("a", 1.0, is_quick=False), Waiter("a", 2.0)
    assert waiting_with(alone, quick).next_for("a", 2.0, True, False) is quick


def test_while_no_batch_may_begin_what_wants_a_worker_alone_passes():
    quick, alone = Waiter("a", 1.0), Waiter("a", 2.0, is_quick=False)
    assert waiting_with(quick, alone).next_for("a", 2.0, False, True) is alone
    assert waiting_with(quick).next_for("a", 2.0, False, True) is None


def test_a_rider_of_another_group_does_not_pass_the_oldest():
    waiting = waiting_with(Waiter("a", 1.0), Waiter("b", 2.0))
    assert waiting.next_rider("b") is None
    assert len(waiting) == 2


def test_a_rider_that_nobody_wants_is_dropped_on_the_way_to_one_that_somebody_does():
    gone, wanted = Waiter("b", 1.0, is_wanted=False), Waiter("a", 2.0)
    waiting = waiting_with(gone, wanted)
    assert waiting.next_rider("a") is wanted
    assert not waiting


def test_of_those_that_became_quick_the_oldest_comes_first():
    first, second, third = Waiter("a", 1.0, "x", False), Waiter("a", 2.0), Waiter("a", 3.0, "y", False)
    waiting = waiting_with(second, first, third)
    waiting.sort(lambda unit: unit.known != "y")
    assert list(waiting.quick) == [first, second]
    assert list(waiting.alone) == [third]


@given(st.lists(st.sampled_from(GROUPS), max_size=20))
def test_each_group_has_its_turn_in_the_end(groups):
    """Also the one that no worker is tuned to: after PATIENCE_S the oldest is next whatever it is."""
    waiting = waiting_with(*(Waiter(group, 0.001 * index) for index, group in enumerate(groups)))
    later = 1.0
    assert [waiting.next_for("a", later, True, True).group for _ in groups] == groups


def test_a_worker_that_is_not_fit_for_the_oldest_takes_the_next_that_it_is_fit_for():
    a, b = Waiter("a", is_quick=False), Waiter("b", is_quick=False)
    unwanted, quick = Waiter("b", is_quick=False, is_wanted=False), Waiter("b")
    waiting = waiting_with(a, unwanted, b, quick)
    assert waiting.next_fitting(lambda group: group == "b", False, True) is b
    assert waiting.next_fitting(lambda group: group == "b", False, True) is None
    assert waiting.next_fitting(lambda group: group == "b", True, False) is quick
    assert list(waiting) == [a, unwanted]

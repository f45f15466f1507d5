"""What is known of a shape's pace: quick only while its runs are, and for a while not after one was caught."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lib.route.known import LEAST_BYTES, Known
from lib.route.verdict import Kind, Verdict

LIMIT_S = 0.001
QUICK_S, SLOW_S = 0.00003, 0.005
READ = Verdict(Kind.SHAREABLE)


def runs(known: Known, seconds: float, times: int, now: float = 0.0, is_exact: bool = True) -> None:
    """It is answered so often, each time alone or in a batch as its pace is then."""
    for _ in range(times):
        known.took(seconds, 1, known.cost_s != inf, lambda: is_exact, LIMIT_S, now)


def quick() -> Known:
    known = Known(READ)
    runs(known, QUICK_S, 4)
    assert known.cost_s == pytest.approx(QUICK_S)
    return known


def caught(known: Known, is_sure: bool, now: float, after_s: float = 0.1) -> None:
    """One has kept others waiting for so long."""
    known.caught(is_sure, now - after_s, now)


def banned_for_s(known: Known, since: float) -> float:
    """How long after `since` it is that quick runs make it quick again, to 10 ms."""
    for step in range(10_000):
        now = since + step * 0.01
        runs(known, QUICK_S, 8, now)
        if known.cost_s != inf:
            return now - since
    return inf


# --- who may ride at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verdict",
    [
        *(Verdict(kind) for kind in Kind if kind is not Kind.SHAREABLE),
        Verdict(Kind.SHAREABLE, clean=True),
        Verdict(Kind.SHAREABLE, holds=True),
        Verdict(Kind.SHAREABLE, session=True),
        Verdict(Kind.SHAREABLE, spoils=True),
        Verdict(Kind.SHAREABLE, ddl=True),
        Verdict(Kind.SHAREABLE, resets=frozenset(("*",))),
    ],
)
def test_what_is_more_than_a_read_or_leaves_something_never_rides(verdict):
    known = Known(verdict)
    assert not known.rides
    runs(known, QUICK_S, 8)
    assert not known.may_be_tried(1.0)


def test_a_read_that_leaves_nothing_may_ride():
    assert Known(READ).rides
    assert Known(Verdict(Kind.SHAREABLE, standby=True)).rides


# --- its pace --------------------------------------------------------------------------------------------------------


def test_a_new_shape_runs_alone_until_it_has_been_seen_to_be_quick():
    known = Known(READ)
    assert known.cost_s == inf
    assert not known.may_be_tried(0.0)
    runs(known, QUICK_S, 4)
    assert known.cost_s == pytest.approx(QUICK_S)


@given(st.floats(0.001, 10.0), st.integers(1, 50))
def test_a_shape_whose_runs_are_all_slow_is_never_quick(seconds, times):
    known = Known(READ)
    runs(known, seconds, times)
    assert known.cost_s == inf


def test_a_shape_that_turns_slow_is_not_quick_for_long():
    known = quick()
    slow = 0
    while known.cost_s != inf:
        slow += 1
        runs(known, SLOW_S, 1, now=slow * SLOW_S)
        assert slow < 40


def test_a_moment_in_which_the_machine_stands_still_counts_once_on_however_many_backends():
    known = quick()
    for moment in range(3):
        stood_still_until = 1.0 + moment * 0.1
        for backend in range(30):  # all have answered, and the process deals with one after the other
            runs(known, 0.02, 1, now=stood_still_until + backend * 0.0001)
        assert known.cost_s != inf


def test_a_single_slow_run_among_quick_ones_changes_nothing():
    known = quick()
    runs(known, 0.05, 1)
    runs(known, QUICK_S, 7)
    assert known.cost_s == pytest.approx(QUICK_S, rel=0.5)


def test_runs_that_only_look_long_because_the_process_was_late_do_not_count_against_it():
    known = quick()
    runs(known, SLOW_S, 1000, is_exact=False)
    assert known.cost_s == pytest.approx(QUICK_S)


def test_what_was_sent_before_it_was_decided_that_it_rides_says_nothing():
    known = Known(READ)
    known.took(QUICK_S, 8, True, lambda: True, LIMIT_S, 0.0)
    assert known.cost_s == inf
    known = quick()
    for _ in range(1000):
        known.took(SLOW_S, 1, False, lambda: True, LIMIT_S, 0.0)
    assert known.cost_s == pytest.approx(QUICK_S)


def test_a_batch_costs_each_of_those_in_it_a_part():
    known = quick()
    known.took(32 * 0.00002, 32, True, lambda: True, LIMIT_S, 0.0)
    assert known.cost_s == pytest.approx(0.00002, rel=0.1)


# --- caught ----------------------------------------------------------------------------------------------------------


def test_a_shape_that_was_caught_runs_alone_for_a_second():
    known = quick()
    caught(known, True, 10.0)
    assert known.cost_s == inf
    assert not known.may_be_tried(10.0)
    assert banned_for_s(known, 10.0) == pytest.approx(1.0, abs=0.05)


def test_each_time_that_it_is_caught_again_soon_the_pause_is_twice_as_long_up_to_a_minute():
    known, now, pauses = quick(), 0.0, []
    for _ in range(9):
        caught(known, True, now)
        pauses.append(round(banned_for_s(known, now)))
        now += pauses[-1] + 0.1
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_after_a_long_time_without_being_caught_the_pause_is_short_again():
    known = quick()
    caught(known, True, 0.0)
    banned_for_s(known, 0.0)
    caught(known, True, 2.0)
    assert banned_for_s(known, 2.0) == pytest.approx(2.0, abs=0.05)
    caught(known, True, 100.0)
    assert banned_for_s(known, 100.0) == pytest.approx(1.0, abs=0.05)


def test_a_shape_that_was_slow_when_the_whole_server_stood_still_is_only_remembered():
    known = quick()
    caught(known, False, 10.0)
    assert known.cost_s != inf
    caught(known, False, 12.0)
    assert known.cost_s != inf
    caught(known, False, 12.5)
    assert known.cost_s == inf


def test_heads_that_keep_others_waiting_on_several_backends_at_the_same_time_count_as_one():
    known = quick()
    for backend in range(20):
        caught(known, False, 10.0 + backend * 0.004)
    assert known.cost_s != inf
    caught(known, False, 10.5)
    assert known.cost_s == inf


# --- trials ----------------------------------------------------------------------------------------------------------


def looks_slow() -> Known:
    known = Known(READ)
    runs(known, SLOW_S, 4)
    assert known.may_be_tried(0.0)
    return known


def test_the_least_that_an_answer_has_is_that_of_the_shortest_and_no_more_than_an_error_has():
    known = Known(READ)
    known.saw(b"D" * 500)
    assert known.least == LEAST_BYTES
    known.saw(b"D" * 20 + b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\5I")
    known.saw(b"")  # of which nothing is known
    known.saw(b"D" * 50)
    assert (known.least, known.rows) == (40, 1)


def test_a_shape_that_looks_slow_is_tried_once_at_a_time():
    known = looks_slow()
    known.begin_trial()
    assert not known.may_be_tried(0.0)


def test_a_shape_whose_trial_went_well_is_quick():
    known = looks_slow()
    known.begin_trial()
    known.end_trial(QUICK_S, True, LIMIT_S, 0.0)
    assert known.cost_s == pytest.approx(QUICK_S)
    assert not known.may_be_tried(0.0)


@pytest.mark.parametrize("each_s", [SLOW_S, inf])
def test_a_shape_whose_trial_went_badly_is_not_tried_again_at_once(each_s):
    known = looks_slow()
    known.begin_trial()
    known.end_trial(each_s, True, LIMIT_S, 1.0)
    assert known.cost_s == inf
    runs(known, SLOW_S, 4, 1.01)
    assert not known.may_be_tried(1.01)
    assert known.may_be_tried(2.0)


def test_a_trial_that_only_the_process_made_look_slow_went_well_but_says_no_more_than_that():
    known = looks_slow()
    known.begin_trial()
    known.end_trial(SLOW_S, False, LIMIT_S, 0.0)
    assert 0.5 * LIMIT_S < known.cost_s <= LIMIT_S


class Pace(RuleBasedStateMachine):
    """Whatever happens, a shape is quick only after a run was seen, and not before its pause is over."""

    def __init__(self) -> None:
        super().__init__()
        self.known = Known(READ)
        self.now = 0.0
        self.was_seen = self.was_quick = False
        self.caught_at = -inf
        self.is_tried = False

    @rule(seconds=st.sampled_from([QUICK_S, 0.0005, SLOW_S, 0.1]), times=st.integers(1, 40), passes=st.floats(0.0, 0.5))
    def run(self, seconds, times, passes):
        self.now += passes
        runs(self.known, seconds, times, self.now)
        self.was_seen = True
        self.was_quick = self.was_quick or seconds < LIMIT_S

    @precondition(lambda self: self.known.may_be_tried(self.now))
    @rule()
    def begin_trial(self):
        assert self.was_seen and self.known.cost_s == inf and not self.is_tried
        self.known.begin_trial()
        self.is_tried = True

    @precondition(lambda self: self.is_tried)
    @rule(each_s=st.sampled_from([QUICK_S, SLOW_S, inf]))
    def end_trial(self, each_s):
        before = self.known.cost_s
        self.known.end_trial(each_s, True, LIMIT_S, self.now)
        self.is_tried = False
        self.was_quick = self.was_quick or each_s < LIMIT_S
        if each_s == QUICK_S:
            self.caught_at = -inf  # the trial was begun before it was caught, and says more
        assert (self.known.cost_s != inf) == (each_s == QUICK_S) or before != inf

    @precondition(lambda self: self.known.cost_s != inf)
    @rule()
    def catch(self):
        caught(self.known, True, self.now)
        self.caught_at = self.now
        assert self.known.cost_s == inf

    @invariant()
    def it_is_quick_only_when_its_runs_were_and_no_pause_is_on(self):
        if self.known.cost_s != inf:
            assert self.was_seen and self.was_quick
            assert 0 < self.known.cost_s <= LIMIT_S
            assert self.now - self.caught_at >= 1.0 - 1e-9
            assert not self.known.may_be_tried(self.now)


TestWhateverHappens = Pace.TestCase

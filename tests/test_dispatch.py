"""How many workers, which worker, which unit next: decisions about plain values."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.backend import dispatch


@dataclass
class IdleWorker:
    group: str
    custom: bool = False  # knows a custom setting that only its own group sets
    placeholders: frozenset[str] = frozenset()  # those that it knows, though any group may have them

    def may_serve(self, group: str) -> bool:
        return not self.custom or group == self.group


@dataclass
class WaitingUnit:
    group: str
    queued_at: float = 0.0


@dataclass
class Batch:
    open_to: str | None
    in_flight: range = range(1)  # only how many is asked


def batch(open_to: str | None, ahead: int = 1) -> Batch:
    return Batch(open_to, range(ahead))


def test_a_worker_that_knows_custom_settings_is_taken_where_it_may_be_as_it_may_not_be_everywhere():
    knows = frozenset({"app.user"})
    idle = [IdleWorker("b"), IdleWorker("c", placeholders=knows), IdleWorker("d"), IdleWorker("e", custom=True)]
    assert dispatch.pick_worker(idle, "a") == 1
    assert dispatch.pick_worker(idle, "d") == 2


@pytest.mark.parametrize(
    ("knowing", "workers", "wanting", "waiting", "enough"),
    [(0, 4, 0, 10, True), (0, 4, 1, 10, False), (1, 4, 5, 10, False), (2, 4, 5, 10, True), (4, 4, 10, 10, True)],
)
def test_those_who_set_custom_settings_have_as_large_a_part_of_the_workers_as_of_those_who_wait(
    knowing, workers, wanting, waiting, enough
):
    assert dispatch.know_enough(knowing, workers, wanting, waiting) is enough


# --- how many --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frontends", "workers"),
    [(0, 0), (1, 2), (2, 3), (3, 5), (4, 1), (10, 1), (11, 2), (20, 2), (21, 3), (1000, 100)],
)
def test_the_specification_says_how_many_workers_so_many_frontends_have(frontends, workers):
    assert dispatch.needed_workers(frontends, (2, 3, 5), 10) == workers


def test_without_a_list_it_is_one_worker_for_each_so_many_frontends():
    assert [dispatch.needed_workers(count, (), 10) for count in (0, 1, 10, 11)] == [0, 1, 1, 2]


@given(st.integers(0, 10_000), st.lists(st.integers(1, 100), max_size=5), st.integers(1, 100))
def test_whoever_is_there_has_a_worker(frontends, worker_min_cnt, worker_per_fe_cnt):
    assert (dispatch.needed_workers(frontends, worker_min_cnt, worker_per_fe_cnt) > 0) == (frontends > 0)


@pytest.mark.parametrize(
    ("workers", "needed", "max_workers", "crowded_for_s", "may"),
    [
        (0, 1, 20, 0.0, True),  # what the formula says is never a question of waiting
        (1, 1, 20, 0.019, False),
        (1, 1, 20, 0.02, True),
        (20, 1, 20, 9.0, False),
        (25, 30, 20, 0.0, True),  # max_workers limits only what goes beyond the formula
        (1, 1, 0, 9.0, False),  # the formula alone
    ],
)
def test_a_worker_more_is_started_when_the_formula_asks_for_it_or_units_have_waited(
    workers, needed, max_workers, crowded_for_s, may
):
    assert dispatch.may_grow(workers, needed, max_workers, crowded_for_s, 0.02) is may


@pytest.mark.parametrize(
    ("workers", "needed", "idle_for_s", "idle_timeout_s", "may"),
    [
        (2, 1, 600.0, 600.0, True),
        (2, 1, 599.0, 600.0, False),
        (1, 1, 9999.0, 600.0, False),  # the formula cannot spare it
        (2, 1, 9999.0, 0.0, False),  # 0 is never
    ],
)
def test_a_worker_goes_when_it_was_idle_for_long_and_the_formula_can_spare_it(
    workers, needed, idle_for_s, idle_timeout_s, may
):
    assert dispatch.may_shrink(workers, needed, idle_for_s, idle_timeout_s) is may


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.floats(0, 1000), st.floats(0, 1000))
def test_growing_and_shrinking_never_take_turns(workers, needed, max_workers, crowded_for_s, idle_timeout_s):
    grown = dispatch.may_grow(workers, needed, max_workers, crowded_for_s, 0.02) and workers + 1 <= needed
    assert not (grown and dispatch.may_shrink(workers + 1, needed, idle_timeout_s, idle_timeout_s))


# --- which worker ----------------------------------------------------------------------------------------------------


def test_a_worker_that_is_tuned_to_the_group_is_preferred():
    assert dispatch.pick_worker([IdleWorker("a"), IdleWorker("b"), IdleWorker("c")], "a") == 0


def test_of_several_the_one_used_last_is_taken():
    assert dispatch.pick_worker([IdleWorker("a"), IdleWorker("a"), IdleWorker("b")], "a") == 1
    assert dispatch.pick_worker([IdleWorker("a"), IdleWorker("b")], "c") == 1


def test_a_worker_that_would_show_what_another_group_had_is_not_taken():
    assert dispatch.pick_worker([IdleWorker("a"), IdleWorker("b", custom=True)], "c") == 0
    assert dispatch.pick_worker([IdleWorker("b", custom=True)], "c") == -1
    assert dispatch.pick_worker([IdleWorker("b", custom=True)], "b") == 0


def test_where_nobody_is_idle_there_is_none():
    assert dispatch.pick_worker([], "a") == -1


# --- which unit ------------------------------------------------------------------------------------------------------


def test_the_oldest_unit_is_next():
    assert dispatch.pick_unit([WaitingUnit("a"), WaitingUnit("a")], "a", 0.0) == 0


def test_a_unit_that_needs_no_tuning_may_pass_an_older_one():
    assert dispatch.pick_unit([WaitingUnit("a"), WaitingUnit("b"), WaitingUnit("b")], "b", 0.005) == 1


def test_a_unit_is_passed_for_a_short_time_only():
    assert dispatch.pick_unit([WaitingUnit("a"), WaitingUnit("b")], "b", 0.011) == 0


def test_only_units_close_behind_may_pass():
    waiting = [WaitingUnit("a")] * 16 + [WaitingUnit("b")]
    assert dispatch.pick_unit(waiting, "b", 0.0) == 0
    assert dispatch.pick_unit(waiting[1:], "b", 0.0) == 15


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30), st.sampled_from("abc"), st.floats(0, 1))
def test_units_of_one_group_keep_their_order(groups, group, now):
    index = dispatch.pick_unit([WaitingUnit(each) for each in groups], group, now)
    assert groups[index] not in groups[:index]


# --- who may ride ----------------------------------------------------------------------------------------------------

LIMIT_S, DEPTH = 0.001, 32
CHEAP_S, DEAR_S = 0.00003, 0.0009
costs = st.sampled_from([CHEAP_S, 0.0002, 0.0004, DEAR_S])
batches_of_all_kinds = st.lists(st.builds(batch, st.sampled_from(["a", "b", None]), st.integers(1, DEPTH)), max_size=8)


def pick_batch(batches: list[Batch], cost_s: float = CHEAP_S, has_idle: bool = False, rivals: int = 0) -> int:
    return dispatch.pick_batch(batches, "a", cost_s, DEPTH, LIMIT_S, int(has_idle), rivals)


def test_cheap_reads_fill_the_first_worker_before_the_next_even_when_one_is_idle():
    batches = [batch("a", 31), batch("a", 1)]
    assert pick_batch(batches) == pick_batch(batches, has_idle=True) == 0
    assert pick_batch([batch("a", 32), batch("a", 31)]) == 1


def test_a_read_that_is_not_cheap_goes_to_an_idle_worker_and_else_where_the_fewest_are_ahead():
    batches = [batch("a", 3), batch("a", 1), batch("a", 2)]
    assert pick_batch(batches, DEAR_S, has_idle=True) == -1
    assert pick_batch(batches, DEAR_S) == 1


def test_reads_spread_over_more_workers_where_many_others_are_busy_alone():
    assert pick_batch([batch("a", 6)], has_idle=True, rivals=6) == -1
    assert pick_batch([batch("a", 5)], has_idle=True, rivals=6) == 0
    assert pick_batch([batch("a", 6), batch("a", 6)], has_idle=True, rivals=6) == 0
    assert pick_batch([batch("a", 6)], has_idle=False, rivals=6) == 0


@given(
    batches=st.lists(st.builds(batch, st.sampled_from(["a", "b"]), st.integers(1, 40)), min_size=1, max_size=8),
    depth=st.integers(1, 200), idle=st.integers(0, 5), rivals=st.integers(0, 30),
)  # fmt: skip
def test_up_to_the_easy_depth_it_is_always_the_first_batch(batches, depth, idle, rivals):
    if batches[0].open_to == "a" and len(batches[0].in_flight) < dispatch.easy_depth(depth, rivals):
        assert dispatch.pick_batch(batches, "a", CHEAP_S, depth, LIMIT_S, idle, rivals) == 0


def test_reads_that_are_not_cheap_want_more_workers_and_cheap_ones_do_not():
    assert dispatch.would_spread([batch("a")] * 10, DEAR_S, LIMIT_S)
    assert not dispatch.would_spread([batch("a")] * 100, DEAR_S, LIMIT_S)
    assert not dispatch.would_spread([batch("a")], CHEAP_S, LIMIT_S)


def test_nobody_rides_with_another_group_or_on_a_worker_that_is_closed_to_riders():
    assert pick_batch([batch("b"), batch(None)]) == -1
    assert pick_batch([batch("b"), batch(None), batch("a")]) == 2


@given(batches_of_all_kinds, costs, st.booleans())
def test_whoever_rides_finds_room_with_their_own_group(batches, cost_s, has_idle):
    index = pick_batch(batches, cost_s, has_idle)
    with_room = [each for each in batches if each.open_to == "a" and len(each.in_flight) < DEPTH]
    if index >= 0:
        assert batches[index] in with_room
    else:
        assert not with_room or (has_idle and cost_s > CHEAP_S)


@given(batches_of_all_kinds, costs)
def test_the_first_batch_may_always_begin_and_the_dearer_the_reads_the_more(batches, cost_s):
    assert dispatch.may_begin_batch([], "a", cost_s)
    if dispatch.may_begin_batch(batches, "a", cost_s):
        assert dispatch.may_begin_batch(batches, "a", 2 * cost_s)


def test_batches_of_cheap_reads_are_few_and_those_of_dear_ones_many():
    assert not dispatch.may_begin_batch([batch("a")] * 10, "a", CHEAP_S)
    assert dispatch.may_begin_batch([batch("a")] * 10, "a", DEAR_S)
    assert not dispatch.may_begin_batch([batch("a")] * 100, "a", DEAR_S)


def test_batches_of_other_groups_do_not_keep_a_group_from_its_own():
    assert dispatch.may_begin_batch([batch("b")] * 10, "a", CHEAP_S)


# --- who has a worker alone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "reads", "read_ago_s", "kept"),
    [
        (20, 0.0, 0.5, 1),
        (20, 18.0, 0.5, 3),  # one for each six reads ...
        (20, 100.0, 0.5, 5),  # ... but no more than a quarter of all
        (7, 100.0, 0.5, 1),
        (20, 100.0, 1.5, 0),  # there were none for a while
        (3, 100.0, 0.0, 0),  # of three, one would be too much
    ],
)
def test_some_workers_are_kept_for_quick_reads_while_there_are_any(workers, reads, read_ago_s, kept):
    assert dispatch.kept_for_reads(workers, reads, read_ago_s) == kept


def test_what_wants_a_worker_alone_has_the_idle_ones_that_are_not_kept():
    assert dispatch.may_have_alone(2, 0, 1)
    assert not dispatch.may_have_alone(1, 0, 1)
    assert dispatch.may_have_alone(1, 1, 1)  # another one takes the reads
    assert not dispatch.may_have_alone(0, 5, 0)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20))
def test_nobody_is_kept_from_idle_workers_for_ever(idle, batches, workers):
    assert dispatch.may_have_alone(idle, batches, dispatch.kept_for_reads(workers, 1e6, 1e9)) == (idle > 0)


def test_the_batch_with_the_fewest_in_flight_ends_for_what_wants_a_worker_alone():
    assert dispatch.pick_to_drain([batch("a", 3), batch("a", 1), batch("a", 2)], 1) == 1


def test_the_batches_that_are_kept_for_reads_do_not_end():
    assert dispatch.pick_to_drain([batch("a")], 1) == -1
    assert dispatch.pick_to_drain([batch("a")], 0) == 0
    assert dispatch.pick_to_drain([], 0) == -1


@given(batches_of_all_kinds, st.integers(0, 8))
def test_what_was_kept_for_reads_and_what_ends_for_others_are_never_the_same(batches, kept):
    """Whoever ends a batch for a unit that wants a worker alone must be allowed to give it that worker then."""
    index = dispatch.pick_to_drain(batches, kept)
    if index >= 0:
        assert dispatch.may_have_alone(1, len(batches) - 1, kept)

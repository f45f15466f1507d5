"""When a primary counts as gone: what was seen goes in, what to do comes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.ha.machine import NEXT, Action, Event, Machine, State


def machine(after: int = 3, wait_s: float = 60, is_allowed: bool = True) -> Machine:
    return Machine(after, wait_s, is_allowed)


def gone(after: int = 3) -> Machine:
    """One whose primary is about to be replaced."""
    found = machine(after)
    for now in range(after):
        found.failed(now)
    found.witnessed(None, 0.0)
    assert found.look(10.0) == [Action.SWITCH]
    return found


def test_nothing_is_sent_from_the_first_failure_on():
    found = machine()
    assert found.is_trusted
    assert found.failed(0.0) == [Action.HOLD]
    assert not found.is_trusted
    assert found.failed(0.1) == []


def test_any_answer_releases_what_waits_and_begins_anew():
    found = machine()
    found.failed(0.0)
    found.failed(0.1)
    assert found.answered(0.2) == [Action.RELEASE]
    assert found.is_trusted
    assert found.failures == 0
    assert found.answered(0.3) == []


def test_failures_alone_replace_nobody():
    found = machine()
    for now in range(100):
        assert Action.SWITCH not in found.failed(now)
        assert found.look(now) == []


def test_witnesses_alone_replace_nobody():
    found = machine(after=3)
    found.failed(0.0)
    found.failed(0.1)
    for now in range(1, 100):
        assert found.witnessed(None, now) == []


def test_it_is_replaced_after_enough_failures_when_no_standby_has_heard_it_for_a_while():
    found = machine(after=3)
    found.failed(0.0)
    assert found.witnessed(None, 0.0) == []
    found.failed(0.1)
    found.failed(0.2)
    assert found.look(0.3) == []
    assert found.look(0.6) == [Action.SWITCH]
    assert found.state is State.CHOOSING
    assert found.look(0.7) == []


def test_a_standby_that_hears_it_again_begins_that_while_anew():
    found = machine(after=1)
    found.failed(0.0)
    found.witnessed(None, 0.1)
    assert found.witnessed("standby 2 hears it", 0.5) == []
    assert found.refusal == "standby 2 hears it"
    assert found.witnessed(None, 0.7) == []
    assert found.witnessed(None, 1.1) == []
    assert found.witnessed(None, 1.3) == [Action.SWITCH]


def test_a_pool_that_may_not_promote_never_does():
    found = machine(after=1, is_allowed=False)
    found.failed(0.0)
    for now in range(100):
        assert found.witnessed(None, now) == []


def test_a_server_that_starts_up_is_waited_for_and_its_failures_before_are_forgotten():
    found = machine(after=2, wait_s=5)
    found.failed(0.0)
    found.witnessed(None, 0.0)
    assert found.starting(0.1) == []
    assert (found.state, found.failures) == (State.WAITING, 0)
    for now in range(1, 5):
        assert found.starting(now) == []
        assert found.state is State.WAITING
    assert found.answered(5.0) == [Action.RELEASE]


def test_a_server_that_starts_up_is_not_waited_for_for_ever():
    found = machine(after=2, wait_s=5)
    found.starting(0.0)
    found.starting(5.1)
    found.witnessed(None, 5.1)
    found.starting(5.2)
    assert found.look(5.3) == []
    assert found.look(5.7) == [Action.SWITCH]


def test_a_server_that_goes_down_and_starts_again_and_again_has_its_time_only_once():
    found = machine(after=1000, wait_s=5)
    found.starting(0.0)
    found.failed(1.0)
    found.starting(2.0)
    found.failed(3.0)
    found.starting(5.5)
    assert found.state is State.DOUBTING


def test_an_answer_while_a_standby_is_chosen_ends_that():
    found = gone()
    assert found.answered(11.0) == [Action.RELEASE]
    assert found.happened(Event.CHOSEN, 12.0) == []
    assert found.state is State.WATCHING


def test_an_answer_after_a_standby_was_told_comes_too_late():
    found = gone()
    found.happened(Event.CHOSEN, 11.0)
    assert found.answered(12.0) == []
    assert found.starting(12.0) == []
    assert found.state is State.PROMOTING
    found.happened(Event.PROMOTED, 13.0)
    found.happened(Event.DONE, 13.0)
    assert found.is_trusted


def test_the_old_primary_is_not_trusted_while_nobody_knows_what_became_of_a_promotion():
    found = gone()
    found.happened(Event.CHOSEN, 10.0)
    found.happened(Event.REFUSED, 11.0)
    assert found.state is State.DOUBTING
    assert found.answered(11.1) == []
    assert found.starting(11.2) == []
    assert found.state is State.DOUBTING
    found.no_way_back = False
    assert found.answered(11.3) == [Action.RELEASE]


def test_a_pool_that_was_killed_in_the_middle_begins_with_nobody_trusted():
    found = machine()
    assert found.begin_in_the_middle(0.0) == [Action.HOLD]
    assert found.answered(0.1) == []
    assert not found.is_trusted


def test_when_somebody_else_says_who_the_primary_is_all_begins_anew():
    found = gone()
    found.happened(Event.CHOSEN, 10.0)
    found.happened(Event.REFUSED, 11.0)
    found.begin_anew()
    assert (found.is_trusted, found.failures, found.no_way_back) == (True, 0, False)
    assert found.failed(12.0) == [Action.HOLD]
    assert found.look(20.0) == []


def test_a_choice_that_fails_is_tried_again_a_little_later():
    found = gone()
    found.happened(Event.REFUSED, 10.0)
    assert found.state is State.DOUBTING
    assert found.look(10.5) == []
    assert found.look(11.1) == [Action.SWITCH]


def test_repr_says_what_one_wants_to_know_at_three_in_the_morning():
    found = machine()
    found.failed(0.0)
    found.witnessed("standby 2 hears it", 0.1)
    assert repr(found) == "<Machine DOUBTING failures=1/3 standby 2 hears it>"


def test_every_state_can_be_left_and_reached():
    reached = {after for row in NEXT.values() for after in row.values()}
    assert reached == set(State) == set(NEXT)
    assert all(set(row.values()) - {state} for state, row in NEXT.items())


SIGHTS = st.sampled_from(["answered", "starting", "failed", "proven", "unproven", "look"])


@given(st.lists(st.tuples(SIGHTS, st.floats(0, 0.4)), max_size=200), st.integers(1, 5))
def test_whatever_is_seen_a_switch_needs_failures_in_a_row_and_standbys_that_agree(sights, after):
    found = Machine(after, 1.0, True)
    now, row, agreed_since, held = 0.0, 0, None, False
    for sight, pause in sights:
        now += pause
        if sight == "answered":
            actions, row, agreed_since = found.answered(now), 0, None
        elif sight == "starting":
            actions = found.starting(now)
            row, agreed_since = (0, None) if found.state is State.WAITING else (row + 1, agreed_since)
        elif sight == "failed":
            actions, row = found.failed(now), row + 1
        elif sight == "look":
            actions = found.look(now)
        else:
            agreed_since = (agreed_since if agreed_since is not None else now) if sight == "proven" else None
            actions = found.witnessed(None if sight == "proven" else "no", now)
        held = (held or Action.HOLD in actions) and Action.RELEASE not in actions
        assert held == (not found.is_trusted)
        if Action.SWITCH in actions:
            assert row >= after
            assert agreed_since is not None
            assert now - agreed_since >= 0.5
            return


@pytest.mark.parametrize("state", [State.PROMOTING, State.FOLLOWING])
def test_there_is_no_way_back_from(state):
    assert not {Event.ANSWERED, Event.STARTING, Event.FAILED} & set(NEXT[state])

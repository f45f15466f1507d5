"""How far behind a standby is, and whether it is used: decisions about plain values."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.backend.lag import History, Standing

MAX_LAG = 5.0


def history(*ends: tuple[float, int], keep_s: float = MAX_LAG) -> History:
    """Of (moment, end of the WAL then)."""
    found = History(keep_s)
    for at, lsn in ends:
        found.add(lsn, at, at)
    return found


def standing(*seen: tuple[float, int], past: History) -> Standing:
    found = Standing()
    for at, lsn in seen:
        found.seen(lsn, at, past, MAX_LAG)
    return found


def test_who_has_all_that_was_written_when_the_primary_was_asked_is_not_behind():
    assert history((0, 100), (1, 200)).behind(200, 1.0) == (0.0, 0.0)


def test_how_far_a_standby_is_behind_is_when_the_primary_was_there():
    past = history((0, 100), (1, 200), (2, 300), (3, 400))
    assert past.behind(200, 3.0) == (1.0, 2.0)
    assert past.behind(250, 3.0) == (1.0, 2.0)
    assert past.behind(99, 3.0) == (3.0, inf)


def test_a_standby_does_not_get_old_while_nobody_writes():
    past = history(*((at, 100) for at in range(100)))
    assert past.behind(100, 99.0) == (0.0, 0.0)
    past.add(200, 100.0, 100.0)
    assert past.behind(100, 100.5) == (0.5, 1.5)


def test_while_the_primary_is_silent_nobody_gets_further_behind():
    past = history((0, 100), (1, 200))
    past.failed(1.5)
    past.failed(2.5)
    assert past.behind(200, 50.0) == (0.0, 0.5)
    assert past.behind(100, 50.0) == (0.5, 1.5)
    past.add(200, 51.0, 51.0)
    assert past.behind(100, 52.0) == (51.0, 52.0)


def test_a_primary_that_has_lost_the_end_of_its_wal_begins_anew():
    past = history((0, 100), (1, 200), (2, 150))
    assert past.behind(150, 2.0) == (0.0, 0.0)


def test_what_is_older_than_max_lag_is_forgotten_but_for_the_last_of_it():
    past = history(*((at / 10, at) for at in range(1000)))
    assert len(past) <= 10 * MAX_LAG + 3
    least, most = past.behind(0, 99.9)
    assert (least > MAX_LAG, most) == (True, inf)


def test_a_long_max_lag_does_not_make_a_long_history():
    past = history(*((float(at), at) for at in range(20_000)), keep_s=86_400.0)
    assert len(past) <= 1001
    least, most = past.behind(10_000, 19_999.0)
    assert least == pytest.approx(9_999, abs=200)
    assert most == pytest.approx(9_999, abs=200)


@given(
    st.lists(st.tuples(st.floats(0.001, 3), st.integers(0, 50)), min_size=1, max_size=40),
    st.integers(0, 1000), st.floats(0, 3),
)  # fmt: skip
def test_how_far_a_standby_is_behind_lies_between_the_least_and_the_most(steps, behind, later):
    """The primary is asked at some moments, and has written at once before each."""
    past, at, end = History(MAX_LAG), 0.0, 1000
    ends = []
    for seconds, written in steps:
        at += seconds
        end += written
        past.add(end, at, at)
        ends.append((at, end))
    replayed = max(1000, end - behind)
    now = at + later
    least, most = past.behind(replayed, now)
    since = min((moment for moment, lsn in ends if lsn > replayed), default=now)  # the first that it misses
    until = max((moment for moment, lsn in ends if lsn <= replayed), default=-inf)
    assert least <= now - since + 1e-9
    assert most >= now - until - 1e-9 or least > MAX_LAG
    assert (least > MAX_LAG) == (now - since > MAX_LAG)


def test_a_new_standby_is_used_when_it_is_seen_to_be_near_enough():
    past = history((0, 100), (1, 200))
    found = Standing()
    assert (found.is_in, found.is_known) == (False, False)
    found.seen(50, 1.0, past, MAX_LAG)
    assert (found.is_in, found.is_known) == (False, False)
    found.seen(100, 1.1, past, MAX_LAG)
    assert (found.is_in, found.is_known) == (True, True)


def test_a_standby_is_left_out_when_it_is_too_far_behind_and_used_when_it_has_caught_up():
    past = history(*((at, 100 + at) for at in range(20)))
    found = standing((10.0, 110), (19.0, 114), past=past)
    assert found.is_in, "it misses what was written 4 s ago"
    found.seen(112, 19.0, past, MAX_LAG)
    assert (found.is_in, found.is_known, found.behind_s) == (False, True, 6.0)
    assert repr(found) == "<Standing out, 6.0 s behind>"
    found.seen(113, 19.0, past, MAX_LAG)
    assert not found.is_in, "it is 5 to 6 s behind, and comes back when that is sure to be less"
    found.seen(114, 19.0, past, MAX_LAG)
    assert found.is_in


def test_what_was_seen_holds_for_max_lag_when_a_standby_cannot_be_asked():
    found = standing((1.0, 100), past=history((1, 100)))
    found.failed(5.9, MAX_LAG)
    assert found.is_in
    found.failed(6.1, MAX_LAG)
    assert (found.is_in, found.is_known) == (False, True)


def test_a_standby_that_comes_back_is_looked_at_first():
    found = standing((1.0, 100), past=history((1, 100)))
    found.forget()
    assert (found.is_in, found.is_known) == (False, False)

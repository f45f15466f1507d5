"""Riders: 31 frontends whose statements stand behind another one's on its backend, when that one suddenly takes long.

Each test is right with and without riders, and says with riders that the statements did stand behind one another. What
riders have to wait for is asserted with a wide bound, and how long it was is printed (pytest -rP): see `convoy`.
"""

from __future__ import annotations

import functools
import time
from collections import Counter

import pytest

from tests.cluster import rawclient
from tests.cluster.convoy import Convoy, Place
from tests.workplace import wait_until

UNKNOWN, CANCELED = "08007", "57014"
LOOKUP = "select word as {name} from quick where id = 1"
COUNT = "select count(*) as {name} from (select generate_series(1, %d)) x"
LARGE = "select '{name}' || repeat('x', 1000) from generate_series(1, %d)"
ANSWER = [("one",)]
EITHER_WAY = pytest.mark.parametrize("way", ["simple", "extended"])
WHEN = pytest.mark.parametrize("when", ["at once", "after all others"])


@pytest.fixture
def locked(convoy: Convoy, place: Place):
    """behind(build=...): a head that waits for a table lock, with riders behind it."""
    return functools.partial(convoy.behind, LOOKUP, ANSWER, stuck=place.locked, waiting="Lock")


@EITHER_WAY
def test_riders_do_not_wait_behind_a_read_that_waits_for_a_table_lock(convoy: Convoy, locked, way: str):
    with locked(build=getattr(rawclient, way)) as stuck:
        convoy.answer_soon()
        assert not stuck.flight.is_over
    stuck.flight.check()
    convoy.ask_all()


def test_riders_do_not_wait_behind_a_quick_read_that_has_turned_slow(convoy: Convoy):
    """The same shape with another number."""
    with convoy.behind(COUNT % 20_000_000, [("20000000",)], quick=COUNT % 1) as stuck:
        convoy.answer_soon()
    stuck.flight.check()
    assert stuck.flight.took_s > convoy.slowest_s
    convoy.ask_all()


def test_riders_do_not_wait_behind_an_answer_that_its_frontend_does_not_read(convoy: Convoy, place: Place):
    convoy.head = convoy.connect(rcvbuf=4096)
    convoy.unread = {convoy.head}
    with convoy.behind(LARGE % 30_000, None, quick=LARGE % 1) as stuck:
        convoy.answer_soon()
        convoy.ask_riders()
        assert place.running(stuck.name, "Client")
    answer = stuck.flight.answer()
    assert answer.tags == "T" + "D" * 30_000 + "CZ"
    assert set(answer.rows) == {(stuck.name + "x" * 1000,)}


@WHEN
@EITHER_WAY
def test_a_cancel_of_the_head_ends_its_statement_and_no_others(convoy: Convoy, locked, when: str, way: str):
    with locked(build=getattr(rawclient, way)) as stuck:
        if when == "after all others":
            convoy.answer_soon()
        convoy.head.cancel()
        answer = stuck.flight.answer()
        assert (answer.code, answer.status) == (CANCELED, "I")
        assert "canceling statement due to user request" in answer.error["M"]
        convoy.answer_soon()
    convoy.ask_all()


def test_a_cancel_of_riders_ends_theirs_at_once_and_no_others(convoy: Convoy, locked):
    canceled = 0
    with locked() as stuck:
        for flight in convoy.flights[::4]:
            flight.raw.cancel()
        for number, flight in enumerate(convoy.flights):
            answer = flight.answer(10)
            assert answer.code in ((None,) if number % 4 else (None, CANCELED)), answer.errors
            assert answer.rows == ([] if answer.code else flight.rows)
            assert answer.status == "I"
            canceled += answer.code == CANCELED
        assert not stuck.flight.is_over
        convoy.ask_riders()
    stuck.flight.check()
    convoy.ask_all()


def test_a_cancel_meets_the_statement_of_its_frontend_only_whoever_it_stands_behind(convoy: Convoy, place: Place):
    """Bursts of quick reads, in each of which four frontends cancel: what was already answered stays answered."""
    canceled = 0
    for turn in range(60):
        first = convoy.send(rawclient.simple("select 'head'"), [("head",)])
        chosen = {(turn * 7 + step) % len(convoy.flights) for step in (0, 5, 11)}
        if turn % 2:
            convoy.head.cancel()
        for number in chosen:
            convoy.flights[number].raw.cancel()
        for number, flight in enumerate([*convoy.flights, first]):
            may_be_canceled = number in chosen or (flight is first and turn % 2)
            if may_be_canceled and flight.answer().code == CANCELED:
                canceled += 1
                assert flight.answer().rows == []
            else:
                flight.check()
    print(f"{canceled} statements were canceled")
    convoy.ask_all()


def test_a_cancel_at_the_end_of_the_head_does_not_meet_who_rides_behind_it(place: Place):
    """It may reach the backend when that has gone on; so nobody may be there any more when it is sent."""
    outcomes: Counter[str | None] = Counter()
    delay_s = 0.004
    quick, slow = (rawclient.simple(COUNT.format(name="canceled") % rows) for rows in (1, 120_000))
    with Convoy(place, riders=16) as convoy:
        for _ in range(200):
            for _ in range(4):  # so that it stays known for a quick one
                convoy.head.send(quick)
                assert not convoy.head.answer().errors
            first = convoy.send(slow, [("120000",)])
            until = time.perf_counter() + delay_s
            while time.perf_counter() < until:
                pass
            convoy.head.cancel()
            code = first.answer().code
            assert code in (None, CANCELED)
            outcomes[code] += 1
            delay_s = max(0.0, delay_s + (0.0002 if code else -0.0002))
            for flight in convoy.flights:
                flight.check()
        convoy.ask_all()
    assert min(outcomes[None], outcomes[CANCELED]) > 20, f"the cancels were not at the end: {outcomes}"


@WHEN
def test_riders_do_not_notice_that_the_backend_of_the_head_is_terminated(convoy: Convoy, place: Place, locked, when):
    """Nor does the head, which has answered nothing yet: it is run again."""
    with locked() as stuck:
        if when == "after all others":
            convoy.answer_soon()
        place.look("select pg_terminate_backend(%s)", stuck.pid)
        convoy.answer_soon()
        wait_until(lambda: place.wait_running(stuck.name, "Lock")[0] != stuck.pid, what="the head to run again")
    stuck.flight.check()
    convoy.ask_all()


def test_an_answer_that_was_begun_is_unknown_when_its_backend_is_terminated_and_no_others(
    convoy: Convoy, place: Place
):
    convoy.unread = {convoy.head}
    with convoy.behind(LARGE % 100_000, None, quick=LARGE % 1) as stuck:
        wait_until(lambda: not convoy.head.says_nothing(), what="the answer to begin")
        place.look("select pg_terminate_backend(%s)", stuck.pid)
        convoy.answer_soon()
    answer = stuck.flight.answer()
    assert (answer.code, answer.status) == (UNKNOWN, "I")
    assert answer.tags.count("D") < 100_000
    convoy.unread.clear()
    convoy.ask_all()


def test_a_crash_of_the_server_costs_no_reader_its_answer(convoy: Convoy, place: Place, locked):
    with locked() as stuck:
        place.crash(stuck.pid)
        convoy.answer_soon(within_s=30.0)
    stuck.flight.check()
    convoy.ask_all()


def test_riders_do_not_notice_that_their_head_vanishes(convoy: Convoy, place: Place, locked):
    convoy.unread = {convoy.head}
    with locked() as stuck:
        convoy.head.vanish()
        convoy.answer_soon()
    wait_until(lambda: place.running(stuck.name) is None, what="its statement to be over")
    convoy.head = convoy.connect()
    convoy.unread.clear()
    convoy.ask_all()


def test_a_head_does_not_notice_that_riders_vanish(convoy: Convoy, place: Place, locked):
    convoy.unread = set(convoy.riders[::2])
    with locked() as stuck:
        for flight in convoy.flights[::2]:
            flight.raw.vanish()
        for flight in convoy.flights[1::2]:
            flight.check()
    stuck.flight.check()
    convoy.unread.clear()
    convoy.riders[::2] = [convoy.connect() for _ in convoy.riders[::2]]
    convoy.ask_all()

"""Which standby may serve a read after a write: decisions about plain values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.backend.freshness import NEVER, Mark, Progress, may_hope, needed, pause, position, record_end, shown

BLOCK, SEGMENT = 8192, 16 << 20


def told(lsn: int, questions: int = 1) -> Progress:
    """A server that has answered so many questions, the last with `lsn`."""
    progress = Progress()
    for _ in range(questions):
        progress.answer(progress.begin(0.0), lsn)
    return progress


def test_a_question_that_was_begun_before_the_write_does_not_count():
    primary, mark = Progress(), Mark()
    number = primary.begin(0.0)
    mark.wrote(primary)
    primary.answer(number, 100)
    assert needed(mark.asked, mark.lsn, primary) == 0
    primary.answer(primary.begin(1.0), 200)
    assert needed(mark.asked, mark.lsn, primary) == 200


def test_the_first_answer_that_counts_holds_though_others_write_on():
    primary, mark = told(100), Mark()
    mark.wrote(primary)
    primary.answer(primary.begin(1.0), 200)
    mark.lsn = needed(mark.asked, mark.lsn, primary)
    primary.answer(primary.begin(2.0), 300)
    assert needed(mark.asked, mark.lsn, primary) == 200


def test_a_write_makes_an_older_answer_worthless():
    primary, mark = told(100), Mark()
    mark.wrote(primary)
    primary.answer(primary.begin(1.0), 200)
    mark.lsn = needed(mark.asked, mark.lsn, primary)
    mark.wrote(primary)
    assert needed(mark.asked, mark.lsn, primary) == 0


def test_nothing_is_waited_for_that_the_primary_itself_has_lost():
    primary, mark = Progress(), Mark()
    mark.wrote(primary)
    primary.answer(primary.begin(0.0), 200)
    mark.lsn = needed(mark.asked, mark.lsn, primary)
    primary.answer(primary.begin(1.0), 150)
    assert needed(mark.asked, mark.lsn, primary) == 150


@given(st.lists(st.sampled_from(["write", "begin", "answer", "read"]), max_size=60))
def test_what_a_read_needs_is_never_before_the_write_that_it_follows(events):
    """The end of the WAL grows with every write, and an answer is what it was at some moment while it was asked."""
    primary, mark = Progress(), Mark()
    end, number, began_at, written_at = 100, 0, 0, 0
    for event in events:
        if event == "write":
            end += 10
            written_at = end
            mark.wrote(primary)
        elif event == "begin" and not number:
            number, began_at = primary.begin(0.0), end
        elif event == "answer" and number:
            primary.answer(number, began_at)  # the oldest that it can be
            number = 0
        elif event == "read" and mark.asked >= 0:
            mark.lsn = needed(mark.asked, mark.lsn, primary)
            assert mark.lsn == 0 or mark.lsn >= written_at


def test_a_server_is_asked_one_question_at_a_time_and_not_more_often_than_wanted():
    progress = Progress()
    assert progress.may_ask(10.0, 0.5)
    number = progress.begin(10.0)
    assert not progress.may_ask(20.0, 0.5)
    progress.answer(number, 1)
    assert not progress.may_ask(10.4, 0.5)
    assert progress.may_ask(10.5, 0.5)
    assert progress.due_at(0.5) == 10.5


def test_a_server_that_could_not_be_asked_is_left_alone_for_a_second():
    progress = Progress()
    progress.begin(10.0)
    progress.fail(12.0)
    assert progress.is_silent(12.9)
    assert not progress.may_ask(12.9, 0.0)
    assert progress.may_ask(13.0, 0.0)


def test_what_a_standby_said_before_it_may_have_been_restarted_does_not_count():
    standby = told(500)
    number = standby.begin(1.0)
    standby.forget()
    assert standby.lsn == 0
    standby.answer(number, 500)
    assert standby.lsn == 0
    standby.answer(standby.begin(2.0), 400)
    assert standby.lsn == 400


def test_nobody_waits_where_no_standby_may_serve_him():
    assert not may_hope(200, [], told(200), 0, 0.0)


def test_a_read_waits_for_standbys_that_are_a_little_behind():
    assert may_hope(200, [told(100)], told(200), 0, 0.0)
    assert may_hope(0, [told(100)], told(200), 0, 0.0)


def test_nobody_waits_for_servers_that_say_nothing():
    silent = told(100)
    silent.begin(0.0)
    silent.fail(0.0)
    assert not may_hope(200, [silent], told(200), 0, 0.5)
    assert may_hope(200, [silent, told(100)], told(200), 0, 0.5)
    assert not may_hope(0, [told(100)], silent, 0, 0.5)
    assert may_hope(50, [told(10)], silent, 0, 0.5), "what is known need not be asked"


def test_nobody_waits_until_what_was_waited_for_in_vain_has_come():
    assert not may_hope(300, [told(100), told(150)], told(300), 200, 0.0)
    assert not may_hope(0, [told(100)], told(300), 200, 0.0)
    assert may_hope(300, [told(100), told(200)], told(300), 200, 0.0)


def test_questions_follow_soon_at_first_and_then_less_often():
    assert pause(1) == 0.0005
    assert pause(1, 0.02) == pytest.approx(0.01)
    assert pause(1, 10.0) == 0.025


def test_many_reads_that_wait_share_questions():
    assert pause(4) == pause(1000) == 0.002


@pytest.mark.parametrize(
    ("insert", "end"),
    [
        (5 * SEGMENT + 40, 5 * SEGMENT),  # the first page of a segment, as after pg_switch_wal()
        (5 * SEGMENT + 3 * BLOCK + 24, 5 * SEGMENT + 3 * BLOCK),
        (5 * SEGMENT + 3 * BLOCK + 40, 5 * SEGMENT + 3 * BLOCK + 40),  # a record of which 16 bytes are on this page
        (5 * SEGMENT + 3 * BLOCK + 32, 5 * SEGMENT + 3 * BLOCK + 32),
        (5 * SEGMENT + 1000, 5 * SEGMENT + 1000),
    ],
)
def test_the_header_of_a_page_that_nobody_has_written_on_is_not_waited_for(insert, end):
    assert record_end(insert, BLOCK, SEGMENT) == end
    assert position(shown(insert), BLOCK, SEGMENT) == end
    assert position(shown(insert)) == insert


def test_positions_are_shown_as_the_server_shows_them():
    assert shown(0x16B3748) == "0/16B3748"
    assert shown(0x1A_00000028) == "1A/28"
    told_once, mark = told(0x28), Mark()
    mark.wrote(told_once)
    assert repr(told_once) == "<Progress lsn=0/28 asked=1>"
    assert repr(mark) == "<Mark asked=1 lsn=0/0>"
    assert NEVER > 1 << 63

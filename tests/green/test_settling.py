"""What happens while a backend is asked what its frontend has set: it dies, cannot tell, or its frontend leaves."""

from __future__ import annotations

import pytest

from lib.backend import settings, traces
from tests.green.fake_server import SYNTAX_ERROR, TERMINATED, FakeBackend
from tests.green.small_pool import wait_until
from tests.wire_samples import complete, description, query, row

SET = "set work_mem = '1MB'"
READ = "select 1"
BLOCK = "do $$ begin execute 'select 1'; end $$"
HELD = traces.ask_held()
ASKED = settings.ask_for(("work_mem",))


def stall(pool) -> None:
    """Have the backend wait when it is asked, and answer when it is told to go on."""
    pool.server.answers[ASKED] = lambda backend: (backend.pause(), backend.tell_settings(ASKED))


def asked(pool) -> FakeBackend:
    """A backend that is being asked, and waits."""
    wait_until(lambda: pool.server.backends and pool.server.backends[0].is_waiting, "the question")
    return pool.server.backends[0]


def test_a_worker_is_anybodys_again_when_it_has_said_what_was_set(pool):
    first, second = pool.connect(), pool.connect()
    assert first.query(SET).tags == "CZ"
    wait_until(lambda: pool.idle)
    assert dict(first.frontend.group.settings) == {"work_mem": "1MB"}
    assert pool.idle[0].group is first.frontend.group
    assert second.query(READ).rows == [READ]
    assert first.query(READ).rows == [READ]
    assert len(pool.server.backends) == 1


def test_a_text_is_asked_about_once_in_each_group(pool):
    for _ in range(3):
        client = pool.connect()
        client.query(SET)
        client.query(READ)
    assert pool.server.backends[0].own.count(ASKED) == 1


def test_what_comes_behind_a_set_waits_for_the_answer(pool):
    client = pool.connect()
    stall(pool)
    client.send(query(SET), query(READ))
    assert client.until_ready().tags == "CZ"
    backend = asked(pool)
    assert READ not in pool.server.statements
    backend.go_on()
    assert client.until_ready().rows == [READ]


def test_a_frontend_is_closed_when_the_backend_dies_that_knew_what_it_has_set(pool):
    client = pool.connect()
    stall(pool)
    client.query(SET)
    backend = asked(pool)
    backend.say(TERMINATED)
    backend.hang_up()
    assert client.until_end().errors == ["FATAL 57P01"]
    assert pool.connect().query(READ).rows == [READ]


def test_a_frontend_stays_when_the_backend_dies_that_might_have_known_something(pool):
    """It was ended for what a plain read could have set while the catalog was scanned."""
    client = pool.connect()
    pool.server.answers[HELD] = FakeBackend.pause
    client.send(query(BLOCK))
    assert client.until_ready().rows == [BLOCK]
    backend = asked(pool)
    backend.say(TERMINATED)
    backend.hang_up()
    assert client.query(READ).rows == [READ]
    assert len(pool.server.backends) == 2


@pytest.mark.parametrize(
    "answer",
    [SYNTAX_ERROR, description("name") + row("nonsense") + complete("SELECT 1"),
     description("name", "value") + row("work_mem", "nonsense") + complete("SELECT 1")],
    ids=["an error", "one column", "no hexadecimal"],
)  # fmt: skip
def test_a_frontend_keeps_a_worker_that_cannot_say_what_was_set(pool, answer):
    client, other = pool.connect(), pool.connect()
    pool.server.answers[ASKED] = answer
    client.query(SET)
    assert client.query(READ).rows == [READ]
    assert other.query(READ).rows == [READ]
    held = client.frontend.worker
    assert held is not None
    assert held.session
    assert len(pool.server.backends) == 2
    client.vanish()
    wait_until(lambda: held.holder is None and not held.session, "the worker to be cleaned")
    assert "DISCARD ALL" in pool.server.backends[0].own


def test_a_frontend_that_vanishes_meanwhile_gives_its_worker_back(pool):
    client = pool.connect()
    stall(pool)
    client.query(SET)
    backend = asked(pool)
    client.vanish()
    client.thread.join(30)
    backend.go_on()
    assert pool.connect().query(READ).rows == [READ]
    assert len(pool.server.backends) == 1
    assert "DISCARD ALL" not in backend.own


def test_a_cancel_meanwhile_hits_nobody(pool):
    client = pool.connect()
    stall(pool)
    client.query(SET)
    backend = asked(pool)
    client.frontend.cancel()
    backend.go_on()
    assert client.query(READ).rows == [READ]
    assert pool.server.cancelled == []


def test_what_was_told_in_a_transaction_that_is_lost_is_taken_back(pool):
    client = pool.connect(application_name="mine")
    client.query("begin")
    assert "S" in client.query("set application_name = 'other'").tags
    pool.server.backends[0].hang_up()
    wait_until(lambda: client.frontend.worker is None, "the loss")
    heard = client.query(READ)
    assert [each.body for each in heard if each.tag == "S"] == [b"application_name\0mine\0"]
    assert heard.errors == ["ERROR 08006"]
    assert client.query("rollback").status == "I"
    assert client.query(READ).rows == [READ]
    assert client.frontend.group is client.frontend.home


def test_a_reset_in_a_transaction_whose_backend_dies_while_it_is_restored_is_answered_once(pool):
    client = pool.connect(application_name="mine")
    client.query("begin")
    restore = client.frontend.home.restore(frozenset({"application_name"}))
    pool.server.answers[restore] = FakeBackend.hang_up
    heard = client.query("reset application_name")
    assert (heard.tags, heard.status) == ("CZ", "T")
    assert client.query(READ).errors == ["ERROR 08006"]
    assert client.query("rollback").status == "I"

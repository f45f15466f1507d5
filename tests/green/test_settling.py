"""What happens while a backend is asked what its frontend has set: it dies, cannot tell, or its frontend leaves."""

from __future__ import annotations

import gevent
import pytest

from lib.backend import settings, traces, tuning
from lib.patience import Doing, Limits, Seen
from lib.wire.framing import MAX_UNIT_BYTES
from tests.green.fake_server import SYNTAX_ERROR, TERMINATED, FakeBackend
from tests.green.small_pool import Client, wait_until
from tests.wire_samples import (
    FLUSH,
    FRONTEND,
    SYNC,
    bind,
    complaint,
    complete,
    description,
    execute,
    parse,
    query,
    row,
)

SET = "set work_mem = '1MB'"
READ = "select 1"
WRITE = "insert into t values (1)"
LONG = "insert into t values ('" + "x" * MAX_UNIT_BYTES + "')"
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


def arrives(client: Client, data: bytes) -> None:
    """Send `data`, and wait until the pool has looked at as much of it as it reads now."""
    stream = client.frontend.stream
    before = stream.received
    gevent.spawn(client.send, data)  # of a long one it does not take all at once
    least = before + min(len(data), 1000)
    wait_until(lambda: stream.received >= least, "what was sent to arrive")
    gevent.sleep(0.001)  # the thread has its turn


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


def settling(pool, client) -> FakeBackend:
    """The backend that is asked what `client` has set, which was told that it is ready."""
    stall(pool)
    client.query(SET)
    return asked(pool)


def test_a_cancel_meanwhile_hits_nobody_when_nothing_more_was_sent(pool):
    client = pool.connect()
    backend = settling(pool, client)
    client.frontend.cancel()
    backend.go_on()
    assert client.query(READ).rows == [READ]
    assert pool.server.cancelled == []


SENT = {
    "simple": query(WRITE),
    "extended": parse(WRITE) + bind() + execute() + SYNC,
    "named": parse(WRITE, "mine") + bind(name="mine") + execute() + SYNC,
    "function call": FRONTEND["FunctionCall"],
    "long": query(LONG),
    "long extended": parse(LONG) + bind() + execute() + SYNC,
    "flushed": parse(WRITE) + FLUSH + bind() + execute() + SYNC,
}


@pytest.mark.parametrize("cut", [None, 3, 20], ids=["whole", "3 bytes first", "20 bytes first"])
@pytest.mark.parametrize("way", SENT)
def test_a_cancel_meanwhile_hits_the_statement_that_waits_behind(pool, way, cut):
    """It was lost: the SET stood for its frontend though it was answered, and what came next ran for ever."""
    client, other = pool.connect(), pool.connect()
    backend = settling(pool, client)
    sent = SENT[way]
    arrives(client, sent[:cut])
    client.frontend.cancel()
    if cut is not None:
        client.send(sent[cut:])
    backend.go_on()
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 57014"], "I")
    assert client.query(READ).rows == [READ]
    assert other.query(READ).rows == [READ]
    assert pool.server.statements == [SET, READ, READ]
    assert pool.server.cancelled == []


def test_a_cancel_meanwhile_hits_the_next_statement_and_none_behind_it(pool):
    client = pool.connect()
    backend = settling(pool, client)
    arrives(client, query(WRITE) + query(READ))
    client.frontend.cancel()
    client.frontend.cancel()
    backend.go_on()
    assert client.until_ready().errors == ["ERROR 57014"]
    assert client.until_ready().rows == [READ]


def test_a_cancel_while_a_reset_is_restored_hits_the_next_statement_in_the_transaction(pool):
    """The server fails that transaction, so that its savepoints can still be gone back to."""
    client = pool.connect(application_name="mine")
    client.query("begin")
    restore = client.frontend.home.restore(frozenset({"application_name"}))
    pool.server.answers[restore] = lambda backend: (backend.pause(), backend.say(complete("SELECT 1")))
    client.send(query("reset application_name"), query(WRITE), query("rollback"))
    backend = asked(pool)
    wait_until(lambda: len(client.frontend.pending) == 2, "what is pipelined")
    client.frontend.cancel()
    pool.server.answers[tuning.FAIL] = complaint("ERROR", "3B001", "no such savepoint")
    backend.go_on()
    assert (client.until_ready().errors, client.until_ready().errors) == ([], ["ERROR 57014"])
    assert client.until_ready().raw.startswith(complete("ROLLBACK"))
    assert pool.server.statements[:3] == ["begin", "reset application_name", "rollback"]
    assert tuning.FAIL in backend.own
    assert pool.server.cancelled == []


def test_a_statement_that_is_canceled_before_its_turn_is_refused_once_when_the_backend_dies(pool):
    client = pool.connect(application_name="mine")
    client.query("begin")
    restore = client.frontend.home.restore(frozenset({"application_name"}))
    pool.server.answers[restore] = lambda backend: (backend.pause(), backend.say(complete("SELECT 1")))
    client.send(query("reset application_name"), query(WRITE), query("rollback"))
    backend = asked(pool)
    wait_until(lambda: len(client.frontend.pending) == 2, "what is pipelined")
    client.frontend.cancel()
    pool.server.answers = {tuning.FAIL: FakeBackend.hang_up}
    backend.go_on()
    assert client.until_ready().errors == []
    assert client.until_ready().errors == ["ERROR 08006"]
    assert client.until_ready().status == "I"
    assert client.query(READ).rows == [READ]


def test_what_is_asked_is_not_taken_for_the_statement_that_was_set(start):
    """query_timeout saw the time that the question took as the statement's, and canceled what came behind it."""
    pool = start(max_workers=0, worker_per_fe_cnt=1000)
    client = pool.connect()
    backend = settling(pool, client)
    limits = Limits(running_s=10.0, in_transaction_s=10.0, slow_s=1.0)
    seen = Seen()
    assert client.frontend.doing() == (Doing.IDLE, None)
    client.send(query(READ))
    wait_until(lambda: client.frontend.pending, "the next one")
    for now in (0.0, 11.0, 22.0):
        doing, mark = client.frontend.doing()
        assert doing is Doing.WAITING
        assert not seen.slow_s(doing, mark, now, limits)
        assert seen.look(doing, mark, now, limits) is None
    client.frontend.cancel_late(10.0)
    backend.go_on()
    assert client.until_ready().rows == [READ]


def test_a_frontend_that_waits_for_what_it_has_reset_is_not_idle_in_its_transaction(pool):
    client = pool.connect(application_name="mine")
    client.query("begin")
    restore = client.frontend.home.restore(frozenset({"application_name"}))
    pool.server.answers[restore] = lambda backend: (backend.pause(), backend.say(complete("SELECT 1")))
    client.send(query("reset application_name"))
    backend = asked(pool)
    assert client.frontend.doing()[0] is Doing.WAITING
    backend.go_on()
    client.until_ready()
    assert client.frontend.doing()[0] is Doing.IN_TRANSACTION


def test_a_frontend_whose_backend_is_asked_is_told_at_once_that_the_pool_stops(pool):
    client = pool.connect()
    backend = settling(pool, client)
    client.frontend.stop()
    assert client.until_end().errors == ["FATAL 57P01"]
    backend.go_on()
    assert pool.connect().query(READ).rows == [READ]


def test_what_a_frontend_has_sent_before_the_pool_stops_runs_first(pool):
    client = pool.connect()
    backend = settling(pool, client)
    client.send(query(READ))
    wait_until(lambda: client.frontend.pending, "the next one")
    client.frontend.stop()
    backend.go_on()
    assert client.until_ready().rows == [READ]
    assert client.until_end().errors == ["FATAL 57P01"]


def test_a_mere_doubt_stays_one_when_it_is_looked_into_after_a_cancel(pool):
    """A frontend was ended with the backend that was asked what it might have left, if that had had to wait."""
    client = pool.connect()
    pool.server.answers[BLOCK] = lambda backend: (backend.pause(), backend.say(complete("DO")))
    pool.server.answers[HELD] = FakeBackend.pause
    pool.server.may_close.clear()
    client.send(query(BLOCK))
    backend = asked(pool)
    client.frontend.cancel()
    wait_until(lambda: pool.server.cancelled, "the cancel")
    backend.go_on()
    client.until_ready()
    pool.server.may_close.set()
    asked(pool)
    backend.say(TERMINATED)
    backend.hang_up()
    assert client.query(READ).rows == [READ]
    assert len(pool.server.backends) == 2


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

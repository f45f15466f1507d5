"""A cancel request hits the statement of its own frontend, or nothing."""

from __future__ import annotations

import gevent
import pytest

from lib.backend import halting, tuning
from lib.wire.framing import MAX_UNIT_BYTES
from tests.green.fake_server import SYNTAX_ERROR
from tests.green.small_pool import begun, lose, tuned, wait_until
from tests.wire_samples import FLUSH, SYNC, bind, complaint, complete, execute, parse, query

READ = "select 1"
WRITE = "insert into t values (1)"
CANCELED = complaint("ERROR", "57014", "canceling statement due to user request")


def test_a_running_statement_is_cancelled_with_its_own_backends_key(pool):
    client = pool.connect()
    pool.server.answers[READ] = lambda backend: (backend.pause(), backend.say(CANCELED))
    client.send(query(READ))
    backend = begun(pool, READ)
    client.frontend.cancel()
    wait_until(lambda: pool.server.cancelled)
    backend.go_on()
    assert client.until_ready().errors == ["ERROR 57014"]
    assert pool.server.cancelled == [(backend.pid, backend.secret)]
    assert client.query(WRITE).rows == [WRITE]


def test_a_queued_statement_is_answered_by_the_pool_and_never_runs(pool):
    first, second = pool.connect(), pool.connect()
    pool.server.stall(READ)
    first.send(query(READ))
    backend = begun(pool, READ)
    second.send(query(WRITE))
    wait_until(lambda: second.frontend.unit is not None)
    second.frontend.cancel()
    answer = second.until_ready()
    assert (answer.tags, answer.errors, answer.status) == ("EZ", ["ERROR 57014"], "I")
    assert pool.server.cancelled == []
    backend.go_on()
    assert first.until_ready().rows == [READ]
    assert second.query("select 2").rows == ["select 2"]
    assert WRITE not in pool.server.statements


@pytest.mark.parametrize("how", ["it is tuned", "tuning fails", "the backend dies"])
def test_a_statement_that_is_cancelled_while_its_worker_is_tuned_is_answered_once(pool, how):
    client = pool.connect(application_name="mine")
    endings = {
        "it is tuned": lambda backend: (backend.pause(), backend.say(complete("SELECT 1"))),
        "tuning fails": lambda backend: (backend.pause(), backend.say(SYNTAX_ERROR)),
        "the backend dies": lambda backend: (backend.pause(), backend.hang_up()),
    }
    pool.server.answers[tuned(client.frontend.group)] = endings[how]
    client.send(query(WRITE))
    wait_until(lambda: pool.server.backends and pool.server.backends[0].is_waiting)
    client.frontend.cancel()
    assert client.until_ready().errors == ["ERROR 57014"]
    del pool.server.answers[tuned(client.frontend.group)]
    pool.server.backends[0].go_on()
    assert client.hears_nothing()
    assert client.query(READ).rows == [READ]
    assert pool.server.statements == [READ]


def under_way(pool, client, *texts):
    """Cancel the first of `texts`, which stalls, with a request that does not end. Returns its backend."""
    pool.server.stall(texts[0])
    pool.server.may_close.clear()
    client.send(*map(query, texts))
    backend = begun(pool, texts[0])
    client.frontend.cancel()
    wait_until(lambda: pool.server.cancelled)
    return backend


def test_nothing_is_sent_to_a_backend_while_a_cancel_may_be_on_its_way(pool):
    """PostgreSQL 16 and older signal twice: the statement behind the one that was meant was hit in 94 of 100."""
    first, second = pool.connect(), pool.connect()
    under_way(pool, first, READ, "select 2").go_on()
    assert first.until_ready().rows == [READ]
    second.send(query(WRITE))
    gevent.sleep(0.02)
    assert pool.server.statements == [READ]
    pool.server.may_close.set()
    assert first.until_ready().rows == ["select 2"]
    assert second.until_ready().rows == [WRITE]


@pytest.mark.parametrize("before", ["begin", "listen channel"])
def test_nor_is_what_the_pool_sends_itself(pool, before):
    client = pool.connect()
    client.query(before)
    backend = under_way(pool, client, WRITE)
    client.vanish()
    client.thread.join(30)
    backend.go_on()
    gevent.sleep(0.02)
    assert backend.own == []
    pool.server.may_close.set()
    assert pool.connect().query(READ).rows == [READ]


def test_a_cancel_that_nobody_knows_the_end_of_costs_the_backend(pool, monkeypatch):
    monkeypatch.setattr(halting, "_CANCEL_TIMEOUT_S", 0.05)
    client = pool.connect()
    backend = under_way(pool, client, READ)
    backend.go_on()
    assert client.until_ready().rows == [READ]
    wait_until(lambda: backend.is_gone or not pool.workers, "the end of the backend")
    assert client.query(WRITE).rows == [WRITE]


def test_a_cancel_while_nothing_runs_is_ignored(pool):
    client = pool.connect()
    client.frontend.cancel()
    client.query("begin")
    client.frontend.cancel()
    lose(client)
    client.frontend.cancel()
    assert client.hears_nothing()
    assert pool.server.cancelled == []
    assert client.query("rollback").status == "E"


LONG = "insert into t values ('" + "x" * 2 * MAX_UNIT_BYTES + "')"
STREAMED = {
    "simple": query(LONG),
    "extended": parse(LONG) + bind() + execute() + SYNC,
    "flushed": parse(LONG) + bind() + execute() + FLUSH,
}


@pytest.mark.parametrize("there", [MAX_UNIT_BYTES, 2 * MAX_UNIT_BYTES], ids=["half", "nearly all"])
@pytest.mark.parametrize("way", STREAMED)
def test_a_cancel_that_is_quicker_than_a_long_statement_hits_it_all_the_same(pool, way, there):
    """A server that still reads it has nothing to cancel, and the request was lost. In the extended protocol it may be
    running what came before, so there is one at once, too."""
    client = pool.connect()
    pool.server.answers[LONG] = lambda backend: (backend.pause(), backend.say(CANCELED))
    sent = STREAMED[way]
    client.send(sent[:there])
    wait_until(lambda: client.frontend.unit is not None and client.frontend.unit.cut, "some of it to be passed on")
    client.frontend.cancel()
    at_once = 0 if way == "simple" else 1
    wait_until(lambda: len(pool.server.cancelled) == at_once, "the cancel of what came before")
    client.send(sent[there:])
    backend = begun(pool, LONG)
    wait_until(lambda: len(pool.server.cancelled) == at_once + 1, "the cancel")
    backend.go_on()
    if way == "flushed":
        client.send(SYNC)
    assert client.until_ready().errors == ["ERROR 57014"]
    assert client.query(READ).rows == [READ]
    assert pool.server.cancelled == [(backend.pid, backend.secret)] * (at_once + 1)


@pytest.mark.parametrize("before", [(), ("listen channel",)], ids=["shared", "held"])
def test_a_statement_that_waits_for_a_doubted_primary_is_canceled_at_once(pool, before):
    """That of a session which held LISTEN, in a transaction, was answered when the primary was held no more."""
    client = pool.connect()
    for text in (*before, "begin"):
        client.query(text)
    pool.server.answers[tuning.FAIL] = complaint("ERROR", "3B001", "no such savepoint")
    held = pool.cluster.primary
    held.hold()
    client.send(query(WRITE), query(READ), query("rollback"))
    wait_until(lambda: len(client.frontend.pending) == 2, "it to arrive")
    client.frontend.cancel()
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 57014"], "E")
    held.release()
    assert client.until_ready().errors == ["ERROR 25P02"]
    assert client.until_ready().raw.startswith(complete("ROLLBACK"))
    assert client.query(WRITE).rows == [WRITE]
    assert pool.server.statements.count(WRITE) == 1


def test_a_frontend_that_leaves_meanwhile_leaves_nothing_behind(pool):
    client = pool.connect()
    client.query("listen channel")
    client.query("begin")
    held = pool.cluster.primary
    held.hold()
    client.send(query(WRITE))
    wait_until(lambda: client.frontend.unit is not None, "it to arrive")
    client.frontend.cancel()
    assert client.until_ready().status == "E"
    client.vanish()
    client.thread.join(30)
    held.release()
    assert pool.connect().query(READ).rows == [READ]


@pytest.mark.parametrize("before", [(), ("begin",), ("listen channel", "begin")], ids=["shared", "begun", "held"])
@pytest.mark.parametrize("behind", [WRITE, LONG], ids=["short", "long"])
def test_a_cancel_that_comes_too_late_for_a_statement_hits_the_one_that_was_pipelined_behind_it(pool, before, behind):
    """A server is done with the first one before the request comes; through the pool that took longer, and the request,
    not needed any more, was dropped: in 4 of 10 the one behind ran for ever."""
    client = pool.connect()
    for text in before:
        client.query(text)
    pool.server.answers[tuning.FAIL] = complaint("ERROR", "3B001", "no such savepoint")
    pool.server.stall(READ)
    sender = gevent.spawn(client.send, query(READ), query(behind), query("select 2"))
    backend = begun(pool, READ)
    wait_until(lambda: client.frontend.pending or client.frontend.streaming.waits, "what is pipelined")
    backend.go_on()
    client.frontend.cancel()  # the connection for it takes longer than the answer
    assert client.until_ready().rows == [READ]
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 57014"], "E" if before else "I")
    last = client.until_ready()
    assert (last.errors, last.rows) == ((["ERROR 25P02"], []) if before else ([], ["select 2"]))
    sender.get()
    assert behind not in pool.server.statements
    assert pool.server.cancelled == []


def test_a_cancel_that_comes_too_late_hits_nothing_that_was_sent_later(pool):
    client = pool.connect()
    pool.server.stall(READ)
    client.send(query(READ))
    backend = begun(pool, READ)
    backend.go_on()
    client.frontend.cancel()
    assert client.until_ready().rows == [READ]
    assert client.query(WRITE).rows == [WRITE]
    assert pool.server.cancelled == []


def test_a_statement_that_ends_when_query_timeout_is_over_has_none_behind_it_canceled(pool):
    client = pool.connect()
    pool.server.stall(READ)
    client.send(query(READ), query(WRITE))
    backend = begun(pool, READ)
    wait_until(lambda: client.frontend.pending, "what is pipelined")
    backend.go_on()
    client.frontend.cancel_late(1.0)
    assert client.until_ready().rows == [READ]
    assert client.until_ready().rows == [WRITE]
    assert pool.server.cancelled == []

"""What a frontend is told of a backend that is gone, and what becomes of its transaction (rules 2 and 3)."""

from __future__ import annotations

import gevent
import pytest

from lib.wire.framing import MAX_UNIT_BYTES
from tests.green.fake_server import SYNTAX_ERROR, TERMINATED, FakeBackend
from tests.green.small_pool import in_transaction, lose, wait_until
from tests.wire_samples import (
    COPY_DONE,
    FLUSH,
    SYNC,
    bind,
    built,
    close,
    complete,
    copy_data,
    describe,
    execute,
    parse,
    query,
)

READ = "select 1"
WRITE = "insert into t values (1)"
COPY = "copy t from stdin"
RUN = bind() + describe() + execute()
BIG = "select '" + "x" * (MAX_UNIT_BYTES + 10_000) + "'"


def test_an_idle_frontend_does_not_notice(pool):
    client = pool.connect()
    client.query(READ)
    pool.server.backends[0].hang_up()
    assert client.query(READ).tags == "TDCZ"


def test_a_read_is_run_again_when_a_crash_takes_its_next_backend_too(pool):
    """That one was started when the server had not noticed yet that another one of its processes had crashed."""
    client = pool.connect()
    crashed = []

    def crash(backend: FakeBackend) -> None:
        crashed.append(backend)
        if len(crashed) == 2:
            pool.server.answers.clear()
        backend.die()

    pool.server.answers[READ] = crash
    assert client.query(READ).rows == [READ]
    assert len(crashed) == 2


def test_the_rest_of_a_lost_transaction_does_not_run_as_statements_of_their_own(pool):
    client = pool.connect()
    pool.server.answers[WRITE] = lambda backend: backend.hang_up()
    later = "insert into t values (2)"
    client.send(*map(query, ("begin", WRITE, later, "select 2", "commit", READ)))
    answers = [client.until_ready() for _ in range(6)]
    assert [answer.errors for answer in answers] == [[], ["ERROR 08006"], ["ERROR 25P02"], ["ERROR 25P02"], [], []]
    assert [answer.status for answer in answers] == ["T", "E", "E", "E", "I", "I"]
    assert answers[4].raw.startswith(complete("ROLLBACK"))
    assert answers[5].rows == [READ]
    assert pool.server.statements == ["begin", WRITE, READ]


def test_a_transaction_that_is_lost_while_idle_is_told_with_its_next_statement(pool):
    client = in_transaction(pool)
    lose(client)
    assert client.hears_nothing()
    answer = client.query(WRITE)
    assert (answer.errors, answer.status) == (["ERROR 08006"], "E")
    assert client.query(WRITE).errors == ["ERROR 25P02"]
    assert client.query("rollback").raw.startswith(complete("ROLLBACK"))
    assert client.query(READ).rows == [READ]
    assert pool.server.statements == ["begin", READ]


def test_a_commit_of_a_lost_transaction_does_not_say_commit(pool):
    client = in_transaction(pool)
    lose(client)
    answer = client.query("commit")
    assert answer.errors == ["ERROR 08006"]
    assert client.query("commit").raw.startswith(complete("ROLLBACK"))
    assert "commit" not in pool.server.statements


def test_a_commit_in_flight_is_unknown_and_ends_the_transaction(pool):
    client = in_transaction(pool)
    pool.server.answers["commit"] = FakeBackend.hang_up
    answer = client.query("commit")
    assert (answer.errors, answer.status) == (["ERROR 08007"], "I")
    assert client.query(READ).rows == [READ]
    assert pool.server.statements == ["begin", "commit", READ]


def test_a_lost_transaction_is_ended_in_the_extended_protocol_message_by_message(pool):
    client = in_transaction(pool)
    lose(client)
    client.send(parse(WRITE), RUN, SYNC)
    assert client.until_ready().tags == "EZ"
    client.send(parse("rollback"), describe("S"), bind(), describe(), execute(), close(), SYNC)
    answer = client.until_ready()
    assert (answer.tags, answer.status) == ("1tn2nC3Z", "I")
    assert complete("ROLLBACK") in answer.raw


def test_a_lost_transaction_swallows_what_is_streamed_up_to_its_sync(pool):
    client = in_transaction(pool)
    lose(client)
    client.send(parse(WRITE), FLUSH)
    assert client.until("E").errors == ["ERROR 08006"]
    client.send(RUN, FLUSH, query(WRITE), SYNC)
    answer = client.until_ready()
    assert (answer.tags, answer.status) == ("Z", "E")
    client.send(query(BIG))
    assert client.until_ready().errors == ["ERROR 25P02"]
    client.query("rollback")
    assert client.query(READ).rows == [READ]
    assert pool.server.statements == ["begin", READ]


def test_a_lost_transaction_that_a_slow_client_goes_on_with_costs_no_memory(start):
    pool = start(max_workers=0, worker_per_fe_cnt=1000, client_buffer=50_000)
    client = in_transaction(pool)
    lose(client)
    count, statement = 5_000, f"select '{'x' * 200}'"
    sender = gevent.spawn(client.send, query(statement) * count)
    gevent.sleep(0.1)
    assert client.frontend.stream.pending < 10 * 50_000
    errors = [error for _ in range(count) for error in client.until_ready().errors]
    assert errors == ["ERROR 08006"] + ["ERROR 25P02"] * (count - 1)
    sender.get(timeout=30)


@pytest.mark.parametrize("statement", ["listen channel", "create temp table t (i int)"])
def test_a_frontend_with_state_in_its_session_is_closed_when_the_state_is_gone(pool, statement):
    client = pool.connect()
    client.query(statement)
    backend = pool.server.backends[0]
    backend.say(TERMINATED)
    backend.hang_up()
    answer = client.until_end()
    assert answer.raw == TERMINATED  # in the server's own words: drivers look at those
    assert pool.connect().query(READ).rows == [READ]


def test_a_frontend_with_state_in_its_session_is_told_that_its_statement_is_unknown(pool):
    client = pool.connect()
    client.query("listen channel")
    pool.server.answers[WRITE] = FakeBackend.hang_up
    client.send(query(WRITE))
    answer = client.until_end()
    assert answer.errors == ["FATAL 57P01"]
    assert "not known" in answer[0].fields["D"]
    assert pool.server.statements == ["listen channel", WRITE]


def test_a_copy_that_is_lost_is_unknown_and_the_rest_of_it_goes_nowhere(pool):
    client = pool.connect()
    client.send(query(COPY))
    client.until("G")
    client.send(copy_data(b"1\n"))
    backend = pool.server.backends[0]
    wait_until(lambda: backend.copied)
    backend.hang_up()
    assert client.until_ready().errors == ["ERROR 08007"]
    client.send(copy_data(b"2\n"), COPY_DONE)
    assert client.query(READ).rows == [READ]
    assert pool.server.backends[-1].received == "Q"


def test_an_extended_copy_that_is_lost_is_answered_with_its_sync(pool):
    client = pool.connect()
    client.send(parse(COPY), RUN, SYNC)
    client.until("G")
    pool.server.backends[0].hang_up()
    assert client.until("E").errors == ["ERROR 08007"]
    client.send(copy_data(b"2\n"), COPY_DONE, SYNC)
    assert client.until_ready().tags == "Z"
    assert client.query(READ).rows == [READ]


def test_a_copy_that_the_server_fails_in_the_middle_of_a_message_ends_its_worker(pool):
    """The backend would take what comes next for the rest of the CopyData."""
    client = pool.connect()
    client.send(query(COPY))
    client.until("G")
    long = copy_data(b"x" * 200_000)
    client.send(long[:100_000])
    backend = pool.server.backends[0]
    gevent.sleep(0.01)
    backend.say(SYNTAX_ERROR, built("Z", b"I"))
    assert client.until_ready().errors == ["ERROR 42601"]
    client.send(long[100_000:], COPY_DONE)
    assert client.query(READ).rows == [READ]
    assert len(pool.server.backends) == 2

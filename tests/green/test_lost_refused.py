"""A backend that dies between saying that a statement has failed and being ready again: its frontend is told the one,
and never waits for the other, nor hears something else of the same statement."""

from __future__ import annotations

import pytest

from lib.backend import tuning
from lib.wire.framing import MAX_UNIT_BYTES
from tests.green.fake_server import SYNTAX_ERROR, TERMINATED, Answer, FakeBackend
from tests.green.small_pool import Client, SmallPool, begun, in_transaction, tuned, wait_until
from tests.wire_samples import FLUSH, SYNC, bind, complaint, complete, copy_data, describe, execute, parse, query

READ = "select 1"
WRITE = "insert into t values (1)"
COPY = "copy t from stdin"
RUN = bind() + describe() + execute()
DIVISION = complaint("ERROR", "22012", "division by zero")
BIG = "select '" + "x" * (MAX_UNIT_BYTES + 10_000) + "'"
SAID = pytest.mark.parametrize("goodbye", [b"", TERMINATED], ids=["without_a_word", "with_a_goodbye"])


def refuse_and_die(pool: SmallPool, statement: str, *more: bytes) -> None:
    pool.server.answers[statement] = lambda backend: backend.die(DIVISION, *more)


def goes_on(client: Client) -> bool:
    return client.query("select 'still here'").rows == ["select 'still here'"] and client.hears_nothing()


@SAID
@pytest.mark.parametrize("unit", [query(WRITE), parse(WRITE) + RUN + SYNC], ids=["simple", "extended"])
def test_a_write_that_has_failed_is_not_unknown_as_well(pool, unit, goodbye):
    """It was told 22012, and then 08007: it is not known whether it took effect."""
    client = pool.connect()
    refuse_and_die(pool, WRITE, goodbye)
    client.send(unit)
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 22012"], "I")
    assert goes_on(client)
    assert pool.server.statements.count(WRITE) == 1


@SAID
@pytest.mark.parametrize("unit", [query(READ), parse(READ) + RUN + SYNC], ids=["simple", "extended"])
def test_a_read_that_has_failed_does_not_run_again(pool, unit, goodbye):
    client = pool.connect()
    refuse_and_die(pool, READ, goodbye)
    client.send(unit)
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 22012"], "I")
    assert goes_on(client)
    assert pool.server.statements.count(READ) == 1


@SAID
@pytest.mark.parametrize("unit", [query(WRITE), parse(WRITE) + RUN + SYNC], ids=["simple", "extended"])
def test_the_rest_of_a_transaction_in_which_it_has_failed_does_not_run(pool, unit, goodbye):
    client = in_transaction(pool)
    refuse_and_die(pool, WRITE, goodbye)
    client.send(unit, query(READ), query("commit"))
    answers = [client.until_ready() for _ in range(3)]
    assert [answer.errors for answer in answers] == [["ERROR 22012"], ["ERROR 25P02"], []]
    assert [answer.status for answer in answers] == ["E", "E", "I"]
    assert answers[2].raw.startswith(complete("ROLLBACK"))
    assert goes_on(client)
    assert READ not in pool.server.statements


def test_a_commit_that_has_failed_leaves_a_transaction_to_be_ended(pool):
    """Nobody knows any more whether it has ended: what is sent behind it must not run outside of it."""
    client = in_transaction(pool)
    refuse_and_die(pool, "commit")
    client.send(query("commit"), query(WRITE), query("rollback"))
    answers = [client.until_ready() for _ in range(3)]
    assert [answer.errors for answer in answers] == [["ERROR 22012"], ["ERROR 25P02"], []]
    assert [answer.status for answer in answers] == ["E", "E", "I"]
    assert goes_on(client)
    assert WRITE not in pool.server.statements


def test_a_text_that_begins_a_transaction_and_fails_leaves_one_to_be_ended(pool):
    client = pool.connect()
    text = "begin; select 1 / 0"
    refuse_and_die(pool, text)
    client.send(query(text), query(WRITE), query("rollback"))
    answers = [client.until_ready() for _ in range(3)]
    assert [answer.errors for answer in answers] == [["ERROR 22012"], ["ERROR 25P02"], []]
    assert goes_on(client)
    assert WRITE not in pool.server.statements


def test_what_a_statement_has_answered_before_it_failed_is_there(pool):
    client = pool.connect()
    refuse_and_die(pool, WRITE)
    client.send(parse(READ), RUN, parse(WRITE), RUN, SYNC)
    answer = client.until_ready()
    assert (answer.rows, answer.errors, answer.status) == ([READ], ["ERROR 22012"], "I")
    assert goes_on(client)


def test_a_streamed_unit_that_has_failed_is_ready_at_its_sync(pool):
    client = pool.connect()
    refuse_and_die(pool, WRITE)
    client.send(parse(WRITE), RUN, FLUSH)
    assert client.until("E").errors == ["ERROR 22012"]
    wait_until(lambda: client.frontend.unit is None, "the loss")
    client.send(parse(READ), RUN, FLUSH, SYNC)
    answer = client.until_ready()
    assert (answer.tags, answer.status) == ("Z", "I")
    assert goes_on(client)


def test_a_streamed_unit_that_has_failed_is_ready_when_its_sync_was_sent_before(pool):
    client = pool.connect()
    pool.server.answers[WRITE] = FakeBackend.pause
    client.send(parse(WRITE), RUN, FLUSH, SYNC)
    backend = begun(pool, WRITE)
    backend.say(DIVISION)
    assert client.until("E").errors == ["ERROR 22012"]
    backend.hang_up()
    answer = client.until_ready()
    assert (answer.tags, answer.status) == ("Z", "I")
    assert goes_on(client)


def test_a_query_inside_an_unsynced_unit_is_ready_before_the_sync(pool):
    """Nobody sends the Sync before, so both sides waited for each other."""
    client = pool.connect()
    refuse_and_die(pool, WRITE)
    client.send(parse(READ), FLUSH, query(WRITE))
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 22012"], "I")
    client.send(SYNC)
    assert client.until_ready().tags == "Z"
    assert goes_on(client)


def test_a_query_inside_an_unsynced_unit_that_is_lost_is_ready_before_the_sync(pool):
    client = pool.connect()
    pool.server.answers[WRITE] = FakeBackend.die
    client.send(parse(READ), FLUSH, query(WRITE))
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 08007"], "I")
    client.send(SYNC)
    assert client.until_ready().tags == "Z"
    assert goes_on(client)


def test_a_query_behind_one_that_has_failed_in_the_same_unit_is_unknown(pool):
    client = pool.connect()
    pool.server.answers["select 1 / 0"] = DIVISION
    pool.server.answers[WRITE] = FakeBackend.die
    client.send(parse(READ), FLUSH, query("select 1 / 0"), query(WRITE), SYNC)
    assert [client.until_ready().errors for _ in range(3)] == [["ERROR 22012"], ["ERROR 08007"], []]
    assert goes_on(client)


def test_a_long_statement_that_has_failed_is_ready(pool):
    client = pool.connect()
    refuse_and_die(pool, BIG)
    answer = client.query(BIG)
    assert (answer.errors, answer.status) == (["ERROR 22012"], "I")
    assert goes_on(client)


def test_a_copy_that_has_failed_is_ready_and_the_rest_of_it_goes_nowhere(pool):
    client = pool.connect()
    client.send(query(COPY))
    client.until("G")
    client.send(copy_data(b"1\n"))
    backend = pool.server.backends[0]
    wait_until(lambda: backend.copied)
    backend.say(SYNTAX_ERROR)
    backend.hang_up()
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 42601"], "I")
    client.send(copy_data(b"2\n"))
    assert goes_on(client)


def test_a_frontend_with_state_in_its_session_is_closed_behind_what_has_failed(pool):
    client = pool.connect()
    client.query("listen channel")
    refuse_and_die(pool, WRITE, TERMINATED)
    client.send(query(WRITE))
    assert client.until_end().errors == ["ERROR 22012", "FATAL 57P01"]


# --- refused where the pool has asked by itself ----------------------------------------------------------------------


def prepared(pool: SmallPool) -> Client:
    """A frontend that was told what its statement s is, and whose backends do not have it."""
    client = pool.connect()
    client.send(parse(READ, "s"), describe("S", "s"), SYNC)
    assert client.until_ready().errors == []
    lost = pool.workers[:]
    for backend in pool.server.backends:
        backend.hang_up()
    wait_until(lambda: not set(lost) & set(pool.workers), "the loss")
    return client


def refuses_and_dies_once(answers: dict[str, Answer], statement: str) -> None:
    """And then refuses it as any server would."""

    def act(backend: FakeBackend) -> None:
        answers[statement] = DIVISION
        backend.die(DIVISION)

    answers[statement] = act


def test_a_statement_is_answered_whose_parse_was_refused_by_a_backend_that_died_then(pool):
    """The pool had it parsed to see what it is. It took the refusal for the end of that, and told nobody: the frontend
    waited for ever."""
    client = prepared(pool)
    refuses_and_dies_once(pool.server.parses, READ)
    client.send(bind(name="s"), execute(), SYNC)
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 22012"], "I")
    pool.server.parses.clear()
    assert goes_on(client)


def test_the_same_in_a_transaction_loses_that(pool):
    client = prepared(pool)
    client.query("begin")
    refuses_and_dies_once(pool.server.parses, READ)
    client.send(bind(name="s"), execute(), SYNC)
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 08006"], "E")
    assert client.query("rollback").raw.startswith(complete("ROLLBACK"))
    assert goes_on(client)


def test_a_transaction_is_lost_when_the_backend_dies_that_was_to_fail_it(pool):
    """A statement is not what its frontend was told: the pool has the transaction fail as the server would have, and
    was told of the loss of that as of something that nobody waits for."""
    client = prepared(pool)
    client.query("begin")
    pool.server.answers[tuning.FAIL] = lambda backend: backend.die(DIVISION)
    (worker,) = pool.workers
    told = client.frontend.prepared._find(b"s")
    told.told += b"and one more column"
    client.send(bind(name="s"), execute(), SYNC)
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 08006"], "E")
    assert client.query("rollback").raw.startswith(complete("ROLLBACK"))
    assert worker not in pool.workers
    told.told = b""
    assert goes_on(client)


def test_a_statement_is_answered_whose_settings_were_refused_by_a_backend_that_died_then(pool):
    client = pool.connect(work_mem="much")
    refuses_and_dies_once(pool.server.answers, tuned(client.frontend.group))
    answer = client.query(READ)
    assert (answer.errors, answer.status) == (["ERROR 22012"], "I")
    pool.server.answers.clear()
    assert goes_on(client)

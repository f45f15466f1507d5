"""The frontends' side of the rules of design section 3: what a client may do, and what it is told."""

from __future__ import annotations

import struct
import time

import gevent
import pytest
from gevent import socket as green

from lib.errors import ShuttingDown
from lib.frontend import MAX_PENDING
from lib.wire.framing import MAX_UNIT_BYTES
from tests.green.fake_server import SYNTAX_ERROR, FakeServer
from tests.green.small_pool import Answer, Client, begun, in_transaction, wait_until
from tests.wire_samples import (
    COPY_DONE,
    FLUSH,
    FRONTEND,
    SYNC,
    TERMINATE,
    bind,
    built,
    close,
    complete,
    copy_data,
    describe,
    execute,
    i32,
    parse,
    query,
    row,
    text,
)

READ = "select 1"
WRITE = "insert into t values (1)"
COPY = "copy t from stdin"
FAIL = "select fail"
RUN = bind() + describe() + execute()
BIG = "select '" + "x" * (MAX_UNIT_BYTES + 10_000) + "'"


# --- 7. whatever the protocol allows is answered as a server answers it ----------------------------------------------

# What is sent, and up to which message is then read.
SEQUENCES: dict[str, list[bytes | str]] = {
    "a query": [query(READ), "Z"],
    "an empty query": [query(""), "Z"],
    "a query that fails": [query(FAIL), "Z"],
    "queries in a pipeline": [query("select 1") + query("select 2") + query(FAIL) + query("select 3"), "ZZZZ"],
    "a sync alone": [SYNC, "Z"],
    "a statement": [parse(READ) + RUN + SYNC, "Z"],
    "a statement that is described": [parse(READ) + describe("S") + SYNC, "Z", RUN + SYNC, "Z"],
    "statements in one unit": [parse(READ) + RUN + parse(WRITE) + RUN + close() + SYNC, "Z"],
    "units in a pipeline": [(parse(READ) + RUN + SYNC) * 3, "ZZZ"],
    "an error in a unit": [parse(READ) + RUN + parse(FAIL) + RUN + parse(WRITE) + RUN + SYNC, "Z"],
    "an error in a pipeline": [parse(FAIL) + RUN + SYNC + parse(READ) + RUN + SYNC, "ZZ"],
    "a statement of an earlier unit": [parse(READ) + SYNC, "Z", RUN + SYNC, "Z", RUN + SYNC, "Z"],
    "a statement that a query has destroyed": [parse(READ) + SYNC, "Z", query(WRITE), "Z"],
    "a named statement": [parse(READ, "s") + SYNC, "Z", bind(name="s") + execute() + SYNC, "Z", close(name="s") + SYNC,
                          "Z", bind(name="s") + execute() + SYNC, "Z"],
    "flushes": [parse(READ) + FLUSH, "1", bind() + FLUSH, "2", execute() + FLUSH, "C", SYNC, "Z"],
    "a flush with nothing before it": [FLUSH + query(READ), "Z", FLUSH, query(READ), "Z"],
    "an error behind a flush": [parse(FAIL) + FLUSH, "1", RUN + FLUSH, "E", RUN + parse(READ) + SYNC, "Z"],
    "a query in an unsynced unit": [parse(READ) + RUN + query(WRITE) + SYNC, "ZZ"],
    "a query in an unsynced unit that is not synced": [parse(READ) + RUN + query(WRITE), "Z"],
    "a query in an unsynced unit that has failed": [parse(FAIL) + RUN + query(WRITE) + SYNC, "Z"],
    "a function call": [FRONTEND["FunctionCall"], "Z"],
    "a function call in an unsynced unit": [parse(READ) + FRONTEND["FunctionCall"] + SYNC, "ZZ"],
    "a copy": [query(COPY), "G", copy_data(b"1\n"), copy_data(b"2\n") + COPY_DONE, "Z"],
    "a copy in one piece": [query(COPY) + copy_data(b"1\n") * 3 + COPY_DONE + query(READ), "ZZ"],
    "a copy that eats syncs": [query(COPY), "G", SYNC + copy_data(b"1\n") + FLUSH + SYNC + COPY_DONE, "Z"],
    "a copy that the client fails": [query(COPY), "G", copy_data(b"1\n") + FRONTEND["CopyFail"], "Z"],
    "an extended copy": [parse(COPY) + RUN + SYNC, "G", copy_data(b"1\n") + COPY_DONE + SYNC, "Z"],
    "an extended copy in one piece": [parse(COPY) + RUN + copy_data(b"1\n") + COPY_DONE + SYNC, "Z"],
    "an extended copy with two syncs in one piece": [parse(COPY) + RUN + SYNC + copy_data(b"") + COPY_DONE + SYNC, "Z"],
    "an extended copy that the client fails": [parse(COPY) + RUN + SYNC, "G", FRONTEND["CopyFail"] + SYNC, "Z"],
    "copy messages without a copy": [copy_data(b"1\n") * 2 + COPY_DONE + FRONTEND["CopyFail"] + query(READ), "Z"],
    "a pipelined copy that fails before it begins": [query(FAIL) + copy_data(b"1\n") + COPY_DONE + query(READ), "ZZ"],
    "an extended copy that fails before it begins": [parse(FAIL) + RUN + copy_data(b"1\n") + COPY_DONE + SYNC, "Z"],
    "a transaction": [query("begin") + query(WRITE) + query("commit") + query(READ), "ZZZZ"],
    "a failed transaction": [query("begin") + query(FAIL) + query(WRITE) + query("rollback") + query(READ), "ZZZZZ"],
    "an extended transaction": [parse("begin") + RUN + SYNC, "Z", (parse(WRITE) + RUN + SYNC) * 2, "ZZ",
                                parse("end") + RUN + SYNC, "Z"],
    "a transaction in one unit": [parse("begin") + RUN + parse(WRITE) + RUN + parse("commit") + RUN + SYNC, "Z"],
}  # fmt: skip
LARGE: dict[str, list[bytes | str]] = {
    "a long query": [query(BIG), "Z"],
    "a long statement": [parse(BIG) + RUN + SYNC, "Z"],
    "a long value": [parse(READ) + bind("x" * 300_000) + execute() + SYNC, "Z"],
    "a long statement that is used again": [parse(BIG) + SYNC, "Z", RUN + SYNC, "Z"],
    "a long unit of short messages": [(parse(READ) + RUN) * 2000 + SYNC, "Z"],
    "a long query in a pipeline": [query(READ) + query(BIG) + query(WRITE), "ZZZ"],
    "a long copy": [query(COPY), "G", copy_data(b"x" * 300_000) * 3 + copy_data(b"1\n") * 9000 + COPY_DONE, "Z"],
}


def transcript(client: Client, steps: list[bytes | str], piece: int) -> Answer:
    answer = Answer()
    for step in steps:
        if isinstance(step, str):
            for tag in step:
                answer += client.until(tag)
            continue
        for start in range(0, len(step), piece):
            client.send(step[start : start + piece])
            gevent.sleep(0)
    return answer


def straight_to(server: FakeServer) -> Client:
    """A client without a pool, logged in."""
    client = Client(green.create_connection(server.address))
    body = i32(196608) + text("user") + text("app") + b"\0"
    client.send(struct.pack("!I", len(body) + 4) + body)
    client.until_ready()
    return client


@pytest.mark.parametrize("piece", [1_000_000, 1, 7], ids=["at once", "byte by byte", "in pieces"])
@pytest.mark.parametrize("name", SEQUENCES)
def test_an_answer_through_the_pool_is_the_one_of_the_server(pool, name, piece):
    pool.server.answers[FAIL] = SYNTAX_ERROR
    expected = transcript(straight_to(pool.server), SEQUENCES[name], 1_000_000)
    client = pool.connect()
    assert transcript(client, SEQUENCES[name], piece) == expected
    assert client.hears_nothing()
    client.query("commit")
    assert client.query("select 'still in step'").rows == ["select 'still in step'"]


@pytest.mark.parametrize("own", [False, True], ids=["of another", "of another in the place of its own"])
@pytest.mark.parametrize("name", SEQUENCES)
def test_so_it_is_on_a_worker_that_has_an_unnamed_statement(pool, name, own):
    """The frontend's own goes in front of its messages, or a Close: and nobody sees the answer to that."""
    pool.server.answers[FAIL] = SYNTAX_ERROR
    direct, client, other = straight_to(pool.server), pool.connect(), pool.connect()
    if own:
        for each in (direct, client):
            transcript(each, [parse("select 'own'") + SYNC, "Z"], 1_000_000)
    expected = transcript(direct, SEQUENCES[name], 1_000_000)
    transcript(other, [parse("select 'secret'") + SYNC, "Z"], 1_000_000)
    assert transcript(client, SEQUENCES[name], 1_000_000) == expected
    assert client.hears_nothing()
    client.query("commit")
    assert client.query("select 'still in step'").rows == ["select 'still in step'"]


@pytest.mark.parametrize("piece", [10_000_000, 20_011], ids=["at once", "in pieces"])
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.loop_gap_ms(60)  # the fake server's work on large messages is in it
def test_what_is_too_long_to_be_gathered_is_streamed_and_answered_just_so(pool, name, piece):
    direct = straight_to(pool.server)
    expected = transcript(direct, LARGE[name], 10_000_000)
    copied = pool.server.backends[0].copied
    client = pool.connect()
    assert transcript(client, LARGE[name], piece) == expected
    assert pool.server.backends[-1].copied == copied
    assert client.query("select 'still in step'").rows == ["select 'still in step'"]


@pytest.mark.parametrize(
    "bad",
    [
        built("?"), built("p", b"password\0"), b"\0\0\0\0\4", b"Q\0\0\0\3", b"S\0\0\0\0", b"D" + i32(10_001),
        b"E" + i32(11_000) + bytes(1000), b"Q" + i32(0x3FFFFFFF), b"\x16\3\1\0\5",
    ],
    ids=lambda bad: repr(bad[:5]),
)  # fmt: skip
@pytest.mark.parametrize(
    "before", [b"", parse(READ) + bind(), parse(READ) + FLUSH], ids=["alone", "in a unit", "streamed"]
)
def test_what_a_server_would_refuse_ends_the_frontend_and_never_reaches_a_server(pool, before, bad):
    """A server that is shown such a message closes the connection, which may have others on it."""
    client = pool.connect()
    client.send(before)
    if before.endswith(FLUSH):
        client.until("1")
    client.send(bad)
    answer = client.until_end()
    assert answer.errors[-1:] == ["FATAL 08P01"]
    assert not any(bad in backend.everything for backend in pool.server.backends)
    assert pool.connect().query(READ).rows == [READ]


def test_an_unexpected_message_in_a_copy_ends_the_frontend(pool):
    client = pool.connect()
    client.send(query(COPY))
    client.until("G")
    client.send(copy_data(b"1\n"), query(READ))
    assert client.until_end().errors == ["FATAL 08P01"]
    assert READ not in pool.server.statements


@pytest.mark.parametrize("behind", [query(READ), parse(READ) + RUN + SYNC, parse(READ) + FLUSH, query(BIG)],
                         ids=["query", "statement", "streamed unit", "long query"])  # fmt: skip
def test_a_unit_that_was_pipelined_behind_a_copy_does_not_wait_for_ever(pool, behind):
    """A server takes it for an unexpected message in the COPY; in the pool it waited for the COPY's end."""
    client = pool.connect()
    client.send(query(COPY), behind)
    assert client.until_end().errors == ["FATAL 08P01"]
    assert pool.connect().query(WRITE).rows == [WRITE]
    assert READ not in pool.server.statements


@pytest.mark.parametrize(
    "last",
    [b"", query(READ), parse(READ), parse(READ) + FLUSH, query(COPY), query(COPY) + copy_data(b"1\n")],
    ids=["alone", "behind a query", "in a unit", "in a streamed unit", "behind a copy", "in a copy"],
)
def test_a_terminate_is_never_passed_on(pool, last):
    client = pool.connect()
    client.query(WRITE)
    backend = pool.server.backends[0]
    client.send(last, TERMINATE)
    client.thread.join(30)
    assert client.thread.ready()
    assert pool.connect().query(WRITE).rows == [WRITE]
    if not backend.is_gone:
        assert "X" not in backend.received


# --- 4. a frontend may vanish at any byte ----------------------------------------------------------------------------

UNITS = {
    "a query": query(READ),
    "a statement": parse(READ) + RUN + SYNC,
    "a streamed unit": parse(READ) + FLUSH + RUN + FLUSH + SYNC,
    "a query in a unit": parse(READ) + query(WRITE) + SYNC,
    "a copy": query(COPY) + copy_data(b"1\n") + copy_data(b"2\n") + COPY_DONE,
    "an extended copy": parse(COPY) + RUN + SYNC + copy_data(b"1\n") + COPY_DONE + SYNC,
    "a transaction": query("begin") + query(WRITE) + query("commit"),
    "a session": query("listen channel") + query(READ),
    "a function call": FRONTEND["FunctionCall"],
}


@pytest.mark.parametrize("name", UNITS)
def test_a_frontend_that_vanishes_at_any_byte_leaves_its_worker_idle_or_closed(pool, name):
    data = UNITS[name]
    stays = pool.connect()
    for size in range(len(data) + 1):
        client = pool.connect()
        client.send(data[:size])
        if size % 2:
            gevent.sleep(0.001)  # an answer may have come, or not
        client.vanish()
        client.thread.join(30)
        assert client.thread.ready()
        answer = stays.query("select 'mine'")
        assert (answer.tags, answer.rows, answer.status) == ("TDCZ", ["select 'mine'"], "I")


@pytest.mark.parametrize("size", [0, 3, 5, 1000, MAX_UNIT_BYTES, len(query(BIG)) - 1])
def test_a_frontend_that_vanishes_in_a_long_message_leaves_its_worker_idle_or_closed(pool, size):
    client = pool.connect()
    client.send(query(BIG)[:size])
    gevent.sleep(0.005)
    client.vanish()
    assert pool.connect().query(READ).rows == [READ]
    assert BIG not in pool.server.statements


def test_a_frontend_that_vanishes_while_it_waits_is_not_served(pool):
    first, second = pool.connect(), pool.connect()
    pool.server.stall(READ)
    first.send(query(READ))
    backend = begun(pool, READ)
    second.send(query(WRITE))
    gevent.sleep(0.005)
    second.vanish()
    second.thread.join(30)
    backend.go_on()
    first.until_ready()
    assert pool.connect().query("select 2").rows == ["select 2"]
    assert WRITE not in pool.server.statements


def test_a_frontend_that_vanishes_while_its_startup_values_are_brought_back_gives_its_worker_back(pool):
    client = pool.connect(application_name="mine")
    client.query(READ)  # its worker is tuned
    pool.server.backends[0].own.clear()
    restore = client.frontend.group.restore(frozenset({"application_name"}))
    pool.server.stall(restore)
    client.send(query("reset application_name"))
    wait_until(lambda: restore in pool.server.backends[0].own)
    client.vanish()
    client.thread.join(30)
    pool.server.backends[0].go_on()
    assert pool.connect().query(READ).rows == [READ]


# --- 6. own order ----------------------------------------------------------------------------------------------------


def test_statements_of_one_frontend_run_in_its_own_order_however_many_workers_there_are(start):
    pool = start(worker_min_cnt=[5], max_workers=5)
    client = pool.connect()
    client.query("select 0")
    wait_until(lambda: len(pool.idle) == 5, "the fifth worker")
    pool.server.statements.clear()
    pool.server.stall(WRITE)
    client.send(query(WRITE), query("select 1"), query("select 2"))
    backend = begun(pool, WRITE)
    gevent.sleep(0.02)
    assert pool.server.statements == [WRITE]
    backend.go_on()
    assert [client.until_ready().rows for _ in range(3)] == [[WRITE], ["select 1"], ["select 2"]]
    assert pool.server.statements == [WRITE, "select 1", "select 2"]


def test_a_very_long_pipeline_is_answered_in_order_and_not_held_as_a_whole(pool):
    client = pool.connect()
    statements = [f"select {number}" for number in range(5_000)]
    sender = gevent.spawn(client.send, *map(query, statements))
    most = 0
    for statement in statements:
        assert client.until_ready().rows == [statement]
        most = max(most, len(client.frontend.pending))
    sender.get(timeout=30)
    assert 1 < most <= MAX_PENDING + 1


# --- what the pool refuses -------------------------------------------------------------------------------------------


def test_transactions_may_be_refused(start):
    pool = start(transactions="reject")
    client = pool.connect()
    answer = client.query("begin")
    assert (answer.errors, answer.status) == (["ERROR 0A000"], "I")
    assert answer[0].fields["H"]
    assert client.query(READ).rows == [READ]
    assert pool.server.statements == [READ]


def test_session_features_may_be_refused(start):
    pool = start(session_features="reject")
    client = pool.connect()
    assert client.query("listen channel").errors == ["ERROR 0A000"]
    client.send(parse("listen channel"), RUN, SYNC)
    assert client.until_ready().errors == ["ERROR 0A000"]
    assert client.query(READ).rows == [READ]
    assert pool.server.statements == [READ]


@pytest.mark.parametrize("statement", [query("listen channel"), parse("listen channel") + RUN + SYNC])
@pytest.mark.parametrize("session", [False, True], ids=["", "of a session"])
def test_a_statement_that_is_refused_in_a_transaction_fails_the_transaction(start, session, statement):
    """It was answered with an idle status, and the transaction went on behind it: a driver would not have ended it."""
    pool = start(session_features="reject", max_workers=0, worker_per_fe_cnt=1000)
    client = pool.connect()
    if session:
        client.send(parse(READ, "named"), SYNC)
        client.until_ready()
    client.query("begin")
    client.query(WRITE)
    client.send(statement)
    answer = client.until_ready()
    assert (answer.errors, answer.status) == (["ERROR 0A000"], "E")
    assert client.query(WRITE).errors == ["ERROR 25P02"]
    assert client.query("commit").raw.startswith(complete("ROLLBACK"))
    if session:
        client.send(bind(name="named"), execute(), SYNC)
        assert client.until_ready().rows == [READ]
    assert client.query(READ).status == "I"
    assert "commit" not in pool.server.statements
    assert "ROLLBACK" in pool.server.backends[0].own


def test_a_refused_statement_in_a_failed_transaction_leaves_it_failed(start):
    pool = start(session_features="reject")
    pool.server.answers[FAIL] = SYNTAX_ERROR
    client = in_transaction(pool)
    client.query(FAIL)
    assert client.query("listen channel").status == "E"
    assert client.query("rollback").status == "I"
    assert pool.server.statements[-1] == "rollback"


# --- 8. writing never blocks reading ---------------------------------------------------------------------------------


def test_a_server_that_does_not_read_stops_its_own_frontend_only(start):
    pool = start(worker_min_cnt=[1, 2], max_workers=2)
    client, other = pool.connect(), pool.connect()
    pool.server.answers[WRITE] = lambda backend: (backend.say(built("G", b"\0\0\0")), backend.pause())
    client.send(query(WRITE))
    client.until("G")
    backend = begun(pool, WRITE)
    piece = copy_data(b"x" * 9_000) * 10

    def send() -> None:
        for _ in range(200):  # all of it at once would take the loop's time to be made
            client.send(piece)

    sender = gevent.spawn(send)
    worker = client.frontend.unit.worker
    wait_until(lambda: worker.stream.pending > 200_000)
    for number in range(20):
        assert other.query(f"select {number}, 2").rows == [f"select {number}, 2"]
    assert worker.stream.pending < 1_000_000
    assert not sender.ready()
    sender.kill()
    backend.hang_up()
    client.until("E")


def test_two_that_write_at_once_do_not_stand_still(pool):
    """Each read only when it had written: the pipeline stood still as soon as both sockets were full."""
    client = pool.connect()
    statement, count = "select '" + "x" * 10_000 + "'", 500
    pool.server.answers[statement] = row("y" * 30_000) + complete("SELECT 1")
    sender = gevent.spawn(client.send, *[(parse(statement) + RUN + FLUSH)] * count, SYNC)
    gevent.sleep(0.05)
    assert client.until_ready().tags.count("D") == count
    sender.get(timeout=30)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_an_idle_frontend_is_told_that_the_pool_stops(pool):
    for client in (pool.connect(), in_transaction(pool)):
        client.frontend.stop()
        assert client.until_end().errors == ["FATAL 57P01"]


def test_a_statement_in_flight_is_answered_before_the_pool_stops(pool):
    client = pool.connect()
    pool.server.stall(READ)
    client.send(query(READ), query(WRITE))
    backend = begun(pool, READ)
    client.frontend.stop()
    backend.go_on()
    answer = client.until_end()
    assert answer.rows[0] == READ
    assert answer.errors == ["FATAL 57P01"]


def test_the_reason_of_an_end_is_its_last_message(pool):
    client = pool.connect()
    client.frontend.end(ShuttingDown("so it is"))
    answer = client.until_end()
    assert (answer.tags, answer[0].fields["M"]) == ("E", "so it is")


def test_its_repr_says_who_it_is_and_what_it_waits_for(pool):
    client = pool.connect()
    assert repr(client.frontend) == "<Frontend 1 a test app@shop status=I pending=0>"
    client.query("begin")
    assert repr(client.frontend) == "<Frontend 1 a test app@shop status=T pending=0 held>"
    client.vanish()
    wait_until(lambda: client.frontend.is_gone)
    assert repr(client.frontend) == "<Frontend 1 a test app@shop status=T pending=0 gone>"


def test_time_is_not_lost_between_two_statements(pool):
    """Bytes that were put into an outbox behind the loop's back left with the next event, 230 ms later."""
    client = pool.connect()
    client.query(READ)
    began = time.perf_counter()
    for _ in range(100):
        client.query(READ)
    assert time.perf_counter() - began < 5

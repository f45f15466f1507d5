"""The server's side of the rules of design section 3: what a backend may do, and who may hear of it."""

from __future__ import annotations

import gevent
import pytest

from lib.backend.relay import MAX_DISCARDED_BYTES, MAX_HELD_BYTES
from lib.backend.worker import State
from tests.green.fake_server import SYNTAX_ERROR, TERMINATED, FakeBackend, echo
from tests.green.small_pool import Answer, SmallPool, begun, tuned, wait_until
from tests.wire_samples import (
    BACKEND,
    SYNC,
    bind,
    built,
    complaint,
    complete,
    description,
    execute,
    notice,
    parameter,
    parse,
    query,
    ready,
    row,
)

READ = "select 1"
WRITE = "insert into t values (1)"
COMPLETE = complete("INSERT 0 1")
NOTIFICATION = BACKEND["NotificationResponse"]
# Everything that may be in an answer, but what begins a COPY from the client.
ANY_ANSWER = b"".join(
    (
        notice("NOTICE", "00000", "it begins"), description("text"), row("one"), row(None), row(), complete("SELECT 3"),
        parameter("application_name", "changed"), complete("SET"), BACKEND["EmptyQueryResponse"],
        BACKEND["CopyOutResponse"], BACKEND["CopyData"], BACKEND["CopyDone"], complete("COPY 1"), SYNTAX_ERROR,
    )
)  # fmt: skip


def backend_of(pool: SmallPool) -> FakeBackend:
    wait_until(lambda: pool.server.backends and not pool.server.backends[-1].is_gone, "a backend")
    return pool.server.backends[-1]


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


# --- 1. headers, not rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 10_000])
def test_an_answer_arrives_as_it_was_sent_however_it_was_cut(pool, size):
    def answer(backend: FakeBackend) -> None:
        for piece in pieces(ANY_ANSWER, size):
            backend.say(piece)
            gevent.sleep(0)

    pool.server.answers[WRITE] = answer
    assert pool.connect().query(WRITE).raw == ANY_ANSWER + ready()


def test_a_huge_row_is_passed_on_in_parts_while_it_comes(pool):
    data = description("text") + row("x" * 3_000_000) + complete("SELECT 1")

    def answer(backend: FakeBackend) -> None:
        backend.say(data[:1_000_000])
        backend.pause()
        backend.say(data[1_000_000:])

    pool.server.answers[READ] = answer
    client = pool.connect()
    client.send(query(READ))
    seen = b""
    while len(seen) < len(data + ready()):
        seen += client.sock.recv(1 << 16)
        if len(seen) == 1_000_000:
            backend_of(pool).go_on()
    assert seen == data + ready()


@pytest.mark.parametrize("size", [MAX_HELD_BYTES - 20, MAX_HELD_BYTES, MAX_HELD_BYTES + 20])
@pytest.mark.parametrize("cut", [1, 4, 5, 6, 1000])
def test_rows_around_the_size_that_is_held_are_passed_on_whole(pool, size, cut):
    data = description("text") + row("before") + row("x" * size) + row("behind") + complete("SELECT 3")
    begin = len(description("text") + row("before"))

    def answer(backend: FakeBackend) -> None:
        backend.say(data[: begin + cut])
        gevent.sleep(0.002)
        backend.say(data[begin + cut :])

    pool.server.answers[READ] = answer
    assert pool.connect().query(READ).raw == data + ready()


@pytest.mark.parametrize("tag", ["N", "E"])
def test_a_huge_notice_or_error_is_passed_on_whole(pool, tag):
    """It has to be looked at first, and was put together anew with every read."""
    huge = complaint("ERROR" if tag == "E" else "NOTICE", "P0001", "x" * 1_000_000, tag)
    pool.server.answers[WRITE] = lambda backend: backend.say(huge)
    assert pool.connect().query(WRITE).raw == huge + ready()


# --- 2. at most once, and honest -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_write_in_flight_is_unknown_and_never_repeated_when_its_backend_is_gone(pool, reset):
    pool.server.answers[WRITE] = lambda backend: backend.hang_up(reset=reset)
    client = pool.connect()
    answer = client.query(WRITE)
    assert (answer.tags, answer.errors, answer.status) == ("EZ", ["ERROR 08007"], "I")
    assert client.query(READ).rows == [READ]
    assert pool.server.statements == [WRITE, READ]


def test_a_backend_that_is_cut_at_any_byte_of_its_answer_leaves_it_unknown(pool):
    """Whole messages are passed on, nothing half, and then the truth."""
    client = pool.connect()
    whole = description("id") + row("1") + COMPLETE + ready()
    for size in range(len(whole)):
        pool.server.answers[WRITE] = lambda backend, size=size: backend.die(whole[:size])
        answer = client.query(WRITE)
        assert answer.errors == ["ERROR 08007"]
        assert answer.status == "I"
        assert whole[:size].startswith(Answer(answer[:-2]).raw)
    assert pool.server.statements == [WRITE] * len(whole)


@pytest.mark.parametrize("size", range(len(echo(READ) + ready())))
def test_a_harmless_read_is_run_again_as_long_as_nothing_of_its_answer_was_passed_on(pool, size):
    whole = echo(READ) + ready()

    def once(backend: FakeBackend) -> None:
        del pool.server.answers[READ]
        backend.die(whole[:size])

    pool.server.answers[READ] = once
    answer = pool.connect().query(READ)
    if size < len(description("text")):
        assert answer.raw == whole
        assert pool.server.statements == [READ] * 2
    else:
        assert answer.errors == ["ERROR 08007"]
        assert pool.server.statements == [READ]


@pytest.mark.parametrize("after_s, runs", [(0.15, 2), (0, 3)])
def test_a_harmless_read_that_kills_its_backend_each_time_is_not_run_for_ever(pool, after_s, runs):
    """One that makes the server run out of memory would take it down again and again. The loss right behind the first
    one is not taken for its doing."""
    pool.server.answers[READ] = lambda backend: (gevent.sleep(after_s), backend.die())
    client = pool.connect()
    assert client.query(READ).errors == ["ERROR 08007"]
    assert pool.server.statements == [READ] * runs
    assert client.query(READ).errors == ["ERROR 08007"]


def test_a_fatal_error_behind_half_a_result_is_told_as_unknown_with_what_the_server_said(pool):
    def answer_half(backend: FakeBackend) -> None:
        backend.say(description("id"), row("1"))
        backend.pause()
        backend.die(TERMINATED)

    pool.server.answers[WRITE] = answer_half
    client = pool.connect()
    client.send(query(WRITE))
    half = client.until("D")
    backend_of(pool).go_on()
    answer = Answer([*half, *client.until_ready()])
    assert (answer.tags, answer.errors) == ("TDEZ", ["ERROR 08007"])
    assert "terminating connection due to administrator command (57P01)" in answer[2].fields["D"]
    assert answer[2].fields["H"]
    assert client.query(READ).rows == [READ]


def test_a_warning_is_never_taken_for_a_failure(pool):
    """57P01 as a WARNING under synchronous replication means that the transaction is committed."""
    warning = notice("WARNING", "57P01", "canceling the wait for synchronous replication and terminating connection")
    pool.server.answers[WRITE] = lambda backend: (backend.say(warning, COMPLETE, ready()), backend.hang_up())
    answer = pool.connect().query(WRITE)
    assert answer.tags == "NCZ"
    assert answer.errors == []


def test_a_frontend_that_has_part_of_a_message_is_told_nothing_and_closed(pool):
    huge = row("x" * 1_000_000)
    pool.server.answers[WRITE] = lambda backend: backend.die(description("id"), huge[:500_000])
    client = pool.connect()
    client.send(query(WRITE))
    seen = b""
    while data := client.sock.recv(1 << 16):
        seen += data
    assert (description("id") + huge).startswith(seen)
    assert pool.connect().query(READ).rows == [READ]


def test_a_unit_that_no_backend_has_seen_waits_for_another(pool):
    """Its worker died while it was being tuned."""
    client, other = pool.connect(), pool.connect(application_name="other")
    client.query(READ)
    tuning_sql = tuned(other.frontend.group)

    def once(backend: FakeBackend) -> None:
        del pool.server.answers[tuning_sql]
        backend.hang_up()

    pool.server.answers[tuning_sql] = once
    assert other.query(WRITE).rows == [WRITE]
    assert pool.server.statements == [READ, WRITE]


# --- 4. drain to ReadyForQuery ---------------------------------------------------------------------------------------


def test_a_worker_whose_frontend_vanishes_mid_result_reads_on_before_anybody_else_has_it(pool):
    first, second = pool.connect(), pool.connect()
    pool.server.answers[WRITE] = lambda backend: (backend.say(row("its own")), backend.wait())
    first.send(query(WRITE))
    backend = begun(pool, WRITE)
    first.vanish()
    second.send(query(READ))
    gevent.sleep(0.01)
    backend.go_on()
    assert second.until_ready().rows == [READ]
    assert len(pool.server.backends) == 1


def test_a_large_answer_that_nobody_wants_costs_its_backend_instead(pool):
    client = pool.connect()
    rows = row("x" * 1000) * 100
    pool.server.answers[READ] = lambda backend: (
        backend.wait(), [backend.say(rows) for _ in range(1 + MAX_DISCARDED_BYTES // len(rows))]
    )  # fmt: skip
    client.send(query(READ))
    backend = begun(pool, READ)
    client.vanish()
    wait_until(lambda: client.frontend.is_gone)
    backend.go_on()
    wait_until(lambda: backend.is_gone, "the end of the backend")
    assert pool.connect().query(WRITE).rows == [WRITE]


def test_a_transaction_that_is_left_open_is_rolled_back_before_anybody_else_has_its_worker(pool):
    first, second = pool.connect(), pool.connect()
    first.query("begin")
    first.vanish()
    answer = second.query(READ)
    assert (answer.rows, answer.status) == ([READ], "I")
    assert backend_of(pool).own == ["ROLLBACK", "DISCARD ALL"]


def test_a_worker_that_cannot_be_cleaned_is_closed(pool):
    pool.server.answers["DISCARD ALL"] = SYNTAX_ERROR
    first = pool.connect()
    first.query("listen channel")
    backend = backend_of(pool)
    first.vanish()
    wait_until(lambda: backend.is_gone, "the end of the backend")
    assert pool.connect().query(READ).rows == [READ]


# --- 5. nothing leaks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unexpected",
    [
        ready(), row("a secret"), complete("SELECT 1"), SYNTAX_ERROR, BACKEND["ParseComplete"], description("id"),
        BACKEND["CopyInResponse"], BACKEND["CopyOutResponse"], BACKEND["FunctionCallResponse"],
        BACKEND["AuthenticationOk"], built("?"), b"Z\0\0\0\0", b"D\0\0\0\3", row("a secret")[:9], b"Z",
    ],
    ids=lambda raw: f"{raw[:1].decode()} {len(raw)}",
)  # fmt: skip
def test_an_idle_backend_that_says_what_nobody_asked_for_is_closed(pool, unexpected):
    client = pool.connect()
    client.query(READ)
    backend = backend_of(pool)
    backend.say(unexpected)
    wait_until(lambda: backend.is_gone, "the end of the backend")
    assert client.hears_nothing()
    assert client.query(WRITE).rows == [WRITE]
    assert pool.server.backends[-1] is not backend


def test_half_a_message_from_an_idle_backend_is_nobodys_either(pool):
    client = pool.connect()
    client.query(READ)
    backend_of(pool).say(NOTIFICATION[:9])
    assert client.hears_nothing()
    backend_of(pool).say(NOTIFICATION[9:])
    assert client.hears_nothing()
    assert client.query(WRITE).tags == "TDCZ"


def test_an_answer_too_many_is_not_taken_for_the_next_frontends(pool):
    """The next unit was handed to the worker before all that had arrived with the last answer was looked at."""
    first, second = pool.connect(), pool.connect()
    pool.server.answers[READ] = lambda backend: (backend.wait(), backend.say(ready(), row("a secret"), ready()))
    first.send(query(READ))
    backend = begun(pool, READ)
    second.send(query(WRITE))
    gevent.sleep(0.01)
    backend.go_on()
    assert first.until_ready().rows == [READ]
    answer = second.until_ready()
    assert "a secret" not in answer.rows
    assert answer.rows == [WRITE] or answer.errors == ["ERROR 08007"]


def test_an_idle_backend_that_goes_is_replaced_without_a_word(pool):
    client = pool.connect()
    client.query(READ)
    backend_of(pool).say(TERMINATED)
    backend_of(pool).hang_up()
    assert client.hears_nothing()
    assert client.query(WRITE).tags == "TDCZ"


def test_a_notification_on_a_worker_that_nobody_holds_is_dropped(pool):
    client = pool.connect()
    client.query(READ)
    backend_of(pool).say(NOTIFICATION)
    assert client.hears_nothing()
    assert client.query(WRITE).tags == "TDCZ"
    assert len(pool.server.backends) == 1


def test_a_notification_in_the_answer_of_somebody_who_does_not_listen_is_dropped(pool):
    pool.server.answers[WRITE] = lambda backend: backend.say(NOTIFICATION, COMPLETE, NOTIFICATION)
    client = pool.connect()
    assert client.query(WRITE).tags == "CZ"


def test_whoever_listens_gets_notifications_while_idle_and_in_answers(pool):
    client = pool.connect()
    pool.server.answers["listen channel"] = NOTIFICATION + complete("LISTEN")
    assert client.query("listen channel").tags == "ACZ"
    backend_of(pool).say(NOTIFICATION)
    assert client.until("A").tags == "A"
    pool.server.answers[WRITE] = lambda backend: backend.say(NOTIFICATION, COMPLETE)
    assert client.query(WRITE).tags == "ACZ"


def test_a_notification_for_a_listener_who_has_left_reaches_nobody(pool):
    first, second = pool.connect(), pool.connect()
    pool.server.answers["listen channel"] = complete("LISTEN")
    pool.server.answers["DISCARD ALL"] = lambda backend: backend.say(NOTIFICATION, complete("DISCARD ALL"))
    first.query("listen channel")
    second.send(query(READ))
    first.vanish()
    assert second.until_ready().tags == "TDCZ"
    assert second.hears_nothing()


def test_a_notice_to_nobody_is_dropped(pool):
    client = pool.connect()
    client.query(READ)
    backend_of(pool).say(notice("WARNING", "57P02", "terminating connection because of a crash"))
    assert client.hears_nothing()
    assert client.query(WRITE).tags == "TDCZ"


def test_a_server_that_reloads_is_told_to_all_frontends_of_the_group_and_to_no_other(pool):
    first, second, other = pool.connect(), pool.connect(), pool.connect(application_name="other")
    first.query(READ)
    backend_of(pool).say(parameter("TimeZone", "Europe/Zurich"))
    for client in (first, second):
        assert client.until("S").raw == parameter("TimeZone", "Europe/Zurich")
        assert client.hears_nothing()
    assert other.hears_nothing()


def test_a_reload_is_told_between_two_answers_and_never_inside_one(start):
    pool = start(max_workers=0, worker_min_cnt=[1, 2])
    first, second = pool.connect(), pool.connect()
    pool.server.answers[WRITE] = lambda backend: (backend.say(row("one")), backend.wait())
    first.send(query(WRITE))
    busy = begun(pool, WRITE)
    second.query(READ)
    idle = next(each for each in pool.server.backends if each is not busy)
    idle.say(parameter("TimeZone", "UTC"))
    assert second.until("S").tags == "S"
    busy.go_on()
    assert first.until_ready().tags == "DTDCZ"
    assert first.until("S").raw == parameter("TimeZone", "UTC")


def test_what_tuning_changes_is_told_to_nobody(pool):
    first, second = pool.connect(application_name="one"), pool.connect(application_name="two")
    for _ in range(2):
        assert first.query(READ).tags == second.query(READ).tags == "TDCZ"


def test_a_worker_is_tuned_before_another_group_has_it_and_awaited(pool):
    client = pool.connect(application_name="it's", search_path="a, b")
    client.query(READ)
    backend = backend_of(pool)
    assert backend.settings == {"application_name": "it''s", "search_path": "a, b"}
    assert backend.received == "QQ"


def test_a_frontend_whose_settings_the_server_refuses_is_told_why_and_the_worker_goes(pool):
    client = pool.connect(role="nobody")
    pool.server.answers[tuned(client.frontend.group)] = complaint("ERROR", "22023", 'role "nobody" does not exist')
    assert client.query(READ).errors == ["ERROR 22023"]
    assert pool.server.statements == []
    assert pool.connect().query(READ).rows == [READ]
    assert len(pool.server.backends) == 2


def test_an_unnamed_statement_is_never_a_neighbours(pool):
    first, second = pool.connect(), pool.connect()
    run = bind() + execute() + SYNC
    for client, statement in ((first, "select 'one'"), (second, "select 'two'")):
        client.send(parse(statement), SYNC)
        assert client.until_ready().tags == "1Z"
    for client, statement in ((first, "select 'one'"), (second, "select 'two'")) * 2:
        client.send(run)
        answer = client.until_ready()
        assert (answer.tags, answer.rows) == ("2DCZ", [statement])


def test_an_unnamed_statement_that_a_frontend_does_not_have_is_not_there(pool):
    first, second = pool.connect(), pool.connect()
    first.send(parse("select 'secret'"), SYNC)
    first.until_ready()
    second.send(bind(), execute(), SYNC)
    answer = second.until_ready()
    assert (answer.tags, answer.errors, answer.rows) == ("EZ", ["ERROR 26000"], [])


def test_a_custom_setting_is_never_seen_by_somebody_who_does_not_set_it(pool):
    """A backend that has once had one never forgets its name, RESET ALL or not."""
    first, second = pool.connect(**{"my.tenant": "7"}), pool.connect()
    first.query(READ)
    second.query(READ)
    assert len(pool.server.backends) == 2
    assert pool.server.backends[0].is_gone


# --- the state of a worker -------------------------------------------------------------------------------------------


def test_a_worker_on_which_a_harmless_read_opened_a_transaction_is_closed(pool, caplog):
    """A status other than I on a worker that is shared means that route was wrong: nobody else may have it, and what
    its frontend sends next must not run as if there were no transaction."""
    first, second = pool.connect(), pool.connect()

    def begin(backend: FakeBackend) -> None:
        backend.status = "T"
        backend.say(echo(READ))

    pool.server.answers[READ] = begin
    with caplog.at_level("CRITICAL"):
        assert first.query(READ).status == "T"
    assert second.query(WRITE).rows == [WRITE]
    assert pool.server.statements == [READ, WRITE]
    assert (lost := first.query(WRITE)).errors == ["ERROR 08006"]
    assert lost.status == "E"
    assert first.query("rollback").status == "I"
    assert first.query(WRITE).rows == [WRITE]
    assert len(pool.workers) == 1
    assert pool.workers[0].number == 2


def test_its_repr_says_who_has_it_and_what_it_does(pool):
    client = pool.connect()
    client.query("begin")
    worker = pool.workers[0]
    host, port = pool.server.address
    assert repr(worker) == f"<Worker 1 HELD app@shop on primary {host}:{port} in_flight=0>"
    client.query("commit")
    assert worker.state is State.IDLE
    client.query("listen channel")
    assert repr(worker) == f"<Worker 1 HELD session app@shop on primary {host}:{port} in_flight=0>"


# --- 8. writing never blocks reading ---------------------------------------------------------------------------------


def test_a_slow_reader_stops_its_own_worker_only(start):
    pool = start(worker_min_cnt=[1, 2], max_workers=0, client_buffer=100_000)
    slow, quick = pool.connect(), pool.connect()
    sent = []

    def answer(backend: FakeBackend) -> None:
        for _ in range(1000):
            backend.say(row("x" * 10_000))
            sent.append(10_000)
            gevent.sleep(0)

    pool.server.answers[READ] = answer
    slow.send(query(READ))
    wait_until(lambda: slow.frontend.stream.pending > 100_000)
    for number in range(20):
        assert quick.query(f"select {number}, 2").rows == [f"select {number}, 2"]
    gevent.sleep(0.02)
    assert slow.frontend.stream.pending < 100_000 + 2 * MAX_HELD_BYTES
    assert len(sent) < 1000
    assert len(slow.until_ready().rows) == 1000


def test_a_worker_that_is_done_with_a_slow_reader_does_not_wait_for_it(start):
    """It was stopped by the last bytes of an answer, and kept whoever had it next waiting."""
    pool = start(worker_per_fe_cnt=1000, max_workers=0, client_buffer=100_000)
    slow, quick = pool.connect(), pool.connect()
    quick.query(READ)
    worker, was_full = pool.workers[0], 0
    for size in range(100, 600, 10):
        pool.server.answers[WRITE] = row("x" * 1000) * size + COMPLETE
        processed = worker.processed
        slow.send(query(WRITE))
        wait_until(lambda processed=processed: worker.processed > processed or slow.frontend.stream.pending > 100_000)
        gevent.sleep(0.002)
        if worker.processed > processed and slow.frontend.stream.pending > 100_000:
            was_full += 1
            assert quick.query(READ).rows == [READ]
        assert len(slow.until_ready().rows) == size
    assert was_full


def test_a_slow_reader_that_goes_lets_its_worker_go(start):
    pool = start(worker_per_fe_cnt=1000, max_workers=0, client_buffer=100_000)
    slow = pool.connect()

    def answer(backend: FakeBackend) -> None:
        for _ in range(100):
            backend.say(row("x" * 10_000))

    pool.server.answers[READ] = answer
    slow.send(query(READ))
    wait_until(lambda: slow.frontend.stream.pending > 100_000)
    slow.vanish()
    assert pool.connect().query(WRITE).rows == [WRITE]

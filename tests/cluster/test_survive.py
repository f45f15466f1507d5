"""What a frontend sees when its backend, its server or the pooler dies: the rules of design section 3, 2 and 3."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lib.wire import messages
from tests import roles
from tests.cluster import rawclient
from tests.cluster.conftest import shown
from tests.cluster.load import UNKNOWN, Load, is_honest
from tests.cluster.rawclient import COPY_DONE, Answer, Raw, copy_data
from tests.servers import Pooler, Server
from tests.workplace import wait_until

KILLS = int(os.environ.get("KILLS", "20"))
LOST = "08006"
IN_FAILED_TRANSACTION = "25P02"
SLOW_READ = "select count(*) from generate_series(1, 3000) a, generate_series(1, 10000) b"  # two seconds
ENDLESS_READ = "select count(*) from generate_series(1, 3000000) a, generate_series(1, 10000) b"
SLOW_ROW = ("30000000",)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A primary of our own, as it is killed again and again."""
    with Server("survivor", hba=roles.hba_lines()) as server:
        roles.create(server)
        yield server


def conf(server: Server, **settings: object) -> dict[str, object]:
    own = {
        "admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "master": (server.host, server.port),
        "worker_per_fe_cnt": 2, "login_retry": 0.05, "catalog_interval": 0.1,
    }  # fmt: skip
    return {**own, **settings}


@pytest.fixture(scope="module")
def pooler(server: Server, request: pytest.FixtureRequest) -> Iterator[Pooler]:
    with shown(Pooler(conf(server), name="survive"), request) as pooler:
        yield pooler


@pytest.fixture
def table(server: Server) -> str:
    """The name of an empty table (word text primary key) that everybody may use."""
    query(
        server,
        "drop table if exists survived; create table survived (word text primary key); grant all on survived to public",
    )
    return "survived"


def query(server: Server, sql: str, *args: object) -> list[tuple]:
    """Ask the server itself, past the pooler."""
    return server.query(sql, args or None, dbname=roles.DATABASE)


def words(server: Server) -> set[str]:
    return {word for (word,) in query(server, "select word from survived")}


def backends(server: Server, where: str = "true") -> list[int]:
    """Process ids of the backends that the frontends of these tests use."""
    sql = f"select pid from pg_stat_activity where usename = '{roles.TRUST.name}' and ({where})"
    return [pid for (pid,) in query(server, sql)]


def backend_of(server: Server, pattern: str) -> int:
    """The backend that runs a statement like `pattern`; waits for it."""
    where = f"state = 'active' and query like '{pattern}'"
    return wait_until(lambda: backends(server, where), what=f"{pattern} to run")[0]


def wait_scanned(server: Server, frontend: Raw) -> None:
    """Wait until the pooler knows the catalog: what is only read is then no more followed by a cleaning."""

    def is_known() -> bool:
        pid = frontend.value("select pg_backend_pid()")
        return bool(backends(server, f"pid = {pid} and query = 'select pg_backend_pid()'"))

    wait_until(is_known, what="the catalog to be scanned")


def terminate(server: Server, pid: int) -> None:
    """pg_terminate_backend(), and wait until it is gone."""
    query(server, "select pg_terminate_backend(%s, 10000)", pid)


def crash(server: Server, pid: int) -> None:
    """kill -9 of a backend, and wait until the server, which restarts as a whole, takes connections again."""
    logged = len(server.log)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "ready to accept connections" in server.log[logged:], 30, "the server to be up again")


# --- at most once, and honest ---------------------------------------------------------------------------------------


def test_pg_terminate_backend_under_load_costs_one_statement(server, connect, table):
    with Load([connect() for _ in range(8)], table) as load:
        killed = 0
        while killed < KILLS:
            for pid in backends(server, "state = 'active'")[:1]:
                terminate(server, pid)
                killed += 1
        load.go_on()
    load.check(words(server))
    assert 0 < len(load.unknown) <= killed


def test_kill_9_of_a_backend_costs_the_statements_in_flight_and_no_frontend(server, connect, table):
    with Load([connect() for _ in range(8)], table) as load:
        for _ in range(max(1, KILLS // 10)):
            crash(server, wait_until(lambda: backends(server), what="a backend")[0])
            load.go_on()
    load.check(words(server))
    assert len(load.unknown) <= 8 * max(1, KILLS // 10)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_server_under_load_is_a_pause(server, connect, table, mode):
    with Load([connect() for _ in range(8)], table) as load:
        server.restart(mode)
        load.go_on()
    load.check(words(server))


def test_frontends_wait_for_a_server_that_is_down_and_new_ones_come_in_when_it_is_back(server, connect, table):
    old = connect()
    assert old.value("select 'before'") == "before"
    server.stop()
    old.send(rawclient.simple("insert into survived values ('old')"))
    new: list[Answer] = []
    newcomer = threading.Thread(target=lambda: new.append(connect().query("insert into survived values ('new')")))
    newcomer.start()
    try:
        assert old.says_nothing(0.2)
    finally:
        server.start()
    assert old.answer().commands == ["INSERT 0 1"]
    newcomer.join()
    assert new[0].commands == ["INSERT 0 1"]
    assert words(server) == {"old", "new"}


@pytest.mark.parametrize("kill", [terminate, crash], ids=["terminated", "crashed"])
@pytest.mark.parametrize("way", [rawclient.simple, rawclient.extended], ids=["simple", "extended"])
def test_a_read_is_run_again_unseen(server, connect, way, kill):
    frontend = connect()
    wait_scanned(server, frontend)
    frontend.send(way(SLOW_READ))
    kill(server, backend_of(server, SLOW_READ))
    answer = frontend.answer()
    assert (answer.rows, answer.errors, answer.status) == ([SLOW_ROW], [], "I")
    assert "N" not in answer.tags


def test_a_read_whose_neighbour_crashed_is_run_again_unseen(server, connect):
    """A crash restart says goodbye to all others in a WARNING, which is no answer of theirs."""
    frontend, other = connect(), connect()
    wait_scanned(server, frontend)
    frontend.send(rawclient.simple(SLOW_READ))
    other.send(rawclient.simple("select pg_sleep(10)"))
    backend_of(server, SLOW_READ)
    crash(server, backend_of(server, "select pg_sleep(10)"))
    answer = frontend.answer()
    assert (answer.rows, answer.tags) == ([SLOW_ROW], "TDCZ")
    assert other.answer().code == UNKNOWN


def test_a_read_that_has_taken_a_backend_with_it_twice_is_not_run_a_third_time(server, connect):
    frontend = connect()
    wait_scanned(server, frontend)

    def meant() -> int:
        """The backend of the read, when it has been running for longer than what is hit by chance, and longer than two
        losses may have one cause."""
        pid = backend_of(server, ENDLESS_READ)
        long = f"select 1 from pg_stat_activity where pid = {pid} and clock_timestamp() - query_start > '1.2 s'"
        wait_until(lambda: server.query(long), what="the read to have been running for a while")
        return pid

    frontend.send(rawclient.simple(ENDLESS_READ))
    terminate(server, meant())
    terminate(server, meant())
    answer = frontend.answer()
    assert (answer.code, answer.status) == (UNKNOWN, "I")
    assert is_honest(answer.error)


def test_a_read_is_not_run_again_when_part_of_its_answer_was_seen(server, connect):
    frontend = connect()
    wait_scanned(server, frontend)
    frontend.send(rawclient.simple("select repeat('x', 1000), generate_series(1, 100000000)"))
    assert frontend.until("D").tags == "TD"
    terminate(server, backend_of(server, "select repeat%"))
    answer = frontend.answer()
    assert (answer.code, answer.status) == (UNKNOWN, "I")
    assert set(answer.tags) == {"D", "E", "Z"}
    assert frontend.value("select 'next'") == "next"


@pytest.mark.parametrize("way", [rawclient.simple, rawclient.extended], ids=["simple", "extended"])
def test_a_write_in_flight_is_not_repeated_when_the_backend_dies(server, connect, table, way):
    frontend = connect()
    write = "insert into survived select 'slow' from pg_sleep(10)"
    frontend.send(way(write))
    terminate(server, backend_of(server, write.replace("'", "_")))
    answer = frontend.answer()
    assert (answer.code, answer.status) == (UNKNOWN, "I")
    assert is_honest(answer.error)
    assert "57P01" in answer.error["D"]
    assert frontend.query("insert into survived values ('next')").commands == ["INSERT 0 1"]
    assert words(server) == {"next"}


@pytest.mark.parametrize("commit", ["commit", "insert into survived values ('second'); commit"], ids=["alone", "last"])
@pytest.mark.parametrize("way", [rawclient.simple, rawclient.extended], ids=["simple", "extended"])
def test_a_commit_in_flight_is_unknown_and_never_told_to_be_rolled_back(server, connect, table, commit, way):
    """A deferred trigger makes the COMMIT last; when its backend dies nobody can know how far it came."""
    if way is rawclient.extended and ";" in commit:
        commit = "commit"
    query(
        server,
        "create or replace function slowly() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(10); return null; end $$;"
        "create constraint trigger slow after insert on survived deferrable initially deferred "
        "for each row execute function slowly()",
    )
    frontend = connect()
    assert frontend.query("begin; insert into survived values ('first')").status == "T"
    frontend.send(way(commit))
    terminate(server, backend_of(server, commit.replace("'", "_")))
    answer = frontend.answer()
    assert answer.code == UNKNOWN
    assert "rolled back" not in answer.error["D"]
    assert is_honest(answer.error)
    if answer.status == "E":
        assert frontend.query("rollback").commands == ["ROLLBACK"]
    assert frontend.query("select 1").status == "I"


# --- a frontend outlives its backend only where that is true --------------------------------------------------------


def test_an_idle_frontend_does_not_notice_that_its_backend_is_gone(server, connect):
    frontend = connect()
    pid = frontend.value("select pg_backend_pid()")
    for each in backends(server):
        terminate(server, each)
    assert frontend.says_nothing(0.05)
    assert frontend.value("select pg_backend_pid()") != pid


ENDS = {
    "rollback": rawclient.simple("rollback"),
    "commit": rawclient.simple("commit"),
    "extended rollback": rawclient.extended("rollback"),
    "extended commit": rawclient.extended("commit"),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("way", [rawclient.simple, rawclient.extended], ids=["simple", "extended"])
def test_an_idle_transaction_whose_backend_is_gone_fails_until_it_is_ended(server, connect, table, way, end):
    frontend = connect()
    frontend.send(way("begin"))
    assert frontend.answer().status == "T"
    frontend.send(way("insert into survived values ('lost')"))
    assert frontend.answer().status == "T"
    terminate(server, backends(server, "state = 'idle in transaction'")[0])
    assert frontend.says_nothing(0.05)
    for code in [LOST, IN_FAILED_TRANSACTION, IN_FAILED_TRANSACTION]:
        frontend.send(way("insert into survived values ('not as autocommit')"))
        answer = frontend.answer()
        assert (answer.code, answer.error["S"], answer.status) == (code, "ERROR", "E")
    frontend.send(ENDS[end])
    answer = frontend.answer()
    assert (answer.commands, answer.errors, answer.status) == (["ROLLBACK"], [], "I")
    assert frontend.query("insert into survived values ('next')").commands == ["INSERT 0 1"]
    assert words(server) == {"next"}


@pytest.mark.parametrize("way", [rawclient.simple, rawclient.extended], ids=["simple", "extended"])
def test_a_statement_of_a_transaction_whose_backend_dies_fails_the_transaction(server, connect, table, way):
    frontend = connect()
    assert frontend.query("begin; insert into survived values ('lost')").status == "T"
    frontend.send(way("select pg_sleep(10)"))
    terminate(server, backend_of(server, "select pg_sleep(10)"))
    answer = frontend.answer()
    assert (answer.code, answer.status) == (LOST, "E")
    assert is_honest(answer.error)
    frontend.send(way("insert into survived values ('not as autocommit')"))
    assert frontend.answer().code == IN_FAILED_TRANSACTION
    # More than a unit that is gathered, and streamed piece by piece.
    long = "insert into survived values ('not as autocommit') -- " + "x" * 100_000
    for _ in range(2):
        frontend.send(way(long))
        assert frontend.answer().code == IN_FAILED_TRANSACTION
    frontend.send(rawclient.parse("select 1"), rawclient.FLUSH, rawclient.bind(), rawclient.execute(), messages.SYNC)
    assert frontend.answer().code == IN_FAILED_TRANSACTION
    assert frontend.query("commit").commands == ["ROLLBACK"]
    assert frontend.query("insert into survived values ('next')").commands == ["INSERT 0 1"]
    assert words(server) == {"next"}


def test_what_was_pipelined_behind_a_lost_statement_of_a_transaction_does_not_run(server, connect, table):
    frontend = connect()
    assert frontend.query("begin").status == "T"
    inserts = [rawclient.extended(f"insert into survived values ('{number}')") for number in range(3)]
    frontend.send(rawclient.simple("select pg_sleep(10)"), *inserts, rawclient.extended("commit"))
    terminate(server, backend_of(server, "select pg_sleep(10)"))
    answers = [frontend.answer() for _ in range(5)]
    assert [answer.code for answer in answers] == [LOST, *[IN_FAILED_TRANSACTION] * 3, None]
    assert answers[-1].commands == ["ROLLBACK"]
    assert words(server) == set()


SESSIONS = {
    "listen": "listen something",
    "temporary table": "create temporary table kept (a int)",
    "advisory lock": "select pg_advisory_lock(1)",
    "prepared": "prepare kept as select 1",
}


@pytest.mark.parametrize("state", SESSIONS)
def test_a_frontend_whose_session_state_is_gone_is_told_so_and_closed(server, connect, state):
    frontend, other = connect(), connect()
    assert frontend.query(SESSIONS[state]).status == "I"
    pid = int(frontend.value("select pg_backend_pid()"))
    terminate(server, pid)
    answer = frontend.answer()
    assert (answer.code, answer.error["S"], answer.tags) == ("57P01", "FATAL", "E")
    assert answer.error["M"] == "terminating connection due to administrator command"
    assert frontend.is_closed()
    assert other.value("select 1") == "1"


def test_the_settings_of_a_frontend_outlive_its_backend(server, connect):
    frontend = connect()
    frontend.query("set work_mem = '5MB'; set time zone 'Asia/Tokyo'; set kept.it to 'x'")
    terminate(server, int(frontend.value("select pg_backend_pid()")))
    show = "select current_setting('work_mem') || current_setting('timezone') || current_setting('kept.it')"
    assert frontend.value(show) == "5MBAsia/Tokyox"


def test_a_copy_whose_backend_dies_is_answered_once_and_the_rest_of_its_data_dropped(server, connect, table):
    frontend = connect()
    frontend.send(rawclient.simple("copy survived from stdin"))
    assert frontend.until("G").tags == "G"
    frontend.send(copy_data(b"one\n"), copy_data(b"two\n")[:7])
    terminate(server, backend_of(server, "copy survived%"))
    answer = frontend.answer()
    assert (answer.code, answer.status) == (UNKNOWN, "I")
    frontend.send(copy_data(b"two\n")[7:], copy_data(b"three\n"), COPY_DONE)
    assert frontend.query("insert into survived values ('next')").commands == ["INSERT 0 1"]
    assert words(server) == {"next"}


# --- stopping -------------------------------------------------------------------------------------------------------


def stopping(server: Server, **settings: object) -> Pooler:
    return Pooler(conf(server, **settings), name="stopping")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_lets_statements_finish_and_leaves_no_backend_behind(server, table, number):
    with stopping(server) as pooler:
        idle, open_, busy = (Raw(pooler.host, pooler.port) for _ in range(3))
        assert open_.query("begin; insert into survived values ('open')").status == "T"
        busy.send(
            rawclient.simple("insert into survived select 'busy' from pg_sleep(0.5)"),
            rawclient.simple("insert into survived values ('behind')"),
        )
        backend_of(server, "insert into survived select%")
        os.kill(pooler.pid, number)
        for each in (idle, open_):
            answer = each.answer()
            assert (answer.code, answer.error["S"], answer.tags) == ("57P01", "FATAL", "E")
            assert each.is_closed()
        assert busy.answer().commands == ["INSERT 0 1"]
        assert busy.answer().commands == ["INSERT 0 1"]
        assert busy.answer().code == "57P01"
        assert busy.is_closed()
        pooler.stop()  # exit code 0
        assert "Traceback" not in pooler.log

    wait_until(lambda: not backends(server, "state = 'idle in transaction'"), what="the open transaction to be gone")
    assert words(server) == {"busy", "behind"}


def test_a_stop_cancels_what_takes_longer_than_shutdown_timeout(server, table):
    before = set(backends(server))
    with stopping(server, shutdown_timeout=0.3) as pooler:
        slow, waiting = Raw(pooler.host, pooler.port), Raw(pooler.host, pooler.port)
        slow.send(rawclient.simple("insert into survived select 'slow' from pg_sleep(30)"))
        backend_of(server, "insert into survived select%")
        begun = time.monotonic()
        os.kill(pooler.pid, signal.SIGTERM)
        answer = slow.until("E")
        assert answer.code == "57014"
        pooler.stop()
        assert time.monotonic() - begun < 20
        assert "Traceback" not in pooler.log
        waiting.close()
        slow.close()
    wait_until(lambda: set(backends(server)) <= before, what="all backends of the pooler to be gone")
    assert words(server) == set()


def test_a_stop_while_the_server_is_down_ends_in_time(table):
    with Server("down", hba=roles.hba_lines()) as server:
        roles.create(server)
        with stopping(server, shutdown_timeout=0.3) as pooler:
            frontend = Raw(pooler.host, pooler.port)
            server.stop("immediate")
            frontend.send(rawclient.simple("select 1"))
            pooler.stop()
            assert frontend.until("E").code
            assert "Traceback" not in pooler.log


# --- starting -------------------------------------------------------------------------------------------------------


def test_a_pooler_starts_while_the_primary_is_down_says_so_and_serves_when_it_is_up():
    server = Server("late", hba=roles.hba_lines())
    server.start()
    roles.create(server)
    server.stop()
    with server_removed(server), Pooler(conf(server), name="early") as pooler:
        wait_until(lambda: "cannot be used yet" in pooler.log, what="the pooler to say that the primary is down")
        came_in: list[Raw] = []
        newcomer = threading.Thread(target=lambda: came_in.append(Raw(pooler.host, pooler.port)))
        newcomer.start()
        server.start()
        newcomer.join()
        assert came_in[0].value("select 'served'") == "served"
        came_in[0].close()
        assert "Traceback" not in pooler.log


class server_removed(ExitStack):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self.callback(server.remove)

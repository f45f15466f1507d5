"""A cancel request meets its own statement, running or queued, and never anybody else's."""

from __future__ import annotations

import asyncio
import functools
import os
import pty
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import asyncpg
import psycopg
import psycopg2
import pytest

from lib.wire import messages
from tests import roles
from tests.cluster import rawclient
from tests.cluster.conftest import Address
from tests.cluster.rawclient import COPY_DONE, Raw, copy_data
from tests.servers import Cluster, Pooler
from tests.workplace import PATIENCE_S, wait_until

CANCELS = int(os.environ.get("CANCELS", "1000"))
CANCELED = "57014"
SLEEP = "select pg_sleep(30)"


@pytest.fixture(scope="module")
def narrow(cluster: Cluster) -> Iterator[Pooler]:
    """A pooler with one worker for everybody, which ends cleanly and never with a traceback in its log."""
    conf = {
        "admin_cnn": {**roles.ADMIN.login, "database": "postgres"}, "worker_per_fe_cnt": 1000, "max_workers": 1,
    }  # fmt: skip
    with Pooler(conf, cluster=cluster, name="narrow") as pooler:
        yield pooler
    assert "Traceback" not in pooler.log, pooler.log


@pytest.fixture
def connect(narrow: Pooler) -> Iterator[Callable[..., Raw]]:
    """Connect a frontend that is closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda **params: stack.enter_context(Raw(narrow.host, narrow.port, **params))


@pytest.fixture
def table(cluster: Cluster) -> str:
    """The name of an empty table that everybody may use."""
    cluster.primary.query(
        "drop table if exists canceled; create table canceled (word text); grant all on canceled to public",
        dbname=roles.DATABASE,
    )
    return "canceled"


def words(cluster: Cluster) -> list[str]:
    return sorted(word for (word,) in cluster.primary.query("select word from canceled", dbname=roles.DATABASE))


def wait_running(cluster: Cluster, pattern: str, role: roles.Role = roles.TRUST) -> None:
    """Wait until the server runs a statement like `pattern` for `role`."""
    sql = "select count(*) from pg_stat_activity where usename = %s and state = 'active' and query like %s"
    wait_until(lambda: cluster.primary.query(sql, [role.name, pattern])[0][0], what=f"{pattern} to run")


# --- psql and drivers ------------------------------------------------------------------------------------------------


def test_ctrl_c_in_psql_cancels_the_statement_and_psql_goes_on(address: Address, cluster: Cluster, pg_bin):
    ours, terminal = pty.openpty()
    psql = subprocess.Popen(
        [pg_bin / "psql", "-XAtqn", "-P", "pager=off"], stdin=terminal, stdout=terminal, stderr=terminal,
        env={**os.environ, "LC_ALL": "C", "TERM": "dumb", **address.environment()},
    )  # fmt: skip
    os.close(terminal)
    os.write(ours, f"{SLEEP};\n".encode())
    wait_running(cluster, f"{SLEEP};", roles.SCRAM)
    psql.send_signal(signal.SIGINT)
    os.write(ours, b"select 'went'||' on';\n\\q\n")
    assert psql.wait(30) == 0
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "canceling statement due to user request" in shown
    assert "went on" in shown


def test_psycopg2_cancels_its_statement_and_goes_on(address: Address, cluster: Cluster):
    connection = psycopg2.connect(**address.libpq())
    connection.autocommit = True

    def cancel() -> None:
        wait_running(cluster, SLEEP, roles.SCRAM)
        connection.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    cursor = connection.cursor()
    with pytest.raises(psycopg2.errors.QueryCanceled):
        cursor.execute(SLEEP)
    canceller.join()
    cursor.execute("select 1")
    assert cursor.fetchone() == (1,)
    connection.close()


def test_psycopg_cancels_a_statement_of_the_extended_protocol_in_a_transaction(address: Address, cluster: Cluster):
    with psycopg.connect(**address.libpq()) as connection:

        def cancel() -> None:
            wait_running(cluster, "select pg_sleep($1)", roles.SCRAM)
            connection.cancel_safe()

        connection.execute("select 1")
        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(%s)", [30])
        canceller.join()
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            connection.execute("select 1")
        connection.rollback()
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_timeout_in_asyncpg_cancels_the_statement_and_the_connection_goes_on(address: Address):
    async def run() -> None:
        connection = await asyncpg.connect(**address.params())
        with pytest.raises(asyncio.TimeoutError):
            await connection.fetch(SLEEP, timeout=0.1)
        assert await connection.fetchval("select 1") == 1
        await connection.close()

    asyncio.run(run())


# --- a statement that waits for a worker ----------------------------------------------------------------------------


INSERT = "insert into canceled values ('never')"
WAYS = {
    "simple": rawclient.simple(INSERT),
    "extended": rawclient.extended(INSERT),
    "long": rawclient.simple(INSERT + " -- " + "x" * 100_000),
    "long extended": rawclient.extended(INSERT + " -- " + "x" * 100_000),
    "copy": rawclient.simple("copy canceled from stdin") + copy_data(b"never\n") + COPY_DONE,
    "flushed": rawclient.parse(INSERT) + rawclient.FLUSH + rawclient.bind() + rawclient.execute() + messages.SYNC,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_queued_statement_is_canceled_and_never_runs(connect, cluster: Cluster, table: str, way: str):
    holder, frontend = connect(), connect()
    assert holder.query("begin").status == "T"
    frontend.send(WAYS[way])
    wait_until(lambda: _cancel_is_answered(frontend), what="the cancel to be answered")
    answer = frontend.answer()
    assert (answer.code, answer.error["S"], answer.status) == (CANCELED, "ERROR", "I")
    assert holder.query("commit").status == "I"
    assert frontend.query("insert into canceled values ('after')").commands == ["INSERT 0 1"]
    assert words(cluster) == ["after"]
    assert frontend.says_nothing()


def _cancel_is_answered(frontend: Raw) -> bool:
    # The statement may not have arrived when the first request does, and cancelling nothing does nothing.
    frontend.cancel()
    return not frontend.says_nothing(0.05)


def test_units_behind_a_canceled_one_run(connect, cluster: Cluster, table: str):
    frontend = connect()
    frontend.send(rawclient.simple(SLEEP), *(rawclient.extended(f"insert into canceled values ('{n}')") for n in "ab"))
    wait_running(cluster, SLEEP)
    frontend.cancel()
    assert frontend.answer().code == CANCELED
    assert [frontend.answer().commands for _ in "ab"] == [["INSERT 0 1"]] * 2
    assert words(cluster) == ["a", "b"]


# --- one that runs --------------------------------------------------------------------------------------------------


def test_the_long_key_of_protocol_3_2_cancels(connect, cluster: Cluster):
    frontend = connect(version=messages.PROTOCOL_3_2)
    assert len(frontend.key[1]) == 32
    frontend.send(rawclient.simple(SLEEP))
    wait_running(cluster, SLEEP)
    frontend.cancel()
    assert frontend.answer().code == CANCELED


def test_a_wrong_key_cancels_nothing(connect, cluster: Cluster, narrow: Pooler):
    frontend = connect()
    pid, secret = frontend.key
    frontend.send(rawclient.simple("select 'whole' from pg_sleep(0.5)"))
    wait_running(cluster, "select 'whole'%")
    wrong = bytes([secret[0] ^ 1]) + secret[1:]
    for key in [(pid, wrong), (pid, secret[:1]), (pid, secret + b"\0"), (pid ^ 1, secret), (pid ^ 1, b"\0" * 256)]:
        frontend.cancel(key)
    answer = frontend.answer()
    assert (answer.rows, answer.code) == ([("whole",)], None)
    wait_until(lambda: narrow.log.count("a cancel request with a key that nobody has") >= 5, what="the log to say so")


def test_a_cancel_of_nothing_does_not_meet_the_next_statement(connect):
    frontend, other = connect(), connect()
    for number in range(50):
        frontend.cancel()
        assert frontend.query(f"select {number} from pg_sleep(0.001)").rows == [(str(number),)]
        assert other.query("select 'other'").rows == [("other",)]


def test_a_cancel_in_a_transaction_fails_the_transaction_and_no_other(connect, cluster: Cluster, table: str):
    frontend = connect()
    assert frontend.query("begin; insert into canceled values ('rolled back')").status == "T"
    frontend.send(rawclient.simple(SLEEP))
    wait_running(cluster, SLEEP)
    frontend.cancel()
    answer = frontend.answer()
    assert (answer.code, answer.status) == (CANCELED, "E")
    assert frontend.query("select 1").code == "25P02"
    assert frontend.query("commit").commands == ["ROLLBACK"]
    other = connect()
    assert other.query("insert into canceled values ('other')").commands == ["INSERT 0 1"]
    assert words(cluster) == ["other"]


def test_a_cancel_while_copy_reads_ends_the_copy(connect, cluster: Cluster, table: str):
    frontend = connect()
    frontend.send(rawclient.simple("copy canceled from stdin"))
    assert frontend.until("G").tags == "G"
    frontend.send(copy_data(b"never\n"))
    frontend.cancel()
    # The server notices with the next row, and so it is without a pool.
    wait_until(lambda: _copy_has_ended(frontend), what="the COPY to be canceled")
    answer = frontend.answer()
    assert (answer.code, answer.status) == (CANCELED, "I")
    frontend.send(COPY_DONE)
    assert frontend.query("insert into canceled values ('after')").commands == ["INSERT 0 1"]
    assert words(cluster) == ["after"]


def _copy_has_ended(frontend: Raw) -> bool:
    frontend.send(copy_data(b"never\n" * 10_000))
    return not frontend.says_nothing(0.01)


def test_a_cancel_while_copy_writes_ends_the_copy(connect):
    frontend = connect()
    frontend.send(rawclient.simple("copy (select repeat('x', 1000), generate_series(1, 100000000)) to stdout"))
    assert frontend.until("d").tags == "Hd"
    frontend.cancel()
    answer = frontend.answer()
    assert (answer.code, answer.status) == (CANCELED, "I")
    assert frontend.query("select 1").rows == [("1",)]


@contextmanager
def cancels_take_long(cluster: Cluster) -> Iterator[None]:
    """Meanwhile the server takes connections, cancel requests among them, and does nothing with them."""
    os.kill(cluster.primary.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(cluster.primary.pid, signal.SIGCONT)


def test_what_follows_a_cancel_waits_until_the_server_has_done_with_it(connect, cluster: Cluster):
    """The request arrives when its statement has long ended: it must not find another one in its place."""
    frontend, other = connect(), connect()
    frontend.send(rawclient.simple("select 'first' from pg_sleep(0.2)"))
    wait_running(cluster, "select 'first'%")
    with cancels_take_long(cluster):
        frontend.cancel()
        assert frontend.answer().rows == [("first",)]
        other.send(rawclient.simple("select 'other' from pg_sleep(0.05)"))
        assert other.says_nothing(0.1)
    assert other.answer().rows == [("other",)]


def test_a_statement_that_waits_for_the_end_of_a_cancel_can_be_canceled_too(connect, cluster: Cluster):
    """It was not sent yet, so the pool answers, and rolls back when the server does anything again."""
    frontend = connect()
    assert frontend.query("begin").status == "T"
    frontend.send(rawclient.simple("select 'first' from pg_sleep(0.2)"))
    wait_running(cluster, "select 'first'%")
    with cancels_take_long(cluster):
        frontend.cancel()
        assert frontend.answer().rows == [("first",)]
        frontend.send(rawclient.simple(SLEEP))
        while frontend.says_nothing(0.1):
            frontend.cancel()  # the first one may be quicker than the statement
        answer = frontend.answer()
        assert (answer.code, answer.status) == (CANCELED, "E")
    assert frontend.query("rollback").commands == ["ROLLBACK"]
    assert frontend.query("select 1").rows == [("1",)]


# --- nobody else ----------------------------------------------------------------------------------------------------


class _Neighbours:
    """Frontends that run short statements all the time, and note every answer that is not theirs."""

    def __init__(self, frontends: list[Raw], text: str) -> None:
        self.wrong: list[str] = []
        self.answers: Counter[int] = Counter()
        self.pids: set[str] = set()
        self._text = text
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=each) for each in enumerate(frontends)]

    def __enter__(self) -> _Neighbours:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, frontend: Raw) -> None:
        while not self._is_over.is_set():
            asked = f"{number}-{self.answers[number]}"
            answer = frontend.query(self._text.format(asked))
            if answer.code or answer.status != "I" or [row[0] for row in answer.rows] != [asked]:
                self.wrong.append(f"{asked}: {answer.errors or answer.rows}")
            self.pids |= {row[1] or "" for row in answer.rows}
            self.answers[number] += 1


NO_TIME = "select '{}', pg_backend_pid()"
HALF_A_MS = "select '{}', pg_backend_pid() from pg_sleep(0.0005)"
TWO_MS = "select 'mine' from pg_sleep(0.002)"
TO_BE_CLEANED = "do 'begin perform pg_sleep(0.002); end'"


@pytest.mark.parametrize(
    ("canceled", "neighbours_run"),
    [(TWO_MS, NO_TIME), (TWO_MS, HALF_A_MS), (TO_BE_CLEANED, NO_TIME)],
    ids=["next to no time", "half a millisecond", "after cleaning"],
)
def test_a_thousand_cancels_at_the_end_of_a_statement_cancel_nobody_else(
    connect, narrow: Pooler, canceled: str, neighbours_run: str
):
    """A cancel request that comes when its statement has just ended used to meet whatever ran next on that backend."""
    frontend = connect()
    rounds = CANCELS // 3
    outcomes: Counter[str | None] = Counter()
    logged = len(narrow.log)
    with _Neighbours([connect() for _ in range(4)], neighbours_run) as neighbours:
        for moment in _around_the_end(outcomes, rounds):
            frontend.send(rawclient.simple(canceled))
            moment()
            frontend.cancel()
            answer = frontend.answer()
            assert answer.code in (None, CANCELED), answer
            assert len(answer.commands) == (answer.code is None)
            outcomes[answer.code] += 1
    assert neighbours.wrong == []
    assert min(outcomes[None], outcomes[CANCELED]) > rounds // 20, f"the cancels were not at the end: {outcomes}"
    assert min(neighbours.answers.values()) > rounds // 20
    assert "lost its backend" not in narrow.log[logged:], "a cancel met the cleaning of the worker"


def test_a_cancel_does_not_meet_the_next_statement_of_the_same_transaction(connect):
    frontend = connect()
    outcomes: Counter[str | None] = Counter()
    for moment in _around_the_end(outcomes, 200):
        assert frontend.query("begin").status == "T"
        frontend.send(rawclient.simple(TWO_MS))
        moment()
        frontend.cancel()  # the request has been taken when this returns
        answer = frontend.answer()
        outcomes[answer.code] += 1
        if answer.code is None:
            assert frontend.query("select 'next' from pg_sleep(0.0005)").rows == [("next",)]
        assert frontend.query("rollback").commands == ["ROLLBACK"]
    assert min(outcomes[None], outcomes[CANCELED]) > 10, f"the cancels were not at the end: {outcomes}"


@pytest.mark.parametrize("timeout", ["statement_timeout", "idle_session_timeout", "lock_timeout"])
def test_a_timeout_that_one_frontend_has_set_ends_no_statement_of_another(connect, table: str, timeout: str):
    """It is a setting of the worker while it idles, and while it is tuned to somebody else."""
    hasty, other = connect(**{timeout: "2"}), connect()
    until = time.monotonic() + PATIENCE_S
    for number in range(200):
        if number >= 40 and time.monotonic() > until:
            break  # each backend that idles for 2 ms is replaced, which a busy machine takes its time for
        assert hasty.query("select 1").code in (None, CANCELED)
        _spin(number % 10 * 0.0004)
        assert other.query("insert into canceled values ('other') returning word").rows == [("other",)]
        _spin(number % 7 * 0.0004)
        assert hasty.query("insert into canceled values ('hasty')").code in (None, CANCELED)


def _around_the_end(outcomes: Counter[str | None], rounds: int) -> Iterator[Callable[[], None]]:
    """What to wait for before each cancel: a little longer after a hit, a little shorter after a miss."""
    delay_s = 0.002
    for _ in range(rounds):
        hits = outcomes[CANCELED]
        yield functools.partial(_spin, delay_s)
        delay_s = max(0.0, delay_s + (0.0002 if outcomes[CANCELED] > hits else -0.0002))


def _spin(for_s: float) -> None:
    until = time.perf_counter() + for_s
    while time.perf_counter() < until:
        pass

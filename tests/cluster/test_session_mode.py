"""Session mode: a frontend has a server connection for itself, from login to disconnect.

What a session can do is compared with what it can do on a connection straight to the primary.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Iterator

import asyncpg
import psycopg
import pytest

from tests import roles
from tests.cluster.conftest import Address, own_pooler
from tests.cluster.rawclient import FLUSH, Raw, bind, copy_data, execute, parse, simple
from tests.servers import Pooler, Server
from tests.workplace import wait_until

TRUST = roles.TRUST.name


@pytest.fixture(scope="module")
def sessions(cluster):
    """A pooler in session mode; what statement mode may refuse is refused, as it must make no difference."""
    conf = {"pool_mode": "session", "transactions": "reject", "session_features": "reject", "max_workers": 40}
    with own_pooler(cluster, **conf) as pooler:
        yield pooler


@pytest.fixture(params=["directly", "pooled"])
def where(request, cluster) -> Address:
    """The primary itself, and then the pooler in session mode, which must do the same."""
    if request.param == "directly":
        return Address(cluster.primary.host, cluster.primary.port, cluster.primary)
    pooler = request.getfixturevalue("sessions")
    return Address(pooler.host, pooler.port, cluster.primary)


def connect(where, **params) -> Raw:
    return Raw(where.host, where.port, **params)


def backends(cluster, user: str = TRUST, database: str = roles.DATABASE) -> set[int]:
    """The pids of a login's server connections on the primary."""
    sql = "select pid from pg_stat_activity where usename = %s and datname = %s"
    return {pid for (pid,) in cluster.primary.query(sql, [user, database])}


# --- what lives in a session ----------------------------------------------------------------------------------------


def test_a_session_has_one_backend_whose_pid_it_was_told(where):
    with connect(where) as one, connect(where) as other:
        assert one.value("select pg_backend_pid()") == str(one.key[0])
        assert other.value("select pg_backend_pid()") == str(other.key[0]) != str(one.key[0])
        assert one.value("select pg_backend_pid()") == str(one.key[0])


def test_currval_temporary_tables_locks_prepared_statements_and_cursors_last_as_long_as_the_session(where):
    with connect(where) as session, connect(where) as other:
        assert session.query("create temp table kept (id serial, n int); insert into kept (n) values (7)").status == "I"
        assert session.value("select currval('kept_id_seq') + lastval()") == "2"
        assert other.query("select * from kept").code == "42P01"
        session.query("prepare doubled (int) as select $1 * 2")
        assert session.value("execute doubled(21)") == "42"
        session.query("begin; declare c cursor with hold for select generate_series(1, 3); commit")
        assert [session.value("fetch c") for _ in range(3)] == ["1", "2", "3"]
        session.query("set application_name to 'mine'")
        session.query("select pg_advisory_lock(4711)")
        assert other.value("select pg_try_advisory_lock(4711)") == "f"
        assert session.value("select n from kept") == "7"
        assert session.value("show application_name") == "mine"
    wait_until(lambda: where.query("select not exists (select from pg_locks where objid = 4711)")[0][0])


def test_a_notification_comes_at_once_while_the_session_is_idle(where):
    with connect(where) as listener, connect(where) as speaker:
        listener.query("listen news")
        speaker.query("notify news, 'it happened'")
        message = listener.message()
        assert (message.tag, message.body[4:]) == ("A", b"news\0it happened\0")


def test_the_session_begins_with_the_parameters_that_the_server_reports(where, cluster):
    given = {"application_name": "x y", "DateStyle": "German, YMD", "options": "-c geqo=off -c work_mem=7MB"}
    with connect(where, **given) as session, connect(cluster.primary, **given) as direct:
        found, expected = ([(m.tag, m.body) for m in each.greeting if m.tag in "RSZ"] for each in (session, direct))
        assert found == expected


SETTINGS = "select name, setting, source, reset_val from pg_settings order by name"


def test_reset_goes_back_to_what_the_startup_packet_said(where, cluster):
    given = {"application_name": "x", "options": "-c work_mem=7MB", "role": "pg_monitor", "app.tenant": "7"}
    with connect(where, **given) as session, connect(cluster.primary, **given) as direct:
        for each in (session, direct):
            each.query("set work_mem to '9MB'; set app.tenant to '8'; set role none; set application_name to 'y'")
            each.query("discard all")
            each.query("reset role")
        assert session.query(SETTINGS).rows == direct.query(SETTINGS).rows
        assert session.value("select current_user || current_setting('app.tenant')") == "pg_monitor7"


@pytest.fixture(scope="module", autouse=True)
def grants(cluster):
    cluster.primary.query(f"grant pg_monitor to {TRUST}")
    yield
    cluster.primary.query(f"revoke pg_monitor from {TRUST}")


def test_a_bad_startup_parameter_is_refused_in_the_servers_words(where):
    session = connect(where, DateStyle="no such style")
    assert session.greeting.error["M"] == 'invalid value for parameter "DateStyle": "no such style"'
    assert session.greeting.error["S"] == "FATAL"
    assert session.is_closed()


def test_the_extended_protocol_goes_across_syncs_flushes_and_portals(where):
    with connect(where) as session:
        session.send(parse("select 1", "s1"), FLUSH)
        assert session.until("1").tags == "1"
        session.send(bind("s1", "p1"), execute("p1"), FLUSH)
        assert session.until("C").rows == [("1",)]
        session.send(parse("no sql"), bind(), simple("select 2"), b"S\0\0\0\4")
        assert session.answer().tags == "EZ"
        session.send(bind("s1"), execute(), b"S\0\0\0\4", simple("select 3"))
        assert (session.answer().tags, session.answer().tags) == ("2DCZ", "TDCZ")


@pytest.mark.parametrize("size", [1, 3, 7, 4096])
def test_what_comes_in_pieces_is_passed_on_in_pieces(where, size):
    text = "select '" + "x" * 5000 + "'"
    data = simple(text) + parse("select 5") + bind() + execute() + b"S\0\0\0\4"
    with connect(where) as session:
        for position in range(0, len(data), size):
            session.send(data[position : position + size])
        assert len(session.answer().rows[0][0]) == 5000
        assert session.answer().rows == [("5",)]


def test_bytes_that_are_no_message_get_the_servers_own_answer(where):
    with connect(where) as session:
        session.send(b"?\0\0\0\4")
        assert session.until("E").error["M"] == "invalid frontend message type 63"
        assert session.is_closed()


def test_copy_in_both_directions_and_one_that_fails(where):
    with psycopg.connect(**where.libpq(), autocommit=True) as session:
        session.execute("create temp table t (n int)")
        with session.cursor().copy("copy t from stdin") as copy:
            for number in range(20_000):
                copy.write_row([number])
        with session.cursor().copy("copy t to stdout") as copy:
            assert sum(1 for _ in copy.rows()) == 20_000
        with pytest.raises(psycopg.errors.DataError), session.cursor().copy("copy t from stdin") as copy:
            copy.write("no number\n")
        assert session.execute("select count(*) from t").fetchone() == (20_000,)


def test_psql_does_what_it_does(where, pg_bin):
    script = "begin; create temp table t as select 1 as n; commit; \\d t\nlisten a; notify a;\nselect :'n' \\g\n"
    done = subprocess.run(
        [pg_bin / "psql", "-XAt", "-v", "n=5"], input=script, text=True, capture_output=True, timeout=60, check=False,
        env={"LC_ALL": "C", **where.environment()},
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    assert "n|integer" in done.stdout and "Asynchronous notification" in done.stdout


def test_asyncpg_does_what_it_does(where):
    async def main() -> list:
        heard = asyncio.Event()
        pool = await asyncpg.create_pool(**where.params(), min_size=2, max_size=2)
        async with pool, pool.acquire() as one, pool.acquire() as other:

            def hear(*_: object) -> None:
                heard.set()

            await one.add_listener("news", hear)
            await other.execute("notify news")
            await asyncio.wait_for(heard.wait(), 60)
            await one.remove_listener("news", hear)
            async with one.transaction():
                found = [row[0] async for row in one.cursor("select generate_series(1, $1::int)", 100)]
            statement = await one.prepare("select $1::int + 1")
            return [len(found), await statement.fetchval(41), await one.fetchval("select $1::text", "x")]

    assert asyncio.run(main()) == [100, 42, "x"]


# --- cancel, and being ended ----------------------------------------------------------------------------------------


def test_cancel_hits_the_sessions_own_statement(where):
    with connect(where) as session, connect(where) as other:
        session.send(simple("select pg_sleep(60)"))
        other.send(simple("select pg_sleep(0.2)"))
        wait_until(lambda: _runs(where, session.key[0]))
        session.cancel()
        assert session.answer().code == "57014"
        assert other.answer().code is None


def _runs(where, pid: int) -> bool:
    return where.query(f"select state = 'active' from pg_stat_activity where pid = {pid}") == [(True,)]


# --- from one session to the next -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def narrow(cluster):
    """A pooler that has one session at a time for a user and database: what one leaves, the next must meet."""
    with own_pooler(cluster, pool_mode="session", max_workers=1, query_wait_timeout=60) as pooler:
        yield pooler


LEFT = {
    "settings": "set work_mem to '9MB'; set role pg_monitor; set datestyle to german",
    "a transaction": "begin; create table never_kept (n int)",
    "a failed transaction": "begin; select 1 / 0",
    "a temporary table": "create temp table kept (id serial); insert into kept default values",
    "a lock": "select pg_advisory_lock(4712)",
    "a channel": "listen news",
    "a statement": "prepare p as select 1",
    "a cursor": "begin; declare c cursor with hold for select 1; commit",
    "a sequence's number": "create temp sequence s; select nextval('s')",
}
FRESH = """
    select current_setting('work_mem'), current_user, current_setting('datestyle'), to_regclass('never_kept'),
           to_regclass('kept'), (select count(*) from pg_prepared_statements), (select count(*) from pg_cursors),
           (select count(*) from pg_listening_channels()),
           (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
"""


@pytest.mark.parametrize("left", LEFT)
def test_nothing_is_left_of_a_session_for_the_next_one_on_the_same_backend(cluster, narrow, left):
    with connect(cluster.primary) as direct:
        expected = direct.query(FRESH).rows
    with connect(narrow) as one:
        one.query(LEFT[left])
    with connect(narrow) as other:
        assert other.query(FRESH).rows == expected
        assert other.query("select lastval()").code == "55000"
        assert other.key[0] == one.key[0]


SPOILS = {
    "a custom setting": "set app.spoilt to '1'",
    "a custom setting by a function": "select set_config('app.spoilt', '1', false)",
    "a library": "load 'plpgsql'",
    "a seed": "select setseed(0.5)",
}


@pytest.mark.parametrize("spoils", SPOILS)
@pytest.mark.parametrize("is_extended", [False, True], ids=["simple", "extended"])
def test_a_backend_that_nothing_makes_as_new_is_closed(narrow, spoils, is_extended):
    user = roles.ADMIN
    with psycopg.connect(
        host=narrow.host, port=narrow.port, dbname=roles.DATABASE, **user.login, autocommit=True
    ) as one:
        one.execute(SPOILS[spoils], binary=is_extended)
        pid = one.info.backend_pid
    with psycopg.connect(host=narrow.host, port=narrow.port, dbname=roles.DATABASE, **user.login) as other:
        assert other.info.backend_pid != pid
        assert other.execute("select current_setting('app.spoilt', true)").fetchone() == (None,)


def test_frontends_with_other_startup_parameters_do_not_share_a_backend(narrow):
    with connect(narrow, application_name="one") as one:
        pass
    with connect(narrow, application_name="other") as other:
        assert other.key[0] != one.key[0]
        assert other.value("show application_name") == "other"


def test_a_frontend_that_vanishes_in_a_transaction_or_a_copy_leaves_nothing_open(cluster, narrow):
    cluster.primary.query("create table if not exists copied (n int)", dbname=roles.DATABASE)
    cluster.primary.query("grant all on copied to public", dbname=roles.DATABASE)
    ways = [
        [simple("begin; insert into copied values (1)")],
        [simple("copy copied from stdin"), copy_data(b"1\n")],
        [simple("copy copied from stdin"), copy_data(b"1\n" * 10)[:-5]],
        [simple("begin; insert into copied values (1)"), simple("select '" + "x" * 100)[:-50]],
        [parse("insert into copied values (1)"), bind(), execute(), FLUSH],
    ]
    for way in ways:
        session = connect(narrow)
        for each in way:
            session.send(each)
        session.until("ZGC")
        session.vanish()
        with connect(narrow) as other:
            assert other.value("select count(*) from copied") == "0"


def test_what_was_pipelined_in_front_of_the_goodbye_runs_and_is_answered(where):
    where.query("create table if not exists pipelined (n int); truncate pipelined; grant all on pipelined to public")
    session = connect(where)
    session.send(simple("insert into pipelined select pg_sleep(0.1) is null::int"), simple("select 7"), b"X\0\0\0\4")
    session.answer()
    assert session.answer().rows == [("7",)]
    assert session.is_closed()


def test_a_cancel_that_comes_late_meets_nobody(narrow):
    for _ in range(20):
        with connect(narrow) as one:
            one.query("select 1")
            one.cancel()
        with connect(narrow) as other:
            assert other.query("select pg_sleep(0.001)").code is None


# --- how many, and waiting ------------------------------------------------------------------------------------------


def test_sessions_beyond_max_workers_wait_for_their_turn(cluster, narrow):
    begun = threading.Event()
    found: list[str] = []

    def wait() -> None:
        begun.set()
        with connect(narrow, application_name="in turn") as waiting:
            found.append(waiting.value("select 'let in'"))

    with connect(narrow, application_name="in turn") as session:
        thread = threading.Thread(target=wait)
        thread.start()
        begun.wait()
        assert session.query("select pg_sleep(0.3)").status == "I"
        assert found == []
        sql = "select count(*) from pg_stat_activity where application_name = 'in turn'"
        assert cluster.primary.query(sql) == [(1,)]
    thread.join(30)
    assert found == ["let in"]


def test_a_session_that_has_waited_for_too_long_is_told_so(cluster):
    conf = {"pool_modes": [{"user": TRUST, "pool_mode": "session", "max_workers": 1}], "query_wait_timeout": 2}
    with own_pooler(cluster, **conf) as pooler, connect(pooler) as one:
        other = connect(pooler)
        assert other.greeting.code == "53300"
        assert other.greeting.error["S"] == "FATAL"
        assert other.is_closed()
        gone = [Raw(pooler.host, pooler.port, user="") for _ in range(3)]
        for each in gone:
            each.vanish()
        assert one.value("select 1") == "1"


@pytest.fixture
def limited(cluster) -> Iterator[dict[str, str]]:
    """What logs in a role of which the server takes two connections, none of them another test's."""
    login = {"user": "sessions_limited", "password": "a secret"}
    cluster.primary.query(
        f"create role sessions_limited login connection limit 2 password 'a secret' in role {roles.MEMBERS}"
    )
    yield login
    cluster.primary.query("drop role sessions_limited")


def test_a_server_that_is_full_says_so_to_the_session(cluster, limited):
    with own_pooler(cluster, pool_mode="session", max_workers=0) as pooler:
        params = {"host": pooler.host, "port": pooler.port, "dbname": roles.DATABASE, **limited}
        with psycopg.connect(**params), psycopg.connect(**params), pytest.raises(psycopg.OperationalError) as told:
            psycopg.connect(**params)
    assert "too many connections for role" in str(told.value)


def test_an_idle_backend_of_the_pool_is_closed_when_the_server_has_no_place_for_another(cluster, limited):
    with own_pooler(cluster, pool_mode="session") as pooler:
        params = {"host": pooler.host, "port": pooler.port, "dbname": roles.DATABASE, **limited}
        for name in ("a", "b"):
            with psycopg.connect(**params, application_name=name):
                pass
        with psycopg.connect(**params) as one, psycopg.connect(**params) as other:
            assert one.info.backend_pid != other.info.backend_pid


def test_a_role_of_the_startup_packet_is_the_next_ones_too(narrow):
    for _ in range(2):
        with connect(narrow, role="pg_monitor", application_name="with a role") as session:
            assert session.value("select current_user") == "pg_monitor"
            session.query("set role none")
            assert session.value("select current_user") == TRUST


@pytest.mark.parametrize("role", roles.LOGINS, ids=lambda role: role.method)
def test_every_role_logs_in_and_gets_an_idle_backend_or_a_new_one(where, role):
    for _ in range(2):
        with psycopg.connect(**where.libpq(role)) as one, psycopg.connect(**where.libpq(role)) as other:
            assert one.execute("select current_user").fetchone() == (role.name,)
            assert other.info.backend_pid != one.info.backend_pid
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**where.libpq(roles.SCRAM) | {"password": "wrong"})


# --- being ended ----------------------------------------------------------------------------------------------------


def test_a_terminated_backend_says_the_servers_own_goodbye(where):
    with connect(where) as session:
        session.query("select 1")
        where.query(f"select pg_terminate_backend({session.key[0]})")
        error = session.until("E").error
        assert (error["S"], error["C"], error["F"]) == ("FATAL", "57P01", "postgres.c")
        assert session.is_closed()


def test_idle_session_timeout_says_the_servers_own_goodbye(where):
    with connect(where, options="-c idle_session_timeout=100ms") as session:
        error = session.until("E").error
        assert (error["C"], error["F"]) == ("57P05", "postgres.c")
        assert session.is_closed()


def test_a_stopped_pool_lets_the_statement_in_flight_answer_and_says_goodbye(cluster):
    with own_pooler(cluster, pool_mode="session") as pooler:
        busy, idle = connect(pooler), connect(pooler)
        busy.send(simple("select pg_sleep(0.5)"))
        wait_until(lambda: _runs(cluster.primary, busy.key[0]))
        pooler.stop()
        assert idle.until("E").code == "57P01" and idle.is_closed()
        answer = busy.answer()
        assert answer.rows == [("",)]
        assert busy.until("E").code == "57P01" and busy.is_closed()
    wait_until(lambda: not backends(cluster) & {busy.key[0], idle.key[0]})


def test_a_server_that_restarts_ends_its_sessions_and_the_next_ones_wait_for_it(own_server):
    with Pooler({**OWN_SERVER, "pool_mode": "session"}, cluster=None, name="waits") as pooler:
        params = {"host": pooler.host, "port": pooler.port, "user": "postgres", "dbname": "postgres"}
        with psycopg.connect(**params) as session:
            session.execute("select 1")
            own_server.stop("fast")
            with pytest.raises(psycopg.OperationalError, match="terminating connection due to administrator command"):
                session.execute("select 1")
        found: list = []

        def come() -> None:
            with psycopg.connect(**params) as late:
                found.append(late.execute("select 1").fetchone())

        thread = threading.Thread(target=come)
        thread.start()
        wait_until(lambda: "cannot be used" in pooler.log, what="the pooler to see that the server is gone")
        own_server.start()
        thread.join(60)
        assert found == [(1,)]


def test_backends_that_nobody_has_go_after_a_while_and_when_their_role_is_changed(own_server):
    own_server.query("drop role if exists visitor; create role visitor login")
    conf = {**OWN_SERVER, "pool_mode": "session", "idle_cnn_timeout": 0.5, "hba_interval": 0.1}
    there = "select pid from pg_stat_activity where usename = 'visitor'"
    with Pooler(conf, name="forgets") as pooler:
        params = {"user": "visitor", "database": "postgres"}
        with connect(pooler, **params) as session:
            session.query("select 1")
        wait_until(lambda: not own_server.query(there), what="the idle backend to be closed")
        with connect(pooler, **params) as session:
            own_server.query("alter role visitor valid until '2100-01-01'; alter role visitor password 'another'")
            wait_until(lambda: "a role was changed" in pooler.log, what="the census to see the change")
            assert session.value("select 1") == "1"
        with connect(pooler, **params) as other:
            assert other.key[0] != session.key[0]


@pytest.fixture(scope="module")
def own_server():
    """A server of our own, as it is restarted here; it trusts everybody."""
    with Server("own", hba=["local all all trust", "host all all 127.0.0.1/32 trust"]) as server:
        OWN_SERVER["master"] = (server.host, server.port)
        yield server


OWN_SERVER: dict = {"admin_cnn": {"user": "postgres", "database": "postgres"}, "login_retry": 0.05}


# --- slow sides -----------------------------------------------------------------------------------------------------


def test_a_session_that_does_not_read_stops_its_backend_and_nobody_else(cluster, sessions):
    with connect(sessions, rcvbuf=8192) as slow, connect(sessions) as other:
        slow.send(simple("select repeat('x', 1000) from generate_series(1, 50000)"))
        waits = f"select wait_event = 'ClientWrite' from pg_stat_activity where pid = {slow.key[0]}"
        wait_until(lambda: cluster.primary.query(waits) == [(True,)], what="the backend to wait for its reader")
        assert other.value("select 1") == "1"
        assert len(slow.answer().rows) == 50_000
        assert slow.value("select 1") == "1"


def test_what_is_sent_to_a_backend_that_does_not_read_waits_and_arrives(cluster, sessions):
    rows = b"".join(copy_data(b"1\n") for _ in range(100_000))
    with connect(sessions) as session, connect(sessions) as blocker:
        session.query("create temp table t (n int)")
        blocker.query("begin; select pg_advisory_lock(4713)")
        session.send(simple("select pg_advisory_lock(4713)"))
        sender = threading.Thread(target=session.send, args=[simple("copy t from stdin"), rows * 10, b"c\0\0\0\4"])
        sender.start()
        assert blocker.value("select 1") == "1"
        blocker.query("select pg_advisory_unlock_all(); commit")
        assert session.answer().status == "I"
        assert session.answer().commands == ["COPY 1000000"]
        sender.join()

"""How many workers there are, how long they live, and what is said when there is none: counted by the server itself."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time

import pytest

from tests.cluster.wire import PROTOCOL_3_0, Wire, once, parse, query, refusal, startup
from tests.servers import Pooler, Server, free_port
from tests.workplace import wait_until

HBA = ["local all all trust", "host all all 127.0.0.1/32 trust", "host all all ::1/128 trust"]
CONF = {
    "admin_cnn": {"user": "postgres", "database": "postgres"}, "login_retry": 0.05, "hba_interval": 0.2,
    "grow_after": 3600,  # on a busy machine statements wait for one another when they need not
}  # fmt: skip


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


LOOPBACKS = ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]


@pytest.fixture(scope="module")
def server():
    conf = {"listen_addresses": ",".join(LOOPBACKS)}
    with Server("pooled", hba=HBA, conf=conf, max_connections=60) as server:
        server.query("create database app")
        yield server


@pytest.fixture
def user(server):
    """A role of its own, so that its workers can be counted."""
    name = f"user_{next(NUMBERS)}"
    server.query(f"create role {name} login")
    return name


NUMBERS = itertools.count(1)


@contextlib.contextmanager
def pooled(server, **conf):
    with Pooler({"master": (server.host, server.port), **CONF, **conf}) as pooler:
        yield pooler
    assert "Traceback" not in pooler.log


@contextlib.contextmanager
def frontends(pooler, user, count):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Wire(pooler, user=user, database="app")) for _ in range(count)]


def workers(server, user) -> int:
    ask = "select count(*) from pg_stat_activity where usename = %s and backend_type = 'client backend'"
    return server.query(ask, [user])[0][0]


def wait_for_workers(server, user, wanted: int) -> None:
    wait_until(lambda: workers(server, user) == wanted, what=f"{wanted} workers, not {workers(server, user)}")


def has_failed(session) -> dict[str, str]:
    """The error with which the statement that was sent ends."""
    (error,) = (each.fields for each in session.until_ready() if each.tag == "E")
    return error


# --- the formula ----------------------------------------------------------------------------------------------------


def test_the_number_of_workers_is_the_specifications_formula_exactly(server, user):
    """worker_min_cnt says it for 1 to 4 frontends; beyond them there is one worker for each three, rounded up."""
    formula = [1, 3, 3, 5, 2, 2, 3, 3, 3, 4, 4, 4, 5]
    conf = {"worker_min_cnt": [1, 3, 3, 5], "worker_per_fe_cnt": 3, "max_workers": 0, "idle_timeout": 0.05}
    with pooled(server, **conf) as pooler, contextlib.ExitStack() as stack:
        assert workers(server, user) == 0
        for wanted in formula:
            stack.enter_context(Wire(pooler, user=user, database="app"))
            wait_for_workers(server, user, wanted)
        stack.close()
        wait_for_workers(server, user, 0)


@pytest.mark.parametrize(("frontend_count", "wanted"), [(1, 1), (10, 1), (11, 2), (21, 3)])
def test_by_default_ten_frontends_have_one_worker(server, user, frontend_count, wanted):
    with pooled(server) as pooler, frontends(pooler, user, frontend_count) as sessions:
        for session in sessions:
            assert session.value("select 1") == "1"
        wait_for_workers(server, user, wanted)


def test_every_user_and_database_has_workers_of_its_own(server, user):
    server.query("create role another login")
    with pooled(server, worker_min_cnt=[2]) as pooler, Wire(pooler, user=user, database="app") as session:
        wait_for_workers(server, user, 2)
        with Wire(pooler, user=user, database="postgres"), Wire(pooler, user="another", database="app") as other:
            wait_for_workers(server, user, 4)
            wait_for_workers(server, "another", 2)
            assert session.value("select current_user") == user
            assert other.value("select current_user") == "another"


def test_an_idle_worker_stays_as_long_as_the_formula_asks_for_it(server, user):
    with pooled(server, worker_min_cnt=[2], idle_timeout=0.05) as pooler, frontends(pooler, user, 1) as (session,):
        wait_for_workers(server, user, 2)
        pids = {session.value("select pg_backend_pid()") for _ in range(10)}
        started = time.monotonic()
        while time.monotonic() - started < 0.5:
            assert workers(server, user) == 2
        assert session.value("select pg_backend_pid()") in pids


# --- growing --------------------------------------------------------------------------------------------------------


def test_slow_statements_make_it_grow_up_to_max_workers_and_idleness_shrinks_it(server, user):
    conf = {"max_workers": 4, "grow_after": 0.02, "idle_timeout": 0.1}
    with contextlib.ExitStack() as stack:
        pooler = stack.enter_context(pooled(server, **conf))
        sessions = stack.enter_context(frontends(pooler, user, 7))
        wait_for_workers(server, user, 1)
        most = 0
        blocker = stack.enter_context(contextlib.closing(server.connect(dbname="app")))
        blocker.cursor().execute("select pg_advisory_lock(1)")
        for session in sessions:
            session.send(query("select pg_advisory_xact_lock_shared(1)"))

        def four_are_busy():
            nonlocal most
            most = max(most, workers(server, user))
            return most == 4

        wait_until(four_are_busy, what="four workers")
        blocker.close()
        for session in sessions:
            most = max(most, workers(server, user))
            assert session.until_ready()[-1] == ("Z", b"I")
        assert most == 4
        wait_for_workers(server, user, 1)
        assert [session.value("select 1") for session in sessions] == ["1"] * 7


def test_quick_statements_do_not_make_it_grow(server, user):
    with pooled(server, max_workers=10, grow_after=5) as pooler, frontends(pooler, user, 9) as sessions:
        for _ in range(20):
            for session in sessions:
                session.send(once("select 1"))
            for session in sessions:
                session.until_ready()
        assert workers(server, user) == 1


def test_with_max_workers_0_the_formula_alone_counts(server, user):
    with pooled(server, max_workers=0, grow_after=0.01) as pooler, frontends(pooler, user, 4) as sessions:
        started = time.monotonic()
        for session in sessions:
            session.send(query("select pg_sleep(0.15)"))
        for session in sessions:
            assert workers(server, user) == 1
            session.until_ready()
        assert time.monotonic() - started >= 0.6


def test_workers_that_are_held_for_a_session_do_not_count(server, user):
    conf = {"max_workers": 2, "grow_after": 0.02, "idle_timeout": 0.1, "query_wait_timeout": 60}
    with pooled(server, **conf) as pooler, frontends(pooler, user, 8) as sessions:
        for number, session in enumerate(sessions[:5]):
            session.rows("create temp table mine as select 1")
            wait_until(
                lambda n=number: workers(server, user) in (n + 1, n + 2), what="a worker for each that holds one"
            )
        for session in sessions:
            assert session.value("select 1") == "1"
        wait_for_workers(server, user, 5 + 1)
        for session in sessions[:5]:
            session.rows("discard temp")
            session.sock.close()
        wait_until(lambda: workers(server, user) <= 1, what="the workers of those that left to go")


def test_transactions_that_hold_all_workers_keep_others_waiting_and_not_for_ever(server, user):
    conf = {"worker_min_cnt": [2] * 4, "max_workers": 2, "query_wait_timeout": 2}
    with pooled(server, **conf) as pooler, frontends(pooler, user, 4) as sessions:
        wait_for_workers(server, user, 2)
        for session in sessions[:2]:
            session.rows("begin")
        started = time.monotonic()
        error = sessions[2].error("select 1")
        assert 2 <= time.monotonic() - started < 20
        assert (error["S"], error["C"]) == ("ERROR", "53300")
        assert "max_workers" in error["H"]
        sessions[2].send(once("select 2"))
        sessions[3].send(query("begin"))
        for session in sessions[:2]:
            session.rows("commit")
        assert [each.values for each in sessions[2].until_ready() if each.tag == "D"] == [["2"]]
        assert sessions[3].until_ready()[-1] == ("Z", b"T")
        assert workers(server, user) == 2


def test_a_server_that_has_no_place_for_more_is_shared(server, user):
    server.query(f"alter role {user} connection limit 20")
    with pooled(server, max_workers=60, grow_after=0.01) as pooler, frontends(pooler, user, 12) as sessions:
        server.query(f"alter role {user} connection limit 3")
        for _ in range(2):
            for session in sessions:
                session.send(query("select pg_sleep(0.05)"))
            for session in sessions:
                assert [each.tag for each in session.until_ready()] == ["T", "D", "C", "Z"]
            assert workers(server, user) <= 3


# --- growing old ----------------------------------------------------------------------------------------------------


def test_a_worker_that_is_older_than_server_lifetime_is_replaced(server, user):
    with pooled(server, server_lifetime=0.1) as pooler, frontends(pooler, user, 1) as (session,):
        first = session.value("select pg_backend_pid()")
        wait_until(lambda: session.value("select pg_backend_pid()") != first, what="another backend")
        held = session.value("begin; select pg_backend_pid()")
        gone = "select count(*) from pg_stat_activity where pid = %s"
        started = time.monotonic()
        wait_until(lambda: time.monotonic() - started > 0.6, what="the lifetime to be over")
        assert server.query(gone, [held]) == [(1,)]
        assert session.value("select pg_backend_pid()") == held
        session.rows("commit")
        wait_until(lambda: server.query(gone, [held]) == [(0,)], what="it to go after the transaction")


def test_a_worker_whose_backend_is_terminated_is_replaced(server, user):
    with pooled(server) as pooler, frontends(pooler, user, 2) as sessions:
        for number in range(5):
            pid = sessions[0].value("select pg_backend_pid()")
            server.query("select pg_terminate_backend(%s)", [pid])
            wait_until(lambda n=number: pooler.log.count("lost its backend") > n, what="the pooler to see it")
            assert {session.value("select 1") for session in sessions} == {"1"}
        wait_for_workers(server, user, 1)


# --- roles and databases that change --------------------------------------------------------------------------------


def wait_for_look(server) -> None:
    """Until the pooler has looked at the roles, all of it after this was called."""
    looked = """
        select count(*) from pg_stat_activity
         where query like 'select coalesce(%%pg_db_role_setting%%' and query_start > %s
    """
    for _ in range(2):  # whom it asks about was gathered before
        began = server.query("select clock_timestamp()")
        wait_until(lambda moment=began[0]: server.query(looked, moment)[0][0], what="the roles to be looked at")


@pytest.mark.parametrize("change", ["password 'new'", "set work_mem to '7MB'", "valid until '2001-01-01'"])
def test_workers_of_a_role_that_was_changed_are_replaced(server, user, change):
    with pooled(server) as pooler, frontends(pooler, user, 1) as (session,):
        before = session.value("select pg_backend_pid()")
        wait_for_look(server)
        server.query(f"alter role {user} {change}")
        wait_until(lambda: session.value("select pg_backend_pid()") != before, what="another backend")
        if "work_mem" in change:
            assert session.value("show work_mem") == "7MB"


@pytest.mark.parametrize("change", ["password 'new'", "set work_mem to '7MB'", "in database app set work_mem to '7MB'"])
def test_a_change_that_comes_before_the_first_look_at_roles_is_seen_all_the_same(server, user, change):
    """The first look that met a role, or the defaults, took what it found for what the workers had been given: what was
    changed between a worker's login and that look never reached it. At the usual interval that is a minute."""
    with pooled(server, hba_interval=3) as pooler, frontends(pooler, user, 1) as (session,):
        before = session.value("select pg_backend_pid()")
        server.query(f"alter role {user} {change}")
        wait_until(lambda: session.value("select pg_backend_pid()") != before, what="another backend")
        if "work_mem" in change:
            assert session.value("show work_mem") == "7MB"


def test_a_role_that_comes_between_two_looks_and_is_changed_before_the_next_is_seen(server, user):
    """As above, for one that comes when others have been looked at."""
    server.query(f"create role other_{user} login")
    with pooled(server, hba_interval=2) as pooler, frontends(pooler, user, 1) as (first,):
        first.value("select 1")
        wait_for_look(server)
        with Wire(pooler, user=f"other_{user}", database="app") as session:
            before = session.value("select pg_backend_pid()")
            server.query(f"alter role other_{user} password 'new'")
            wait_until(lambda: session.value("select pg_backend_pid()") != before, what="another backend")


def test_workers_stay_where_nothing_has_changed(server, user):
    with pooled(server, hba_interval=0.1) as pooler, frontends(pooler, user, 1) as (session,):
        before = session.value("select pg_backend_pid()")
        wait_for_look(server)
        assert session.value("select pg_backend_pid()") == before
        assert "a role was changed" not in pooler.log and "workers are replaced" not in pooler.log


def test_a_role_that_was_dropped_loses_its_workers_and_is_told_so(server, user):
    with pooled(server) as pooler, frontends(pooler, user, 1) as (session,):
        session.rows("select 1")
        server.query(f"drop role {user}")
        gone = "select count(*) from pg_stat_activity where datname = 'app' and usename is null and state is not null"
        wait_until(lambda: server.query(gone) == [(0,)], what="its backends to go")
        error = session.error("select 1")
        assert error["C"] == "28000"
        assert refusal(pooler, user=user, database="app")["C"] == "28000"


REFUSED = {
    "no_such_database": {"user": "postgres", "database": "nowhere"},
    "no_such_role": {"user": "nobody_there", "database": "app"},
    "not_even_a_database_of_its_name": {"user": "postgres", "database": ""},
    "role_that_may_not_log_in": {"user": "no_login", "database": "app"},
    "database_that_takes_no_connections": {"user": "postgres", "database": "closed"},
    "role_without_the_privilege": {"user": "plain", "database": "private"},
    "limit_of_the_role": {"user": "limited", "database": "app"},
    "limit_of_the_database": {"user": "plain", "database": "limited"},
    "everything_wrong": {"user": "nobody_there", "database": "nowhere"},
}


@pytest.fixture(scope="module")
def refusing(server):
    for statement in (
        "create role no_login", "create role plain login", "create role limited login connection limit 0",
        "create database closed", "alter database closed allow_connections false", "create database private",
        "revoke connect on database private from public", "create database limited connection limit 0",
    ):  # fmt: skip
        server.query(statement)
    with pooled(server) as pooler:
        yield pooler


@pytest.mark.parametrize("name", REFUSED)
def test_who_cannot_come_in_is_told_what_the_server_would_say(server, refusing, name):
    if name == "not_even_a_database_of_its_name":
        with Wire(refusing, user="postgres", database="") as session:
            assert session.value("select current_database()") == "postgres"
        return
    expected = refusal(server, **REFUSED[name])
    found = refusal(refusing, **REFUSED[name])
    assert {letter: found.get(letter) for letter in "SVCMD"} == {letter: expected.get(letter) for letter in "SVCMD"}


# --- limits of frontends --------------------------------------------------------------------------------------------


def test_one_frontend_too_many_is_refused_and_let_in_when_another_has_left(server, user):
    with pooled(server, max_client_conn=3) as pooler, frontends(pooler, user, 3) as sessions:
        fields = refusal(pooler, user=user, database="app")
        assert fields["C"] == "53300"
        assert "max_client_conn" in fields["H"]
        assert [session.value("select 1") for session in sessions] == ["1"] * 3
        sessions[0].sock.close()

        def is_let_in():
            try:
                with Wire(pooler, user=user, database="app") as session:
                    return session.value("select 1") == "1"
            except (EOFError, IndexError, AssertionError):
                return False

        wait_until(is_let_in, what="a place to be free")


def test_a_frontend_that_does_not_log_in_is_closed_after_auth_timeout(server, user):
    with pooled(server, auth_timeout=0.3) as pooler, Wire(pooler, login=False) as silent:
        started = time.monotonic()
        heard = silent.until_closed()
        assert time.monotonic() - started < 20
        assert [each.tag for each in heard] in (["E"], [])
        pooler.reload(auth_timeout=60)
        with Wire(pooler, user=user, database="app") as session:
            assert session.value("select 1") == "1"


def test_a_server_that_is_down_at_the_start_is_waited_for():
    with Server("late", hba=HBA) as late:
        late.query("create database app")
        late.stop("fast")
        with pooled(late) as pooler, Wire(pooler, login=False) as waiting:
            waiting.send(startup(PROTOCOL_3_0, {"user": "postgres", "database": "app"}))
            wait_until(lambda: "cannot be used" in pooler.log, what="the pooler to see that it is down")
            late.start()
            assert waiting.until_ready()[-1] == ("Z", b"I")
            assert waiting.value("select 1") == "1"


# --- addresses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [*LOOPBACKS, "unix"])
@pytest.mark.parametrize("front", [*LOOPBACKS, "unix"])
def test_both_sides_speak_tcp_of_both_kinds_and_unix_sockets(server, user, front, behind):
    master = (server.unix_dir if behind == "unix" else behind, server.port)
    port = free_port()
    listen = [(address, port) for address in LOOPBACKS]
    with Pooler({**CONF, "master": master, "listen": [*listen, (server.unix_dir, port)]}) as pooler:
        where = (server.unix_dir if front == "unix" else front, port)
        with Wire(where, user=user, database="app") as session:
            assert session.value("select host(inet_server_addr())") == (None if behind == "unix" else behind)
            answer = session.ask(parse("select 'long: ' || repeat('x', 100000)") + once("select 1"))
            assert answer[-1] == ("Z", b"I")
            session.send(query("select pg_sleep(100)"))
            busy = "select count(*) from pg_stat_activity where usename = %s and state = 'active'"
            wait_until(lambda: server.query(busy, [user]) == [(1,)], what="it to run")
            session.cancel()
            assert has_failed(session)["C"] == "57014"
    assert "Traceback" not in pooler.log

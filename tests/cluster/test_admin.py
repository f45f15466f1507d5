"""The pool's own queries, on real servers: kept connections, deadlines, and a loop that never waits."""

from __future__ import annotations

import time

import gevent
import pytest

from lib.admin import Admin, _for_libpq
from lib.errors import AdminQueryFailed, ServerUnreachable
from tests.cluster.auth_roles import ADMIN
from tests.loop_alarm import LoopAlarm
from tests.servers import Server
from tests.workplace import PATIENCE_S, free_port, wait_until


@pytest.fixture(scope="module")
def own_server():
    with Server("admin", version=16, hba=["host all postgres 127.0.0.1/32 trust"]) as server:
        server.query("create database small")
        yield server


@pytest.fixture
def admin():
    admin = Admin({**ADMIN, "database": "postgres"}, connect_timeout_s=2.0, statement_timeout_s=5.0)
    yield admin
    admin.close()


def test_queries_go_to_any_server_and_database_by_tcp_and_unix_socket(own_server, admin):
    for host in (own_server.host, own_server.unix_dir):
        for database in ("postgres", "small", None):
            rows = admin.query((host, own_server.port), database, "select current_database()")
            assert rows == [(database or "postgres",)]
    assert admin.query((own_server.host, own_server.port), None, "select %s::int + 1", [1]) == [(2,)]
    assert admin.query((own_server.host, own_server.port), None, "set work_mem = '5MB'") == []


def test_a_connection_is_kept_and_replaced_when_the_server_was_restarted(own_server, admin):
    address = (own_server.host, own_server.port)
    pid = admin.query(address, None, "select pg_backend_pid()")
    assert admin.query(address, None, "select pg_backend_pid()") == pid
    own_server.restart()
    assert admin.query(address, None, "select pg_backend_pid()") != pid


def test_errors_of_the_server_come_with_their_sqlstate(own_server, admin):
    address = (own_server.host, own_server.port)
    with pytest.raises(AdminQueryFailed) as failed:
        admin.query(address, None, "select 1/0")
    assert (failed.value.sqlstate, failed.value.message) == ("22012", "division by zero")
    with pytest.raises(AdminQueryFailed) as failed:
        admin.query(address, "no_such", "select 1")
    assert 'database "no_such" does not exist' in failed.value.detail
    assert admin.query(address, None, "select 1") == [(1,)]


def test_a_server_that_is_not_there_is_unreachable(admin):
    with pytest.raises(ServerUnreachable):
        admin.query(("127.0.0.1", free_port()), None, "select 1")
    with pytest.raises(ServerUnreachable):
        admin.query(("/nowhere", 5432), None, "select 1")


def test_a_statement_has_its_time(own_server, admin):
    address = (own_server.host, own_server.port)
    with pytest.raises(AdminQueryFailed) as failed:
        admin.query(address, None, "select pg_sleep(60)", timeout_s=0.2)
    assert failed.value.sqlstate == "57014"
    assert admin.query(address, None, "select 1") == [(1,)]


def test_a_frozen_server_is_given_up_after_the_deadline(own_server, admin):
    address = (own_server.host, own_server.port)
    admin.query(address, None, "select 1")
    own_server.sigstop()
    try:
        begun = time.monotonic()
        with pytest.raises(ServerUnreachable, match="did not answer in time"):
            admin.query(address, None, "select 1", timeout_s=0.3)
        with pytest.raises(ServerUnreachable, match="did not answer in time"):
            admin.query(address, None, "select 1")
        assert time.monotonic() - begun < 20
    finally:
        own_server.sigcont()
    assert admin.query(address, None, "select 1") == [(1,)]


def test_nobody_waits_for_a_frozen_server_that_is_forgotten(own_server):
    # Logins that had begun when the primary died waited for it until connect_timeout_s, though another one was there.
    admin = Admin({**ADMIN, "database": "postgres"}, connect_timeout_s=100.0, statement_timeout_s=100.0)
    address = (own_server.host, own_server.port)
    admin.query(address, None, "select 1", lane="open")
    own_server.sigstop()
    try:
        asking = [gevent.spawn(_error_of, admin, address, lane) for lane in ("open", "new", "new")]
        wait_until(lambda: gevent.sleep(0.01) or len(admin._links) == 2, what="them to ask")
        assert not any(each.ready() for each in asking)
        admin.forget(address)
        with gevent.Timeout(PATIENCE_S):
            assert all(isinstance(each.get(), ServerUnreachable) for each in asking)
    finally:
        own_server.sigcont()
    assert admin.query(address, None, "select 1", lane="new") == [(1,)]
    admin.close()


def _error_of(admin, address, lane):
    try:
        return admin.query(address, None, "select 1", lane=lane)
    except ServerUnreachable as error:
        return error


def test_the_loop_goes_on_while_the_pool_asks(own_server, admin):
    with LoopAlarm() as alarm:
        admin.query((own_server.host, own_server.port), None, "select pg_sleep(0.4)")
    assert alarm.worst_ms < 100, alarm.explain()


def test_queries_of_one_lane_take_turns_and_those_of_another_do_not_wait(own_server, admin):
    address = (own_server.host, own_server.port)
    with own_server.connect() as blocker, blocker.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(1)")
        waits = "select pg_backend_pid(), pg_advisory_lock_shared(1)"
        slow = gevent.spawn(admin.query, address, None, waits, timeout_s=PATIENCE_S)
        gevent.sleep(0)
        other = admin.query(address, None, "select pg_backend_pid()", lane="scan")
        assert not slow.ready()
    blocker.close()
    assert admin.query(address, None, "select pg_backend_pid()")[0][0] == slow.get()[0][0] != other[0][0]


def test_functions_of_others_are_never_called_by_mistake(own_server, admin):
    """A superuser's query must not meet an operator or function that somebody made in public (CVE-2018-1058)."""
    own_server.query(
        "create function public.lower(name) returns text language sql as 'select ''trap'''; "
        "create function public.f() returns int language sql as 'select 1'"
    )
    address = (own_server.host, own_server.port)
    assert admin.query(address, None, "select lower('A'::name)") == [("a",)]
    with pytest.raises(AdminQueryFailed):
        admin.query(address, None, "select f()")
    own_server.query("drop function public.lower(name); drop function public.f()")


def test_what_is_idle_is_closed(own_server):
    admin = Admin(ADMIN, idle_timeout_s=0.2)
    admin.query((own_server.host, own_server.port), None, "select 1")
    assert "connections=1" in repr(admin)
    deadline = time.monotonic() + PATIENCE_S
    while "connections=1" in repr(admin) and time.monotonic() < deadline:
        gevent.sleep(0.05)
    assert repr(admin) == "<Admin postgres connections=0>"
    admin.close()




def test_settings_of_the_server_in_admin_cnn_are_set_and_not_taken_for_connection_options():
    assert _for_libpq({"user": "a", "search_path": "a, b", "options": "-c x=1"}) == {
        "user": "a",
        "options": "-c x=1 -c search_path=a,\\ b",
    }

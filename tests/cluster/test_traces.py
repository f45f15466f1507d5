"""What a backend is asked before it is cleaned, on every release: it tells what a statement has left, whatever its
group has set, and asking changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from lib.backend import traces, tuning
from tests.cluster.test_route_harmless import VERSIONS
from tests.servers import Server

USER = "app"
CUSTOMS = {"app.tenant", "never.seen"}
SETTINGS = (
    ("app.kept", "1"),
    ("application_name", "it's me"),
    ("client_encoding", "UTF8"),
    ("datestyle", "iso"),
    ("search_path", "public, pg_catalog"),
    ("statement_timeout", "60s"),
    ("work_mem", "8MB"),
    ("role", "worker"),
)
LEAVES = {
    "do $$ begin execute 'set maintenance_work_mem = ''9MB'''; end $$": ("setting maintenance_work_mem",),
    "do $$ begin perform set_config('app.tenant', '7', false); end $$": ("setting app.tenant",),
    "do $$ begin perform set_config('work_mem', '9MB', false); end $$": ("setting work_mem",),
    "do $$ begin perform set_config('app.kept', '2', false); end $$": ("setting app.kept",),
    "do $$ begin perform set_config('search_path', 'public', false); end $$": ("setting search_path",),
    "do $$ begin perform set_config('work_mem', '8192kB', false); end $$": (),
    "do $$ begin perform set_config('work_mem', '9MB', true); end $$": (),
    "do $$ begin set role none; end $$": (),
    "do $$ begin set role other; end $$": ("setting role",),
    "do $$ begin perform pg_advisory_lock(5); end $$": ("an advisory lock",),
    "do $$ begin perform pg_advisory_xact_lock(5); end $$": (),
    "do $$ begin listen a; end $$": ("a channel that it listens to",),
    "do $$ begin execute 'prepare p as select 1'; end $$": ("a prepared statement",),
    "do $$ begin execute 'create temp table t (a int)'; end $$": ("a temporary object",),
    "do $$ begin execute 'create type pg_temp.e as enum (''a'')'; end $$": ("a temporary object",),
    "do $$ begin create temp table t (a int) on commit drop; end $$": (),
    "declare c cursor with hold for select 1": ("a cursor",),
    "do $$ begin perform 1; end $$": (),
    "select 1": (),
}


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(version=request.param, conf={"wal_level": "logical"}) as server:
        server.query("create role worker; create role other; create role app login in role worker, other")
        yield server


@pytest.fixture
def backend(server: Server) -> Iterator[psycopg2.extensions.cursor]:
    connection = server.connect(user=USER, dbname="postgres")
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield cursor
    connection.close()


def look(cursor: psycopg2.extensions.cursor, settings: tuning.Pairs) -> tuple[str, ...]:
    cursor.execute(traces.ask(USER, settings, CUSTOMS).replace("%", "%%"), ())
    return traces.read([list(row) for row in cursor.fetchall()])


@pytest.mark.parametrize("settings", [(), SETTINGS], ids=["bare", "tuned"])
def test_a_backend_that_was_only_tuned_has_no_traces(backend, settings):
    backend.execute(tuning.retune(SETTINGS, settings))
    assert look(backend, settings) == ()
    assert look(backend, settings) == ()


def test_what_a_statement_leaves_is_told_and_cleaning_takes_it_away(backend):
    wrong = {}
    for text, left in LEAVES.items():
        backend.execute(tuning.retune((), SETTINGS))
        if "role other" in text:  # who may not become it cannot set it either
            backend.execute("set session authorization default; reset role")
            backend.execute("select set_config('role', 'worker', false)")
        backend.execute(text)
        found = look(backend, SETTINGS)
        backend.execute(tuning.CLEAN)
        after = look(backend, ())
        if (found, after) != (left, ()):
            wrong[text] = (found, after)
    assert wrong == {}


def test_asking_changes_nothing(backend):
    backend.execute(tuning.retune((), SETTINGS))
    backend.execute("set work_mem = '9MB'; set search_path = public")
    state = "select array(select name || '=' || setting from pg_settings where source = 'session'), current_user"
    backend.execute(state)
    before = backend.fetchall()
    assert look(backend, SETTINGS) == ("setting search_path", "setting work_mem")
    backend.execute(state)
    assert backend.fetchall() == before


def test_a_default_role_of_the_role_itself_is_no_trace(server):
    server.query("create role switched login in role worker; alter role switched set role = worker")
    connection = server.connect(user="switched", dbname="postgres")
    with connection.cursor() as cursor:
        cursor.execute(traces.ask("switched", (), ()).replace("%", "%%"), ())
        assert cursor.fetchall() == []
    connection.close()
    server.query("drop role switched")


def test_a_temporary_slot_is_told(server):
    connection = server.connect()
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("do $$ begin perform pg_create_physical_replication_slot('s', false, true); end $$")
        cursor.execute("discard all")
        cursor.execute(traces.ask("postgres", (), ()).replace("%", "%%"), ())
        assert cursor.fetchall() == [("a temporary replication slot",)]
    connection.close()

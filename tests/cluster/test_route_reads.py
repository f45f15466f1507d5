"""What a plain read may run without showing it: each case below changes something on a real server, by its operators,
casts, indexes, built-ins of another name; none of them may ever share a backend.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from lib.route import SCAN_SQL, Catalog, Kind
from lib.route.classify import classify
from tests.servers import Server

SETS = "begin perform set_config('leak.here', '1', false); return {}; end"
WRITES = "begin insert into written values (1); return {}; end"

BASE = """
create table written (a int);
create table plain (a int, b text);
insert into plain values (1, 'x');
create sequence drawn;
"""


def function(name: str, body: str, returns: str = "int", volatility: str = "volatile") -> str:
    """CREATE FUNCTION in PL/pgSQL, with a name and arguments."""
    return f"create function {name} returns {returns} {volatility} language plpgsql as $f$ {body} $f$;"


# (what the schema has, a text that looks harmless): running it leaves something, writes, or locks more than a read.
READS = {
    "operator that writes": (
        function("w(point, point)", WRITES.format("true"), "bool")
        + "create operator @%@ (procedure = w, leftarg = point, rightarg = point)",
        "select point(1, 1) @%@ point(2, 2)",
    ),
    "operator of a built-in that locks": (
        "create operator @!@ (procedure = pg_advisory_lock, rightarg = bigint)",
        "select @!@ 5",
    ),
    "operator of a built-in that draws": (
        "create operator @-@@ (procedure = nextval, rightarg = regclass)",
        "select @-@@ 'drawn'",
    ),
    "operator in a view": (
        function("w(point, point)", WRITES.format("true"), "bool")
        + "create operator @%@ (procedure = w, leftarg = point, rightarg = point);"
        "create view v as select point(1, 1) @%@ point(2, 2)",
        "select * from v",
    ),
    "operator in a function": (
        function("w(point, point)", WRITES.format("true"), "bool")
        + "create operator @%@ (procedure = w, leftarg = point, rightarg = point);"
        "create function f() returns bool language sql as 'select point(1, 1) @%@ point(2, 2)'",
        "select f()",
    ),
    "cast by a built-in that locks": (
        "create cast (bigint as boolean) with function pg_try_advisory_lock(bigint)",
        "select 5::bigint::boolean",
    ),
    "cast that writes": (
        function("c(text)", WRITES.format("point(1, 1)"), "point")
        + "create cast (text as point) with function c(text) as assignment",
        "select b::point from plain",
    ),
    "domain whose check writes": (
        function("w(int)", WRITES.format("true"), "bool") + "create domain d as int check (w(value))",
        "select a::d from plain",
    ),
    "built-in in the search path before": (
        "create schema evil;" + function("evil.lower(text)", SETS.format("'x'"), "text"),
        "set search_path = evil, pg_catalog, public; select lower(b) from plain",
    ),
    "built-in with arguments that fit better": (
        function("upper(name)", SETS.format("'x'"), "text"),
        "select upper('a'::name)",
    ),
    "operator in the search path before": (
        "create schema evil;" + function("evil.plus(int, int)", SETS.format("1")) +
        "create operator evil.+ (procedure = evil.plus, leftarg = int, rightarg = int)",
        "set search_path = evil, pg_catalog, public; select a + 1 from plain",
    ),
    "operator that only the grammar uses": (
        "create schema evil;" + function("evil.less(int, int)", SETS.format("true"), "bool") +
        "create operator evil.<= (procedure = evil.less, leftarg = int, rightarg = int)",
        "set search_path = evil, pg_catalog, public; select a between 0 and 2 from plain",
    ),
    "attribute that is a function": (
        function("secret(plain)", SETS.format("1")),
        "select plain.secret from plain",
    ),
    "index that is planned": (
        function("i(int)", SETS.format("1"), volatility="immutable") + "create index on plain ((i(1) + a))",
        "select a from plain where a = 1",
    ),
    "statistics that are planned": (
        function("i(int)", SETS.format("1"), volatility="immutable")
        + "create statistics s on (i(1) + a), b from plain; analyze plain",
        "select a from plain where a = 1 and b = 'x'",
    ),
    "check of an heir that is planned": (
        function("i(int)", SETS.format("1"), volatility="immutable")
        + "create table heir (check (a > i(1))) inherits (plain)",
        "select a from plain where a = 1",
    ),
    "view that locks": (
        "create view v as select * from plain for update",
        "select * from v",
    ),
    "subquery that locks": ("", "select * from (select * from plain for no key update) x"),
    "WITH that writes": ("", "with x as (delete from plain returning a) select * from x"),
    "function that locks": (
        function("f()", "begin perform a from plain for share; return 1; end"),
        "select f()",
    ),
    "function with a body in standard SQL": (
        "create function f() returns int begin atomic insert into written values (1); select 1; end",
        "select f()",
    ),
    "function that analyzes": (function("f()", "begin analyze plain; return 1; end"), "select f()"),
    "function that comments": (function("f()", "begin comment on table plain is 'x'; return 1; end"), "select f()"),
    "default of an argument": (
        "create function f(n bigint default nextval('drawn')) returns bigint language sql as 'select n'",
        "select f()",
    ),
    "aggregate of a function that writes": (
        function("w(int, int)", WRITES.format("1")) + "create aggregate g(int) (sfunc = w, stype = int)",
        "select g(a) from plain",
    ),
    "function that is declared with a custom setting": (
        "create function f() returns int language sql set leak.here = '1' as 'select 1'",
        "select f()",
    ),
    "function with a custom setting for the transaction": (
        function("f()", "begin set local leak.here = '1'; return 1; end"),
        "select f()",
    ),
    "function that sets one for the transaction": (
        function("f()", "begin perform set_config('leak.' || 'here', '1', true); return 1; end"),
        "select f()",
    ),
    "trigger with a custom setting for the transaction": (
        function("t()", "begin set local leak.here = '1'; return new; end", "trigger")
        + "create trigger t before insert on plain for each row execute function t()",
        "insert into plain values (2)",
    ),
    "materialized view of a view that draws": (
        "create materialized view m as select 1 as a; create view v as select nextval('drawn') from m",
        "select * from v",
    ),
    "partition with a policy": (
        function("p()", SETS.format("true"), "bool")
        + "create table parent (a int) partition by list (a);"
        "create table child partition of parent for values in (1); insert into parent values (1);"
        "alter table parent enable row level security; create policy p on parent using (p());"
        "grant all on parent to reader",
        "set role reader; select * from parent",
    ),
    "view of the owner with a policy": (
        function("p()", SETS.format("true"), "bool")
        + "create table kept (a int); insert into kept values (1);"
        "alter table kept enable row level security; create policy p on kept using (p());"
        "create view v as select * from kept; alter view v owner to reader; grant all on kept to reader",
        "select * from v",
    ),
}  # fmt: skip

STATE = """
select array(select name || '=' || setting from pg_settings where source = 'session' order by 1),
       current_setting('leak.here', true),
       (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
"""
LEFT = """
select pg_current_xact_id_if_assigned() is not null or exists (
       select from pg_locks where pid = pg_backend_pid() and mode = 'ShareUpdateExclusiveLock')
"""
# What a read that is let in behind another must be.
SHARES = (Kind.SHAREABLE, False, False)


@pytest.fixture(scope="module", params=[16, 18, pytest.param(14, marks=pytest.mark.needs_npm)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(version=request.param) as server:
        server.query("create role reader")
        yield server


@pytest.fixture
def database(server: Server) -> str:
    server.query("drop database if exists reads")
    server.query("create database reads")
    server.query(BASE, dbname="reads")
    return "reads"


def scan(server: Server) -> Catalog:
    return Catalog.from_rows(server.query(SCAN_SQL, dbname="reads"))


def writes_or_locks(server: Server, text: str) -> bool:
    """Whether a transaction of nothing but `text` writes, or locks more than a read does."""
    connection = server.connect(dbname="reads")
    with connection.cursor() as cursor:
        for part in [*text.split("; "), "reset role", LEFT]:
            cursor.execute(part)
        answer = cursor.fetchall()
    connection.close()
    return answer == [(True,)]


def leaves_something(server: Server, text: str) -> bool:
    """Whether the last statement of `text`, on a connection of its own, shows in the session afterwards."""
    connection = server.connect(dbname="reads")
    connection.autocommit = True
    *preparing, read = text.split("; ")
    states = []
    with connection.cursor() as cursor:
        for part in [*preparing, None, read, None]:
            cursor.execute(part or STATE)
            if part is None:
                states.append(cursor.fetchall())
    connection.close()
    return states[0] != states[1]


@pytest.mark.parametrize("case", READS)
def test_a_read_that_leaves_something_shares_no_backend(server, database, case):
    schema, text = READS[case]
    if schema:
        server.query(schema, dbname=database)
    *_, read = text.split("; ")
    verdict = classify(read.encode(), scan(server))
    assert (verdict.kind, verdict.clean, verdict.holds) != SHARES
    writes = writes_or_locks(server, text)
    leaves = leaves_something(server, text)
    assert leaves or writes, "a text that changes nothing here proves nothing"
    assert verdict.clean or verdict.sets or not leaves, "nobody would clean after it, or ask what is set"


@pytest.mark.parametrize(
    "text",
    [
        "select a, lower(b), a + 1 from plain where a between 1 and 2 and b like 'x%'",
        "table plain",
        "values (1, 'x'), (2, 'y')",
        "with x as (select a from plain) select count(*) from x",
        "show work_mem",
        "select * from plain tablesample bernoulli (10)",
        "select json_agg(plain) from plain",
        "explain select a from plain",
    ],
)
def test_an_ordinary_read_shares_a_backend(server, database, text):
    verdict = classify(text.encode(), scan(server))
    assert (verdict.kind, verdict.clean, verdict.holds) == SHARES
    assert not leaves_something(server, text)
    assert not writes_or_locks(server, text)


def test_a_virtual_column_calls_no_function_of_the_users_when_it_is_read(server, database):
    """PostgreSQL 18 refuses it; a release that does not is met by the scan, which takes such a column for a view's."""
    server.query(function("f(int)", "begin return 1; end", volatility="immutable"), dbname=database)
    with pytest.raises(psycopg2.Error):
        server.query("create table t (a int, b int generated always as (f(a)) virtual)", dbname=database)

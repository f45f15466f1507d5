"""The catalog scan on real servers: it finds every way that a database can change a session behind a plain text, it
finds nothing in an ordinary schema, and no text that is said to leave nothing behind leaves anything.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from lib.route import CHANGED_SQL, SCAN_SQL, Catalog, Kind, Router
from lib.route.classify import classify
from tests.servers import Server
from tests.workplace import wait_until

SET = "set_config('leak.here', '1', false)"
QUOTED = SET.replace("'", "''")

ORDINARY = """
create table customer (id serial primary key, name text not null default 'x', made timestamptz default now(),
                       doc jsonb, check (length(name) > 0));
create table orders (id bigint generated always as identity primary key, note text, u uuid default gen_random_uuid(),
                     customer_id int references customer on delete cascade on update cascade,
                     total numeric(10, 2) check (total >= 0 and total between 0 and 1e9));
create index on customer (lower(name));
create index on orders (customer_id) where total > 0;
create index on customer using gin (doc);
create view per_customer as
    select c.name, sum(o.total) as total, count(*) as n, string_agg(o.note, ',')
      from customer c join orders o on o.customer_id = c.id where c.name like 'a%' and c.id in (1, 2) group by c.name;
create view ranked as
    select *, row_number() over (order by total), (n, total) < (1, 2) as r, name is distinct from 'y' as d
      from per_customer;
create materialized view kept as select * from ranked;
create table part (id int, at date, v text) partition by range (at);
create table part_a partition of part for values from ('2020-01-01') to ('2021-01-01');
create table pgbench_accounts (aid int primary key, bid int, abalance int, filler char(84));
create domain email as text default 'a@b' check (value ~ '@');
create table mails (e email primary key);
create type mood as enum ('sad', 'ok');
create type pair as (a int, b text);
create function touch() returns trigger language plpgsql as $$
begin
    new.made := now();
    if tg_op = 'UPDATE' then update customer set name = upper(name) where id = new.id and false; end if;
    return new;
end $$;
create trigger touch before insert or update on customer for each row execute procedure touch();
create function tell() returns trigger language plpgsql as $$
begin perform pg_notify('q', row_to_json(new)::text); return null; end $$;
create trigger tell after insert on orders for each row execute procedure tell();
create function add(a int, b int default 2) returns int language sql immutable as 'select a + b';
create function total(c int) returns numeric language plpgsql stable as $$
declare t numeric(10, 2); r record;
begin
    select sum(o.total) into t from orders o where o.customer_id = c;
    for r in select * from per_customer loop t := t + coalesce(r.total, 0); end loop;
    return t;
end $$;
create function enter(n text) returns int language plpgsql as $$
declare i int;
begin
    insert into customer (name) values (n) on conflict (id) do update set name = excluded.name returning id into i;
    return i;
end $$;
alter table orders enable row level security;
create policy mine on orders using (customer_id = current_setting('app.customer', true)::int);
create table booking (during tsrange, exclude using gist (during with &&));
create aggregate mysum(int) (sfunc = int4pl, stype = int, initcond = '0');
create operator === (procedure = int4eq, leftarg = int, rightarg = int);
create cast (mood as int) with inout;
"""

# Everything named trap_* can change the session when a plain text mentions it.
TRAPS = f"""
create function trap_f() returns int language plpgsql as $$ begin perform {SET}; return 1; end $$;
create function trap_sql() returns text language sql as $$ select {SET} $$;
create function trap_role() returns int language plpgsql as $$ begin set application_name = 'x'; return 1; end $$;
create function trap_lock() returns int language sql as $$ select 1 from (select pg_advisory_lock(1)) x $$;
create function trap_attribute() returns int language sql as $$ select 1 from (select (1).pg_advisory_lock) x $$;
create function trap_temp() returns int language plpgsql as $$ begin create temp table tt (a int); return 1; end $$;
create function trap_execute() returns int language plpgsql as
    $$ begin execute 'select {QUOTED}'; return 1; end $$;
create function trap_xml() returns xml language sql as
    $$ select query_to_xml('select {QUOTED}', true, true, '') $$;
create function trap_calls() returns int language sql as $$ select trap_f() $$;
create function trap_default(a text default {SET}) returns int language plpgsql as 'begin return 1; end';
create function trap_do() returns int language plpgsql as
    $$ begin do 'begin perform {QUOTED}; end'; return 1; end $$;
create function t_set() returns trigger language plpgsql as $$ begin perform {SET}; return coalesce(new, old); end $$;
create table trap_trigger (a int);
create trigger t before insert on trap_trigger for each row execute procedure t_set();
create view trap_view as select {SET};
create view trap_view2 as select * from trap_view;
create view trap_view3 as select trap_calls();
create view trap_settings as select * from pg_settings;
create view trap_prepared as select * from pg_prepared_statements;
create view trap_prepared_by_call as select * from pg_prepared_statement();
create function trap_prepared_f() returns bigint language sql as $$ select count(*) from pg_prepared_statements $$;
create table trap_column (a int, b int default trap_f());
create table trap_check (a int check (trap_f() = a));
create function trap_immutable(int) returns int immutable language plpgsql as $$ begin perform {SET}; return 1; end $$;
create table trap_index (a int);
create index on trap_index (trap_immutable(a));
create table trap_predicate (a int);
create index on trap_predicate (a) where trap_immutable(a) = 1;
create table trap_policy (a int);
alter table trap_policy enable row level security;
create policy p on trap_policy using (trap_f() = 1);
create table trap_policy2 (a int);
alter table trap_policy2 enable row level security;
create policy p on trap_policy2 for insert with check (exists (select 1 from trap_view));
create table trap_parent (a int primary key);
create table trap_child (a int references trap_parent on delete cascade);
create trigger t before delete on trap_child for each row execute procedure t_set();
create table trap_part (a int) partition by list (a);
create table trap_part1 partition of trap_part for values in (1);
create trigger t before insert on trap_part1 for each row execute procedure t_set();
create table trap_heir (a int);
create table trap_heir1 () inherits (trap_heir);
create trigger t before delete on trap_heir1 for each row execute procedure t_set();
create table trap_rule (a int);
create rule r as on insert to trap_rule do also select {SET};
create table trap_rule2 (a int);
create rule r as on insert to trap_rule2 do also insert into trap_trigger values (1);
create table trap_when (a int);
create trigger t before update on trap_when for each row when (trap_f() = 1)
    execute procedure suppress_redundant_updates_trigger();
create function trap_operator(point, point) returns bool language sql as $$ select {SET} is not null $$;
create operator @#@ (procedure = trap_operator, leftarg = point, rightarg = point);
create view trap_operator_view as select point(1, 1) @#@ point(2, 2);
create function trap_add(int, int) returns int language plpgsql as $$ begin perform {SET}; return 1; end $$;
create aggregate trap_aggregate(int) (sfunc = trap_add, stype = int);
"""

# Each makes every text suspect, as no text need show it.
HIDDEN = [
    f"create function f(text) returns point language sql as $$ select point(1, 1) from (select {SET}) x $$;"
    "create cast (text as point) with function f(text) as assignment",
    f"create function f() returns bool language sql as $$ select {SET} is not null $$;"
    "create domain d as int check (f())",
    f"create function f() returns int language sql as $$ select 1 from (select {SET}) x $$;"
    "create domain d as int default f()",
    f"create function f(box, box) returns bool language sql as $$ select {SET} is not null $$;"
    "create operator <= (procedure = f, leftarg = box, rightarg = box)",
    "create function f(float8, float8) returns float8 immutable language plpgsql as"
    f" $$ begin perform {SET}; return 1; end $$;"
    "create type r as range (subtype = float8, subtype_diff = f)",
    f"create function f(point) returns int immutable language plpgsql as $$ begin perform {SET}; return 1; end $$;"
    "create operator === (procedure = point_eq, leftarg = point, rightarg = point);"
    "create operator class c for type point using hash as operator 1 ===, function 1 f(point)",
]


# Each changes what some text may do, and none need go through the pool.
DDL = [
    "create function f() returns int language plpgsql as 'begin return 1; end'",
    "create or replace function f() returns int language plpgsql as $$ begin set a.b = 1; return 1; end $$",
    "alter function f() set work_mem = '1MB'",
    "create function t() returns trigger language plpgsql as 'begin return new; end';"
    "create trigger t before insert on plain for each row execute function t()",
    "alter table plain disable trigger t",
    "alter table plain enable trigger t",
    "create view v as select a from plain",
    "create or replace view v as select f() as a",
    "alter table plain enable row level security; create policy p on plain using (true)",
    "alter policy p on plain using (f() = 1)",
    "create rule r as on insert to plain do also select f()",
    "create domain d as int",
    "alter domain d add check (f() = value)",
    "create operator === (procedure = int4eq, leftarg = int, rightarg = int)",
    "create cast (text as point) with inout",
    "alter table plain alter a set default f()",
    "create table heir () inherits (plain)",
    "alter table heir no inherit plain",
    "create statistics s on a, b from plain",
    "drop extension plpgsql cascade",
    "create extension plpgsql",
    "drop table heir",
]


@pytest.fixture(scope="module", params=[16, 18])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(version=request.param) as server:
        yield server


@pytest.fixture
def database(server: Server) -> Iterator[psycopg2.extensions.connection]:
    server.query("drop database if exists scanned")
    server.query("create database scanned")
    connection = server.connect(dbname="scanned")
    connection.autocommit = True
    yield connection
    connection.close()


def ask(connection: psycopg2.extensions.connection, sql: str) -> list[tuple]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def scan(connection: psycopg2.extensions.connection) -> Catalog:
    return Catalog.from_rows(ask(connection, SCAN_SQL))


def test_an_ordinary_schema_has_nothing_suspect(database):
    ask(database, ORDINARY)
    catalog = scan(database)
    assert repr(catalog) == "<Catalog 0 functions, 0 relations, 0 operators suspect>"
    assert catalog.harmless == {b"add", b"total", b"enter", b"mysum"}
    assert catalog.writers == {b"enter"}


def test_pgbench_has_only_shareable_reads_and_writes(server, database):
    ask(database, "create table pgbench_accounts (aid int primary key, bid int, abalance int, filler char(84))")
    router = Router(scan(database))
    assert router.verdict(b"SELECT abalance FROM pgbench_accounts WHERE aid = 7;").kind == Kind.SHAREABLE
    verdict = router.verdict(b"UPDATE pgbench_accounts SET abalance = abalance + -12 WHERE aid = 7;")
    assert (verdict.kind, verdict.clean) == (Kind.WRITE, False)


def test_every_trap_is_found(database):
    ask(database, TRAPS)
    catalog = scan(database)
    traps = ask(
        database,
        "select relname from pg_class where relname like 'trap%' and relkind in ('r', 'v', 'p')"
        " union select proname from pg_proc where proname like 'trap%'",
    )
    assert {name.encode() for (name,) in traps} - catalog.suspects == set()
    assert catalog.operators == {b"@#@"}
    assert not catalog.suspect_all


@pytest.mark.parametrize("sql", HIDDEN)
def test_what_no_text_shows_makes_everything_suspect(database, sql):
    ask(database, sql)
    assert scan(database).suspect_all


def test_extensions_of_every_day_have_nothing_that_no_text_shows(server, database):
    """Those of contrib that this server has; their own functions may be suspect by name."""
    available = {name for (name,) in ask(database, "select name from pg_available_extensions")}
    for name in sorted(available & {"citext", "hstore", "pg_trgm", "pgcrypto", "uuid-ossp", "btree_gist", "unaccent"}):
        ask(database, f'create extension "{name}"')
    assert not scan(database).suspect_all
    assert b"set_limit" not in scan(database).harmless


def test_every_change_that_matters_shows_in_the_counters(server, database):
    """They move within a second or two, and at once when the one who made the change disconnects."""
    ask(database, "create table plain (a int, b text)")
    counters = [ask(database, CHANGED_SQL)]

    def moved() -> bool:
        return ask(database, CHANGED_SQL) != counters[-1]

    for ddl in DDL:
        server.query(ddl, dbname="scanned")
        wait_until(moved, what=f"the counters to tell of: {ddl}")
        counters.append(ask(database, CHANGED_SQL))


# What a session could keep: settings, locks, channels, cursors, prepared statements, temporary objects.
STATE = """
select array(select name || '=' || setting from pg_settings where source = 'session' order by 1),
       current_setting('leak.here', true), current_user::text, session_user::text,
       (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
       array(select pg_listening_channels()), array(select name from pg_cursors where is_holdable),
       array(select name from pg_prepared_statements),
       (select count(*) from pg_class where relnamespace = pg_my_temp_schema())
"""

LEAKS = [
    f"select {SET}",
    "select (5).pg_advisory_lock",
    "update pg_settings set setting = '7MB' where name = 'work_mem'",
    "update trap_settings set setting = '7MB' where name = 'work_mem'",
    "select u&\"set\\005fconfig\"('leak.here', '1', false)",
    "explain analyze create temp table leaked as select 1",
    "explain analyze select trap_f()",
    "explain select trap_immutable(1)",
    "create temp table leaked (a int)",
    "select 1 as a into temp leaked",
    "create table pg_temp.leaked (a int)",
    "do $$ begin perform set_config('leak.here', '1', false); end $$",
    "set work_mem = '7MB'",
    "set session work_mem = '7MB'",
    "set local.x = 1; set leak.here = 1",
    "begin; set work_mem = '7MB'; commit",
    "select 1; set work_mem = '7MB'",
    "set/*c*/work_mem='7MB'",
    "/* a /* b */ c */ set work_mem = '7MB'",
    "-- c\rset work_mem = '7MB'",
    "set time zone 'Asia/Tokyo'",
    "set role pg_monitor",
    "set session characteristics as transaction read only",
    "listen a",
    "prepare p as select 1",
    "declare c cursor with hold for select 1",
    "begin; declare c cursor with hold for select 1; commit",
    "select trap_f()",
    "select trap_role()",
    "select trap_lock()",
    "select trap_attribute()",
    "select trap_temp()",
    "select trap_execute()",
    "select trap_calls()",
    "select trap_default()",
    "select trap_do()",
    'select "trap_f"()',
    "select public . trap_f ( )",
    "select TRAP_F/**/()",
    "insert into trap_trigger values (1)",
    "insert into public.trap_trigger (a) values (1)",
    "with x as (insert into trap_trigger values (1) returning 1) select * from x",
    "select * from trap_view",
    "table trap_view2",
    "select * from trap_view3",
    "insert into trap_column (a) values (1)",
    "insert into trap_check values (1)",
    "insert into trap_index values (1)",
    "insert into trap_predicate values (1)",
    "insert into trap_part values (1)",
    "insert into trap_parent values (1); insert into trap_child values (1); delete from trap_parent",
    "insert into trap_heir1 values (1); delete from trap_heir",
    "insert into trap_rule values (1)",
    "insert into trap_rule2 values (1)",
    "insert into trap_when values (1); update trap_when set a = 2",
    "select point(1, 1) @#@ point(2, 2)",
    "select point(1, 1) operator(public.@#@) point(2, 2)",
    "select * from trap_operator_view",
    "select trap_aggregate(1)",
    "select distinct on (a) set_config('leak.here', '1', false) from (select 1 as a) x",
    "select 1 operator(pg_catalog.+) trap_f()",
    "values (trap_f())",
    "select $$'$$, set_config('leak.here', '1', false), $$'$$",
    "select '\\', set_config('leak.here', '1', false), '\\'",
    "select e'\\'', set_config('leak.here', '1', false), ''",
    "copy (select trap_f()) to stdout",
]


def test_no_text_leaks_that_is_said_to_leave_nothing(server, database):
    """Every text below changes its session on a real server, so every one must be cleaned after, held, or looked at
    for what it has set."""
    ask(database, TRAPS)
    catalog = scan(database)
    harmless_after_all = []
    missed = []
    for text in LEAKS:
        connection = server.connect(dbname="scanned")
        connection.autocommit = True
        before = ask(connection, STATE)
        try:
            with connection.cursor() as cursor:
                if text.startswith("copy"):
                    with open("/dev/null", "w") as nowhere:
                        cursor.copy_expert(text, nowhere)
                else:
                    cursor.execute(text)
        except psycopg2.Error as error:
            harmless_after_all.append((text, str(error)))
        else:
            if ask(connection, STATE) == before:
                harmless_after_all.append((text, "changed nothing"))
        connection.close()
        verdict = classify(text.encode(), catalog)
        if not (verdict.clean or verdict.sets or verdict.resets):
            missed.append(text)
    assert missed == []
    # a text that changes nothing here proves nothing
    assert not harmless_after_all, harmless_after_all

"""Every text gets the class and the flags of design section 5."""

from __future__ import annotations

import pytest

from lib.route import Catalog, Kind
from lib.route.classify import classify

EMPTY = Catalog()
SCANNED = Catalog(
    functions=frozenset({b"set_tenant", b"set_custom", b"set_any", b"run_any", b"lower", b"Mixed"}),
    relations=frozenset({b"trapped", b"audited"}),
    operators=frozenset({b"@#@"}),
    harmless=frozenset({b"add", b"enqueue"}),
    holders=frozenset({b"set_tenant", b"set_custom", b"set_any", b"trapped"}),
    setters={b"set_custom": frozenset({"app.tenant"})},
    hiders=frozenset({b"set_any"}),
    definers=frozenset({b"run_any"}),
    writers=frozenset({b"enqueue", b"remote"}),
)


def brief(text: str | bytes, catalog: Catalog = EMPTY) -> str:
    """The class and the flags of a text in one line: 'SETTING clean holds'."""
    verdict = classify(text.encode() if isinstance(text, str) else text, catalog)
    flags = ("clean", "holds", "follows", "ddl", "transaction", "ends", "currval")
    return " ".join([verdict.kind.name, *(name for name in flags if getattr(verdict, name))])


READS = [
    "select 1",
    "",
    " ; -- nothing",
    "values (1), (2)",
    "table t",
    "(select 1) union all (select 2)",
    "show all",
    "SHOW TRANSACTION ISOLATION LEVEL",
    "select * from t where a in (1, 2) and exists (select 1 from u) or b between (1) and (2)",
    "select count(*) filter (where a > 1) over (partition by b order by c), lower(d), pg_catalog.upper(e) from t",
    "select a::numeric(10, 2), b::public.geometry(point, 4326), cast(c as varchar(10)), extract(year from d) from t",
    "select coalesce(a, nullif(b, 1), greatest(c, d)), array(select 1), row(1, 2), (t).x from t",
    "select case when (a) then (b) else (c) end from t where not (a) and (b) is distinct from (c)",
    "with recursive x(n) as (select 1 union select n + 1 from x), y(m) as not materialized (select 1) table y",
    "select * from generate_series(1, 3) g(x), unnest($1::int[]) as u(y), (values (1)) v(a), lateral (select 1) l(z)",
    "select a from t group by grouping sets ((a), (b)), rollup (a), cube (b) having (a > 1) limit (1) offset (2)",
    "select * from json_to_recordset('[]') as x(a int, b text) join t using (a)",
    "select percentile_cont(0.5) within group (order by a) from t tablesample system (10) repeatable (1)",
    "select substring(a from 2 for 3), overlay(b placing 'x' from 1), trim(both ' ' from c), position('a' in d) from t",
    "select c.oid from pg_catalog.pg_class c where c.relname operator(pg_catalog.~) '^(t)$' collate pg_catalog.default",
    "select current_setting('a.b', true), current_user, now(), random(), gen_random_uuid(), version()",
    "select \"T\".\"id\" from \"T\" where \"T\".\"id\" = 42",
    "explain select 1",
    "explain (analyze, buffers, format json) select 1",
    "explain analyze verbose select 1",
    "explain (select 1)",
]  # fmt: skip


@pytest.mark.parametrize("text", READS)
def test_plain_reads_are_shareable(text):
    assert brief(text) == "SHAREABLE"


@pytest.mark.parametrize(
    "text",
    [
        "insert into t values (1)",
        "insert into public.t as q (a, b) values (1, lower('x')) on conflict (a) do update set b = 2",
        "insert into t (a, b) select a, b from u",
        "update t set (a, b) = (1, 2) where c in (3)",
        "delete from only t using u where t.a = u.a",
        "merge into t using u on (t.a = u.a) when not matched then insert (a) values (1)",
        "with x as (insert into t values (1) returning *) select * from x",
        "with x as (delete from t returning *) insert into u select * from x",
        "select * from t for update",
        "select * from t for no key update of t skip locked",
        "select * from t for share",
        "copy t (a, b) from stdin with (format csv, force_quote (a))",
        "copy (select * from t) to stdout",
        "notify a, 'b'",
        "select nextval('s')",
        "select setval('s', 1)",
        "select pg_sleep(1)",
        "select pg_notify('a', 'b')",
        "select pg_advisory_xact_lock(1)",
        "select lo_get(1)",
        "select txid_current()",
        "select set_config('a.b', 'c', true)",
        "explain analyze insert into t values (1)",
        "commit prepared 'x'",
        "insert into report select * from pg_stat_activity",
        "insert into t values (1) returning currval('t_id_seq')",
        "insert into t values (1); insert into t values (2)",
        "select 1; select 2",
        "insert into t (a) values (1); select lastval()",
        "select nextval('s'); select currval('s')",
    ],
)
def test_writes_and_waits_leave_nothing_but_take_no_riders(text):
    assert brief(text) == "WRITE"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("begin", "TRANSACTION transaction"),
        ("/*s*/BEGIN", "TRANSACTION transaction"),
        ("begin isolation level serializable read only", "TRANSACTION transaction"),
        ("start transaction", "TRANSACTION transaction"),
        ("begin; insert into t values (1); commit", "TRANSACTION transaction"),
        ("savepoint \"a\"", "TRANSACTION transaction"),
        ("release a", "TRANSACTION transaction"),
        ("rollback to savepoint a", "TRANSACTION transaction"),
        ("rollback transaction to a", "TRANSACTION transaction"),
        ("prepare transaction 'x'", "TRANSACTION transaction"),
        ("lock table t", "TRANSACTION transaction"),
        ("declare c cursor for select 1", "TRANSACTION transaction"),
        ("declare c cursor without hold for select 1", "TRANSACTION transaction"),
        ("commit and chain", "TRANSACTION transaction"),
        ("commit", "TRANSACTION ends"),
        ("END;", "TRANSACTION ends"),
        ("rollback work", "TRANSACTION ends"),
        ("abort transaction and no chain", "TRANSACTION ends"),
        ("commit; commit", "TRANSACTION transaction"),
        ("fetch 5 from c", "TRANSACTION"),
        ("set local a = 1", "TRANSACTION"),
        ("set transaction read only", "TRANSACTION"),
        ("set transaction_isolation to serializable", "TRANSACTION"),
        ("reset transaction isolation level", "TRANSACTION"),
        ("set session transaction read only", "TRANSACTION"),
        ("set constraints all deferred", "TRANSACTION"),
    ],
)  # fmt: skip
def test_transaction_commands_hold_no_longer_than_their_transaction(text, expected):
    assert brief(text) == expected


ANY = {"*"}
WHO = {"role", "session_authorization"}


@pytest.mark.parametrize(
    ("text", "sets", "resets"),
    [
        ("set a = 1", {"a"}, set()),
        ("set session a to 'b', 'c'", {"a"}, set()),
        ("set local.a = 1", {"local.a"}, set()),
        ("set session.a = 1", {"session.a"}, set()),
        ("set \"App\" . \"User\" to 'x'", {"app.user"}, set()),
        ("set time zone 'UTC'", {"timezone"}, set()),
        ("set time zone interval '+01:00' hour to minute", {"timezone"}, set()),
        ("set names 'utf8'", {"client_encoding"}, set()),
        ("set schema 'a'", {"search_path"}, set()),
        ("set xml option document", {"xmloption"}, set()),
        ("set role x", {"role"}, set()),
        ("set role none", {"role"}, set()),
        ("set role to none", {"role"}, set()),
        ("set session authorization x", {"session_authorization"}, set()),
        ("set session session authorization x", {"session_authorization"}, set()),
        ("set session characteristics as transaction read only", {"default_transaction_read_only"}, set()),
        ("set search_path to \"default\"", {"search_path"}, set()),
        ("set a.b to default.c", {"a.b"}, set()),
        ("set something new", ANY, set()),
        ("set", ANY, set()),
        ("reset a b", ANY, set()),
        ("set a to default", set(), {"a"}),
        ("set session A.B = default", set(), {"a.b"}),
        ("set time zone local", set(), {"timezone"}),
        ("set names default", set(), {"client_encoding"}),
        ("set names", set(), {"client_encoding"}),
        ("set session authorization default", set(), {"session_authorization", "role"}),
        ("reset search_path", set(), {"search_path"}),
        ("RESET \"DateStyle\"", set(), {"datestyle"}),
        ("reset a.b", set(), {"a.b"}),
        ("reset time zone", set(), {"timezone"}),
        ("reset session authorization", set(), {"session_authorization", "role"}),
        ("reset all", set(), ANY),
        ("discard all", set(), ANY | WHO),
        ("set a = 1; select 1", {"a"}, set()),
        ("select 1; set a = 1; set b to default", {"a"}, {"b"}),
        ("SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;", set(), ANY),
        ("select set_config('a', 'b', false)", ANY, set()),
        ("select set_config('a', 'b', $1)", ANY, set()),
        ("select set_config('a', 'b', not true)", ANY, set()),
        ("select set_config('a', 'b', true), set_config('a', 'b', false)", ANY, set()),
        ("select set_config(is_local => false, new_value => 'b', setting_name => true)", ANY, set()),
        ("select pg_catalog . set_config ('a', 'b', false)", ANY, set()),
        ("select \"set_config\"('a', 'b', false)", ANY, set()),
        ("select SET_CONFIG/**/('a', 'b', false)", ANY, set()),
        ("select distinct on (a) set_config('a', 'b', false) from t", ANY, set()),
        ("select 1 where set_config('a', 'b', false) > ''", ANY, set()),
        ("select ('x').set_config", ANY, set()),
        ("explain analyze select set_config('a', 'b', false)", ANY, set()),
    ],
)  # fmt: skip
def test_settings_say_what_they_set_and_hold_nothing(text, sets, resets):
    verdict = classify(text.encode(), EMPTY)
    assert brief(text) == "SETTING"
    assert not verdict.session
    assert (verdict.sets, verdict.resets) == (sets, resets)


def test_what_is_reset_for_a_transaction_only_is_told_apart():
    verdict = classify(b"set local timezone to default", EMPTY)
    assert (verdict.resets, verdict.local_resets) == (set(), {"timezone"})
    assert classify(b"set local timezone to 'UTC'", EMPTY).local_resets == set()


def test_a_setting_that_nobody_could_be_asked_for_by_name_holds_the_worker():
    assert brief('set app."Größe" = 1') == "SETTING clean holds"
    assert brief("set seed to 0.5") == "SESSION clean holds"


@pytest.mark.parametrize(
    ("text", "deallocates"),
    [
        ("unlisten *", set()),
        ("unlisten a", set()),
        ("close c", set()),
        ("close all", set()),
        ("discard temp", set()),
        ("discard plans", set()),
        ("select pg_advisory_unlock_all()", set()),
        ("select pg_advisory_unlock_shared(1, 2)", set()),
        ("deallocate all", ANY),
        ("deallocate prepare all", ANY),
        ("deallocate P", {"p"}),
        ('deallocate prepare "P q"', {"P q"}),
        ("deallocate prepare", {"prepare"}),
    ],
)
def test_what_gives_something_back_holds_nothing(text, deallocates):
    verdict = classify(text.encode(), EMPTY)
    assert brief(text) == "WRITE"
    assert verdict.releases
    assert not verdict.session
    assert verdict.deallocates == deallocates


def test_discard_all_alone_takes_everything_away():
    assert classify(b"discard all", EMPTY).discards
    assert classify(b"discard all", EMPTY).deallocates == ANY
    assert not classify(b"discard all; listen a", EMPTY).discards
    assert classify(b"drop table t", EMPTY).releases


@pytest.mark.parametrize(
    ("text", "databases"),
    [
        ("drop database shop", {"shop"}),
        ("DROP DATABASE IF EXISTS Shop", {"shop"}),
        ('drop database "Shop" with (force)', {"Shop"}),
        ('drop database "if"', {"if"}),
        ("alter database shop rename to store", {"shop"}),
        ("alter database shop set tablespace fast", {"shop"}),
        ("alter database shop set work_mem = '1MB'", set()),
        ("create database store template shop", {"shop"}),
        ("create database store owner = me template = \"Shop\"", {"Shop"}),
        ("create database store with template=shop encoding 'UTF8'", {"shop"}),
        ("create database store", {"template1"}),
        ("drop table database", set()),
    ],
)
def test_a_database_that_must_be_left_is_named(text, databases):
    verdict = classify(text.encode(), EMPTY)
    assert verdict.frees == databases
    assert (verdict.kind, verdict.clean) == (Kind.WRITE, True)


@pytest.mark.parametrize(
    "text",
    [
        "listen a",
        "prepare p as select 1",
        "load 'x'",
        "declare c cursor with hold for select 1",
        "declare c scroll cursor with hold for select set_config('a', 'b', true)",
        "create temp table t (a int)",
        "create local temporary table t as select 1",
        "create or replace temp view v as select 1",
        "create temp recursive view v (n) as values (1)",
        "create temporary sequence s",
        "create table pg_temp.t (a int)",
        "select * from pg_temp_3.t",
        "select * into temp t from u",
        "select * into temporary table t from u",
        "explain analyze create temp table t as select 1",
        "select pg_advisory_lock(1)",
        "select (5).pg_advisory_lock",
        "select pg_try_advisory_lock_shared(1, 2)",
        "select setseed(0.5)",
        "select pg_create_physical_replication_slot('a', true, true)",
    ],
)
def test_session_features_hold_the_worker(text):
    verdict = classify(text.encode(), EMPTY)
    assert (verdict.kind, verdict.clean, verdict.holds, verdict.session) == (Kind.SESSION, True, True, True)


@pytest.mark.parametrize(
    "text",
    [
        "do $$ begin execute 'set a = 1'; end $$",
        "do 'begin set a = 1; end'",
        "do language plpython3u $$ x = 1 $$",
        "call p(1)",
        "execute p(1)",
        "select f(1)",
        "select public.f(1)",
        'select "f"(1)',
        "select * from f(1) g(a)",
        "select 1 operator(pg_catalog.+) f(2)",
        "select distinct on (a) f(b) from t",
        "insert into t values (f(1))",
        "update t set a = f(1)",
        "with x as (select 1), y as (select f(1)) select * from y",
        "select query_to_xml('select set_config(''a'', ''b'', false)', true, true, '')",
        "select * from ts_stat('select to_tsvector(set_config(''a'', ''b'', false))')",
        "select ('select 1').ts_stat",
        "select cursor_to_xml('c', 1, true, true, '')",
        "select ts_rewrite('a'::tsquery, 'select 1')",
        "copy t from program 'x'",
        "copy t to '/x'",
        "delete from pg_catalog.pg_proc",
        "frobnicate 1",
        "select '",
    ],
)
def test_what_the_text_does_not_show_is_opaque_and_cleaned_after(text):
    verdict = classify(text.encode(), EMPTY)
    assert (verdict.kind, verdict.clean, verdict.holds) == (Kind.OPAQUE, True, False)


@pytest.mark.parametrize(
    "text",
    [
        "begin; create temp table t (a int); commit",
        "begin; listen a; commit",
        "select 1; select pg_advisory_lock(1)",
    ],
)
def test_session_state_anywhere_in_a_text_of_several_statements_holds_the_worker(text):
    verdict = classify(text.encode(), EMPTY)
    assert (verdict.kind, verdict.clean, verdict.holds) == (Kind.SESSION, True, True)


def test_several_statements_are_opaque_when_one_needs_cleaning():
    assert brief("select 1; create table t (a int)") == "OPAQUE clean ddl"
    atomic = "create function f() returns int begin atomic; select 1; end; select 1"
    assert brief(atomic) == "OPAQUE clean ddl transaction"
    assert brief("create rule r as on insert to t do also (delete from u; delete from v)") == "WRITE clean ddl"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("create table t (a int default f(1) check (f(2) > 0))", "WRITE clean ddl"),
        ("create table temperature (temp int)", "WRITE clean ddl"),
        ("create table t as select 1", "WRITE clean ddl"),
        ("create table t as select set_config('a', 'b', false)", "SETTING clean ddl"),
        ("select * into t from u", "WRITE clean ddl"),
        ("alter table t add b int", "WRITE clean ddl"),
        ("drop function f(int)", "WRITE clean ddl"),
        ("grant all on t to u", "WRITE clean ddl"),
        ("truncate t cascade", "WRITE clean"),
        ("vacuum (analyze) t", "WRITE clean"),
        ("refresh materialized view v", "WRITE clean"),
        ("create function f() returns int language sql as 'select 1'", "WRITE clean ddl"),
    ],
)
def test_ddl_and_maintenance_are_cleaned_after(text, expected):
    assert brief(text) == expected


def test_update_of_pg_settings_is_followed():
    assert brief("update pg_settings set setting = 'x' where name = 'search_path'") == "OPAQUE clean follows"
    assert brief("with x as (select 1) update pg_catalog.pg_settings set setting = 'x'") == "OPAQUE clean follows"
    assert brief("select * from pg_settings") == "SHAREABLE"


@pytest.mark.parametrize(
    ("text", "spoils"),
    [
        ("load 'x'", True),
        ("select setseed(0.5)", True),
        ("select pg_create_physical_replication_slot('a', true, true)", True),
        ("begin; select pg_backup_start('x'); commit", True),
        ("select dblink_connect('x')", True),
        ("select pg_advisory_lock(1)", False),
        ("listen a", False),
        ("select set_tenant(5)", False),
    ],
)
def test_what_discard_all_does_not_undo_spoils_the_worker(text, spoils):
    catalog = Catalog(
        functions=frozenset({b"dblink_connect", b"set_tenant"}),
        holders=frozenset({b"dblink_connect", b"set_tenant"}),
        spoilers=frozenset({b"dblink_connect"}),
    )
    verdict = classify(text.encode(), catalog)
    assert verdict.holds or verdict.follows
    assert verdict.spoils == spoils
    assert verdict.holds or not spoils


def test_temporary_function_is_opaque_and_holds():
    assert brief("select pg_temp.f(1)") == "OPAQUE clean holds ddl"


def test_currval_is_refused_where_it_would_answer_for_another():
    for text in ("select currval('s')", "select lastval()", "insert into t select currval('s')", "select 's'.currval"):
        verdict = classify(text.encode(), EMPTY)
        assert verdict.kind == Kind.REFUSED
        assert verdict.currval
        assert verdict.refusal is not None
        assert verdict.refusal.sqlstate == "55000"
        assert "RETURNING" in verdict.refusal.hint
    assert brief("select nextval('s'), currval('s')") == "WRITE"
    assert brief("select set_config('a', currval('s')::text, false)") == "REFUSED currval"


def test_standby_is_asked_for_by_exactly_the_first_five_bytes():
    assert classify(b"/*s*/select 1", EMPTY).standby
    assert classify(b"/*s*/ insert into t values (1)", EMPTY).standby
    assert classify(b"/*s*/'", EMPTY).standby
    for text in (b" /*s*/select 1", b"/* s */select 1", b"/*S*/select 1", b"select /*s*/ 1"):
        assert not classify(text, EMPTY).standby


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select set_tenant(5)", "OPAQUE clean follows"),
        ("select t.set_tenant from t", "OPAQUE clean follows"),
        ("select SET_TENANT(5)", "OPAQUE clean follows"),
        ("select set_any('a.b', '5')", "OPAQUE clean holds follows"),
        ("select set_custom('5')", "SETTING follows"),
        ("insert into t select set_custom('5')", "SETTING follows"),
        ("select set_custom('5'), set_tenant(5)", "OPAQUE clean follows"),
        ("select set_custom('5'), enqueue(1), run_any('x')", "OPAQUE clean follows ddl"),
        ("select run_any('x')", "OPAQUE clean ddl"),
        ("select lower('x')", "OPAQUE clean"),
        ("insert into trapped values (1)", "OPAQUE clean follows"),
        ('insert into s."trapped" values (1)', "OPAQUE clean follows"),
        ("delete from audited", "OPAQUE clean"),
        ("copy audited from stdin", "OPAQUE clean"),
        ("begin; delete from audited; commit", "OPAQUE clean transaction"),
        ("declare c cursor for select * from audited", "OPAQUE clean transaction"),
        ("select a @#@ b from t", "OPAQUE clean ddl"),
        ("select a operator(public.@#@) b from t", "OPAQUE clean ddl"),
        ('select "Mixed"(1)', "OPAQUE clean"),
        ("select Mixed from t", "SHAREABLE"),
        ("select add(1, 2)", "SHAREABLE"),
        ("select enqueue(1)", "WRITE"),
        ("select * from remote", "WRITE"),
        ("select 'trapped' from t", "SHAREABLE"),
        ("select new_one(1)", "OPAQUE clean ddl"),
        ("listen audited", "SESSION clean holds"),
    ],
)
def test_names_that_the_scan_found_suspect_are_opaque_wherever_they_stand(text, expected):
    assert brief(text, SCANNED) == expected


def test_name_that_postgresql_cuts_is_opaque():
    assert brief("select " + "a" * 63) == "SHAREABLE"
    assert brief("select " + "a" * 64) == "OPAQUE clean ddl"
    assert brief("select " + "a" * 60 + "é") == "OPAQUE clean ddl"


def test_names_beyond_ascii_are_opaque_while_a_suspect_name_is_beyond_ascii():
    """The client's encoding is not known, so the bytes of two names cannot be compared."""
    assert brief("select 1 from 表 where café = 1", SCANNED) == "SHAREABLE"
    wide = Catalog(relations=frozenset({"表".encode()}))
    assert brief("select 1 from 表", wide).startswith("OPAQUE clean")
    assert brief("select 1 from 表".encode("shift_jis"), wide).startswith("OPAQUE clean")
    assert brief("select 1 from t", wide) == "SHAREABLE"


def test_everything_but_transaction_commands_is_opaque_in_a_database_that_was_not_scanned():
    unknown = Catalog.unknown()
    for text in ("select 1", "insert into t values (1)", "select f(1)", "explain select 1"):
        assert brief(text, unknown) == "OPAQUE clean"
    assert brief("begin", unknown) == "TRANSACTION transaction"
    assert brief("commit", unknown) == "TRANSACTION ends"
    assert brief("rollback to a", unknown) == "TRANSACTION transaction"
    assert brief("set local a = 1", unknown) == "TRANSACTION"
    assert brief("set a = 1", unknown) == "SETTING"
    assert brief("show all", unknown) == "SHAREABLE"
    assert brief("", unknown) == "SHAREABLE"


def test_escaped_name_cannot_hide_a_function():
    """Seen leaking: U&"set\\005fconfig" is set_config."""
    verdict = classify(rb"""select U&"set\005fconfig"('a', 'b', false)""", EMPTY)
    assert (verdict.kind, verdict.clean, verdict.holds) == (Kind.OPAQUE, True, True)


def test_long_script_with_settings_holds_the_worker_though_it_is_not_read():
    rows = b"insert into t values " + b", ".join([b"(1, 'set')"] * 10000)
    assert brief(rows) == "OPAQUE clean"
    assert brief(b"set search_path = a; " + rows) == "OPAQUE clean holds"
    assert brief(rows + b";\n-- then\nBEGIN; create temp table x (a int)") == "OPAQUE clean holds ddl transaction"
    assert brief(rows + b";\nDO 'begin end'") == "OPAQUE clean ddl"


def test_reason_is_a_clause_for_explain_route():
    assert classify(b"select 1", EMPTY).reason == "only reads"
    assert classify(b"select my_func(1)", EMPTY).reason == "calls my_func(), which is not known to be harmless"
    assert classify(b"insert into trapped values (1)", SCANNED).reason == "uses trapped, which may change the session"
    assert classify(b"select 1", Catalog.unknown()).reason == "runs in a database that has not been scanned"


@pytest.mark.parametrize(
    ("text", "leaves"),
    [
        ("do $$ begin perform set_config('a', 'b', false); end $$", "follows"),
        ("do $$ begin perform set_config('a.b$1', 'b', false); end $$", "follows"),
        ("do $$ begin perform set_config('a' || b, 'c', false); end $$", "holds follows"),
        ("do $$ begin perform set_config(a, 'c', false), set_config('a', 'b', false); end $$", "holds follows"),
        ("do language plpgsql $x$ begin listen a; end $x$", "follows"),
        ("do $$ begin perform setseed(0.5); end $$", "holds follows spoils"),
        ("do language plpython3u $$ GD['a'] = 1 $$", "holds follows spoils ddl"),
        ("do $$ begin perform holder(); end $$", "follows"),
        ("do $$ begin perform hider(); end $$", "holds follows"),
        ("do $$ begin perform 1; commit; end $$", ""),
        ("do $$ begin set local work_mem = 1; end $$", ""),
        ("do $$ begin create table t (a int); end $$", "ddl"),
        ("do $$ begin execute 'set a = 1'; end $$", "ddl"),
        ("do $$ begin perform unknown(); end $$", "ddl"),
        ("do 'begin perform 1; end'", "ddl"),
        ("call holder(1)", "follows"),
        ("call definer(1)", "ddl"),
        ("call s.known(1)", ""),
        ("call unknown(1)", "ddl"),
    ],
)
def test_what_do_and_call_are_seen_to_leave_is_known_before_they_run(text, leaves):
    """So the frontend keeps what its first run has set, and the catalog is scanned only after what may change it. It
    keeps the worker, too, only when nobody could ask that for what was set."""
    holders, hiders, definers = frozenset({b"holder", b"hider"}), frozenset({b"hider"}), frozenset({b"definer"})
    catalog = Catalog(holders | definers, holders=holders, hiders=hiders, definers=definers, harmless={b"known"})
    verdict = classify(text.encode(), catalog)
    assert (verdict.kind, verdict.clean) == (Kind.OPAQUE, True)
    assert [name for name in ("holds", "follows", "spoils", "ddl") if getattr(verdict, name)] == leaves.split()


def test_what_writes_without_a_name_is_a_write():
    catalog = Catalog(writing_operators=frozenset({b"@%@"}))
    assert classify(b"select 1 @%@ 2", catalog).kind == Kind.WRITE
    assert classify(b"select 1 + 2", catalog).kind == Kind.SHAREABLE
    assert classify(b"select 1", Catalog(writes_all="has a cast")).kind == Kind.WRITE
    assert classify(b"show a", Catalog(writes_all="has a cast")).kind == Kind.SHAREABLE


def test_what_is_seen_to_set_something_is_followed_where_everything_is_suspect_too():
    catalog = Catalog(
        functions=frozenset({b"holder"}), holders=frozenset({b"holder"}), suspect_all=True, suspect_reason="has a cast"
    )
    assert classify(b"select holder()", catalog).follows
    assert not classify(b"select 1", catalog).follows
    assert classify(b"select 1", catalog).kind == Kind.OPAQUE

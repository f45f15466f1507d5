"""Dialogues about prepared statements between whose uses something else happens: see `test_prepared`.

Settings are other ones than they were at Parse, tables and types are changed, transactions come and go, and SQL knows
the statements of the protocol, too.
"""

from __future__ import annotations

from tests.cluster.prepared import INT4, RUN, RUN_UNNAMED, prepare
from tests.cluster.twice import Dialogue, Step, a, b, on_server, run
from tests.cluster.wire import FLUSH, SYNC, bind, close, describe, execute, once, parse, query

BOTH = "select id, '02/03/2001'::date from t"
FRESH = on_server("drop table if exists changing cascade; drop type if exists changing_mood cascade")
MORE = "alter table changing add column more int default 7"
FIRST, SECOND = "select * from changing order by 1", "select id from changing order by 1"
WORD = "select id, word from t where id = $1"
WRONG = (a(run()), a(run("1", "2")), a(bind("1", name="s"), execute(), bind(name="s"), execute(), SYNC))


def literal(kind: str, text: str) -> str:
    """A statement whose literal is read when it is parsed, by the settings of that time."""
    return f"select '{text}'::{kind} as value, extract(epoch from '{text}'::{kind}) as epoch"


def settings(setting: str, first: str, second: str, statement: str) -> Dialogue:
    """The same text of two frontends under two values, and of each when its value has become the other's."""
    return Dialogue(
        a(query(f"set {setting} to {first}")), b(query(f"set {setting} to {second}")), a(prepare(statement)),
        b(prepare(statement)), a(run()), b(run()), a(run()), b(run()), a(query(f"set {setting} to {second}")),
        a(run()), b(run()), a(run()), b(query(f"set {setting} to {first}")), b(run()), a(run()),
        a(prepare(statement, "t")), b(prepare(statement, "t")), a(run(name="t")), b(run(name="t")), a(run()), b(run()),
    )  # fmt: skip


SETTINGS: dict[str, Dialogue] = {
    "date_style": settings("datestyle", "'ISO, MDY'", "'German, DMY'", literal("date", "02/03/2001")),
    "time_zone": settings("timezone", "'America/New_York'", "'Asia/Tokyo'", literal("timestamptz", "2001-02-03 04:05")),
    "interval_style": settings("intervalstyle", "sql_standard", "postgres", literal("interval", "-1 2:03:04")),
    "search_path": settings("search_path", "near", "far", "select id, word, f(1) from t"),
    "search_path_and_a_type": settings("search_path", "near", "far", "select 'glad'::mood < 'sad'::mood as less"),
    "search_path_and_the_same_columns": settings("search_path", "near", "far", "select name from whose"),
    "search_path_and_tables_that_are_alike": settings(
        "search_path", "near", "far", "select name as n, day::text from whose, near.t where name <> ''"
    ),
    "role": settings("role", "none", "home_role", "select current_user, note from near.guarded"),
    "role_that_is_not_allowed_to": settings("role", "home_other", "home_role", "select note from near.guarded"),
    "escapes": settings("standard_conforming_strings", "on", "off", "select 'a\\\\b' as x"),
    "null_in_comparisons": settings("transform_null_equals", "on", "off", "select 1 where null::int = null"),
    "nulls_in_arrays": settings("array_nulls", "on", "off", "select '{null,a}'::text[] as x"),
    "output_only": settings("extra_float_digits", "-10", "3", "select 1::float8 / 3 as x, 'ab'::bytea as y"),
    "client_encoding": settings("client_encoding", "utf8", "latin1", "select 'aou' as x, length('aou')"),
    "isolation": settings("default_transaction_isolation", "serializable", "'read committed'",
                          "select current_setting('transaction_isolation')"),
    "application_name": settings("application_name", "one", "two", "select current_setting('application_name')"),
    "search_path_and_wrong_counts": Dialogue(
        a(query("set search_path to near")), a(prepare(WORD)), a(query("set search_path to far")), *WRONG,
        a(query("begin")), WRONG[0], a(query("rollback")), a(query("begin")), WRONG[1], a(query("rollback")),
        a(query("begin")), a(run("1")), a(query("rollback")), a(query("set search_path to near")), a(run("1")), *WRONG,
    ),
    "search_path_and_a_name_that_is_taken": Dialogue(
        a(query("set search_path to near")), a(prepare(WORD)), a(query("set search_path to far")), a(prepare(WORD)),
        a(parse(WORD, "s"), bind("1", name="s"), execute(), SYNC), a(query("begin")), a(prepare(WORD)),
        a(query("rollback")), a(parse("select 1", "s"), describe("S", "s"), bind(name="s"), execute(), SYNC),
        a(query("set search_path to near")), a(run("1")),
    ),
    "unnamed_under_another_date_style": Dialogue(
        a(query("set datestyle to 'ISO, MDY'")), b(query("set datestyle to 'ISO, DMY'")),
        a(parse("select '02/03/2001'::date"), SYNC), b(parse("select '02/03/2001'::date"), SYNC), a(RUN_UNNAMED),
        b(RUN_UNNAMED), a(once("set datestyle to 'ISO, DMY'")), a(RUN_UNNAMED),
    ),
    "set_local_while_it_is_parsed": Dialogue(
        a(query("begin; set local datestyle to 'ISO, DMY'; set local search_path to far")),
        a(prepare("select '02/03/2001'::date, name from whose")), a(query("commit")),
        a(query("set search_path to near")),
        a(run()), a(run()), b(prepare("select '02/03/2001'::date, name from whose")), a(run()),
    ),
    "set_in_a_transaction_of_another_frontend": Dialogue(
        a(query("set search_path to near")), b(query("set search_path to near")),
        *(
            step
            for setting in ("set local search_path to far", "set search_path to far", "set datestyle to 'ISO, DMY'")
            for step in (
                b(query("begin")), b(query(setting)), b(prepare(BOTH)), b(run()), b(query("rollback")),
                *(each for _ in range(3) for each in (a(prepare(BOTH)), a(run()), a(run()), a(close("S", "s"), SYNC))),
                b(close("S", "s"), SYNC),
            )
        ),
    ),
    "set_in_a_transaction_in_which_it_was_prepared_before": Dialogue(
        a(query("set search_path to near")), b(query("set search_path to near")),
        *(
            step
            for setting in ("set local search_path to far", "select set_config('search_path', 'far', true)")
            for step in (
                b(prepare(BOTH)), b(query("begin")), b(query(setting)), b(run()), b(query("rollback")),
                *(each for _ in range(3) for each in (a(prepare(BOTH)), a(run()), a(run()), a(close("S", "s"), SYNC))),
                b(run()), b(close("S", "s"), SYNC),
            )
        ),
    ),
    "startup_parameters": Dialogue(
        a(prepare("select '02/03/2001'::date, name from whose")),
        b(prepare("select '02/03/2001'::date, name from whose")),
        a(run()), b(run()), a(run()), b(run()), a(query("reset all")), b(query("discard all")), a(run()), b(run()),
        A={"DateStyle": "SQL, DMY", "search_path": "near"}, B={"search_path": "far", "TimeZone": "Asia/Tokyo"},
    ),
}  # fmt: skip


def changing(change: str, undo: str = "", who: str = "B", statement: str = FIRST) -> Dialogue:
    """A table is changed between Parse and Bind, by another frontend, by the same one, or past the pooler."""

    def altered(sql: str) -> Step:
        return {"A": a, "B": b}[who](query(sql)) if who in "AB" else on_server(sql)

    use = [a(bind(name="s"), execute(), SYNC), a(run()), a(describe("S", "s"), SYNC)]
    return Dialogue(
        FRESH,
        a(query("create type changing_mood as enum ('glad', 'sad')")),
        a(query("create table changing (id int, word text, mood changing_mood)")),
        a(query("insert into changing values (1, 'one', 'glad'); grant all on changing to public")),
        a(prepare(statement)),
        a(run()), a(run()), a(run()), altered(change), *use, *use, b(prepare(statement)), b(run()), *use,
        *([altered(undo), *use, b(run()), *use] if undo else []),
        a(close("S", "s"), SYNC), a(prepare(statement)), *use, a(query("select 'still here'")),
    )  # fmt: skip


CATALOG: dict[str, Dialogue] = {
    "column_added": changing(MORE, "alter table changing drop column more"),
    "column_added_past_the_pooler": changing(MORE, who="server"),
    "column_added_by_itself": changing(MORE, who="A"),
    "column_dropped": changing("alter table changing drop column word"),
    "column_of_another_type": changing(
        "alter table changing alter id type bigint", "alter table changing alter id type int"
    ),
    "parameter_of_another_type": Dialogue(
        FRESH, a(query("create table changing (id int, word text)")),
        a(query("insert into changing values (1, 'one')")), a(prepare("select word from changing where id = $1")),
        a(run("1")), b(query("alter table changing alter id type bigint")), a(run("1")), a(describe("S", "s"), SYNC),
        a(run("4294967296")), b(query("alter table changing alter id type text")), a(run("1")), a(run("1")),
    ),
    "column_that_is_not_asked_for": changing(
        MORE, "alter table changing drop column word", statement=SECOND
    ),
    "column_renamed": changing("alter table changing rename id to number", "alter table changing rename number to id"),
    "table_dropped": changing("drop table changing"),
    "table_dropped_and_made_again": changing(
        "drop table changing; create table changing (id int, word text, n bigint)"
    ),
    "table_made_again_the_same": changing(
        "drop table changing; create table changing (id int, word text, mood changing_mood)"
    ),
    "value_of_an_enum_added": changing("alter type changing_mood add value 'far' before 'glad'"),
    "type_of_a_domain": changing("alter table changing alter word type varchar(3)"),
    "index": changing("create index on changing (id)"),
    "rows": changing("insert into changing values (0, 'new', 'sad')", "delete from changing where id = 1"),
    "function_replaced": Dialogue(
        a(query("create or replace function changing_f() returns text language sql as 'select ''old'''")),
        a(prepare("select changing_f()")), a(run()), a(run()),
        b(query("create or replace function changing_f() returns text language sql as 'select ''new'''")), a(run()),
        a(run()), b(query("drop function changing_f()")), a(run()), a(run()),
        b(query("create function changing_f() returns int language sql as 'select 1'")), a(run()), a(run()),
        a(query("drop function changing_f()")),
    ),
    "described_by_one_and_run_by_the_next_unit": Dialogue(
        FRESH, a(query("create table changing (id int); insert into changing values (1)")),
        a(parse("table changing", "s"), describe("S", "s"), SYNC), b(query("alter table changing alter id type text")),
        a(bind(name="s"), execute(), SYNC), a(parse("table changing"), describe("S"), SYNC),
        b(query("alter table changing alter id type bigint using id::bigint")), a(bind(), execute(), SYNC),
        a(bind(), describe(), execute(), SYNC), a(parse("table changing"), bind(), describe(), execute(), SYNC),
    ),
    "in_a_transaction_of_its_own": Dialogue(
        FRESH, a(query("create table changing (id int); insert into changing values (1)")),
        a(prepare("table changing")), a(query("begin; alter table changing add column more int")), a(run()),
        a(query("rollback")), a(run()), a(query("begin; create table changing_new (n int)")),
        a(prepare("table changing_new", "t")), a(run(name="t")), a(query("rollback")), a(run(name="t")),
        a(describe("S", "t"), SYNC), a(query("create table changing_new (n int)")), a(run(name="t")),
        a(query("drop table changing_new")),
    ),
}  # fmt: skip

TRANSACTIONS: dict[str, Dialogue] = {
    "prepared_before_and_run_inside": Dialogue(
        a(prepare("select $1::int")), a(query("begin")), a(run("1")), a(query("savepoint x")), a(run("x")), a(run("2")),
        a(describe("S", "s"), SYNC), a(close("S", "s"), SYNC), a(query("rollback to x")), a(run("3")),
        a(query("commit")),
        a(run("4")),
    ),
    "prepared_inside_and_rolled_back": Dialogue(
        a(query("begin")), a(prepare("select $1::int")), a(run("1")), a(query("rollback")), a(run("2")),
        a(query("begin; savepoint x")), a(prepare("select 'inner'", "t")), a(query("rollback to x; release x")),
        a(run(name="t")), a(query("rollback")), a(run(name="t")), a(run("3")),
    ),
    "prepared_in_a_failed_transaction": Dialogue(
        a(query("begin; select 1 / 0")), a(prepare("select 1")), a(parse("rollback", "s"), SYNC), a(RUN), a(RUN),
        a(query("begin")), a(prepare("selekt", "t")), a(prepare("select 1", "t")), a(run(name="t")),
        a(query("rollback")),
        a(run(name="t")),
    ),
    "closed_inside_and_rolled_back": Dialogue(
        a(prepare("select 1")), a(query("begin")), a(close("S", "s"), SYNC), a(query("rollback")), a(run()),
        a(prepare("select 2")), a(query("begin")), a(query("deallocate s")), a(query("rollback")), a(run()),
    ),
    "of_transaction_control": Dialogue(
        *(a(prepare(text, text)) for text in ("begin", "commit", "rollback", "savepoint x", "rollback to x")),
        a(prepare("insert into near.rows (note) values ($1) returning note", "s")), a(run(name="begin")),
        a(run("kept")),
        a(run(name="savepoint x")), a(run("lost")), a(run(name="rollback to x")), a(run(name="commit")),
        a(prepare("select note from near.rows", "t")), a(run(name="t")), a(run(name="begin")), a(run("lost too")),
        a(run(name="rollback")), a(run(name="t")), a(run(name="commit")), a(query("truncate near.rows")),
    ),
    "one_unit_with_begin_and_commit_by_name": Dialogue(
        a(parse("begin", "b"), parse("commit", "c"), parse("insert into near.rows (note) values ($1)", "s"), SYNC),
        a(bind(name="b"), execute(), bind("one", name="s"), execute(), bind("two", name="s"), execute(), SYNC),
        a(bind("three", name="s"), execute(), bind(name="c"), execute(), SYNC), a(query("select note from near.rows")),
        a(bind(name="b"), execute(), SYNC, bind("x", name="s"), execute(), SYNC, query("rollback"), tags="ZZZ"),
        a(query("select count(*) from near.rows; truncate near.rows")),
    ),
    "writes": Dialogue(
        a(prepare("insert into near.rows (note) values ($1)")), a(run("a")), a(run("b")), a(run("c")),
        a(prepare("delete from near.rows where note = $1", "t")), a(run("b", name="t")), a(run("b", name="t")),
        a(prepare("select note from near.rows order by 1 for update", "u")), a(run(name="u")),
        a(query("truncate near.rows")),
        a(run(name="u")),
    ),
    "portal_across_syncs": Dialogue(
        a(prepare("select generate_series(1, 9) as n")), a(query("begin")), a(bind(name="s", portal="p"), SYNC),
        a(execute("p", 2), SYNC), a(describe("P", "p"), SYNC), a(query("select 'between'")), a(execute("p", 3), SYNC),
        a(execute("p"), SYNC), a(execute("p"), SYNC), a(close("P", "p"), SYNC), a(execute("p"), SYNC),
        a(query("rollback")),
        a(bind(name="s", portal="p"), SYNC), a(execute("p"), SYNC), a(bind(name="s"), execute(rows=2), SYNC),
        a(execute(), SYNC),
    ),
    "portal_of_a_statement_that_was_closed": Dialogue(
        a(prepare("select generate_series(1, 3) as n")), a(query("begin")), a(bind(name="s", portal="p"), SYNC),
        a(close("S", "s"), SYNC), a(execute("p", 2), SYNC), a(prepare("select 'new'")), a(execute("p"), SYNC), a(run()),
        a(query("commit")), a(run()),
    ),
    "portal_with_a_name_in_one_unit": Dialogue(
        a(prepare("select generate_series(1, $1::int)")),
        a(bind("3", name="s", portal="p"), bind("2", name="s", portal="q"), execute("p", 1), execute("q"), execute("p"),
          close("P", "p"), execute("p"), SYNC),
        a(bind("1", name="s", portal="p"), bind("1", name="s", portal="p"), SYNC), a(run("1")),
    ),
    "suspended_and_flushed": Dialogue(
        a(prepare("select generate_series(1, 5)")), a(bind(name="s"), execute(rows=2), FLUSH, tags="s"),
        a(execute(rows=2), FLUSH, tags="s"), a(execute(), SYNC), a(run()),
    ),
}  # fmt: skip

SQL: dict[str, Dialogue] = {
    "deallocate": Dialogue(
        a(prepare("select 1")), a(prepare("select 2", "t")), a(query("deallocate s")), a(run()), a(run(name="t")),
        a(query("deallocate s")), a(prepare("select 3")), a(run()), a(once("deallocate prepare s")), a(run()),
        a(query("DEALLOCATE T")), a(run(name="t")),
    ),
    "deallocate_of_a_quoted_name": Dialogue(
        a(prepare("select 'upper'", "S")), a(prepare("select 'lower'", "s")), a(query("deallocate S")),
        a(run(name="S")),
        a(run()), a(query('deallocate "S"')), a(run(name="S")), a(prepare("select 'q'", 'a"b')),
        a(query('deallocate "a""b"')), a(run(name='a"b')), a(prepare("select 'u'", "d")),
        a(query("deallocate U&\"\\0064\"")), a(run(name="d")), a(query("deallocate")), a(query("deallocate 's'")),
    ),
    "deallocate_all": Dialogue(
        a(prepare("select 1")), a(prepare("select 2", "t")), a(parse("select 3"), SYNC), b(prepare("select 'B'")),
        a(query("deallocate all")), a(run()), a(run(name="t")), a(RUN_UNNAMED), b(run()), a(prepare("select 4")),
        a(run()),
        a(once("deallocate prepare all")), a(run()), b(run()),
    ),
    "discard_all": Dialogue(
        a(prepare("select 1")), a(parse("select 2"), SYNC), b(prepare("select 'B'")), a(once("discard all")), a(run()),
        a(RUN_UNNAMED), b(run()), a(prepare("select 3")), a(query("discard plans")), a(run()), a(query("discard temp")),
        a(run()), a(query("begin")), a(query("discard all")), a(query("rollback")), a(run()), a(query("discard all")),
        a(run()), b(run()),
    ),
    "deallocate_that_is_prepared": Dialogue(
        a(prepare("select 1")), a(prepare("deallocate s", "d")), a(run()), a(run(name="d")), a(run()), a(run(name="d")),
        a(prepare("select 2")), a(run(name="d")), a(run()), a(prepare("deallocate all", "all")), a(run(name="all")),
        a(run(name="all")), a(run(name="d")),
    ),
    "deallocate_among_others": Dialogue(
        a(prepare("select 1")), a(query("select 'before'; deallocate s; select 'after'")), a(run()),
        a(prepare("select 2")),
        a(query("deallocate s; select 1 / 0")), a(run()), a(query("begin; deallocate s; commit")), a(run()),
        a(query("do $$begin deallocate s; end$$")), a(prepare("select 3")),
        a(query("do $$begin execute 'deallocate s'; end$$")), a(run()),
    ),
    "deallocate_in_a_pipeline": Dialogue(
        a(prepare("select 1"), parse("deallocate s"), bind(), execute(), SYNC, RUN, tags="ZZZ"),
        a(prepare("select 2")), a(once("deallocate s") + RUN, tags="ZZ"), a(run()),
    ),
    "name_that_is_taken_again_in_the_pipeline_that_has_deallocated_it": Dialogue(
        a(prepare("select 1")),
        a(parse("deallocate s"), bind(), execute(), parse("select 2", "s"), bind(name="s"), execute(), SYNC),
        a(run()), a(prepare("select 3", "other")),
        a(parse("deallocate all"), bind(), execute(), parse("select 4", "s"), bind(name="s"), execute(), SYNC),
        a(run()), a(bind(name="other"), execute(), SYNC),
    ),
    # A statement that SQL names is parsed in front of a Query. Where that failed, the backend went on to a Sync, and
    # the frontend heard nothing any more.
    "named_by_sql_in_a_failed_transaction": Dialogue(
        a(prepare("select 1")), a(query("begin")), a(query("select 1 / 0")), a(query("execute s")),
        a(query("select name from pg_prepared_statements")), a(query("deallocate s")), a(run()), a(query("rollback")),
        a(query("execute s")), a(run()),
    ),
    "executed_by_sql_when_its_table_is_gone": Dialogue(
        on_server("create table near.gone (n int); grant select on near.gone to public"),
        a(prepare("select n from near.gone")), a(run()), on_server("drop table near.gone"), a(query("execute s")),
        a(query("select 1")), a(query("begin")), a(query("execute s")), a(query("select 1")), a(query("rollback")),
        a(prepare("select 2", "t")), a(run(name="t")), a(query("deallocate s")),
    ),
    "deallocate_all_that_fails": Dialogue(
        a(prepare("select 1")), a(run()), a(query("begin")), a(run()), a(query("select 1 / 0")),
        a(query("deallocate all")), a(query("rollback")), a(run()), a(query("select 1 / 0; deallocate all")), a(run()),
        a(query("begin")), a(run()), a(query("deallocate all; select 1 / 0")), a(query("rollback")), a(run()),
    ),
    "execute_of_one_of_the_protocol": Dialogue(
        a(prepare("select $1::int + 1 as n")), a(query("execute s(1)")), a(once("execute s(2)")), a(query("execute s")),
        a(run("3")), a(query("explain (costs off) execute s(4)")), a(query("begin; execute s(5); commit")), a(run("6")),
        a(query("create temp table taken as execute s(7)")), a(query("table taken")), a(query("execute t(1)")),
        a(run("8")),
    ),
    "prepare_in_sql_and_run_by_the_protocol": Dialogue(
        a(query("prepare s(int) as select $1 + 1 as n")), a(run("1")), a(describe("S", "s"), SYNC),
        a(query("execute s(2)")),
        a(parse("select 1", "s"), SYNC), a(run("3")), a(close("S", "s"), SYNC), a(query("execute s(4)")),
        a(once("prepare s as select 'other'")), a(run()), a(query("deallocate s")), a(run()),
    ),
    "prepare_in_sql_of_a_name_that_is_taken": Dialogue(
        a(prepare("select 'protocol'")), a(query("prepare s as select 'sql'")), a(run()), a(query("execute s")),
        a(close("S", "s"), SYNC), a(query("prepare s as select 'sql'")), a(run()), a(query("deallocate all")), a(run()),
    ),
    "prepare_in_sql_by_two": Dialogue(
        a(query("prepare s as select 'A'")), b(query("prepare s as select 'B'")), a(query("execute s")),
        b(query("execute s")), a(query("deallocate s")), a(query("execute s")), b(query("execute s")),
    ),
    "what_is_prepared_holds_the_session": Dialogue(
        a(prepare("create temp table mine as select 'A' as whose")),
        b(prepare("create temp table mine as select 'B' as whose")),
        a(run()), b(run()), a(prepare("table mine", "t")), b(prepare("table mine", "t")), a(run(name="t")),
        b(run(name="t")),
        a(prepare("drop table mine", "u")), a(run(name="u")), a(run(name="t")), b(run(name="t")),
    ),
    "settings_that_are_prepared": Dialogue(
        a(prepare("set datestyle to german")),
        a(prepare("select date '2001-02-03'::text, current_setting('datestyle')", "t")),
        a(run(name="t")), a(run()), a(run(name="t")), a(prepare("select set_config($1, $2, false)", "u")),
        a(run("datestyle", "SQL", name="u")), a(run(name="t")), a(run("work_mem", "3MB", name="u")),
        a(query("show work_mem")),
        a(prepare("reset all", "v")), a(run(name="v")), a(run(name="t")), b(query("show work_mem")),
        b(query("show datestyle")),
    ),
    "view_of_prepared_statements": Dialogue(
        a(query("begin")), a(prepare("select 1", "only", (INT4,))),
        a(query("select name, statement, parameter_types, from_sql from pg_prepared_statements where name = 'only'")),
        a(query("rollback")),
    ),
}  # fmt: skip

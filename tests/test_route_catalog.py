"""The rows of a scan are judged together: what is suspect is found through everything that leads to it."""

from __future__ import annotations

import pytest

from lib.route import Catalog
from lib.route.body import Does, read_body
from lib.route.harmless import EFFECT, HARMLESS


def function(oid, name, body="select 1", language="sql", extension="", volatility="v", refs=""):
    return ("function", oid, name, f"{language}/{volatility}/{extension}", refs, body)


def relation(oid, name, kind="r "):
    return ("relation", oid, name, kind, None, None)


def runs(oid, refs, when="write"):
    return ("runs", oid, None, when, refs, None)


def uses(oid, refs, when="read"):
    return ("uses", oid, None, when, refs, None)


SETTER = function(1, "setter", "select set_config('a', 'b', false)")


@pytest.mark.parametrize(
    ("body", "does"),
    [
        ("begin return a + b; end", Does.READ),
        ("declare x numeric(10, 2); r record; begin select sum(a) into x from t; return x; end", Does.READ),
        ("begin if (tg_op = 'DELETE') then return old; end if; raise notice 'set %', new.set; end", Does.READ),
        ("begin for i in 1..10 loop perform lower('x'); end loop; return query (select 1); end", Does.READ),
        ("begin return json_build_object('execute', 1); end", Does.READ),
        ("begin insert into t (a, b) values (1, 2) on conflict (a) do update set b = 1; end", Does.WRITE),
        ("begin update only t as x set a = 1 where b = 2; end", Does.WRITE),
        ("begin delete from t; end", Does.WRITE),
        ("begin perform nextval('s'); end", Does.WRITE),
        ("begin perform pg_notify('a', 'b'); end", Does.WRITE),
        ("begin perform 1 from t for update; end", Does.WRITE),
        ("begin perform 1 from t for no key update; end", Does.WRITE),
        ("begin set local a = 1; end", Does.WRITE),
        ("begin perform set_config('a', 'b', true); end", Does.WRITE),
        ("begin perform set_config('a', 'b', false); end", Does.SET),
        ("begin x := (select 'a'.set_config); end", Does.SET | Does.HIDE),
        ("begin perform set_config(name, 'b', false); end", Does.SET | Does.HIDE),
        ("begin perform set_config('a.b', 'b', false); end", Does.SET),
        ("begin set a = 1; end", Does.SET),
        ("begin for r in select 1 from t for update loop set a = 1; end loop; end", Does.SET | Does.WRITE),
        ("begin reset all; end", Does.SET),
        ("begin listen a; end", Does.SET),
        ("begin perform pg_advisory_lock(1); end", Does.SET),
        ("begin update pg_settings set setting = 'a'; end", Does.SET | Does.WRITE),
        ("begin create temp table x as select 1; end", Does.SET),
        ("begin create table x (a int); end", Does.ANYTHING),
        ("begin execute 'set a = 1'; end", Does.ANYTHING),
        ("begin return query execute x; end", Does.ANYTHING),
        ("begin do 'x'; end", Does.ANYTHING),
        ("begin call p(); commit; end", Does.WRITE),
        ("begin perform query_to_xml('x', true, true, ''); end", Does.ANYTHING),
        ("begin perform * from pg_temp.x; end", Does.ANYTHING),
        ('begin perform u&"set\\005fconfig"(1); end', Does.ANYTHING),
        ("begin '", Does.ANYTHING),
    ],
)  # fmt: skip
def test_body_is_judged_by_its_words_and_built_in_calls(body, does):
    assert read_body("plpgsql", body).does == does


def test_body_in_another_language_may_do_anything():
    assert read_body("plperl", "return 1").does == Does.ANYTHING
    assert read_body("plpython3u", "return 1").does == Does.ANYTHING


def test_what_functions_of_a_session_share_spoils_it():
    assert read_body("plpython3u", "GD['tenant'] = 1").does == Does.ANYTHING | Does.SET | Does.SPOIL
    assert read_body("plperl", "$_SHARED{tenant} = 1").does == Does.ANYTHING | Does.SET | Does.SPOIL
    catalog = Catalog.from_rows(
        [function(5, "dblink_open", "x", "c", "dblink"), function(6, "f", "select dblink_open('x')"), SETTER]
    )
    assert catalog.spoilers == {b"dblink_open", b"f"}
    assert catalog.holders == {b"dblink_open", b"f", b"setter"}


def test_select_into_makes_a_table_in_sql_only():
    assert read_body("sql", "select 1 into t").does == Does.ANYTHING
    assert read_body("plpgsql", "begin select 1 into t; end").does == Does.READ


def test_body_hands_back_what_it_calls_and_mentions():
    body = read_body("sql", "select f(a), b.g, upper(c) from t where x @#@ y")
    assert body.calls == {b"f"}
    assert {b"f", b"g", b"t"} <= body.names
    assert body.operators == {b"@#@"}


def test_harmless_functions_are_known_by_name_and_writers_among_them():
    catalog = Catalog.from_rows(
        [function(1, "add"), function(2, "log", "insert into l values (1)"), function(3, "both", "select log(), add()")]
    )
    assert catalog.harmless == {b"add", b"log", b"both"}
    assert catalog.writers == {b"log", b"both"}
    assert not catalog.suspects


CUSTOM = "select set_config('app.tenant', $1, false)"


def test_functions_that_only_set_custom_settings_by_name_are_known_as_such():
    rows = [
        function(1, "tenant", CUSTOM), function(2, "both", f"{CUSTOM}, set_config('App.Who', 'me', false)"),
        function(3, "writes", f"insert into t values (1); {CUSTOM}"), function(4, "known", "select 1"),
        function(5, "of_another", "select set_config('app.a', known(), false)"),
    ]  # fmt: skip
    catalog = Catalog.from_rows(rows)
    assert catalog.setters == {
        b"tenant": {"app.tenant"}, b"both": {"app.tenant", "app.who"}, b"writes": {"app.tenant"},
        b"of_another": {"app.a"},
    }  # fmt: skip
    assert catalog.holders == catalog.functions == catalog.setters.keys()


@pytest.mark.parametrize(
    "body",
    [
        "select set_config('work_mem', '1MB', false)", "select set_config(a, $1, false)",
        f"{CUSTOM}; listen a", f"{CUSTOM}; select pg_advisory_lock(1)", f"{CUSTOM}; select setseed(0.5)",
        f"{CUSTOM}; select tenant('5')", f"{CUSTOM} from seen", f"{CUSTOM}; select gone()",
        f"{CUSTOM}, set_config('work_mem', '1MB', false)", f"{CUSTOM}; create temp table t (n int)",
    ],
)  # fmt: skip
def test_functions_that_may_do_more_are_not(body):
    rows = [
        function(1, "tenant", CUSTOM), function(2, "more", body), relation(9, "seen", "v "), runs(9, "1", "read"),
    ]  # fmt: skip
    assert Catalog.from_rows(rows).setters.keys() == {b"tenant"}


def test_a_function_is_no_plain_setter_when_another_of_that_name_does_more():
    rows = [function(1, "tenant", CUSTOM), function(2, "tenant", "listen a")]
    assert not Catalog.from_rows(rows).setters


def test_function_is_suspect_through_what_it_calls_in_whatever_order():
    rows = [
        function(3, "third", "select second()"),
        function(2, "second", "select first() from t"),
        function(1, "first", "select set_config('a', 'b', false)"),
        function(4, "attribute", "select t.first from t"),
        function(5, "tree", "", refs="lower,2"),
        function(6, "missing", "select gone()"),
    ]
    catalog = Catalog.from_rows(rows)
    assert catalog.functions == {b"first", b"second", b"third", b"attribute", b"tree", b"missing"}
    assert catalog.holders == {b"first", b"second", b"third", b"attribute", b"tree"}
    assert catalog.definers == {b"missing"}
    assert not catalog.harmless


def test_overloads_of_a_name_are_judged_together():
    catalog = Catalog.from_rows([function(1, "f"), function(2, "f", "set a = 1"), function(3, "lower", "set a = 1")])
    assert catalog.functions == {b"f", b"lower"}
    assert not catalog.harmless


def test_functions_in_c_are_suspect_unless_their_extension_is_known_or_they_are_immutable():
    catalog = Catalog.from_rows(
        [
            function(1, "digest", "x", "c", "pgcrypto"),
            function(2, "set_limit", "x", "c", "pg_trgm"),
            function(3, "unknown_c", "x", "c", "", "s"),
            function(4, "pure_c", "x", "c", "strange", "i"),
            function(5, "alias", "set_config", "internal"),
            function(6, "total", "aggregate_dummy", "internal", refs="int4pl"),
            function(7, "bad_total", "aggregate_dummy", "internal", refs="3"),
        ]
    )
    assert catalog.harmless == {b"digest", b"pure_c", b"total"}
    assert catalog.functions == {b"set_limit", b"unknown_c", b"alias", b"bad_total"}


def test_relation_is_suspect_through_what_it_runs():
    rows = [SETTER, *(relation(oid, f"t{oid}") for oid in range(10, 15)), runs(10, "1"), runs(11, "set_config")]
    catalog = Catalog.from_rows([*rows, runs(12, "lower,nextval"), runs(13, "query_to_xml"), runs(14, "99")])
    assert catalog.relations == {b"t10", b"t11", b"t13", b"t14"}
    assert catalog.holders >= {b"t10", b"t11"}
    assert catalog.definers == {b"t13", b"t14"}


def test_relation_is_suspect_through_what_it_uses():
    rows = [SETTER, *(relation(oid, f"t{oid}") for oid in range(10, 16)), runs(10, "1")]
    catalog = Catalog.from_rows(
        [*rows, uses(12, "11"), uses(11, "10"), uses(13, "10", "write"), uses(14, "pg_settings")]
    )
    assert catalog.relations == {b"t10", b"t11", b"t12", b"t13", b"t14"}


def test_function_is_suspect_through_a_relation_and_relation_through_that_function():
    rows = [SETTER, relation(10, "trapped"), runs(10, "1"), function(2, "f", "insert into trapped values (1)")]
    catalog = Catalog.from_rows([*rows, relation(11, "v"), runs(11, "2", "read")])
    assert catalog.functions == {b"setter", b"f"}
    assert catalog.relations == {b"trapped", b"v"}


def test_trigger_function_is_judged_but_is_no_name_in_a_text():
    rows = [("trigger", 1, "audit", "plpgsql/v/", None, "begin set a = 1; end"), relation(10, "t"), runs(10, "1")]
    catalog = Catalog.from_rows(rows)
    assert catalog.relations == {b"t"}
    assert not catalog.functions
    assert not catalog.harmless


def test_view_that_draws_from_a_sequence_is_a_writer_and_a_table_with_a_serial_is_not():
    rows = [relation(10, "v", "v "), runs(10, "nextval", "read"), relation(11, "t"), runs(11, "nextval")]
    assert Catalog.from_rows(rows).writers == {b"v"}


def test_foreign_tables_wait_and_are_suspect_when_their_wrapper_is_not_known():
    rows = [relation(10, "a", "f postgres_fdw_handler"), relation(11, "b", "f other_handler"), relation(12, "v", "v ")]
    catalog = Catalog.from_rows([*rows, uses(12, "10")])
    assert catalog.writers == {b"a", b"v"}
    assert catalog.relations == {b"b"}


def test_operators_with_suspect_functions_are_known_by_their_sign():
    rows = [SETTER, ("operator", 5, "@#@", None, "1", None), ("operator", 6, "@@@", None, "lower", None)]
    catalog = Catalog.from_rows([*rows, function(2, "f", "select a @#@ b"), function(3, "g", "select a @@@ b")])
    assert catalog.operators == {b"@#@"}
    assert catalog.functions == {b"setter", b"f"}
    assert not catalog.suspect_all


@pytest.mark.parametrize(
    "row",
    [
        ("hidden", 5, "has a cast", None, "1", None),
        ("hidden", 5, "has a domain check", None, "lower,set_config", None),
        ("operator", 5, "=", None, "1", None),
        ("operator", 5, "~~", None, "1", None),
    ],
)
def test_what_no_text_shows_makes_every_text_suspect(row):
    catalog = Catalog.from_rows([SETTER, row])
    assert catalog.suspect_all
    assert catalog.suspect_reason.startswith("runs in a database that has a")
    assert repr(catalog).startswith("<Catalog all suspect: it runs in a database that has a")


def test_what_no_text_shows_is_nothing_when_it_is_harmless():
    rows = [function(1, "f"), ("hidden", 5, "has a cast", None, "1", None), ("operator", 5, "=", None, "1", None)]
    assert not Catalog.from_rows(rows).suspect_all


def test_login_trigger_is_told():
    assert Catalog.from_rows([("login", 5, "t", None, None, None)]).login_triggers
    assert not Catalog.from_rows([]).login_triggers


def test_catalogs_of_the_same_rows_are_equal():
    rows = [SETTER, relation(10, "t"), runs(10, "1")]
    assert Catalog.from_rows(rows) == Catalog.from_rows(reversed(rows))
    assert repr(Catalog.from_rows(rows)) == "<Catalog 1 functions, 1 relations, 0 operators suspect>"


def test_no_built_in_function_is_harmless_and_has_an_effect():
    assert not HARMLESS & EFFECT.keys()


@pytest.mark.parametrize(
    "name",
    b"""
    set_config setseed currval lastval nextval setval pg_sleep pg_notify ts_stat ts_rewrite query_to_xml cursor_to_xml
    table_to_xml schema_to_xml database_to_xml pg_advisory_lock pg_advisory_xact_lock lo_import lo_export lo_open
    pg_read_file pg_ls_dir pg_reload_conf pg_terminate_backend pg_backup_start pg_export_snapshot txid_current
    pg_replication_origin_session_setup pg_create_logical_replication_slot binary_upgrade_set_next_pg_type_oid
    """.split(),
)
def test_built_in_functions_that_do_more_than_read_are_not_harmless(name):
    assert name not in HARMLESS
    assert name in EFFECT


def test_common_built_in_functions_are_harmless():
    names = b"""
    abs count sum min max avg lower upper length now current_setting coalesce_not string_agg array_agg json_agg
    jsonb_agg jsonb_build_object to_char to_timestamp date_trunc generate_series unnest row_number rank lag lead random
    gen_random_uuid md5 format concat pg_backend_pid version pg_get_viewdef format_type pg_table_is_visible
    obj_description has_table_privilege pg_relation_size to_tsquery similarity_not regexp_replace
    """.split()
    assert {name for name in names if name not in HARMLESS} == {b"coalesce_not", b"similarity_not"}


def test_operators_and_casts_that_write_are_known_apart_from_the_suspect():
    rows = [function(1, "w", "insert into t values (1)"), ("operator", 5, "@%@", None, "1", None)]
    catalog = Catalog.from_rows([*rows, function(2, "f", "select a @%@ b")])
    assert catalog.writing_operators == {b"@%@"}
    assert catalog.writers == {b"w", b"f"}
    assert not catalog.suspects
    assert Catalog.from_rows([rows[0], ("hidden", 6, "has a cast", None, "1", None)]).writes_all
    assert Catalog.from_rows([rows[0], ("operator", 5, "<=", None, "1", None)]).writes_all
    assert not Catalog.from_rows([("hidden", 6, "has a domain default", None, "nextval", None)]).writes_all


def test_names_of_custom_settings_outlast_what_is_set_for_the_transaction():
    """A backend never forgets one: SET LOCAL leaves '' where there was nothing."""
    rows = [
        function(1, "declared"),
        ("config", 1, None, None, None, "set a.b = 0"),
        function(2, "in_body", "begin set local a.b = 1; end", "plpgsql"),
        function(3, "quoted", 'begin set local "a.b" = 1; end', "plpgsql"),
        function(4, "called", "begin perform set_config('a.b', '1', true); end", "plpgsql"),
        function(5, "dynamic", "begin perform set_config(n, '1', true); end", "plpgsql"),
        function(6, "plain", "begin perform set_config('work_mem', '1', true); set local work_mem = 1; end", "plpgsql"),
    ]
    catalog = Catalog.from_rows(rows)
    assert catalog.functions == {b"declared", b"in_body", b"quoted", b"called", b"dynamic"}
    assert not catalog.holders
    assert not catalog.definers
    assert catalog.harmless == {b"plain"}


def test_functions_that_extensions_are_excepted_for_are_suspect_though_they_are_declared_immutable():
    """isn_weak() is, and sets what DISCARD ALL does not undo before PostgreSQL 18."""
    catalog = Catalog.from_rows(
        [
            function(1, "isn_weak", "x", "c", "isn", "i"),
            function(2, "set_limit", "x", "c", "pg_trgm"),
            function(3, "pg_stat_statements_reset", "x", "c", "pg_stat_statements"),
            function(4, "similarity", "x", "c", "pg_trgm", "i"),
        ]
    )
    assert catalog.functions == {b"isn_weak", b"set_limit", b"pg_stat_statements_reset"}
    assert catalog.holders == {b"isn_weak", b"set_limit"}
    assert catalog.spoilers == {b"isn_weak"}


@pytest.mark.parametrize("word", ["analyze t", "vacuum", "comment on table t is 'x'", "reindex table t", "checkpoint"])
def test_maintenance_in_a_body_is_seen_where_a_statement_begins_only(word):
    assert read_body("plpgsql", f"begin {word}; end").does == Does.ANYTHING
    assert read_body("plpgsql", f"begin x := 1; {word}; end").does == Does.ANYTHING
    assert read_body("plpgsql", "begin return (select analyze + comment + t.cluster from t); end").does == Does.READ


def test_the_summary_says_why_in_one_bounded_line():
    rows = [
        SETTER,
        function(2, "dynamic", "begin execute x; end", "plpgsql"),
        function(3, "c_code", "x", "c", "strange"),
        function(4, "caller", "select setter()"),
        ("trigger", 5, "audit", "plpgsql/v/", None, "begin set a = 1; end"),
        relation(10, "audited"),
        runs(10, "5"),
        relation(11, "v", "v "),
        uses(11, "10"),
    ]
    catalog = Catalog.from_rows(rows)
    assert catalog.summary(20) == (
        "4 functions, 2 tables and views may change the session: audited (runs audit()), c_code (is written in C, of"
        " the extension strange), caller (names setter), dynamic (has EXECUTE in it), setter (calls set_config()), v"
        " (uses audited)"
    )
    assert catalog.summary(1).endswith("audited (runs audit()) and 5 more")
    assert Catalog.from_rows([function(1, "f")]).summary() == ""
    assert Catalog.unknown().summary() == "every statement runs in a database that has not been scanned"


@pytest.mark.parametrize(
    ("language", "source"),
    [
        ("plpython3u", "SD['x'] = 1"),
        ("plpython3u", "global x\nx = 1"),
        ("plperl", "our $x = 1;"),
        ("plperlu", "$main::x = 1;"),
        ("pltcl", "global x; set x 1"),
        ("plv8", "plv8.x = 1"),
    ],
)
def test_what_lasts_from_call_to_call_is_seen_in_other_languages(language, source):
    assert read_body(language, source).does == Does.ANYTHING | Does.SET | Does.SPOIL
    assert read_body(language, "return 1").does == Does.ANYTHING

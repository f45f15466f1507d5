"""Dialogues about settings: see `test_follow`. A step is a text of A, or a pair of a frontend's letter and a text."""

from __future__ import annotations

from tests import roles
from tests.cluster.twice import ROOT

Text = str | tuple[str, str]

SET: dict[str, list[Text]] = {
    "one_after_the_other": [
        "set search_path to far", "set datestyle to german", "set timezone to 'Asia/Tokyo'", "set work_mem to '3MB'",
        "set intervalstyle to iso_8601", "set application_name to 'mine'", "set extra_float_digits to -3",
        "set bytea_output to escape", "set statement_timeout to '5min'", "set client_encoding to latin1",
    ],
    "again_and_back": [
        "set search_path to far", "set search_path to near", "set search_path to far, near",
        "set search_path to default", "set datestyle to german", "set datestyle to iso", "set datestyle to dmy",
        "set datestyle to default",
    ],
    "spellings": [
        "SET Search_Path = near, far", "set session work_mem = 3072", "set \"work_mem\" to '4MB'", "set names 'latin1'",
        "set names default", "set schema 'far'", "set time zone interval '+02:00' hour to minute", "set time zone -5",
        "set time zone 'utc'", "set time zone local", "set time zone default", "set client_encoding to 'utf-8'",
        "set client_encoding = 'LATIN-1'", "set names", "/* x */ set -- y\n work_mem /* z */ to 5000;",
        "set xml option document", "set timezone to 'asia/tokyo'", "set datestyle = 'sql', 'european'",
        "set statement_timeout = 60000",
    ],
    "values_that_need_quotes": [
        "set application_name to 'it''s \"mine\" \\ $1'", "set search_path to \"$user\", \"we\"\"ird, one\", near",
        "set search_path to 'near, far'", "set search_path to ''", "set application_name to E'tab\\there'",
        "set application_name to 'ü'", f"set application_name to '{'x' * 100}'", "set home.tenant to 'ü; drop'",
        "set home.tenant to ''", "set \"home.Tenant\" to 'case'", "set application_name to $$dollar$$",
    ],
    "of_two_frontends": [
        "set search_path to far", ("B", "set search_path to near"), "set datestyle to german",
        ("B", "set datestyle to sql"), "set work_mem to '3MB'", ("B", "set work_mem to '4MB'"), "reset all",
        ("B", "show work_mem"), ("B", "reset all"),
    ],
    "alike_of_two_frontends": [
        "set search_path to far", ("B", "set search_path to far"), "set work_mem to '3MB'",
        ("B", "set work_mem to '3MB'"), "reset search_path", ("B", "reset search_path"), "set datestyle to sql",
        ("B", "reset work_mem"),
    ],
    "local_outside_of_a_transaction": [
        "set local work_mem to '3MB'", "set local search_path to far", "set transaction isolation level serializable",
        "set local home.tenant to 'x'", "set constraints all deferred",
    ],
    "errors": [
        "set work_mem to '3MB'", "set datestyle to nonsense", "set work_mem to 'much'", "set nothing_known to 1",
        "set shared_buffers to '1GB'", "set session_replication_role to replica", "set search_path to", "set work_mem",
        "set timezone to 'Middle/Earth'", "set client_encoding to klingon", "set extra_float_digits to 99",
        "reset nothing_known", "show nothing_known", "show home.never", "set home. to 1", "reset shared_buffers",
        "set server_version to '99'", "set is_superuser to on", "set work_mem to '3MB', '4MB'",
    ],
    "several_in_one_text": [
        "set work_mem to '3MB'; set datestyle to german", "set work_mem to '4MB'; select 1 / 0",
        "select 1; set search_path to far; select 2",
        "begin; set work_mem to '5MB'; commit; set datestyle to sql; select 1 / 0",
        "set work_mem to '6MB'; rollback; set datestyle to iso", "set work_mem to '7MB'; commit; select 1 / 0",
        "set local work_mem to '8MB'; show work_mem", "reset all; set work_mem to '9MB'",
    ],
    "characteristics_of_a_session": [
        "set session characteristics as transaction isolation level serializable, read only",
        "insert into near.rows (note) values ('never')", "begin; insert into near.rows (note) values ('never')",
        "rollback", "set session characteristics as transaction read write", "begin", "set transaction read only",
        "show transaction_read_only", "commit", "set default_transaction_read_only to on",
        "create table near.never (n int)", "set default_transaction_deferrable to on", "reset all",
    ],
    "of_an_extension": [
        "set hnsw.ef_search to 50", "show hnsw.ef_search", "set hnsw.ef_search to 99999", "begin",
        "set local hnsw.ef_search to 60", "show hnsw.ef_search", "commit", "show hnsw.ef_search",
        "set plpgsql.extra_warnings to 'all'", "show plpgsql.extra_warnings", "reset hnsw.ef_search",
        "show hnsw.ef_search", "reset all",
    ],
}  # fmt: skip

TRANSACTIONS: dict[str, list[Text]] = {
    "committed": [
        "begin", "set search_path to far", "set datestyle to german", "commit", "begin", "set work_mem to '3MB'", "end",
    ],
    "rolled_back": [
        "set work_mem to '3MB'", "begin", "set search_path to far", "set datestyle to german", "set work_mem to '4MB'",
        "rollback", "begin", "set work_mem to '5MB'", "abort",
    ],
    "local": [
        "set work_mem to '3MB'", "begin", "set local work_mem to '4MB'", "set local search_path to far",
        "set local datestyle to german", "commit", "begin", "set local timezone to 'Asia/Tokyo'",
        "set timezone to 'utc'", "commit", "begin", "set timezone to 'Asia/Tokyo'", "set local timezone to 'utc'",
        "commit",
    ],
    "savepoints": [
        "begin", "set datestyle to german", "savepoint s", "set datestyle to sql", "set local work_mem to '4MB'",
        "rollback to s", "set work_mem to '5MB'", "savepoint t", "set work_mem to '6MB'", "release t", "rollback to s",
        "release s", "commit", "begin", "savepoint s", "set datestyle to iso", "release s", "commit",
    ],
    "failed": [
        "begin", "set datestyle to german", "select 1 / 0", "set work_mem to '3MB'", "rollback", "begin",
        "set work_mem to '4MB'", "select 1 / 0", "commit", "begin; set work_mem to '5MB'; savepoint s; select 1 / 0",
        "rollback to s", "commit",
    ],
    "set_that_fails_inside": [
        "begin", "set work_mem to '3MB'", "savepoint s", "set datestyle to nonsense", "rollback to s", "commit",
    ],
    "chained": [
        "begin isolation level serializable", "set work_mem to '3MB'", "commit and chain",
        "set local work_mem to '4MB'", "rollback and chain", "set work_mem to '5MB'", "commit",
    ],
    "reset_inside": [
        "set work_mem to '3MB'", "set datestyle to german", "begin", "reset work_mem", "savepoint s", "reset all",
        "rollback to s", "commit", "begin", "reset all", "rollback", "begin", "discard all", "rollback", "begin",
        "reset all", "commit",
    ],
    "isolation": [
        "begin", "set transaction isolation level serializable", "show transaction_isolation", "commit",
        "show transaction_isolation", "begin read only", "show transaction_read_only", "set transaction read write",
        "commit",
    ],
}  # fmt: skip

ROLES: dict[str, list[Text]] = {
    "set_and_reset": [
        "set role home_role", "select note from near.guarded", "set role home_other", "select note from near.guarded",
        "reset role", "select note from near.guarded", "set role 'home_role'", "set role none",
        "set role \"home_role\"", "reset all", "discard all",
    ],
    "in_transactions": [
        "begin", "set local role home_other", "commit", "begin", "set role home_role", "rollback", "begin",
        "set role home_role", "savepoint s", "set role none", "rollback to s", "commit",
        "begin; set role none; select 1 / 0", "rollback",
    ],
    "not_allowed": [
        "set role nobody_there", f"set role {roles.MD5.name}", "set role home_role",
        "set session authorization home_other", f"set session authorization {roles.TRUST.name}",
        "reset session authorization", "set role postgres",
    ],
    "with_other_settings": [
        "set search_path to near", "set role home_role", "set work_mem to '3MB'", "table guarded", "set role none",
        "table guarded", "set role home_role", "reset search_path", "reset work_mem",
    ],
    "what_a_role_creates_is_its_own": [
        "set role home_role", "create table near.owned (n int)",
        "select tableowner from pg_tables where tablename = 'owned'", "reset role", "drop table near.owned",
    ],
}  # fmt: skip

# Of a superuser.
AUTHORIZATION: dict[str, list[Text]] = {
    "set_and_reset": [
        f"set session authorization {roles.TRUST.name}", "select note from near.guarded", "set role home_role",
        "select note from near.guarded", "set session authorization default", "set session authorization home_other",
        "select note from near.guarded", "reset session authorization", "set session authorization nobody_there",
    ],
    "role_within": [
        f"set session authorization '{roles.TRUST.name}'", "set role home_role", "reset role", "set role home_role",
        "set session authorization home_other", "set role home_role", "reset all", "discard all",
    ],
    "in_transactions": [
        "begin", "set local session authorization home_role", "commit", "begin", "set session authorization home_role",
        "rollback", "begin", "set session authorization home_role", "commit", "begin", "reset session authorization",
        "commit",
    ],
    "only_for_superusers": [
        "set log_min_messages to error", "set session_replication_role to replica",
        f"set session authorization {roles.TRUST.name}", "set log_min_messages to warning",
        "set session_replication_role to local", "reset session authorization", "set log_min_messages to warning",
        "reset all",
    ],
    "of_two": [
        "set session authorization home_role", ("B", "set session authorization home_other"), "set work_mem to '3MB'",
        ("B", "set work_mem to '3MB'"), "reset session authorization", ("B", "reset session authorization"),
    ],
}  # fmt: skip

BACK: dict[str, list[Text]] = {
    "reset_one": ["set search_path to far", "reset search_path", "set work_mem to '3MB'", "RESET Work_Mem"],
    "reset_all": [
        "set search_path to far", "set datestyle to german", "set role home_role", "set home.tenant to 'x'",
        "reset all",
    ],
    "discard_all": [
        "set search_path to far", "set timezone to 'Asia/Tokyo'", "set role home_role", "set home.tenant to 'x'",
        "discard all", "set datestyle to german", "discard temp", "discard sequences", "discard plans", "discard all",
    ],
    "to_default": [
        "set datestyle to german", "set datestyle to default", "set work_mem to '3MB'", "set work_mem = default",
    ],
    "in_transactions": [
        "begin", "set local timezone to 'UTC'", "set local timezone to default", "set datestyle to default", "commit",
        "begin", "set local datestyle to default", "reset all", "savepoint s", "set datestyle to iso",
        "reset datestyle", "rollback to s", "commit", "begin; reset all; select 1", "rollback",
        "set local datestyle to default",
    ],
    "set_again": [
        "set work_mem to '3MB'", "reset all", "set work_mem to '3MB'", "reset work_mem", "set work_mem to '4MB'",
    ],
    "of_two": [
        "set datestyle to german", ("B", "set datestyle to german"), "reset all", ("B", "show datestyle"),
        ("B", "discard all"),
    ],
}  # fmt: skip
# What A begins with in BACK; B begins with nothing.
OWN = {"search_path": "near, public", "DateStyle": "SQL, DMY", "application_name": "own", "home.tenant": "42"}

# Of frontends that begin with a role of their own.
AS_ROLE: dict[str, list[Text]] = {
    "authorization": [
        "reset session authorization", "set session authorization default", "set role home_other",
        "reset session authorization", "begin", "set role none", "reset session authorization", "rollback",
        "begin; reset session authorization; commit", "set role home_other; reset session authorization",
        ("B", "reset session authorization"), "reset role", "set role none", "reset all", "discard all",
    ],
}

CALLS: dict[str, list[Text]] = {
    "set_config": [
        "select set_config('search_path', 'far', false)", "select set_config('work_mem', '3MB', true)",
        "select set_config('datestyle', 'german', false), set_config('work_mem', '4MB', false)",
        "select set_config('work_mem', 'much', false)", "select set_config('work_mem', null, false)",
        "select set_config('home.tenant', 'x', false)", "select pg_catalog.set_config('TimeZone', 'Asia/Tokyo', false)",
        "select set_config(null, 'x', false)", "select set_config('datestyle', 'sql', false) where false",
        "select set_config(name, '5MB', false) from pg_settings where name = 'work_mem'",
        "with x as (select set_config('work_mem', '6MB', false) as v) select v || '!' from x",
        "values (set_config('work_mem', '7MB', false))", "select SET_CONFIG(E'work\\x5fmem', '8' || 'MB', 1 = 2)",
        "select length(set_config('application_name', 'called', false))",
        "select set_config('role', 'home_role', false)", "select set_config('role', 'none', false)",
    ],
    "set_config_in_transactions": [
        "begin", "select set_config('work_mem', '3MB', false)", "select set_config('search_path', 'far', true)",
        "commit", "begin", "select set_config('work_mem', '4MB', false)", "rollback", "begin",
        "select set_config('work_mem', '5MB', true), set_config('home.tenant', 'x', true)", "commit",
        "select set_config('work_mem', '6MB', false); select 1 / 0",
        "select 1 / 0, set_config('work_mem', '7MB', false)",
    ],
    "update_pg_settings": [
        "update pg_settings set setting = '3MB' where name = 'work_mem'", "begin",
        "update pg_settings set setting = 'far' where name = 'search_path'", "rollback",
        "update pg_settings set setting = 'German, DMY' where name = 'DateStyle'", "reset all",
    ],
    "functions": [
        "select near.sets('3MB')", "select near.keeps()", "select near.changes()", "begin", "select near.sets('5MB')",
        "rollback", "select near.sets('much')", "select near.sets('6MB'), 1 / 0", "reset all",
    ],
    # What code has set was thrown away where the same text has also set something that it shows.
    "dynamic_sql_beside_what_a_text_shows": [
        "select near.runs($q$set work_mem to '3MB'$q$); set intervalstyle to iso_8601",
        "set bytea_output to escape; select near.runs($q$set home.tenant to 'dynamic'$q$)",
        "begin; set local work_mem to '4MB'; select near.runs('set datestyle to german'); commit",
        "select near.runs('reset work_mem'); set timezone to 'Asia/Tokyo'", "reset all",
    ],
    # It cannot be asked for ("unavailable"), and what was set then with the other settings failed.
    "seed": [
        "select set_config('seed', '0.5', false)", "select random()", "set work_mem to '3MB'", "select random()",
        "reset session authorization", "update pg_settings set setting = '0.25' where name = 'seed'",
        "select near.runs($q$set work_mem to '4MB'$q$)", "reset all",
    ],
    "procedures_and_blocks": [
        "do $$begin set work_mem to '3MB'; perform set_config('datestyle', 'german', false); end$$",
        "call near.commits()", "do $$begin set local work_mem to '7MB'; end$$",
        "do $$begin set work_mem to '8MB'; raise 'no'; end$$", "begin", "do $$begin set search_path to far; end$$",
        "rollback", "do $$begin execute 'reset all'; end$$",
    ],
}  # fmt: skip

CUSTOM: dict[str, list[Text]] = {
    "set_and_reset": [
        "set home.tenant to '1'", "show home.tenant", "set home.tenant to '2'", "reset home.tenant", "show home.tenant",
        "set home.tenant to 'x'", "set home.tenant to default", "set home.other to 'y'", "reset all", "show home.other",
        "discard all",
    ],
    "in_transactions": [
        "begin", "set local home.tenant to 'local'", "commit", "begin", "set home.tenant to 'lost'", "rollback",
        "begin", "set home.tenant to 'kept'", "commit", "begin", "set local home.tenant to 'inner'", "rollback",
        "begin", "set home.other to 'lost'", "rollback",
    ],
    "of_two_frontends": [
        "set home.tenant to 'A'", ("B", "show home.tenant"), ("B", "set home.tenant to 'B'"), "show home.tenant",
        ("B", "set home.other to 'B'"), "show home.other", "reset home.tenant", ("B", "show home.tenant"),
    ],
    "never_seen_by_others": [
        ("B", "select current_setting('home.tenant', true) is null"), "set home.tenant to 'A'",
        ("B", "select current_setting('home.tenant', true) is null"), "set home.tenant to ''", "reset home.tenant",
        ("B", "select current_setting('home.tenant', true) is null"), ("B", "begin"),
        ("B", "set local home.other to 'B'"), ("B", "commit"), "select current_setting('home.other', true) is null",
    ],
    "reset_though_it_was_never_set": [
        "reset home.tenant", ("B", "select 1"), "set home.other to default", ("B", "begin"), ("B", "commit"),
    ],
    "names": [
        "set home.tenant.deep to 1", "show home.tenant.deep", "set home.\"quoted Name\" to 2", "set Home.Tenant to 3",
        "show HOME.TENANT", "set home.9 to 1", "set \"home\".\"tenant\" to 4", "set home . tenant to 5",
    ],
}  # fmt: skip

TEXTS = {
    "set": SET, "transactions": TRANSACTIONS, "roles": ROLES, "authorization": AUTHORIZATION, "back": BACK,
    "as_role": AS_ROLE, "calls": CALLS, "custom": CUSTOM,
}  # fmt: skip
STARTS: dict[str, dict[str, dict[str, str]]] = {
    "back": {"A": OWN},
    "as_role": {"A": {"role": "home_role"}, "B": {"role": "home_other", "search_path": "far"}},
}
USERS = {"authorization": ROOT}

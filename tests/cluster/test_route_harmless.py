"""The list of harmless built-in functions, on every release that is supported: it is what its query answers, and none
of them locks, writes or leaves anything when it is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

import lib.route
from lib.route.harmless import EFFECT, HARMLESS
from tests.servers import Server

QUERY = (Path(lib.route.__file__).parent / "harmless.sql").read_text()
VERSIONS = [
    16,
    18,
    pytest.param(15, marks=pytest.mark.needs_debian),
    *(pytest.param(version, marks=pytest.mark.needs_npm) for version in (13, 14, 17)),
]
# An argument of each type; functions with others are not called, and none of those can be from a text without a cast.
SAMPLES = {
    "text": "'a'", "name": "'pg_class'", "cstring": "'1'", "bool": "true", "char": "'a'", "bpchar": "'a'",
    "varchar": "'a'", "int2": "1::int2", "int4": "1", "int8": "1::int8", "float4": "1::float4", "float8": "1::float8",
    "numeric": "1.5", "oid": "1259", "regclass": "'pg_class'::regclass", "regtype": "'int4'::regtype",
    "regproc": "'now'::regproc", "regprocedure": "'now()'::regprocedure", "regrole": "'postgres'::regrole",
    "regnamespace": "'pg_catalog'::regnamespace", "bytea": "'a'::bytea", "json": "'{\"a\": 1}'::json",
    "jsonb": "'{\"a\": 1}'::jsonb", "xml": "'<a/>'::xml", "date": "'2020-01-01'::date", "time": "'10:00'::time",
    "timetz": "'10:00+00'::timetz", "timestamp": "'2020-01-01'::timestamp", "timestamptz": "'2020-01-01'::timestamptz",
    "interval": "'1 day'::interval", "uuid": "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", "inet": "'::1'::inet",
    "cidr": "'10.0.0.0/8'::cidr", "macaddr": "'08:00:2b:01:02:03'::macaddr", "money": "1::money", "bit": "B'1'",
    "varbit": "B'1'::varbit", "point": "point(1,1)", "box": "box(point(1,1),point(2,2))",
    "path": "'[(1,1),(2,2)]'::path",
    "lseg": "'[(1,1),(2,2)]'::lseg", "line": "'{1,2,3}'::line", "polygon": "'((1,1),(2,2))'::polygon",
    "circle": "'<(1,1),1>'::circle", "tsvector": "'a'::tsvector", "tsquery": "'a'::tsquery", "tid": "'(0,1)'::tid",
    "xid": "'3'::xid", "xid8": "'3'::xid8", "cid": "'1'::cid", "pg_lsn": "'0/1'::pg_lsn", "regconfig": "'english'",
    "regdictionary": "'english_stem'", "_text": "'{a}'::text[]", "_int4": "'{1}'::int4[]", "_float8": "'{1}'::float8[]",
    "anyelement": "1", "anynonarray": "1", "any": "1", "anyarray": "'{1}'::int4[]", "anycompatible": "1",
    "anycompatiblearray": "'{1}'::int4[]", "anyenum": "null", "anyrange": "int4range(1,2)", "record": "row(1)",
    "jsonpath": "'$.a'::jsonpath", "int4range": "int4range(1,2)", "refcursor": "'c'::refcursor", "aclitem":
    "'postgres=r/postgres'::aclitem", "_aclitem": "'{postgres=r/postgres}'::aclitem[]", "int2vector": "'1'::int2vector",
    "oidvector": "'1'::oidvector", "txid_snapshot": "'1:1:'::txid_snapshot", "pg_snapshot": "'1:1:'::pg_snapshot",
}  # fmt: skip
CALLS = """
select p.proname::text,
       array(select t.typname::text from unnest(p.proargtypes) with ordinality a(oid, n)
               join pg_type t on t.oid = a.oid order by a.n)
  from pg_proc p
 where p.pronamespace = 'pg_catalog'::regnamespace and p.oid < 16384 and p.prokind in ('f', 'a')
 order by 1
"""
# What a call has left in its transaction that a neighbour could meet: a transaction id, a lock that is not of reading.
LEFT = """
select pg_current_xact_id_if_assigned() is not null,
       array(select mode || ' ' || locktype from pg_locks
              where pid = pg_backend_pid() and mode <> 'AccessShareLock' and locktype <> 'virtualxid')
"""
STATE = """
select array(select name || '=' || setting from pg_settings where source = 'session' order by 1),
       array(select mode from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'),
       array(select pg_listening_channels()), array(select name from pg_cursors where is_holdable),
       array(select name from pg_prepared_statements), pg_my_temp_schema(), current_user::text, session_user::text,
       current_setting('role'), (select count(*) from pg_replication_slots)
"""


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(version=request.param) as server:
        yield server


def test_the_list_is_what_its_query_answers_on_every_release(server):
    """Nothing of this release is on the list that the query leaves out, nor left out that the query finds."""
    here = {name.encode() for (name,) in server.query(QUERY)}
    builtin = {name.encode() for (name,) in server.query("select proname from pg_proc where oid < 16384")}
    assert HARMLESS & builtin == here


def test_every_built_in_function_that_is_volatile_was_looked_at(server):
    """It is on the list, or known for what it does, or cannot be called from a text at all."""
    volatile = server.query(
        "select proname from pg_proc"
        " where oid < 16384 and provolatile = 'v' and pronamespace = 'pg_catalog'::regnamespace"
        " and not 'internal'::regtype = any (proargtypes) and proname !~ '_in$|^plpgsql_|^fmgr_|handler$'"
    )
    assert {name.encode() for (name,) in volatile} - HARMLESS - EFFECT.keys() == set()


def test_no_harmless_function_locks_writes_or_leaves_anything(server):
    connection = server.connect(options="-c statement_timeout=20s")
    called: set[str] = set()
    wrong: dict[str, object] = {}
    with connection.cursor() as cursor:
        cursor.execute(CALLS)
        calls = cursor.fetchall()
        cursor.execute(STATE)
        before = cursor.fetchall()
        connection.rollback()
        for name, types in calls:
            if name.encode() not in HARMLESS or not all(each in SAMPLES for each in types):
                continue
            text = f'select pg_catalog."{name}"({", ".join(SAMPLES[each] for each in types)})'
            try:
                cursor.execute(text)
                cursor.execute(LEFT)
                left = cursor.fetchone()
                called.add(name)
                if left != (False, []):
                    wrong[text] = left
            except psycopg2.Error:
                pass
            connection.rollback()
        cursor.execute(STATE)
        after = cursor.fetchall()
        connection.rollback()
    connection.close()
    assert wrong == {}
    assert after == before
    assert len(called) > 1200
